"""The courier's shell: loops between the watch on the cluster, the link and the API server, and votes.

- Whenever the watch has news, and only once it has a complete listing of every kind, the plan is made
  anew and offered to the link if it differs from the last.
- Whenever the keeper reports (or falls silent), the VIPNode's status is decided anew and applied if it
  differs, after a pause that grows while news keep coming. The VIPNode is made when it is missing. Its
  owner is the Node, with which Kubernetes deletes it; so none is made where there is no Node, for it would
  stay for ever. It is not watched: nobody else writes it, and to watch it would bring every node's every
  change to every courier. It is read again every `REREAD_S`, so that one deleted or edited by hand is put
  right.
- The link keeps itself connected.
- While health checks ask for Pods (`pods`), these are listed, `MOST_LOOKS` times every `LOOK_S`. What is
  found is part of the plan, which is made anew when that changes.
- The API server's votes that the keeper wants are asked for by `voting`, in a thread of its own. A keeper
  that is gone wants none. Votes that were won for what a keeper wants no more are not told.

An API server that is away is waited for: the keeper has its plan, and the newest report is applied when
the server is back. What no waiting heals (RBAC, a missing kind) ends the process through `Blind`, for a
courier that cannot see should be seen; the keeper goes on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

import msgspec

from vipapi import nodeplan
from vipapi.link import VotesWanted
from vipapi.resources import VIPNode, VIPNodeStatus, parse, to_dict
from vipcluster.client import (
    FAILOVER_DOMAINS,
    NODES,
    PODS,
    SECRETS,
    SERVICE_FAILOVERS,
    VIP_NODES,
    VIRTUAL_IPS,
    ApiError,
    Forbidden,
    NotFound,
    Unavailable,
)
from vipcluster.watch import Watch
from vipcourier import metrics, pods, status
from vipcourier.link import Link
from vipcourier.planning import Planner, Sources
from vipcourier.voting import Voting
from viphealth.conversation import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from pathlib import Path

    from vipapi.healthchecks import Pods
    from vipapi.link import Votes
    from vipapi.nodeplan import PodsFact
    from vipapi.nodestatus import Report
    from vipcluster.client import Cluster

MANAGER = "vipkeeper-courier"
WATCHED = (VIRTUAL_IPS, SERVICE_FAILOVERS, FAILOVER_DOMAINS, NODES, SECRETS)
PLAN_PAUSE_S = 0.01
WRITE_PAUSE_S = 0.05
LONGEST_WRITE_PAUSE_S = 2.0
REREAD_S = 30.0
LOOK_S = 1.0
MOST_LOOKS = 16
FIRST_RETRY_S = 0.2
LAST_RETRY_S = 2.0
WITHHELD = (
    "no plan is sent, for the keeper knows some of this from before and would let it go: it goes on with the "
    "plan that it has; run a version of vipkeeper that can read it, or take out what this one cannot read"
)
REMEDIES = {
    Forbidden: "bind the courier's service account to its ClusterRole and, for Secrets, its Role",
    NotFound: "install vipkeeper's CRDs, those of this version, before its node agents",
}

Given = ParamSpec("Given")

_log = logging.getLogger(__name__)


class Blind(Exception):  # noqa: N818 - reads as what the courier is
    """The courier cannot see what it needs, and waiting does not help; the message says what does."""


class _Own(NamedTuple):
    """This node's VIPNode as the API server last showed it."""

    generation: int
    version: str
    status: VIPNodeStatus


