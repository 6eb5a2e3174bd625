"""What `make scale` measures of failovers: many addresses on one node, which loses its power.

Three real nodes, two controllers and an API server. One node owns every VirtualIP, the other two are its
candidates too. Its carrier is taken away and all that runs on it is killed (`Lab.power_off`); then the API
server is asked nothing until every address has answered from elsewhere, so that the failover has the machine
to itself. The node comes back, and the next run begins when all is at rest and one node owns everything.

    silent     the longest silence of an address for the client; there is one for each address in every run
    elsewhere  from the loss of power to the last address's first answer by another node

There are too many addresses to ask them all every few milliseconds (`PACE`): a silence is told to the
client's pace, and an overlap shorter than twice the inquirer's may stay unseen.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.table import Table

from lab import analysis, enclosure, topology
from lab.analysis import MILLISECOND, percentile
from lab.choice import picked
from lab.cluster import Lab
from lab.endurance import StoppedError, overlaps_since, stand_up
from lab.measuring import LAG_NS, Pace
from lab.processes import ProcessFailedError
from lab.stage import NotReadyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lab.binaries import Binaries
    from lab.endurance import Scene
    from lab.records import Probe

NODES: Final = 3
RUNS: Final = 10
LIMIT_MS: Final = 1_200
PACE: Final = Pace(client_ms=50, inquirer_ms=200, repeat_ms=500)
LEFT_ALONE_S: Final = 3.0
PATIENCE_S: Final = 30.0
EVERY_SIXTH: Final = 5
FIRST: Final = 10
"""Smaller host numbers are those of the gateway, the client and others."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """How many VirtualIPs there are, and how many addresses each of them has."""

    virtual_ips: int
    each: int

    @property
    def title(self) -> str:
        return f"{self.virtual_ips} VirtualIPs, {self.each} address{'es' if self.each > 1 else ''} each"

    def sets(self) -> dict[str, list[str]]:
        """Return the addresses of each VirtualIP, by its name."""
        every = addresses(self.virtual_ips * self.each)
        return {
            f"set-{number:03}": every[number * self.each : (number + 1) * self.each]
            for number in range(self.virtual_ips)
        }


SHAPES: Final = (Shape(10, 1), Shape(200, 1), Shape(20, 10))


def addresses(count: int) -> list[str]:
    """Return so many addresses of the segment that no host has, every sixth of them of IPv6."""
    nodes = range(topology.FIRST_NODE, topology.FIRST_NODE + NODES)
    numbers = (number for number in range(FIRST, 255) if number not in nodes)
    return [
        f"2001:db8::{0x1000 + number:x}"
        if number % (EVERY_SIXTH + 1) == EVERY_SIXTH
        else f"192.0.2.{next(numbers)}"
        for number in range(count)
    ]


def labels_of(sets: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return each address by the name under which its probes are written down."""
    return {
        f"{name}-{number}": address
        for name, own in sets.items()
        for number, address in enumerate(own, start=1)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One loss of power; of each address, how long it was silent and when it answered elsewhere, in ms.

    Both are infinite for one that did not answer again. `taken` is how many addresses each node answered for
    in the end, `overlaps` how often two nodes were proved to own one.
    """

    victim: str
    taken: Mapping[str, int]
    silent_ms: tuple[float, ...]
    elsewhere_ms: tuple[float, ...]
    hiccup_ms: float
    overlaps: int

    @property
    def is_safe(self) -> bool:
        """Tell whether every address came back, and was never on two nodes."""
        return not self.overlaps and all(
            math.isfinite(each) for each in (*self.silent_ms, *self.elsewhere_ms)
        )

    @property
    def route(self) -> str:
        """Tell from where to where the addresses went."""
        taken = ", ".join(f"{node} {count}" for node, count in sorted(self.taken.items()))
        return f"{self.victim} → {taken or 'nobody'}"


def elsewhere_at(probes: Sequence[Probe], *, victim: str, since_ns: int) -> int | None:
    """Return when another node than this one answered first."""
    return next(
        (
            each.latest_ns
            for each in analysis.answers_from(probes)
            if each.node != victim and each.latest_ns > since_ns
        ),
        None,
    )


def gathered(scene: Scene) -> str:
    """Wait until all is at rest and one node owns everything, and return which.

    It is not the last one: a node that comes back with the lab's second client would ask every address at its
    usual pace (`Stage.power_on`).
    """
    tenures = scene.rest()
    owners = [tenure.owner for tenure in tenures.values()]
    owner = max(scene.nodes[:-1], key=owners.count)
    if set(owners) != {owner}:
        scene.gather(tenures, owner)
        scene.rest()
    return owner


def once(scene: Scene) -> Run:
    """Let the owner of everything lose its power, bring it back, and tell what it cost."""
    stage, measured = scene.stage, scene.stage.measured
    victim = stage.lab.nodes[gathered(scene)]
    incarnation = stage.incarnation(victim)
    measured.settle()  # whatever gathering still had to do is over
    fault_ns = time.monotonic_ns()
    stage.power_off(victim)

    def probes(label: str) -> list[Probe]:
        return measured.probes(label, since_ns=fault_ns - LAG_NS)

    def at(label: str) -> int | None:
        return elsewhere_at(probes(label), victim=victim.name, since_ns=fault_ns)

    time.sleep(LEFT_ALONE_S)
    with contextlib.suppress(NotReadyError):  # what does not answer is told as that
        stage.wait_until(
            "answers from elsewhere", lambda: None not in map(at, measured.addresses), patience_s=PATIENCE_S
        )
    until_ns = measured.settle()
    found = {label: probes(label) for label in measured.addresses}
    silences = [
        analysis.longest_silence(
            each, since_ns=fault_ns, until_ns=until_ns, interval_ns=PACE.client_ms * MILLISECOND
        )
        for each in found.values()
    ]
    came = [elsewhere_at(each, victim=victim.name, since_ns=fault_ns) for each in found.values()]
    last = [analysis.answers_from(each)[-1:] for each in found.values()]
    run = Run(
        victim=victim.name,
        taken=Counter(answer.node for own in last for answer in own if answer.node != victim.name),
        silent_ms=tuple(each.length_ms for each in silences),
        elsewhere_ms=tuple(math.inf if ns is None else (ns - fault_ns) / MILLISECOND for ns in came),
        hiccup_ms=measured.hiccup_ms(since_ns=fault_ns, until_ns=until_ns),
        overlaps=len(overlaps_since(scene, fault_ns)),
    )
    stage.power_on(victim)
    stage.wait_until("a new report", lambda: stage.has_restarted(victim, incarnation), patience_s=PATIENCE_S)
    return run


def measure(binaries: Binaries, say: Say, shape: Shape, runs: int) -> Iterator[Run]:
    """Yield what each run came to; raises `StoppedError`, `NotReadyError` and `ProcessFailedError`."""
    sets = shape.sets()
    lab = Lab(binaries, enclosure.scratch_folder() / f"power-{shape.virtual_ips}-{shape.each}", nodes=NODES)
    try:
        lab.start()
        scene = stand_up(lab, say, sets)
        scene.declare(scene.nodes)
        scene.rest()
        scene.stage.measured = lab.measure(labels_of(sets), pace=PACE)
        for _ in range(runs):
            yield once(scene)
    finally:
        lab.close()


def chosen(only: str) -> list[Shape]:
    """Return the shapes that a text picks (`lab.choice`)."""
    return picked(only, SHAPES, lambda shape: [f"power {shape.title}"])


def run(binaries: Binaries, say: Say, *, only: str, runs: int | None) -> tuple[list[Table], bool]:
    """Measure the chosen shapes, each so many times; return the tables, and whether everything came back."""
    tables, is_well = [], True
    wanted = RUNS if runs is None else runs
    for shape in chosen(only):
        say(f"power: {shape.title}, all on one of {NODES} nodes")
        done: list[Run] = []
        try:
            for each in measure(binaries, say, shape, wanted):
                done.append(each)
                say(f"  {len(done)}/{wanted}: {line_of(each)}")
        except (StoppedError, NotReadyError, ProcessFailedError) as failure:
            say(f"  FAILED: {failure}")
            is_well = False
        is_well = is_well and all(each.is_safe for each in done)
        if done:
            tables.append(table_of(shape, done))
    return tables, is_well


def line_of(run: Run) -> str:
    """Return a line that tells a run as soon as it is over."""
    p50, p99, worst = spread(run.silent_ms)
    doubt = "" if run.is_safe else f"  NOT SAFE: {run.overlaps} times two owners"
    return (
        f"{run.route}: silent p50 {p50}, p99 {p99}, worst {worst} ms, all elsewhere after "
        f"{shown(max(run.elsewhere_ms))} ms, control {shown(run.hiccup_ms)} ms{doubt}"
    )


def table_of(shape: Shape, runs: Sequence[Run]) -> Table:
    """Return a line for each run, and one for all of them."""
    made = Table(
        title=f"power lost under {shape.title}, in ms, told to {PACE.client_ms} ms", title_justify="left"
    )
    made.add_column("run")
    made.add_column("from → to")
    for column in (
        "silent p50",
        "p99",
        "worst",
        "all elsewhere",
        "control",
        f"limit {LIMIT_MS:,}",
        "two owners",
    ):
        made.add_column(column, justify="right")
    for number, each in enumerate(runs, start=1):
        made.add_row(str(number), each.route, *cells([each]))
    made.add_section()
    made.add_row("all", "", *cells(runs))
    return made


def cells(runs: Sequence[Run]) -> list[str]:
    """Return what is told of some runs together: over all addresses of all of them."""
    silent_ms = [each for run in runs for each in run.silent_ms]
    return [
        *spread(silent_ms),
        shown(max(each for run in runs for each in run.elsewhere_ms)),
        shown(max(run.hiccup_ms for run in runs)),
        verdict(silent_ms),
        str(sum(run.overlaps for run in runs)),
    ]


def spread(silent_ms: Sequence[float]) -> list[str]:
    """Return median, 99th percentile and worst."""
    return [shown(percentile(silent_ms, percent)) for percent in (50, 99, 100)]


def verdict(silent_ms: Sequence[float]) -> str:
    """Tell whether every address answered again within the limit."""
    late = sum(each > LIMIT_MS for each in silent_ms)
    return f"missed by {late} of {len(silent_ms)}" if late else "held"


def shown(length_ms: float) -> str:
    return "no end" if math.isinf(length_ms) else f"{length_ms:.0f}"
