"""One fault done to an address, or two at once, and whether it ended as it must.

What is judged comes from outside: the answers that clients and the inquirer had and what the bridge saw, of
our own nodes only, for both addresses of the address set. An owner whose node answers again sooner than two
leases in a row can end (twice Tw - T) was never gone: two nodes had the address at once (`lab.analysis`).

A machine that itself stands still lets leases run out. `hiccup_ms` is the longest silence of an address that
never moves, at the same client; where it is longer than a lease's margin, that an address moved
proves nothing, and is told as the machine's.
"""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lab import analysis
from lab.addressfaults import TIMING, AddressFault, Ending
from lab.addressscene import BYSTANDER, IPV6_ADDRESSES, LOOKED_AT, Scene
from lab.analysis import MILLISECOND
from lab.measuring import LAG_NS
from lab.stage import AFTERMATH_S, IPV6, REST_S, NotReadyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lab.processes import Process
    from lab.stage import Stage
    from lab.topology import Host

LABELS = (LOOKED_AT, *(f"{name}-{IPV6}" for name in IPV6_ADDRESSES))
ALL_LABELS = (*LABELS, BYSTANDER)
TWO_LEASES_NS = (2 * TIMING.grant_ms - TIMING.lease_ms) * MILLISECOND
MARGIN_MS = TIMING.lease_ms - 2.5 * TIMING.heartbeat_ms
"""What an owner that loses one round still has of its lease."""
TOGETHER_S = 1.0
"""The second fault of a pair comes within so long after the first."""
LET_GO_MS = 20.0
"""How much later than its lease's end an owner's last answer may arrive."""
STAYED_MS = 1_000.0
"""An address that stays is silent for less, whatever the machine; so is one of another owner."""
TIMES_LATE = 4
"""So many times its limit, and more than `STAYED_MS`, is no noise of a machine any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of one fault, or of a pair.

    `owners` are those that the answers prove, in turn; `elsewhere_ms` is when another node than the owner
    first answered, and `late_answer_ms` when the last answer came, both after the fault and before it was
    undone. `back_ms` is the longest silence since then, without what of it was before. `terms` and
    `bystander` are before and after, of the address that is looked at and of one that another node may own;
    `is_apart` says that another did. `lost` of `asked` are the client's questions, `outage_ms` the longer
    silence of the two addresses, `bystander_ms` that of the bystander's. `shared_ms` is how long answers of
    two nodes overlapped, which means something where `overlaps` prove it. `trouble` is what the lab or
    vipkeeper did not come back from.
    """

    faults: tuple[AddressFault, ...]
    seed: int
    owner: str
    owners: tuple[str, ...]
    overlaps: tuple[analysis.Overlap, ...]
    outage_ms: float
    hiccup_ms: float
    elsewhere_ms: float | None
    late_answer_ms: float | None
    terms: tuple[int, int]
    bystander: tuple[int, int]
    is_apart: bool
    asked: int
    lost: int
    shared_ms: float = 0.0
    back_ms: float = 0.0
    bystander_ms: float = 0.0
    trouble: str = ""

    @property
    def name(self) -> str:
        return "+".join(fault.name for fault in self.faults)

    @property
    def ending(self) -> Ending:
        """How it must end; of a pair only that the address comes back."""
        return self.faults[0].ending if len(self.faults) == 1 else Ending.BACK

    @property
    def limit_ms(self) -> float | None:
        return self.faults[0].limit_ms if len(self.faults) == 1 else None

    @property
    def worst_overlap_ms(self) -> float:
        """Return for how long two nodes are proved to have had the address."""
        return max((self.shared_ms, *(each.length_ms for each in self.overlaps))) if self.overlaps else 0.0

    @property
    def is_late(self) -> bool:
        """Tell whether it took longer than the limit, and what the machine itself stood still."""
        return self.limit_ms is not None and self.outage_ms - self.hiccup_ms > self.limit_ms

    @property
    def take_overs(self) -> int:
        """Return how often the address, or the bystander, changed its owner without a fault of its own."""
        many = 0
        if self.ending is Ending.STAYS:
            many += max(len(self.owners) - 1, int(self.terms[0] != self.terms[1]))
        if self.ending is Ending.MOVES:
            many += max(len(self.owners) - 2, 0)
        if self.is_spared:
            many += self.bystander[0] != self.bystander[1]
        return many

    @property
    def is_spared(self) -> bool:
        """Tell whether the bystander must not have noticed."""
        return len(self.faults) == 1 and self.faults[0].spares and self.is_apart

    @property
    def is_the_machine(self) -> bool:
        """Tell whether the machine stood still for so long that a lease may have run out."""
        return self.hiccup_ms > MARGIN_MS

    @property
    def objection(self) -> str | None:
        """Return what of the promise was not kept."""
        if self.overlaps:
            return f"two owners, {self.worst_overlap_ms:.1f} ms, first {self.overlaps[0]}"
        if self.trouble:
            return self.trouble
        if math.isinf(self.outage_ms):
            return "it did not come back"
        return self._wrong_ending() or self._far_too_long()

    def _far_too_long(self) -> str | None:
        """Return what took so long that no noise of the machine explains it."""
        if self.is_spared and self.bystander_ms - self.hiccup_ms > STAYED_MS:
            return f"the bystander was silent for {self.bystander_ms:.0f} ms"
        if self.ending is Ending.STAYS and self.outage_ms - self.hiccup_ms > STAYED_MS:
            return f"it stayed, and was silent for {self.outage_ms:.0f} ms"
        limit_ms = max(TIMES_LATE * (self.limit_ms or 0), STAYED_MS)
        if self.limit_ms is not None and self.outage_ms - self.hiccup_ms > limit_ms:
            return (
                f"it was silent for {self.outage_ms:.0f} ms, far beyond the limit of {self.limit_ms:.0f} ms"
            )
        patience_ms = 500 * max(fault.patience_s for fault in self.faults)
        if self.ending in {Ending.BACK, Ending.SILENT} and self.back_ms - self.hiccup_ms > patience_ms:
            return f"it was silent for {self.back_ms:.0f} ms after all was undone"
        return None

    def _wrong_ending(self) -> str | None:
        if self.take_overs and not self.is_the_machine:
            return (
                f"{self.take_overs} take-overs without a fault: {', '.join(self.owners)}; "
                f"terms {self.terms}, bystander {self.bystander}"
            )
        if self.ending is Ending.MOVES and self.elsewhere_ms is None:
            return f"it did not move from {self.owner} while the fault lasted"
        let_go_ms = TIMING.lease_ms + LET_GO_MS + self.hiccup_ms
        if self.ending is Ending.SILENT and (self.late_answer_ms or 0) > let_go_ms:
            return f"somebody answered after {self.late_answer_ms:.0f} ms, {let_go_ms:.0f} are allowed"
        return None


