"""The whole decision: one snapshot of the world in, everything that should be written out.

`reconcile` looks at everything each time. It knows nothing of what it said the last time except
`Memory`, which only makes an automatic failback and the replacement of a witness wait, and which may be
forgotten: a controller that was restarted counts the delay anew. So doubled, late and missed occasions
change nothing, and neither does another controller taking over.

Of one object's problem its neighbours feel nothing: whatever is expected to be wrong is a value, and a
broken invariant in one object's decision is caught, told and counted as a `Problem`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from vipapi import conditions, services
from vipapi.election import Facts, elect
from vipapi.resources import FINALIZER
from vipcontroller import (
    assignments,
    claims,
    domains,
    electorate,
    followings,
    hold,
    releases,
    servicefailovers,
    switchovers,
    urgency,
    virtualips,
)
from vipcontroller.assignments import Assignments
from vipcontroller.observation import View, view
from vipcontroller.retirement import retire
from vipcontroller.sheets import field, gather, might_improve
from vipcontroller.vitals import Vitals, vitals
from vipcontroller.world import Moment, Problem, Unread, World, holdings, running
from vipcontroller.writes import FinalizerWrite, SecretWrite, StatusWrite, Write

if TYPE_CHECKING:
    from vipapi.election import Candidate, Election
    from vipapi.resources import Election as Order
    from vipapi.resources import FailoverDomain, ServiceFailover, Switchover, VirtualIP
    from vipcontroller.assignments import Assignment
    from vipcontroller.observation import Grant
    from vipcontroller.sheets import Field

SETTLE_S = 3.0
"""How long a first choice waits for keepers that have just learned of the address or of their domain."""

ALARM_S = 30.0
"""How long a new address may have no eligible candidate without a Warning, while one is settling."""

_NOWHERE = View()


class Memory(msgspec.Struct, frozen=True):
    """Since when a node has beaten the owner, by VirtualIP UID and node, and a witness has been silent.

    The second is by FailoverDomain UID and node.
    """

    better: Mapping[str, Mapping[str, float]] = {}
    silent: Mapping[str, Mapping[str, float]] = {}


class Decisions(msgspec.Struct, frozen=True, kw_only=True):
    """What should be written, in this order, what to remember, and the tick to look again at the latest.

    `assignments` are for `vipcontroller.steward`, `vitals` for the metrics.
    """

    writes: tuple[Write, ...]
    memory: Memory
    due: float | None = None
    problems: tuple[Problem, ...] = ()
    assignments: Assignments = Assignments()
    vitals: Vitals = Vitals()


def reconcile(world: World, memory: Memory, now: Moment) -> Decisions:
    """Decide everything."""
    world = followings.hold_back(claims.hold_back(world))
    accepted = followings.judge(world)
    world = followings.join(world, accepted)
    look = _Look(world, memory, now)
    for domain in world.domains.values():
        look.guard("FailoverDomain", domain.metadata.name, lambda domain=domain: look.domain(domain))
    for name, unread in world.unread_domains.items():
        look.guard("FailoverDomain", name, lambda name=name, unread=unread: look.unread_domain(name, unread))
    for virtual_ip in sorted(world.virtual_ips, key=look.order):
        look.guard("VirtualIP", virtual_ip.metadata.name, lambda one=virtual_ip: look.virtual_ip(one))
    look.orphans()
    for failover in world.failovers:
        verdict = accepted[failover.metadata.uid]
        look.guard(
            "ServiceFailover",
            services.title(failover),
            lambda one=failover, verdict=verdict: look.failover(one, verdict),
        )
    look.guard("World", "vitals", look.take_vitals)
    return Decisions(
        writes=urgency.in_order(look.writes, world.virtual_ips),
        memory=Memory(look.better, look.silent),
        due=min(look.dues, default=None),
        problems=(*world.problems, *look.problems),
        assignments=look.assignments(accepted),
        vitals=look.vitals,
    )


class _Look:
    """One look at the world, while it is being made."""

    def __init__(self, world: World, memory: Memory, now: Moment) -> None:
        self.world = world
        self.memory = memory
        self.now = now
        self.writes: list[Write] = [SecretWrite(name) for name in sorted(_secrets(world))]
        self.better: dict[str, Mapping[str, float]] = {}
        self.silent: dict[str, Mapping[str, float]] = {}
        self.dues: list[float] = []
        self.problems: list[Problem] = []
        self.adopting: set[str] = set()
        unread = (each.domain for each in world.unread_domains.values() if each.domain is not None)
        self.views = {
            domain.metadata.name: view(world, domain) for domain in (*world.domains.values(), *unread)
        }
        self.fields: dict[str, Field] = {}
        self.alive = frozenset[str]().union(*(view_.alive for view_ in self.views.values()))
        self.holdings = holdings(world)
        self.running = running(world) if world.failovers else {}
        self.virtual_ips = {virtual_ip.metadata.name for virtual_ip in world.virtual_ips}
        self.followed: dict[str, servicefailovers.Followed] = {}
        self.assigned: dict[str, tuple[Assignment, ...]] = {}
        self.verdicts = claims.judge(world)
        self.loads: dict[str, Counter[str]] = {}
        self.heirs: dict[str, dict[str, Counter[str]]] = {}
        self.vitals = Vitals()
        self.switchovers: dict[str, list[Switchover]] = {}
        for switchover in world.switchovers:
            if not switchovers.is_ended(switchover):
                self.switchovers.setdefault(switchover.spec.virtual_ip_ref.name, []).append(switchover)
        for virtual_ip in world.virtual_ips:
            self._count(virtual_ip, self._resident(virtual_ip), 1)
            self._count_heir(virtual_ip, virtual_ip.status.election, 1)

    def guard(self, kind: str, name: str, decide: object) -> None:
        """Run one object's decision so that a broken invariant in it stops no other."""
        assert callable(decide)
        try:
            decide()
        except Exception as error:  # noqa: BLE001 - told and counted by whoever runs the decision
            self.problems.append(Problem(kind, name, f"{type(error).__name__}: {error}"))

    def take_vitals(self) -> None:
        """Count what alerts are made of; where that fails they have nothing, and every decision stands."""
        self.vitals = vitals(self.world, self.views, self.holdings)

    def order(self, virtual_ip: VirtualIP) -> tuple[bool, str]:
        """Those that somebody owns come first: they stay, and the others spread around them."""
        return self._resident(virtual_ip) is None, virtual_ip.metadata.name

    def domain(self, domain: FailoverDomain) -> None:
        """Decide one FailoverDomain."""
        uid, view_ = domain.metadata.uid, self.views[domain.metadata.name]
        silent = self.memory.silent.get(uid, {})
        outcome = electorate.decide(domain, self.world, view_, silent, self.now)
        if outcome.is_adopted:
            self.adopting.add(domain.metadata.name)
        if outcome.silent:
            self.silent[uid] = outcome.silent
        if outcome.due is not None:
            self.dues.append(outcome.due)
        write = self._keep(domain, outcome) or domains.decide(
            domain, self.world, view_, outcome, self.now.wall
        )
        if write is not None:
            self.writes.append(write)

    def unread_domain(self, name: str, unread: Unread) -> None:
        """Leave a FailoverDomain that cannot be read as it is, and say so where its status can be."""
        domain = unread.domain
        if domain is None:
            return  # writing the status would take out of it what a newer version can read
        write = self._let_go(domain) or domains.leave(
            domain, unread.problem, self.world, self.views[name], self.now.wall
        )
        if write is not None:
            self.writes.append(write)

    def _keep(self, domain: FailoverDomain, outcome: electorate.Outcome) -> FinalizerWrite | None:
        """Return the write that keeps a domain while VirtualIPs name it, or that lets it go."""
        metadata = domain.metadata
        if metadata.is_deleting:
            return self._let_go(domain)
        if not outcome.configuration.epoch or FINALIZER in metadata.finalizers:
            return None
        # Telling a configuration before the finalizer stands would let the domain go with leases running.
        finalizers = (*metadata.finalizers, FINALIZER)
        return FinalizerWrite(kind="FailoverDomain", metadata=metadata, finalizers=finalizers)

    def _let_go(self, domain: FailoverDomain) -> FinalizerWrite | None:
        metadata = domain.metadata
        is_kept = FINALIZER in metadata.finalizers
        if not metadata.is_deleting or not is_kept or releases.dependents(domain, self.world):
            return None
        finalizers = releases.without_finalizer(metadata)
        return FinalizerWrite(kind="FailoverDomain", metadata=metadata, finalizers=finalizers)

    def virtual_ip(self, virtual_ip: VirtualIP) -> None:
        """Decide one VirtualIP and the Switchovers that name it."""
        uid, verdict = virtual_ip.metadata.uid, self.verdicts[virtual_ip.metadata.uid]
        unread = self.world.unread_domains.get(virtual_ip.spec.domain)
        is_blind = unread is not None and unread.domain is None and verdict.is_accepted
        if virtual_ip.spec.domain in self.adopting or is_blind:
            # What its domain runs, as was just found, has to be known to everybody first; or nobody knows it.
            self.better[uid] = self.memory.better.get(uid, {})
            return
        view_ = self.views.get(virtual_ip.spec.domain, _NOWHERE)
        if virtual_ip.status.term is not None:
            # Witnesses granted it once, whatever became of their domain.
            view_ = view_._replace(has_witnesses=True)
        held = self.holdings.get(uid, {})
        findings = virtualips.Findings(
            virtual_ip=virtual_ip,
            verdict=verdict,
            problem=self.world.unreadable.get(uid),
            is_quorate=view_.is_quorate,
            observed=view_.owners.get(uid),
            holdings=held,
            addresses=retire(virtual_ip, view_, is_accepted=verdict.is_accepted),
            is_held_back=uid in self.world.undone,
            written=self.world.written.get(uid),
            is_held_alone=hold.is_in_force(virtual_ip, self.world),
        )
        if virtual_ip.metadata.is_deleting:
            self._steer(virtual_ip, findings)
            self._release(virtual_ip, findings, view_)
            self._show(findings)
            return
        if verdict.is_accepted and FINALIZER not in virtual_ip.metadata.finalizers:
            # Accepting it before the finalizer stands would let it go without its release.
            finalizers = (*virtual_ip.metadata.finalizers, FINALIZER)
            self.writes.append(
                FinalizerWrite(kind="VirtualIP", metadata=virtual_ip.metadata, finalizers=finalizers)
            )
            self._show(findings)
            return
        if verdict.is_accepted and unread is not None:
            # An edit would be in force with the first word about it.
            if not _is_edit(virtual_ip):
                self._write(findings._replace(domain_problem=unread.problem))
            self._show(findings)
            return
        if verdict.is_accepted and (findings.problem is None or uid in self.world.restored):
            findings = self._elect(virtual_ip, findings, view_)
        elif not findings.is_held_back:
            self._steer(virtual_ip, findings)
        self._write(findings)
        self._show(findings)

    def failover(self, failover: ServiceFailover, verdict: followings.Verdict) -> None:
        """Decide one ServiceFailover, unless nothing was decided about a VirtualIP that it follows."""
        names = {service.virtual_ip_ref.name for service in failover.spec.services} & self.virtual_ips
        if not names <= self.followed.keys():
            return
        uid = failover.metadata.uid
        self._assign(failover, verdict)
        if verdict.is_accepted and self._is_unspeakable("ServiceFailover", services.title(failover), uid):
            return
        findings = servicefailovers.Findings(
            failover=failover,
            verdict=verdict,
            problem=self.world.unreadable.get(uid),
            followed={name: self.followed[name] for name in names},
            reports=self.running.get(uid, {}),
            alive=self.alive,
            objection=self.world.carried.objections.get(uid),
            unanswered=frozenset(
                each.service
                for each in self.assigned.get(uid, ())
                if each.key not in self.world.carried.answered
            ),
        )
        after = servicefailovers.describe(findings, self.now.wall)
        if after != failover.status:
            tellings = servicefailovers.tell(findings, after)
            self.writes.append(
                StatusWrite(
                    kind="ServiceFailover", metadata=failover.metadata, status=after, tellings=tellings
                )
            )

    def _is_unspeakable(self, kind: str, title: str, uid: str) -> bool:
        """Whether writing the status would take out of it what is in force and a newer version can read."""
        if uid not in self.world.unspeakable & self.world.unreadable.keys():
            return False
        self.problems.append(Problem(kind, title, self.world.unreadable[uid]))
        return True

    def assignments(self, verdicts: Mapping[str, followings.Verdict]) -> Assignments:
        """Return what the controller carries out itself; of whom nothing was decided nothing is touched."""
        accepted = {uid for uid, verdict in verdicts.items() if verdict.is_accepted}
        wanted = (each for found in self.assigned.values() for each in found)
        return Assignments(tuple(wanted), frozenset(accepted - self.assigned.keys()))

    def _assign(self, failover: ServiceFailover, verdict: followings.Verdict) -> None:
        """Note what to carry out for a ServiceFailover, unless nobody can read what that is."""
        uid, in_force = failover.metadata.uid, failover.status.in_force
        is_known = uid not in self.world.unreadable or (
            in_force is not None and in_force.spec == failover.spec
        )
        if verdict.is_accepted and is_known:
            owners = {name: followed.observed for name, followed in self.followed.items()}
            self.assigned[uid] = assignments.of(failover, owners, self.world.nodes)

    def orphans(self) -> None:
        """Decide the Switchovers whose VirtualIP does not exist."""
        for name, open_ones in sorted(self.switchovers.items()):
            if name not in self.virtual_ips:
                self._follow(switchovers.steer(open_ones, None, self.now.wall))

    def _elect(
        self, virtual_ip: VirtualIP, findings: virtualips.Findings, view_: View
    ) -> virtualips.Findings:
        domain = self.world.domains[virtual_ip.spec.domain]
        observed, order = findings.observed, virtual_ip.status.election
        resident = self._resident(virtual_ip)
        group = _group(virtual_ip)
        self._count(virtual_ip, resident, -1)
        self._count_heir(virtual_ip, order, -1)
        candidates = gather(
            virtual_ip,
            self.world,
            field=self._field(domain),
            view=view_,
            holdings=findings.holdings,
            loads=self.loads.get(group, {}),
            observed=observed,
        )
        findings = findings._replace(candidates=candidates)
        target = self._steer(virtual_ip, findings)
        facts = Facts(
            name=virtual_ip.metadata.name,
            candidates=candidates,
            owner=None if observed is None else observed.holder,
            ordered=None if order is None else order.owner,
            target=target,
            returns=virtual_ip.spec.failback.policy == "Automatic",
            delay_s=float(virtual_ip.spec.failback.delay_seconds),
            is_suspended=virtual_ip.spec.suspend,
            has_to_wait=resident is None and self._may_improve(virtual_ip, domain, candidates, SETTLE_S),
            better=self.memory.better.get(virtual_ip.metadata.uid, {}),
            heirs=self.heirs.get(group, {}) if group else None,
            heir=order.succession[0] if group and order is not None and order.succession else None,
        )
        election: Election = elect(facts, self.now.tick)
        if election.better:
            self.better[virtual_ip.metadata.uid] = election.better
        if election.due is not None:
            self.dues.append(election.due)
        self._count(virtual_ip, election.owner, 1)
        self._count_heir(virtual_ip, election, 1)
        is_early = (
            virtual_ip.status.term is None
            and not any(candidate.is_eligible for candidate in candidates)
            and self._may_improve(virtual_ip, domain, candidates, ALARM_S)
        )
        return findings._replace(election=election, is_early=is_early)

    def _field(self, domain: FailoverDomain) -> Field:
        """Return what is the same for all VirtualIPs of a domain, found out once."""
        found = self.fields.get(domain.metadata.name)
        if found is None:
            found = self.fields[domain.metadata.name] = field(domain, self.world)
        return found

    def _may_improve(
        self,
        virtual_ip: VirtualIP,
        domain: FailoverDomain,
        candidates: tuple[Candidate, ...],
        patience_s: float,
    ) -> bool:
        """Whether better reports are to be expected at any moment of an address that is new for so long."""
        starts = (
            conditions.find(virtual_ip.status.conditions, "Accepted"),
            conditions.find(domain.status.conditions, "Quorate"),
        )
        ends = [
            self._settled(start, patience_s)
            for start in starts
            if start is not None and start.status == "True"
        ]
        if not might_improve(candidates, virtual_ip.spec.health_checks):
            return False
        if len(ends) < len(starts):
            return True
        if max(ends) <= self.now.tick:
            return False
        self.dues.append(max(ends))
        return True

    def _settled(self, start: conditions.Condition, patience_s: float) -> float:
        """Return the tick at which something that started then has had so long to settle.

        Its time is cut to seconds, and may come from another machine's clock: a start that lies in the
        future is not waited for.
        """
        age_s = (self.now.wall - start.last_transition_time).total_seconds()
        return self.now.tick + (patience_s + 1.0 - age_s if age_s >= 0 else 0.0)

    def _steer(self, virtual_ip: VirtualIP, findings: virtualips.Findings) -> str | None:
        open_ones = self.switchovers.get(virtual_ip.metadata.name, [])
        following = self._following(virtual_ip) if open_ones else ()
        on_nodes = [each.service for each in following if each.service.workload.is_on_node]
        situation = switchovers.Situation(
            virtual_ip=virtual_ip,
            is_accepted=findings.verdict.is_accepted,
            observed=findings.observed,
            candidates=findings.candidates,
            outage_ms=virtualips.outage_ms(findings),
            waiting=[each.title for each in following if not _is_active(each, findings.observed)],
            stop_s=float(sum(service.stop_timeout_seconds for service in on_nodes)),
            start_s=float(sum(service.start_timeout_seconds for service in on_nodes)),
            unbound=virtualips.unbound(findings),
        )
        return self._follow(switchovers.steer(open_ones, situation, self.now.wall))

    def _following(self, virtual_ip: VirtualIP) -> tuple[services.Following, ...]:
        """Return the services that follow it, by what was found last."""
        accepted = (
            failover
            for failover in self.world.failovers
            if conditions.is_true(failover.status.conditions, "Accepted")
        )
        return services.followings(virtual_ip.metadata.name, accepted)

    def _follow(self, course: switchovers.Course) -> str | None:
        self.writes.extend(course.writes)
        if course.due_in_s is not None:
            self.dues.append(self.now.tick + course.due_in_s)
        return course.target

    def _release(self, virtual_ip: VirtualIP, findings: virtualips.Findings, view_: View) -> None:
        if FINALIZER not in virtual_ip.metadata.finalizers:
            return
        hindrance = releases.hindrance(
            virtual_ip, holdings=findings.holdings, view=view_, observed=findings.observed
        )
        if hindrance is not None:
            self._write(findings._replace(hindrance=hindrance))
            return
        self.writes.append(
            FinalizerWrite(
                kind="VirtualIP",
                metadata=virtual_ip.metadata,
                finalizers=releases.without_finalizer(virtual_ip.metadata),
            )
        )

    def _write(self, findings: virtualips.Findings) -> None:
        virtual_ip = findings.virtual_ip
        metadata = virtual_ip.metadata
        is_in_force = findings.verdict.is_accepted and not metadata.is_deleting
        if is_in_force and self._is_unspeakable("VirtualIP", metadata.name, metadata.uid):
            return
        after = virtualips.describe(findings, self.now.wall)
        if after == virtual_ip.status:
            return
        tellings = virtualips.tell(virtual_ip.status, after, findings.election)
        self.writes.append(StatusWrite(kind="VirtualIP", metadata=metadata, status=after, tellings=tellings))

    def _show(self, findings: virtualips.Findings) -> None:
        """Keep what the services that follow a VirtualIP have to know of it."""
        election = findings.election
        self.followed[findings.virtual_ip.metadata.name] = servicefailovers.Followed(
            observed=findings.observed,
            elected=None if election is None else election.owner,
            standbys=None if election is None else virtualips.standbys(findings),
        )

    def _resident(self, virtual_ip: VirtualIP) -> str | None:
        """Return the node where the VirtualIP is or is to be."""
        order = virtual_ip.status.election
        if order is not None and order.owner is not None:
            return order.owner
        observed = self.views.get(virtual_ip.spec.domain, _NOWHERE).owners.get(virtual_ip.metadata.uid)
        return None if observed is None else observed.holder

    def _count(self, virtual_ip: VirtualIP, node: str | None, by: int) -> None:
        """Count an address of a spread group on a node."""
        group = _group(virtual_ip)
        if group and node is not None:
            self.loads.setdefault(group, Counter())[node] += by

    def _count_heir(self, virtual_ip: VirtualIP, order: Order | Election | None, by: int) -> None:
        """Count the first successor of an address of a spread group, for the node that owns it."""
        group = _group(virtual_ip)
        if group and order is not None and order.owner is not None and order.succession:
            owners = self.heirs.setdefault(group, {})
            owners.setdefault(order.owner, Counter())[order.succession[0]] += by


def _is_active(following: services.Following, observed: Grant | None) -> bool:
    """Whether a service runs on the observed owner, by what was found last."""
    states = {state.name: state for state in following.failover.status.services}
    state = states.get(following.service.name)
    if observed is None or state is None or state.owner != observed.holder:
        return False
    return state.term in {None, observed.term} and state.state == "Active"


def _is_edit(virtual_ip: VirtualIP) -> bool:
    """Whether the newest generation is another than the one that was accepted."""
    accepted = conditions.find(virtual_ip.status.conditions, "Accepted")
    return accepted is None or (accepted.observed_generation or 0) < virtual_ip.metadata.generation


def _group(virtual_ip: VirtualIP) -> str:
    return "" if virtual_ip.spec.spread is None else virtual_ip.spec.spread.group


def _secrets(world: World) -> set[str]:
    return {domain.spec.key.secret_name for domain in world.domains.values()} & world.missing_secrets
