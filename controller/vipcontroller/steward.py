"""Carries assignments out: reads what they name, asks what should be written, and writes it.

It has a thread of its own, so that no slow answer of the API server delays an election. The thread looks
every `PERIOD_S`, and at once when there are other assignments; those that have changed come first. It reads
only objects that an assignment names, and nothing is watched: the Pods and EndpointSlices of a whole cluster
would not fit into this process.

What nobody assigns any more is taken back: endpoints are deleted, a Deployment gets its fields back. Both
bear a label of ours, by which they are found: when something was assigned otherwise, now and then, and once
when this replica has just begun to lead, for it may have happened while nobody did. Kubernetes removes the
slices of a deleted ServiceFailover too, by their owner references. Where nothing is assigned, that first look
is the only one, and it may as well be refused.

"Could not look" is never "not there": what was found before stands then, as long as it is about the same
owner.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from vipapi.workloads import KubernetesService
from vipcluster.client import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    PODS,
    REQUEST_TIMEOUT_S,
    SERVICES,
    ApiError,
    FieldsOwned,
    Forbidden,
    NotFound,
)
from vipcontroller import deployments, endpoints
from vipcontroller.assignments import FAILOVER_LABEL, Assignment, Assignments, Carried, Finding, carried
from vipcontroller.kubeobjects import Deployment, EndpointSlice, Pod, Service, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from vipcluster.client import Cluster, Resource
    from vipcluster.store import Document

MANAGER = "vipkeeper-workloads"
PERIOD_S = 1.5
SWEEP_S = 30.0
PATIENCE = 10

_logger = logging.getLogger("vipcontroller")


class _Refused(NamedTuple):
    """An apply that others' fields were in the way of, and what came of it."""

    body: dict[str, Any]
    finding: Finding


