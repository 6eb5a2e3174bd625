"""`make endurance`: thousands of real take-overs, and what has grown; and a soak, in which nothing may move.

Three nodes keep `VIRTUAL_IPS` address sets of IPv4, IPv6 or both. All prefer the same nodes, so that one node
has them all and every fault moves them all. No process is killed: it is the processes that are looked at.

**Take-overs.** A cycle has two rounds of each sudden cause and one of each planned one, done to the node that
owns the most:

    link cut       its carrier goes
    frozen         its keeper is stopped for longer than a lease
    cut off        it and its peers lose each other's frames; clients and the API server reach it still
    cordoned       its addresses are handed over, as `kubectl cordon` asks
    switched over  one Switchover for each VirtualIP, all to the node that the cycle must end on

A round ends when everything is at rest. A take-over counts where the VirtualIP has another owner then, and
its term must have grown; what moved twice in a round counts once. After each cycle, with everything on one
node again, `holdings` takes a sample of what processes and kernels hold, and `growth` says in the end what
has grown.

**Soak.** 1 % of all frames between all hosts is lost: heartbeats, ARP, clients, the API server's
connections. It is one run without a pause, and everything is judged for every address: an owner or a term
that changed, whatever brought it about, and whatever kernels told of addresses that came or went. A machine
that stands still lets leases run out: a take-over is put down to it only if the control address was silent
for longer than a lease's margin just before, and is told with that. That the frames were lost is seen by the
clients.

**Two owners** are looked for among all that was answered, as in the other suites. There are too many
addresses to ask them all every few milliseconds: an overlap shorter than twice the inquirer's pace may stay
unseen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from lab import analysis, enclosure, faults, holdings
from lab.addressruns import MARGIN_MS, STAYED_MS, TWO_LEASES_NS
from lab.analysis import MILLISECOND, percentile
from lab.cluster import Lab
from lab.growth import JUDGED_FROM, Kind, Sample, growths
from lab.measuring import CONTROL, LAG_NS, Pace
from lab.stage import VERSION, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lab.binaries import Binaries
    from lab.growth import Growth
    from lab.records import AddressEvent, Probe
    from lab.topology import Host

VIRTUAL_IPS: Final = 60
PACE: Final = Pace(client_ms=40, inquirer_ms=60, repeat_ms=200)
PREFERENCES: Final = (200, 150, 100)
FROZEN_S: Final = 1.0
"""For so long a cause goes on at least: several leases."""
PATIENCE_S: Final = 300.0
"""Nothing is judged meanwhile, and a busy machine takes long to start everything."""
LOST: Final = 0.01
LOST_AT_LEAST, LOST_AT_MOST = 0.01, 0.1
"""Of questions, which are lost on their way there or back: twice `LOST` is to be expected."""
TELL_S: Final = 120.0
JUST_BEFORE_NS: Final = 1_000 * MILLISECOND
ONE_MOVE_NS: Final = 5_000 * MILLISECOND
"""What kernels tell of one move comes closer together: a former owner that stood still removes it late."""
TOLD_LATER_NS: Final = 10_000 * MILLISECOND
"""Within so long the API server has what kernels told."""

Say = Callable[[str], None]


class StoppedError(Exception):
    """It cannot go on; the message says why."""


def addresses_of(number: int) -> list[str]:
    """Return the addresses of a VirtualIP: of six, four have IPv4 alone, one IPv6 alone, one both."""
    ipv4, ipv6 = f"192.0.2.{20 + number}", f"2001:db8::{0x1000 + number:x}"
    return {4: [ipv6], 5: [ipv4, ipv6]}.get(number % 6, [ipv4])


def label_of(name: str, address: str) -> str:
    """Return under which name what is seen of one address of a VirtualIP is written down."""
    return f"{name}-ipv6" if ":" in address else name


SETS: Final = {f"set-{number}": addresses_of(number) for number in range(VIRTUAL_IPS)}
LABELS: Final = {
    label_of(name, address): address for name, addresses in SETS.items() for address in addresses
}


@dataclass(frozen=True, slots=True)
class Tenure:
    """Who owns a VirtualIP, and under which term."""

    owner: str
    term: int


Tenures = dict[str, Tenure]


def taken_over(before: Mapping[str, Tenure], after: Mapping[str, Tenure]) -> list[str]:
    """Return the VirtualIPs that another node has taken over."""
    return [name for name, tenure in after.items() if tenure.owner != before[name].owner]


def out_of_order(before: Mapping[str, Tenure], after: Mapping[str, Tenure]) -> list[str]:
    """Return the VirtualIPs that another node has taken over under a term that is no higher."""
    return [name for name in taken_over(before, after) if after[name].term <= before[name].term]


def changed(before: Mapping[str, Tenure], after: Mapping[str, Tenure]) -> list[str]:
    """Return the VirtualIPs of which owner or term is another one."""
    return [name for name, tenure in after.items() if tenure != before[name]]


def unrest(objects: Sequence[Mapping[str, Any]], nodes: Sequence[str]) -> str:
    """Return why VirtualIPs are not at rest: held, Ready, and with every node fit to take them over."""
    for each in objects:
        status = each.get("status", {})
        conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
        fit = {one["nodeName"] for one in status.get("candidates", ()) if one["eligible"]}
        if conditions.get("Ready") != "True" or not status.get("owner") or not fit.issuperset(nodes):
            return f"{each['metadata']['name']} is not: {status}"
    return ""


def tenures_of(objects: Sequence[Mapping[str, Any]]) -> Tenures:
    """Return the tenures that VirtualIPs' status tells; one without an owner has none."""
    return {
        each["metadata"]["name"]: Tenure(each["status"]["owner"], each["status"]["term"])
        for each in objects
        if each.get("status", {}).get("owner")
    }


