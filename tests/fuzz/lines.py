"""What keeper and courier say to each other, and what the keeper finds on its disk."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fuzz import keepers, made
from fuzz.target import Choices, Target
from vipagent import epochs, health, lines, observations, plan, socketserver
from vipagent.announcement import due_s
from vipagent.datagrams import MAXIMUM_SIZE
from vipagent.disk import ConfigurationUnreadable, Disk, FramesUnreadable, PlanUnreadable, TermsUnreadable
from vipagent.effects import Adopt, Send
from vipagent.ledger import Entry, Ledger
from vipagent.schedule import Schedule as Turns
from vipagent.seats import Seats
from vipagent.workload import Stack
from vipapi import bounds, link, nodeplan, nodestatus, resources
from vipapi.configuration import Configuration
from vipapi.nodeplan import Plan
from vipapi.nodestatus import Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vipapi.nodeplan import DomainPlan

_POOLS: Final[dict[str, Sequence[Any]]] = {
    **keepers.POOLS,
    "node": ("a", "b"),
    "uid": (keepers.UID, "web-uid", "other"),
    "addresses": ("192.0.2.10/24", "192.0.2.11", "2001:db8::1/64"),
    "address": ("192.0.2.1", "2001:db8::2"),
    "node_addresses": ("192.0.2.1",),
    "format": (nodeplan.FORMAT,),
    "port": (7946,),
    "key_id": (1, 255),
    "secret": (keepers.SECRET,),
    "heartbeat_ms": (100,),
    "lease_ms": (400,),
    "grant_ms": (500,),
    "silence_ms": (600,),
    "until_ns": (0,),
    "period_milliseconds": (1000,),
    "timeout_milliseconds": (1000,),
    "announcement_count": (5, 1),
    "announcement_refresh_s": (60, 10),
    "at": ("2026-01-01T00:00:00Z",),
}


def to_keeper(data: bytes) -> None:
    """A courier, or another that may open the socket, sends this line; it is also what a disk may have."""
    try:
        said = link.decode_for_keeper(data)
    except ValueError:
        said = None
    try:
        sketch = lines.outline(data)
        read = sketch if isinstance(sketch, link.Votes) else _driven(sketch)
    except ValueError:
        read = None
    # Only a line that has a field twice, which no encoder writes, is refused whole and read in steps.
    is_same = said == read or (said is None and has_a_field_twice(data))
    assert is_same, "read in steps it says something else"
    if isinstance(read, Plan):
        assert nodeplan.decode(nodeplan.encode(read)) == read
        _follow(read)
    elif read is not None:
        seats = Seats(node="a", machine=b"", incarnation=1, random=random.Random(1))
        seats.sit(keepers.PLANS[3], keepers.PLANS[3].configuration, term_ceiling=0, now_ns=0)
        seats.hear_votes(read, 1)
        assert link.encode(seats.votes_wanted(1))


def has_a_field_twice(line: bytes) -> bool:
    """Tell whether some object of a JSON line has two fields of one name."""
    doubled: list[str] = []

    def note(fields: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in fields]
        doubled.extend(name for name in names if names.count(name) > 1)
        return dict(fields)

    try:
        json.loads(line, object_pairs_hook=note)
    except (ValueError, RecursionError):
        return False
    return bool(doubled)


def made_for_keeper(data: bytes) -> None:
    """The same, with a plan that is nearly one."""
    choices = Choices(data)
    kind: Any = link.Votes if choices.below(8) == 0 else Plan
    try:
        said = _plan() if choices.below(3) == 0 else made.value(kind, choices, _POOLS)
        document = made.documents_of(said)
    except (ValueError, OverflowError):
        return
    to_keeper(msgspec.json.encode(_spelled(made.spoil(document, choices))))


def to_courier(data: bytes) -> None:
    """A keeper says this."""
    try:
        said = link.decode_for_courier(data)
    except ValueError:
        return
    try:
        assert link.decode_for_courier(link.encode(said)) == said
    except OverflowError:
        return  # a number that only a line can carry
    if isinstance(said, Report):
        status = resources.to_dict(bounds.fit(said))
        assert len(status.get("virtualIPs", ())) <= bounds.VIRTUAL_IPS
        assert len(status.get("problems", ())) <= bounds.PROBLEMS
        status.pop("type")
        status.pop("node")
        found = resources.parse(resources.VIPNode, {"metadata": {"name": "a"}, "status": status})
        assert found.status.incarnation == said.incarnation


def made_for_courier(data: bytes) -> None:
    """The same, with a report that is nearly one."""
    choices = Choices(data)
    kind: Any = link.VotesWanted if choices.below(8) == 0 else Report
    try:
        document = made.documents_of(made.value(kind, choices, _POOLS))
    except (ValueError, OverflowError):
        return
    to_courier(msgspec.json.encode(_spelled(made.spoil(document, choices))))


def stream(data: bytes) -> None:
    """A courier's bytes, however they are cut: each line is taken once, and none for ever."""
    choices = Choices(data)
    pieces = [choices.octets(1 + choices.below(40)) for _ in range(choices.below(8))]
    whole = b"".join(pieces)

    async def read() -> list[bytes]:
        reader = asyncio.StreamReader(limit=64)
        for piece in pieces:
            reader.feed_data(piece)
        reader.feed_eof()
        taken: list[bytes] = []
        while line := await socketserver.line(reader):
            taken.append(line)
        return taken

    assert whole.startswith(b"".join(asyncio.run(read())))


