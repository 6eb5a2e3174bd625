"""The door to the API server for watching: the only module that imports kopf.

kopf streams the changes; what there is stands in our own `Shelf` of each resource. kopf is used for
nothing else, because everything else it offers writes: its `on.create/update/delete` copy specs into
annotations, daemons and timers add finalizers, indexes make start-up superlinear, return values land
in status. `on.event` handlers that return nothing write nothing at all.

Three threads stand behind a `Watch`: kopf's, with an event loop of its own; one that lists; and the
callers', who take `documents` and `wait` for news. Listing is ours for two reasons. A change says
nothing about completeness, and nothing may be called missing before the first complete listing. And
kopf does not tell of objects that were deleted while it was away: when the server has forgotten the
version to resume from (always, when the server itself was restarted), kopf lists anew and shows what
is there, not what is gone. So whenever kopf has listed a resource, or could not, we list it as well: our
listing is the newer one, and what changes after kopf's comes by its watch. kopf has no word for that, and of
a resource that is empty it shows nothing at all. The HTTP session is therefore ours, and says which requests
were made and answered. Besides, we list once a minute in any case.

kopf looks once, when it starts, which kinds the server serves, and never watches one that it did not find. A
server that has just started tells of its CRDs a moment later than of its own kinds. So where kopf has asked
for all that it wanted, and that is not all that we want, it is started anew.

An API server that is gone without a word, with its node say, is noticed by TCP keepalives: a watch sends
nothing and would wait for ever.

An API server that is away is waited for: kopf retries every half second, is started anew when it gives
up, and the lists are retried every second, each by itself: a kind that cannot be listed keeps no other from
being listed. What does not heal is told as `failure`: a refusal by RBAC, or a kind that is not installed,
that lasts longer than `PATIENCE_S`. A process that cannot see should end and say why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import kopf

from vipcluster.client import ApiError, Forbidden, NotFound, lean
from vipcluster.store import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vipcluster.client import Cluster, Connection, Resource
    from vipcluster.store import Document

RESYNC_S = 60.0
RETRY_S = 1.0
PATIENCE_S = 10.0
RECONNECT_S = 0.5
LOOK_S = 0.5
BACKOFF_S = 0.2
KEEPALIVE_IDLE_S = 10
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_PROBES = 3
SETTLED_S = 2.0
"""Longer than kopf waits before it tries again, and before it watches what it has found."""

_logger = logging.getLogger(__name__)


class _Requests:
    """The requests that kopf has made since it was started, as the HTTP sessions tell of them."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self._under_way = 0
        self._latest_s = time.monotonic()

    def begin(self, path: str) -> None:
        """A request is sent."""
        self.paths.add(path)
        self._under_way += 1
        self._latest_s = time.monotonic()

    def end(self) -> None:
        """A request was answered, or failed."""
        self._under_way -= 1
        self._latest_s = time.monotonic()

    @property
    def have_settled(self) -> bool:
        """Whether kopf waits for nothing but changes."""
        return not self._under_way and time.monotonic() - self._latest_s > SETTLED_S