def run(stage: Stage, faults: Sequence[AddressFault], chance: random.Random, *, seed: int) -> Run:
    """Do one fault, or two, to the node that owns the address; see how it ends, and undo it.

    It starts from rest and ends at rest; where the lab does not come to rest again that is told as `trouble`.
    """
    with _kubelets(stage):
        stage.rest(LOOKED_AT, BYSTANDER)
    owner = stage.owner(LOOKED_AT)
    is_apart = stage.owner(BYSTANDER) is not owner
    before = after = _term(stage, LOOKED_AT), _term(stage, BYSTANDER)
    starts = {
        node: (stage.agents.keepers[name], stage.incarnation(node)) for name, node in stage.lab.nodes.items()
    }
    fault_ns = time.monotonic_ns()
    trouble = ""
    failures: list[BaseException] = []
    mended_ns = undone_ns = committed_ns = fault_ns
    try:
        with contextlib.ExitStack() as undoing:
            for number, fault in enumerate(faults):
                if number:
                    time.sleep(chance.uniform(0, TOGETHER_S))
                scene = Scene(
                    stage=stage,
                    owner=owner,
                    chance=random.Random(chance.getrandbits(64)),  # threads of two faults do not share one
                    failures=failures,
                    is_alone=len(faults) == 1,
                )
                undoing.callback(scene.end)
                undoing.enter_context(fault.deed(scene))
            committed_ns = time.monotonic_ns()
            _wait(stage, owner.name, faults, fault_ns=fault_ns, committed_ns=committed_ns)
            undone_ns = time.monotonic_ns()
        mended_ns = time.monotonic_ns()
        with _kubelets(stage):
            _wait_for_reports(stage, starts)
            _wait_for_an_answer(
                stage, since_ns=time.monotonic_ns(), patience_s=max(each.patience_s for each in faults)
            )
            stage.rest(LOOKED_AT, BYSTANDER)
            time.sleep(AFTERMATH_S)
        after = _term(stage, LOOKED_AT), _term(stage, BYSTANDER)
    except NotReadyError as failure:
        trouble = f"it did not come back: {failure}"
    except Exception as failure:  # noqa: BLE001 - the runs after it are done, and the table tells of it
        trouble = f"the lab itself failed: {failure!r}"
    if failures:
        trouble = f"{trouble} the fault itself failed: {failures}"
    until_ns = stage.measured.settle()
    names = set(stage.lab.nodes)
    answers = {
        label: [
            each for each in stage.measured.answers(label, since_ns=fault_ns - LAG_NS) if each.node in names
        ]
        for label in ALL_LABELS
    }
    late = [
        each.latest_ns
        for label in LABELS
        for each in answers[label]
        if each.earliest_ns > committed_ns and each.latest_ns < undone_ns
    ]
    elsewhere = [
        each.latest_ns
        for each in answers[LOOKED_AT]
        if each.node != owner.name and each.earliest_ns > fault_ns and each.latest_ns <= undone_ns
    ]
    probes = {label: stage.measured.probes(label, since_ns=fault_ns - LAG_NS) for label in ALL_LABELS}

    def silent_ms(*labels: str) -> float:
        return max(
            analysis.longest_silence(probes[label], since_ns=fault_ns, until_ns=until_ns).length_ms
            for label in labels
        )

    within = [each for label in LABELS for each in probes[label] if fault_ns <= each.sent_ns < until_ns]
    return Run(
        faults=tuple(faults),
        seed=seed,
        owner=owner.name,
        owners=_owners(answers[LOOKED_AT], owner.name, since_ns=fault_ns),
        overlaps=tuple(
            overlap
            for label in ALL_LABELS
            for overlap in analysis.overlaps(
                answers[label],
                since_ns=fault_ns,
                lawful_returns=sum(fault.asks for fault in faults),
                settled_ns=TWO_LEASES_NS,
            )
        ),
        outage_ms=silent_ms(*LABELS),
        back_ms=max(
            analysis.silence_left_ms(probes[label], since_ns=mended_ns, until_ns=until_ns) for label in LABELS
        ),
        bystander_ms=silent_ms(BYSTANDER),
        hiccup_ms=stage.measured.hiccup_ms(since_ns=fault_ns, until_ns=until_ns),
        elsewhere_ms=(min(elsewhere) - fault_ns) / MILLISECOND if elsewhere else None,
        late_answer_ms=(max(late) - committed_ns) / MILLISECOND if late else None,
        terms=(before[0], after[0]),
        bystander=(before[1], after[1]),
        is_apart=is_apart,
        asked=len(within),
        lost=sum(each.answered_ns is None for each in within),
        shared_ms=max(analysis.shared_ns(answers[label], since_ns=fault_ns) for label in ALL_LABELS)
        / MILLISECOND,
        trouble=trouble,
    )


