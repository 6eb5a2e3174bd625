"""`make bench`: how long failovers take over many runs, and what the processes cost.

For each case the same fault is committed again and again to whichever node owns the address; what is told
is the client's outage (median, 99th percentile, worst) beside the worst silence of the control address
in the same moments, and the limit that the project has set itself. It prints and does not judge, save
for two owners or an address that did not come back, which make it fail. Then come keepalived beside
vipkeeper, and what the processes of both cost (`lab.peers`). Each run's figures are written down as they come
(`lab.ledger`); the tables are made of these, here and later (`compare`).
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lab import choice, comparison, enclosure, faults, keepalived, ledger, peers, plot
from lab.burdens import Burden
from lab.cluster import Lab
from lab.ledger import Failover, Ledger
from lab.processes import ProcessFailedError
from lab.stage import HTTP, UDP, VERSION, NotReadyError, Outcome, Stage, urls_for

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from lab.binaries import Binaries
    from lab.ledger import Entry
    from lab.peers import Fault, Peer

ADDRESSES = {"minimal": "192.0.2.10", "web": "192.0.2.11"}
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

    def rest(self, *, without_api: bool) -> None:
        """Wait until the next fault may come."""
        if without_api:
            time.sleep(RESTORED_S)
        else:
            self.stage.rest(*ADDRESSES)

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
    Case(title="node death", limits="p50 ≤ 320, max ≤ 450 ms", run=node_death, profile="Fast"),
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


FAILOVERS, COMPARISON, BOTH = "failovers", "comparison", "both"
STARTS_S = 40.0
ONCE_S = 6.5
"""About how long a lab takes to come up and to end, and one failover in it: only estimates rest on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured: cases of vipkeeper's own, and faults to subjects of the comparison."""

    runs: int
    cases: Sequence[Case]
    faults: Sequence[Fault]
    peers: Sequence[Peer]
    load: Collection[str]

    @property
    def needs_keepalived(self) -> bool:
        """Tell whether keepalived is among what is to be measured."""
        return any(not isinstance(peer.profile_or_settings, str) for peer in self.peers)

    @property
    def groups(self) -> list[tuple[str, Layout]]:
        """Return profile and layout of each lab that the cases need."""
        return list(dict.fromkeys((case.profile, case.layout) for case in self.cases))

    @property
    def expected_s(self) -> float:
        """Return about how long it takes on an idle machine."""
        own_s = STARTS_S * len(self.groups) + ONCE_S * self.runs * len(self.cases)
        return own_s + peers.expected_s(self.peers, self.faults, self.runs)


def plan(*, runs: int, only: str, part: str, peers_only: str, load: Collection[str]) -> Plan:
    """Choose by name (`lab.choice`); a case may be named with its profile behind it, as `node death Fast`."""
    cases = choice.picked(only, CASES, lambda case: [case.title, f"{case.title} {case.profile}"])
    chosen_faults = peers.chosen(only)
    return Plan(
        runs=runs,
        cases=[] if part == COMPARISON else cases,
        faults=[] if part == FAILOVERS else chosen_faults,
        peers=peers.peers_with(peers_only) if chosen_faults and part != FAILOVERS else [],
        load=load,
    )