class Steward:
    """Carries out what was assigned last.

    `may_write` is asked before each write; `on_change` is called from the thread when `carried` is another.
    """

    def __init__(
        self, cluster: Cluster, *, may_write: Callable[[], bool], on_change: Callable[[], None]
    ) -> None:
        self._cluster = cluster
        self._may_write = may_write
        self._on_change = on_change
        self._changed = threading.Condition()
        self._assigned: Assignments | None = None
        self._looked: Assignments | None = None
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self._done: dict[Assignment, Finding] = {}
        self._refused: dict[Assignment, _Refused] = {}
        self._swept: object = None
        self._swept_at = float("-inf")
        self._refusals = 0
        self._told: set[str] = set()
        self.carried = Carried()

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._keep_on, name="steward", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the request that is under way."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(REQUEST_TIMEOUT_S)

    def assign(self, assignments: Assignments) -> None:
        """Give the thread what there is to do; does not wait for it."""
        with self._changed:
            if assignments != self._assigned:
                self._assigned = assignments
                self._changed.notify_all()

    def _keep_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_news, self._pause_s())
                if self._is_stopping:
                    return
                self._looked = looked = self._assigned
            if looked is not None:
                try:
                    self._look(looked)
                except Exception:
                    _logger.exception("Could not look after the cluster's workloads")

    def _has_news(self) -> bool:
        return self._is_stopping or self._assigned is not self._looked

    def _pause_s(self) -> float | None:
        """Return how long nothing is done unless something changes; None: for ever."""
        looked = self._looked
        is_idle = looked is None or (not looked.wanted and looked.scope == self._swept)
        return None if is_idle else PERIOD_S

    def _look(self, assignments: Assignments) -> None:
        errors: set[str] = set()
        wanted = assignments.wanted
        # Forgotten at once: what comes back later may have been carried out otherwise meanwhile.
        self._done = {each: self._done[each] for each in wanted if each in self._done}
        self._refused = {each: self._refused[each] for each in wanted if each in self._refused}
        for assignment in sorted(wanted, key=lambda each: each in self._done):
            if self._has_news():
                return
            try:
                self._done[assignment] = self._carry_out(assignment)
            except (ApiError, ValueError) as error:
                errors.add(f"{assignment.namespace}/{assignment.failover}/{assignment.service}: {error}")
                self._done.setdefault(assignment, _unseen(assignment, error))
            self._publish(assignments)
        self._publish(assignments)
        try:
            self._sweep(assignments)
        except Forbidden as error:
            # Without workloads of the cluster nobody has to grant what only they need. But an API server that
            # has just started refuses everything for a moment.
            self._refusals += 1
            if wanted:
                errors.add(str(error))
            if wanted or self._refusals >= PATIENCE:
                self._note_swept(assignments)
        except (ApiError, ValueError) as error:
            errors.add(str(error))
        for text in sorted(errors - self._told):
            _logger.warning("Could not look after a workload of the cluster: %s", text)
        self._told = errors

    def _publish(self, assignments: Assignments) -> None:
        found = carried((each, self._done[each]) for each in assignments.wanted if each in self._done)
        if found != self.carried:
            self.carried = found
            self._on_change()

    def _carry_out(self, assignment: Assignment) -> Finding:
        if isinstance(assignment.workload, KubernetesService):
            return self._endpoints(assignment, assignment.workload)
        return self._deployment(assignment)

    # ---- endpoints

    def _endpoints(self, assignment: Assignment, workload: KubernetesService) -> Finding:
        namespace = assignment.namespace
        service = self._get(SERVICES, workload.name, namespace)
        of_service = f"{endpoints.SERVICE_LABEL}={workload.name}"
        slices = self._cluster.list(ENDPOINT_SLICES, namespace=namespace, labels=of_service).documents
        pods: list[Document] = []
        if workload.pod_selector is not None and assignment.owner is not None:
            labels = ",".join(f"{key}={value}" for key, value in workload.pod_selector.match_labels.items())
            fields = f"spec.nodeName={assignment.owner}"
            pods = self._cluster.list(PODS, namespace=namespace, labels=labels, fields=fields).documents
        plan = endpoints.plan(
            assignment,
            None if service is None else read(Service, service),
            [read(EndpointSlice, each) for each in slices],
            [read(Pod, each) for each in pods],
        )
        for each in plan.applies:
            # Forced: what somebody edited in a slice of ours would lead to a node that is not the owner.
            self._apply(ENDPOINT_SLICES, msgspec.to_builtins(each), namespace, is_forced=True)
        for name in plan.deletes:
            self._delete(name, namespace)
        return plan.finding

    # ---- Deployments

    def _deployment(self, assignment: Assignment) -> Finding:
        document = self._get(DEPLOYMENTS, assignment.workload.name, assignment.namespace)
        deployment = None if document is None else read(Deployment, document)
        plan = deployments.plan(assignment, deployment)
        if deployment is None or plan.body is None:
            self._refused.pop(assignment, None)
            return plan.finding
        refused = self._refused.get(assignment)
        if refused is not None and refused.body == plan.body:
            # Nothing has changed since, for the body is for one version.
            return refused.finding
        try:
            answer = self._apply(DEPLOYMENTS, plan.body, assignment.namespace)
        except FieldsOwned as error:
            finding = deployments.owned(assignment, error.fields)
            self._refused[assignment] = _Refused(plan.body, finding)
            return finding
        return deployments.standing(assignment, read(Deployment, answer))

    # ---- what nobody has assigned

    def _sweep(self, assignments: Assignments) -> None:
        is_due = bool(assignments.wanted) and time.monotonic() >= self._swept_at + SWEEP_S
        if assignments.scope == self._swept and not is_due:
            return
        of_ours = f"{endpoints.MANAGER_LABEL}={endpoints.MANAGER}"
        slices = self._cluster.list(ENDPOINT_SLICES, labels=of_ours).documents
        found = [read(EndpointSlice, each) for each in slices]
        for namespace, name in endpoints.leftovers(found, assignments):
            self._delete(name, namespace)
            _logger.info("Deleted the EndpointSlice %s/%s, which follows nothing any more", namespace, name)
        bound = self._cluster.list(DEPLOYMENTS, labels=FAILOVER_LABEL).documents
        for namespace, body in deployments.leftovers([read(Deployment, each) for each in bound], assignments):
            self._apply(DEPLOYMENTS, body, namespace)
            name = body["metadata"]["name"]
            _logger.info("Gave the Deployment %s/%s its fields back: it follows nothing", namespace, name)
        self._note_swept(assignments)

    def _note_swept(self, assignments: Assignments) -> None:
        self._swept, self._swept_at = assignments.scope, time.monotonic()

    # ---- requests

    def _get(self, resource: Resource, name: str, namespace: str) -> Document | None:
        try:
            return self._cluster.get(resource, name, namespace=namespace)
        except NotFound:
            return None

    def _apply(
        self, resource: Resource, body: dict[str, Any], namespace: str, *, is_forced: bool = False
    ) -> Document:
        self._check()
        return self._cluster.apply(resource, body, namespace=namespace, manager=MANAGER, is_forced=is_forced)

    def _delete(self, name: str, namespace: str) -> None:
        self._check()
        try:
            self._cluster.delete(ENDPOINT_SLICES, name, namespace=namespace)
        except NotFound:
            return

    def _check(self) -> None:
        if not self._may_write():
            raise ApiError("this replica does not lead any more")


def _unseen(assignment: Assignment, error: ApiError | ValueError) -> Finding:
    """Return how an assignment stands about which nothing could be found out yet."""
    if assignment.owner is None:
        return Finding()
    message = f"nothing is known of it: {error}"
    if isinstance(error, Forbidden):
        message = f"{error}. Grant it with the RBAC manifests that come with the chart"
    return Finding(assignment.report("Waiting", message, node=assignment.owner), assignment.owner)
