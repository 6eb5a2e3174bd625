"""What `make scale` measures of starts: how long vipkeeper's processes take, and what they hold at rest.

Three real nodes, two controllers and an API server, and step by step more VirtualIPs, of one address each.
With each number of them one process after the other is started anew, several times:

    keeper of the owner    killed on the node that owns everything and is the only candidate
    keeper of a standby    killed on the node that is the last of three candidates
    courier                killed beside the owner's keeper
    controller             both replicas are told to end, as a Deployment does, and one is started

    ready    from its start until its /readyz says so (`vipagent.readiness` tells what that means)
    at work  until the owner's keeper holds everything again, and until the controller leads and says that
             every VirtualIP is Ready. Of the others being ready says all
    MB       what it has resident when all has been at rest for `REST_S`

Who looks does so every `LOOK_S`; a time contains the start of Python. How the controller does with a hundred
nodes is for `scalecontroller` to say.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from lab import counters, enclosure
from lab.agents import (
    CONTROLLER_METRICS,
    COURIER_METRICS,
    KEEPER_METRICS,
    start_controller,
    start_courier,
    start_keeper,
)
from lab.analysis import percentile
from lab.choice import picked
from lab.cluster import Lab
from lab.endurance import Scene, StoppedError, stand_up, unrest
from lab.holdings import answer_of
from lab.peers import resident_mb
from lab.processes import ProcessFailedError
from lab.scalepower import NODES, Shape
from lab.stage import NotReadyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lab.binaries import Binaries
    from lab.processes import Process
    from lab.topology import Host

SIZES: Final = (1, 10, 100, 200)
RUNS: Final = 3
LOOK_S: Final = 0.05
PATIENCE_S: Final = 60.0
REST_S: Final = 5.0
HEALTH_APART: Final = 100
"""By so much the port of a process's /readyz is greater than that of its metrics."""
READY, AT_WORK = "ready", "at work"
OWNER, STANDBY, COURIER, CONTROLLER = "keeper of the owner", "keeper of a standby", "courier", "controller"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start of a process with `count` VirtualIPs; `at_work_s` is None where being ready says all."""

    count: int
    who: str
    ready_s: float
    at_work_s: float | None
    resident_mb: float


def is_arranged(objects: Sequence[Mapping[str, Any]], candidates: Sequence[str]) -> bool:
    """Tell whether VirtualIPs, as they are specified now, are at rest, and only these nodes fit."""
    return not unrest(objects, candidates) and all(
        each["status"].get("observedGeneration") == each["metadata"]["generation"]
        and {one["nodeName"] for one in each["status"]["candidates"] if one["eligible"]} == set(candidates)
        for each in objects
    )


def is_ok(answer: str) -> bool:
    """Tell whether an answer by HTTP is a yes."""
    return answer.split(" ")[1:2] == ["200"]


def is_held(metrics: str, count: int) -> bool:
    """Tell whether a keeper says that it holds so many VirtualIPs."""
    return counters.total(metrics, "vipkeeper_virtualip_held") == count


def is_led(metrics: str, count: int) -> bool:
    """Tell whether a controller says that it leads, and that so many VirtualIPs are Ready."""
    is_leader = counters.total(metrics, "vipkeeper_controller_leader") == 1
    return is_leader and counters.total(metrics, "vipkeeper_virtualip_ready") == count


class Starts:
    """The running lab with some number of VirtualIPs, and the starts that are made in it."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._lab = scene.stage.lab
        self._agents = scene.stage.agents
        self._first, *_, self._last = self._lab.nodes.values()
        self._candidates: Sequence[str] = ()

    def measured(self, runs: int) -> Iterator[Start]:
        """Yield every start, so many of each process; the first node owns everything."""
        for candidates, starts in (
            ([self._first.name], [self._owner]),
            (self._scene.nodes, [self._standby, self._courier, self._controller]),
        ):
            self._candidates = candidates
            self._scene.declare(candidates)
            self._rest()
            for start in starts:
                for _ in range(runs):
                    yield start()

    def _owner(self) -> Start:
        started = self._keeper(self._first)
        return self._seen(OWNER, started, self._first, KEEPER_METRICS, is_held)

    def _standby(self) -> Start:
        return self._seen(STANDBY, self._keeper(self._last), self._last, KEEPER_METRICS)

    def _keeper(self, node: Host) -> Process:
        keepers = self._agents.keepers
        keepers[node.name].kill()
        keepers[node.name] = start_keeper(node, health=KEEPER_METRICS + HEALTH_APART)
        return keepers[node.name]

    def _courier(self) -> Start:
        node, couriers = self._first, self._agents.couriers
        couriers[node.name].kill()
        couriers[node.name] = start_courier(self._lab, node, health=COURIER_METRICS + HEALTH_APART)
        return self._seen(COURIER, couriers[node.name], node, COURIER_METRICS)

    def _controller(self) -> Start:
        controllers, port = self._agents.controllers, CONTROLLER_METRICS + 10
        for each in controllers:
            each.terminate()
        controllers[0] = start_controller(self._lab, 1, health=port + HEALTH_APART)
        try:
            return self._seen(CONTROLLER, controllers[0], self._lab.host, port, is_led)
        finally:
            self._agents.restart_controllers()

    def _seen(
        self,
        who: str,
        started: Process,
        host: Host,
        port: int,
        is_at_work: Callable[[str, int], bool] | None = None,
    ) -> Start:
        """Look at a process that was started just now until all is at rest; raises `StoppedError`."""
        started_s = time.monotonic()
        count = len(self._scene.sets)
        awaited = {READY: lambda: is_ok(_answer(host, port + HEALTH_APART, "/readyz"))}
        if is_at_work is not None:
            awaited[AT_WORK] = lambda: is_at_work(_answer(host, port, "/metrics"), count)
        came: dict[str, float] = {}
        while awaited.keys() != came.keys():
            for what in awaited.keys() - came.keys():
                if awaited[what]():
                    came[what] = time.monotonic() - started_s
            if not started.is_alive or time.monotonic() > started_s + PATIENCE_S:
                missing = " and ".join(sorted(awaited.keys() - came.keys()))
                raise StoppedError(f"the {who} was started, and in vain waited for to be {missing}")
            time.sleep(LOOK_S)
        self._rest()
        return Start(
            count=count,
            who=who,
            ready_s=came[READY],
            at_work_s=came.get(AT_WORK),
            resident_mb=resident_mb(started.child.pid),
        )

    def _rest(self) -> None:
        scene = self._scene

        def is_at_rest() -> bool:
            found = scene.objects()
            return len(found) == len(scene.sets) and is_arranged(found, self._candidates)

        scene.stage.wait_until("all VirtualIPs at rest", is_at_rest, patience_s=PATIENCE_S)
        time.sleep(REST_S)


