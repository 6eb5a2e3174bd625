"""`make demo`: eight faults on three real nodes, what each cost a client, and where the time went.

It fails if two nodes ever answered for one address or if an address did not come back. A budget that was
missed is marked and fails nothing, for machines are noisy; the control column is the longest silence
of an address that never moves, which is what the machine itself did to the figures.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lab import enclosure, standing
from lab.api import manifests_in
from lab.cluster import Lab
from lab.controlplane import KubectlFailedError
from lab.stage import HTTP, UDP, NotReadyError, Outcome, Stage, Timeline, urls_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.binaries import Binaries
    from lab.topology import Host

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ADDRESSES = {"minimal": "192.0.2.10", "web": "192.0.2.11"}
FREEZE_S = 5.0
PRIMARY = "node-a"  # the candidate of examples/virtualip-http-check.yaml with the highest priority


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One line of the final table."""

    title: str
    budget_ms: float
    outcome: Outcome


class Demo:
    """The acts, in their order. Each brings back what it broke, so that the next one starts from rest."""

    def __init__(self, lab: Lab, say: Callable[[str], None]) -> None:
        self.lab = lab
        self.say = say
        self.stage = Stage(lab)
        self.acts: list[Act] = []
        self._started_s = time.monotonic()

    def set_up(self) -> None:
        """Bring up the lab and vipkeeper, and apply the examples as a user does."""
        self.tell("etcd, kube-apiserver, three nodes, a client and a gateway")
        self.lab.start(defines_kinds=False)
        self.tell("kubectl apply -f crds/")
        self.say(_indented(self.lab.plane.kubectl("apply", "-f", ROOT / "crds")))
        self.tell("two controllers; on each node a keeper, a courier and a web server")
        self.stage.start()
        self.tell("kubectl apply -f examples/ (the domain first; the planned move has its turn later)")
        self._apply("FailoverDomain")
        self.lab.plane.kubectl("wait", "fod/default", "--for=condition=Quorate", "--timeout=30s")
        self._apply("VirtualIP")
        self.stage.watch(ADDRESSES, urls=urls_for({"web": ADDRESSES["web"]}))
        for name in ADDRESSES:
            self.stage.rest(name)
        self.tell("every address is held, and every node could take it over")
        self.say(_indented(self.lab.plane.kubectl("get", "vip")))

    def play(self) -> None:
        """Commit all faults."""
        self.service_dies_and_comes_back()
        self.link_is_cut()
        self.agent_is_killed()
        self.agent_is_frozen()
        self.planned_move()
        home = self.owner_dies_without_an_api_server()
        self.manual_failback(home)

    def service_dies_and_comes_back(self) -> None:
        """Fault 1, and the automatic failback that `web` asks for."""
        home = self.lab.nodes[PRIMARY]
        self.stage.wait_until(
            f"web on {PRIMARY}, its first candidate", lambda: self.stage.owner("web") is home
        )
        self.perform(
            f"the HTTP server on {home.name} dies",
            "web",
            self.stage.web[home.name].kill,
            budget_ms=700,
            reads=HTTP,
        )

        def repair() -> None:
            self.stage.web[home.name] = self.lab.start_webserver(home)

        self.perform(
            "automatic failback: it is back, healthy for 10 s",
            "web",
            repair,
            budget_ms=60,
            expect=home.name,
            patience_s=40,
        )
        self.stage.rest("web", "minimal")

    def link_is_cut(self) -> None:
        owner = self.stage.owner("minimal")
        self.perform(
            f"the link of {owner.name} is cut", "minimal", lambda: self.lab.segment.cut(owner), budget_ms=700
        )
        self.lab.segment.mend(owner)
        self.stage.rest("minimal")

    def agent_is_killed(self) -> None:
        owner = self.stage.owner("minimal")
        keeper = self.stage.agents.keepers[owner.name]
        self.perform(f"kill -9 of the keeper on {owner.name}", "minimal", keeper.kill, budget_ms=250)
        self.stage.agents.restart(owner)
        self.stage.rest("minimal")

    def agent_is_frozen(self) -> None:
        owner = self.stage.owner("minimal")
        keeper = self.stage.agents.keepers[owner.name]
        self.perform(
            f"the keeper on {owner.name} is frozen for {FREEZE_S:.0f} s",
            "minimal",
            keeper.freeze,
            budget_ms=250,
            lasts_s=FREEZE_S,
            undo=keeper.thaw,
        )
        self.stage.rest("minimal")

    def planned_move(self) -> None:
        owner = self.stage.owner("minimal")
        target = next(name for name in self.lab.nodes if name != owner.name)
        self.perform(
            f"planned move to {target} (kubectl create -f switchover)",
            "minimal",
            lambda: self.stage.move("minimal", target),
            budget_ms=60,
            expect=target,
        )
        self.stage.rest("minimal")

    def owner_dies_without_an_api_server(self) -> Host:
        """Return the node that died, up again."""
        owner = self.stage.owner("minimal")
        self.tell("API server and etcd are stopped")
        self.lab.plane.stop()
        time.sleep(1)
        self.perform(
            f"API server and etcd are down, then {owner.name} dies",
            "minimal",
            lambda: self.stage.power_off(owner),
            budget_ms=700,
        )
        self.lab.plane.start_etcd()
        self.lab.plane.start_apiserver()
        self.stage.power_on(owner)
        self.stage.rest("minimal", "web")
        return owner

    def manual_failback(self, home: Host) -> None:
        """The address has stayed where it was taken to; a person brings it home."""
        stayed = self.stage.owner("minimal").name
        self.perform(
            f"manual failback: {home.name} is back, but {stayed} kept it",
            "minimal",
            lambda: self.stage.move("minimal", home.name),
            budget_ms=60,
            expect=home.name,
        )
        self.stage.rest("minimal")

    def _apply(self, kind: str) -> None:
        for manifest in sorted(EXAMPLES.glob("*.yaml")):
            if all(each["kind"] == kind for each in manifests_in(manifest)):
                self.say(_indented(self.lab.plane.kubectl("apply", "-f", manifest)))

    def perform(
        self,
        title: str,
        virtual_ip: str,
        fault: Callable[[], None],
        *,
        budget_ms: float,
        reads: str = UDP,
        expect: str | None = None,
        lasts_s: float = 0,
        undo: Callable[[], None] | None = None,
        patience_s: float = 15,
    ) -> None:
        """Commit one fault and tell at once what it cost."""
        self.tell(title)
        outcome = self.stage.act(
            virtual_ip, fault, reads=reads, expect=expect, lasts_s=lasts_s, undo=undo, patience_s=patience_s
        )
        self.acts.append(Act(title=title, budget_ms=budget_ms, outcome=outcome))
        went = f"{outcome.before} → {outcome.after or 'nobody'}"
        client = "HTTP client" if reads == HTTP else "client"
        self.say(
            f"    {virtual_ip} {ADDRESSES[virtual_ip]}: {went}; the {client} waited {_ms(outcome.outage_ms)}"
        )
        self.say(f"    {_story(outcome.timeline)}")
        for overlap in outcome.overlaps:
            self.say(
                f"    TWO OWNERS: {overlap.old} and {overlap.new} answered within {overlap.length_ms:.1f} ms"
            )

    def tell(self, line: str) -> None:
        """Print a step with the time since the start."""
        self.say(f"[{time.monotonic() - self._started_s:5.1f} s] {line}")

    def summary(self) -> Table:
        """Return the final table."""
        table = Table(title="what each fault cost a client", title_justify="left")
        table.add_column("fault", overflow="fold")
        for column in ("address", "from → to"):
            table.add_column(column)
        for column in ("outage", "budget", "control"):
            table.add_column(column, justify="right")
        table.add_column("two owners")
        for act in self.acts:
            outcome = act.outcome
            # A budget is about vipkeeper: what the control address missed too is the machine's doing.
            is_missed = outcome.outage_ms - outcome.hiccup_ms > act.budget_ms
            table.add_row(
                act.title,
                outcome.virtual_ip,
                f"{outcome.before} → {outcome.after or 'nobody'}",
                _ms(outcome.outage_ms) + (" missed" if is_missed else ""),
                f"≤ {act.budget_ms:.0f} ms",
                _ms(outcome.hiccup_ms),
                "YES" if outcome.overlaps else "never",
            )
        return table

    @property
    def is_passed(self) -> bool:
        return bool(self.acts) and all(act.outcome.is_safe for act in self.acts)