class Courier:
    """One node's courier. Made inside a running event loop; `run` returns when `stop` is set."""

    def __init__(
        self, *, node: str, namespace: str, socket: Path, cluster: Cluster, for_votes: Cluster
    ) -> None:
        self._node = node
        self._cluster = cluster
        self._loop = asyncio.get_running_loop()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="api")
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pods")
        self._planner = Planner(node)
        self._facts = pods.Facts()
        self._asked = asyncio.Event()
        self._news = asyncio.Event()
        self._watch = Watch(
            cluster, WATCHED, namespace=namespace, on_news=self._from_a_thread(self._news.set)
        )
        self._link = Link(
            socket,
            on_report=self._take_report,
            on_wanted=self._take_wanted,
            on_absence=self._take_absence,
            on_sent=metrics.plans_sent.inc,
            on_bad_line=metrics.refused_lines.inc,
        )
        self._votes_wanted = VotesWanted()
        self._voting = Voting(
            for_votes,
            namespace=namespace,
            manager=MANAGER,
            on_votes=self._from_a_thread(self._take_votes),
        )
        self._to_write = asyncio.Event()
        self._report: Report | None = None
        self._withheld_for = frozenset[str]()
        self._absence: str | None = "the courier has not reached the keeper yet"
        self._absent_since = self._loop.time()
        self._own: _Own | None = None
        self._written: VIPNodeStatus | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Carry until told to stop; raises `Blind`."""
        self._watch.start()
        self._voting.start()
        stopping: Coroutine[Any, Any, Any] = stop.wait()
        tasks = [
            asyncio.create_task(each)
            for each in (stopping, self._plan(), self._look(), self._write(), self._link.run())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for threads in (self._writer, self._reader):
                threads.shutdown(wait=False, cancel_futures=True)
            await self._loop.run_in_executor(None, self._voting.stop, 1.0)
            await self._loop.run_in_executor(None, self._watch.stop, 1.0)

    def health(self) -> Health:
        """Say how this courier is, to be called from its loop.

        Ready is who is connected to the keeper and has seen everything once, and so has offered a plan. It
        stays so when the API server goes away: the plan stands, and no other courier would see more.
        """
        sick = "" if self._watch.is_running else "a thread of its watch has ended"
        if self._absence is not None:
            return Health(sick, f"no keeper: {self._absence}")
        is_complete = self._watch.is_complete
        return Health(sick, "" if is_complete else "the API server has not listed every kind to it yet")

    async def _plan(self) -> None:
        line = b""
        told: tuple[str, ...] = ()
        while True:
            await self._news.wait()
            self._news.clear()
            if self._watch.failure is not None:
                failure = self._watch.failure
                remedy = REMEDIES.get(type(failure), "look at the API server")
                raise Blind(f"{failure}: {remedy}")
            if not self._watch.is_complete:
                continue
            began = self._loop.time()
            sources = Sources(*(self._watch.documents(resource) for resource in WATCHED))
            plan, problems, unknown = self._planner.plan(sources)
            self._withheld_for = unknown if self._is_known_to_keeper(unknown) else frozenset()
            if self._withheld_for:
                problems = (*problems, WITHHELD)
            if problems != told:
                for problem in problems:
                    _log.error("Left out of the plan, or kept as it was: %s", problem)
                told = problems
                metrics.plan_problems.set(len(problems))
            if self._withheld_for:
                await asyncio.sleep(PLAN_PAUSE_S)
                continue
            self._facts.ask(pods.asked(plan))
            if self._facts.is_asked:
                self._asked.set()
            newest = nodeplan.encode(msgspec.structs.replace(plan, facts=self._facts.known))
            if newest != line:
                line = newest
                metrics.plan_bytes.set(len(line))
                self._link.offer(line)
            # A big world costs at most half of this process's time, however often it changes.
            await asyncio.sleep(max(PLAN_PAUSE_S, self._loop.time() - began))

    def _is_known_to_keeper(self, unknown: frozenset[str]) -> bool:
        """Whether the keeper may have some of this in its plan; as long as it has not reported, it may."""
        if not unknown or self._report is None:
            return bool(unknown)
        report = self._report
        known = [each.uid for each in report.virtual_ips]
        known += [each.uid for each in report.domains]
        known += [each.uid for each in report.services]
        return not unknown.isdisjoint(known)

    async def _look(self) -> None:
        is_failing = False
        while True:
            await self._asked.wait()
            if not self._facts.is_asked:
                self._asked.clear()
                continue
            began = self._loop.time()
            error = await self._look_at(self._facts.due(MOST_LOOKS))
            if error is not None:
                remedy = REMEDIES[Forbidden] if isinstance(error, Forbidden) else "it is tried again"
                _log.log(
                    logging.DEBUG if is_failing else logging.WARNING,
                    "The Pods of health checks could not be listed, what was known stays: %s: %s",
                    error,
                    remedy,
                )
            is_failing = error is not None
            await asyncio.sleep(max(0.0, LOOK_S - (self._loop.time() - began)))

    async def _look_at(self, probes: Iterable[Pods]) -> ApiError | None:
        """Learn what is so; returns the last error. One that is refused holds no other up."""
        last: ApiError | None = None
        for probe in probes:
            try:
                if self._facts.learn(await self._find(probe)):
                    self._news.set()
            except ApiError as error:
                last = error
                metrics.api_errors.labels(type(error).__name__).inc()
                if isinstance(error, Unavailable):
                    break
        return last

    async def _find(self, probe: Pods) -> PodsFact:
        """List Pods on this node; raises `ApiError` for all that says nothing of them."""

        def look() -> PodsFact:
            listing = self._cluster.list(
                PODS,
                namespace=probe.namespace or "",
                labels=pods.label_selector(probe),
                fields=f"spec.nodeName={self._node}",
            )
            return pods.found(probe, listing.documents)

        try:
            return await self._loop.run_in_executor(self._reader, look)
        except ApiError as error:
            if error.status == http.client.BAD_REQUEST:
                return pods.refused(probe, str(error))
            raise

    def _take_report(self, report: Report) -> None:
        metrics.reports_received.inc()
        if report.node != self._node:
            why = f"the keeper on the socket is that of node {report.node}: give both the same --node"
            _log.error("A report is dropped: %s", why)
            self._take_absence(why)
            return
        metrics.keeper_connected.set(1)
        self._report, self._absence = report, None
        self._to_write.set()
        if self._withheld_for and not self._is_known_to_keeper(self._withheld_for):
            self._news.set()

    def _take_wanted(self, wanted: VotesWanted) -> None:
        strangers = {each.holder for each in wanted.wanted if not each.holder.startswith(f"{self._node}_")}
        if strangers:
            # It says so of its reports too, and that is where it is told.
            _log.error("Votes wanted for %s are not asked for: this is %s", sorted(strangers), self._node)
            wanted = VotesWanted()
        self._votes_wanted = wanted
        self._voting.want(wanted)

    def _take_votes(self, wanted: VotesWanted, votes: Votes) -> None:
        if wanted == self._votes_wanted:
            self._link.tell(votes)

    def _take_absence(self, why: str | None) -> None:
        self._take_wanted(VotesWanted())
        if why is None:
            return
        metrics.keeper_connected.set(0)
        if self._absence is None:
            self._absent_since = self._loop.time()
        self._absence = why
        self._loop.call_later(status.PATIENCE_S, self._to_write.set)

    async def _write(self) -> None:
        retry_s, pause_s = FIRST_RETRY_S, WRITE_PAUSE_S
        while True:
            is_due = True
            try:
                async with asyncio.timeout(REREAD_S):
                    await self._to_write.wait()
            except TimeoutError:
                is_due = False
            self._to_write.clear()
            try:
                if not is_due:
                    await self._reread()
                await self._apply()
            except ApiError as error:
                metrics.api_errors.labels(type(error).__name__).inc()
                remedy = REMEDIES[Forbidden] if isinstance(error, Forbidden) else "it is tried again"
                _log.log(
                    logging.WARNING if retry_s == FIRST_RETRY_S else logging.DEBUG,
                    "The VIPNode could not be written: %s: %s",
                    error,
                    remedy,
                )
                self._to_write.set()
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)
                continue
            if retry_s != FIRST_RETRY_S:
                _log.info("The VIPNode is written again")
            retry_s = FIRST_RETRY_S
            await asyncio.sleep(pause_s)
            pause_s = next_write_pause_s(pause_s, is_busy=self._to_write.is_set())

    async def _apply(self) -> None:
        """Write the status where it differs; raises `ApiError`."""
        if not self._is_known():
            return
        if self._own is None:
            await self._reread()
        own = self._own
        assert own is not None
        wanted = self._wanted(own)
        if wanted in (own.status, self._written):
            return
        try:
            document = await self._ask(
                lambda: self._cluster.apply_status(VIP_NODES, self._node, to_dict(wanted), manager=MANAGER)
            )
        except NotFound:
            # Deleted meanwhile: it is made anew at the next try.
            self._own = self._written = None
            raise
        self._own, self._written = _read(document), wanted
        metrics.reports_applied.inc()

    async def _reread(self) -> None:
        """Read the VIPNode, or make it; raises `ApiError`."""
        try:
            document = await self._ask(lambda: self._cluster.get(VIP_NODES, self._node))
        except NotFound:
            document = await self._ask(self._make)
            _log.info("Made the VIPNode %s", self._node)
        own = _read(document)
        if self._own is None or own.version != self._own.version:
            self._own, self._written = own, None

    def _make(self) -> dict[str, Any]:
        """Make the VIPNode, which goes when its Node goes; raises `NotFound` where there is no Node."""
        node = self._cluster.get(NODES, self._node)
        owner = {
            "apiVersion": NODES.api_version,
            "kind": NODES.kind,
            "name": self._node,
            "uid": node["metadata"]["uid"],
        }
        metadata = {"name": self._node, "ownerReferences": [owner]}
        return self._cluster.create(VIP_NODES, {"metadata": metadata}, manager=MANAGER)

    def _is_known(self) -> bool:
        """Whether there is something to say: a report, or a silence that has lasted."""
        return self._absence is None or self._loop.time() - self._absent_since >= status.PATIENCE_S

    def _wanted(self, own: _Own) -> VIPNodeStatus:
        now = datetime.now(UTC)
        if self._absence is None:
            assert self._report is not None
            return status.of_report(self._report, before=own.status, generation=own.generation, now=now)
        return status.of_silence(self._absence, before=own.status, generation=own.generation, now=now)

    async def _ask(self, request: Callable[[], Any]) -> Any:
        """Run a request in the one thread that makes them."""
        return await self._loop.run_in_executor(self._writer, request)

    def _from_a_thread(self, call: Callable[Given, None]) -> Callable[Given, None]:
        def from_a_thread(*given: Given.args, **named: Given.kwargs) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(partial(call, *given, **named))

        return from_a_thread


def next_write_pause_s(last_s: float, *, is_busy: bool) -> float:
    """Return how long to write nothing after the next write, `last_s` after the last one.

    `is_busy` is whether something changed in that time. What changes once is written at once. Where a
    thousand addresses start or move, every node has news all the time, and each write has the whole of it: so
    the longer that goes on, the more rarely.
    """
    return min(2 * last_s, LONGEST_WRITE_PAUSE_S) if is_busy else WRITE_PAUSE_S


def _read(document: dict[str, Any]) -> _Own:
    metadata = document["metadata"]
    try:
        known = parse(VIPNode, document).status
    except ValueError:
        # A status that a newer version wrote: it is replaced whole.
        known = VIPNodeStatus()
    return _Own(metadata["generation"], metadata["resourceVersion"], known)
