"""The door to the services of this node: the keeper's side of the leash, the process that runs them.

The keeper itself starts no program (`probes_exec` says why), and what it has started must not go on for
longer than its lease should it hang or die. So services are run by a process of their own, the leash
(`vipagent.leash`). It is told over a socket pair what to start and stop, and reads from memory that both
have how long each service's lease stands: `extend` writes one number.

    keeper dies       the leash stops everything at the end of the leases and kills it a stop timeout later
    keeper ends       what is nothing but its processes is killed, the rest stopped; where that takes longer,
                      the leash is left to it, and goes on until it has stopped
    keeper starts     `start_clean` ends what a former one and its leash left behind
    leash dies        everything is killed at once, and told; the next start has a new leash
    both die          what is left runs until a keeper starts, or until whatever has their cgroup ends it
    leash stands      the keeper kills what it should have killed, and fences in its place (`--fence`)
    still
    leash does not    nothing is said to a leash before its hello, so what was not said to any has not
    come up           been started, and needs no leash that ends it

Each service has a cgroup below the keeper's, named after it, so what is left behind has a name. What has no
process there, a mount, a unit or what a hook had another program start, has that in the ledger
(`vipagent.ledger`), whatever the plan says by then. With a status hook, which could tell of such a one, a
service of hooks counts as one until it has started and was seen to have processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import mmap
import os
import shutil
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote, unquote

import msgspec

from vipagent import leash_fence, leash_ocf, realtime
from vipagent.leash import LEASH_CGROUP, NO_CGROUP, NO_FENCE
from vipagent.leash_cgroups import Cgroup
from vipagent.ledger import Entry, Ledger
from vipagent.probes_hooks import ENVIRONMENT
from vipagent.probes_threads import Threads, TooManyLooksError
from vipagent.runs import Outcome
from vipapi.nodestatus import Problem

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Coroutine, Iterable
    from pathlib import Path

    from vipagent.leash_fence import Way
    from vipapi.nodeplan import ServicePlan
    from vipapi.workloads import Workload

_SLOTS: Final = 8192
_SLOT_BYTES: Final = 8
_LINE_BYTES: Final = 64 * 1024
_ORDERLY_S: Final = 4.0
_KILL_S: Final = 2.0
_END_S: Final = 5.0
_GRACE_S: Final = 0.2
_ANSWER_S: Final = 10.0
_FENCE_S: Final = 4.3
"""Others count on it that this node has ended 5 s after it should have killed what it could not stop."""
_NEXT_LEASH_S: Final = 1.0
_LOOK_S: Final = 2.0
_INSIST_S: Final = 5.0
_FIRST_LOOK_S: Final = 1.0
_MOST_LOOKS: Final = 16
_NO_CGROUP: Final = (
    "this node has no cgroup that the keeper may write to, so it cannot run services by hooks: mount cgroup2 "
    "(Linux 5.14 or newer) writable for the keeper; in a container, mount the node's /sys/fs/cgroup and run "
    "privileged; under systemd, set Delegate=yes in the keeper's unit"
)
_NO_MOUNT: Final = "this node has no mount(8) that the keeper finds: install util-linux"

_log = logging.getLogger(__name__)


class _Run:
    """One start of a service that has not ended, as far as the keeper knows."""

    def __init__(self, entry: Entry, number: int, slot: int, cgroup: Cgroup | None) -> None:
        self.entry = entry
        self.number = number
        self.slot = slot
        self.cgroup = cgroup
        self.is_sent = False
        self.is_active = False
        self.is_to_stop = False
        self.asked_at_s = 0.0
        self.overdue: asyncio.TimerHandle | None = None
        self.complaint = "it has not been stopped yet"

    @property
    def service(self) -> ServicePlan:
        return self.entry.service

    def order(self) -> dict[str, Any]:
        """Return it as the leash is told."""
        return {
            "folder": _folder(self.service.id),
            "slot": self.slot,
            "title": self.service.title,
            "fences": self.service.fences,
            "startTimeoutMs": self.service.start_timeout_ms,
            "stopTimeoutMs": self.service.stop_timeout_ms,
            "environment": self.entry.environment,
            "isInDoubt": self.entry.is_in_doubt or self.entry.outlives_processes,
            **msgspec.to_builtins(self.service.workload),
        }


class Runner:
    """Runs the services of one node. Made anywhere; used inside one event loop, which it never keeps waiting.

    `on_outcome` is called from the loop, never from within a call of this. `ledger` is the file that tells
    the next keeper what was not seen stopped; None keeps none.
    """

    def __init__(
        self,
        *,
        node: str,
        hooks_dir: Path,
        cgroup: Path | None,
        on_outcome: Callable[[Outcome], None],
        ocf_root: Path = leash_ocf.ROOT,
        fence: Way | None = None,
        ledger: Path | None = None,
    ) -> None:
        self._node = node
        self._hooks_dir = hooks_dir
        self._ocf_root = ocf_root
        self._fence = fence
        self._cannot_fence = None if fence is None else leash_fence.obstacle(fence)
        self._cgroup = None if cgroup is None else Cgroup(cgroup)
        self._on_outcome = on_outcome
        self._memory = os.memfd_create("vipkeeper-deadlines", os.MFD_CLOEXEC)
        os.ftruncate(self._memory, _SLOTS * _SLOT_BYTES)
        self._map = mmap.mmap(self._memory, _SLOTS * _SLOT_BYTES)
        # Native and aligned, so each number is written in one go and never read half.
        self._deadlines = memoryview(self._map).cast("Q")
        self._free_slots = list(range(_SLOTS))
        self._runs: dict[int, _Run] = {}
        self._by_id: dict[str, _Run] = {}
        self._leftovers: dict[str, str] = {}
        self._left: dict[str, ServicePlan] = {}
        self._refused: set[str] = set()
        self._outlasting: set[str] = set()
        self._ends = 0
        self._ledger = None if ledger is None else Ledger(ledger)
        self._has_ended = asyncio.Event()
        self._is_refused = False
        self._unsent: list[bytes] = []
        self._writer: asyncio.StreamWriter | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_serving = False
        self._next_leash_at = 0.0
        self._buried: dict[_Run, asyncio.Task[None]] = {}
        self._servings: set[asyncio.Task[None]] = set()
        self._waits: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._is_left_to_leash = False
        self._looks: Threads[str | None] = Threads(_MOST_LOOKS)
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._found: dict[str, tuple[float, str | None]] = {}

    @property
    def can_fence(self) -> bool:
        """Whether this node can end itself when a service of it cannot be ended."""
        return self._fence is not None and self._cannot_fence is None

    async def start_clean(self, services: Iterable[ServicePlan] = ()) -> frozenset[str]:
        """End what a former keeper of this node left running; return the services that could not be ended.

        Where its leash still runs, that is asked to stop them, for it knows how. What no cgroup tells of, a
        unit, a mount and what an agent holds, outlives keeper and leash: of these everything is stopped that
        the ledger names, and those of `services`, the planned ones, that run although no keeper is known to
        have started them, as a unit that is enabled. It takes 11 s at the most; when one of those returned
        ends after all, `Stopped` is told of its run 0.
        """
        if self._ledger is not None:
            await self._ledger.load()
        started = {} if self._ledger is None else dict(self._ledger.entries)
        planned = [each for each in services if _outlives_its_processes(each) and each.id not in started]
        for service in (*planned, *(entry.service for entry in started.values())):
            self.refusal(service.workload)  # begins to look
        interrupted = frozenset() if self._cgroup is None else await self._end_former(self._cgroup)
        if self._looking:
            await asyncio.wait(self._looking.values(), timeout=_FIRST_LOOK_S)
        for service in planned:
            if self.refusal(service.workload) is None:
                self._end(Entry(service))
        for service_id, entry in started.items():
            self._end_started(_doubted(entry) if service_id in interrupted else entry)
        ending = [run for run in self._runs.values() if run.number < 0]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ORDERLY_S):
                while any(run.number in self._runs for run in ending):
                    self._has_ended.clear()
                    await self._has_ended.wait()
        self._leftovers |= {run.service.id: run.complaint for run in ending if run.number in self._runs}
        self._left |= {run.service.id: run.service for run in ending if run.number in self._runs}
        _keep(self._waits, self._insist())
        return frozenset(self._leftovers)

    @property
    def left(self) -> tuple[ServicePlan, ...]:
        """Those that `start_clean` could not end and that have not ended since, as far as they are known."""
        return tuple(self._left.values())

    def _note(self, run: _Run, entry: Entry) -> None:
        """More is known of its start."""
        run.entry = entry
        if self._ledger is not None:
            self._ledger.amend(entry)

    async def _insist(self) -> None:
        """Have what an earlier keeper left stopped again and again, as a Stack does with what it started."""
        while self._refused or any(number < 0 for number in self._runs):
            await asyncio.sleep(_INSIST_S)
            for run in self._runs.values():
                if run.number < 0 and run not in self._buried:
                    self._order({"run": run.number, "stop": True})

    def _end(self, entry: Entry) -> None:
        """Have the leash end what an earlier one may have started."""
        self._ends += 1
        run = self._add(entry, -self._ends)
        self._order({"run": run.number, "end": run.order()})

    def _end_started(self, entry: Entry) -> None:
        """End what the ledger names; what is refused counts as running until it is not."""
        service = entry.service
        if self._ledger is not None:
            self._ledger.amend(entry)
        if not _may_go_on(entry):
            if service.id in self._leftovers:
                self._left[service.id] = service
            else:  # its cgroup was all of it
                self._forget_leftover(service.id)
            return
        why_not = self.refusal(service.workload)
        if why_not is None:
            self._end(entry)
            return
        self._leftovers[service.id] = f"it was started by an earlier keeper and cannot be stopped: {why_not}"
        self._left[service.id] = service
        self._refused.add(service.id)
        _keep(self._waits, self._end_when_allowed(entry))

    async def _end_when_allowed(self, entry: Entry) -> None:
        while self.refusal(entry.service.workload) is not None:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(_LOOK_S)
        self._end(entry)
        self._refused.discard(entry.service.id)

    async def _end_former(self, cgroup: Cgroup) -> frozenset[str]:
        """End what an earlier keeper left; return what of that its leash was stopping still."""
        interrupted: frozenset[str] = frozenset()
        if pids := (cgroup / LEASH_CGROUP).pids():
            _log.warning("Ending what the leash of a former keeper runs")
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            if not await _emptied(cgroup, _ORDERLY_S):
                interrupted = frozenset(_populated(cgroup))
        cgroup.kill()
        await _emptied(cgroup, _KILL_S)
        for service_id, each in _populated(cgroup).items():
            self._leftovers[service_id] = _about(each)
            self._outlasting.add(service_id)
            _keep(self._waits, self._outlast(service_id, each))
        await cgroup.remove()
        return interrupted

    def refusal(self, workload: Workload) -> str | None:
        """Say why this node cannot run such a workload at all, None where it can.

        What was found a few seconds ago is good enough, and it is looked for beside the loop, for a disk may
        hang; until the first look has ended nothing is refused. A hook that is missing is told when it is to
        be run.
        """
        if workload.systemd is not None:
            return None
        if self._cgroup is None:
            return _NO_CGROUP
        ocf = workload.ocf
        if ocf is not None:
            return self._looked(
                f"{ocf.provider}:{ocf.type}",
                lambda: leash_ocf.refusal(self._ocf_root, ocf.provider, ocf.type),
            )
        if workload.mount is not None:
            return self._looked("mount", _mount_refusal)
        return None

    def _looked(self, name: str, look: Callable[[], str | None]) -> str | None:
        at, found = self._found.get(name, (None, None))
        is_due = at is None or asyncio.get_running_loop().time() - at >= _LOOK_S
        if is_due and name not in self._looking and not self._is_closed:
            self._looking[name] = _keep(self._waits, self._look(name, look))
        return found

    async def _look(self, name: str, look: Callable[[], str | None]) -> None:
        try:
            found = await self._looks.run(name, look)
        except TooManyLooksError:
            _, found = self._found.get(name, (None, None))
        except OSError as error:
            found = f"whether this node has {name} cannot be found out: {error}"
        finally:
            del self._looking[name]
        self._found[name] = (asyncio.get_running_loop().time(), found)

    def prepare(self) -> None:
        """Have the leash running before it is needed, for starting it takes some 100 ms."""
        if not self._is_serving and not self._is_closed:
            self._is_serving = True
            _keep(self._servings, self._serve())

    def start(self, service: ServicePlan, *, term: int, run: int, virtual_ip: str, deadline_ns: int) -> None:
        """Start a service under a lease that stands until `deadline_ns` (CLOCK_BOOTTIME)."""
        why_not = self._objection(service)
        if why_not is not None:
            self._tell(Outcome(service.id, run, "StartFailed", why_not))
            return
        environment = {
            "VIPKEEPER_SERVICE": service.title,
            "VIPKEEPER_NODE": self._node,
            "VIPKEEPER_TERM": str(term),
            "VIPKEEPER_VIRTUAL_IP": virtual_ip,
        }
        entry = Entry(service, environment, outlives_processes=_may_have_no_process(service.workload))
        added = self._add(entry, run)
        self._deadlines[added.slot] = deadline_ns
        if self._ledger is not None:
            self._ledger.enter(entry)
        self._order({"run": run, "start": added.order()})

    def extend(self, service_id: str, deadline_ns: int) -> None:
        """The lease was renewed until then; of what does not run nothing is kept."""
        run = self._by_id.get(service_id)
        if run is not None:
            self._deadlines[run.slot] = deadline_ns

    def amend(self, service: ServicePlan) -> None:
        """Have what runs of a service ended as this says: within its stop timeout, and whether it fences."""
        run = self._by_id.get(service.id)
        if run is None or run.service == service:
            return
        is_to_fence = service.fences and not run.service.fences
        self._note(run, msgspec.structs.replace(run.entry, service=service))
        if run not in self._buried:
            ending = {"stopTimeoutMs": service.stop_timeout_ms, "fences": service.fences}
            self._order({"run": run.number, "amend": ending})
        elif is_to_fence:
            self._buried.pop(run).cancel()
            self._order({"run": run.number, "end": run.order()})
            self._expect(run)
        if run.overdue is not None:
            self._arm(run)
        elif run.is_to_stop and is_to_fence:  # it could not be stopped, and is tried once more
            self._expect(run)

    def stop(self, service_id: str, run: int) -> None:
        """Stop that run of a service; `Stopped` or `StopFailed` is told, also of one that is not known."""
        known = self._runs.get(run)
        if known is not None:
            known.is_to_stop = True
            if known.overdue is None:
                self._expect(known)
            if known not in self._buried:
                self._order({"run": run, "stop": True})
        elif run == 0 and service_id in self._leftovers:
            self._tell(Outcome(service_id, run, "StopFailed", self._leftovers[service_id]))
        else:
            self._tell(Outcome(service_id, run, "Stopped"))

    def problems(self) -> tuple[Problem, ...]:
        """Return what keeps this node from running services that it was asked for."""
        return (
            *((Problem("NoCgroup", _NO_CGROUP),) if self._is_refused else ()),
            *((Problem("CannotFence", self._cannot_fence),) if self._cannot_fence is not None else ()),
        )

    async def close(self) -> None:
        """Kill what still runs and end the leash; nothing is left of either, and nothing is told any more.

        What fences, or may run without a process, is stopped first, and where that takes longer, left to the
        leash: should it fail, the node must still end, or the stop be tried again.
        """
        if self._is_serving:
            self._order({"close": True})
        self._is_closed = True
        for task in self._waits:
            task.cancel()
        await asyncio.gather(*self._waits, return_exceptions=True)
        if self._servings:
            await asyncio.wait(self._servings, timeout=_END_S)
            if any(self._must_be_stopped(run) for run in self._runs.values()):
                self._is_left_to_leash = True
                for serving in self._servings:
                    serving.cancel()
            else:
                self._kill_leash()
            await asyncio.gather(*self._servings, return_exceptions=True)
        for run in self._runs.values():
            if run.overdue is not None:
                run.overdue.cancel()
        if self._cgroup is not None and not self._is_left_to_leash:
            self._cgroup.kill()
            await _emptied(self._cgroup, _KILL_S)
            await self._cgroup.remove()
        if self._ledger is not None:
            await self._ledger.close()
        self._by_id.clear()
        self._deadlines.release()
        self._map.close()
        os.close(self._memory)

    def _must_be_stopped(self, run: _Run) -> bool:
        """Whether it does not do to kill it: its leash has to see to its end, with or without a keeper."""
        workload = run.service.workload
        may_lack_processes = workload.ocf is not None or workload.mount is not None
        is_fenced = run.service.fences and self.can_fence
        return may_lack_processes or run.entry.outlives_processes or is_fenced

    def _objection(self, service: ServicePlan) -> str | None:
        if self._is_closed:
            return "the keeper is about to end"
        if (why_not := self.refusal(service.workload)) is not None:
            self._is_refused |= why_not == _NO_CGROUP
            return why_not
        if service.id in self._leftovers:
            return self._leftovers[service.id]
        if service.id in self._by_id:
            return "its former run has not ended yet"
        if not self._free_slots:
            return f"this node runs {_SLOTS} services already"
        return None

    def _add(self, entry: Entry, number: int) -> _Run:
        service_id = entry.service.id
        cgroup = None if self._cgroup is None else self._cgroup / _folder(service_id)
        assert number not in self._runs, number
        run = _Run(entry, number, self._free_slots.pop(), cgroup)
        self._runs[number] = self._by_id[service_id] = run
        return run

    def _tell(self, outcome: Outcome) -> None:
        asyncio.get_running_loop().call_soon(self._pass_on, outcome)

    def _pass_on(self, outcome: Outcome) -> None:
        if not self._is_closed:
            self._on_outcome(outcome)

    def _take(self, answer: dict[str, Any]) -> None:
        """Take what the leash says of a run."""
        run = self._runs.get(answer["run"])
        if run is None:  # it ended before the leash heard that it was to be stopped
            return
        kind = answer["kind"]
        run.is_active = kind == "Started"
        run.is_to_stop |= not run.is_active
        if kind in ("Stopped", "StopFailed") and run.overdue is not None:
            run.overdue.cancel()
            run.overdue = None
        run.complaint = answer["message"]
        if kind == "StopFailed":
            self._note(run, msgspec.structs.replace(run.entry, is_in_doubt=True))
        if kind == "Started" and run.entry.outlives_processes and answer["hasProcesses"]:
            self._note(run, msgspec.structs.replace(run.entry, outlives_processes=False))
        if kind == "Stopped":
            self._forget(run)
        elif run.number > 0:
            self._tell(Outcome(run.service.id, run.number, kind, answer["message"]))

    def _forget(self, run: _Run) -> None:
        """Nothing is left of it."""
        del self._runs[run.number], self._by_id[run.service.id]
        self._free_slots.append(run.slot)
        self._has_ended.set()
        if run.number > 0:
            self._tell(Outcome(run.service.id, run.number, "Stopped"))
        self._forget_leftover(run.service.id)

    def _forget_leftover(self, service_id: str) -> None:
        """One thing is gone that might be all that is left of it."""
        if service_id in self._by_id or service_id in self._refused or service_id in self._outlasting:
            return
        if self._ledger is not None and not self._is_closed:  # a leash that is to end has no more doubts
            self._ledger.cross_out(service_id)
        self._left.pop(service_id, None)
        if self._leftovers.pop(service_id, None) is not None:
            self._tell(Outcome(service_id, 0, "Stopped"))

    def _expect(self, run: _Run) -> None:
        """From now on its leash has the stop timeout for it."""
        run.asked_at_s = asyncio.get_running_loop().time()
        self._arm(run)

    def _arm(self, run: _Run) -> None:
        """Count the time in which its leash is to have stopped it."""
        if run.overdue is not None:
            run.overdue.cancel()
        at_s = run.asked_at_s + run.service.stop_timeout_ms / 1000 + _GRACE_S
        run.overdue = asyncio.get_running_loop().call_at(at_s, self._kill, run)

    def _kill(self, run: _Run) -> None:
        """Kill what the leash, which stands still, should have killed; and the leash, if it stays so."""
        if run.cgroup is not None:
            run.cgroup.kill()
        loop = asyncio.get_running_loop()
        if run.service.fences and self.can_fence:
            run.overdue = loop.call_later(_FENCE_S, self._end_node, run)
        else:
            run.overdue = loop.call_later(_ANSWER_S, self._kill_leash)

    def _end_node(self, run: _Run) -> None:
        """Fence this node in the place of a leash that has not answered."""
        assert self._fence is not None
        if not run.is_sent:
            self._kill_leash()
            return
        _log.critical("%s may still run and nothing answers for it: this node ends itself", run.service.title)
        _log.critical("%s", leash_fence.end_node(self._fence))
        self._kill_leash()

    async def _outlast(self, service_id: str, leftover: Cgroup) -> None:
        """Wait for what could not be killed."""
        await leftover.emptied()
        await leftover.remove()
        self._outlasting.discard(service_id)
        self._forget_leftover(service_id)

    def _order(self, order: dict[str, Any]) -> None:
        line = json.dumps(order).encode() + b"\n"
        if self._writer is not None:
            self._writer.write(line)
            if (run := self._runs.get(order.get("run", 0))) is not None:
                run.is_sent = True
            return
        self._unsent.append(line)
        self.prepare()

    async def _serve(self) -> None:
        """Start the leash and listen to it until it ends; kill then what it ran."""
        why = "the process that services hang on ended: they were killed"
        loop = asyncio.get_running_loop()
        if loop.time() < self._next_leash_at:
            await asyncio.sleep(self._next_leash_at - loop.time())
        self._next_leash_at = loop.time() + _NEXT_LEASH_S
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = self._spawn_leash(theirs)
            await self._listen(ours)
        except OSError as error:
            why = f"the process that services hang on does not work: {error}"
        finally:
            self._writer = None
            self._unsent.clear()
            self._is_serving = False
            process, self._process = self._process, None
            if self._cgroup is not None and not self._is_left_to_leash:
                self._cgroup.kill()
            self._mourn(why)
            if process is not None:
                if self._is_left_to_leash:
                    realtime.leave(process)
                else:
                    await realtime.reap(process)

    def _spawn_leash(self, connection: socket.socket) -> subprocess.Popen[bytes]:
        cgroup = NO_CGROUP if self._cgroup is None else str(self._cgroup.path)
        command = [sys.executable, "-m", "vipagent.leash", str(self._hooks_dir), str(self._ocf_root), cgroup]
        command += [str(self._memory), self._fence or NO_FENCE]
        return realtime.spawn(
            command, stdin=connection.fileno(), pass_fds=(self._memory,), start_new_session=True
        )

    async def _listen(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=_LINE_BYTES)
        try:
            with contextlib.suppress(ConnectionError):
                if not await reader.readline():  # its hello
                    return
                # One write: asyncio of Python 3.13 fails when it is to write no lines at all.
                writer.write(b"".join(self._unsent))
                self._unsent.clear()
                for run in self._runs.values():
                    run.is_sent |= run not in self._buried
                self._writer = writer
                while line := await reader.readline():
                    self._take(json.loads(line))
        finally:
            writer.transport.abort()

    def _kill_leash(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _mourn(self, why: str) -> None:
        """Tell what became of what the leash ran; each is told to be gone as soon as it is."""
        if self._is_closed:
            return
        lost = [run for run in self._runs.values() if run not in self._buried]
        if lost:
            _log.error("%s", why)
        for run in lost:
            if not run.is_to_stop and run.number > 0:
                kind: Literal["Died", "StartFailed"] = "Died" if run.is_active else "StartFailed"
                self._tell(Outcome(run.service.id, run.number, kind, why))
            run.is_to_stop = True
            # What a former keeper left (below 0) may run without any order of this one.
            may_run = run.is_sent or run.number < 0
            if may_run and _may_go_on(run.entry):
                self._order({"run": run.number, "end": run.order()})  # by a new leash
            else:
                self._buried[run] = _keep(self._waits, self._bury(run))

    async def _bury(self, run: _Run) -> None:
        """Wait until nothing is left of what was killed."""
        if run.cgroup is not None:  # a unit needs none
            if not await _emptied(run.cgroup, _KILL_S):
                self._tell(Outcome(run.service.id, run.number, "StopFailed", _about(run.cgroup)))
                await run.cgroup.emptied()
            await run.cgroup.remove()
        if run.overdue is not None:
            run.overdue.cancel()
        del self._buried[run]
        self._forget(run)


def _outlives_its_processes(service: ServicePlan) -> bool:
    """Tell whether a leash is needed to know that it has ended, or to end the node where it has not."""
    return service.workload.exec is None or service.fences


def _may_have_no_process(workload: Workload) -> bool:
    """Tell whether hooks may start it without a process in its cgroup, and another one would end it."""
    scripts = workload.exec
    return scripts is not None and scripts.status is not None and scripts.stop is not None


def _may_go_on(entry: Entry) -> bool:
    """Tell whether it takes a leash to know that nothing is left, though its cgroup be empty."""
    return entry.is_in_doubt or entry.outlives_processes or _outlives_its_processes(entry.service)


def _doubted(entry: Entry) -> Entry:
    """Its stop hook may have been killed in the middle, or not have been run."""
    scripts = entry.service.workload.exec
    has_stop_hook = scripts is not None and scripts.stop is not None
    return msgspec.structs.replace(entry, is_in_doubt=True) if has_stop_hook else entry


def _populated(cgroup: Cgroup) -> dict[str, Cgroup]:
    """Return the cgroups of services in which there is a process, by id."""
    return {
        unquote(each.path.name): each
        for each in cgroup.children
        if each.path.name != LEASH_CGROUP and each.is_populated
    }


def _mount_refusal() -> str | None:
    return None if shutil.which("mount", path=ENVIRONMENT["PATH"]) is not None else _NO_MOUNT


def _folder(service_id: str) -> str:
    return quote(service_id, safe="")


def _about(cgroup: Cgroup) -> str:
    pids = ", ".join(map(str, sorted(cgroup.pids())))
    return f"it was killed, but its processes {pids} hang in the kernel: see what they wait for"


def _keep(tasks: set[asyncio.Task[None]], coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """Run it as a task; should it raise, that is an error of a callback of the loop."""

    def end(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled():
            task.result()

    task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(end)
    return task


async def _emptied(cgroup: Cgroup, within_s: float) -> bool:
    try:
        await asyncio.wait_for(cgroup.emptied(), within_s)
    except TimeoutError:
        return False
    return True
