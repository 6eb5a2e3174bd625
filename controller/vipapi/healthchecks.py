"""What a health check is: the part of a VirtualIP that says how a node's fitness is measured.

The same structs are read from the Kubernetes object and travel in the node plan, so that the keeper
needs no translation. Exactly one of the probe fields is set; the API server's rules see to it, and
`HealthCheck.probe` asserts it. Effective values of optional fields stand beside their names.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class HTTPHeader(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One request header."""

    name: str
    value: str


class HTTPGet(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An HTTP GET whose status (and body) decides; `host` absent means 127.0.0.1."""

    port: int
    path: str | None = None
    host: str | None = None
    scheme: Literal["HTTP", "HTTPS"] | None = None
    tls_server_name: str | None = msgspec.field(default=None, name="tlsServerName")
    headers: tuple[HTTPHeader, ...] = ()
    expected_statuses: tuple[int, ...] = ()
    body_regex: str | None = None


class TCPSocket(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A TCP connection that opens; `host` absent means 127.0.0.1."""

    port: int
    host: str | None = None


class ICMP(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An echo request; `target` is an address or the word `gateway` (the node's default gateway)."""

    target: str


class Exec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A program of the node's hook folder; exit status 0 passes."""

    hook: str
    args: tuple[str, ...] = ()


class Link(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A network interface that is up and has carrier."""

    interface: str


class GRPC(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The standard gRPC health check: `service` (absent: the server as a whole) is SERVING.

    `host` absent means 127.0.0.1.
    """

    port: int
    host: str | None = None
    service: str | None = None


class Process(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Processes of the node that run an executable; one is enough unless said."""

    executable: str
    at_least: int | None = None


class File(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A file of the node that is there, was written lately, and says what it must."""

    path: str
    max_age_seconds: int | None = None
    content_regex: str | None = None


class SystemdUnit(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A unit of the node's systemd that is active."""

    unit: str


class Selector(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Pods by their labels, all of which must match."""

    match_labels: dict[str, str]

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.match_labels.items())))


class Pods(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Ready Pods on the node; one is enough unless said.

    Only the courier can see Pods: it tells what it found in `nodeplan.Plan.facts`. `namespace` is always
    there in a plan: a ServiceFailover means its own.
    """

    selector: Selector
    namespace: str | None = None
    at_least: int | None = None


Probe = HTTPGet | TCPSocket | ICMP | Exec | Link | GRPC | Process | File | SystemdUnit | Pods


class HealthCheck(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One check of a candidate node, run by that node's keeper.

    `weight` absent: the check is required, and failing it makes the node ineligible. A positive
    weight is added to the priority while the check passes, a negative one while it fails.
    `observed_from: Peers`: the owner is checked by the standbys, through the address itself.
    """

    name: str
    weight: int | None = None
    period_milliseconds: int | None = None
    timeout_milliseconds: int | None = None
    failure_threshold: int | None = None
    success_threshold: int | None = None
    http_get: HTTPGet | None = None
    tcp_socket: TCPSocket | None = None
    icmp: ICMP | None = None
    exec: Exec | None = None
    link: Link | None = None
    grpc: GRPC | None = None
    process: Process | None = None
    file: File | None = None
    systemd_unit: SystemdUnit | None = None
    pods: Pods | None = None
    observed_from: Literal["Candidate", "Peers"] | None = None

    @property
    def period_ms(self) -> int:
        """Effective period, 1000 ms unless said."""
        return 1000 if self.period_milliseconds is None else self.period_milliseconds

    @property
    def timeout_ms(self) -> int:
        """Effective timeout, 1000 ms or the period if that is shorter, unless said."""
        return min(1000, self.period_ms) if self.timeout_milliseconds is None else self.timeout_milliseconds

    @property
    def fall(self) -> int:
        """Consecutive failures that turn a passing check failing, 3 unless said."""
        return 3 if self.failure_threshold is None else self.failure_threshold

    @property
    def rise(self) -> int:
        """Consecutive successes that turn a failing check passing, 2 unless said."""
        return 2 if self.success_threshold is None else self.success_threshold

    @property
    def probes(self) -> tuple[Probe, ...]:
        """What is set of the probes: one, unless a newer version knows more kinds."""
        kinds: tuple[Probe | None, ...] = (
            self.http_get,
            self.tcp_socket,
            self.icmp,
            self.exec,
            self.link,
            self.grpc,
            self.process,
            self.file,
            self.systemd_unit,
            self.pods,
        )
        return tuple(kind for kind in kinds if kind is not None)

    @property
    def probe(self) -> Probe:
        """The one probe that is set."""
        assert len(self.probes) == 1, self.name
        return self.probes[0]
