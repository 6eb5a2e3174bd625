"""Which of the replicas acts: leader election by a Lease object, and why there are never two writers.

The holder renews its Lease every `RETRY_S`; the others watch it. Nobody compares its clock with
another's: a follower notes *on its own clock* when it first saw the Lease in its present state, and
takes it when that state has not changed for the Lease's duration. The times written into the Lease
are for people. All writes are compare-and-swap on the resource version, so of two that try one wins.

    follower ── the Lease is unheld, or unchanged for LEASE_S ──▶ leader
       leader ── no successful renewal for RENEW_DEADLINE_S ──▶ lost (the process ends)

The leader's right to write ends `RENEW_DEADLINE_S` after the clock was read *before* its last
successful renewal, whatever it believes otherwise. A write takes at most the client's 5 s, and
10 s + 5 s is the 15 s that every follower waits at least. A process that was frozen in the middle of
a write and woke up later is stopped by the resource version that the write names, or, where it makes
something, by what is there already.

The pure part (`Seen`, `see`, `is_free`) has no clock; `Leadership` is the loop around it.
"""

from __future__ import annotations

import threading
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from vipcluster.client import LEASES, ApiError, Conflict, Forbidden, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from vipcluster.client import Cluster
    from vipcluster.store import Document

LEASE_S = 15
RENEW_DEADLINE_S = 10.0
RETRY_S = 2.0
PATIENCE_S = 10.0


class Seen(NamedTuple):
    """A Lease as it was seen, and since when, on our own clock, it has been so."""

    holder: str
    duration_s: float
    renewal: str
    since: float


def see(before: Seen | None, lease: Document, now: float) -> Seen:
    """Take in a Lease: the time stays while holder and renewal do."""
    spec = lease.get("spec") or {}
    holder = spec.get("holderIdentity") or ""
    renewal = f"{spec.get('leaseTransitions', 0)} {spec.get('renewTime', '')}"
    duration_s = float(spec.get("leaseDurationSeconds") or LEASE_S)
    if before is not None and (before.holder, before.renewal) == (holder, renewal):
        return before
    return Seen(holder, duration_s, renewal, now)


def is_free(seen: Seen, now: float) -> bool:
    """Whether a Lease seen so may be taken: nobody holds it, or its holder fell silent."""
    return not seen.holder or now >= seen.since + seen.duration_s


class Leadership:
    """Tries to become and to stay the leader, in a thread of its own.

    `on_change` is called from that thread after the leadership was won or lost, `on_turn` after each try.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        name: str,
        identity: str,
        manager: str,
        on_change: Callable[[], None] = lambda: None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        # A process that was restarted under the same name is another one: it has to wait like anybody.
        self.identity = f"{identity}_{uuid.uuid4().hex[:12]}"
        self._manager = manager
        self._on_change = on_change
        self._on_turn = on_turn
        self._seen: Seen | None = None
        self._renewed_at: float | None = None
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._refused_since: float | None = None
        self.error: ApiError | None = None

    @property
    def was_won(self) -> bool:
        """Whether this process ever led."""
        return self._renewed_at is not None

    @property
    def is_held(self) -> bool:
        """Whether this process may write now. Ask immediately before each write."""
        return self._renewed_at is not None and _clock() < self._renewed_at + RENEW_DEADLINE_S

    @property
    def is_lost(self) -> bool:
        """Whether this process led and does no longer: it should end."""
        return self.was_won and not self.is_held

    @property
    def refusal(self) -> ApiError | None:
        """What keeps this process from ever leading and will not heal by itself, once it has lasted."""
        since = self._refused_since
        return self.error if since is not None and _clock() >= since + PATIENCE_S else None

    def start(self) -> None:
        """Begin to try."""
        self._thread = threading.Thread(target=self._keep_trying, name="leadership", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and let go of the Lease so that another replica need not wait; do so after the last write."""
        self._is_stopping.set()
        if self._thread is not None:
            self._thread.join(RENEW_DEADLINE_S)
        if self.is_held:
            self._renewed_at = None
            self._let_go()

    def step(self) -> None:
        """Renew the Lease, take it, or note who has it; raises `ApiError`."""
        now = _clock()
        try:
            lease = self._cluster.get(LEASES, self._name, namespace=self._namespace)
        except NotFound:
            lease = {"metadata": {"name": self._name, "namespace": self._namespace}}
            self._cluster.create(
                LEASES, self._claimed(lease), namespace=self._namespace, manager=self._manager
            )
            self._renewed_at = now
            return
        # Dated after the answer: what it shows was perhaps written while it was asked for.
        self._seen = see(self._seen, lease, _clock())
        if self._seen.holder == self.identity or is_free(self._seen, now):
            self._cluster.replace(LEASES, self._claimed(lease), manager=self._manager)
            self._renewed_at = now

    def _keep_trying(self) -> None:
        was_held = False
        while not self._is_stopping.is_set() and not self.is_lost:
            try:
                self.step()
                self._note(None)
            except Conflict:
                self._note(None)  # another replica was faster; seen at the next step
            except ApiError as error:
                self._note(error)
            self._on_turn()
            if self.is_held != was_held:
                was_held = not was_held
                self._on_change()
            self._is_stopping.wait(RETRY_S)
        if was_held and not self._is_stopping.is_set():
            self._on_change()

    def _note(self, error: ApiError | None) -> None:
        """Remember what went wrong; an API server that has just started refuses everything for a moment."""
        self.error = error
        if isinstance(error, Forbidden | NotFound):
            self._refused_since = self._refused_since or _clock()
        else:
            self._refused_since = None

    def _claimed(self, lease: Document) -> Document:
        spec = dict(lease.get("spec") or {})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if spec.get("holderIdentity") != self.identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions", -1)) + 1
        spec |= {"holderIdentity": self.identity, "leaseDurationSeconds": LEASE_S, "renewTime": now}
        return {**lease, "spec": spec}

    def _let_go(self) -> None:
        try:
            lease = self._cluster.get(LEASES, self._name, namespace=self._namespace)
            if (lease.get("spec") or {}).get("holderIdentity") == self.identity:
                spec = {**lease["spec"], "holderIdentity": ""}
                self._cluster.replace(LEASES, {**lease, "spec": spec}, manager=self._manager)
        except ApiError as error:
            self.error = error  # the Lease then runs out by itself


def _clock() -> float:
    """Return seconds on a clock that also counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
