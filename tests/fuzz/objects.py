"""What the API server holds: objects of ours and others', also those that another version or a hand wrote."""

from __future__ import annotations

import copy
import datetime as dt
import functools
import random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from controller import stage
from courier import objects as sources
from fuzz import made
from fuzz.target import Choices, Target
from vipapi import addresses, link, nodeplan, resources
from vipcluster.store import Shelf
from vipcontroller import decisions, notifications, world
from vipcontroller.assignments import Carried
from vipcontroller.writes import StatusWrite
from vipcourier import planning
from vipcourier.votes import Claim, Look, Make, Wait, Write

if TYPE_CHECKING:
    from vipapi.nodeplan import Plan

Document = dict[str, Any]
_KINDS: Final[dict[str, Any]] = {
    "VirtualIP": resources.VirtualIP,
    "ServiceFailover": resources.ServiceFailover,
    "FailoverDomain": resources.FailoverDomain,
    "Switchover": resources.Switchover,
    "VIPNode": resources.VIPNode,
    "Node": resources.Node,
}
LISTS: Final = {
    "VirtualIP": "virtual_ips",
    "ServiceFailover": "failovers",
    "FailoverDomain": "domains",
    "Switchover": "switchovers",
    "VIPNode": "vip_nodes",
    "Node": "nodes",
}
_MOST_ROUNDS: Final = 12


@functools.cache
def cluster() -> dict[tuple[str, str], Document]:
    """Return a cluster in which an address has an owner, a service follows it, and a move is asked for."""
    found = stage.Stage()
    found.agents("node-a", "node-b", "node-c")
    found.virtual_ip("web", healthChecks=[{"name": "up", "tcpSocket": {"port": 80}, "weight": 10}])
    found.virtual_ip("mail", "192.0.2.11/24", onQuorumLoss="Hold", candidates=[{"nodeName": "node-a"}])
    found.failover("billing")
    found.converge(owners={"web": ("node-a", 1)})
    found.put("Switchover", "move", {"virtualIPRef": {"name": "web"}, "to": "node-b"})
    found.settle()
    return found.objects


def _spoilt(choices: Choices, objects: dict[tuple[str, str], Document]) -> dict[tuple[str, str], Document]:
    """Return the objects with specs, statuses, labels and taints that may say anything."""
    spoilt: dict[tuple[str, str], Document] = {}
    for key in sorted(objects):
        document = copy.deepcopy(objects[key])
        if choices.below(3) == 0:
            document = _told_otherwise(choices, document)
        spoilt[key] = document
    return spoilt