@dataclass(slots=True)
class Scene:
    """The running lab, and what is asked of it; `sets` are the addresses of each VirtualIP."""

    stage: Stage
    say: Say
    sets: Mapping[str, Sequence[str]] = field(default_factory=lambda: SETS)

    @property
    def nodes(self) -> list[str]:
        return list(self.stage.lab.nodes)

    @property
    def ended(self) -> str:
        """Tell which processes of vipkeeper have ended, though nobody killed them."""
        names = [each.name for each in self.stage.agents.everything() if not each.is_alive]
        return f"nobody killed them, and they have ended: {', '.join(names)}" if names else ""

    def objects(self) -> list[dict[str, Any]]:
        """Return the VirtualIPs as the API server has them."""
        return self.stage.lab.plane.api.list(VERSION, "VirtualIP")

    def rest(self) -> Tenures:
        """Wait until everything is at rest, and return who owns what."""
        found: list[dict[str, Any]] = []

        def is_at_rest() -> bool:
            found[:] = self.objects()
            return len(found) == len(self.sets) and not unrest(found, self.nodes)

        self._wait(is_at_rest, lambda: f"all VirtualIPs at rest; {unrest(found, self.nodes)}")
        return tenures_of(found)

    def wait_elsewhere(self, victim: Host) -> None:
        """Wait until another node than this one owns each VirtualIP."""

        def is_elsewhere() -> bool:
            owners = {each.owner for each in tenures_of(self.objects()).values()}
            return victim.name not in owners

        self._wait(is_elsewhere, lambda: f"everything to leave {victim.name}")

    def wait_on(self, node: str) -> None:
        """Wait until a node owns everything."""

        def is_there() -> bool:
            tenures = tenures_of(self.objects())
            return len(tenures) == len(self.sets) and {each.owner for each in tenures.values()} == {node}

        self._wait(is_there, lambda: f"everything to be on {node}")

    def gather(self, before: Tenures, node: str) -> None:
        """Switch everything over to a node that is not there yet, and wait until it owns all."""
        for name, tenure in before.items():
            if tenure.owner != node:
                self.stage.move(name, node)
        self.wait_on(node)
        self.stage.forget_moves()

    def declare(self, candidates: Sequence[str]) -> None:
        """Make every VirtualIP, or make it anew, with these candidates, the most preferred first."""
        ranked = [
            {"nodeName": node, "priority": priority}
            for node, priority in zip(candidates, PREFERENCES, strict=False)
        ]
        for name, addresses in self.sets.items():
            written = [f"{each}/{64 if ':' in each else 24}" for each in addresses]
            spec = {"addresses": written, "candidates": ranked}
            document = {"apiVersion": VERSION, "kind": "VirtualIP", "metadata": {"name": name}, "spec": spec}
            self.stage.lab.plane.api.apply(document)

    def _wait(self, is_so: Callable[[], bool], what: Callable[[], str]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_so():
            if self.ended:
                raise StoppedError(self.ended)
            if time.monotonic() > deadline_s:
                raise StoppedError(f"waited {PATIENCE_S} s, in vain, for {what()}")
            time.sleep(0.5)


# Causes of take-overs


@contextmanager
def link_cut(scene: Scene, victim: Host) -> Iterator[None]:
    segment = scene.stage.lab.segment
    segment.cut(victim)
    try:
        yield
    finally:
        segment.mend(victim)


@contextmanager
def frozen(scene: Scene, victim: Host) -> Iterator[None]:
    keeper = scene.stage.agents.keepers[victim.name]
    keeper.freeze()
    try:
        yield
    finally:
        keeper.thaw()


@contextmanager
def cut_off(scene: Scene, victim: Host) -> Iterator[None]:
    others = [name for name in scene.nodes if name != victim.name]
    with scene.stage.lab.faults.during(*faults.apart(victim.name, *others)):
        yield


@contextmanager
def cordoned(scene: Scene, victim: Host) -> Iterator[None]:
    _schedule(scene, victim, is_cordoned=True)
    try:
        yield
    finally:
        _schedule(scene, victim, is_cordoned=False)


def _schedule(scene: Scene, node: Host, *, is_cordoned: bool) -> None:
    scene.stage.lab.plane.api.merge("v1", "Node", node.name, {"spec": {"unschedulable": is_cordoned}})


CAUSES: Final = {"link cut": link_cut, "frozen": frozen, "cut off": cut_off, "cordoned": cordoned}
SWITCHED: Final = "switched over"
CYCLE: Final = (*2 * ("link cut", "frozen", "cut off"), "cordoned", SWITCHED)
GATHERED_ON: Final = "node-c"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What came of one cause.

    `outages_ms` are the longest silences of the addresses that moved, told to the client's pace, `gone` are
    the labels of all that did not answer again, whether they moved or not; `unordered` are the VirtualIPs of
    which the term did not grow when they moved.
    """

    cause: str
    victim: str
    take_overs: int
    unordered: tuple[str, ...]
    seconds: float
    outages_ms: tuple[float, ...]
    gone: tuple[str, ...]
    hiccup_ms: float
    overlaps: tuple[tuple[str, analysis.Overlap], ...]
    until_ns: int


def play(scene: Scene, cause: str, before: Tenures, *, since_ns: int) -> tuple[Round, Tenures]:
    """Do one round; it begins and ends at rest. Two owners are looked for from `since_ns` on."""
    owners = [tenure.owner for tenure in before.values()]
    victim = max(scene.nodes, key=owners.count)
    started_s, fault_ns = time.monotonic(), time.monotonic_ns()
    if cause == SWITCHED:
        scene.gather(before, GATHERED_ON)
    else:
        node = scene.stage.lab.nodes[victim]
        with CAUSES[cause](scene, node):
            time.sleep(FROZEN_S)
            scene.wait_elsewhere(node)
    after = scene.rest()
    moved = taken_over(before, after)
    measured = scene.stage.measured
    until_ns = measured.settle()
    silences = {
        label: _silence(measured.probes(label, since_ns=fault_ns - LAG_NS), fault_ns, until_ns)
        for label in LABELS
    }
    outages_ms = [silences[label_of(name, address)].length_ms for name in moved for address in SETS[name]]
    return (
        Round(
            cause=cause,
            victim=victim,
            take_overs=len(moved),
            unordered=tuple(out_of_order(before, after)),
            seconds=time.monotonic() - started_s,
            outages_ms=tuple(outages_ms),
            gone=tuple(label for label, silence in silences.items() if silence.end_ns is None),
            hiccup_ms=measured.hiccup_ms(since_ns=fault_ns, until_ns=until_ns),
            overlaps=overlaps_since(scene, since_ns),
            until_ns=until_ns,
        ),
        after,
    )


def _silence(probes: Sequence[Probe], since_ns: int, until_ns: int) -> analysis.Outage:
    interval_ns = PACE.client_ms * MILLISECOND
    return analysis.longest_silence(probes, since_ns=since_ns, until_ns=until_ns, interval_ns=interval_ns)


def overlaps_since(scene: Scene, since_ns: int) -> tuple[tuple[str, analysis.Overlap], ...]:
    """Return every proof since then, with its label, that two nodes had an address at once."""
    answers = scene.stage.measured.answers_of_all(since_ns=since_ns - TWO_LEASES_NS - LAG_NS)
    return tuple(
        (label, overlap)
        for label, given in answers.items()
        for overlap in analysis.overlaps(given, since_ns=since_ns, settled_ns=TWO_LEASES_NS)
    )


@dataclass(slots=True)
class Course:
    """The rounds and samples so far."""

    wanted: int
    rounds: list[Round] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    @property
    def take_overs(self) -> int:
        return sum(each.take_overs for each in self.rounds)

    def objections(self) -> list[str]:
        """Return what was not as it must be."""
        found = [
            f"two owners of {label} when {each.victim} was {each.cause}: {overlap}"
            for each in self.rounds
            for label, overlap in each.overlaps
        ]
        found += [
            f"{label} did not answer again when {each.victim} was {each.cause}"
            for each in self.rounds
            for label in each.gone
        ]
        found += [f"the term of {name} did not grow" for each in self.rounds for name in each.unordered]
        if self.take_overs < self.wanted:
            found.append(f"{self.take_overs} take-overs of {self.wanted}")
        return found + [each.objection for each in growths(self.samples) if each.objection]

    def table_of_causes(self) -> Table:
        made = Table(title="take-overs, and the outage of each address in ms", title_justify="left")
        made.add_column("cause")
        for column in ("rounds", "take-overs", "median", "p99", "worst", "control", "s a round"):
            made.add_column(column, justify="right")
        for cause in dict.fromkeys(each.cause for each in self.rounds):
            mine = [each for each in self.rounds if each.cause == cause]
            outages = [outage for each in mine for outage in each.outages_ms] or [0.0]
            made.add_row(
                cause,
                str(len(mine)),
                str(sum(each.take_overs for each in mine)),
                *(f"{percentile(outages, percent):.0f}" for percent in (50, 99, 100)),
                f"{max(each.hiccup_ms for each in mine):.0f}",
                f"{sum(each.seconds for each in mine) / len(mine):.1f}",
            )
        return made

    def table_of_growth(self) -> Table:
        every = growths(self.samples)
        told = [each for each in every if not each.is_constant]
        made = Table(
            title=f"what was held at rest, in {len(self.samples)} samples; "
            f"{len(every) - len(told)} more figures were the same in all of them",
            title_justify="left",
        )
        for column in ("of", "what"):
            made.add_column(column)
        for column in ("first", "middle", "last", "growth in 1,000 take-overs", "limit"):
            made.add_column(column, justify="right")
        made.add_column("")
        for each in told:
            made.add_row(*_cells(each))
        return made


def _cells(growth: Growth) -> Iterator[str]:
    yield growth.measure.of
    yield growth.measure.what
    for value in (growth.first, growth.middle, growth.last):
        yield f"{value:.0f}" if value == int(value) else f"{value:.2f}"
    yield f"{growth.per_thousand:+.2f}"
    yield {Kind.TOLD: "", Kind.COUNT: "none"}.get(growth.measure.kind, f"{growth.measure.kind.limit:g}")
    yield "HAS GROWN" if growth.objection else ""


def take_over(scene: Scene, wanted: int) -> list[str]:
    """Have so many take-overs or a few more, print what has grown, and return what is wrong."""
    course = Course(wanted)
    tenures = scene.rest()
    scene.say(f"{len(SETS)} VirtualIPs with {len(LABELS)} addresses are held; {wanted} take-overs follow")
    failure = ""
    since_ns = time.monotonic_ns()
    try:
        while course.take_overs < wanted:
            for cause in CYCLE:
                came, tenures = play(scene, cause, tenures, since_ns=since_ns)
                since_ns = came.until_ns
                course.rounds.append(came)
            course.samples.append(Sample(course.take_overs, holdings.sample(scene.stage)))
            scene.say(
                f"  {course.take_overs} take-overs in {sum(each.seconds for each in course.rounds):.0f} s, "
                f"{sum(len(each.overlaps) for each in course.rounds)} times two owners, worst outage "
                f"{max(max(each.outages_ms, default=0.0) for each in course.rounds):.0f} ms"
            )
    except StoppedError as stopped:
        failure = f"it did not go on: {stopped}"
    finally:  # also of one that was interrupted
        _tell(course, scene.say)
    return course.objections() + ([failure] if failure else [])


def _tell(course: Course, say: Say) -> None:
    if course.rounds:
        Console(width=150).print(course.table_of_causes())
    if course.samples:
        Console(width=150).print(course.table_of_growth())
    if len(course.samples) < JUDGED_FROM:
        say(f"growth is not judged: {len(course.samples)} samples, it takes {JUDGED_FROM}")


# The soak


def silent_alone(
    gaps: Sequence[analysis.Outage], control: Sequence[analysis.Outage]
) -> list[analysis.Outage]:
    """Return the long silences of an address that the control's, meanwhile or just before, do not explain."""

    def control_ms(gap: analysis.Outage) -> float:
        return max(
            (
                each.length_ms
                for each in control
                if (gap.end_ns is None or each.start_ns <= gap.end_ns)
                and (each.end_ns is None or gap.start_ns - each.end_ns <= JUST_BEFORE_NS)
            ),
            default=0.0,
        )

    long = [gap for gap in gaps if gap.length_ms > STAYED_MS]
    return [gap for gap in long if gap.length_ms > STAYED_MS + control_ms(gap)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """One stretch of the soak, from `since_ns` to `until_ns`.

    `renewed` are the VirtualIPs of which owner or term changed, `events` what kernels told of our addresses
    and `silences` the times for which the control address was silent for longer than a lease's margin, both
    from a little earlier on: what happened at the end of one stretch may be told in the next. `silent` are
    the addresses, by label, that were so alone (`silent_alone`).
    """

    since_ns: int
    until_ns: int
    renewed: tuple[str, ...]
    events: tuple[AddressEvent, ...]
    silences: tuple[analysis.Outage, ...]
    silent: tuple[tuple[str, analysis.Outage], ...]
    overlaps: tuple[tuple[str, analysis.Overlap], ...]
    asked: int
    lost: int
    outage_ms: float
    control_ms: float
    late_rounds: float

    @property
    def take_overs(self) -> tuple[str, ...]:
        """Return the VirtualIPs that changed their owner or came and went, whatever brought it about."""
        touched = {
            name
            for event in self.events
            if self.since_ns <= event.at_ns < self.until_ns and (name := owner_of(event.address)) is not None
        }
        return tuple(sorted(touched.union(self.renewed)))

    @property
    def unexplained(self) -> tuple[str, ...]:
        """Return those that moved without the machine having stood still just before, at least once.

        Of one that only its term or owner tells of, what was told last must have been it.
        """
        return tuple(name for name in self.take_overs if not self._is_explained(name))

    def _is_explained(self, name: str) -> bool:
        times_ns = sorted(event.at_ns for event in self.events if owner_of(event.address) == name)
        moves: list[list[int]] = []
        for at_ns in times_ns:
            if moves and at_ns - moves[-1][-1] <= ONE_MOVE_NS:
                moves[-1].append(at_ns)
            else:
                moves.append([at_ns])
        judged = [move for move in moves if move[-1] >= self.since_ns] or moves[-1:]
        return bool(judged) and all(self._stood_still_before(move[0]) for move in judged)

    def _stood_still_before(self, at_ns: int) -> bool:
        return any(
            each.start_ns <= at_ns and (each.end_ns is None or at_ns - each.end_ns <= JUST_BEFORE_NS)
            for each in self.silences
        )

    @property
    def objections(self) -> list[str]:
        """Return what was not as it must be."""
        found = [f"{name} was taken over, or came and went, without a fault" for name in self.unexplained]
        found += [f"two owners of {label}: {overlap}" for label, overlap in self.overlaps]
        found += [f"{label} was silent for {gap.length_ms:.0f} ms" for label, gap in self.silent]
        if not self.asked or not LOST_AT_LEAST <= self.lost / self.asked <= LOST_AT_MOST:
            found.append(
                f"{self.lost} of {self.asked} questions were lost: that is no soak at {LOST:.0%} loss"
            )
        return found

    def line(self, started_ns: int) -> str:
        """Return what is said of it."""
        excused = sorted(set(self.take_overs) - set(self.unexplained))
        machine = f"; {len(excused)} as the machine stood still: {', '.join(excused)}" if excused else ""
        return (
            f"  {(self.until_ns - started_ns) / 60e9:5.1f} min: {len(self.unexplained)} take-overs without a "
            f"fault{machine}; two owners {len(self.overlaps)} times; "
            f"lost {self.lost / max(self.asked, 1):.2%}; "
            f"longest silence {self.outage_ms:.0f} ms, of the control {self.control_ms:.0f} ms; "
            f"{self.late_rounds:.0f} late rounds"
        )


_OWNERS: Final = {address: name for name, addresses in SETS.items() for address in addresses}


def owner_of(address: str) -> str | None:
    """Return the VirtualIP of an address, with or without its prefix length; None of another."""
    return _OWNERS.get(address.partition("/")[0])


def soak(scene: Scene, minutes: float) -> list[str]:
    """Lose 1 % of all frames for so long, tell every few minutes how it goes, and return what is wrong."""
    tenures = scene.rest()
    time.sleep(TOLD_LATER_NS / 1e9)
    scene.say(
        f"{len(SETS)} VirtualIPs with {len(LABELS)} addresses are held; {LOST:.0%} of all frames is lost "
        f"for {minutes:g} minutes"
    )
    objections: list[str] = []
    late = holdings.late_rounds(scene.stage)
    with scene.stage.lab.faults.during(*faults.lossy(LOST)):
        started_ns = since_ns = time.monotonic_ns()
        end_ns = started_ns + int(minutes * 60e9)
        while since_ns < end_ns:
            left_s = (end_ns - since_ns) / 1e9
            time.sleep(TELL_S if left_s > 1.5 * TELL_S else left_s)  # a short stretch proves little
            until_ns = scene.stage.measured.settle()
            now, late_now = tenures_of(scene.objects()), holdings.late_rounds(scene.stage)
            stretch = _stretch(scene, since_ns, until_ns, changed(tenures, now), late_now - late)
            scene.say(stretch.line(started_ns))
            objections += [*stretch.objections, *([scene.ended] if scene.ended else [])]
            tenures, late, since_ns = {**tenures, **now}, late_now, until_ns
    return objections


def _stretch(
    scene: Scene, since_ns: int, until_ns: int, renewed: Sequence[str], late_rounds: float
) -> Stretch:
    measured = scene.stage.measured
    probes = {label: measured.probes(label, since_ns=since_ns - LAG_NS) for label in (*LABELS, CONTROL)}
    interval_ns = PACE.client_ms * MILLISECOND
    earlier_ns = since_ns - TOLD_LATER_NS
    silences = analysis.silences(
        measured.probes(CONTROL, since_ns=earlier_ns - LAG_NS),
        since_ns=earlier_ns,
        until_ns=until_ns,
        interval_ns=interval_ns,
    )
    asked = [each for found in probes.values() for each in found if since_ns <= each.sent_ns < until_ns]
    return Stretch(
        since_ns=since_ns,
        until_ns=until_ns,
        renewed=tuple(renewed),
        events=tuple(
            each
            for each in measured.address_events(since_ns=earlier_ns)
            if owner_of(each.address) is not None
        ),
        silences=tuple(each for each in silences if each.length_ms > MARGIN_MS),
        silent=tuple(
            (label, gap)
            for label in LABELS
            for gap in silent_alone(
                analysis.silences(
                    probes[label], since_ns=since_ns, until_ns=until_ns, interval_ns=interval_ns
                ),
                silences,
            )
        ),
        overlaps=overlaps_since(scene, since_ns),
        asked=len(asked),
        lost=sum(each.answered_ns is None for each in asked),
        outage_ms=max(_silence(probes[label], since_ns, until_ns).length_ms for label in LABELS),
        control_ms=_silence(probes[CONTROL], since_ns, until_ns).length_ms,
        late_rounds=late_rounds,
    )


def set_up(lab: Lab, say: Say) -> Scene:
    """Bring vipkeeper and all VirtualIPs up in a lab that is up, and return the scene, at rest."""
    scene = stand_up(lab, say, SETS)
    scene.declare(scene.nodes)
    scene.rest()
    scene.stage.measured = lab.measure(LABELS, pace=PACE)
    return scene


def stand_up(lab: Lab, say: Say, sets: Mapping[str, Sequence[str]]) -> Scene:
    """Bring vipkeeper up in a lab that is up, with a domain for these addresses, none of them declared."""
    stage = Stage(lab)
    stage.start()
    domain = {"allowedAddresses": ["192.0.2.0/24", "2001:db8::/64"]}
    lab.plane.api.apply(
        {
            "apiVersion": VERSION,
            "kind": "FailoverDomain",
            "metadata": {"name": "default"},
            "spec": domain,
        }
    )
    return Scene(stage, say, sets)


def run(binaries: Binaries, say: Say, *, take_overs: int, soak_minutes: float) -> int:
    """Have so many take-overs, then soak for so long, either of which may be 0; return the exit status."""
    say("bringing up 3 nodes, two controllers and an API server")
    started_s = time.monotonic()
    lab = Lab(binaries, enclosure.scratch_folder() / "endurance", nodes=3)
    objections: list[str] = []
    try:
        lab.start()
        scene = set_up(lab, say)
        if take_overs:
            objections += take_over(scene, take_overs)
        if soak_minutes:
            objections += soak(scene, soak_minutes)
    except StoppedError as stopped:
        objections.append(f"it did not go on: {stopped}")
    finally:
        lab.close()
    for each in objections:
        say(f"NOT AS IT MUST BE: {each}")
    say(f"{'not well' if objections else 'well'}, in {time.monotonic() - started_s:.0f} s")
    return 1 if objections else 0