def run(binaries: Binaries, say: Callable[[str], None], *, keep: bool) -> int:
    """Play the demonstration; the exit status is 0 if it was safe throughout."""
    say(f"The control plane is {binaries.kube_apiserver} ({binaries.origin}).")
    lab = Lab(binaries, enclosure.scratch_folder(), nodes=3)
    demo = Demo(lab, say)
    try:
        try:
            demo.set_up()
            demo.play()
        except (NotReadyError, KubectlFailedError) as failure:
            say(f"FAILED: {failure}")
            _show_logs(lab, say)
            return 1
        Console(width=130).print(demo.summary())
        say(lab.plane.kubectl("get", "vip"))
        say("passed" if demo.is_passed else "FAILED: an address did not come back, or two nodes had it")
        if keep:
            standing.explain(lab, say)
            standing.wait_for_the_end()
    finally:
        lab.close()
    return 0 if demo.is_passed else 1


def _story(timeline: Timeline) -> str:
    steps = [
        ("detect", timeline.detect),
        ("decide", timeline.decide),
        ("bind", timeline.bind),
        ("announce", timeline.announce),
        ("first reply", timeline.first_reply),
    ]
    return " → ".join(f"{name} {'?' if at_ms is None else f'+{at_ms:.1f} ms'}" for name, at_ms in steps)


def _ms(value: float) -> str:
    return "without end" if value == float("inf") else f"{value:.1f} ms"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _show_logs(lab: Lab, say: Callable[[str], None]) -> None:
    for log in sorted(lab.folder.rglob("*.log")):
        if log.stem in {"keeper", "courier", "controller-1", "controller-2"}:
            say(f"--- the end of {log.relative_to(lab.folder)}")
            say(_indented(log.read_text(errors="replace")[-1500:]))
