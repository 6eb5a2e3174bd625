"""The door for watching, against a real API server behind a relay that the test can cut."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import socket
import ssl
import threading
import urllib.parse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from apiserver.controllers import follow
from apiserver.fleet import API_VERSION, Fleet, eventually, eventually_equals
from lab.api import manifests_in
from vipcluster.client import (
    FAILOVER_DOMAINS,
    NODES,
    SECRETS,
    SERVICE_FAILOVERS,
    SWITCHOVERS,
    VIP_NODES,
    VIRTUAL_IPS,
    Resource,
    connect,
)
from vipcluster.watch import KEEPALIVE_IDLE_S, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.controlplane import ControlPlane
    from vipcluster.client import Cluster

ROOT = Path(__file__).parents[2]
Object = dict[str, Any]
Watching = "Callable[..., Watch]"


class Relay:
    """Passes connections on to the API server, until it is cut."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._door = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._is_cut = False
        self._open: set[socket.socket] = set()
        self.port: int = self._door.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and let none through."""
        with self._lock:
            self._is_cut = True
            ends = list(self._open)
        for end in ends:
            _hang_up(end)

    def mend(self) -> None:
        with self._lock:
            self._is_cut = False

    def close(self) -> None:
        self.cut()
        self._door.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                is_cut = self._is_cut
                if not is_cut:
                    self._open |= {client, server}
            if is_cut:
                client.close()
                server.close()
                continue
            threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
        for end in (source, sink):
            with self._lock:
                self._open.discard(end)
            _hang_up(end)


class Front(http.server.ThreadingHTTPServer):
    """Passes requests on to the API server, but can refuse the watch of one kind and leave others waiting."""

    daemon_threads = True

    def __init__(self, target: tuple[str, int], authority: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self._target = target
        self._trust = ssl.create_default_context(cafile=str(authority))
        self._streams: dict[str, socket.socket] = {}
        self.refused = ""
        self.held: set[str] = set()
        self.waiting: set[str] = set()
        self.is_closed = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @contextlib.contextmanager
    def ask(self, path: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        """Ask the API server."""
        connection = http.client.HTTPSConnection(*self._target, context=self._trust)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            if "watch=true" in path:
                self._streams[_kind(path)] = connection.sock
            with connection.getresponse() as answer:
                yield answer

    @property
    def watched(self) -> set[str]:
        """The kinds that were watched so far."""
        return set(self._streams)

    def refuse(self, resource: Resource, *, while_waiting: set[Resource]) -> None:
        """End all watches; refuse the next one of one kind, once all others wait in vain for an answer."""
        self.refused, self.held = resource.plural, {other.plural for other in while_waiting}
        for stream in self._streams.values():
            _hang_up(stream)

    def close(self) -> None:
        self.is_closed.set()
        self.shutdown()
        self.server_close()


class _Request(http.server.BaseHTTPRequestHandler):
    """One connection to the `Front`."""

    server: Front

    def do_GET(self) -> None:
        kind = _kind(self.path)
        if "watch=true" in self.path and kind in self.server.held:
            self.server.waiting.add(kind)
            self.server.is_closed.wait()
        elif "watch=true" in self.path and kind == self.server.refused:
            eventually(lambda: self.server.waiting == self.server.held)
            self.server.held, self.server.refused = set(), ""
            self.send_error(http.client.NOT_FOUND)
        else:
            self._pass_on()

    def _pass_on(self) -> None:
        headers = {name: self.headers[name] for name in ("Authorization", "Accept") if name in self.headers}
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            self.server.ask(self.path, headers) as answer,
        ):
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.end_headers()
            while piece := answer.read1(65536):
                self.wfile.write(piece)

    def log_message(self, *_: object) -> None: ...


def _kind(path: str) -> str:
    return urllib.parse.urlsplit(path).path.rpartition("/")[2]


def _hang_up(end: socket.socket) -> None:
    """Close for good: a socket that is only closed stays open for as long as a thread waits in it."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@pytest.fixture
def relay(apiserver: ControlPlane) -> Iterator[Relay]:
    relay = Relay((apiserver.address, apiserver.ports.api))
    yield relay
    relay.close()


@pytest.fixture
def front(apiserver: ControlPlane) -> Iterator[Front]:
    front = Front((apiserver.address, apiserver.ports.api), apiserver.authority)
    yield front
    front.close()


