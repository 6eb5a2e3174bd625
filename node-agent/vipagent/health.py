"""Decides whether this node is fit to hold each address: rise, fall, weight and score.

Four folds, each a plain function of what it is given:

1. A *check* is a `Definition`: what is probed, how often, and how many results turn it. Checks of
   several VirtualIPs that are defined alike are one Definition and are probed once; a name or a weight
   is not part of it. Each Definition has one `Standing`, which `receive` folds a result into::

                      first result passes
           Unknown ─────────────────────────▶ Passing ◀─┐
              │                                 │       │ `rise` successes in a row
              │ first result fails              │       │
              │                                 ▼       │
              └──────────────────────────────▶ Failing ─┘
                                 `fall` failures in a row

   The first result decides at once, so that a keeper that has just started says what it sees after one
   probe and not after `rise` periods. Not so for a *presumed* Definition: it passes until it has failed
   `fall` times. The node's own gateway check is one (`GATEWAY`): a keeper knows nothing against its
   gateway when it starts, and moving an address is dearer than a second's doubt. So are the checks of
   services that have just become active.

   A Definition that takes the place of another (a threshold was edited, or a path) begins where that one
   stands, and turns as it would have. Who owns an address keeps it when a required check is added: until the
   new check has passed once or failed `fall` times it speaks against others only, who are not to take what
   they may not be fit for.

2. A link's state is a fact that the kernel tells, not a sample that may be lost on the way, and so is what
   the courier tells of Pods. Where the check does not say `failureThreshold`, its first failure is enough.

3. `assess` puts the checks of one VirtualIP together as keepalived does. A check without a weight is
   required: while it fails the node is unfit (`CheckFailed`), and while it has no result yet as well
   (`CheckPending`). A positive weight is added to the priority while the check passes, a negative one
   while it fails; an unknown one counts for nothing. The score stays within 1 to 254.

4. A check that keeps turning is *damped*: it is kept Failing for longer, so that an address is not carried to
   and fro behind it.

   a. A fall is a turn from passing to failing, by `fall` results in a row, whether or not it is damped.
   b. From the third fall within `FLAP_WINDOW_S` on it must have passed in a row for `LEAST_DAMPING_S` before
      it counts as passing; each further fall doubles that, up to `MOST_DAMPING_S`. A single failure begins
      the row anew.
   c. All is forgiven `FORGIVEN_S` after the last fall.
   d. A required check that fails by its damping alone does not make the node unfit but its score the
      lowest: every other candidate comes first, and where there is none the address is up.
   e. A presumed Definition is not damped: not the gateway (a dead one moves nothing), not the checks of
      services (one that failed is kept off by itself), not those of another node (`vipagent.observations`).

A message is what a person reads in the status, and every new one is a write to the API server. So a
passing check has none, and a check that goes on failing takes a different one at most every
`MESSAGE_HOLD_S` seconds: a hook that prints the time of day does not become a load.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from vipapi.healthchecks import ICMP, HealthCheck, Link, Pods, Probe
from vipapi.nodestatus import CheckStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from vipapi.nodeplan import Plan

LOWEST_SCORE = 1
HIGHEST_SCORE = 254
MESSAGE_HOLD_S = 30.0
FLAP_WINDOW_S = 600.0
FLAPS: Final = 3
LEAST_DAMPING_S = 30.0
MOST_DAMPING_S = 600.0
FORGIVEN_S = 1800.0
_MESSAGE_LENGTH = 1024
_NONE: Final[Mapping[Definition, Standing]] = MappingProxyType({})

Verdict = Literal["Passing", "Failing", "Unknown"]


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What one probe found; `message` says why it failed, without anything that differs each time.

    Not `is_known`: there is nothing to be found out yet, which speaks neither for the check nor against it.
    """

    is_ok: bool
    message: str = ""
    is_known: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Definition:
    """What is probed, how often, and how many results turn it: all that makes two checks the same.

    `term` is the owner's where another node is probed: what was found in one says nothing of the next.
    """

    probe: Probe
    period_ms: int
    timeout_ms: int
    rise: int
    fall: int
    is_presumed: bool = False
    term: int = 0

    @classmethod
    def of(cls, check: HealthCheck) -> Definition:
        """Return the check without its name and weight, with the effective values filled in."""
        fall = check.fall
        if isinstance(check.probe, Link | Pods) and check.failure_threshold is None:
            fall = 1
        return cls(
            probe=check.probe,
            period_ms=check.period_ms,
            timeout_ms=check.timeout_ms,
            rise=check.rise,
            fall=fall,
        )


