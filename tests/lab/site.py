"""A stage with one service that follows its address: who may run it, its rest, and what two copies show.

All the lab's nodes may run the legacy server (`legacyserver`), with the hooks of `examples/hooks`. Its times
are short, so that a fault is over soon: it may take `STOP_S` to stop, and its leash as long.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from lab import copies, legacy
from lab.copies import Watch
from lab.legacy import Legacy, running
from lab.measuring import LAG_NS
from lab.stage import HTTP, VERSION, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from lab.cluster import Lab
    from lab.topology import Host

NAME = "billing"
NAMESPACE = "default"
ADDRESS = "192.0.2.60"
START_S, STOP_S = 4, 1
AFTERMATH_S = 0.3  # the copies are watched all the time, also when an act is over
PERIOD_MS, TIMEOUT_MS, FAILURES = 200, 200, 2
PAGE: Final[Mapping[str, Any]] = {
    "name": "page",
    "httpGet": {"port": legacy.PORT, "path": "/healthz"},
    "periodMilliseconds": PERIOD_MS,
    "timeoutMilliseconds": TIMEOUT_MS,
    "failureThreshold": FAILURES,
    "successThreshold": 2,
}
HOOKS: Final[Mapping[str, Any]] = {
    "exec": {
        "start": {"hook": legacy.START},
        "stop": {"hook": legacy.STOP},
        "status": {"hook": legacy.STATUS},
    }
}


def manifests(nodes: Sequence[str], workload: Mapping[str, Any] = HOOKS) -> Iterator[dict[str, Any]]:
    """Return the domain, the address and the service, of which the first node is the primary."""
    service = {
        "name": "app",
        "virtualIPRef": {"name": NAME},
        "primary": nodes[0],
        "standbys": nodes[1:],
        "workload": workload,
        "startTimeoutSeconds": START_S,
        "stopTimeoutSeconds": STOP_S,
    }
    failover = {"mode": "ActiveStandby", "services": [service], "healthChecks": [PAGE]}
    address = {"addresses": [f"{ADDRESS}/24"], "allowedNamespaces": {"names": [NAMESPACE]}}
    for kind, name, spec in (
        ("FailoverDomain", "default", {"allowedAddresses": ["192.0.2.0/24"]}),
        ("VirtualIP", NAME, address),
        ("ServiceFailover", NAME, failover),
    ):
        metadata = {"name": name, **({"namespace": NAMESPACE} if kind == "ServiceFailover" else {})}
        yield {"apiVersion": VERSION, "kind": kind, "metadata": metadata, "spec": spec}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A stage with one service on it; `installed` is the server on each node that may run it."""

    stage: Stage
    installed: Mapping[str, Legacy]
    watch: Watch
    virtual_ip: str = NAME
    service_failover: str = NAME
    since_ns: int = field(default_factory=time.monotonic_ns)

    @property
    def shared(self) -> Path:
        return next(iter(self.installed.values())).shared

    def standbys(self, owner: Host) -> list[Host]:
        """Return the other nodes that may run the service, in their order."""
        return [each.host for each in self.installed.values() if each.host is not owner]

    def restore(self) -> None:
        """Take back all misbehaviour, mend the network and start what was killed."""
        for each in self.installed.values():
            each.be_well()
        self.stage.lab.faults.clear()
        self.stage.lab.plane.thaw_apiserver()
        self.stage.lab.plane.start()
        for node in self.stage.lab.nodes.values():
            self.stage.lab.segment.mend(node)
            self.stage.agents.keepers[node.name].thaw()
            self.stage.agents.restart(node)
        self.stage.agents.restart_controllers()

    def forgive(self) -> None:
        """Change the service's settings a little: what failed before counts no more, as after a repair."""
        api = self.stage.lab.plane.api
        found = api.get(VERSION, "ServiceFailover", self.service_failover, namespace=NAMESPACE)
        [service] = found["spec"]["services"]
        changed_s = service["startTimeoutSeconds"] ^ 1  # a second more, and the next time a second less
        changed = {"services": [{**service, "startTimeoutSeconds": changed_s}]}
        api.merge(VERSION, "ServiceFailover", self.service_failover, {"spec": changed}, namespace=NAMESPACE)

    def rest(self) -> None:
        """Wait until the service runs where its address is and every other node could take it over."""
        self.stage.rest(self.virtual_ip, candidates=self.installed)
        self.stage.wait_until("the service on its owner", self.is_on_its_owner)

    def is_on_its_owner(self) -> bool:
        """Tell whether the one copy that runs is where the address is, and answers there."""
        owner = self.stage.owner(self.virtual_ip)
        recent = self.watch.attempts(since_ns=time.monotonic_ns() - LAG_NS)
        return running(self.shared) == [f"{owner.name}.{self.installed[owner.name].starts()}"] and any(
            each.node == owner.name and each.answered_ns for each in recent
        )

    def doubles(self, *, since_ns: int) -> list[copies.Overlap | copies.Collision]:
        """Return every proof since then that two copies ran at once, seen from outside or by themselves."""
        attempts = self.watch.attempts(since_ns=since_ns - LAG_NS)
        return [*copies.overlaps(attempts), *copies.collisions_in(self.shared, since_ns=since_ns)]


def site_on(lab: Lab, workload: Mapping[str, Any] = HOOKS) -> Site:
    """Start vipkeeper and the service in a lab that runs, and wait until it is at rest."""
    stage = Stage(lab, aftermath_s=AFTERMATH_S)
    installed = {name: Legacy(node, lab.folder / "shared") for name, node in lab.nodes.items()}
    for each in installed.values():
        each.install()
    watch = Watch(folder=lab.folder / "copies", port=legacy.PORT)
    watch.watch(*lab.nodes.values())
    stage.start()
    for manifest in manifests(list(lab.nodes), workload):
        lab.plane.api.apply(manifest)
    stage.watch({NAME: ADDRESS}, urls={f"{NAME}-{HTTP}": f"http://{ADDRESS}:{legacy.PORT}/"})
    site = Site(stage=stage, installed=installed, watch=watch)
    site.rest()
    return site
