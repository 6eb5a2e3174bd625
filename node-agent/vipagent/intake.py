"""Taking plans: read, kept on disk with the configurations that they bring, and only then acted on (rule 9).

The newest plan that was offered is the one that is taken. What cannot be read is refused, and what was
planned before goes on; what cannot be kept is a problem too, stays offered, and is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from vipagent import lines, metrics
from vipagent.disk import PlanUnreadable
from vipapi import nodeplan
from vipapi.nodestatus import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from vipagent.disk import Disk
    from vipagent.memory import Memories
    from vipapi.nodeplan import Plan

_SLICE_S: Final = 0.002

_log = logging.getLogger(__name__)


class Intake:
    """Plans on their way to this node's keeper: `apply` is given each that is on disk.

    `has_plan` is whether there was one, on the disk at the start or since.
    """

    def __init__(
        self, *, node: str, disk: Disk, memories: Memories, apply: Callable[[Plan], Awaitable[None]]
    ) -> None:
        self._node = node
        self._disk = disk
        self._memories = memories
        self._apply = apply
        self._applied_line = b""
        self._offered: tuple[lines.PlanOutline, bytes] | None = None
        self._is_taking = False
        self._is_closed = False
        self.has_plan = False
        self.problem: Problem | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether a plan is offered that nothing is being done about."""
        return self._offered is not None and not self._is_taking

    def load(self) -> Plan:
        """Return the plan that is on disk, or an empty one if that cannot be used."""
        try:
            plan = self._disk.load_plan()
        except PlanUnreadable as unreadable:
            self._note("PlanUnreadable", str(unreadable))
            return nodeplan.Plan(node=self._node)
        if plan is None:
            return nodeplan.Plan(node=self._node)
        if plan.node != self._node:
            message = f"the stored plan is for node {plan.node!r}, this is {self._node!r}: it is not used"
            self._note("PlanUnreadable", message)
            return nodeplan.Plan(node=self._node)
        self.has_plan = True
        return plan

    def offer(self, sketch: lines.PlanOutline, line: bytes) -> None:
        """Have a plan taken by the next `take`, in place of what was offered before."""
        self._offered = sketch, line

    def refuse(self, reason: str, message: str) -> None:
        """Have a problem in the report, once in the log, and counted; what was planned before goes on."""
        metrics.refused_plans.labels(reason).inc()
        self._note(reason, message)

    async def take(self) -> None:
        """Take the newest plan that was offered; one that could not be kept stays offered."""
        if self._is_taking:
            return
        self._is_taking = True
        try:
            while (offered := self._offered) is not None and not self._is_closed:
                is_done = await self._take(*offered)
                if self._offered is offered:
                    if not is_done:
                        return
                    self._offered = None
        finally:
            self._is_taking = False

    def close(self) -> None:
        """Take no more plans: the keeper is about to stop."""
        self._is_closed = True

    async def _take(self, sketch: lines.PlanOutline, line: bytes) -> bool:
        """False if it is to be tried again."""
        if line == self._applied_line:
            self.problem = None
            return True
        try:
            plan = await _slice_by_slice(lines.read(sketch))
            if plan.node != self._node:
                raise ValueError(f"it is for node {plan.node!r}, this is {self._node!r}")  # noqa: TRY301
        except ValueError as error:
            self.refuse("PlanRefused", f"the courier's plan was refused: {error}")
            return True
        try:
            await asyncio.to_thread(self._disk.store_plan, line)
        except OSError as error:
            self.refuse(
                "PlanNotKept",
                f"the plan could not be kept on disk ({error}): free space or mend the folder",
            )
            return False
        await self._memories.settle(plan.domains, is_from_disk=False)
        if not self._is_closed:
            self.problem = None
            self._applied_line = line
            await self._apply(plan)
            self.has_plan = True
        return True

    def _note(self, reason: str, message: str) -> None:
        problem = Problem(reason, message)
        if problem != self.problem:
            _log.error("%s", message)
        self.problem = problem


async def _slice_by_slice(steps: Generator[None, None, Plan]) -> Plan:
    """Drive what is done in steps, and give the loop its turn in between."""
    clock = asyncio.get_running_loop().time
    try:
        while True:
            end_s = clock() + _SLICE_S
            while clock() < end_s:
                next(steps)
            await asyncio.sleep(0)
    except StopIteration as done:
        plan: Plan = done.value
        return plan