GATEWAY: Final = Definition(
    ICMP(target="gateway"), period_ms=500, timeout_ms=500, rise=2, fall=3, is_presumed=True
)
"""Whether the node reaches a default gateway; only probed while it has one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """Where one check stands; `streak` counts the results in a row that speak against it.

    `is_damped`: it fails only because it has turned too often. `row_since` is when the successes began that
    have not been interrupted since, `falls` are the last few, `damping_s` is how long the row must be.
    """

    verdict: Verdict = "Unknown"
    streak: int = 0
    message: str = ""
    message_since: float = 0.0
    is_damped: bool = False
    row_since: float | None = None
    falls: tuple[float, ...] = ()
    damping_s: float = 0.0


_PRESUMED: Final = Standing(verdict="Passing")


def receive(
    standing: Standing, definition: Definition, result: Result, *, now: float, epoch_s: float = 0.0
) -> Standing:
    """Fold one result into a check's standing; `epoch_s` is the time since 1970 when `now` was 0."""
    if not result.is_known:
        return _pending(standing, result)
    row_since = (now if standing.row_since is None else standing.row_since) if result.is_ok else None
    standing = dataclasses.replace(standing, row_since=row_since)
    is_against = result.is_ok != (standing.verdict == "Passing" or standing.is_damped)
    needed = definition.rise if result.is_ok else definition.fall
    if standing.verdict == "Unknown" or (is_against and standing.streak + 1 >= needed):
        if not result.is_ok:
            return _said(_fallen(standing, definition, now), result.message, now)
        return _risen(standing, now, epoch_s)
    if is_against:
        return dataclasses.replace(standing, streak=standing.streak + 1)
    standing = dataclasses.replace(standing, streak=0)
    if standing.is_damped:
        return _risen(standing, now, epoch_s)
    is_news = not result.is_ok and result.message != standing.message
    is_due = now - standing.message_since >= MESSAGE_HOLD_S
    return _said(standing, result.message, now) if is_news and is_due else standing


def _pending(standing: Standing, result: Result) -> Standing:
    """What is known stays; where nothing is, say why."""
    if standing.verdict != "Unknown":
        return standing
    return dataclasses.replace(standing, message=result.message[:_MESSAGE_LENGTH])


def _fallen(standing: Standing, definition: Definition, now: float) -> Standing:
    """Turn to failing, and take note of the fall; that a first result fails is none."""
    fallen = dataclasses.replace(standing, verdict="Failing", streak=0, is_damped=False)
    if standing.verdict == "Unknown" or definition.is_presumed:
        return fallen
    is_forgiven = not standing.falls or now - standing.falls[-1] >= FORGIVEN_S
    falls = (*(() if is_forgiven else standing.falls), now)[-FLAPS:]
    damping_s = 0.0 if is_forgiven else standing.damping_s
    if damping_s:
        damping_s = min(MOST_DAMPING_S, 2 * damping_s)
    elif len(falls) == FLAPS and now - falls[0] <= FLAP_WINDOW_S:
        damping_s = LEAST_DAMPING_S
    return dataclasses.replace(fallen, falls=falls, damping_s=damping_s)


