"""The controller's shell: `vipkeeper-controller`, or `python -m vipcontroller`.

One loop: an occasion comes (anything changed, a time is due, the leadership was won), everything is
looked at, everything is decided, what differs is written. Writes stop the moment the leadership is not
certain, and the process ends when it was lost: its successor decides from what it finds.

Exit status: 0 after SIGTERM or SIGINT, 1 when the leadership was lost, 2 for a command line or
configuration that cannot work, 3 when the API server refuses what the controller needs.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from vipapi import listen
from vipcluster.client import (
    FAILOVER_DOMAINS,
    NODES,
    SECRETS,
    SERVICE_FAILOVERS,
    SWITCHOVERS,
    VIP_NODES,
    VIRTUAL_IPS,
    ApiError,
    BadConfiguration,
    Conflict,
    Forbidden,
    NotFound,
    connect,
)
from vipcluster.leader import Leadership
from vipcluster.watch import Watch
from vipcontroller import notifications, uninstall, urgency
from vipcontroller.crier import Crier
from vipcontroller.decisions import Memory, reconcile
from vipcontroller.metrics import Metrics
from vipcontroller.notifier import Notifier
from vipcontroller.scribe import MANAGER, RESOURCES, Scribe
from vipcontroller.steward import Steward
from vipcontroller.world import Moment, Reader
from vipcontroller.writes import SecretWrite
from viphealth import arenas, ending, server
from viphealth.conversation import Health
from viphealth.liveness import Pulses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vipcluster.client import Cluster
    from vipcontroller.urgency import Key
    from vipcontroller.world import Problem, World
    from vipcontroller.writes import Write

WATCHED = (VIRTUAL_IPS, SERVICE_FAILOVERS, FAILOVER_DOMAINS, SWITCHOVERS, VIP_NODES, NODES)
LEASE_NAME = "vipkeeper-controller"
IDLE_S = 1.0
IDLE_SHARE = 0.05
LONGEST_IDLE_S = 10.0
LONGEST_REST_S = 0.5
WRITING_S = 2.0
WRITERS = 4
SECRETS_S = 60.0
RECONCILIATION, ELECTION = "reconcile loop", "leader election"
SILENCE_S = 30.0

_logger = logging.getLogger("vipcontroller")


class Controller:
    """The loop and what it looks at."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        identity: str,
        metrics: Metrics,
        notifier: Notifier | None = None,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._metrics = metrics
        self._notifier = notifier
        self._pulses = Pulses({RECONCILIATION: SILENCE_S, ELECTION: SILENCE_S}, time.monotonic())
        self._watch = Watch(cluster, WATCHED)
        self._leadership = Leadership(
            cluster,
            namespace=namespace,
            name=LEASE_NAME,
            identity=identity,
            manager=MANAGER,
            on_change=self._watch.wake,
            on_turn=lambda: self._pulses.beat(ELECTION, time.monotonic()),
        )
        self._scribe = Scribe(cluster, namespace=namespace, instance=identity)
        self._crier = Crier(self._scribe.tell, count=metrics.told)
        self._steward = Steward(
            cluster, may_write=lambda: self._leadership.is_held, on_change=self._watch.wake
        )
        self._reader = Reader()
        self._memory = Memory()
        self._secrets: dict[str, tuple[bool, float]] = {}
        self._told: frozenset[Problem] = frozenset()
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="writer")
        self._is_stopping = threading.Event()
        self._rest_s = 0.0
        self._waiting: dict[Key, float] = {}

    def stop(self) -> None:
        """Make `run` return 0 soon; to be called from another thread."""
        self._is_stopping.set()
        self._watch.wake()

    def health(self) -> Health:
        """Say how this replica is; may be called from any thread.

        Live is whose loops turn, be it leader or standby, and whatever the API server answers. Ready is who
        has seen everything once and could lead at once; that stays so when the API server goes away, for
        another replica would see no more.
        """
        sick = self._pulses.stopped(time.monotonic())
        if not self._watch.is_running:
            sick = "a thread of its watch has ended"
        is_complete = self._watch.is_complete
        return Health(sick, "" if is_complete else "the API server has not listed every kind to it yet")

    def run(self) -> int:
        """Run until stopped or until it cannot go on; returns the exit status."""
        self._watch.start()
        self._leadership.start()
        self._steward.start()
        self._crier.start()
        if self._notifier is not None:
            self._notifier.start()
        try:
            return self._loop()
        finally:
            self._steward.stop()
            self._writers.shutdown()
            if self._notifier is not None:
                self._notifier.stop()
            self._leadership.stop()
            self._crier.stop()
            self._watch.stop()

    def _loop(self) -> int:
        pause_s, was_leader = 0.0, False
        while not self._is_stopping.is_set():
            self._turn()
            if self._watch.wait(pause_s) and pause_s and not self._is_stopping.wait(self._rest_s):
                self._watch.wait(0.0)
            is_leader = self._leadership.is_held
            if is_leader != was_leader:
                self._metrics.led(is_leader=is_leader)
                _logger.info("This replica leads" if is_leader else "This replica does not lead")
                was_leader = is_leader
            if self._leadership.is_lost:
                _logger.error(
                    "The leadership was lost: %s", self._leadership.error or "another replica has it"
                )
                return 1
            refusal = self._watch.failure or self._leadership.refusal
            if refusal is not None:
                _logger.error(
                    "The API server refuses what the controller needs: %s", _remedy(refusal, self._namespace)
                )
                return 3
            pause_s = IDLE_S
            if is_leader and self._watch.is_complete:
                try:
                    pause_s = self._look()
                except Exception:
                    # It would be the same after a restart: who leads goes on to carry out what was decided.
                    _logger.exception("Not everything could be looked at: nothing new is decided")
                    self._metrics.looked_in_vain()
        return 0

    def _turn(self) -> None:
        """Take note that the loop goes on; each request that it waits for is a turn of its own."""
        self._pulses.beat(RECONCILIATION, time.monotonic())

    def _look(self) -> float:
        """Look at everything, decide, write; returns how long there is nothing to do, at most."""
        started = time.perf_counter()
        world = self._world()
        now = Moment(datetime.now(UTC), time.monotonic())
        decisions = reconcile(world, self._memory, now)
        self._memory = decisions.memory
        self._steward.assign(decisions.assignments)
        took_s = time.perf_counter() - started
        self._rest_s = rest_s(took_s)
        self._metrics.looked(took_s, problems=len(decisions.problems))
        self._metrics.show(world.virtual_ips, world.failovers, decisions.vitals)
        self._tell_problems(decisions.problems)
        if not self._write_all(decisions.writes):
            return 0.0
        idle_s = longest_idle_s(took_s, has_failed=urgency.FAILED in self._waiting.values())
        return idle_s if decisions.due is None else max(0.0, min(idle_s, decisions.due - time.monotonic()))

    def _write_all(self, writes: Sequence[Write]) -> bool:
        """Write for a while; returns False when there is more to write, about which to decide anew first.

        An API server that answers 429 wants to be left alone: what is missing then waits for the next look.
        """
        now = time.monotonic()
        until = now + WRITING_S
        keys = map(urgency.key, writes)
        self._waiting = {key: self._waiting.get(key, now) for key in keys}

        has_enough = threading.Event()

        def write(each: Write) -> bool:
            if self._is_stopping.is_set() or has_enough.is_set():
                return True
            if time.monotonic() >= until:
                return False
            if not self._write(each):
                has_enough.set()
            return True

        # Each is to another object, so several at a time may be under way; most of it is waiting.
        return all(list(self._writers.map(write, urgency.in_turn(writes, self._waiting, now))))

    def _world(self) -> World:
        world = self._reader.read(
            virtual_ips=self._watch.documents(VIRTUAL_IPS),
            failovers=self._watch.documents(SERVICE_FAILOVERS),
            domains=self._watch.documents(FAILOVER_DOMAINS),
            switchovers=self._watch.documents(SWITCHOVERS),
            vip_nodes=self._watch.documents(VIP_NODES),
            nodes=self._watch.documents(NODES),
        )
        names = {domain.spec.key.secret_name for domain in world.domains.values()}
        missing = frozenset(name for name in names if self._is_missing(name))
        return world.lacking(missing).with_carried(self._steward.carried)

    def _is_missing(self, name: str) -> bool:
        """Whether a Secret is known not to exist; looked up when its name is new, and once a minute."""
        is_missing, looked = self._secrets.get(name, (False, float("-inf")))
        if time.monotonic() < looked + SECRETS_S:
            return is_missing
        self._turn()
        try:
            self._cluster.get(SECRETS, name, namespace=self._namespace)
            is_missing = False
        except NotFound:
            is_missing = True
        except ApiError as error:
            _logger.warning("Could not look for the Secret %s: %s", name, error)
            return is_missing
        self._secrets[name] = (is_missing, time.monotonic())
        return is_missing

    def _write(self, write: Write) -> bool:
        """Carry one write out; one that fails is logged, and missing again at the next look.

        Returns whether the API server takes more.
        """
        if not self._leadership.is_held:
            return True
        self._turn()
        kind = "Secret" if isinstance(write, SecretWrite) else write.kind
        name = _name(write)
        self._waiting.pop(urgency.key(write), None)
        try:
            document = self._scribe.carry_out(write)
        except (Conflict, NotFound):
            self._metrics.wrote(kind, "conflict")
            return True
        except ApiError as error:
            self._waiting[urgency.key(write)] = urgency.FAILED
            self._metrics.wrote(kind, "error")
            _logger.warning("Could not write %s %s: %s", kind, name, error)
            return error.status != HTTPStatus.TOO_MANY_REQUESTS
        self._metrics.wrote(kind, "ok")
        if isinstance(write, SecretWrite):
            self._secrets.pop(name, None)
            self._watch.wake()
            return True
        if document is not None and not _is_gone(document):
            self._watch.put(RESOURCES[write.kind], document)
        if self._notifier is not None:
            self._notifier.offer(notifications.of(write))
        for telling in write.tellings:
            _logger.info("%s %s: %s", kind, name, telling.note)
        self._crier.tell(write)
        return True

    def _tell_problems(self, problems: Sequence[Problem]) -> None:
        """Log what is wrong with objects, once while it lasts."""
        for problem in problems:
            if problem not in self._told:
                _logger.warning("Could not decide %s %s: %s", problem.kind, problem.name, problem.message)
        self._told = frozenset(problems)


