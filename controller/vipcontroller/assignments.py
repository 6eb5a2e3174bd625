"""What the controller itself has follow an address: a Service's endpoints, or where a Deployment runs.

These workloads are the cluster's, so no keeper knows of them. After each look at the world the accepted
ServiceFailovers and the observed owners make `Assignments`; `vipcontroller.steward` carries them out in a
thread of its own, and what it found goes into the next look as `Carried`: reports like those of keepers,
each under the node that it is about, and what is in the way, which only a person can change. Until it has
found out anything about an assignment, as after a start, what the status of the ServiceFailover says stands.

An assignment is all that carrying it out needs, so whoever has them need not look at the world. Of a
ServiceFailover about which nothing was decided, or of which nothing can be read, nobody knows what should be:
its workloads stay untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from vipapi.conditions import Reason
from vipapi.nodestatus import ServiceStatus
from vipapi.services import Objection
from vipapi.workloads import Deployment, KubernetesService

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vipapi.nodestatus import State
    from vipapi.resources import Node, Service, ServiceFailover
    from vipcontroller.observation import Grant

HOSTNAME = "kubernetes.io/hostname"
FIELD_MANAGER = "vipkeeper-workloads"
"""As whom the fields of these workloads are applied."""
FAILOVER_LABEL = "vipkeeper.io/servicefailover-uid"
"""The label by which a controller that was restarted finds what it has to take back."""
OBJECTIONS = frozenset(
    {
        Reason.SERVICE_NOT_FOUND,
        Reason.SERVICE_HAS_SELECTOR,
        Reason.SERVICE_UNFIT,
        Reason.FOREIGN_ENDPOINTS,
        Reason.DEPLOYMENT_NOT_FOUND,
        Reason.STRATEGY_NOT_RECREATE,
        Reason.FIELD_OWNED,
    }
)
"""The reasons of all that can be in the way."""


class Site(msgspec.Struct, frozen=True):
    """A node of a service, as its Node object tells: InternalIPs, and its label `kubernetes.io/hostname`."""

    name: str
    addresses: tuple[str, ...] = ()
    hostname: str = ""


class Key(NamedTuple):
    """What a finding is about: it stands as long as this does, whatever else an assignment says."""

    uid: str
    service: str
    workload: KubernetesService | Deployment
    owner: str | None
    term: int


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One service of a ServiceFailover; `owner` is the observed one, by the grant `term`, or nobody."""

    uid: str
    namespace: str
    failover: str
    service: str
    virtual_ip: str
    workload: KubernetesService | Deployment
    owner: str | None = None
    term: int = 0
    sites: tuple[Site, ...] = ()

    @property
    def key(self) -> Key:
        """What findings of it are about; not the standbys, say."""
        return Key(self.uid, self.service, self.workload, self.owner, self.term)

    @property
    def site(self) -> Site | None:
        """The owner as its Node tells; None when nobody is."""
        if self.owner is None:
            return None
        return next((site for site in self.sites if site.name == self.owner), Site(self.owner))

    def report(self, state: State, message: str = "", *, node: str) -> ServiceStatus:
        """Return how it stands on a node, as that node's keeper would tell it."""
        return ServiceStatus(
            uid=self.uid,
            name=self.service,
            virtual_ip=self.virtual_ip,
            state=state,
            term=self.term if node == self.owner else 0,
            message=message,
        )

    def hindered(self, objection: Objection) -> Finding:
        """Return how it stands while something is in its way."""
        if self.owner is None:
            return Finding(objection=objection)
        report = self.report("Waiting", f"{objection.reason}: see the condition Stalled", node=self.owner)
        return Finding(report, self.owner, objection)

    def objection(self, reason: str, message: str) -> Objection:
        """Return what is in its way, with what to do about it."""
        return Objection(reason, f"service {self.service!r}: {message}")