def _risen(standing: Standing, now: float, epoch_s: float) -> Standing:
    """Turn to passing, or be damped for as long as the row of successes is too short."""
    assert standing.row_since is not None
    until = standing.row_since + standing.damping_s
    is_forgiven = not standing.falls or now - standing.falls[-1] >= FORGIVEN_S
    if is_forgiven or now >= until:
        return dataclasses.replace(
            standing, verdict="Passing", streak=0, is_damped=False, message="", message_since=0.0
        )
    # To ten seconds: a later row of the same length must not always be another message.
    counts_at = datetime.fromtimestamp(-(-(epoch_s + until) // 10) * 10, tz=UTC)
    message = (
        f"it turned too often: though it passes now it counts as failing until about {counts_at:%H:%M:%S} UTC"
    )
    is_new = not standing.is_damped or now - standing.message_since >= MESSAGE_HOLD_S
    damped = dataclasses.replace(standing, streak=0, is_damped=True)
    return _said(damped, message, now) if is_new and message != standing.message else damped


def _said(standing: Standing, message: str, now: float) -> Standing:
    return dataclasses.replace(standing, message=message[:_MESSAGE_LENGTH], message_since=now)


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """One VirtualIP that this node is a candidate for."""

    uid: str
    priority: int
    checks: tuple[HealthCheck, ...] = ()
    are_presumed: bool = False
    term: int = 0

    def definition(self, check: HealthCheck) -> Definition:
        """Return what is probed for one of its checks."""
        return dataclasses.replace(Definition.of(check), is_presumed=self.are_presumed, term=self.term)


def subjects(plan: Plan) -> tuple[Subject, ...]:
    """Return the VirtualIPs that the plan's node is a candidate for, in the plan's order."""
    return tuple(
        Subject(uid=vip.uid, priority=candidate.priority, checks=_own(vip.health_checks))
        for domain in plan.domains
        for vip in domain.virtual_ips
        for candidate in vip.candidates
        if candidate.node == plan.node
    )


def of_services(uid: str) -> str:
    """Return the UID under which the checks of a VirtualIP's services stand."""
    return f"{uid}/services"


def service_subjects(plan: Plan, active: Collection[str]) -> tuple[Subject, ...]:
    """Return the services' own checks of those VirtualIPs whose services are active here, told by UID.

    Services that have just become active are presumed well until their checks have failed often enough.
    """
    return tuple(
        Subject(
            uid=of_services(vip.uid),
            priority=HIGHEST_SCORE,
            checks=_own(vip.service_checks),
            are_presumed=True,
        )
        for domain in plan.domains
        for vip in domain.virtual_ips
        if vip.uid in active and _own(vip.service_checks)
    )


def _own(checks: Iterable[HealthCheck]) -> tuple[HealthCheck, ...]:
    """Return those that a node runs of itself; the others are `vipagent.observations`'."""
    return tuple(check for check in checks if check.observed_from != "Peers")


def node_checks(plan: Plan, *, has_gateway: bool) -> tuple[Definition, ...]:
    """Return what is probed of the node itself, whatever its VirtualIPs."""
    is_wanted = has_gateway and any(domain.gateway_probe == "Auto" for domain in plan.domains)
    return (GATEWAY,) if is_wanted else ()


@dataclasses.dataclass(frozen=True, slots=True)
class Fitness:
    """Whether this node may hold one VirtualIP by its health; `reason` and `message` say why not.

    Of one that is fit they say why it should come last.
    """

    fit: Literal["Fit", "Unfit"]
    score: int
    reason: str = ""
    message: str = ""
    checks: tuple[CheckStatus, ...] = ()

    @property
    def is_fit(self) -> bool:
        """Whether every required check passes, or is damped only."""
        return self.fit == "Fit"


def assess(
    subject: Subject,
    standings: Mapping[Definition, Standing],
    presumed: Mapping[Definition, Standing] = _NONE,
) -> Fitness:
    """Return the fitness for one VirtualIP; a Definition that has no standing yet is Unknown.

    What is `presumed` of a required check counts in place of what is known.
    """
    unknown = Standing()
    score = subject.priority
    failing: list[str] = []
    pending: list[str] = []
    damped: list[str] = []
    statuses: list[CheckStatus] = []
    for check in subject.checks:
        definition = subject.definition(check)
        standing = standings.get(definition, unknown)
        if check.weight is None:
            standing = presumed.get(definition, standing)
        statuses.append(CheckStatus(name=check.name, result=standing.verdict, message=standing.message))
        if check.weight is not None:
            counts = standing.verdict == ("Passing" if check.weight > 0 else "Failing")
            score += check.weight if counts else 0
        elif standing.is_damped:
            damped.append(_named(check, standing))
        elif standing.verdict == "Failing":
            failing.append(_named(check, standing))
        elif standing.verdict == "Unknown":
            pending.append(_named(check, standing))
    score = max(LOWEST_SCORE, min(HIGHEST_SCORE, score))
    if failing:
        return Fitness("Unfit", score, "CheckFailed", _told("failing", failing), tuple(statuses))
    if pending:
        return Fitness("Unfit", score, "CheckPending", _told("not finished yet", pending), tuple(statuses))
    if damped:
        return Fitness("Fit", LOWEST_SCORE, "CheckDamped", _told("damped", damped), tuple(statuses))
    return Fitness("Fit", score, checks=tuple(statuses))


def _named(check: HealthCheck, standing: Standing) -> str:
    return f"{check.name}: {standing.message}" if standing.message else check.name


def _told(what: str, checks: Iterable[str]) -> str:
    return f"required checks {what}: {'; '.join(checks)}"[:_MESSAGE_LENGTH]


def _shown(standing: Standing) -> tuple[Verdict, bool, str]:
    return standing.verdict, standing.is_damped, standing.message


class Health:
    """The checks of all VirtualIPs of a node: which must be probed, and what their results mean.

    `update` keeps the standing of every Definition that is still there, so a new plan forgets
    nothing that it did not change. `epoch_s` is the time since 1970 when `now` was 0.
    """

    def __init__(self, *, epoch_s: float = 0.0) -> None:
        self._epoch_s = epoch_s
        self._subjects: dict[str, Subject] = {}
        self._standings: dict[Definition, Standing] = {}
        self._presumed: dict[Definition, Standing] = {}
        self._concerned: dict[Definition, dict[str, str]] = {}
        self._fitness: dict[tuple[str, bool], Fitness] = {}

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """What must be probed, each once, in the order of the VirtualIPs."""
        return tuple(self._standings)

    def update(self, subjects: Iterable[Subject], besides: Iterable[Definition] = ()) -> None:
        """Take the VirtualIPs that this node is a candidate for, all of them, and what else is probed."""
        concerned: dict[Definition, dict[str, str]] = {definition: {} for definition in besides}
        by_uid = {subject.uid: subject for subject in subjects}
        for subject in by_uid.values():
            for check in subject.checks:
                concerned.setdefault(subject.definition(check), {}).setdefault(subject.uid, check.name)
        self._standings = {
            d: self._standings.get(d) or self._first(d, names) for d, names in concerned.items()
        }
        self._presumed = {
            d: self._presumed.get(d, _PRESUMED)
            for d, standing in self._standings.items()
            if standing.verdict == "Unknown" or d in self._presumed
        }
        self._subjects = by_uid
        self._concerned = concerned
        self._fitness.clear()

    def _first(self, definition: Definition, names: Mapping[str, str]) -> Standing:
        """Return where the Definition of the checks of these names begins; they go by UID of their VirtualIP.

        Where not all of them replace a check, or those stood differently, nothing is known of it.
        """
        if definition.is_presumed:
            return _PRESUMED
        replaced = [self._former(uid, name) for uid, name in names.items()]
        if (
            len({(each.verdict, each.is_damped) for each in replaced}) != 1
            or replaced[0].verdict == "Unknown"
        ):
            return Standing()
        return dataclasses.replace(replaced[0], streak=0, message_since=0.0)

    def _former(self, uid: str, name: str) -> Standing:
        """Return where the check of that name stands that a VirtualIP has had so far."""
        subject = self._subjects.get(uid)
        if subject is None:
            return Standing()
        former = (subject.definition(check) for check in subject.checks if check.name == name)
        return next((self.standing(each) for each in former), Standing())

    def receive(self, definition: Definition, result: Result, *, now: float) -> bool:
        """Fold a result in; return whether anything changed that a status shows.

        A result of a Definition that is no longer wanted (its probe was under way when the plan
        changed) is dropped.
        """
        before = self._standings.get(definition)
        if before is None:
            return False
        after = receive(before, definition, result, now=now, epoch_s=self._epoch_s)
        self._standings[definition] = after
        has_changed = self._presume(definition, result, now) or _shown(after) != _shown(before)
        if has_changed:
            for uid in self._concerned[definition]:
                for is_held in (False, True):
                    self._fitness.pop((uid, is_held), None)
        return has_changed

    def _presume(self, definition: Definition, result: Result, now: float) -> bool:
        """Fold a result into what is presumed; that ends, which is news, once it is what is known."""
        presumed = self._presumed.get(definition)
        if presumed is None:
            return False
        presumed = self._presumed[definition] = receive(presumed, definition, result, now=now)
        if presumed.verdict != self._standings[definition].verdict:
            return False
        del self._presumed[definition]
        return True

    def standing(self, definition: Definition) -> Standing:
        """Where one Definition stands; Unknown where it is not probed."""
        return self._standings.get(definition, Standing())

    def fitness(self, uid: str, *, is_held: bool = False) -> Fitness | None:
        """Return this node's fitness for a VirtualIP, None where it is no candidate.

        Where it is held here already, a check that is new is presumed to pass.
        """
        subject = self._subjects.get(uid)
        if subject is None:
            return None
        known = self._fitness.get((uid, is_held))
        if known is None:
            presumed = self._presumed if is_held else _NONE
            known = self._fitness[uid, is_held] = assess(subject, self._standings, presumed)
        return known

    def is_presumed(self, uid: str) -> bool:
        """Whether this node's fitness for a VirtualIP is another while it holds it."""
        return self.fitness(uid, is_held=True) != self.fitness(uid)