def _driven(sketch: lines.PlanOutline) -> Plan:
    steps = lines.read(sketch)
    try:
        while True:
            next(steps)
    except StopIteration as done:
        found: Plan = done.value
        return found


def _spelled(document: Any) -> Any:
    """Return a document with numbers that an encoder takes: others stand in lines only."""
    match document:
        case int() if not -(1 << 63) <= document < 1 << 64:
            return msgspec.Raw(str(document).encode())
        case dict():
            return {name: _spelled(item) for name, item in document.items()}
        case list():
            return [_spelled(item) for item in document]
        case _:
            return document


def _follow(accepted: Plan) -> None:
    """Act on a plan as the keeper does: what was accepted can be acted on whole."""
    now_ns = 10**15
    seats = Seats(node=accepted.node, machine=b"", incarnation=1, random=random.Random(1))
    for domain in accepted.domains:
        _sit(seats, domain, now_ns)
        for vip in domain.virtual_ips:
            plan.claim(vip, is_held=False)
            assert observations.names(vip).keys() == {
                observations.digest(check)
                for check in observations.observed((*vip.health_checks, *vip.service_checks))
            }
            for check in vip.health_checks:
                observations.at_address(check, vip)
            stack = Stack(now_ns=now_ns)
            stack.assign(vip.services, frozenset("bc"), now_ns)
            stack.own(1, now_ns, now_ns)
            stack.step(now_ns)
            announced = [
                due_s(sent, count=vip.announcement_count, refresh_s=vip.announcement_refresh_s)
                for sent in (0, 1, 9, 2000)
            ]
            assert announced[0] == 0
            assert announced == sorted(set(announced)), "it announces without a pause"
    checks = health.Health()
    checks.update(health.subjects(accepted), health.node_checks(accepted, has_gateway=True))
    turns: Turns[health.Definition] = Turns()
    turns.update({each: each.period_ms / 1000 for each in checks.definitions}, now=0.0)
    for second in range(3):
        due = turns.start(float(second), limit=100)
        for definition in due:
            assert definition.timeout_ms / 1000 > 0
            turns.finish(definition, now=float(second))
        assert not turns.start(float(second), limit=100) or not due, "it probes without a pause"


def _sit(seats: Seats, domain: DomainPlan, now_ns: int) -> None:
    configuration = domain.configuration
    is_usable = configuration.epoch > 0 and not epochs.flaw(domain.uid, configuration)
    in_force = configuration if is_usable else Configuration()
    seated, effects, _ = seats.sit(domain, in_force, term_ceiling=0, now_ns=now_ns)
    if seated is None:
        return
    seat = seated.seat
    for wait_ns in (0, 700_000_000, 100_000_000, 100_000_000):
        now_ns += wait_ns
        for effect in (*effects, *seat.expire(now_ns)):
            match effect:
                case Send() as send if seat.is_local(send):
                    seat.deliver(send, now_ns)
                case Send() as send:
                    addressed = seat.seal(send)
                    assert addressed is None or len(addressed[1]) <= MAXIMUM_SIZE
                case Adopt():
                    raise AssertionError("nobody has told it of one")
        effects = []
    assert nodestatus.encode(Report("a", "1", 1, domains=(seat.status(heartbeat_address="", now_ns=now_ns),)))


@functools.cache
def _folder() -> Path:
    """Return a folder for this process; it goes with it."""
    folder = tempfile.TemporaryDirectory(prefix="vipkeeper-fuzz-", dir=_fast())
    _FOLDERS.append(folder)
    return Path(folder.name)


