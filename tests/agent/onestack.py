"""One `Stack` of a node, with a clock: it is told what happens, and says what it does about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.stacks import SECOND, service
from vipagent.runs import Outcome, Start
from vipagent.workload import Stack

if TYPE_CHECKING:
    from vipapi.nodeplan import ServicePlan

DB, APP = service("db"), service("app")
BEHIND = service("behind", is_first=False)
ALONE = frozenset[str]()
BOTH = frozenset({"node-b", "node-c"})
HOUR_S = 3600


class Node:
    """A stack with a clock; deeds are told as `start db` and `stop db`, and every one is remembered."""

    def __init__(
        self,
        *services: ServicePlan,
        others: frozenset[str] = ALONE,
        leftovers: frozenset[str] = frozenset(),
        can_fence: bool = False,
    ) -> None:
        self.now_ns = 1000 * SECOND
        self.runs: dict[str, int] = {}
        self.stack = Stack(now_ns=self.now_ns, leftovers=leftovers, can_fence=can_fence)
        self.others = others
        self.off: frozenset[str] = frozenset()
        self.assign(*services)

    def assign(self, *services: ServicePlan, others: frozenset[str] | None = None) -> list[str]:
        self.others = self.others if others is None else others
        self.services = services
        self.stack.assign(services, self.others, self.now_ns, out_of_service=self.off)
        return self.step()

    def name_off(self, *nodes: str) -> list[str]:
        """Somebody says of these, and of no others, that they are off."""
        self.off = frozenset(nodes)
        return self.assign(*self.services)

    def step(self) -> list[str]:
        told = []
        for deed in self.stack.step(self.now_ns):
            key = deed.service.id if isinstance(deed, Start) else deed.service_id
            if isinstance(deed, Start):
                assert deed.run > self.runs.get(key, 0)
                self.runs[key] = deed.run
            assert deed.run == self.runs.get(key, 0)
            told.append(f"{type(deed).__name__.lower()} {key.removeprefix('u/')}")
        assert self.stack.step(self.now_ns) == [], "a deed is said once"
        return told

    def after(self, seconds: float) -> list[str]:
        self.now_ns += int(seconds * SECOND)
        return self.step()

    def own(self, term: int = 1, former: str | None = None, *, seen_ns: int = 0) -> list[str]:
        self.stack.own(term, self.now_ns, self.now_ns, former, seen_ns=seen_ns)
        return self.step()

    def leave(self) -> list[str]:
        self.stack.leave(self.now_ns)
        return self.step()

    def stay(self) -> list[str]:
        self.stack.stay(self.now_ns)
        return self.step()

    def lose(self) -> list[str]:
        self.stack.lose(self.now_ns)
        return self.step()

    def bound(self) -> list[str]:
        self.stack.bound(self.now_ns)
        return self.step()

    def fail(self, message: str = "no answer") -> list[str]:
        self.stack.fail(message, self.now_ns)
        return self.step()

    def confirm(self, node: str, *names: str, term: int = 1) -> list[str]:
        self.stack.confirm(node, [f"u/{name}" for name in names], self.now_ns, term=term)
        return self.step()

    def deny(self, node: str, *names: str, term: int = 1, within_ms: int | None = None) -> list[str]:
        ids = [f"u/{name}" for name in names]
        fencing = {} if within_ms is None else dict.fromkeys(ids, within_ms)
        self.stack.deny(node, ids, self.now_ns, term=term, fencing=fencing)
        return self.step()

    def wait(self, node: str, *names: str, term: int = 1) -> list[str]:
        self.stack.wait(node, [f"u/{name}" for name in names], self.now_ns, term=term)
        return self.step()

    def tell(self, name: str, kind: str, message: str = "", *, run: int | None = None) -> list[str]:
        key = f"u/{name}"
        outcome = Outcome(key, self.runs.get(key, 0) if run is None else run, kind, message)  # type: ignore[arg-type]
        self.stack.receive(outcome, self.now_ns)
        return self.step()

    def started(self, *names: str) -> list[str]:
        """Each is said to have started; what that brings about last."""
        return [self.tell(name, "Started") for name in names][-1]

    @property
    def states(self) -> dict[str, str]:
        return {each.name: state for each, state, _, _ in self.stack.statuses()}

    @property
    def messages(self) -> dict[str, str]:
        return {each.name: message for each, _, _, message in self.stack.statuses()}


def active(*services: ServicePlan, others: frozenset[str] = ALONE) -> Node:
    """Return a node that owns the address and runs them all."""
    node = Node(*services, others=others)
    node.own()
    for each in services:
        for other in others:
            node.confirm(other, each.name)
        node.tell(each.name, "Started")
        node.bound()
    assert node.stack.is_active
    return node
