"""What a service is: the part of a ServiceFailover that says how one is started and stopped.

As with `vipapi.healthchecks`, the same structs are read from the Kubernetes object and travel in the node
plan. Exactly one kind of workload is set; the API server's rules see to it, and so does reading one.

Most kinds run on the node itself, under its keeper (`is_on_node`). A Service or a Deployment of Kubernetes
is the cluster's: no keeper knows of it, and the controller has it follow the owner that it observes.
"""

from __future__ import annotations

import re
import shlex

import msgspec

from vipapi.healthchecks import Exec, Selector

_PARAMETER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}")


class Systemd(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A unit of the node's systemd."""

    unit: str


class Scripts(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Programs of the node's hook folder; what `start` leaves running in its cgroup is the service.

    `status` exits with 0 while the service works. Without `stop` the service's processes are asked to end.
    """

    start: Exec
    stop: Exec | None = None
    status: Exec | None = None


class Ocf(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A resource agent of the node (Open Cluster Framework), as Pacemaker runs them."""

    provider: str
    type: str
    parameters: dict[str, str] = {}

    def __post_init__(self) -> None:
        # The API server can bound the number of a map's keys, but not check their spelling at a fair cost.
        for name in self.parameters:
            if not _PARAMETER.fullmatch(name):
                raise ValueError(
                    f"must have parameters named in letters, digits, `_` and `-`, and {name!r} is not: write "
                    "the name as the resource agent's own manual has it"
                )

    def __hash__(self) -> int:
        return hash((self.provider, self.type, tuple(sorted(self.parameters.items()))))


class Mount(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A file system that is mounted at the start and unmounted at the stop; no `fs_type`: it is found out."""

    source: str
    target: str
    fs_type: str | None = None
    options: tuple[str, ...] = ()


class KubernetesService(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A Service without a selector, of the object's namespace, whose endpoints are those of the owner.

    Without `pod_selector` its one endpoint is the owner's node itself; without `port` its ports are the
    Service's own target ports.
    """

    name: str
    port: int | None = None
    pod_selector: Selector | None = None


class Deployment(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A Deployment of the object's namespace, of which one replica runs on the owner."""

    name: str


class Workload(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One service: exactly one of these."""

    systemd: Systemd | None = None
    exec: Scripts | None = None
    ocf: Ocf | None = None
    mount: Mount | None = None
    kubernetes_service: KubernetesService | None = None
    deployment: Deployment | None = None

    def __post_init__(self) -> None:
        if sum(kind is not None for kind in (*self._of_a_node, *self._of_the_cluster)) != 1:
            raise ValueError(
                "must have exactly one of `systemd`, `exec`, `ocf`, `mount`, `kubernetesService` and "
                "`deployment`, the kinds known here"
            )

    @property
    def _of_a_node(self) -> tuple[Systemd | Scripts | Ocf | Mount | None, ...]:
        return (self.systemd, self.exec, self.ocf, self.mount)

    @property
    def _of_the_cluster(self) -> tuple[KubernetesService | Deployment | None, ...]:
        return (self.kubernetes_service, self.deployment)

    @property
    def is_on_node(self) -> bool:
        """Whether it runs under the node's keeper; what is the cluster's is the controller's work."""
        return any(kind is not None for kind in self._of_a_node)

    @property
    def identity(self) -> str:
        """What only one service can have, in words: on a node, or in a namespace if it is the cluster's.

        A key, not for people to see: see `title`.
        """
        match self:
            case Workload(systemd=Systemd(unit=unit)):
                return f"the systemd unit `{unit}`"
            case Workload(exec=Scripts(start=start)):
                return f"the start hook `{shlex.join((start.hook, *start.args))}`"
            case Workload(ocf=Ocf(provider=provider, type=kind, parameters=parameters)):
                words = (
                    f"ocf:{provider}:{kind}",
                    *(f"{key}={parameters[key]}" for key in sorted(parameters)),
                )
                return f"the resource agent `{shlex.join(words)}`"
            case Workload(mount=Mount(target=target)):
                return f"the mount point `{target}`"
            case Workload(kubernetes_service=KubernetesService(name=name)):
                return f"the Service `{name}`"
        assert self.deployment is not None
        return f"the Deployment `{self.deployment.name}`"

    @property
    def title(self) -> str:
        """The same for people, without the values of a resource agent's parameters: they may be secret."""
        if self.ocf is None:
            return self.identity
        names = (f"{name}=…" for name in sorted(self.ocf.parameters))
        return f"the resource agent `{' '.join((f'ocf:{self.ocf.provider}:{self.ocf.type}', *names))}`"


class Hooks(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Programs of the hook folder that are told of what became of a service; they change nothing in it.

    `promoted`: it is active here; `demoted`: it was stopped here; `faulted`: it died or did not start here.
    """

    promoted: tuple[Exec, ...] = ()
    demoted: tuple[Exec, ...] = ()
    faulted: tuple[Exec, ...] = ()
