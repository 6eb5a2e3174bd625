"""`vipkeeper-controller release-finalizers`: what is left to do when vipkeeper is being uninstalled.

VirtualIPs and FailoverDomains carry a finalizer, which only a controller takes off. Definitions and objects
outlive an uninstallation, so without a controller their deletion would never end. And their statuses would
go on saying that an address is held. This command, which the chart runs as a hook after everything else is
deleted, does in this order:

1. It waits until the node agents' sweepers (`vipkeeper-keeper --clean`) have gone over every node, for a
   while: a node that cannot be reached must not keep anybody from uninstalling.
2. It takes the controllers' Lease, as any replica would: none leads any more, and none can while it works.
3. It ends without having done anything where a keeper may hold an address still (`stragglers`): on a static
   pod or a unit, which no sweeper goes to. `--force` says that none does.
4. It says in the statuses that nobody looks after the objects any more (`parted`), takes the finalizers off,
   and deletes the VIPNodes, which are the agents' words.

A status stays but for that: what is in force there (witnesses, terms, orders) is what a new installation
goes on from. Objects that change meanwhile are read anew, kinds that are gone are none; whoever runs it a
second time finds nothing to do.
"""

from __future__ import annotations

import argparse
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from vipapi import resources
from vipapi.conditions import Reason
from vipapi.resources import FINALIZER, FailoverDomain, Node, VIPNode, VirtualIP
from vipcluster.client import (
    FAILOVER_DOMAINS,
    NODES,
    PODS,
    SERVICE_FAILOVERS,
    VIP_NODES,
    VIRTUAL_IPS,
    ApiError,
    BadConfiguration,
    Conflict,
    Forbidden,
    NotFound,
    Resource,
    Unavailable,
    connect,
)
from vipcluster.leader import Leadership
from vipcontroller.kubeobjects import Pod, read
from vipcontroller.scribe import MANAGER
from vipcontroller.stragglers import Remains, claims, is_unheard
from viphealth import ending

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vipapi.resources import Kind
    from vipcluster.client import Cluster
    from vipcluster.store import Document

COMMAND = "release-finalizers"
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet", is_namespaced=True)
MESSAGE = "vipkeeper was uninstalled: nobody looks after this object"
LOOK_S = 1.0
WRITERS = 4
TRIES = 20
_OF_THE_MOMENT = frozenset({"Ready", "Owned", "Bound", "Redundant", "Quorate"})
"""Conditions that tell how things are now, where the others tell what was decided."""

_logger = logging.getLogger("vipcontroller")


class Unfinished(Exception):  # noqa: N818 - it reads as what happened
    """It cannot be done now; the message says why and what to do."""


def parted(status: Document, now: datetime) -> Document | None:
    """Return the status of an object that nobody looks after any more; None where it says so already."""
    conditions: list[Document] = []
    for condition in status.get("conditions") or ():
        if condition["type"] in _OF_THE_MOMENT and condition["status"] != "Unknown":
            when = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            news = {"status": "Unknown", "reason": str(Reason.UNINSTALLED), "message": MESSAGE}
            conditions.append({**condition, **news, "lastTransitionTime": when})
        elif condition["type"] != "Reconciling":
            conditions.append(condition)
    rest = {name: value for name, value in status.items() if name not in ("owner", "conditions")}
    if "conditions" in status and not status["conditions"]:
        rest["conditions"] = status["conditions"]
    after = {**rest, "conditions": conditions} if conditions else rest
    return None if after == status else after


def unswept(sweepers: Document) -> int:
    """Return on how many nodes the sweepers have yet to finish, from their DaemonSet."""
    status = sweepers.get("status") or {}
    if status.get("observedGeneration", 0) < sweepers["metadata"]["generation"]:
        return 1  # not looked at yet, so it is not known how many nodes there are
    return int(status.get("desiredNumberScheduled", 0)) - int(status.get("numberReady", 0))