def _told_otherwise(choices: Choices, document: Document) -> Document:
    """Return an object whose metadata an API server could have; the rest is what somebody wrote."""
    whole = {"metadata": document["metadata"]}
    for name in ("spec", "status"):
        if name in document:  # an API server keeps it an object
            spoilt = made.spoil(document[name], choices)
            whole[name] = spoilt if isinstance(spoilt, dict) else {}
    if "data" in document:
        whole["data"] = {
            name: choices.pick((data, "", "eA==", "*", data[:8])) for name, data in document["data"].items()
        } | choices.pick(({}, {"2": "eA=="}, {"0": ""}, {"x": "x"}, {"1": "eA=="}, {"9" * 250: ""}))
    if choices.below(8) == 0:
        whole["metadata"] = {**whole["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    return whole


def parse(data: bytes) -> None:
    """One object says this."""
    choices = Choices(data)
    (kind, name) = choices.pick(sorted(cluster()))
    document = _told_otherwise(choices, cluster()[kind, name])
    try:
        found = resources.parse(_KINDS[kind], document)
    except ValueError as error:
        assert str(error).startswith(f"{kind} "), "it does not say which object is meant"  # noqa: PT017 - one of two outcomes
        return
    status = getattr(found, "status", None)
    if isinstance(status, msgspec.Struct):
        again = {**document, "status": resources.to_dict(status)}
        assert resources.parse(_KINDS[kind], again).metadata == found.metadata


def controller(data: bytes) -> None:
    """A whole cluster says this: the controller decides, and decides again, until it has nothing to write."""
    choices = Choices(data)
    objects = _spoilt(choices, cluster())
    reader, memory = world.Reader(), decisions.Memory()
    for at in range(_MOST_ROUNDS):
        now = world.Moment(stage.START + dt.timedelta(seconds=1000 + at), 1000.0 + at)
        listed = {
            name: [document for (kind, _), document in objects.items() if kind == of]
            for of, name in LISTS.items()
        }
        seen = reader.read(**listed).lacking(frozenset()).with_carried(Carried())
        decided = decisions.reconcile(seen, memory, now)
        read = {problem.message for problem in seen.problems} | set(seen.unreadable.values())
        broken = [each for each in decided.problems if each.message not in read]
        assert not broken, broken
        memory = decided.memory
        statuses = [write for write in decided.writes if isinstance(write, StatusWrite)]
        for write in decided.writes:
            notifications.of(write)
        if not statuses:
            return
        for write in statuses:
            document = objects[write.kind, write.metadata.name]
            document["status"] = resources.to_dict(write.status)
            document["metadata"] = {
                **document["metadata"],
                "resourceVersion": str(int(document["metadata"]["resourceVersion"]) + 1000),
            }
    raise AssertionError(f"it writes without end: {statuses[0]}")


def _sources() -> dict[str, list[Document]]:
    checks = [{"name": "up", "httpGet": {"port": 80}}]
    return {
        "virtual_ips": [sources.vip(healthChecks=checks), sources.vip("mail", addresses=["192.0.2.11"])],
        "failovers": [sources.failover()],
        "domains": [sources.domain(witnesses="ab")],
        "nodes": [sources.node("a", addresses=("192.0.2.1",)), sources.node("b")],
        "secrets": [sources.secret(k1=sources.KEY_1)],
    }


def courier(data: bytes) -> None:
    """A whole cluster says this: the courier plans what a keeper accepts."""
    choices = Choices(data)
    planner = planning.Planner("a")
    found = _sources()
    for _ in range(2):
        found = {
            name: [
                sources.changed(_told_otherwise(choices, each)) if choices.below(3) == 0 else each
                for each in documents
            ]
            for name, documents in found.items()
        }
        planned = planner.plan(planning.Sources(**found))
        assert all(isinstance(problem, str) for problem in planned.problems)
        _accepted(planned.plan)


def _accepted(plan: Plan) -> None:
    line = link.encode(plan)
    assert link.decode_for_keeper(line) == plan
    assert nodeplan.decode(line) == plan


def votes(data: bytes) -> None:
    """The Lease of a vote says this, from one look to the next."""
    choices = Choices(data)
    claim = Claim("vipkeeper-vote-uid")
    wanted = link.VoteWanted("uid", "default", "a_00", 1, 2000, 1, is_needed=True)
    now_ns, wall, version = 0, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 0
    lease: Document | None = None
    for _ in range(12):
        match claim.step(wanted, now_ns=now_ns, wall=wall):
            case Wait(until_ns):
                assert until_ns > now_ns
                now_ns = until_ns
            case Look():
                if lease is not None and choices.below(2):
                    lease = _told_by_hand(choices, lease)
                claim.saw(lease, now_ns=now_ns)
            case Make(lease=made_anew):
                version += 1
                lease = _stored(made_anew, version)
                claim.saw(lease, now_ns=now_ns)
            case Write() as write:
                version += 1
                lease = _stored(write.lease, version)
                vote = claim.wrote(write, lease, wanted, now_ns=now_ns)
                if vote is not None:
                    said = link.Votes((vote,))
                    assert link.decode_for_keeper(link.encode(said)) == said


def _stored(lease: Document, version: int) -> Document:
    metadata = {**lease["metadata"], "uid": "lease-uid", "resourceVersion": str(version)}
    return {**lease, "metadata": metadata}


def _told_by_hand(choices: Choices, lease: Document) -> Document:
    """Return the Lease as somebody has edited it: of the types that an API server sees to."""
    metadata, spec = dict(lease["metadata"]), dict(lease.get("spec") or {})
    metadata["resourceVersion"] += str(choices.below(3) + 1)
    metadata["annotations"] = {
        name: choices.pick(("0", "1", "-5", "x", "", "9" * 30, "9" * 5000, "1_0", str(1 << 62), "１"))
        for name in choices.subset(("vipkeeper.io/term-ceiling", "vipkeeper.io/epoch", "other"))
    }
    spec["holderIdentity"] = choices.pick((None, "", "a_00", "b_00"))
    spec["leaseTransitions"] = choices.pick((None, 0, 5, (1 << 31) - 1))
    return {"metadata": metadata, "spec": choices.pick((spec, spec, spec, None))}


def shelf(data: bytes) -> None:
    """Watches and listings come late, doubled and in any order: what is kept only gets newer."""
    choices = Choices(data)
    kept = Shelf()
    listed = 0
    while not choices.are_over:
        documents = [
            {"metadata": {"uid": uid, "name": uid, "resourceVersion": str(choices.below(20))}}
            for uid in choices.subset("abc")
        ]
        before = {
            each["metadata"]["uid"]: int(each["metadata"]["resourceVersion"]) for each in kept.documents()
        }
        what = choices.below(3)
        if what == 0:
            version = choices.below(20)
            is_back = version < listed
            kept.replace(documents, version)
            listed = version
        else:
            is_back = False
            for document in documents:
                (kept.put if what == 1 else kept.remove)(document)
        for each in kept.documents():
            metadata = each["metadata"]
            assert is_back or int(metadata["resourceVersion"]) >= before.get(metadata["uid"], 0)


def address(data: bytes) -> None:
    """Somebody writes this as an address, or as a range of them."""
    text = data.decode("utf-8", "replace")
    for read in (addresses.parse, addresses.parse_range):
        try:
            found = read(text)
        except ValueError as error:
            assert repr(text.partition("/")[0])[1:-1] in str(error)  # noqa: PT017 - the same
            continue
        assert str(found) in (text, f"{text}/32", f"{text}/128") or text in (f"{found}/32", f"{found}/128")


_HIDDEN: Final = "hunter2hunter2"


def settings(data: bytes) -> None:
    """The file of the notifications says this; of what it says nothing is told."""
    try:
        found = notifications.read(data)
    except ValueError as error:
        assert _HIDDEN not in str(error), "it tells what is in the file"  # noqa: PT017 - the same
        return
    for target in found.targets:
        assert repr(target) == f"Target({target.name!r})"


_FILE: Final = f"""\
cluster: berlin
targets:
- name: ops
  url: mailtos://user:{_HIDDEN}@example.com
- name: other
  url: json://example.com
  kinds: [ServiceFailed, NoOwner]
  namespaces: [billing]
""".encode()
_FILES: Final = (
    _FILE,
    _FILE.replace(b"mailtos:", b"!!int "),
    _FILE.replace(b"mailtos:", b"!!bool "),
    _FILE.replace(b"mailtos:", b"!!timestamp "),
    b"cluster: 2026-13-45\n",
    b"cluster: " + b"[" * 2000,
    b"a: &a [x]\nb: &b [*a, *a]\ncluster: [*b, *b]\n",
    b"? [a]\n: b\n",
    b"cluster: !!float x\n",
    b"cluster: !!binary \xc3\xa4\n",
)


def _choosers() -> tuple[bytes, ...]:
    return tuple(random.Random(number).randbytes(60) for number in range(8))


TARGETS: Final = (
    Target("parse", parse, _choosers()),
    Target("controller", controller, _choosers()),
    Target("courier", courier, _choosers()),
    Target("votes", votes, _choosers()),
    Target("shelf", shelf, _choosers()),
    Target(
        "address",
        address,
        (
            b"192.0.2.10/24",
            b"2001:db8::10",
            b"2001:db8::/64",
            b"::ffff:192.0.2.1",
            b"fe80::1%eth0",
            b"1/1",
            b"192.0.2.10/2:",
            b"192.0.2.10/" + b"1" * 5000,
        ),
    ),
    Target("settings", settings, _FILES),
)
