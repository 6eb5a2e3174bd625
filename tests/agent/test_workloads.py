"""What the keeper's services say to other nodes, and that stacks which share a node do not meet."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest
from prometheus_client import REGISTRY

from agent.stacks import SECOND, service
from vipagent.health import Result
from vipagent.messages import Inquire, Vacant
from vipagent.runs import Outcome
from vipagent.workloads import Tenure, Workloads
from vipapi.healthchecks import Exec
from vipapi.nodeplan import CandidatePlan, ServicePlan, VirtualIPPlan
from vipapi.workloads import Hooks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

DB, APP = service("db", hook="start-db"), service("app", hook="start-app")
RENAMED = service("database", hook="start-db")


def tenure(term: int, *, is_bound: bool = False) -> Tenure:
    return Tenure(term, None, deadline_ns=2000 * SECOND, since_ns=1000 * SECOND, is_bound=is_bound)


class Told:
    """Stands in for the runner: remembers what it is told, and starts and stops nothing."""

    can_fence = True

    def __init__(self, leftovers: Iterable[str] = ()) -> None:
        self.leftovers = frozenset(leftovers)
        self.left: tuple[ServicePlan, ...] = ()
        self.deeds: list[tuple[str, str, int]] = []
        self.amended: dict[str, ServicePlan] = {}

    async def start_clean(self, services: Iterable[ServicePlan]) -> frozenset[str]:
        self.planned = [each.id for each in services]
        return self.leftovers

    def start(self, each: ServicePlan, *, run: int, **_: object) -> None:
        self.deeds.append(("start", each.id, run))

    def stop(self, service_id: str, run: int) -> None:
        self.deeds.append(("stop", service_id, run))

    def amend(self, each: ServicePlan) -> None:
        self.amended[each.id] = each

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
        self.now_ns = 1000 * SECOND
        self.hooks: list[str] = []
        self.workloads = Workloads(
            node="node-a",
            incarnation=7,
            runner=self.told,  # type: ignore[arg-type]
            now_ns=lambda: self.now_ns,
            on_change=lambda: None,
            on_bindable=lambda _: None,
            ask=lambda *asked: self.asked.append(asked),
            run_hook=self.run_hook,
        )

    async def run_hook(self, hook: Exec, environment: Mapping[str, str]) -> Result:
        name = environment["VIPKEEPER_SERVICE"].rpartition("/")[2]
        self.hooks.append(f"{hook.hook} {name} {environment['VIPKEEPER_TERM']}")
        return Result(is_ok=True, message="well")

    def own(self, uid: str, term: int = 1) -> None:
        self.workloads.own(uid, tenure(term))

    def assign(self, *vips: VirtualIPPlan, bound: tuple[str, ...] = (), off: tuple[str, ...] = ()) -> None:
        self.workloads.assign(vips, {uid: tenure(1, is_bound=True) for uid in bound}, frozenset(off))

    def say(self, each: ServicePlan, kind: str) -> None:
        _, run = self.told.newest(each.id)
        self.workloads.receive(Outcome(each.id, run, kind))  # type: ignore[arg-type]

    def answer(self, *services: ServicePlan) -> Vacant:
        return self.workloads.answer(Inquire(1, 3, tuple(each.id for each in services)))


def vip(uid: str, *services: ServicePlan, nodes: str = "a") -> VirtualIPPlan:
    candidates = tuple(CandidatePlan(f"node-{name}", 100) for name in nodes)
    return VirtualIPPlan(uid, uid, ("192.0.2.1/24",), candidates, services=services)


def hooked(name: str) -> ServicePlan:
    hooks = Hooks(promoted=(Exec("up"),), demoted=(Exec("down"),), faulted=(Exec("fault"),))
    return msgspec.structs.replace(service(name), hooks=hooks)


def told_slowly(story: Callable[[Node], Awaitable[None]]) -> None:
    async def tell() -> None:
        node = Node()
        await node.workloads.start_clean(())
        await story(node)
        await node.workloads.close()

    asyncio.run(tell())


async def settled(node: Node) -> list[str]:
    """Return what hooks were told once nothing is left to tell."""
    for _ in range(30):
        await asyncio.sleep(0)
    hooks, node.hooks = sorted(node.hooks), []
    return hooks


def test_hooks_are_told_when_services_work_here_and_when_they_and_the_addresses_are_gone() -> None:
    db, app = hooked("db"), hooked("app")

    async def story(node: Node) -> None:
        node.assign(vip("web", db, app))
        node.own("web", term=3)
        node.say(db, "Started")
        node.say(app, "Started")
        assert await settled(node) == []
        node.workloads.bound("web")
        assert await settled(node) == ["up app 3", "up db 3"]
        node.workloads.look()
        node.workloads.leave("web", is_leaving=True)
        node.say(app, "Stopped")
        node.workloads.unbound("web")
        assert await settled(node) == []
        node.say(db, "Stopped")
        assert await settled(node) == ["down app 3", "down db 3"]
        node.workloads.lose("web")
        assert await settled(node) == []

    told_slowly(story)


def test_hooks_are_told_of_an_end_no_sooner_than_the_addresses_are_gone() -> None:
    db = hooked("db")

    async def story(node: Node) -> None:
        node.assign(vip("web", db))
        node.own("web")
        node.say(db, "Started")
        node.workloads.bound("web")
        node.workloads.lose("web")
        node.say(db, "Stopped")
        assert await settled(node) == ["up db 1"]
        assert node.workloads.statuses()[0].hook is not None
        node.workloads.unbound("web")
        assert await settled(node) == ["down db 1"]
        (status,) = node.workloads.statuses()
        assert (status.state, status.term) == ("Stopped", 0)
        assert status.hook is not None
        assert (status.hook.kind, status.hook.term, status.hook.message) == ("demoted", 1, "well")

    told_slowly(story)


def test_hooks_are_told_of_what_comes_and_goes_while_the_addresses_stay() -> None:
    db, app = hooked("db"), hooked("app")

    async def story(node: Node) -> None:
        node.assign(vip("web", db))
        node.own("web")
        node.say(db, "Started")
        node.workloads.bound("web")
        assert await settled(node) == ["up db 1"]
        node.assign(vip("web", db, app))
        node.say(app, "Started")
        assert await settled(node) == ["up app 1"]
        node.assign(vip("web", app))
        assert await settled(node) == []
        node.say(db, "Stopped")
        assert await settled(node) == ["down db 1"]
        node.assign()
        node.workloads.lose("web")
        node.say(app, "Stopped")
        assert await settled(node) == ["down app 1"]
        assert node.workloads.statuses() == ()

    told_slowly(story)


def test_hooks_of_an_address_that_was_bound_before_are_told_too() -> None:
    db = hooked("db")

    async def story(node: Node) -> None:
        node.assign(vip("web", db), bound=("web",))
        node.say(db, "Started")
        assert await settled(node) == ["up db 1"]
        node.workloads.lose("web")
        node.say(db, "Stopped")
        assert await settled(node) == []
        node.workloads.unbound("web")
        assert await settled(node) == ["down db 1"]

    told_slowly(story)


def test_hooks_are_told_of_the_end_of_a_tenure_though_another_has_begun_already() -> None:
    db = hooked("db")

    async def story(node: Node) -> None:
        node.assign(vip("web", db), bound=("web",))
        node.say(db, "Started")
        assert await settled(node) == ["up db 1"]
        node.workloads.lose("web")
        node.workloads.own("web", tenure(2, is_bound=True))
        node.say(db, "Stopped")
        assert await settled(node) == ["down db 1"]
        node.say(db, "Started")
        node.workloads.bound("web")
        assert await settled(node) == ["up db 2"]

    told_slowly(story)


def test_hooks_are_told_of_faults() -> None:
    db = hooked("db")

    async def story(node: Node) -> None:
        node.assign(vip("web", db))
        node.own("web")
        node.say(db, "StartFailed")
        assert await settled(node) == ["fault db 1"]
        node.say(db, "Stopped")
        node.workloads.unbound("web")
        assert await settled(node) == []
        (status,) = node.workloads.statuses()
        assert status.hook is not None
        assert status.hook.kind == "faulted"

    told_slowly(story)


def test_what_services_do_is_counted() -> None:
    db = msgspec.structs.replace(service("db"), namespace="counted")
    labels = {"namespace": "counted", "servicefailover": "billing", "service": "db"}

    def value(metric: str, **more: str) -> float | None:
        return REGISTRY.get_sample_value(f"vipkeeper_service_{metric}", {**labels, **more})

    async def story(node: Node) -> None:
        node.assign(vip("web", db))
        assert value("state", state="Stopped") == 1
        node.own("web")
        node.now_ns += 2 * SECOND
        node.say(db, "Started")
        node.workloads.look()
        assert value("state", state="Active") == 1
        assert value("start_seconds_sum") == 2
        node.say(db, "Died")
        node.say(db, "StopFailed")
        node.now_ns += 3 * SECOND
        node.say(db, "Stopped")
        assert value("stop_seconds_sum") == 3
        found = [value(f"{each}_total") for each in ("starts", "failures", "stop_failures")]
        assert found == [1, 1, 1]
        node.workloads.lose("web")
        node.assign()
        assert value("state", state="Stopped") is None

    told_slowly(story)


def test_the_newest_hooks_are_told() -> None:
    db = hooked("db")

    async def story(node: Node) -> None:
        node.assign(vip("web", db))
        node.own("web")
        node.say(db, "Started")
        node.workloads.bound("web")
        await settled(node)
        node.assign(vip("web", msgspec.structs.replace(db, hooks=Hooks(demoted=(Exec("new"),)))))
        node.workloads.lose("web")
        node.say(db, "Stopped")
        node.workloads.unbound("web")
        assert await settled(node) == ["new db 1"]

    told_slowly(story)


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


def test_what_was_left_is_told_and_waited_for_by_whatever_name_it_is_planned_now() -> None:
    async def tell() -> None:
        renamed = msgspec.structs.replace(DB, uid="new")
        node = Node(DB.id)
        node.told.left = (DB,)
        await node.workloads.start_clean(())
        program = hashlib.blake2b(DB.workload.identity.encode(), digest_size=8).hexdigest()
        inquiry = Inquire(1, 3, (renamed.id, APP.id), (program, "another"))
        assert node.workloads.answer(inquiry).stuck == (renamed.id,)
        assert node.workloads.answer(inquiry).vacant == (APP.id,)
        node.assign(vip("web", renamed))
        node.own("web")
        assert node.told.deeds == []
        node.workloads.receive(Outcome(DB.id, 0, "Stopped"))
        node.workloads.look()
        assert [(kind, each) for kind, each, _ in node.told.deeds] == [("start", renamed.id)]
        await node.workloads.close()

    asyncio.run(tell())


def test_what_was_left_beneath_one_address_is_waited_for_beneath_another() -> None:
    async def tell() -> None:
        node = Node(DB.id)
        await node.workloads.start_clean(())
        node.assign(vip("one", DB), vip("two", APP))
        node.assign(vip("one"), vip("two", DB))
        node.own("two")
        assert [deed for deed in node.told.deeds if deed[0] == "start"] == []
        node.workloads.receive(Outcome(DB.id, 0, "Stopped"))
        node.workloads.look()
        assert node.told.newest(DB.id)[0] == "start"
        await node.workloads.close()

    asyncio.run(tell())


@pytest.mark.parametrize(
    ("seen_s", "is_started"),
    [pytest.param(999, True, id="before-the-word"), pytest.param(1001, False, id="after-the-word")],
)
def test_the_word_that_the_former_owner_is_off_counts_if_it_came_after_its_last_sign(
    seen_s: int, *, is_started: bool
) -> None:
    def story(node: Node) -> None:
        node.assign(vip("web", DB, nodes="ab"), off=("node-b",))
        node.now_ns += 2 * SECOND
        won = tenure(3)._replace(former="node-b", since_ns=node.now_ns, seen_ns=seen_s * SECOND)
        node.workloads.own("web", won)
        node.now_ns += 3 * SECOND
        node.workloads.look()
        assert bool(node.told.deeds) == is_started

    told(story)


FENCED = service("fenced", hook="start-fenced", fences=True)


def test_a_restart_is_promised_with_the_time_in_which_it_comes() -> None:
    def story(node: Node) -> None:
        node.assign(vip("web", DB, FENCED))
        node.own("web")
        node.say(DB, "Started")
        node.say(FENCED, "Started")
        node.workloads.lose("web")
        node.say(DB, "StopFailed")
        node.say(FENCED, "StopFailed")
        assert node.answer(DB, FENCED) == Vacant(
            1, 3, vacant=(), running=(), stuck=(DB.id, FENCED.id), fencing=((FENCED.id, 35_000),)
        )

    told(story)


def test_of_what_a_former_keeper_left_no_restart_is_promised() -> None:
    def story(node: Node) -> None:
        node.assign(vip("web", FENCED))
        assert node.answer(FENCED) == Vacant(1, 3, vacant=(), running=(), stuck=(FENCED.id,))

    told(story, FENCED.id)


def test_an_answer_of_a_keeper_that_knows_of_no_promise_is_read_and_one_with_it_is_read_by_that() -> None:
    class Former(msgspec.Struct, array_like=True, tag="vacant"):
        incarnation: int
        term: int
        vacant: tuple[str, ...]
        running: tuple[str, ...]
        stuck: tuple[str, ...]

    former = msgspec.msgpack.encode(Former(7, 3, (), (), (DB.id,)))
    assert msgspec.msgpack.decode(former, type=Vacant) == Vacant(7, 3, (), (), (DB.id,))
    new = msgspec.msgpack.encode(Vacant(7, 3, (), (), (DB.id,), ((DB.id, 9_000),)))
    assert msgspec.msgpack.decode(new, type=Former).stuck == (DB.id,)


def test_a_denial_is_heard_with_its_promise() -> None:
    def story(node: Node) -> None:
        node.assign(vip("web", DB, nodes="ab"))
        node.own("web", term=3)
        node.workloads.hear("node-b", Vacant(7, 3, (), (), (DB.id,), ((DB.id, 9_000),)))
        (status,) = node.workloads.statuses()
        assert "for 12 s at the longest; node-b could not stop it" in status.message
        node.workloads.hear("node-b", Vacant(7, 3, (), (), (DB.id,)))
        (status,) = node.workloads.statuses()
        assert status.message.startswith("could not be stopped on node-b")

    told(story)


def test_a_denial_is_void_once_the_node_is_said_to_be_off_and_counts_again_once_it_is_heard() -> None:
    def story(node: Node) -> None:
        node.assign(vip("web", DB, nodes="ab"))
        node.own("web", term=3)
        node.workloads.hear("node-b", Vacant(7, 3, (), (), (DB.id,)))
        node.assign(vip("web", DB, nodes="ab"), off=("node-b",))
        assert node.workloads.statuses()[0].message.startswith("waits for node-b")
        node.now_ns += 61 * SECOND
        node.workloads.heard({"node-c"})
        node.workloads.heard({"node-b"})
        node.workloads.look()
        assert node.workloads.statuses()[0].message.startswith("could not be stopped on node-b")

    told(story)


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


def question(*services: ServicePlan, term: int = 3) -> Inquire:
    """What another owner with this plan asks."""
    owner = Node()
    owner.assign(vip("web", *services, nodes="ab"))
    owner.own("web", term=term)
    return owner.asked[-1][-1]


def test_a_program_that_ends_here_by_another_name_runs_still() -> None:
    def story(node: Node) -> None:
        node.assign(vip("web", DB))
        node.own("web")
        node.say(DB, "Started")
        node.workloads.lose("web")
        node.assign(vip("web", RENAMED))
        assert node.workloads.answer(question(RENAMED)).running == (RENAMED.id,)
        node.say(DB, "StopFailed")
        assert node.workloads.answer(question(RENAMED)).stuck == (RENAMED.id,)
        node.say(DB, "Stopped")
        assert node.workloads.answer(question(RENAMED)).vacant == (RENAMED.id,)

    told(story)


def test_an_owner_that_may_start_a_program_by_any_name_says_that_it_runs() -> None:
    def story(node: Node) -> None:
        node.assign(vip("web", DB))
        node.own("web")
        assert node.workloads.answer(question(RENAMED)).running == (RENAMED.id,)
        assert node.workloads.answer(question(APP)).vacant == (APP.id,)

    told(story)


@pytest.mark.parametrize("fences", [False, True])
def test_a_restart_is_promised_by_whatever_name_the_program_is_asked_for(*, fences: bool) -> None:
    def story(node: Node) -> None:
        one = service("one", hook="start-db", fences=fences)
        node.assign(vip("web", one))
        node.own("web")
        node.say(one, "Started")
        node.workloads.lose("web")
        node.say(one, "StopFailed")
        told_of = [name for name, _ in node.workloads.answer(question(RENAMED)).fencing]
        assert told_of == ([RENAMED.id] if fences else [])

    told(story)


def test_a_program_is_not_started_by_another_name_before_it_has_stopped_beneath_another_address() -> None:
    def story(node: Node) -> None:
        node.assign(vip("one", DB), vip("two", APP))
        node.own("one")
        node.own("two")
        node.say(DB, "Started")
        node.say(APP, "Started")
        node.assign(vip("one"), vip("two", APP, RENAMED))
        assert [deed for deed in node.told.deeds if deed[1] == RENAMED.id] == []
        node.say(DB, "Stopped")
        node.workloads.look()
        assert node.told.newest(RENAMED.id)[0] == "start"

    told(story)


def test_what_has_stopped_beneath_one_address_starts_beneath_another_without_being_asked() -> None:
    async def story(node: Node) -> None:
        node.assign(vip("one", DB), vip("two"))
        node.own("one")
        node.own("two")
        node.say(DB, "Started")
        node.assign(vip("one"), vip("two", DB))
        node.own("two")
        node.say(DB, "Stopped")
        while node.told.newest(DB.id)[0] == "stop":  # noqa: ASYNC110 - what it waits for is told to nobody
            await asyncio.sleep(0)

    told_slowly(story)


def test_what_many_addresses_that_come_at_once_cost_grows_with_their_number_only() -> None:
    def calls(number: int) -> int:
        count = 0

        def see(_frame: object, event: str, _argument: object) -> None:
            nonlocal count
            count += event == "call"

        async def story(node: Node) -> None:
            services = [service(f"db-{each}", hook=f"start-{each}") for each in range(number)]
            node.assign(*(vip(each.id, each, nodes="ab") for each in services))
            answers = [node.answer(each) for each in services]
            sys.setprofile(see)
            try:
                for each, answer in zip(services, answers, strict=True):
                    node.own(each.id, term=3)
                    node.workloads.bound(each.id)
                    node.workloads.hear("node-b", answer)
                    node.say(each, "Started")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            finally:
                sys.setprofile(None)

        told_slowly(story)
        return count

    few, many = calls(16), calls(64)
    assert many < 6 * few


def test_who_might_have_run_a_program_is_asked_when_it_follows_another_address_by_another_name() -> None:
    def story(node: Node) -> None:
        node.assign(vip("one", DB, nodes="abd"), vip("two", nodes="ac"))
        node.assign(vip("one", nodes="abd"), vip("two", nodes="ac"))
        node.assign(vip("one", nodes="abd"), vip("two", RENAMED, nodes="ac"))
        node.own("two", term=3)
        assert {asked for _, asked, _ in node.asked} == {"node-b", "node-c", "node-d"}

    told(story)


def test_programs_that_change_places_are_all_stopped_before_one_is_started() -> None:
    def story(node: Node) -> None:
        one, two = service("one", hook="run-a"), service("two", hook="run-b")
        node.assign(vip("web", one, two))
        node.own("web")
        node.say(one, "Started")
        node.say(two, "Started")
        node.assign(vip("web", service("one", hook="run-b"), service("two", hook="run-a")))
        node.say(one, "Stopped")
        assert node.told.newest(one.id)[0] == "stop"
        node.say(two, "Stopped")
        assert node.told.newest(one.id)[0] == "start"

    told(story)


def test_who_might_run_the_program_that_a_service_gets_now_is_asked() -> None:
    def story(node: Node) -> None:
        one, two = service("one", hook="run-a"), service("two", hook="run-b")
        node.assign(vip("one", one, nodes="ab"), vip("two", two, nodes="ac"))
        node.own("one", term=3)
        node.workloads.hear("node-b", Vacant(7, 3, (one.id,), (), ()))
        node.say(one, "Started")
        swapped = service("one", hook="run-b"), service("two", hook="run-a")
        node.assign(vip("one", swapped[0], nodes="ab"), vip("two", swapped[1], nodes="ac"))
        node.say(one, "Stopped")
        assert node.told.newest(one.id)[0] == "stop"
        node.workloads.hear("node-c", Vacant(7, 3, (one.id,), (), ()))
        assert node.told.newest(one.id)[0] == "start"

    told(story)


def test_what_was_said_of_the_program_that_a_service_had_says_nothing_of_the_one_that_it_has() -> None:
    def story(node: Node) -> None:
        node.assign(vip("web", service("one", hook="run-a"), nodes="ab"))
        node.own("web", term=3)
        before = node.asked[-1][-1]
        one = service("one", hook="run-b")
        node.assign(vip("web", one, nodes="ab"))
        late = Node().workloads.answer(before)
        node.workloads.hear("node-b", Vacant(7, 3, late.vacant, (), (), programs=late.programs))
        assert node.told.deeds == []
        answer = Node().workloads.answer(question(one))
        node.workloads.hear("node-b", Vacant(7, 3, answer.vacant, (), (), programs=answer.programs))
        assert node.told.newest(one.id)[0] == "start"

    told(story)


def test_who_departs_stays_until_the_next_owner_has_its_word() -> None:
    async def tell() -> None:
        node = Node()
        node.assign(vip("web", DB, service("many", hook="start-many", is_singleton=False)))
        node.own("web")
        node.say(DB, "Started")
        node.workloads.answer(question(APP))
        node.workloads.depart()
        waiting = asyncio.ensure_future(node.workloads.excused())
        node.workloads.lose("web")
        node.workloads.answer(question(DB))
        await asyncio.wait([waiting], timeout=0)
        assert not waiting.done()
        node.say(DB, "Stopped")
        node.workloads.answer(question(DB))
        await asyncio.wait_for(waiting, 5)
        await node.workloads.close()

    asyncio.run(tell())


def test_only_where_it_may_run_is_a_unit_ended_at_the_start() -> None:
    node = told(lambda _: None, vips=(vip("one", DB), vip("two", APP, nodes="bc")))
    assert node.told.planned == [DB.id]


def test_an_owner_asks_the_others_about_what_may_run_once_and_believes_only_this_tenure() -> None:
    def story(node: Node) -> None:
        node.assign(vip("web", DB, nodes="ab"))
        node.own("web", term=3)
        [(uid, asked, inquiry)] = node.asked
        assert (uid, asked) == ("web", "node-b")
        assert (inquiry.incarnation, inquiry.term, inquiry.services) == (7, 3, (DB.id,))
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


def test_what_an_earlier_keeper_left_is_to_be_ended_as_is_planned_since() -> None:
    async def story(node: Node) -> None:
        before, after = service("app", stop_s=90), service("app", stop_s=120, fences=True)
        node.told.left = (before,)
        node.assign(vip("web", after))
        assert node.told.amended == {after.id: msgspec.structs.replace(before, fences=True)}

    told_slowly(story)


def test_what_runs_is_to_be_ended_as_is_planned_since() -> None:
    async def story(node: Node) -> None:
        before, after = service("app", stop_s=90), service("app", stop_s=5, fences=True)
        node.assign(vip("web", before))
        node.own("web")
        node.say(before, "Started")
        assert node.workloads.time_to_stop_s() == 90.0
        node.assign(vip("web", after))
        assert node.told.amended == {after.id: after}
        assert node.workloads.time_to_stop_s() == 5.0
        node.workloads.lose("web")
        assert node.told.newest(before.id)[0] == "stop"

    told_slowly(story)