@pytest.fixture
def watching(apiserver: ControlPlane, relay: Relay, tmp_path: Path) -> Iterator[Callable[..., Watch]]:
    """Begin to watch by way of the relay or of another URL, with no resync to the rescue."""
    config = json.loads(apiserver.kubeconfig.read_text())
    path = tmp_path / "kubeconfig"
    begun: list[Watch] = []

    def begin(
        *resources: Resource,
        namespace: str = "",
        url: str = f"https://127.0.0.1:{relay.port}",
        seen_by: Callable[[Cluster], Any] = lambda it: it,
    ) -> Watch:
        config["clusters"][0]["cluster"]["server"] = url
        path.write_text(json.dumps(config))
        cluster = connect(str(path), user_agent="test")
        watch = Watch(seen_by(cluster), resources or (VIRTUAL_IPS, NODES), namespace=namespace, resync_s=3600)
        begun.append(watch)
        watch.start()
        return watch

    yield begin
    for watch in begun:
        watch.stop()


def make(apiserver: ControlPlane, name: str, last: int) -> str:
    """Make a VirtualIP and return its UID."""
    spec = {"addresses": [f"192.0.2.{last}/24"]}
    body = {"apiVersion": API_VERSION, "kind": "VirtualIP", "metadata": {"name": name}, "spec": spec}
    uid: str = apiserver.api.apply(body)["metadata"]["uid"]
    return uid


def names(watch: Watch, resource: Resource = VIRTUAL_IPS) -> list[str]:
    return [document["metadata"]["name"] for document in watch.documents(resource)]


def uids(watch: Watch) -> list[str]:
    return [document["metadata"]["uid"] for document in watch.documents(VIRTUAL_IPS)]


def test_what_was_there_and_what_changes_is_seen(
    apiserver: ControlPlane, watching: Callable[..., Watch]
) -> None:
    make(apiserver, "old", 10)
    watch = watching()
    eventually(lambda: watch.is_complete)
    assert names(watch) == ["old"]
    make(apiserver, "new", 11)
    eventually_equals(lambda: names(watch), ["new", "old"])
    watch.wait(0)
    apiserver.api.merge(API_VERSION, "VirtualIP", "new", {"metadata": {"labels": {"seen": "yes"}}})
    eventually(lambda: watch.wait(1))
    eventually_equals(lambda: watch.documents(VIRTUAL_IPS)[0]["metadata"].get("labels"), {"seen": "yes"})
    assert "managedFields" not in watch.documents(VIRTUAL_IPS)[0]["metadata"]
    apiserver.api.delete(API_VERSION, "VirtualIP", "old")
    eventually_equals(lambda: names(watch), ["new"])


def test_nothing_is_complete_before_every_first_listing(
    apiserver: ControlPlane, relay: Relay, watching: Callable[..., Watch]
) -> None:
    make(apiserver, "web", 10)
    relay.cut()
    watch = watching()
    assert not watch.wait(0.5)
    assert not watch.is_complete
    relay.mend()
    eventually(lambda: watch.is_complete)
    assert names(watch) == ["web"]


def test_what_was_deleted_while_nobody_watched_is_noticed_at_the_reconnect(
    apiserver: ControlPlane, relay: Relay, watching: Callable[..., Watch]
) -> None:
    make(apiserver, "stays", 10)
    make(apiserver, "goes", 11)
    domain = {"apiVersion": API_VERSION, "kind": "FailoverDomain", "metadata": {"name": "goes"}, "spec": {}}
    apiserver.api.apply(domain)
    # Of one resource something is left, of the other one nothing, and each has a watch to itself.
    some, none = watching(VIRTUAL_IPS), watching(FAILOVER_DOMAINS)
    eventually(lambda: some.is_complete and none.is_complete)
    relay.cut()
    apiserver.api.delete(API_VERSION, "VirtualIP", "goes")
    apiserver.api.delete(API_VERSION, "FailoverDomain", "goes")
    make(apiserver, "comes", 12)
    # Restarted, the server has forgotten what happened before: no watch can be resumed.
    apiserver.stop_apiserver()
    apiserver.start_apiserver()
    assert names(some) == ["goes", "stays"], "could not look is not: is not there"
    assert names(none, FAILOVER_DOMAINS) == ["goes"], "could not look is not: is not there"
    relay.mend()
    eventually_equals(lambda: names(some), ["comes", "stays"])
    eventually_equals(lambda: names(none, FAILOVER_DOMAINS), [])


