"""Decides whether this node is fit to hold each address: rise, fall, weight and score.

Three folds, each a plain function of what it is given:

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

2. A link's state is a fact that the kernel tells, not a sample that may be lost on the way. Where the
   check does not say `failureThreshold`, its first failure is enough.

3. `assess` puts the checks of one VirtualIP together as keepalived does. A check without a weight is
   required: while it fails the node is unfit (`CheckFailed`), and while it has no result yet as well
   (`CheckPending`). A positive weight is added to the priority while the check passes, a negative one
   while it fails; an unknown one counts for nothing. The score stays within 1 to 254.

A message is what a person reads in the status, and every new one is a write to the API server. So a
passing check has none, and a check that goes on failing takes a different one at most every
`MESSAGE_HOLD_S` seconds: a hook that prints the time of day does not become a load.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Literal

from vipapi.healthchecks import ICMP, HealthCheck, Link, Probe
from vipapi.nodestatus import CheckStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from vipapi.nodeplan import Plan

LOWEST_SCORE = 1
HIGHEST_SCORE = 254
MESSAGE_HOLD_S = 30.0
_MESSAGE_LENGTH = 1024

Verdict = Literal["Passing", "Failing", "Unknown"]


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What one probe found; `message` says why it failed, without anything that differs each time."""

    is_ok: bool
    message: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Definition:
    """What is probed, how often, and how many results turn it: all that makes two checks the same."""

    probe: Probe
    period_ms: int
    timeout_ms: int
    rise: int
    fall: int
    is_presumed: bool = False

    @classmethod
    def of(cls, check: HealthCheck) -> Definition:
        """Return the check without its name and weight, with the effective values filled in."""
        fall = check.fall
        if isinstance(check.probe, Link) and check.failure_threshold is None:
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
    """Where one check stands; `streak` counts the results in a row that speak against the verdict."""

    verdict: Verdict = "Unknown"
    streak: int = 0
    message: str = ""
    message_since: float = 0.0


def receive(standing: Standing, definition: Definition, result: Result, *, now: float) -> Standing:
    """Fold one result into a check's standing."""
    is_against = result.is_ok != (standing.verdict == "Passing")
    needed = definition.rise if result.is_ok else definition.fall
    if standing.verdict == "Unknown" or (is_against and standing.streak + 1 >= needed):
        return _passing() if result.is_ok else _failing(result, now)
    if is_against:
        return dataclasses.replace(standing, streak=standing.streak + 1)
    is_news = not result.is_ok and result.message != standing.message
    if is_news and now - standing.message_since >= MESSAGE_HOLD_S:
        return _failing(result, now)
    return dataclasses.replace(standing, streak=0)


def _first(definition: Definition) -> Standing:
    return _passing() if definition.is_presumed else Standing()


def _passing() -> Standing:
    return Standing(verdict="Passing")


def _failing(result: Result, now: float) -> Standing:
    return Standing(verdict="Failing", message=result.message[:_MESSAGE_LENGTH], message_since=now)


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """One VirtualIP that this node is a candidate for."""

    uid: str
    priority: int
    checks: tuple[HealthCheck, ...] = ()
    are_presumed: bool = False

    def definition(self, check: HealthCheck) -> Definition:
        """Return what is probed for one of its checks."""
        return dataclasses.replace(Definition.of(check), is_presumed=self.are_presumed)


def subjects(plan: Plan) -> tuple[Subject, ...]:
    """Return the VirtualIPs that the plan's node is a candidate for, in the plan's order."""
    return tuple(
        Subject(uid=vip.uid, priority=candidate.priority, checks=vip.health_checks)
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
            uid=of_services(vip.uid), priority=HIGHEST_SCORE, checks=vip.service_checks, are_presumed=True
        )
        for domain in plan.domains
        for vip in domain.virtual_ips
        if vip.uid in active and vip.service_checks
    )


def node_checks(plan: Plan, *, has_gateway: bool) -> tuple[Definition, ...]:
    """Return what is probed of the node itself, whatever its VirtualIPs."""
    is_wanted = has_gateway and any(domain.gateway_probe == "Auto" for domain in plan.domains)
    return (GATEWAY,) if is_wanted else ()


