"""`make bench`: how long failovers take over many runs, and what the processes cost.

For each case the same fault is committed again and again to whichever node owns the address; what is told
is the client's outage (median, 99th percentile, worst) beside the worst silence of the control address
in the same moments, and the limit that the project has set itself. It prints and does not judge, save
for two owners or an address that did not come back, which make it fail.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lab import enclosure, faults
from lab.analysis import percentile
from lab.cluster import Lab
from lab.stage import HTTP, UDP, VERSION, NotReadyError, Outcome, Stage, urls_for

if TYPE_CHECKING:
    from lab.binaries import Binaries
    from lab.processes import Process

ADDRESSES = {"minimal": "192.0.2.10", "web": "192.0.2.11"}
IDLE_ADDRESSES = 10
IDLE_S = 20.0
FREEZE_S = 1.5
AFTERMATH_S = 0.6
RESTORED_S = 2.5  # a keeper that comes back is silent for longer than any grant

Say = Callable[[str], None]


class Layout(Enum):
    """Who there is: how many nodes, and which of them only vote."""

    THREE_NODES = (3, frozenset[str]())
    TWO_AND_A_VOTER = (3, frozenset({"node-c"}))
    TWO_AND_THE_API_SERVER = (2, frozenset[str]())


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fault that is measured many times; `limits` says what the project wants of it."""

    title: str
    limits: str
    run: Callable[[Bench], Outcome]
    profile: str = "Balanced"
    layout: Layout = Layout.THREE_NODES
    without_api: bool = False


