"""What is told to services' hooks: in virtual time with hooks that are told, then with real ones."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.services import STORY_S, is_gone
from agent.services import hook as hook_file
from agent.services import until_exists as until_written
from agent.stacks import service
from agent.test_checks import run
from vipagent.eventhooks import AT_END_S, AT_ONCE, EventHooks, Kind, Occasion, no_hooks
from vipagent.health import Result
from vipagent.probes_exec import HookRunner
from vipapi.healthchecks import Exec
from vipapi.workloads import Hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from vipapi.nodeplan import ServicePlan

pytestmark = pytest.mark.usefixtures("importable")


KINDS: tuple[Kind, ...] = ("promoted", "demoted", "faulted")


def hooked(name: str = "db", **hooks: tuple[str, ...]) -> ServicePlan:
    """A service whose hooks are named after their event, unless told otherwise."""
    found = hooks or {kind: (kind,) for kind in KINDS}
    made = Hooks(**{kind: tuple(map(Exec, names)) for kind, names in found.items()})
    return msgspec.structs.replace(service(name), hooks=made)


def occasion(kind: Kind, each: ServicePlan | None = None, *, term: int = 3, message: str = "") -> Occasion:
    return Occasion(kind, each or hooked(), term, "web", message)


class World:
    """Hooks that last as long as they are told, in seconds, and what became of them."""

    def __init__(self) -> None:
        self.lasts_s: dict[str, float] = {}
        self.results: dict[str, Result] = {}
        self.told: list[str] = []
        self.environments: list[Mapping[str, str]] = []
        self.running: set[str] = set()
        self.changes = 0
        self.hooks = EventHooks(self.run_hook, node="node-a", on_change=self.change)

    def change(self) -> None:
        self.changes += 1

    async def run_hook(self, hook: Exec, environment: Mapping[str, str]) -> Result:
        title = environment["VIPKEEPER_SERVICE"]
        assert title not in self.running, "two hooks of one service at once"
        self.running.add(title)
        self.environments.append(environment)
        self.told.append(hook.hook)
        try:
            await asyncio.sleep(self.lasts_s.get(hook.hook, 0.0))
        except asyncio.CancelledError:
            self.told.append(f"{hook.hook} killed")
            raise
        finally:
            self.running.discard(title)
        if hook.hook == "broken":
            raise ConnectionError("the process that runs hooks does not start")
        return self.results.get(hook.hook, Result(is_ok=True))


def told(story: Callable[[World], Coroutine[object, object, None]]) -> World:
    worlds: list[World] = []

    async def tell() -> None:
        world = World()
        worlds.append(world)
        await story(world)
        await world.hooks.close()

    run(tell())
    assert not worlds[0].running
    return worlds[0]


def test_hooks_are_told_what_became_of_the_service() -> None:
    async def story(world: World) -> None:
        world.hooks.tell(occasion("faulted", message="it died:\0 bad"))
        await asyncio.sleep(1)
        status = world.hooks.status("u/db")
        assert status is not None
        assert (status.kind, status.term, status.is_ok, status.message) == ("faulted", 3, True, "")
        assert status.at.endswith("Z")
        assert world.changes == 1

    assert told(story).environments == [
        {
            "VIPKEEPER_EVENT": "faulted",
            "VIPKEEPER_SERVICE": "prod/billing/db",
            "VIPKEEPER_NODE": "node-a",
            "VIPKEEPER_VIRTUAL_IP": "web",
            "VIPKEEPER_TERM": "3",
            "VIPKEEPER_MESSAGE": "it died:  bad",
        }
    ]


def test_all_hooks_of_an_event_are_told_one_after_another_whatever_each_says() -> None:
    async def story(world: World) -> None:
        world.results = {
            "one": Result(is_ok=True, message="well"),
            "two": Result(is_ok=False, message="bad"),
            "three": Result(is_ok=False, message="worse"),
        }
        world.hooks.tell(occasion("promoted", hooked(promoted=("one", "two", "broken", "three"))))
        await asyncio.sleep(1)
        status = world.hooks.status("u/db")
        assert status is not None
        assert (status.is_ok, status.message) == (False, "bad")

    assert told(story).told == ["one", "two", "broken", "three"]


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        pytest.param("slow", "hook slow did not end within 30 s and was killed", id="hangs"),
        pytest.param(
            "broken", "hook broken could not be run: the process that runs hooks does not start", id="raises"
        ),
    ],
)
def test_a_hook_that_does_not_end_well_is_told_of(hook: str, message: str) -> None:
    async def story(world: World) -> None:
        world.lasts_s = {"slow": 3600}
        world.hooks.tell(occasion("promoted", hooked(promoted=(hook, "next"))))
        await asyncio.sleep(31)
        status = world.hooks.status("u/db")
        assert status is not None
        assert (status.is_ok, status.message) == (False, message)
        assert world.told[-1] == "next"

    told(story)


def test_what_a_hook_says_when_it_passes_is_told() -> None:
    async def story(world: World) -> None:
        world.results = {"promoted": Result(is_ok=True, message="pool is imported")}
        world.hooks.tell(occasion("promoted"))
        await asyncio.sleep(1)
        status = world.hooks.status("u/db")
        assert status is not None
        assert (status.is_ok, status.message) == (True, "pool is imported")

    told(story)


def test_a_hook_that_hangs_delays_no_other_service_s() -> None:
    async def story(world: World) -> None:
        world.lasts_s = {"slow": 3600}
        world.hooks.tell(occasion("promoted", hooked("db", promoted=("slow",))))
        world.hooks.tell(occasion("promoted", hooked("app", promoted=("quick",))))
        await asyncio.sleep(0.1)
        assert world.hooks.status("u/app") is not None
        assert world.hooks.status("u/db") is None

    told(story)


def test_only_so_many_hooks_run_at_once() -> None:
    async def story(world: World) -> None:
        world.lasts_s = {"slow": 10}
        for number in range(AT_ONCE + 1):
            world.hooks.tell(occasion("faulted", hooked(f"s{number}", faulted=("slow",))))
        await asyncio.sleep(1)
        assert len(world.running) == AT_ONCE
        await asyncio.sleep(10)
        assert len(world.running) == 1

    told(story)


def test_events_of_one_service_wait_for_each_other() -> None:
    async def story(world: World) -> None:
        world.lasts_s = {"faulted": 5, "demoted": 5}
        for kind in ("faulted", "demoted", "promoted"):
            world.hooks.tell(occasion(kind))
        await asyncio.sleep(4)
        assert world.told == ["faulted"]
        await asyncio.sleep(20)
        assert world.told == ["faulted", "demoted", "promoted"]

    told(story)


@pytest.mark.parametrize("kind", ["demoted", "faulted"])
def test_a_promotion_that_is_overtaken_is_killed_first(kind: Kind) -> None:
    async def story(world: World) -> None:
        world.lasts_s = {"promoted": 20}
        world.hooks.tell(occasion("promoted"))
        await asyncio.sleep(1)
        world.hooks.tell(occasion(kind))
        await asyncio.sleep(1)
        assert world.told == ["promoted", "promoted killed", kind]
        assert world.changes == 2

    told(story)


def test_a_promotion_is_killed_though_there_is_no_hook_for_what_overtakes_it() -> None:
    async def story(world: World) -> None:
        world.lasts_s = {"promoted": 20}
        each = hooked(promoted=("promoted",))
        world.hooks.tell(occasion("promoted", each))
        await asyncio.sleep(1)
        world.hooks.tell(occasion("demoted", each))
        await asyncio.sleep(1)
        assert world.told == ["promoted", "promoted killed"]
        status = world.hooks.status("u/db")
        assert status is not None
        assert (status.kind, status.is_ok) == ("promoted", False)
        assert "active no more" in status.message

    told(story)


def test_a_promotion_that_was_overtaken_before_it_began_is_not_told() -> None:
    async def story(world: World) -> None:
        world.lasts_s = {"faulted": 5}
        for kind in ("faulted", "demoted", "promoted", "demoted"):
            world.hooks.tell(occasion(kind))
            await asyncio.sleep(0.1)
        await asyncio.sleep(20)
        assert world.told == ["faulted", "demoted"]

    told(story)


def test_of_events_of_a_kind_that_wait_the_newest_counts() -> None:
    async def story(world: World) -> None:
        world.lasts_s = {"demoted": 20}
        world.hooks.tell(occasion("demoted"))
        await asyncio.sleep(0.1)
        for term in range(10):
            world.hooks.tell(occasion("faulted", term=term))
        await asyncio.sleep(30)
        assert [each["VIPKEEPER_TERM"] for each in world.environments] == ["3", "9"]

    told(story)


def test_a_service_without_hooks_has_nothing_to_tell() -> None:
    async def story(world: World) -> None:
        for kind in KINDS:
            world.hooks.tell(Occasion(kind, service("db"), 1, "web"))
        await asyncio.sleep(1)
        assert world.hooks.status("u/db") is None
        assert world.changes == 0

    told(story)


def test_what_came_of_the_hooks_of_a_service_is_forgotten_with_it() -> None:
    async def story(world: World) -> None:
        world.hooks.tell(occasion("promoted"))
        await asyncio.sleep(1)
        world.hooks.keep({"u/db"})
        assert world.hooks.status("u/db") is not None
        world.hooks.keep({"u/app"})
        assert world.hooks.status("u/db") is None

    told(story)


def test_at_the_end_hooks_have_some_seconds_and_nothing_more_is_told() -> None:
    async def story(world: World) -> None:
        world.lasts_s = {"demoted": AT_END_S - 1, "slow": 3600}
        world.hooks.tell(occasion("demoted"))
        world.hooks.tell(occasion("demoted", hooked("app", demoted=("slow", "never"))))
        await asyncio.sleep(0)
        before = asyncio.get_running_loop().time()
        await world.hooks.close()
        assert asyncio.get_running_loop().time() - before == pytest.approx(AT_END_S)
        world.hooks.tell(occasion("promoted"))
        await asyncio.sleep(60)
        assert world.told == ["demoted", "slow", "slow killed"]

    told(story)


def test_a_keeper_without_hooks_says_so() -> None:
    result = asyncio.run(no_hooks(Exec("promoted"), {}))
    assert (result.is_ok, result.message) == (False, "hook promoted: this keeper runs no hooks")


def really(
    folder: Path, story: Callable[[EventHooks], Coroutine[object, object, None]], **times: float
) -> None:
    async def tell() -> None:
        runner = HookRunner(folder)
        hooks = EventHooks(runner.run, node="node-a", on_change=lambda: None, **times)
        async with asyncio.timeout(STORY_S):
            await story(hooks)
            await hooks.close()
            await runner.close()

    asyncio.run(tell())


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0.01)


def test_a_hook_finds_its_event_in_its_environment_and_says_what_came_of_it(tmp_path: Path) -> None:
    hook_file(tmp_path, "promoted", 'echo "$VIPKEEPER_EVENT in $VIPKEEPER_TERM: $VIPKEEPER_MESSAGE"')

    async def story(hooks: EventHooks) -> None:
        hooks.tell(occasion("promoted", message="ünï"))
        await until(lambda: hooks.status("u/db") is not None)
        status = hooks.status("u/db")
        assert status is not None
        assert (status.is_ok, status.message) == (True, "promoted in 3: ünï")

    really(tmp_path, story)


@pytest.mark.parametrize(
    ("text", "within_s", "is_ok", "said"),
    [
        pytest.param("yes | head -c 2000000", 20, True, "y", id="floods"),
        pytest.param("sleep 600 & echo forked", 20, True, "forked", id="forks"),
        pytest.param("echo no; exit 3", 20, False, "hook it exited with status 3: no", id="fails"),
        pytest.param("sleep 600", 2, False, "hook it did not end within 2 s and was killed", id="hangs"),
        pytest.param(
            None, 20, False, "No such file or directory: put an executable file there", id="is-missing"
        ),
    ],
)
def test_an_ill_hook_does_no_harm(
    tmp_path: Path, text: str | None, within_s: float, said: str, *, is_ok: bool
) -> None:
    if text is not None:
        hook_file(tmp_path, "it", text)

    async def story(hooks: EventHooks) -> None:
        hooks.tell(occasion("faulted", hooked(faulted=("it",))))
        await until(lambda: hooks.status("u/db") is not None)
        status = hooks.status("u/db")
        assert status is not None
        assert status.is_ok == is_ok
        assert said in status.message

    really(tmp_path, story, within_s=within_s)


def test_an_overtaken_hook_is_killed_with_what_it_forked(tmp_path: Path) -> None:
    hook_file(tmp_path, "promoted", f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    hook_file(tmp_path, "demoted", f"echo done > {tmp_path}/done")

    async def story(hooks: EventHooks) -> None:
        hooks.tell(occasion("promoted"))
        pid = int(await until_written(tmp_path / "pid"))
        hooks.tell(occasion("demoted"))
        await until_written(tmp_path / "done")
        await until(lambda: is_gone(pid))

    really(tmp_path, story)
