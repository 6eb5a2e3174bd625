"""Who can vote in a domain, for how long a witness has been silent, and what follows for the witnesses.

Members are the nodes that the domain selects and whose keepers told their heartbeat address. One that tells
nothing any more, for its VIPNode is gone, stays a member while a majority of the witnesses hears it: they
would not answer it else. Voters are those of them that `witnesses.nodeSelector` selects, that report and are
heard by such a majority, or that are witnesses themselves and not lost. A witness is lost when that majority
has not heard it for `replaceAfterSeconds`, without a break, on the controller's own clock: whoever forgets
since when (a controller that restarts) counts anew, and nobody is counted as silent while no majority is
there to hear. The first choice is made as soon as enough nodes for `count` are there, and after
`FIRST_CHOICE_S` with those that there are.

A witness whose node reports another heartbeat address than the configuration has, a stranger
(`vipcontroller.voices`), is lost at once. Only when no set of the configuration names the node any more may
it be chosen with its new address. So of two configurations in a row no node is in both at two addresses,
where one machine could answer under the first and another under the second. Until then its peers are told
the address of the configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vipapi import conditions
from vipapi.candidates import members
from vipapi.conditions import Reason
from vipapi.configuration import Configuration, Member
from vipapi.resources import configuration_of
from vipcontroller import epochs
from vipcontroller.voices import strangers
from vipcontroller.witnesses import ZONE_LABEL, Rules, Voter, choose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vipapi.resources import FailoverDomain
    from vipcontroller.observation import View
    from vipcontroller.world import Moment, World

FIRST_CHOICE_S = 10.0
"""How long the first choice waits for enough nodes, from when the domain was first said to have too few."""


class Objection(NamedTuple):
    """Why nothing is changed, and what a person should do."""

    reason: str
    message: str


class Outcome(NamedTuple):
    """The configuration to be in force, and why.

    `is_adopted` is whether keepers ran it before the object knew it; `awaits` says what an unfinished
    change waits for. `lost` are the witnesses that are to be replaced, each with the reason; `silent` since
    when each witness is, to be remembered; `due` when to look again.
    """

    configuration: Configuration
    members: tuple[Member, ...]
    is_adopted: bool = False
    awaits: str = ""
    objection: Objection | None = None
    lost: Mapping[str, str] = {}
    silent: Mapping[str, float] = {}
    due: float | None = None


def decide(
    domain: FailoverDomain, world: World, view: View, silent: Mapping[str, float], now: Moment
) -> Outcome:
    """Return what becomes of the domain's witnesses; `silent` is what the last outcome had."""
    uid, reports, present = domain.metadata.uid, world.reports(domain), view.configuration
    found = _Electorate(domain, world, view)
    outcome = Outcome(present, found.members)
    if present != configuration_of(domain.status):
        return outcome._replace(is_adopted=True)
    if not present.epoch:
        return _first(outcome, domain, world, found, now)
    since = found.silent(present, silent, now.tick)
    patience_s = domain.spec.witnesses.replace_after_seconds
    lost = found.lost(present, since, now.tick - patience_s, patience_s)
    ripe = [tick + patience_s for tick in since.values() if tick + patience_s > now.tick]
    outcome = outcome._replace(silent=since, lost=lost, due=min(ripe, default=None))
    odd = epochs.estranged(present, reports)
    if odd:
        return outcome._replace(objection=_estrangement(present, odd))
    wanted = choose(found.rules, present.witnesses, found.voters(present, lost), gone=found.gone(present))
    step = epochs.advance(uid, present, wanted, reports=reports, view=view)
    outcome = outcome._replace(configuration=step.configuration, awaits=step.awaits)
    steady = _steady(present)
    needed = wanted.names | (frozenset() if view.is_there(steady) else steady)
    helpless = {node: address for node, address in found.strangers.items() if node in needed}
    return outcome._replace(objection=_relocation(domain, helpless)) if helpless else outcome


