"""What keepers say to each other: datagrams from anybody, and whatever a holder of the key could send."""

from __future__ import annotations

import hashlib
import random
import struct
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fuzz import made
from fuzz.target import Choices, Target
from vipagent import epochs, messages, observations
from vipagent.datagrams import MAXIMUM_SIZE, Codec, DatagramRefused, domain_tag, overhear
from vipagent.effects import Adopt, Close, Extend, Inquired, Observed, Open, Send, Told
from vipagent.health import Fitness
from vipagent.messages import Ack, Free, Granted, Message, Observation, Request, Sender
from vipagent.seat import Seat
from vipagent.succession import key_of, lease_timing
from vipagent.workload import Stack
from vipapi import bounds, link, nodestatus, resources
from vipapi.configuration import API_SERVER, Configuration, Member, WitnessSet
from vipapi.healthchecks import HealthCheck, TCPSocket
from vipapi.nodeplan import CandidatePlan, DomainPlan, Key, ServicePlan, Timing, VirtualIPPlan
from vipapi.workloads import Systemd, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vipagent.effects import Effect

ME: Final = "a"
NODES: Final = ("a", "b", "c")
UID: Final = "domain-uid"
SECRET: Final = b"k" * 32
INCARNATION: Final = 7
_MEMBERS: Final = tuple(Member(node, f"192.0.2.{number}") for number, node in enumerate("abcd", 1))
_TIMING: Final = Timing(100, 400, 500, 600)
_START_NS: Final = 10**15
_MOST_STEPS: Final = 48
_MOST_EFFECTS: Final = 2_000
_HEADER: Final = struct.Struct("!2sBB8sI8s8s")
_SERVICES: Final = tuple(
    ServicePlan(
        "failover-uid", "prod", "billing", name, Workload(systemd=Systemd(f"{name}.service")), name == "app"
    )
    for name in ("app", "log")
)
_CHECK: Final = HealthCheck("through", tcp_socket=TCPSocket(80), observed_from="Peers")


def _configuration(
    witnesses: str, epoch: int = 1, *, former: str = "", has_api_vote: bool = False
) -> Configuration:
    def named(names: str) -> WitnessSet:
        return WitnessSet(tuple(each for each in _MEMBERS if each.node in names), has_api_vote)

    return Configuration(epoch, witnesses=named(witnesses), former=named(former) if former else None).sealed(
        UID
    )


def _vip(name: str, address: str, **more: Any) -> VirtualIPPlan:
    candidates = tuple(CandidatePlan(node, 100) for node in NODES)
    return VirtualIPPlan(f"{name}-uid", name, (address,), candidates, owner="b", **more)


WEB: Final = _vip("web", "192.0.2.10/24", services=_SERVICES, health_checks=(_CHECK,))
TWIN: Final = _vip("twin", "192.0.2.10/25", is_held_alone=True)
MAIL: Final = _vip("mail", "192.0.2.11", based_on_term=3)


def domain(configuration: Configuration, *vips: VirtualIPPlan) -> DomainPlan:
    """Return the plan of a domain of four nodes."""
    return DomainPlan("default", UID, 7946, _TIMING, configuration, _MEMBERS, (Key(1, SECRET),), vips)


FIRST: Final = _configuration("abc")
PLANS: Final = (
    domain(FIRST, WEB, MAIL),
    domain(FIRST, WEB, TWIN, MAIL),
    domain(FIRST),
    domain(_configuration("abc", has_api_vote=True), WEB, TWIN),
)
KEYS: Final = (*(key_of(vip) for vip in (WEB, TWIN, MAIL)), b"", b"unknown")
_NAMES: Final = (*NODES, "d", API_SERVER, "", "x" * 300)
POOLS: Final[dict[str, Sequence[Any]]] = {
    "key": KEYS,
    "others": KEYS,
    "polls": KEYS,
    "standby": (*_NAMES, None),
    "holder": (*_NAMES, None),
    "former": (*_NAMES, None),
    "successor": (*_NAMES, None),
    "node": _NAMES,
    "address": (*(member.address for member in _MEMBERS), "", "::1", "192.0.2.999"),
    "incarnation": (INCARNATION,),
    "term": (0, 1, 2, 3, 4),
    "holder_term": (0, 1, 2),
    "term_floor": (0, 1, 1000),
    "epoch": (1, 2, 3),
    "services": (*(each.id for each in _SERVICES), "unknown"),
    "vacant": (*(each.id for each in _SERVICES), "unknown"),
    "running": (*(each.id for each in _SERVICES), "unknown"),
    "stuck": (*(each.id for each in _SERVICES), "unknown"),
    "failing": (observations.digest(_CHECK), b""),
    "passing": (observations.digest(_CHECK), b""),
}
MESSAGES: Final[tuple[type[msgspec.Struct], ...]] = (
    messages.Ack, messages.Request, messages.Release, messages.Released, messages.Offer, messages.Prepare,
    messages.Ready, messages.Handover, messages.GetConfig, messages.Config, messages.Inquire,
    messages.Vacant, messages.Observe, messages.Observation,
)  # fmt: skip