class Watch:
    """Keeps a `Shelf` for each resource up to date.

    Namespaced resources are watched in `namespace` only, but those that are of interest everywhere in all
    of them; each of the two takes an operator of kopf's. `on_news` is called, from threads of the
    watch, whenever `wait` would return: for callers that wait in an event loop of their own.
    """

    def __init__(
        self,
        cluster: Cluster,
        resources: Sequence[Resource],
        *,
        namespace: str = "",
        resync_s: float = RESYNC_S,
        on_news: Callable[[], None] | None = None,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._resync_s = resync_s
        self._on_news = on_news
        self._changed = threading.Condition()
        self._shelves = {resource: Shelf() for resource in resources}
        self._has_news = False
        self._to_list = set(resources)
        self._interrupted: set[Resource] = set()
        self._refused_since: dict[Resource, float] = {}
        self._failures: dict[Resource, ApiError] = {}
        self._is_stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._stop_kopf: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to list and to watch."""
        for target in (self._keep_listing, self._keep_watching):
            thread = threading.Thread(target=target, name=f"watch{target.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End both threads; returns when they have ended, or after the timeout (they are daemons)."""
        self._is_stopping.set()
        with self._changed:
            stop_kopf = self._stop_kopf
            self._changed.notify_all()
        if stop_kopf is not None:
            stop_kopf()
        for thread in self._threads:
            thread.join(timeout_s)

    @property
    def is_running(self) -> bool:
        """Whether both threads are there, which end only when they are told to."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def is_complete(self) -> bool:
        """Whether the first complete listing of every resource has arrived."""
        with self._changed:
            return all(shelf.is_complete for shelf in self._shelves.values())

    @property
    def failure(self) -> ApiError | None:
        """What keeps the watch from seeing and will not heal by itself; None while all is well."""
        with self._changed:
            return next(iter(self._failures.values()), None)

    def documents(self, resource: Resource) -> tuple[Document, ...]:
        """Return every object of a resource, in the order of their names, `lean`. Not to be modified."""
        with self._changed:
            return self._shelves[resource].documents()

    def put(self, resource: Resource, document: Document) -> None:
        """Take in an object that the API server answered a write with, ahead of the watch."""
        with self._changed:
            if self._shelves[resource].put(lean(document)):
                self._tell()

    def wait(self, timeout_s: float) -> bool:
        """Wait until there is news since the last call; returns whether there was."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_news or self._is_stopping.is_set(), timeout_s)
            news, self._has_news = self._has_news, False
            return news

    def wake(self) -> None:
        """Make `wait` return now."""
        with self._changed:
            self._tell()

    def _tell(self) -> None:
        self._has_news = True
        self._changed.notify_all()
        if self._on_news is not None:
            self._on_news()

    def _keep_listing(self) -> None:
        next_resync = time.monotonic() + self._resync_s
        while not self._is_stopping.is_set():
            with self._changed:
                self._changed.wait_for(
                    lambda: bool(self._to_list) or self._is_stopping.is_set(), next_resync - time.monotonic()
                )
                if time.monotonic() >= next_resync:
                    self._to_list.update(self._shelves)
                wanted, self._to_list = sorted(self._to_list), set()
            if time.monotonic() >= next_resync:
                next_resync = time.monotonic() + self._resync_s
            failed = {resource for resource in wanted if not self._list(resource)}
            if failed:
                self._is_stopping.wait(RETRY_S)
                with self._changed:
                    self._to_list |= failed

    def _list(self, resource: Resource) -> bool:
        """List a resource; returns whether that could be done."""
        if self._is_stopping.is_set():
            return False
        try:
            listing = self._cluster.list(resource, namespace=self._namespace_of(resource), is_lean=True)
        except ApiError as error:
            if resource not in self._interrupted:
                _logger.warning("The watch is interrupted", extra={"error": str(error)})
            self._interrupted.add(resource)
            self._judge(resource, error)
            return False
        self._interrupted.discard(resource)
        self._refused_since.pop(resource, None)
        with self._changed:
            self._failures.pop(resource, None)
            if self._shelves[resource].replace(listing.documents, listing.version):
                self._tell()
        return True

    def _judge(self, resource: Resource, error: ApiError) -> None:
        """Make a refusal a failure once it has lasted.

        An API server that has just started refuses everything for a moment.
        """
        if not isinstance(error, Forbidden | NotFound):
            self._refused_since.pop(resource, None)
            return
        now = time.monotonic()
        if resource not in self._refused_since:
            self._refused_since[resource] = now
        elif now - self._refused_since[resource] >= PATIENCE_S:
            with self._changed:
                self._failures[resource] = error
                self._tell()

    def _keep_watching(self) -> None:
        while not self._is_stopping.is_set():
            try:
                # kopf looks once what the server serves and would never watch a kind that came later.
                if all(self._cluster.serves(resource) for resource in self._shelves):
                    asyncio.run(self._watch())
            except Exception as error:  # noqa: BLE001 - whatever ended kopf, it is started anew; the lists judge
                _logger.debug("The watch ended and is begun anew", extra={"error": repr(error)})
            self._is_stopping.wait(RECONNECT_S)

    async def _watch(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        # kopf leaves tasks that failed while it was stopped to nobody: the lists have judged why.
        loop.set_exception_handler(_note_failure)

        def stop_kopf() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(stop.set)

        with self._changed:
            self._stop_kopf = stop_kopf
            if self._is_stopping.is_set():
                return
        sessions: list[aiohttp.ClientSession] = []
        requests = _Requests()
        parts: list[asyncio.Task[None]] = []
        try:
            for namespace in sorted({self._namespace_of(resource) for resource in self._shelves}):
                parts += await kopf.spawn_tasks(
                    registry=self._registry(namespace, sessions, requests),
                    settings=_settings(),
                    standalone=True,
                    stop_flag=stop,
                    clusterwide=not namespace,
                    namespaces=[namespace] if namespace else [],
                )
            # When a part of one gives up or has overlooked something, all are begun anew.
            while not any(part.done() for part in parts):
                await asyncio.wait(parts, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if requests.have_settled and not all(map(self._is_among(requests.paths), self._shelves)):
                    _logger.debug("The API server did not yet tell of every kind; the watch is begun anew")
                    break
        finally:
            stop.set()
            await _end_kopf()
            for session in sessions:
                await session.close()  # kopf closes those only that it has used

    def _namespace_of(self, resource: Resource) -> str:
        """Return the only namespace in which the resource is watched; empty: there is no such limit."""
        return self._namespace if resource.is_namespaced and not resource.is_everywhere else ""

    def _is_among(self, paths: set[str]) -> Callable[[Resource], bool]:
        """Return what tells whether a resource is listed or watched at one of these paths."""
        return lambda resource: any(
            path.endswith(resource.path(namespace=self._namespace_of(resource))) for path in paths
        )

    def _registry(
        self, namespace: str, sessions: list[aiohttp.ClientSession], requests: _Requests
    ) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        async def login(**_: Any) -> kopf.AiohttpSession:
            connection = self._cluster.connection()
            sessions[:] = [session for session in sessions if not session.closed]
            sessions.append(self._session(connection, requests))
            return kopf.AiohttpSession(server=connection.server, aiohttp_session=sessions[-1])

        kopf.on.login(registry=registry)(login)
        for resource in self._shelves:
            if self._namespace_of(resource) == namespace:
                kopf.on.event(
                    resource.group,
                    resource.version,
                    resource.plural,
                    registry=registry,
                    id=f"see-{resource.plural}",
                )(self._seer(resource))
        return registry

    def _seer(self, resource: Resource) -> Callable[..., Any]:
        async def see(event: kopf.RawEvent, **_: Any) -> None:
            with self._changed:
                self._see(resource, event["type"], lean(dict(event["object"])))

        return see

    def _see(self, resource: Resource, change: str | None, document: Document) -> None:
        shelf = self._shelves[resource]
        if shelf.remove(document) if change == "DELETED" else shelf.put(document):
            self._tell()

    def _session(self, connection: Connection, requests: _Requests) -> aiohttp.ClientSession:
        """Return a session for kopf that tells of its requests."""

        async def begin(_s: object, _c: object, sent: aiohttp.TraceRequestStartParams) -> None:
            requests.begin(sent.url.path)

        async def end(_s: object, _c: object, answered: aiohttp.TraceRequestEndParams) -> None:
            requests.end()
            if not answered.response.ok or "watch" not in answered.url.query:
                self._list_soon(answered.url.path)

        async def fail(_s: object, _c: object, failed: aiohttp.TraceRequestExceptionParams) -> None:
            requests.end()
            self._list_soon(failed.url.path)

        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(begin)
        trace.on_request_end.append(end)
        trace.on_request_exception.append(fail)
        credentials = _credentials(connection)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ssl=credentials.as_ssl_context(), socket_factory=_watched_socket
            ),
            headers=credentials.as_http_headers(),
            trace_configs=[trace],
        )

    def _list_soon(self, path: str) -> None:
        """List what kopf has listed at a path, or could not see."""
        with self._changed:
            found = set(filter(self._is_among({path}), self._shelves))
            if found:
                self._to_list |= found
                self._changed.notify_all()


def _watched_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket whose kernel notices that the peer is gone, though nothing is ever sent to it."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    return made


def _credentials(connection: Connection) -> kopf.ConnectionInfo:
    return kopf.ConnectionInfo(
        server=connection.server,
        ca_path=connection.ca_path,
        ca_data=connection.ca_data,
        certificate_path=connection.certificate_path,
        private_key_path=connection.private_key_path,
        token=connection.token,
        insecure=connection.is_insecure,
    )


async def _end_kopf() -> None:
    """End every task of kopf's in this event loop.

    kopf's own way waits for ever when one kind cannot be watched while the server holds back its answer for
    another one: it cancels the watcher together with the task that tells it to pause, and the watcher may
    take this for a pause. It would go on after `BACKOFF_S`, and is told again before.
    """
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=BACKOFF_S / 2)


def _note_failure(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = repr(context.get("exception") or context["message"])
    _logger.debug("A part of the watch failed", extra={"error": error})


def _settings() -> kopf.OperatorSettings:
    """Return kopf's settings: it reads, it never writes, and it comes back fast."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 2
    settings.networking.error_backoffs = [RECONNECT_S] * 20
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 5
    settings.watching.reconnect_backoff = BACKOFF_S
    settings.watching.chunk_size = 500
    settings.watching.initial_streaming = False  # a listing inside a watch would not be noticed
    settings.queueing.exit_timeout = 0.5
    settings.execution.max_workers = 1
    return settings


# kopf logs every retry of every watch as an error; what matters of it, this module says once.
logging.getLogger("kopf").setLevel(logging.CRITICAL)