@dataclasses.dataclass(frozen=True, slots=True)
class Fitness:
    """Whether this node may hold one VirtualIP by its health; `reason` and `message` say why not."""

    fit: Literal["Fit", "Unfit"]
    score: int
    reason: str = ""
    message: str = ""
    checks: tuple[CheckStatus, ...] = ()

    @property
    def is_fit(self) -> bool:
        """Whether every required check passes."""
        return self.fit == "Fit"


def assess(subject: Subject, standings: Mapping[Definition, Standing]) -> Fitness:
    """Return the fitness for one VirtualIP; a Definition that has no standing yet is Unknown."""
    unknown = Standing()
    score = subject.priority
    failing: list[str] = []
    pending: list[str] = []
    statuses: list[CheckStatus] = []
    for check in subject.checks:
        standing = standings.get(subject.definition(check), unknown)
        statuses.append(CheckStatus(name=check.name, result=standing.verdict, message=standing.message))
        if check.weight is not None:
            counts = standing.verdict == ("Passing" if check.weight > 0 else "Failing")
            score += check.weight if counts else 0
        elif standing.verdict == "Failing":
            failing.append(f"{check.name}: {standing.message}" if standing.message else check.name)
        elif standing.verdict == "Unknown":
            pending.append(check.name)
    score = max(LOWEST_SCORE, min(HIGHEST_SCORE, score))
    if failing:
        return Fitness("Unfit", score, "CheckFailed", _told("failing", failing), tuple(statuses))
    if pending:
        return Fitness("Unfit", score, "CheckPending", _told("not finished yet", pending), tuple(statuses))
    return Fitness("Fit", score, checks=tuple(statuses))


def _told(what: str, checks: Iterable[str]) -> str:
    return f"required checks {what}: {'; '.join(checks)}"[:_MESSAGE_LENGTH]


class Health:
    """The checks of all VirtualIPs of a node: which must be probed, and what their results mean.

    `update` keeps the standing of every Definition that is still there, so a new plan forgets
    nothing that it did not change.
    """

    def __init__(self) -> None:
        self._subjects: dict[str, Subject] = {}
        self._standings: dict[Definition, Standing] = {}
        self._concerned: dict[Definition, tuple[str, ...]] = {}
        self._fitness: dict[str, Fitness] = {}

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """What must be probed, each once, in the order of the VirtualIPs."""
        return tuple(self._standings)

    def update(self, subjects: Iterable[Subject], besides: Iterable[Definition] = ()) -> None:
        """Take the VirtualIPs that this node is a candidate for, all of them, and what else is probed."""
        concerned: dict[Definition, list[str]] = {definition: [] for definition in besides}
        self._subjects = {subject.uid: subject for subject in subjects}
        for subject in self._subjects.values():
            for definition in {subject.definition(check): None for check in subject.checks}:
                concerned.setdefault(definition, []).append(subject.uid)
        self._standings = {d: self._standings.get(d) or _first(d) for d in concerned}
        self._concerned = {d: tuple(uids) for d, uids in concerned.items()}
        self._fitness.clear()

    def receive(self, definition: Definition, result: Result, *, now: float) -> bool:
        """Fold a result in; return whether anything changed that a status shows.

        A result of a Definition that is no longer wanted (its probe was under way when the plan
        changed) is dropped.
        """
        before = self._standings.get(definition)
        if before is None:
            return False
        after = receive(before, definition, result, now=now)
        self._standings[definition] = after
        if (after.verdict, after.message) == (before.verdict, before.message):
            return False
        for uid in self._concerned[definition]:
            self._fitness.pop(uid, None)
        return True

    def standing(self, definition: Definition) -> Standing:
        """Where one Definition stands; Unknown where it is not probed."""
        return self._standings.get(definition, Standing())

    def fitness(self, uid: str) -> Fitness | None:
        """Return this node's fitness for a VirtualIP, None where it is no candidate."""
        subject = self._subjects.get(uid)
        if subject is None:
            return None
        known = self._fitness.get(uid)
        if known is None:
            known = self._fitness[uid] = assess(subject, self._standings)
        return known