def run(binaries: Binaries, say: Say, chosen: Plan, book: Ledger) -> int:
    """Measure what is planned, write it down and print the tables; return the exit status.

    Raises `KeepalivedMissingError` before anything is measured.
    """
    # What is missing is told before the first part, which takes long.
    book.add(machine(keepalived.version() if chosen.needs_keepalived else ""))
    say(f"about {chosen.expected_s / 60:.0f} minutes on an idle machine")
    started_s = time.monotonic()
    for profile, layout in chosen.groups:
        nodes, voters = layout.value
        say(
            f"profile {profile}: bringing up {nodes} nodes, {len(voters)} of them witness only, "
            "two controllers and an API server"
        )
        lab = Lab(binaries, enclosure.scratch_folder() / f"{profile}-{layout.name}", nodes=nodes)
        burden = Burden(lab, chosen.load)
        try:
            bench = Bench(lab, profile, layout)
            bench.set_up()
            burden.start()
            for case in chosen.cases:
                if (case.profile, case.layout) == (profile, layout):
                    _repeat(bench, case, book, say, runs=chosen.runs, load=burden.named)
        except (NotReadyError, ProcessFailedError) as failure:
            say(f"FAILED: {failure}")
            of = f"{ledger.OURS}: profile {profile}, {layout.name.lower()}"
            book.add(ledger.Failure(of=of, message=str(failure)))
        finally:
            burden.end()
            lab.close()
    peers.run(
        binaries,
        say,
        book,
        runs=chosen.runs,
        chosen_faults=chosen.faults,
        peers=chosen.peers,
        load=chosen.load,
    )
    show(book.entries)
    say(f"{time.monotonic() - started_s:.0f} s in all")
    return 0 if ledger.is_safe(book.entries) else 1


def compare(record: Path, page: Path, say: Say) -> None:
    """Print the tables of a ledger's file, and write its picture and its part of the page.

    The picture stands beside the page, under the same name. Both are left as they are if there is no
    comparison in the file. Raises `OSError`, `ValueError` for a file that is no ledger, and `PageError`;
    nothing is written then.
    """
    entries = ledger.read(record)
    show(entries)
    panels = comparison.panels(entries)
    if not panels:
        say(f"{record} has no comparison in it: {page} is left as it is")
        return
    text = comparison.filled(page.read_text(), comparison.part(entries))
    picture = page.with_suffix(".svg")
    picture.write_text(plot.draw(comparison.TITLE, comparison.NOTE, panels))
    page.write_text(text)
    say(f"written: {page}, {picture}")


def show(entries: Sequence[Entry]) -> None:
    """Print the tables."""
    console = Console(width=150)
    for sheet in comparison.sheets(entries):
        console.print(table_of(sheet))


def table_of(sheet: comparison.Sheet) -> Table:
    """Return a table for the terminal, with a line between groups."""
    table = Table(title=sheet.title, title_justify="left")
    for number, column in enumerate(sheet.header):
        table.add_column(column, justify="left" if number < sheet.words else "right")
    for number, row in enumerate(sheet.rows):
        if number and sheet.rows[number - 1][0] != row[0]:
            table.add_section()
        table.add_row(*row)
    return table


def machine(peer: str) -> ledger.Machine:
    """Return what this machine is; of the kernel only what its makers number."""
    kernel = ".".join(platform.release().split(".")[:2])
    return ledger.Machine(
        at=time.strftime("%Y-%m-%d"),
        processors=os.cpu_count() or 1,
        kernel=f"{platform.system()} {kernel}",
        keepalived=peer,
    )


def _repeat(bench: Bench, case: Case, book: Ledger, say: Say, *, runs: int, load: str) -> None:
    if case.without_api:
        bench.lab.plane.stop()
    for number in range(1, runs + 1):
        bench.rest(without_api=case.without_api)
        outcome = case.run(bench)
        book.add(
            Failover(
                case=case.title,
                profile=case.profile,
                limits=case.limits,
                load=load,
                number=number,
                before=outcome.before,
                after=outcome.after,
                outage_ms=ledger.finite(outcome.outage_ms),
                hiccup_ms=ledger.finite(outcome.hiccup_ms),
                overlaps=len(outcome.overlaps),
                is_safe=outcome.is_safe,
            )
        )
        doubt = "" if outcome.is_safe else f"  NOT SAFE: {outcome.after or 'nobody'}, {outcome.overlaps}"
        say(
            f"  {case.title} ({case.profile}) {number}/{runs}: {outcome.outage_ms:6.1f} ms, "
            f"control {outcome.hiccup_ms:4.1f} ms{doubt}"
        )
    if case.without_api:
        bench.lab.plane.start_etcd()
        bench.lab.plane.start_apiserver()