class Farewell:
    """The command's work on one cluster; `patience_s` is for the sweepers and for a leader each.

    `sweepers` is the name of their DaemonSet, empty where there is none. With `is_forced` no keeper's word
    that it holds an address counts.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        lease: str,
        patience_s: float,
        sweepers: str = "",
        is_forced: bool = False,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._lease = lease
        self._patience_s = patience_s
        self._sweepers = sweepers
        self._is_forced = is_forced
        self._won = threading.Event()
        self._leadership = Leadership(
            cluster,
            namespace=namespace,
            name=lease,
            identity=f"uninstall-{socket.gethostname()}",
            manager=MANAGER,
            on_change=self._won.set,
        )

    def wait_for_sweepers(self) -> None:
        """Wait until the DaemonSet's Pods are ready on every node, or patience ends."""
        until = time.monotonic() + self._patience_s
        left = 1 if self._sweepers else 0
        told = 0
        while left and time.monotonic() < until:
            try:
                left = unswept(self._cluster.get(DAEMON_SETS, self._sweepers, namespace=self._namespace))
            except NotFound:
                _logger.info("There is no DaemonSet %s: nobody sweeps the nodes", self._sweepers)
                return
            except Unavailable as error:
                _logger.warning("%s", error)
            if left != told:
                _logger.info("Nodes that are not swept yet: %d", left)
                told = left
            if left:
                time.sleep(LOOK_S)
        if left:
            _logger.warning(
                "%d nodes are not swept after %.0f s: run `vipkeeper-keeper --clean` there, or restart them",
                left,
                self._patience_s,
            )

    def release(self) -> None:
        """Do the rest; raises `Unfinished` or `ApiError`."""
        self._leadership.start()
        try:
            self._won.wait(self._patience_s)
            if not self._leadership.is_held:
                raise Unfinished(self._why_not())
            self._let_go()
        finally:
            self._leadership.stop()

    def _why_not(self) -> str:
        """Say why this does not lead. That no namespace is there proves nothing: it may be the wrong one."""
        error = self._leadership.error
        if isinstance(error, NotFound):
            remedy = f"if it was deleted, kubectl create namespace {self._namespace}"
            return f"{error}: name the controllers' --namespace; {remedy}"
        if error is not None:
            return str(error)
        return f"a controller holds the Lease {self._lease} still: scale the controller down first"

    def _let_go(self) -> None:
        """Go over all objects, again from the beginning where the API server does not answer."""
        for tries_left in reversed(range(TRIES)):
            try:
                self._assert_silence()
                with ThreadPoolExecutor(WRITERS) as pool:
                    for resource in (SERVICE_FAILOVERS, VIRTUAL_IPS, FAILOVER_DOMAINS):
                        documents = self._documents(resource)
                        list(pool.map(partial(self._part_from, resource), documents))
                        _logger.info("Let go of %d objects of kind %s", len(documents), resource.kind)
                    list(pool.map(self._forget, self._documents(VIP_NODES)))
            except Unavailable as error:
                if not tries_left:
                    raise
                _logger.warning("%s; going over all of them again", error)
                time.sleep(LOOK_S)
            else:
                return

    def _assert_silence(self) -> None:
        """Raise `Unfinished` where a keeper may hold an address still."""
        nodes = self._documents(NODES)
        found = claims(
            Remains(
                agents=tuple(_parsed(VIPNode, self._documents(VIP_NODES), is_strict=not self._is_forced)),
                nodes=tuple(_parsed(Node, nodes)),
                virtual_ips=tuple(_parsed(VirtualIP, self._documents(VIRTUAL_IPS))),
                domains=tuple(_parsed(FailoverDomain, self._documents(FAILOVER_DOMAINS))),
                unheard=frozenset(each["metadata"]["name"] for each in nodes if is_unheard(each)),
                swept=self._swept(),
            )
        )
        for claim in found.void:
            _logger.warning("It is taken for old that %s: the node is off, or has no witnesses left", claim)
        if not found.standing:
            return
        said = "; ".join(map(str, found.standing))
        if self._is_forced:
            _logger.warning("Going on, for it is forced, though %s", said)
            return
        names = " ".join(sorted({claim.node for claim in found.standing}))
        raise Unfinished(
            f"a keeper may hold an address still: {said}. Stop the keepers there (static pods and units run "
            "on), run `vipkeeper-keeper --clean` on these nodes, say that it is done by `kubectl delete "
            f"vipnode {names}`, and run this again; or run it with --force"
        )

    def _swept(self) -> frozenset[str]:
        """Name the nodes on which a sweeper has the keeper's place."""
        if not self._sweepers:
            return frozenset()
        try:
            sweepers = self._cluster.get(DAEMON_SETS, self._sweepers, namespace=self._namespace)
        except NotFound:
            return frozenset()
        selector = sweepers["spec"]["selector"]["matchLabels"]
        labels = ",".join(f"{key}={value}" for key, value in selector.items())
        found = self._cluster.list(PODS, namespace=self._namespace, labels=labels).documents
        pods = [read(Pod, document) for document in found]
        return frozenset(pod.spec.node_name for pod in pods if pod.is_ready)

    def _documents(self, resource: Resource) -> list[Document]:
        try:
            return self._cluster.list(resource).documents
        except NotFound:
            return []

    def _part_from(self, resource: Resource, document: Document) -> None:
        """Write an object's status and finalizers; one that moves on meanwhile is read anew."""
        metadata = document["metadata"]
        for _ in range(TRIES):
            self._assert_leadership()
            try:
                self._write(resource, document)
            except NotFound:
                return
            except Conflict:
                try:
                    document = self._cluster.get(
                        resource, metadata["name"], namespace=metadata.get("namespace", "")
                    )
                except NotFound:
                    return
            else:
                return
        raise Unfinished(f"{resource.kind} {metadata['name']} changes again and again")

    def _write(self, resource: Resource, document: Document) -> None:
        status = parted(document.get("status") or {}, datetime.now(UTC))
        if status is not None:
            document = self._cluster.apply_status(
                resource,
                document["metadata"]["name"],
                status,
                manager=MANAGER,
                namespace=document["metadata"].get("namespace", ""),
                resource_version=document["metadata"]["resourceVersion"],
            )
        finalizers: list[Any] = document["metadata"].get("finalizers") or []
        if FINALIZER in finalizers:
            self._cluster.set_finalizers(
                resource,
                document["metadata"]["name"],
                [each for each in finalizers if each != FINALIZER],
                resource_version=document["metadata"]["resourceVersion"],
                manager=MANAGER,
            )

    def _forget(self, document: Document) -> None:
        self._assert_leadership()
        try:
            self._cluster.delete(VIP_NODES, document["metadata"]["name"])
        except NotFound:
            return

    def _assert_leadership(self) -> None:
        if not self._leadership.is_held:
            raise Unfinished(f"the Lease {self._lease} was lost: run the command again")