class Assignments(msgspec.Struct, frozen=True):
    """All of them, and the UIDs of the ServiceFailovers whose workloads are to stay as they are."""

    wanted: tuple[Assignment, ...] = ()
    untouched: frozenset[str] = frozenset()

    def names(self, kind: type[KubernetesService | Deployment]) -> frozenset[tuple[str, str]]:
        """Return the namespaces and names of the Services, or the Deployments, that are assigned."""
        return frozenset(
            (each.namespace, each.workload.name) for each in self.wanted if isinstance(each.workload, kind)
        )

    @property
    def scope(self) -> tuple[frozenset[tuple[str, str]], ...]:
        """What is assigned at all, whoever owns it; while it stays the same, nothing is to be taken back."""
        untouched = frozenset((uid, "") for uid in self.untouched)
        return self.names(KubernetesService), self.names(Deployment), untouched


class Finding(NamedTuple):
    """How an assignment stands: on which node in which state, and what is in its way."""

    report: ServiceStatus | None = None
    node: str = ""
    objection: Objection | None = None


class Carried(msgspec.Struct, frozen=True):
    """What came of the assignments.

    `reports` is by ServiceFailover UID, service and node; `objections` by UID. Of those that are not among
    `answered` nothing could be found out yet, so what the status says stands.
    """

    reports: Mapping[str, Mapping[str, Mapping[str, ServiceStatus]]] = {}
    objections: Mapping[str, Objection] = {}
    answered: frozenset[Key] = frozenset()

    def amended(self, together: Sequence[Assignment], found: Carried) -> Carried:
        """Return it with what was found of all assignments of a ServiceFailover in place of what it says.

        It takes no look at the others, of which there may be thousands.
        """
        reports, objections = dict(self.reports), dict(self.objections)
        for uid in {each.uid for each in together}:
            reports.pop(uid, None)
            objections.pop(uid, None)
        answered = (self.answered - {each.key for each in together}) | found.answered
        return Carried({**reports, **found.reports}, {**objections, **found.objections}, answered)


def of(
    failover: ServiceFailover, owners: Mapping[str, Grant | None], nodes: Mapping[str, Node]
) -> tuple[Assignment, ...]:
    """Return the assignments of an accepted ServiceFailover, as its spec is in force.

    `owners` are the observed ones, by VirtualIP name; `nodes` is by name.
    """
    found = []
    for service in failover.spec.services:
        workload = service.workload.kubernetes_service or service.workload.deployment
        if workload is None:
            continue
        grant = owners.get(service.virtual_ip_ref.name)
        found.append(
            Assignment(
                uid=failover.metadata.uid,
                namespace=failover.metadata.namespace,
                failover=failover.metadata.name,
                service=service.name,
                virtual_ip=service.virtual_ip_ref.name,
                workload=workload,
                owner=None if grant is None else grant.holder,
                term=0 if grant is None else grant.term,
                sites=_sites(service, nodes),
            )
        )
    return tuple(found)


def _sites(service: Service, nodes: Mapping[str, Node]) -> tuple[Site, ...]:
    return tuple(
        Site(name, nodes[name].internal_addresses, nodes[name].metadata.labels.get(HOSTNAME, ""))
        for name in service.nodes
        if name in nodes
    )


def carried(
    findings: Iterable[tuple[Assignment, Finding]], unseen: Iterable[tuple[Assignment, Finding]] = ()
) -> Carried:
    """Return all findings together; of several objections to one object the first gives the reason.

    `unseen` are how those stand about which nothing could be found out.
    """
    findings = tuple(findings)
    reports: dict[str, dict[str, dict[str, ServiceStatus]]] = {}
    objections: dict[str, Objection] = {}
    for assignment, finding in (*findings, *unseen):
        uid = assignment.uid
        if finding.report is not None:
            of_service = reports.setdefault(uid, {}).setdefault(assignment.service, {})
            of_service[finding.node] = finding.report
        if finding.objection is not None:
            first = objections.get(uid)
            if first is None:
                objections[uid] = finding.objection
            else:
                objections[uid] = Objection(first.reason, f"{first.message}; {finding.objection.message}")
    return Carried(reports, objections, frozenset(assignment.key for assignment, _ in findings))