def longest_idle_s(look_s: float, *, has_failed: bool = False) -> float:
    """Return after how long to look anew though nothing is new and nothing due, if a look takes so long.

    Such a look is for what nobody foresaw: it may not cost much of a core, however big the world is. A write
    that failed is missing still, and nothing else would have it tried again.
    """
    if has_failed:
        return IDLE_S
    return min(max(IDLE_S, look_s / IDLE_SHARE), LONGEST_IDLE_S)


def rest_s(look_s: float) -> float:
    """Return how long to let news gather before the next look, if a look takes so long.

    While news keep coming, looking costs at most half of a core then, and what a hundred nodes report one
    after another is decided on, and written, together.
    """
    return min(look_s, LONGEST_REST_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the controller, or the command that ends its work for good; returns the exit status."""
    ending.end_at_once()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == [uninstall.COMMAND]:
        return uninstall.main(arguments[1:], lease=LEASE_NAME)
    options = _parser().parse_args(arguments)
    arenas.share_one()
    logging.basicConfig(
        level=options.log_level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    metrics = Metrics()
    try:
        cluster = connect(options.kubeconfig, user_agent="vipkeeper-controller")
        metrics.serve(*listen.parse(options.metrics))
    except (BadConfiguration, ValueError, OSError) as error:
        _logger.error("Cannot start: %s", error)  # noqa: TRY400 - a sentence for people, not a trace
        return 2
    notifier = None
    if options.notifications is not None:
        notifier = Notifier(options.notifications, count=metrics.notified)
    controller = Controller(
        cluster,
        namespace=options.namespace,
        identity=options.identity,
        metrics=metrics,
        notifier=notifier,
    )
    ending.end_by(controller.stop)
    with contextlib.ExitStack() as stack:
        if options.health is not None:
            try:
                stack.enter_context(server.serve(options.health, controller.health))
            except server.CannotServeHealth as error:
                _logger.error("Cannot start: %s", error)  # noqa: TRY400 - a sentence for people, not a trace
                return 2
        return controller.run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vipkeeper-controller",
        description="Elects an owner for each VirtualIP.",
        epilog=f"When uninstalling: vipkeeper-controller {uninstall.COMMAND} --help",
    )
    parser.add_argument("--namespace", default="vipkeeper-system", help="where the Lease and the Secrets are")
    parser.add_argument(
        "--identity", default=socket.gethostname(), help="this replica's name, such as the pod's"
    )
    parser.add_argument("--metrics", default="127.0.0.1:9945", help="address:port to serve metrics on")
    parser.add_argument(
        "--health",
        type=listen.parse,
        help="address:port of /healthz and /readyz, such as 127.0.0.1:9955; default: not served",
    )
    parser.add_argument(
        "--notifications", type=Path, metavar="FILE", help="whom to notify of what happens; default: nobody"
    )
    parser.add_argument("--kubeconfig", help="default: the pod's service account, else KUBECONFIG")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser


def _remedy(refusal: ApiError, namespace: str) -> str:
    if isinstance(refusal, Forbidden):
        return f"{refusal}. Grant it with the RBAC manifests that come with the chart"
    return f"{refusal}. Install the CRDs, and create the namespace {namespace}"


def _name(write: Write) -> str:
    """Return the name for people of what is written."""
    if isinstance(write, SecretWrite):
        return write.name
    namespace = write.metadata.namespace
    return f"{namespace}/{write.metadata.name}" if namespace else write.metadata.name


def _is_gone(document: object) -> bool:
    """Whether an answer shows an object that its last finalizer had kept: it does not exist any more."""
    assert isinstance(document, dict)
    metadata = document["metadata"]
    return "deletionTimestamp" in metadata and not metadata.get("finalizers")


if __name__ == "__main__":
    sys.exit(main())