def _parsed(kind: type[Kind], documents: Iterable[Document], *, is_strict: bool = False) -> Iterator[Kind]:
    """Read objects; one that cannot be read is none, or, where nothing may be missed, `Unfinished`."""
    for document in documents:
        try:
            yield resources.parse(kind, document)
        except ValueError as error:
            if is_strict:
                raise Unfinished(f"{error}: delete it if its keeper has ended, or use --force") from error
            _logger.warning("%s", error)


def main(arguments: Sequence[str], *, lease: str) -> int:
    """Run the command; returns 0 when nothing is left to do, 1 when something is in the way, 2 as usual.

    Who ends it by SIGTERM gets 143.
    """
    ending.end_unfinished()
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        cluster = connect(options.kubeconfig, user_agent=f"vipkeeper-{COMMAND}")
    except BadConfiguration as error:
        _logger.error("Cannot start: %s", error)  # noqa: TRY400 - a sentence for people, not a trace
        return 2
    farewell = Farewell(
        cluster,
        namespace=options.namespace,
        lease=lease,
        patience_s=options.patience,
        sweepers=options.sweepers,
        is_forced=options.force,
    )
    try:
        farewell.wait_for_sweepers()
        farewell.release()
    except Forbidden as error:
        _logger.error("%s: grant it, or take the finalizers off by hand", error)  # noqa: TRY400
        return 1
    except (Unfinished, ApiError) as error:
        _logger.error("%s", error)  # noqa: TRY400
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"vipkeeper-controller {COMMAND}",
        description="Takes vipkeeper's finalizers off, once no controller leads any more.",
    )
    parser.add_argument("--namespace", default="vipkeeper-system", help="where the controllers' Lease is")
    parser.add_argument(
        "--sweepers",
        metavar="DAEMONSET",
        default="",
        help="wait until its Pods are ready on every node; default: do not",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="go on though an agent says that it holds an address: no keeper runs any more",
    )
    parser.add_argument(
        "--patience", type=float, default=90.0, help="seconds for the sweepers, and for a leader to end"
    )
    parser.add_argument("--kubeconfig", help="default: the pod's service account, else KUBECONFIG")
    return parser