def codec_of(node: str, *, plan: DomainPlan = PLANS[0], incarnation: int = INCARNATION) -> Codec:
    """Return a codec by which that node says something to the others."""
    codec = Codec(me=Sender(node, b"", incarnation), domain_uid=UID)
    timing = ",".join(str(milliseconds) for milliseconds in msgspec.structs.astuple(plan.timing))
    configuration = plan.configuration
    codec.configure(
        epoch=configuration.epoch,
        this=f"{configuration.hash},{timing}",
        former=f"{configuration.former_hash},{timing}",
    )
    codec.adopt(keys={1: SECRET}, peers=frozenset("abcd") - {node})
    return codec


def _examples() -> tuple[Message, ...]:
    found: list[Message] = []
    for number, kind in enumerate(MESSAGES):
        choices = Choices(random.Random(number).randbytes(200))
        found.append(made.value(kind, choices, POOLS))
    return tuple(found)


def datagram(data: bytes) -> None:
    """Anybody sends this to a keeper's port."""
    tag = domain_tag(data)
    assert tag is None or len(tag) == 8
    _open(codec_of(ME), data)


def sealed(data: bytes) -> None:
    """A holder of the key sends this as a body, deflated or not, and as the deflated bytes themselves."""
    choices = Choices(data)
    how, body = choices.below(3), choices.rest()
    if how:
        header = _HEADER.pack(b"VZ", 2, 1, codec_of("b").tag(), 1, bytes(8), bytes(8))
        whole = header + (zlib.compress(body) if how == 1 else body)
        whole += hashlib.blake2b(whole, key=SECRET, digest_size=16).digest()
    else:
        whole = codec_of("b").sign(body, 1)
    _open(codec_of(ME), whole)
    try:
        receiver, message = overhear(whole)
    except DatagramRefused:
        return
    assert isinstance(receiver, str)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Message) == message


def _open(codec: Codec, whole: bytes) -> None:
    try:
        envelope = codec.open(whole)
    except DatagramRefused as refused:
        assert refused.refusal  # noqa: PT017 - one of several outcomes
        return
    answer = codec.seal(envelope.sender.node, envelope.message)
    assert answer
    try:
        codec.open(whole)
    except DatagramRefused as refused:
        assert refused.refusal == "Replayed"  # noqa: PT017
    else:
        raise AssertionError("it is opened a second time")


def _datagram_seeds() -> tuple[bytes, ...]:
    codec = codec_of("b")
    return tuple(codec.seal(ME, each) for each in _examples())


def _body_seeds() -> tuple[bytes, ...]:
    bodies: list[bytes] = []
    for number, message in enumerate(_examples(), 1):
        body = ["b", b"", INCARNATION, 1, ME, number, message]
        bodies.append(b"\0" + msgspec.msgpack.encode(body))
    nested = b"\x98\xa1b\xc4\x00\x07\x01\xa1a\x01\x91\xa9getConfig" + b"\x91" * 5000 + b"\x90"
    return (*bodies, *(b"\1" + body[1:] for body in bodies[:3]), b"\0" + nested, b"\1" + nested)


