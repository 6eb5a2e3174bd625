"""The leash: `python -m vipagent.leash HOOKS_DIR OCF_ROOT CGROUP MEMORY FENCE`, what services hang on.

It starts, watches and stops the services of a node for its keeper, and ends them should that not renew
its lease in time, whatever the reason: another node counts on it (a *leash* in `vipagent.workload`).

    asked to start ──▶ start hook ──▶ Started ──▶ watched ──▶ Died
                           └──▶ StartFailed            ╲        ╱
              asked to stop, or the lease's end: stop hook, SIGTERM, and at the stop timeout SIGKILL
                           └──▶ Stopped: nothing of it is left; or StopFailed, looked at each second

The keeper writes until when each service's lease stands into memory that both have (`MEMORY`, a memfd; one
64-bit number on CLOCK_BOOTTIME for each), so that a renewal costs it no message and no wait. When that
moment comes, a service is stopped as if the keeper had asked; a stop timeout later it is killed. Nothing is
started once it has come.

A service that cannot be ended (`StopFailed`) and whose order says `fences` ends the node, in the way `FENCE`
(`vipagent.leash_fence`): the leash tells so, and does it a second later, for 5 s after the stop timeout
others count on the end of the node. So a doubt is told in time also while a hook, an agent or systemd does
not answer: that is a doubt itself, and then each is asked again every second and given longer. What was never
started ends no node, whatever is not known of it.

It speaks JSON lines on its standard input, a socket:

    {"run": 7, "start": {"folder": …, "slot": 0, "title": …, "startTimeoutMs": …, "stopTimeoutMs": …,
                         "fences": false, "environment": {…}, "exec": {"start": {"hook": …, "args": […]}, …}}}
                             or "systemd": {"unit": …}, "ocf": {"provider": …, "type": …, "parameters": {…}},
                             "mount": {"source": …, "target": …, "fsType": …, "options": […]}
    {"run": 8, "end": {…}}                          the same of a start that this leash knows nothing of; with
                                                    a negative number, of one that may never have been; with
                                                    `isInDoubt`, of one that may run without its processes
    {"run": 7, "amend": {"stopTimeoutMs": …, "fences": …}}      it is to be ended so instead
    {"run": 7, "stop": true}
    {"hello": true}                                 its own first line: from now on it takes orders
    {"run": 7, "kind": "Died", "message": "…"}      the answers, of the kinds of `runs.Outcome`; and `Started`
                                                    tells whether its cgroup is empty (`hasProcesses`)
    {"close": true}                                 end everything: what is nothing but its processes and does
                                                    not fence is killed, the rest is stopped

It goes on when the keeper is gone, until all that it started has ended; SIGTERM asks it to stop everything
now. It has a cgroup of its own, `CGROUP/leash`, by which the next keeper finds it. It runs in real time, with
its memory locked, as the keeper does; what it starts are ordinary processes. It imports nothing but the
standard library, for it must be small and quick to start, until the first unit of systemd.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import mmap
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from vipagent import leash_fence, realtime
from vipagent.leash_cgroups import Cgroup, cgroup_of_this_process
from vipagent.leash_children import Children, adopt_orphans
from vipagent.leash_exec import Scripts
from vipagent.leash_fence import Unsure
from vipagent.leash_mount import Mount
from vipagent.leash_ocf import Agent
from vipagent.leash_timer import Timer, now_ns
from vipagent.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from vipagent.leash_fence import Way
    from vipagent.units import Units

LEASH_CGROUP: Final = "leash"
NO_CGROUP: Final = "-"
NO_FENCE: Final = "-"
_LINE_BYTES: Final = 1024 * 1024
_TOO_LATE: Final = "the lease has ended before it was started"
_PRIORITY: Final = 5
"""Below the keeper's: where both share a processor, a renewal must not wait until hooks are started."""
_GONE_S: Final = 1.0
_DOUBT_S: Final = 3.0
_FENCING_DOUBT_S: Final = 1.5
_LONG_DOUBT_S: Final = 30.0
_LOOK_S: Final = 1.0
_MILLISECOND: Final = 1_000_000
_LONG_AGO_NS: Final = -(10**18)