def _fast() -> str | None:
    """Return where a sync costs nothing, if there is such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - in a folder of its own


_FOLDERS: Final[list[tempfile.TemporaryDirectory[str]]] = []


def disk(data: bytes) -> None:
    """A file of the state folder has this, after a power cut or another version of vipkeeper."""
    choices = Choices(data)
    folder = _folder()
    for path in folder.iterdir():
        path.unlink()
    found = Disk(folder)
    found.store_term_ceiling(keepers.UID, 5)
    (terms,) = folder.glob("terms-*")
    found.store_configuration(keepers.UID, keepers.FIRST)
    (configuration,) = folder.glob("configuration-*")
    names = ("incarnation", "plan.json", terms.name, configuration.name, "ledger.json", "frames")
    (folder / choices.pick(names)).write_bytes(choices.rest())
    first, second = found.next_incarnation(), found.next_incarnation()
    assert 0 < first < second < 1 << 63
    written = terms.read_bytes()
    try:
        assert found.load_term_ceiling(keepers.UID) == int(written)
    except TermsUnreadable:
        is_number = written.isdigit() and len(written) < 99
        assert not is_number or int(written) > nodeplan.MOST_CEILING
    try:
        kept = found.load_plan()
    except PlanUnreadable:
        kept = None
    assert kept is None or nodeplan.decode(nodeplan.encode(kept)) == kept
    try:
        known = found.load_configuration(keepers.UID)
    except ConfigurationUnreadable:
        known = None
    assert known is None or not epochs.flaw(keepers.UID, known)
    with contextlib.suppress(FramesUnreadable):
        assert found.load_frames("maker") == (), "it is believed without its digest"
    asyncio.run(_book(folder / "ledger.json"))


async def _book(path: Path) -> None:
    ledger = Ledger(path)
    await ledger.load()
    for entry in ledger.entries.values():
        assert entry.service.title
        assert entry.service.workload.identity
    await ledger.close()


def _disk_seeds() -> tuple[bytes, ...]:
    class Kept(msgspec.Struct, rename="camel"):
        boot_id: str
        entries: tuple[Entry, ...]

    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    (service, _) = keepers.WEB.services
    configuration = {"domainUid": keepers.UID, "configuration": keepers.FIRST}
    return (
        b"\x001763836800000",
        b"\x00" + str(1 << 70).encode(),
        b"\x01" + nodeplan.encode(_plan()),
        b"\x02" + b"1005",
        b"\x02-5",
        b"\x02" + str(1 << 63).encode(),
        b"\x03" + msgspec.json.encode(configuration),
        b"\x04" + msgspec.json.encode(Kept(boot_id, (Entry(service, {"A": "b"}),))),
        *(bytes([file]) + b'{"x":' + b"[" * 5000 for file in (1, 3, 4)),
        b"\x05vipkeeper-frames/1 maker 0123\n[]",
    )


def _plan() -> Plan:
    return Plan("a", (keepers.PLANS[0],), ("192.0.2.1",))


def _report() -> Report:
    return Report(
        "a",
        "1",
        7,
        interfaces=(nodestatus.InterfaceStatus("eth0", "Up", "02:00:00:00:00:01", ("192.0.2.1/24",)),),
        domains=(nodestatus.DomainStatus("default", keepers.UID, "Witness", configuration=keepers.FIRST),),
        virtual_ips=(nodestatus.HoldingStatus("web-uid", "web", "Owner", "Fit", 100, 3),),
        services=(nodestatus.ServiceStatus("failover-uid", "app", "web", "Active"),),
        problems=(nodestatus.Problem("PlanRefused", "why"),),
    )


def _choosers() -> tuple[bytes, ...]:
    return tuple(random.Random(number).randbytes(300) for number in range(6))


_TO_KEEPER: Final = (
    nodeplan.encode(_plan()),
    nodeplan.encode(_plan()).replace(b'"virtualIPs":[', b'"virtualIPs":[{}],"virtualIPs":[', 1),
    nodeplan.encode(Plan("a", keepers.PLANS[1:], ())),
    link.encode(link.Votes((link.Vote(keepers.UID, 5, 0, 2000, 1, 1),), (link.Answer(keepers.UID, 5),))),
    b'{"type":"plan","node":"a","x":' + b"[" * 5000 + b"]" * 5000 + b"}",
)
_TO_COURIER: Final = (
    link.encode(_report()),
    link.encode(
        link.VotesWanted((link.VoteWanted(keepers.UID, "default", "a_", 7, 2000, 1, is_needed=True),))
    ),
    b'{"type":"report","x":' + b"[" * 5000,
)

TARGETS: Final = (
    Target("line-to-keeper", to_keeper, _TO_KEEPER),
    Target("plan", made_for_keeper, _choosers()),
    Target("line-to-courier", to_courier, _TO_COURIER),
    Target("report", made_for_courier, _choosers()),
    Target("stream", stream, (b"\x04\x05abc\ndef\n", b"\x02\x27" + b"x" * 39 + b"\x27" + b"y" * 39)),
    Target("disk", disk, _disk_seeds()),
)
