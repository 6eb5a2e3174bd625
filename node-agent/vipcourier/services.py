"""Decides which services follow which VirtualIP: the ServiceFailovers that are in force, and what they plan.

In force is a ServiceFailover that the controller has accepted and that nobody is deleting, in the newest
generation that was accepted. A keeper stops a service that its plan no longer has, so the last good state
stands in for one that this version cannot read, whose newest generation waits to be accepted, or whose
`Accepted` was wiped by hand. What was accepted last also stands in `status.inForce`, for a courier that
starts while an edit waits, or that missed the generation.

Where there is neither, a generation that waits stands in itself, provided that `judge`, by which the
controller goes as well, has no objection to it. For that it counts as never accepted, so that it takes
nothing from those that were.

Services that are the cluster's (`kubernetesService`, `deployment`) give a VirtualIP its nodes as all do, but
no keeper is told of them: the controller has them follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from vipapi.nodeplan import ServicePlan
from vipapi.resources import ServiceFailover, ServiceFailoverStatus
from vipapi.services import followings, judge, title
from vipapi.workloads import Hooks
from vipcourier.reading import accepted_generation, by_name, is_accepted, outline_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from vipapi.healthchecks import HealthCheck
    from vipapi.resources import ObjectMeta, VirtualIP
    from vipapi.services import Following
    from vipcourier.reading import Document, Reader


class _Good(NamedTuple):
    """A state to go by; not accepted is one that stands in where nobody knows what was."""

    failover: ServiceFailover
    is_accepted: bool


class Failovers:
    """The ServiceFailovers that are in force; remembers the last good state of each that still exists."""

    def __init__(self) -> None:
        self._good: dict[str, _Good] = {}

    def read(
        self,
        documents: Iterable[Document],
        reader: Reader,
        *,
        virtual_ips: Mapping[str, VirtualIP],
        nodes: Collection[str],
        problems: list[str],
        unknown: set[str],
    ) -> Mapping[str, tuple[Following, ...]]:
        """Return the services that follow each VirtualIP, by its name, in the order in which they start.

        `virtual_ips`, by name, and `nodes` are all that there are. To `unknown` go the UIDs of those that are
        in force, cannot be read, and never could.
        """
        before, self._good = self._good, {}
        waiting: list[ServiceFailover] = []
        for document in sorted(documents, key=by_name):
            uid = document["metadata"]["uid"]
            good = before.get(uid)
            try:
                failover: ServiceFailover | None = reader.read(ServiceFailover, document)
            except ValueError as error:
                problems.append(str(error))
                failover = None
            metadata, status = (
                outline_of(ServiceFailoverStatus, document)
                if failover is None
                else (failover.metadata, failover.status)
            )
            if metadata.is_deleting or not is_accepted(status.conditions, is_planned=uid in before):
                continue
            accepted = accepted_generation(status.conditions)
            if failover is not None and accepted >= metadata.generation:
                good = _Good(failover, is_accepted=True)
            else:
                good = _later(good, _in_force(metadata, status))
                if failover is not None and accepted > 0 and (good is None or not good.is_accepted):
                    waiting.append(failover)
            if good is not None:
                self._good[uid] = good
            elif failover is None:
                unknown.add(uid)
        self._let_in(waiting, virtual_ips, nodes, problems)
        return _by_virtual_ip(good.failover for good in self._good.values())

    def _let_in(
        self,
        waiting: Sequence[ServiceFailover],
        virtual_ips: Mapping[str, VirtualIP],
        nodes: Collection[str],
        problems: list[str],
    ) -> None:
        """Take those that wait to be accepted, where nothing is in their way."""
        if not waiting:
            return
        judged = {uid: good.failover for uid, good in self._good.items()}
        judged |= {each.metadata.uid: ServiceFailover(each.metadata, each.spec) for each in waiting}
        verdicts = judge(judged.values(), virtual_ips, nodes)
        for failover in waiting:
            metadata = failover.metadata
            objection = verdicts[metadata.uid]
            if objection is None:
                self._good[metadata.uid] = _Good(failover, is_accepted=False)
            else:
                problems.append(
                    f"ServiceFailover {title(failover)}: generation {metadata.generation} is not accepted "
                    f"yet, and is not used meanwhile: {objection.message}"
                )


def service_plans(found: Sequence[Following]) -> tuple[ServicePlan, ...]:
    """Return what the keeper is told of the services that follow one VirtualIP: of those that it runs."""
    return tuple(_plan(each) for each in found if each.service.workload.is_on_node)


def service_checks(found: Sequence[Following]) -> tuple[HealthCheck, ...]:
    """Return the health checks of the services that follow one VirtualIP, those of each failover once.

    They are checks of what the keeper runs: without a service of that kind there is nothing to check.
    """
    failovers = {
        each.failover.metadata.uid: each.failover for each in found if each.service.workload.is_on_node
    }
    return tuple(
        _placed(check, failover.metadata.namespace)
        for failover in failovers.values()
        for check in failover.spec.health_checks
    )


def _placed(check: HealthCheck, namespace: str) -> HealthCheck:
    """Return the check with the namespace of its Pods, which is always its object's own."""
    if check.pods is None:
        return check
    return msgspec.structs.replace(check, pods=msgspec.structs.replace(check.pods, namespace=namespace))


def _plan(following: Following) -> ServicePlan:
    metadata, service = following.failover.metadata, following.service
    return ServicePlan(
        uid=metadata.uid,
        namespace=metadata.namespace,
        failover=metadata.name,
        name=service.name,
        workload=service.workload,
        is_singleton=service.singleton,
        is_first=service.order == "ServiceFirst",
        start_timeout_ms=service.start_timeout_seconds * 1000,
        stop_timeout_ms=service.stop_timeout_seconds * 1000,
        generation=metadata.generation,
        fences=service.on_stop_failure == "Fence",
        hooks=service.hooks or Hooks(),
    )


def _in_force(metadata: ObjectMeta, status: ServiceFailoverStatus) -> _Good | None:
    """Return the state that the controller says was accepted last."""
    if status.in_force is None:
        return None
    then = msgspec.structs.replace(metadata, generation=status.in_force.generation)
    return _Good(ServiceFailover(then, status.in_force.spec, status), is_accepted=True)


def _later(good: _Good | None, in_force: _Good | None) -> _Good | None:
    """Return the later one of two states; one that only stands in gives way."""
    if good is None or in_force is None:
        return good or in_force
    is_older = good.failover.metadata.generation < in_force.failover.metadata.generation
    return in_force if is_older or not good.is_accepted else good


def _by_virtual_ip(failovers: Iterable[ServiceFailover]) -> dict[str, tuple[Following, ...]]:
    referring: dict[str, dict[str, ServiceFailover]] = {}
    for failover in failovers:
        for service in failover.spec.services:
            referring.setdefault(service.virtual_ip_ref.name, {})[failover.metadata.uid] = failover
    return {name: followings(name, found.values()) for name, found in referring.items()}
