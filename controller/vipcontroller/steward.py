"""Carries assignments out: reads what they name, asks what should be written, and writes it.

It has a thread of its own, so that no slow answer of the API server delays an election. The thread looks
every `PERIOD_S`, and at once when there are other assignments: at those first that it never looked at, as all
are whose owner has changed, and at the others in the order in which it looked at them last. So each has its
turn, though a look ends early when the assignments change again, or when the API server does not answer or
wants to be left alone. A try is a turn, whatever came of it: one that always fails keeps no other waiting.
It reads only objects that an assignment names, and nothing is watched: the Pods and EndpointSlices of a whole
cluster would not fit into this process.

What nobody assigns any more is taken back: endpoints are deleted, a Deployment gets its fields back. Both
bear a label of ours, by which they are found: when something was assigned otherwise, now and then, and once
when this replica has just begun to lead, for it may have happened while nobody did. Kubernetes removes the
slices of a deleted ServiceFailover too, by their owner references. Its turn is between what is new and what
was looked at before. Where nothing is assigned, that first look is the only one, and it may as well be
refused. What cannot be taken back keeps nothing else, and is tried again now and then.

Each write is for what was read: a slice is made where there is none, or one version of it is written over or
deleted. So a replica that was frozen amid a write, and has a successor when it wakes, undoes nothing that
the successor has done. Whoever comes too late looks again.

"Could not look" is never "not there": what was found before stands then, as long as it is about the same
owner. What was looked at and could not be set right is no longer as it was found before.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

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
    Unavailable,
)
from vipcontroller import deployments, endpoints
from vipcontroller.assignments import (
    FAILOVER_LABEL,
    FIELD_MANAGER,
    Assignment,
    Assignments,
    Carried,
    Finding,
    Key,
    carried,
)
from vipcontroller.kubeobjects import Deployment, EndpointSlice, Pod, Service, read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vipcluster.client import Cluster, Resource
    from vipcluster.store import Document
    from vipcontroller.kubeobjects import SliceMeta

PERIOD_S = 1.5
SWEEP_S = 30.0
PATIENCE = 3

_logger = logging.getLogger("vipcontroller")

Swept = TypeVar("Swept", EndpointSlice, Deployment)


class _Refused(NamedTuple):
    """An apply that others' fields were in the way of, and what came of it."""

    body: dict[str, Any]
    finding: Finding


class _Swept(NamedTuple):
    """What was taken back: for which scope and when, what failed, and whether it may be looked for at all."""

    scope: object = None
    at_s: float = float("-inf")
    errors: frozenset[str] = frozenset()
    is_refused: bool = False