def _answer(host: Host, port: int, path: str) -> str:
    """Return what a process of a host answers there; nothing while it does not."""
    try:
        return answer_of(host, port, path)
    except OSError:
        return ""


def measure(binaries: Binaries, say: Say, sizes: Sequence[int], runs: int) -> Iterator[Start]:
    """Yield every start; raises `StoppedError`, `NotReadyError` and `ProcessFailedError`."""
    lab = Lab(binaries, enclosure.scratch_folder() / "start", nodes=NODES)
    try:
        lab.start()
        stage = stand_up(lab, say, {}).stage
        for size in sizes:
            say(f"start: {size} VirtualIPs")
            yield from Starts(Scene(stage, say, Shape(size, 1).sets())).measured(runs)
    finally:
        lab.close()


def chosen(only: str) -> list[int]:
    """Return the numbers of VirtualIPs that a text picks (`lab.choice`)."""
    return picked(only, SIZES, lambda size: [f"start {size} VirtualIPs"])


def run(binaries: Binaries, say: Say, *, only: str, runs: int | None) -> tuple[list[Table], bool]:
    """Start everything so often with each number that is chosen; return the table, and whether all came."""
    starts: list[Start] = []
    sizes, is_well = chosen(only), True
    try:
        for each in measure(binaries, say, sizes, RUNS if runs is None else runs) if sizes else ():
            starts.append(each)
            say(f"  {line_of(each)}")
    except (StoppedError, NotReadyError, ProcessFailedError) as failure:
        say(f"  FAILED: {failure}")
        is_well = False
    return [table_of(starts)] if starts else [], is_well


def line_of(start: Start) -> str:
    """Return a line that tells a start as soon as it is over."""
    at_work = "" if start.at_work_s is None else f", at work after {start.at_work_s:.2f} s"
    return f"{start.who}: ready after {start.ready_s:.2f} s{at_work}, {start.resident_mb:.0f} MB"


def table_of(starts: Sequence[Start]) -> Table:
    """Return a line for each process and each number of VirtualIPs."""
    made = Table(title=f"starts, and memory {REST_S:.0f} s after all is at rest", title_justify="left")
    made.add_column("process")
    for column in (
        *("VirtualIPs", "n", "ready s, median", "worst", "at work s, median", "worst"),
        *("MB, median", "worst"),
    ):
        made.add_column(column, justify="right")
    for who in (OWNER, STANDBY, COURIER, CONTROLLER):
        for count in dict.fromkeys(each.count for each in starts):
            mine = [each for each in starts if (each.who, each.count) == (who, count)]
            if mine:
                made.add_row(who, str(count), *cells(mine))
        made.add_section()
    return made


def cells(starts: Sequence[Start]) -> list[str]:
    """Return what is told of all starts of one process."""
    at_work_s = [each.at_work_s for each in starts if each.at_work_s is not None]
    return [
        str(len(starts)),
        *_spread([each.ready_s for each in starts], 2),
        *(_spread(at_work_s, 2) if at_work_s else ("", "")),
        *_spread([each.resident_mb for each in starts], 0),
    ]


def _spread(values: Sequence[float], digits: int) -> list[str]:
    return [f"{percentile(values, percent):.{digits}f}" for percent in (50, 100)]
