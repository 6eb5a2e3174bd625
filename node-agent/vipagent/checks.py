"""Runs the health checks of this node: the tasks between `schedule`, the probes and `health`.

One timer in the keeper's event loop stands for the earliest check that is due; each probe is a task
of its own. At most `LIMIT` are under way at once, so that hundreds of unanswered checks do not use up
the process's file descriptors; the rest wait their turn, the longest due first.

`on_change` is called from the loop, after a result changed a verdict or a message; it is an occasion
to look at every `fitness` again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from vipagent.health import Definition, Health, Result
from vipagent.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from vipagent.health import Fitness, Subject
    from vipapi.healthchecks import Probe

LIMIT = 200

_log = logging.getLogger(__name__)


class Checks:
    """The health checks that run on this node.

    `run_probe(probe, timeout_s)` answers within the timeout and raises nothing but cancellation.
    Made and used inside a running event loop; `close` ends every probe that is under way.
    """

    def __init__(
        self,
        run_probe: Callable[[Probe, float], Awaitable[Result]],
        *,
        on_change: Callable[[], None],
        limit: int = LIMIT,
    ) -> None:
        self._run_probe = run_probe
        self._on_change = on_change
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._health = Health(epoch_s=time.time() - self._loop.time())
        self._schedule: Schedule[Definition] = Schedule()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self.probe_count = 0

    @property
    def count(self) -> int:
        """How many different checks are run."""
        return len(self._health.definitions)

    def update(self, subjects: Iterable[Subject], besides: Iterable[Definition] = ()) -> None:
        """Take the VirtualIPs that this node is a candidate for, all of them, and what else is probed."""
        assert not self._is_closed
        self._health.update(subjects, besides)
        periods_s = {d: d.period_ms / 1000 for d in self._health.definitions}
        self._schedule.update(periods_s, now=self._loop.time())
        self._look()

    def fitness(self, uid: str, *, is_held: bool = False) -> Fitness | None:
        """Return this node's fitness for a VirtualIP, which it may hold; None where it is no candidate."""
        return self._health.fitness(uid, is_held=is_held)

    def is_presumed(self, uid: str) -> bool:
        """Whether this node's fitness for a VirtualIP is another while it holds it."""
        return self._health.is_presumed(uid)

    def is_failing(self, definition: Definition) -> bool:
        """Whether a Definition is probed, and fails."""
        return self._health.standing(definition).verdict == "Failing"

    def recheck(self, kind: type[Probe]) -> None:
        """Probe every check of one kind at once: `recheck(Link)` when the kernel tells of a link."""
        for definition in self._health.definitions:
            if isinstance(definition.probe, kind):
                self._schedule.hurry(definition, now=self._loop.time())
        self._look()

    async def close(self) -> None:
        """End all probes."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self) -> None:
        """Start what is due and set the timer for the next."""
        if self._is_closed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for definition in self._schedule.start(self._loop.time(), limit=self._limit):
            task = self._loop.create_task(self._probe(definition))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        deadline = self._schedule.deadline
        if deadline is not None and self._schedule.running_count < self._limit:
            self._timer = self._loop.call_at(deadline, self._look)

    async def _probe(self, definition: Definition) -> None:
        try:
            result = await self._run_probe(definition.probe, definition.timeout_ms / 1000)
        except Exception as error:  # noqa: BLE001 - a broken probe is a failing check
            _log.exception("the probe %r broke", definition.probe)
            result = Result(is_ok=False, message=f"the probe itself broke: {type(error).__name__}: {error}")
        now = self._loop.time()
        self.probe_count += 1
        self._schedule.finish(definition, now=now)
        has_changed = self._health.receive(definition, result, now=now)
        self._look()
        if has_changed and not self._is_closed:
            self._on_change()