class Charge(Protocol):
    """One start of a workload: how it is started, watched, stopped and killed."""

    async def start(self, within_s: float) -> str | None:
        """Start it, and return None when it works or why it does not; it may be cancelled at any time."""

    async def watch(self) -> str:
        """Return why, when it has ended or does not work any more; called after `start` returned None."""

    async def stop(self) -> None:
        """Stop it as it likes to be, and return when nothing of it is left; cancelled when time is up."""

    async def doubt(self) -> str | None:
        """Say, once it was stopped or killed, why it may still run; None where it is known not to.

        It may be cancelled at any time.
        """

    @property
    def is_started(self) -> bool:
        """Whether something of it was started, as far as is known; what never was ends no node."""

    @property
    def has_processes(self) -> bool:
        """Whether `start` has left processes of it in its cgroup."""

    @property
    def may_lack_processes(self) -> bool:
        """Whether it may run though `gone` has returned."""

    def kill(self) -> None:
        """Kill everything of it; what is gone already does no harm."""

    async def gone(self) -> None:
        """Return when no process of it is left."""

    async def discard(self) -> None:
        """Give back what it held; nothing of it is left."""


class _Ending:
    """How something is to be ended, by an order that may be amended."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.amend(order)

    def amend(self, order: Mapping[str, Any]) -> None:
        """Take over what it says."""
        self.within_ms: int = order["stopTimeoutMs"]
        self.fences: bool = order["fences"]

    def within_s(self) -> float:
        """Return how long it may take to stop."""
        return self.within_ms / 1000


class _Run:
    """One start of a service, and when it is to end."""

    def __init__(self, charge: Charge, slot: int, ending: _Ending) -> None:
        self.charge = charge
        self.slot = slot
        self.is_to_stop = asyncio.Event()
        self.is_to_die = asyncio.Event()
        self.is_asked_again = asyncio.Event()
        self.is_asked = False
        self._ending = ending
        self._stops_since_ns: int | None = None

    @property
    def fences(self) -> bool:
        """Whether the node is to end where this cannot be ended."""
        return self._ending.fences

    @property
    def _kill_at_ns(self) -> int | None:
        if self._stops_since_ns is None:
            return None
        return self._stops_since_ns + self._ending.within_ms * _MILLISECOND

    def amend(self, order: Mapping[str, Any]) -> None:
        """End it so instead; what could not be ended and did not fence until now is tried again at once."""
        did_fence = self.fences
        self._ending.amend(order)
        if self.fences and not did_fence:
            self.is_asked_again.set()

    def ask_to_stop(self, now_ns: int) -> None:
        """Take note that it is to be stopped, and not for the lease's sake."""
        self.is_asked = True
        self.is_asked_again.set()
        self.stop(now_ns)

    def stop(self, since_ns: int) -> None:
        """Begin to stop it; the stop timeout runs from `since_ns`."""
        if self._stops_since_ns is None:
            self._stops_since_ns = since_ns
            self.is_to_stop.set()

    def end(self) -> None:
        """Kill it at the next look."""
        self._stops_since_ns = _LONG_AGO_NS
        self.is_to_stop.set()

    def stop_again(self, now_ns: int) -> None:
        """Give it the whole stop timeout once more."""
        self._stops_since_ns = now_ns
        self.is_to_die.clear()
        self.is_asked_again.clear()

    def look(self, deadline_ns: int, now_ns: int) -> int | None:
        """Do what is due, and return when to look again."""
        if self._stops_since_ns is None and now_ns < deadline_ns:
            return deadline_ns
        self.stop(deadline_ns)
        kill_at_ns = self._kill_at_ns
        assert kill_at_ns is not None
        if now_ns < kill_at_ns:
            return kill_at_ns
        if not self.is_to_die.is_set():
            self.is_to_die.set()
            self.charge.kill()
        return None


