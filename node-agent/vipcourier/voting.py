"""The shell around `votes`: a thread of its own that asks the API server for the votes that are wanted.

Its requests have a connection and a timeout of their own, so that neither the writer of the VIPNode nor
a watch can keep them waiting. It serves all domains in turn. Nothing is asked while nothing is wanted.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from vipapi.link import Answer, Vote, Votes, VotesWanted
from vipcluster.client import LEASES, ApiError, Conflict, Forbidden, NotFound
from vipcourier import metrics
from vipcourier.votes import Claim, GiveBack, Look, Make, Wait, Write, lease_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from vipapi.link import VoteWanted
    from vipcluster.client import Cluster
    from vipcluster.store import Document

IDLE_S = 60.0

_log = logging.getLogger(__name__)


class _Voter(NamedTuple):
    """For whom a vote was won, and who alone is told of it."""

    domain_uid: str
    holder: str
    incarnation: int
    since_ns: int


class Voting:
    """Wins and keeps the wanted votes; `cluster`'s timeouts should be those of `votes.PATIENCE_NS`.

    `on_votes` is called from the thread with all votes that are held, when the API server was heard about
    the needed ones, and what was wanted then, whenever any of it changes.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        manager: str,
        on_votes: Callable[[VotesWanted, Votes], None],
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._manager = manager
        self._on_votes = on_votes
        self._changed = threading.Condition()
        self._wanted = VotesWanted()
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        # Of these only the thread knows.
        self._claims: dict[str, Claim] = {}
        self._won: dict[_Voter, Vote] = {}
        self._answers: dict[str, Answer] = {}
        self._told = (VotesWanted(), Votes())
        self._failing: set[str] = set()
        self._objections: dict[str, str] = {}

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._keep_voting, name="votes", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End; what is held stays held until it runs out."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def want(self, wanted: VotesWanted) -> None:
        """Make these the votes that are wanted."""
        with self._changed:
            self._wanted = wanted
            self._changed.notify_all()

    def _keep_voting(self) -> None:
        while not self._is_stopping:
            wanted = self._wanted
            self._tell(wanted)
            due_ns = [self._ask(each, wanted) for each in wanted.wanted]
            wait_s = (min(due_ns) - _clock()) / 1e9 if due_ns else IDLE_S
            with self._changed:
                self._changed.wait_for(lambda: self._is_news(wanted), max(0.0, wait_s))  # noqa: B023 - it waits here

    def _is_news(self, wanted: VotesWanted) -> bool:
        return self._is_stopping or self._wanted != wanted

    def _ask(self, wanted: VoteWanted, among: VotesWanted) -> int:
        """Do what is due for one domain; return when the next is, in nanoseconds."""
        name = lease_name(wanted.domain_uid)
        claim = self._claims.setdefault(name, Claim(name))
        while not self._is_news(among):
            # The clock is read here, before the request, and that is what the vote is dated from.
            step = claim.step(wanted, now_ns=_clock(), wall=datetime.now(UTC))
            if isinstance(step, Wait):
                return step.until_ns
            metrics.vote_requests.labels(type(step).__name__.lower()).inc()
            try:
                answer = self._request(name, step)
                self._heard(wanted)
                if isinstance(step, Write):
                    assert answer is not None
                    self._take(wanted, claim.wrote(step, answer, wanted, now_ns=_clock()))
                else:
                    claim.saw(answer, now_ns=_clock())
                self._tell(among)
            except Conflict:
                self._heard(wanted)
                claim.was_moved()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next domain and the next try go on
                claim.failed(now_ns=_clock())
                self._note(wanted.domain_name, error)
            else:
                self._note(wanted.domain_name, None)
                self._object(name, claim.objection)
        return 0

    def _request(self, name: str, step: Look | Make | Write | GiveBack) -> Document | None:
        match step:
            case Look():
                try:
                    return self._cluster.get(LEASES, name, namespace=self._namespace)
                except NotFound:
                    return None
            case Make(lease):
                return self._cluster.create(LEASES, lease, namespace=self._namespace, manager=self._manager)
            case Write(lease) | GiveBack(lease):
                return self._cluster.replace(LEASES, lease, manager=self._manager)

    def _heard(self, wanted: VoteWanted) -> None:
        if wanted.is_needed:
            self._answers[wanted.domain_uid] = Answer(wanted.domain_uid, _clock())

    def _take(self, wanted: VoteWanted, vote: Vote | None) -> None:
        if vote is None:
            metrics.vote_failures.labels("Late").inc()
            return
        key = _voter(wanted)
        before = self._won.get(key)
        if before is None or before.transitions != vote.transitions:
            _log.info("Won the API server's vote of FailoverDomain %s", wanted.domain_name)
        self._won[key] = vote

    def _tell(self, wanted: VotesWanted) -> None:
        """Tell of all votes that are held and wanted, if that is news."""
        now_ns = _clock()
        self._won = {key: vote for key, vote in self._won.items() if vote.until_ns > now_ns}
        keys = [_voter(each) for each in wanted.wanted]
        votes = Votes(
            votes=tuple(self._won[key] for key in keys if key in self._won),
            answers=tuple(
                self._answers[each.domain_uid]
                for each in wanted.wanted
                if each.is_needed and each.domain_uid in self._answers
            ),
        )
        metrics.votes_held.set(len(votes.votes))
        if (wanted, votes) != self._told:
            self._told = (wanted, votes)
            self._on_votes(wanted, votes)

    def _object(self, lease: str, objection: str) -> None:
        """Say once what of a Lease cannot be read."""
        if objection == self._objections.get(lease, ""):
            return
        self._objections[lease] = objection
        if objection:
            metrics.vote_failures.labels("Unreadable").inc()
            _log.error(
                "The Lease %s was changed by hand: %s, and what was seen there before counts, or nothing; "
                "no hand is to change it",
                lease,
                objection,
            )

    def _note(self, domain: str, error: Exception | None) -> None:
        """Say once that asking fails, and once that it works again."""
        if error is None:
            if domain in self._failing:
                self._failing.discard(domain)
                _log.info("The API server's vote of FailoverDomain %s can be asked for again", domain)
            return
        metrics.vote_failures.labels(type(error).__name__).inc()
        if domain not in self._failing:
            self._failing.add(domain)
            remedy = (
                "bind the courier's service account to its Role"
                if isinstance(error, Forbidden)
                else "it is tried again"
            )
            _log.warning(
                "The API server's vote of FailoverDomain %s cannot be asked for: %s: %s",
                domain,
                error if isinstance(error, ApiError) else repr(error),
                remedy,
            )


def _voter(wanted: VoteWanted) -> _Voter:
    return _Voter(wanted.domain_uid, wanted.holder, wanted.incarnation, wanted.since_ns)


def _clock() -> int:
    """Return nanoseconds on the clock that the keeper's deadlines are on."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
