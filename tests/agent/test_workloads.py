"""What the keeper's services say to other nodes, and that stacks which share a node do not meet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent.stacks import SECOND, service
from vipagent.messages import Inquire, Vacant
from vipagent.workload import Outcome
from vipagent.workloads import Tenure, Workloads
from vipapi.nodeplan import CandidatePlan, ServicePlan, VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DB, APP = service("db"), service("app")


def tenure(term: int, *, is_bound: bool = False) -> Tenure:
    return Tenure(term, None, deadline_ns=2000 * SECOND, since_ns=1000 * SECOND, is_bound=is_bound)


class Told:
    """Stands in for the runner: remembers what it is told, and starts and stops nothing."""

    def __init__(self, leftovers: Iterable[str] = ()) -> None:
        self.leftovers = frozenset(leftovers)
        self.deeds: list[tuple[str, str, int]] = []

    async def start_clean(self, services: Iterable[ServicePlan]) -> frozenset[str]:
        self.planned = [each.id for each in services]
        return self.leftovers

    def start(self, each: ServicePlan, *, run: int, **_: object) -> None:
        self.deeds.append(("start", each.id, run))

    def stop(self, service_id: str, run: int) -> None:
        self.deeds.append(("stop", service_id, run))

    def refusal(self, _: object) -> None:
        return None

    def prepare(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def newest(self, service_id: str) -> tuple[str, int]:
        return next((deed, run) for deed, found, run in reversed(self.deeds) if found == service_id)


class Node:
    """One node's services with a clock that stands still; everything that it asks others is remembered."""

    def __init__(self, *leftovers: str) -> None:
        self.told = Told(leftovers)
        self.asked: list[tuple[str, str, Inquire]] = []
        self.workloads = Workloads(
            node="node-a",
            incarnation=7,
            runner=self.told,  # type: ignore[arg-type]
            now_ns=lambda: 1000 * SECOND,
            on_change=lambda: None,
            on_bindable=lambda _: None,
            ask=lambda *asked: self.asked.append(asked),
        )

    def own(self, uid: str, term: int = 1) -> None:
        self.workloads.own(uid, tenure(term))

    def assign(self, *vips: VirtualIPPlan, bound: tuple[str, ...] = ()) -> None:
        self.workloads.assign(vips, {uid: tenure(1, is_bound=True) for uid in bound})

    def say(self, each: ServicePlan, kind: str) -> None:
        _, run = self.told.newest(each.id)
        self.workloads.receive(Outcome(each.id, run, kind))  # type: ignore[arg-type]

    def answer(self, *services: ServicePlan) -> Vacant:
        return self.workloads.answer(Inquire(1, 3, tuple(each.id for each in services)))


def vip(uid: str, *services: ServicePlan, nodes: str = "a") -> VirtualIPPlan:
    candidates = tuple(CandidatePlan(f"node-{name}", 100) for name in nodes)
    return VirtualIPPlan(uid, uid, ("192.0.2.1/24",), candidates, services=services)


def told(story: Callable[[Node], None], *leftovers: str, vips: tuple[VirtualIPPlan, ...] = ()) -> Node:
    async def tell() -> Node:
        node = Node(*leftovers)
        await node.workloads.start_clean(vips)
        story(node)
        await node.workloads.close()
        return node

    return asyncio.run(tell())


def test_what_runs_what_might_and_what_does_not_is_told_apart() -> None:
    def story(node: Node) -> None:
        assert node.answer(DB, APP) == Vacant(1, 3, vacant=(DB.id, APP.id), running=(), stuck=())
        node.assign(vip("web", DB, APP))
        node.own("web")
        assert node.answer(DB, APP).running == (DB.id, APP.id)
        node.say(DB, "Started")
        node.workloads.lose("web")
        assert node.answer(DB).running == (DB.id,)
        node.say(DB, "StopFailed")
        assert node.answer(DB) == Vacant(1, 3, vacant=(), running=(), stuck=(DB.id,))
        node.say(DB, "Stopped")
        assert node.answer(DB).vacant == (DB.id,)

    told(story)


def test_what_a_former_keeper_left_is_never_told_to_be_gone_while_it_is_there() -> None:
    def story(node: Node) -> None:
        node.assign(vip("web", DB))
        node.assign(vip("web", APP))
        node.own("web")
        assert node.answer(DB) == Vacant(1, 3, vacant=(), running=(), stuck=(DB.id,))

    told(story, DB.id)


def test_services_of_two_addresses_that_start_at_one_moment_are_two_runs() -> None:
    def story(node: Node) -> None:
        node.assign(vip("one", DB), vip("two", APP))
        node.own("one")
        node.own("two")

    runs = {run for _, _, run in told(story).told.deeds}
    assert len(runs) == 2


def test_a_service_that_moves_to_another_address_is_stopped_before_it_is_started() -> None:
    def story(node: Node) -> None:
        node.assign(vip("one", DB), vip("two", APP))
        node.own("one")
        node.own("two")
        node.say(DB, "Started")
        node.say(APP, "Started")
        node.assign(vip("one"), vip("two", APP, DB))
        assert node.told.newest(DB.id)[0] == "stop"
        node.say(DB, "Stopped")
        assert node.told.newest(DB.id)[0] == "start"

    told(story)


def test_only_where_it_may_run_is_a_unit_ended_at_the_start() -> None:
    node = told(lambda _: None, vips=(vip("one", DB), vip("two", APP, nodes="bc")))
    assert node.told.planned == [DB.id]


def test_an_owner_asks_the_others_about_what_may_run_once_and_believes_only_this_tenure() -> None:
    def story(node: Node) -> None:
        node.assign(vip("web", DB, nodes="ab"))
        node.own("web", term=3)
        assert node.asked == [("web", "node-b", Inquire(7, 3, (DB.id,)))]
        node.workloads.hear("node-b", Vacant(7, 2, (DB.id,), (), ()))
        assert node.told.deeds == []
        node.workloads.hear("node-b", Vacant(7, 3, (DB.id,), (), ()))
        assert node.told.newest(DB.id)[0] == "start"

    told(story)


def test_an_address_that_is_bound_stays_so_while_its_first_services_start() -> None:
    def story(node: Node) -> None:
        node.assign(vip("web", DB), bound=("web",))
        assert node.told.newest(DB.id)[0] == "start"
        assert node.workloads.may_bind("web")
        node.assign(vip("shop", APP))
        assert not node.workloads.may_bind("shop")

    told(story)