class _Electorate:
    """The nodes of a domain as voters."""

    def __init__(self, domain: FailoverDomain, world: World, view: View) -> None:
        spec = domain.spec.witnesses
        self.rules = Rules(domain.metadata.uid, spec.count, spec.api_server)
        self._view = view
        nodes = [node for node in members(domain.spec, world.nodes.values()) if not node.metadata.is_deleting]
        reports = world.reports(domain)
        self.strangers = strangers(reports, view.configuration)
        known = {
            member.node: member.address
            for member in view.configuration.members
            if member.node in self.strangers
        }
        told = {name: report.heartbeat_address for name, report in reports.items()} | known
        former = {each.node_name: each.address for each in domain.status.members}
        mute = former.keys() & view.alive - told.keys()
        homes = {name: former[name] for name in mute} | {name: home for name, home in told.items() if home}
        self._mute = mute
        self.members = tuple(
            Member(name, homes[name]) for name in (node.metadata.name for node in nodes) if name in homes
        )
        self._zones = {
            node.metadata.name: node.metadata.labels.get(ZONE_LABEL, "")
            for node in nodes
            if spec.node_selector.matches(node.metadata.labels)
        }
        self.count = len(self._zones)

    def gone(self, present: Configuration) -> frozenset[str]:
        """Return the witnesses whose node is no more, or not to be a witness any more."""
        return frozenset(member.node for member in present.witnesses.members) - self._zones.keys()

    def silent(self, present: Configuration, before: Mapping[str, float], tick: float) -> Mapping[str, float]:
        """Return since when each witness has not been heard by a majority of those in office."""
        steady = _steady(present)
        if not self._view.is_there(steady):
            return {}
        heard = self._view.heard_by((steady,))
        nodes = (member.node for member in present.witnesses.members)
        return {node: before.get(node, tick) for node in nodes if node not in heard}

    def lost(
        self, present: Configuration, silent: Mapping[str, float], latest: float, patience_s: int
    ) -> Mapping[str, str]:
        """Return the witnesses to be replaced, each with the reason."""
        lost = {
            node: f"no majority of the witnesses has heard it for {patience_s} s"
            for node, since in silent.items()
            if since <= latest
        }
        lost |= {
            node: f"it reports the heartbeat address {address} and not the one that it has as a witness"
            for node, address in self.strangers.items()
        }
        return lost | dict.fromkeys(
            sorted(self.gone(present)), "the cluster has no such node any more, or no selector selects it"
        )

    def voters(self, present: Configuration, lost: Mapping[str, str]) -> tuple[Voter, ...]:
        """Return who can be a witness now, witnesses that are silent for a moment among them."""
        addresses = {member.node: member for member in self.members if member.node not in self._mute}
        staying = {member.node: member for member in present.witnesses.members if member.node not in lost}
        heard = self._view.heard_by((_steady(present),)) if present.epoch else frozenset(addresses)
        fresh = {node: member for node, member in addresses.items() if node in heard and node not in lost}
        usable = fresh | staying
        return tuple(Voter(usable[node], self._zones[node]) for node in sorted(usable) if node in self._zones)


def _steady(present: Configuration) -> frozenset[str]:
    """Return the witnesses in office: those who must agree whatever becomes of a change."""
    return (present.witnesses if present.former is None else present.former).names


def _first(
    outcome: Outcome, domain: FailoverDomain, world: World, found: _Electorate, now: Moment
) -> Outcome:
    """Choose the first witnesses, unless keepers run some already."""
    if any(report.configuration.epoch for report in world.reports(domain).values()):
        return outcome._replace(objection=_oblivion(domain))
    voters = found.voters(outcome.configuration, {})
    due = now.tick if len(voters) >= found.rules.most else _patience_ends(domain, now)
    if now.tick < due:
        return outcome._replace(due=due)
    wanted = choose(found.rules, outcome.configuration.witnesses, voters)
    if not wanted.names:
        return outcome
    return outcome._replace(configuration=epochs.first(domain.metadata.uid, wanted))


def _patience_ends(domain: FailoverDomain, now: Moment) -> float:
    """Return the tick at which a first choice is made with what there is."""
    told = conditions.find(domain.status.conditions, "Quorate")
    if told is None or told.status != "False":
        return now.tick + FIRST_CHOICE_S
    age_s = (now.wall - told.last_transition_time).total_seconds()
    # A time from another machine's clock may lie in the future; that is not waited for.
    return now.tick + (FIRST_CHOICE_S - age_s if age_s >= 0 else 0.0)


def _oblivion(domain: FailoverDomain) -> Objection:
    message = (
        "the keepers run a witness configuration that this object does not know (was etcd restored?), and "
        "no majority of its witnesses reports it: bring their node-agents back, or, if they are gone for "
        f"good, stop the node-agents of domain {domain.metadata.name!r} for ten seconds, remove their "
        "/var/lib/vipkeeper and delete their VIPNodes"
    )
    return Objection(Reason.QUORUM_LOST, message)


def _estrangement(present: Configuration, nodes: tuple[str, ...]) -> Objection:
    message = (
        f"{', '.join(nodes)} run another witness configuration than this object's, of epoch "
        f"{present.epoch} or a later one (was etcd restored, or a disk copied?), so the witnesses are not "
        "changed: on each, stop the node-agent for ten seconds, remove its /var/lib/vipkeeper and delete its "
        "VIPNode"
    )
    return Objection(Reason.EPOCH_CONFLICT, message)


def _relocation(domain: FailoverDomain, strangers: Mapping[str, str]) -> Objection:
    name = domain.metadata.name
    told = ", ".join(f"{node} (now {address})" for node, address in strangers.items())
    message = (
        f"another machine, or the same with another heartbeat address, reports as the witness {told}; nobody "
        "knows what the witness has granted, and no other node can take its place: give the node its former "
        "address back, or run the node-agent on one more node, or leave the node out of "
        "`witnesses.nodeSelector` until `status.witnesses` does not name it. If most witnesses have new "
        "addresses: stop all node-agents of the domain for ten seconds, remove their "
        "/var/lib/vipkeeper, delete their VIPNodes, and run: kubectl patch failoverdomain "
        f"{name} --subresource=status --type=json "
        '-p \'[{"op": "remove", "path": "/status"}]\''
    )
    return Objection(Reason.WITNESS_ADDRESS_CHANGED, message)