class Dialogue:
    """One seat, and three other keepers that say what the choices make them say."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._now_ns = _START_NS
        plan = choices.pick(PLANS)
        self._codecs = {node: codec_of(node, plan=plan) for node in "bcd"}
        self._seat = Seat(
            plan,
            plan.configuration,
            node=ME,
            machine=b"",
            incarnation=INCARNATION,
            random=random.Random(1),
            now_ns=self._now_ns,
            term_ceiling=0,
        )
        self._open: dict[bytes, int] = {}
        self._closing: set[bytes] = set()
        self._asked: Request | None = None
        self._watches = observations.Watches()
        self._dispute = observations.Dispute()
        self._stack = Stack(now_ns=self._now_ns)
        self._stack.assign(_SERVICES, frozenset("bc"), self._now_ns)
        self._perform(self._seat.assign(plan, self._now_ns))
        self._perform(self._seat.judge(["web-uid", "mail-uid", "twin-uid"], self._now_ns, is_sound=True))
        self._pass(600_000_000)

    def run(self) -> None:
        """Take step after step until the choices are over."""
        steps = (
            self._hear, self._hear, self._be_granted, self._wait, self._hear_nonsense, self._say_closed,
            self._judge, self._plan_anew, self._be_offered, self._hear_votes, self._resign, self._report,
        )  # fmt: skip
        for _ in range(_MOST_STEPS):
            if self._choices.are_over:
                break
            self._choices.pick(steps)()
            self._see_to_it()
        self._report()

    # What may happen

    def _hear(self) -> None:
        node, kind = self._choices.pick("bcd"), self._choices.pick(MESSAGES)
        asked = self._asked
        now = self._now_ns
        pools = {
            **POOLS,
            "sent_at_ns": (now, 0) if asked is None else (asked.sent_at_ns, now),
            "round": (0,) if asked is None else (asked.round, asked.round - 1),
            "lapsed_ns": (0, 100_000_000),
        }
        message = made.value(kind, self._choices, pools)
        if isinstance(message, messages.Config) and self._choices.below(2):
            message = messages.Config(message.configuration.sealed(UID))
        try:
            whole = self._codecs[node].seal(ME, message)
        except OverflowError:
            return  # no encoder makes such a number, so nobody can have sent it
        self._receive(whole)

    def _hear_nonsense(self) -> None:
        node = self._choices.pick("bcd")
        self._receive(self._codecs[node].sign(self._choices.octets(60), 1))

    def _be_granted(self) -> None:
        """A witness, or each of two, grants all that was asked for last."""
        asked = self._asked
        if asked is None:
            return
        for node in self._choices.subset("bc"):
            granted = tuple(
                Granted(want.key, want.term, self._choices.pick(POOLS["standby"]), is_standby_sound=True)
                for want in asked.wants
            )
            sent_at_ns = self._choices.pick((asked.sent_at_ns,) * 6 + (self._now_ns + 10**12, 1 << 61))
            answer = Ack(INCARNATION, asked.round, sent_at_ns, 0, granted, (), ())
            self._receive(self._codecs[node].seal(ME, answer))

    def _be_offered(self) -> None:
        """Both other witnesses call an address set free."""
        key = self._choices.pick(KEYS)
        for node in "bc":
            free = Free(key, self._choices.below(3), self._choices.below(5), None, 0, was_released=False)
            self._receive(self._codecs[node].seal(ME, messages.Offer((free,))))

    def _wait(self) -> None:
        timing = lease_timing(_TIMING)
        self._pass(
            self._choices.pick(
                (1_000_000, 12_000_000, timing.heartbeat_ns, timing.lease_ns, timing.grant_ns, 10**13)
            )
        )

    def _say_closed(self) -> None:
        for key in sorted(self._closing):
            self._closing.remove(key)
            self._perform(self._seat.lease.closed(key, self._now_ns))

    def _judge(self) -> None:
        uids = ("web-uid", "mail-uid", "twin-uid", "unknown")
        self._perform(
            self._seat.judge(
                self._choices.subset(uids),
                self._now_ns,
                is_sound=self._choices.below(2) == 1,
                occupied_uids=frozenset(self._choices.subset(uids)),
            )
        )

    def _plan_anew(self) -> None:
        self._perform(self._seat.assign(self._choices.pick(PLANS), self._now_ns))

    def _hear_votes(self) -> None:
        pools = {**POOLS, "domain_uid": (UID,), "until_ns": (self._now_ns, self._now_ns + 2_000_000_000)}
        vote: link.Vote = made.value(link.Vote, self._choices, pools)
        try:
            said = link.decode_for_keeper(link.encode(link.Votes((vote,))))
        except (ValueError, OverflowError):
            return
        assert isinstance(said, link.Votes)
        self._seat.hear_votes(said.votes[0], self._now_ns)
        self._seat.hear_api_server(self._now_ns)

    def _resign(self) -> None:
        self._perform(self._seat.lease.resign(self._now_ns))

    def _report(self) -> None:
        now = self._now_ns
        status = self._seat.status(heartbeat_address="192.0.2.1", now_ns=now)
        report = nodestatus.Report(ME, "1", INCARNATION, domains=(status,), problems=self._seat.problems(now))
        assert nodestatus.decode(nodestatus.encode(report)) == report
        assert resources.to_dict(bounds.fit(report))
        wanted = self._seat.vote_wanted(now)
        if wanted is not None:
            said = link.VotesWanted((wanted,))
            assert link.decode_for_courier(link.encode(said)) == said

    # The shell

    def _pass(self, for_ns: int) -> None:
        self._now_ns += for_ns
        self._perform(self._seat.expire(self._now_ns))
        self._seat.witness.keep(self._seat.witness.term_ceiling)

    def _receive(self, whole: bytes) -> None:
        self._now_ns += 1000
        try:
            effects = self._seat.receive(whole, self._now_ns)
        except DatagramRefused:
            return
        self._perform(effects)

    def _perform(self, effects: list[Effect]) -> None:  # noqa: C901 - one for each kind of effect
        """Do as the keeper does."""
        now, seat = self._now_ns, self._seat
        latest_ns = now + lease_timing(_TIMING).lease_ns
        queue, done = deque(effects), 0
        while queue:
            done += 1
            assert done <= _MOST_EFFECTS, "it never ends"
            match queue.popleft():
                case Send(message=Request() as asked) as send if not seat.is_local(send):
                    self._asked = asked
                    self._send(send)
                case Send() as send if seat.is_local(send):
                    queue.extend(seat.deliver(send, now))
                case Send() as send:
                    self._send(send)
                case Open(key, deadline_ns):
                    assert key not in self._open, "opened twice"
                    assert deadline_ns <= latest_ns, "open for longer than a lease"
                    assert seat.vip(key) is not None
                    self._open[key] = deadline_ns
                case Extend(key, deadline_ns):
                    assert self._open[key] < deadline_ns <= latest_ns, "extended beyond a lease"
                    self._open[key] = deadline_ns
                case Close(key):
                    del self._open[key]
                    self._closing.add(key)
                case Adopt(configuration):
                    if not epochs.flaw(UID, configuration):
                        queue.extend(seat.configure(configuration, now))
                case Inquired(node, inquiry):
                    asked_services = inquiry.services
                    vacant = messages.Vacant(inquiry.incarnation, inquiry.term, asked_services, (), ())
                    queue.append(Send(node, vacant))
                case Told(node, answer):
                    self._hear_of_services(node, answer)
                case Observed(node, said):
                    self._hear_of_owner(node, said)

    def _send(self, send: Send) -> None:
        addressed = self._seat.seal(send)
        if addressed is not None:
            assert len(addressed[1]) <= MAXIMUM_SIZE

    def _hear_of_services(self, node: str, answer: messages.Vacant) -> None:
        stack, now = self._stack, self._now_ns
        if self._choices.below(2):
            stack.own(answer.term, now, now, node)
        stack.confirm(node, set(answer.vacant), now, term=answer.term)
        stack.wait(node, set(answer.running), now, term=answer.term)
        stack.deny(node, set(answer.stuck), now, term=answer.term, fencing=dict(answer.fencing))
        for _ in range(2):
            stack.step(now)
        assert stack.deadline_ns is None or isinstance(stack.deadline_ns, int)
        assert all(isinstance(message, str) for *_, message in stack.statuses())

    def _hear_of_owner(self, node: str, said: messages.Observe | Observation) -> None:
        now = self._now_ns / 1e9
        if isinstance(said, Observation):
            self._dispute.look(observations.names(WEB), term=said.term, has_standby=True, now=now)
            self._dispute.hear(node, said, now)
            self._dispute.look(observations.names(WEB), term=said.term, has_standby=True, now=now)
            return
        self._watches.hear(WEB.uid, node, said, now)
        self._watches.subject(WEB)
        view = self._watches.view(WEB, Fitness("Fit", 100), now) if self._choices.below(2) else None
        if view is not None and view.observation is not None:
            self._send(Send(node, view.observation))
        self._watches.expire(now)

    def _see_to_it(self) -> None:
        """Assert what must hold at any moment."""
        witness = self._seat.witness
        claimed: list[str] = []
        for grant in witness.grants.values():
            claimed += grant.addresses
            assert grant.until_ns <= self._now_ns + lease_timing(_TIMING).grant_ns
        assert len(claimed) == len(set(claimed)), "two grants share an address"
        assert self._seat.deadline_ns is not None


def dialogue(data: bytes) -> None:
    """Holders of the key say well-formed things that they should not."""
    Dialogue(Choices(data)).run()


def _dialogue_seeds() -> tuple[bytes, ...]:
    return tuple(random.Random(number).randbytes(40 << number) for number in range(6))


TARGETS: Final = (
    Target("datagram", datagram, _datagram_seeds()),
    Target("sealed", sealed, _body_seeds()),
    Target("dialogue", dialogue, _dialogue_seeds()),
)