class Leash:
    """Everything that runs for one keeper. Made and used inside a running event loop."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        hooks_dir: Path,
        ocf_root: Path,
        cgroup: Cgroup | None,
        memory: int,
        fence: Way | None,
    ) -> None:
        self._connection = connection
        self._hooks_dir = hooks_dir
        self._ocf_root = ocf_root
        self._cgroup = cgroup
        self._fence = fence
        self._deadlines = memoryview(mmap.mmap(memory, 0, prot=mmap.PROT_READ)).cast("Q")
        self._children = Children()
        self._runs: dict[int, _Run] = {}
        self._timer = Timer(self._look)
        self._tasks = Tasks()
        self._writer: asyncio.StreamWriter | None = None
        self._units: Units | None = None
        self._is_alone = False
        self._has_ended = asyncio.Event()

    async def serve(self) -> None:
        """Serve until the keeper is gone and nothing runs any more. Raises if a part of it broke."""
        self._tasks.guard_loop()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop_all)
        reader, self._writer = await asyncio.open_connection(sock=self._connection, limit=_LINE_BYTES)
        self._writer.write(b'{"hello": true}\n')
        self._tasks.spawn(self._listen(reader))
        ended = asyncio.ensure_future(self._has_ended.wait())
        await asyncio.wait((ended, self._tasks.broken), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        self._timer.close()
        if self._units is not None:
            await self._units.close()
        if self._tasks.broken.done():
            self._tasks.broken.result()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                self._obey(json.loads(line))
        assert self._writer is not None
        self._writer.close()
        self._leave_alone()

    def _leave_alone(self) -> None:
        """Go on without a keeper, as long as anything runs."""
        self._is_alone = True
        self._look_whether_ended()

    def _obey(self, order: Mapping[str, Any]) -> None:
        # After a pause of the whole machine an order may be read before the time is looked at: what has run
        # out since must not be given its stop timeout from now.
        self._look()
        if "close" in order:
            for run in self._runs.values():
                if run.fences or run.charge.may_lack_processes:
                    run.ask_to_stop(now_ns())
                else:
                    run.end()
            self._leave_alone()
        elif "start" in order:
            self._take_charge(order["run"], order["start"], is_left_over=False)
        elif "end" in order:
            self._take_charge(order["run"], order["end"], is_left_over=True).ask_to_stop(now_ns())
        elif "amend" in order:
            self._amend(order["run"], order["amend"])
        else:
            self._stop(order["run"])
        self._look()

    def _take_charge(self, number: int, order: Mapping[str, Any], *, is_left_over: bool) -> _Run:
        slot = order["slot"]
        deadlines = self._deadlines

        def objection() -> str | None:
            return None if now_ns() < deadlines[slot] else _TOO_LATE

        ending = _Ending(order)
        charge = self._charge(order, objection, ending.within_s, is_left_over=is_left_over)
        run = _Run(charge, slot, ending)
        self._runs[number] = run
        self._tasks.spawn(self._tend(number, run, order["startTimeoutMs"] / 1000))
        return run

    def _amend(self, number: int, order: Mapping[str, Any]) -> None:
        run = self._runs.get(number)
        if run is not None:
            run.amend(order)

    def _stop(self, number: int) -> None:
        run = self._runs.get(number)
        if run is None:
            self._tell(number, "Stopped")
        else:
            run.ask_to_stop(now_ns())

    def _stop_all(self) -> None:
        self._look()
        for run in self._runs.values():
            run.ask_to_stop(now_ns())
        self._look()

    def _look(self) -> None:
        """Stop and kill what is to be, by the time and by what the keeper has written."""
        now = now_ns()
        due = [run.look(self._deadlines[run.slot], now) for run in self._runs.values()]
        self._timer.set(min((at_ns for at_ns in due if at_ns is not None), default=None))

    async def _tend(self, number: int, run: _Run, start_within_s: float) -> None:
        """See a service through from its start until nothing is left of it."""
        complaint = await _unless(run.is_to_stop, run.charge.start(start_within_s))
        if run.is_to_stop.is_set() and not run.is_asked:
            complaint = _TOO_LATE
        if not run.is_asked:
            if complaint is None:
                self._tell(number, "Started", has_processes=run.charge.has_processes)
            else:
                self._tell(number, "StartFailed", complaint)
        if complaint is None:
            end = await _unless(run.is_to_stop, run.charge.watch())
            if not run.is_to_stop.is_set():
                self._tell(number, "Died", end or "")
        await run.is_to_stop.wait()
        await self._end(number, run)
        await run.charge.discard()
        del self._runs[number]
        self._tell(number, "Stopped")
        self._look_whether_ended()

    async def _end(self, number: int, run: _Run) -> None:
        """Stop it, by force if need be; return when nothing of it is left."""
        while True:
            await _unless(run.is_to_die, run.charge.stop())
            doubt = await self._doubt(run, _FENCING_DOUBT_S if run.fences else _DOUBT_S)
            if doubt is None or (self._is_alone and _is_maybe_nothing(number, doubt)):
                return
            await self._tell_doubt(number, run, doubt)
            run.is_asked_again.clear()  # what was asked meanwhile is answered
            while not run.is_asked_again.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(run.is_asked_again.wait(), _LOOK_S)
                if self._is_alone:
                    break  # nobody else asks for another try
                doubt = await _unless(run.is_asked_again, self._doubt(run, _LONG_DOUBT_S))
                if doubt is None and not run.is_asked_again.is_set():
                    return
            run.stop_again(now_ns())
            self._look()

    async def _doubt(self, run: _Run, within_s: float) -> str | None:
        """Kill what is left, and say why it may still run."""
        run.charge.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(run.charge.gone(), _GONE_S)
            is_fenced = run.fences and run.charge.is_started and self._fence is not None
            if self._is_alone and not is_fenced and not run.charge.may_lack_processes:
                return None  # no process is left, and there is nobody to tell of other doubts
        try:
            return await asyncio.wait_for(run.charge.doubt(), within_s)
        except TimeoutError:
            return Unsure(f"whether it still runs is not known: nothing said so within {within_s:g} s")

    async def _tell_doubt(self, number: int, run: _Run, doubt: str) -> None:
        """Tell that it may still run; where it fences, end the node because of that."""
        if not run.fences or not run.charge.is_started or _is_maybe_nothing(number, doubt):
            self._tell(number, "StopFailed", doubt)
        elif self._fence is None:
            self._tell(number, "StopFailed", f"{doubt}; {leash_fence.NO_WAY}")
        elif (why_not := leash_fence.obstacle(self._fence)) is not None:
            self._tell(number, "StopFailed", f"{doubt}; {why_not}")
        else:
            self._tell(number, "StopFailed", f"{doubt}; this node is fenced: it ends itself now")
            await asyncio.sleep(leash_fence.DELAY_S)
            if run.fences:  # still
                self._tell(number, "StopFailed", f"{doubt}; {leash_fence.end_node(self._fence)}")

    def _charge(
        self,
        order: Mapping[str, Any],
        objection: Callable[[], str | None],
        stop_within_s: Callable[[], float],
        *,
        is_left_over: bool,
    ) -> Charge:
        if "systemd" in order:
            return self._unit(order["systemd"]["unit"], stop_within_s, objection, is_left_over=is_left_over)
        assert self._cgroup is not None, "what programs start needs a cgroup"
        folder = self._cgroup / order["folder"]
        if "exec" in order:
            return Scripts(
                order["exec"],
                hooks_dir=self._hooks_dir,
                children=self._children,
                folder=folder,
                environment=order["environment"],
                objection=objection,
                is_in_doubt=is_left_over and order.get("isInDoubt", False),
            )
        if "ocf" in order:
            return Agent(
                order["ocf"],
                root=self._ocf_root,
                title=order["title"],
                children=self._children,
                folder=folder,
                environment=order["environment"],
                objection=objection,
                stop_within_s=stop_within_s,
                is_left_over=is_left_over,
            )
        return Mount(
            order["mount"],
            children=self._children,
            folder=folder,
            objection=objection,
            is_left_over=is_left_over,
        )

    def _unit(
        self,
        name: str,
        stop_within_s: Callable[[], float],
        objection: Callable[[], str | None],
        *,
        is_left_over: bool,
    ) -> Charge:
        # Only now: where no service is a unit, nothing of D-Bus is wanted in memory that is locked.
        from vipagent.leash_systemd import Unit  # noqa: PLC0415
        from vipagent.units import Units  # noqa: PLC0415

        if self._units is None:
            self._units = Units()
        return Unit(
            name,
            units=self._units,
            stop_within_s=stop_within_s,
            objection=objection,
            is_left_over=is_left_over,
        )

    def _tell(self, number: int, kind: str, message: str = "", *, has_processes: bool | None = None) -> None:
        assert self._writer is not None
        if not self._writer.is_closing():
            said: dict[str, object] = {"run": number, "kind": kind, "message": message}
            if has_processes is not None:
                said["hasProcesses"] = has_processes
            self._writer.write(json.dumps(said).encode() + b"\n")

    def _look_whether_ended(self) -> None:
        if self._is_alone and not self._runs:
            self._has_ended.set()


def _is_maybe_nothing(number: int, doubt: str) -> bool:
    """Tell whether nobody knows that it ever was there."""
    return number < 0 and isinstance(doubt, Unsure)


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, str | None]) -> str | None:
    """Do some work, but not when an event comes, and not on from then; what fails says so as its result."""
    if event.is_set():
        work.close()
        return None
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    working.cancel()
    (result,) = await asyncio.gather(working, return_exceptions=True)
    if isinstance(result, asyncio.CancelledError):
        return None
    if isinstance(result, OSError):
        return str(result)
    if isinstance(result, BaseException):
        raise result
    return result


def main() -> None:
    """Run as a process of its own; whatever ends it, it leaves no process and no cgroup behind."""
    hooks_dir, ocf_root, folder, memory, fence = sys.argv[1:]
    os.set_inheritable(int(memory), False)  # noqa: FBT003 - os gives it no name
    os.chdir("/")
    realtime.claim_real_time()
    with contextlib.suppress(OSError):
        os.sched_setparam(0, os.sched_param(_PRIORITY))
    adopt_orphans()
    gc.enable()  # its heap is small, and it has no quiet moments of which it knows
    cgroup = None if folder == NO_CGROUP else Cgroup(Path(folder))
    home = cgroup_of_this_process()
    try:
        if cgroup is not None:
            own = cgroup / LEASH_CGROUP
            own.make()
            own.enter()
        asyncio.run(
            _serve(
                hooks_dir=Path(hooks_dir),
                ocf_root=Path(ocf_root),
                cgroup=cgroup,
                memory=int(memory),
                fence=next((way for way in leash_fence.WAYS if way == fence), None),
            )
        )
    finally:
        if cgroup is not None:
            _leave(cgroup, home)


async def _serve(**options: Any) -> None:
    with socket.socket(fileno=os.dup(0)) as connection:
        await Leash(connection, **options).serve()


def _leave(cgroup: Cgroup, home: Path | None) -> None:
    """Kill what is left, which is nothing where all went well, and go back to where the keeper is."""
    for each in cgroup.children:
        if each.path.name != LEASH_CGROUP:
            each.kill()
    if home is not None:
        with contextlib.suppress(OSError):
            Cgroup(home).enter()
    asyncio.run(cgroup.remove())


if __name__ == "__main__":
    main()