class Bench:
    """One lab with vipkeeper under one timing profile."""

    def __init__(self, lab: Lab, profile: str, layout: Layout) -> None:
        self.lab = lab
        self.stage = Stage(lab, aftermath_s=AFTERMATH_S)
        self._profile = profile
        self._layout = layout

    def set_up(self) -> None:
        """Bring everything up, with one address that follows a service and one that does not."""
        self.lab.start()
        _, voters = self._layout.value
        self.stage.start(witness_only=voters)
        domain = {"profile": self._profile, "allowedAddresses": ["192.0.2.0/24"]}
        self._apply("FailoverDomain", "default", domain)
        self.lab.plane.kubectl("wait", "fod/default", "--for=condition=Quorate", "--timeout=60s")
        self._apply("VirtualIP", "minimal", {"addresses": ["192.0.2.10/24"]})
        check = {
            "name": "web-server",
            "httpGet": {"port": 8080, "path": "/healthz"},
            "periodMilliseconds": 200,
            "timeoutMilliseconds": 200,
            "failureThreshold": 2,
            "successThreshold": 2,
        }
        self._apply("VirtualIP", "web", {"addresses": ["192.0.2.11/24"], "healthChecks": [check]})
        self.stage.watch(ADDRESSES, urls=urls_for({"web": ADDRESSES["web"]}))
        self.stage.rest(*ADDRESSES)

    def idle_costs(self) -> list[tuple[str, float, float]]:
        """Return name, resident MB and per cent of a core of every process while ten addresses are held."""
        extra = range(2, IDLE_ADDRESSES)
        for number in extra:
            self._apply("VirtualIP", f"idle-{number}", {"addresses": [f"192.0.2.{20 + number}/24"]})
        for number in extra:
            self.stage.wait_until(f"idle-{number} held", partial(self._is_owned, f"idle-{number}"))
        processes = self.stage.agents.everything()
        before = [_cpu_s(process) for process in processes]
        started_s = time.monotonic()
        time.sleep(IDLE_S)
        elapsed_s = time.monotonic() - started_s
        costs = [
            (process.name, _resident_mb(process), 100 * (_cpu_s(process) - spent_s) / elapsed_s)
            for process, spent_s in zip(processes, before, strict=True)
        ]
        for number in extra:
            self.lab.plane.api.delete(VERSION, "VirtualIP", f"idle-{number}")
        return costs

    def rest(self, *, without_api: bool) -> None:
        """Wait until the next fault may come."""
        if without_api:
            time.sleep(RESTORED_S)
        else:
            self.stage.rest(*ADDRESSES)

    def _is_owned(self, name: str) -> bool:
        return bool(self.stage.status(name).get("owner"))

    def _apply(self, kind: str, name: str, spec: Mapping[str, object]) -> None:
        self.lab.plane.api.apply(
            {"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
        )


def node_death(bench: Bench) -> Outcome:
    owner = bench.stage.owner("minimal")
    before = bench.stage.incarnation(owner)
    outcome = bench.stage.act("minimal", lambda: bench.stage.power_off(owner))
    bench.stage.power_on(owner)
    bench.stage.wait_until("a new report", lambda: bench.stage.incarnation(owner) > before)
    return outcome


def cut_link(bench: Bench) -> Outcome:
    owner = bench.stage.owner("minimal")
    outcome = bench.stage.act("minimal", lambda: bench.lab.segment.cut(owner))
    bench.lab.segment.mend(owner)
    return outcome


def killed_keeper(bench: Bench) -> Outcome:
    owner = bench.stage.owner("minimal")
    before = bench.stage.incarnation(owner)
    outcome = bench.stage.act("minimal", bench.stage.agents.keepers[owner.name].kill)
    bench.stage.agents.restart(owner)
    bench.stage.wait_until("a new report", lambda: bench.stage.incarnation(owner) > before)
    return outcome


def frozen_keeper(bench: Bench) -> Outcome:
    keeper = bench.stage.agents.keepers[bench.stage.owner("minimal").name]
    return bench.stage.act("minimal", keeper.freeze, lasts_s=FREEZE_S, undo=keeper.thaw)


def peers_apart(bench: Bench) -> Outcome:
    owner = bench.stage.owner("minimal").name
    losses = faults.apart(owner, *(name for name in bench.lab.nodes if name != owner))
    outcome = bench.stage.act("minimal", lambda: bench.lab.faults.add(*losses))
    bench.lab.faults.remove(*losses)
    return outcome


def service_death(bench: Bench) -> Outcome:
    owner = bench.stage.owner("web")
    outcome = bench.stage.act("web", bench.stage.web[owner.name].kill, reads=HTTP)
    bench.stage.web[owner.name] = bench.lab.start_webserver(owner)
    return outcome


def planned_move(bench: Bench) -> Outcome:
    owner = bench.stage.owner("minimal").name
    target = next(name for name in bench.lab.nodes if name != owner)
    return bench.stage.act("minimal", lambda: bench.stage.move("minimal", target), expect=target, reads=UDP)


CASES = (
    Case(title="node death", limits="p50 ≤ 500, max ≤ 700 ms", run=node_death),
    Case(title="cut link", limits="p50 ≤ 500, max ≤ 700 ms", run=cut_link),
    Case(title="keeper killed", limits="max ≤ 250 ms", run=killed_keeper),
    Case(title="keeper frozen", limits="max ≤ 250 ms", run=frozen_keeper),
    Case(title="owner cut off from its peers only", limits="max ≤ 250 ms", run=peers_apart),
    Case(title="service death (2 × 200 + 200 ms)", limits="max ≤ 700 ms", run=service_death),
    Case(title="planned move", limits="p50 ≤ 20, max ≤ 60 ms", run=planned_move),
    Case(title="cut link, no API server", limits="p50 ≤ 500, max ≤ 700 ms", run=cut_link, without_api=True),
    Case(title="keeper frozen, no API server", limits="max ≤ 250 ms", run=frozen_keeper, without_api=True),
    Case(title="cut link", limits="p50 ≤ 320 ms", run=cut_link, profile="Fast"),
    Case(title="node death", limits="p50 ≤ 320 ms", run=node_death, profile="Fast"),
    Case(
        title="node death, two nodes and a witness only",
        limits="p50 ≤ 500, max ≤ 700 ms",
        run=node_death,
        layout=Layout.TWO_AND_A_VOTER,
    ),
    Case(
        title="cut link, two nodes and a witness only, no API server",
        limits="p50 ≤ 500, max ≤ 700 ms",
        run=cut_link,
        layout=Layout.TWO_AND_A_VOTER,
        without_api=True,
    ),
    Case(
        title="node death, two nodes and the API server",
        limits="max ≤ 5000 ms",
        run=node_death,
        layout=Layout.TWO_AND_THE_API_SERVER,
    ),
)


def run(binaries: Binaries, say: Say, *, runs: int, only: str) -> int:
    """Measure all cases, or those whose title or profile contains `only`; print the tables."""
    chosen = [case for case in CASES if only.lower() in f"{case.title} {case.profile}".lower()]
    results: list[tuple[Case, list[Outcome]]] = []
    costs: list[tuple[str, float, float]] = []
    started_s = time.monotonic()
    for profile, layout in dict.fromkeys((case.profile, case.layout) for case in chosen):
        nodes, voters = layout.value
        say(
            f"profile {profile}: bringing up {nodes} nodes, {len(voters)} of them witness only, "
            "two controllers and an API server"
        )
        lab = Lab(binaries, enclosure.scratch_folder() / f"{profile}-{layout.name}", nodes=nodes)
        try:
            bench = Bench(lab, profile, layout)
            bench.set_up()
            if not costs:
                say(f"idle with {IDLE_ADDRESSES} addresses for {IDLE_S:.0f} s")
                costs = bench.idle_costs()
            cases = [case for case in chosen if (case.profile, case.layout) == (profile, layout)]
            results += [(case, _repeat(bench, case, runs, say)) for case in cases]
        except NotReadyError as failure:
            say(f"FAILED: {failure}")
            results.append(
                (Case(title=f"(stopped: {failure})", limits="", run=cut_link, profile=profile), [])
            )
            break
        finally:
            lab.close()
    console = Console(width=130)
    console.print(_failovers(results))
    console.print(_costs(costs))
    say(f"{time.monotonic() - started_s:.0f} s in all")
    is_safe = all(outcomes and all(each.is_safe for each in outcomes) for _, outcomes in results)
    return 0 if is_safe else 1


def _repeat(bench: Bench, case: Case, runs: int, say: Say) -> list[Outcome]:
    if case.without_api:
        bench.lab.plane.stop()
    outcomes = []
    for number in range(1, runs + 1):
        bench.rest(without_api=case.without_api)
        outcome = case.run(bench)
        outcomes.append(outcome)
        doubt = "" if outcome.is_safe else f"  NOT SAFE: {outcome.after or 'nobody'}, {outcome.overlaps}"
        say(
            f"  {case.title} ({case.profile}) {number}/{runs}: {outcome.outage_ms:6.1f} ms, "
            f"control {outcome.hiccup_ms:4.1f} ms{doubt}"
        )
    if case.without_api:
        bench.lab.plane.start_etcd()
        bench.lab.plane.start_apiserver()
    return outcomes


def _failovers(results: list[tuple[Case, list[Outcome]]]) -> Table:
    table = Table(title="outage of the client in ms", title_justify="left")
    for column in ("case", "profile"):
        table.add_column(column)
    for column in ("runs", "p50", "p99", "max", "control max"):
        table.add_column(column, justify="right")
    for column in ("limit", "two owners"):
        table.add_column(column)
    for case, outcomes in results:
        lengths = [outcome.outage_ms for outcome in outcomes] or [float("nan")]
        hiccup_ms = max((outcome.hiccup_ms for outcome in outcomes), default=float("nan"))
        overlaps = sum(bool(outcome.overlaps) for outcome in outcomes)
        figures = (percentile(lengths, 50), percentile(lengths, 99), max(lengths), hiccup_ms)
        table.add_row(
            case.title,
            case.profile,
            str(len(outcomes)),
            *(f"{figure:.1f}" for figure in figures),
            case.limits,
            f"{overlaps} times" if overlaps else "never",
        )
    return table


def _costs(costs: list[tuple[str, float, float]]) -> Table:
    table = Table(title=f"idle, with {IDLE_ADDRESSES} addresses", title_justify="left")
    table.add_column("process")
    table.add_column("resident MB", justify="right")
    table.add_column("% of a core", justify="right")
    for name, resident_mb, cpu_percent in costs:
        table.add_row(name, f"{resident_mb:.1f}", f"{cpu_percent:.2f}")
    return table


def _cpu_s(process: Process) -> float:
    fields = Path(f"/proc/{process.child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(process: Process) -> float:
    lines = Path(f"/proc/{process.child.pid}/status").read_text().splitlines()
    [resident] = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(resident) / 1024