class Hasty:
    """Takes every kind for served, as one does who looked a moment before the API server was restarted."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    def serves(self, resource: Resource) -> bool:
        return bool(resource)


def test_a_kind_that_the_server_tells_of_late_is_watched_all_the_same(
    apiserver: ControlPlane, watching: Callable[..., Watch]
) -> None:
    name = "failoverdomains.vipkeeper.io"
    path = apiserver.api.path_of("apiextensions.k8s.io/v1", "CustomResourceDefinition", name=name)
    apiserver.api.request("DELETE", path)
    try:
        eventually(lambda: apiserver.api.raw("GET", path)[0] == http.client.NOT_FOUND)
        watch = watching(VIRTUAL_IPS, FAILOVER_DOMAINS, seen_by=Hasty)
        make(apiserver, "web", 10)
        eventually_equals(lambda: names(watch), ["web"])
    finally:
        apiserver.api.apply_definitions(manifests_in(ROOT / "crds" / "failoverdomains.yaml"))
    eventually(lambda: watch.is_complete)
    for last in ("first", "second"):
        domain = {"apiVersion": API_VERSION, "kind": "FailoverDomain", "metadata": {"name": last}, "spec": {}}
        apiserver.api.apply(domain)
        eventually(partial(is_there, watch, last))


def is_there(watch: Watch, domain: str) -> bool:
    return domain in names(watch, FAILOVER_DOMAINS)


def test_a_watch_that_is_refused_while_others_wait_for_an_answer_is_begun_anew(
    apiserver: ControlPlane, front: Front, watching: Callable[..., Watch]
) -> None:
    others = {FAILOVER_DOMAINS, SERVICE_FAILOVERS, SWITCHOVERS, VIP_NODES, NODES}
    watch = watching(VIRTUAL_IPS, *others, url=f"http://127.0.0.1:{front.server_port}")
    make(apiserver, "first", 10)
    eventually_equals(lambda: names(watch), ["first"])
    eventually_equals(lambda: front.watched, {resource.plural for resource in (VIRTUAL_IPS, *others)})
    front.refuse(VIRTUAL_IPS, while_waiting=others)
    eventually(lambda: front.waiting and not front.held)
    apiserver.api.delete(API_VERSION, "VirtualIP", "first")
    eventually_equals(lambda: names(watch), [])
    for last in (11, 12):  # the first one could be seen by a listing, the second one by a watch only
        make(apiserver, f"web-{last}", last)
        eventually(lambda last=last: f"web-{last}" in names(watch))
    watch.stop()
    assert not watch.is_running


def test_a_server_that_is_gone_without_a_word_is_noticed_by_the_kernel(
    relay: Relay, watching: Callable[..., Watch]
) -> None:
    watching(VIRTUAL_IPS, NODES)
    eventually(lambda: len(keepalives(relay.port)) >= 2)
    assert max(keepalives(relay.port)) <= KEEPALIVE_IDLE_S


def keepalives(port: int) -> list[float]:
    """Return when the kernel will ask the peers of connections to a local port whether they are there, in s.

    Lines of /proc/net/tcp: number, local and remote address, state, queues, `timer:when` in hundredths.
    """
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    timers = (fields[5].split(":") for fields in lines if fields[2].endswith(f":{port:04X}"))
    return [int(when, 16) / 100 for timer, when in timers if timer == "02"]


def test_an_object_made_anew_under_its_name_is_another_one(
    apiserver: ControlPlane, watching: Callable[..., Watch]
) -> None:
    before = make(apiserver, "web", 10)
    watch = watching()
    eventually(lambda: watch.is_complete)
    apiserver.api.delete(API_VERSION, "VirtualIP", "web")
    after = make(apiserver, "web", 11)
    assert before != after
    eventually_equals(lambda: uids(watch), [after])


def test_a_namespaced_resource_is_watched_in_its_namespace_or_everywhere(
    apiserver: ControlPlane, watching: Callable[..., Watch]
) -> None:
    for namespace in ("inside", "outside"):
        apiserver.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"of-{namespace}", "namespace": namespace},
        }
        apiserver.api.apply(secret)
        follow(Fleet(apiserver.api), "billing", "web", namespace=namespace)
    watch = watching(SECRETS, SERVICE_FAILOVERS, NODES, namespace="inside")
    eventually(lambda: watch.is_complete)
    for namespace in ("inside", "outside"):
        metadata = {"name": "more", "namespace": namespace}
        apiserver.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata})
        follow(Fleet(apiserver.api), "more", "web", namespace=namespace)
    eventually_equals(lambda: names(watch, SECRETS), ["more", "of-inside"])
    eventually_equals(lambda: names(watch, SERVICE_FAILOVERS), ["billing", "more"] * 2)


def test_a_watch_that_ends_leaves_no_thread_behind(watching: Callable[..., Watch]) -> None:
    watch = watching()
    eventually(lambda: watch.is_complete)
    watch.stop()
    eventually(lambda: not any(thread.name.startswith("watch_") for thread in threading.enumerate()))