def _wait(
    stage: Stage, before: str, faults: Sequence[AddressFault], *, fault_ns: int, committed_ns: int
) -> None:
    """Leave faults for as long as they last, and until another node answers where one must."""
    lasts_s = max(each.lasts_s for each in faults)
    if len(faults) == 1 and faults[0].ending is Ending.MOVES:
        with contextlib.suppress(NotReadyError):  # `Run.objection` says it

            def is_elsewhere() -> bool:
                newest = stage.answerer(LOOKED_AT, since_ns=fault_ns)
                return newest not in {None, before}

            stage.wait_until("another owner", is_elsewhere, patience_s=faults[0].patience_s)
    elif len(faults) > 1:
        lasts_s = max(lasts_s, 2.0)
    time.sleep(max(0.0, lasts_s - (time.monotonic_ns() - committed_ns) / 1e9))


def _wait_for_reports(stage: Stage, starts: Mapping[Host, tuple[Process, int]]) -> None:
    """Wait until every keeper that was started anew has said so: what was said before is not about it.

    `starts` are the keepers' processes and incarnations of before.
    """
    for node, (before, incarnation) in starts.items():
        if stage.agents.keepers[node.name] is not before:
            has_restarted = partial(stage.has_restarted, node, incarnation)
            stage.wait_until(f"a report of {node.name}", has_restarted, patience_s=REST_S)


@contextlib.contextmanager
def _kubelets(stage: Stage) -> Iterator[None]:
    """Start again what has ended: controllers and couriers do when they miss the API server."""
    is_over = threading.Event()

    def restart() -> None:
        while not is_over.wait(0.5):
            for node in stage.lab.nodes.values():
                stage.agents.restart(node)
            stage.agents.restart_controllers()

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _wait_for_an_answer(stage: Stage, *, since_ns: int, patience_s: float) -> None:
    """Wait until an owner answers that has acquired or renewed its lease since then.

    The kernel of one that has ended goes on answering until its lease has.
    """
    since_ns += TIMING.lease_ms * MILLISECOND

    def is_answered() -> bool:
        return stage.answerer(LOOKED_AT, since_ns=since_ns) is not None

    stage.wait_until("an answer after the fault", is_answered, patience_s=patience_s)


def _owners(answers: Sequence[analysis.Answer], before: str, *, since_ns: int) -> tuple[str, ...]:
    changed = [
        each.node for each in analysis.changes([each for each in answers if each.earliest_ns > since_ns])
    ]
    return tuple(changed) if changed[:1] == [before] else (before, *changed)


def _term(stage: Stage, virtual_ip: str) -> int:
    found: int = stage.status(virtual_ip).get("term", 0)
    return found