class Steward:
    """Carries out what was assigned last.

    `may_write` is asked before each write; `on_change` is called from the thread when `carried` is another.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        may_write: Callable[[], bool],
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._may_write = may_write
        self._on_change = on_change
        self._clock = clock
        self._changed = threading.Condition()
        self._assigned: Assignments | None = None
        self._looked: Assignments | None = None
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self._done: dict[Key, Finding] = {}
        self._unseen: dict[Key, Finding] = {}
        self._refused: dict[Key, _Refused] = {}
        self._turns: dict[Key, int] = {}
        self._turn = itertools.count()
        self._errors: dict[Key, str] = {}
        self._outage = ""
        self._swept = _Swept()
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
                    self.look(looked)
                except Exception:
                    _logger.exception("Could not look after the cluster's workloads")

    def _has_news(self) -> bool:
        return self._is_stopping or self._assigned is not self._looked

    def _pause_s(self) -> float | None:
        """Return how long nothing is done unless something changes; None: for ever."""
        looked = self._looked
        if looked is None:
            return None
        if looked.wanted or looked.scope != self._swept.scope:
            return PERIOD_S
        return max(0.0, self._swept.at_s + SWEEP_S - self._clock()) if self._is_open else None

    def look(self, assignments: Assignments) -> None:
        """Look once, as the thread does, until there are other assignments or nobody answers."""
        self._forget_all_but(assignments)
        outage = self._go_through(assignments)
        # Each look meets it at another assignment; it is told of the one at which it began.
        self._outage = outage and (self._outage or outage)
        errors = {*self._errors.values(), *self._swept.errors, self._outage} - {""}
        for text in sorted(errors - self._told):
            _logger.warning("Could not look after a workload of the cluster: %s", text)
        self._told = errors

    def _forget_all_but(self, assignments: Assignments) -> None:
        """Forget at once: what comes back later may have been carried out otherwise meanwhile."""
        keys = {each.key for each in assignments.wanted}
        remembered: tuple[dict[Key, Any], ...] = (
            self._done,
            self._unseen,
            self._refused,
            self._turns,
            self._errors,
        )
        for known in remembered:
            for key in known.keys() - keys:
                del known[key]
        self._publish(self._found_of(assignments.wanted))

    def _go_through(self, assignments: Assignments) -> str:
        """Do everything in its turn; returns where it ended because nobody answered, if it did."""
        together: dict[str, list[Assignment]] = {}
        for each in assignments.wanted:
            together.setdefault(each.uid, []).append(each)
        new = [each for each in assignments.wanted if each.key not in self._turns]
        others = [each for each in assignments.wanted if each.key in self._turns]
        others.sort(key=lambda each: self._turns[each.key])

        def attend(each: Assignment) -> Callable[[], str | None]:
            return partial(self._attend_to, each, together[each.uid])

        sweep: Callable[[], None] = partial(self._sweep, assignments)
        acts: tuple[Callable[[], str | None], ...] = (*map(attend, new), sweep, *map(attend, others))
        for act in acts:
            if self._has_news():
                break
            if outage := act():
                return outage
        return ""

    def _attend_to(self, assignment: Assignment, together: Sequence[Assignment]) -> str:
        """Look after one, and publish it if it stands otherwise; returns why it got no answer, if so.

        `together` are all assignments of its ServiceFailover.
        """
        key = assignment.key
        self._turns[key] = next(self._turn)
        before = self._done.get(key), self._unseen.get(key)
        error = self._look_after(assignment)
        if (self._done.get(key), self._unseen.get(key)) != before:
            self._publish(self.carried.amended(together, self._found_of(together)))
        text = f"{assignment.namespace}/{assignment.failover}/{assignment.service}: {error}"
        if isinstance(error, Unavailable):
            return text
        if error is None:
            self._errors.pop(key, None)
        else:
            self._errors[key] = text
        return ""

    def _found_of(self, those: Sequence[Assignment]) -> Carried:
        return carried(
            [(each, self._done[each.key]) for each in those if each.key in self._done],
            [(each, self._unseen[each.key]) for each in those if each.key in self._unseen],
        )

    def _publish(self, found: Carried) -> None:
        if found != self.carried:
            self.carried = found
            self._on_change()

    def _look_after(self, assignment: Assignment) -> ApiError | ValueError | None:
        """Carry one assignment out, and note how it stands; returns what went wrong."""
        key = assignment.key
        try:
            plan = self._plan(assignment)
        except (ApiError, ValueError) as error:
            if key not in self._done:
                self._unseen[key] = _unseen(assignment, error)
            return error
        self._unseen.pop(key, None)
        try:
            self._done[key] = self._carry_out(assignment, plan)
        except (ApiError, ValueError) as error:
            self._done[key] = _unwritten(assignment, plan.finding, error)
            return error
        return None

    def _plan(self, assignment: Assignment) -> endpoints.Plan | deployments.Plan:
        if isinstance(assignment.workload, KubernetesService):
            return self._endpoints(assignment, assignment.workload)
        document = self._get(DEPLOYMENTS, assignment.workload.name, assignment.namespace)
        return deployments.plan(assignment, None if document is None else read(Deployment, document))

    def _carry_out(self, assignment: Assignment, plan: endpoints.Plan | deployments.Plan) -> Finding:
        if isinstance(plan, deployments.Plan):
            return self._bind(assignment, plan)
        for each in plan.writes:
            self._write(each)
        for found in plan.deletes:
            self._delete(found)
        return plan.finding

    def _endpoints(self, assignment: Assignment, workload: KubernetesService) -> endpoints.Plan:
        namespace = assignment.namespace
        service = self._get(SERVICES, workload.name, namespace)
        of_service = f"{endpoints.SERVICE_LABEL}={workload.name}"
        slices = self._cluster.list(ENDPOINT_SLICES, namespace=namespace, labels=of_service).documents
        pods: list[Document] = []
        if workload.pod_selector is not None and assignment.owner is not None:
            labels = ",".join(f"{key}={value}" for key, value in workload.pod_selector.match_labels.items())
            fields = f"spec.nodeName={assignment.owner}"
            pods = self._cluster.list(PODS, namespace=namespace, labels=labels, fields=fields).documents
        return endpoints.plan(
            assignment,
            None if service is None else read(Service, service),
            [read(EndpointSlice, each) for each in slices],
            [read(Pod, each) for each in pods],
        )

    def _bind(self, assignment: Assignment, plan: deployments.Plan) -> Finding:
        if plan.body is None:
            self._refused.pop(assignment.key, None)
            return plan.finding
        refused = self._refused.get(assignment.key)
        if refused is not None and refused.body == plan.body:
            # Nothing has changed since, for the body is for one version.
            return refused.finding
        try:
            answer = self._apply(DEPLOYMENTS, plan.body, assignment.namespace)
        except FieldsOwned as error:
            finding = deployments.owned(assignment, error.fields)
            self._refused[assignment.key] = _Refused(plan.body, finding)
            return finding
        return deployments.standing(assignment, read(Deployment, answer))

    @property
    def _is_open(self) -> bool:
        """Whether something may be left to take back."""
        # Without workloads of the cluster nobody has to grant what only they need. But an API server that has
        # just started refuses everything for a moment.
        is_refused = self._swept.is_refused and self._refusals < PATIENCE
        return bool(self._swept.errors) or is_refused

    def _sweep(self, assignments: Assignments) -> None:
        is_due = self._clock() >= self._swept.at_s + SWEEP_S
        is_wanted = bool(assignments.wanted)
        if assignments.scope == self._swept.scope and not (is_due and (is_wanted or self._is_open)):
            return
        errors: set[str] = set()
        refusals: set[str] = set()
        of_ours = f"{endpoints.MANAGER_LABEL}={endpoints.MANAGER}"
        slices = self._found(EndpointSlice, ENDPOINT_SLICES, of_ours, errors, refusals)
        for each in endpoints.leftovers(slices, assignments):
            try:
                self._delete(each)
            except ApiError as error:
                errors.add(f"EndpointSlice {each.namespace}/{each.name}: {error}")
                continue
            _logger.info(
                "Deleted the EndpointSlice %s/%s, which follows nothing any more", each.namespace, each.name
            )
        bound = self._found(Deployment, DEPLOYMENTS, FAILOVER_LABEL, errors, refusals)
        for namespace, body in deployments.leftovers(bound, assignments):
            name = body["metadata"]["name"]
            try:
                self._apply(DEPLOYMENTS, body, namespace)
            except ApiError as error:
                errors.add(f"Deployment {namespace}/{name}: {error}")
                continue
            _logger.info("Gave the Deployment %s/%s its fields back: it follows nothing", namespace, name)
        if is_wanted:
            errors |= refusals
        self._refusals += bool(refusals)
        self._swept = _Swept(assignments.scope, self._clock(), frozenset(errors), is_refused=bool(refusals))

    def _found(
        self, kind: type[Swept], resource: Resource, labels: str, errors: set[str], refusals: set[str]
    ) -> list[Swept]:
        """Return what bears our labels, without what cannot be read; adds what went wrong to the sets."""
        found = []
        try:
            documents = self._cluster.list(resource, labels=labels).documents
        except Forbidden as error:
            refusals.add(str(error))
            return []
        except ApiError as error:
            errors.add(str(error))
            return []
        for document in documents:
            try:
                found.append(read(kind, document))
            except ValueError as error:
                errors.add(f"{document['metadata']['namespace']}: {error}")
        return found

    def _get(self, resource: Resource, name: str, namespace: str) -> Document | None:
        try:
            return self._cluster.get(resource, name, namespace=namespace)
        except NotFound:
            return None

    def _apply(self, resource: Resource, body: dict[str, Any], namespace: str) -> Document:
        self._check()
        return self._cluster.apply(resource, body, namespace=namespace, manager=FIELD_MANAGER)

    def _write(self, wanted: EndpointSlice) -> None:
        """Make a slice, or have the one that was read say what it should, whoever has set it otherwise.

        No apply: that would make a slice, but never refuse to because there is one.
        """
        name, namespace = wanted.metadata.name, wanted.metadata.namespace
        document = msgspec.to_builtins(wanted)
        self._check()
        if wanted.metadata.resource_version:
            self._cluster.merge(ENDPOINT_SLICES, name, document, namespace=namespace, manager=FIELD_MANAGER)
        else:
            self._cluster.create(ENDPOINT_SLICES, document, namespace=namespace, manager=FIELD_MANAGER)

    def _delete(self, found: SliceMeta) -> None:
        self._check()
        try:
            self._cluster.delete(
                ENDPOINT_SLICES,
                found.name,
                namespace=found.namespace,
                uid=found.uid,
                resource_version=found.resource_version,
            )
        except NotFound:
            return

    def _check(self) -> None:
        if not self._may_write():
            raise ApiError("this replica does not lead any more")


def _unwritten(assignment: Assignment, finding: Finding, error: ApiError | ValueError) -> Finding:
    """Return how an assignment stands that is not as it should be, because that could not be written."""
    if assignment.owner is None:
        return finding
    report = assignment.report("Waiting", _remedy(error), node=assignment.owner)
    return Finding(report, assignment.owner, finding.objection)


def _unseen(assignment: Assignment, error: ApiError | ValueError) -> Finding:
    """Return how an assignment stands about which nothing could be found out yet."""
    if assignment.owner is None:
        return Finding()
    message = _remedy(error) if isinstance(error, Forbidden) else f"nothing is known of it: {error}"
    return Finding(assignment.report("Waiting", message, node=assignment.owner), assignment.owner)


def _remedy(error: ApiError | ValueError) -> str:
    if isinstance(error, Forbidden):
        return f"{error}. Grant it with the RBAC manifests that come with the chart"
    return str(error)
