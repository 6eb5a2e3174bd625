"""Which witness configuration comes next: one step, and so one epoch, for each write.

    single {S} ──▶ joining {S and S'} ──▶ sealing {S and S'} ──▶ single {S'}
                    ▲      │  another S'       │
                    └──────┴───────────────────┘

A step is made only on what keepers report to have on disk, and only while nobody who is heard is behind:
keepers serve their own epoch and its two neighbours, so the spreading of one epoch disturbs nobody, of
two at once it would. Besides, a step needs

- to joining: a majority of S is there and at the present epoch, or the change could not end;
- to sealing: majorities of S and of S' are at the joining epoch;
- to single: a majority of S is drained (it is at the sealing epoch, and what it had granted before is
  over), and a majority of S' is at that epoch, with term floors that no such grant is above.

(Of S, the majority with the lowest floors is enough: it shares a witness with whoever granted last.)

The status may be behind what the keepers run: etcd was restored from a backup, or somebody wiped the
status. Then `recover` finds the newest configuration that a majority of each of its own quorums reports,
and, of what follows it directly, what any keeper reports: that was written once, and a step made in its
place would be another history of the same epoch. What belongs to no such history is `estranged`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vipapi.configuration import Configuration, fingerprint, is_majority
from vipcontroller.voices import spoken, voices

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from collections.abc import Set as AbstractSet

    from vipapi.configuration import WitnessSet
    from vipapi.nodestatus import DomainStatus
    from vipcontroller.observation import View


class Step(NamedTuple):
    """The configuration to be in force; `awaits` says what an unfinished change is waiting for."""

    configuration: Configuration
    awaits: str = ""


def first(domain_uid: str, witnesses: WitnessSet) -> Configuration:
    """Return the first configuration of a domain."""
    return Configuration(epoch=1, witnesses=witnesses).sealed(domain_uid)


def advance(
    domain_uid: str,
    present: Configuration,
    wanted: WitnessSet,
    *,
    reports: Mapping[str, DomainStatus],
    view: View,
) -> Step:
    """Return the next step towards the wanted witnesses, or the present configuration again."""
    former = present.former
    is_other = _content(wanted) != _content(present.witnesses)
    if former is None and not is_other:
        return Step(present)
    evidence = _Evidence(present, reports, view)
    steady = present.witnesses if former is None else former
    awaits = evidence.who_is_behind()
    target: tuple[WitnessSet, WitnessSet | None, bool]
    if is_other:
        awaits = evidence.is_missing(steady.names) or evidence.has_not_joined(steady.names) or awaits
        target = (wanted, steady, False)
    elif not present.is_sealing:
        awaits = evidence.has_not_joined(*present.quorums) or awaits
        target = (wanted, steady, True)
    else:
        awaits = evidence.is_not_drained(steady.names, wanted.names) or awaits
        target = (wanted, None, False)
    if awaits:
        return Step(present, awaits)
    witnesses, followed, is_sealing = target
    following = Configuration(
        epoch=present.epoch + 1,
        former_hash=present.hash,
        witnesses=witnesses,
        former=followed,
        is_sealing=is_sealing,
    )
    return Step(following.sealed(domain_uid))


def recover(domain_uid: str, present: Configuration, reports: Mapping[str, DomainStatus]) -> Configuration:
    """Return the newest configuration known to be in force: the present one, or what keepers report."""
    known = {_name(report.configuration): report.configuration for report in reports.values()}
    valid = [each for each in known.values() if each.epoch and each.hash == fingerprint(domain_uid, each)]
    agreed = [each for each in valid if is_majority(_running(each, reports), each.quorums)]
    newest = max(agreed, key=lambda each: each.epoch, default=present)
    is_news = newest.epoch > present.epoch or (newest.epoch == present.epoch and _name(present) not in known)
    found = newest if is_news else present
    while found.epoch:
        following = [
            each for each in valid if (each.epoch, each.former_hash) == (found.epoch + 1, found.hash)
        ]
        if len(following) != 1:
            break
        found = following[0]
    return found


def estranged(present: Configuration, reports: Mapping[str, DomainStatus]) -> tuple[str, ...]:
    """Return the nodes whose configuration is no part of the history that the present one belongs to."""
    return tuple(
        sorted(
            node
            for node, report in reports.items()
            if report.configuration.epoch >= present.epoch and _name(report.configuration) != _name(present)
        )
    )


def _name(configuration: Configuration) -> tuple[int, str]:
    return configuration.epoch, configuration.hash


def _content(witnesses: WitnessSet) -> tuple[object, ...]:
    return frozenset(witnesses.members), witnesses.has_api_vote


def _running(configuration: Configuration, reports: Mapping[str, DomainStatus]) -> frozenset[str]:
    """Return the voters that report exactly this configuration."""
    return frozenset(
        voter
        for voter, voice in voices(reports, configuration).items()
        if _name(voice.report.configuration) == _name(configuration)
    )


class _Evidence:
    """What the reports say of the present epoch; each question is answered by what is missing, or by ""."""

    def __init__(self, present: Configuration, reports: Mapping[str, DomainStatus], view: View) -> None:
        self._epoch = present.epoch
        self._view = view
        self._joined = {
            voter: voice.report
            for voter, voice in voices(reports, present).items()
            if _name(voice.report.configuration) == _name(present)
        }
        self._behind = sorted(
            {
                peer
                for node, report in reports.items()
                if node in view.alive and _name(report.configuration) == _name(present)
                for peer in report.behind
            }
        )

    def who_is_behind(self) -> str:
        if not self._behind:
            return ""
        return (
            f"{', '.join(self._behind)} to take over epoch {self._epoch}, for it is heard and has not yet: "
            "if that lasts, restart its node-agent and look at its VIPNode for problems"
        )

    def is_missing(self, quorum: frozenset[str]) -> str:
        if self._view.is_there(quorum):
            return ""
        silent = quorum - self._view.heard_by((quorum,))
        return f"a majority of the witnesses to be heard again: bring back {_any_of(silent)}"

    def has_not_joined(self, *quorums: frozenset[str]) -> str:
        return self._lacking(quorums, frozenset(self._joined), f"to report epoch {self._epoch}")

    def is_not_drained(self, old: frozenset[str], new: frozenset[str]) -> str:
        floors = {
            voter: report.term_floor
            for voter, report in self._joined.items()
            if report.drained_epoch >= self._epoch and voter in old
        }
        lacking = self._lacking((old,), frozenset(floors), "to report that its older grants are over")
        if lacking:
            return lacking
        floor = min(
            floor
            for floor in floors.values()
            if is_majority({voter for voter in floors if floors[voter] <= floor}, (old,))
        )
        ready = frozenset(voter for voter, report in self._joined.items() if report.term_floor >= floor)
        return self._lacking((new,), ready, f"to report epoch {self._epoch} and a term floor of {floor}")

    def _lacking(self, quorums: Collection[AbstractSet[str]], ready: frozenset[str], what: str) -> str:
        missing = {
            voter for quorum in quorums if not is_majority(ready, (quorum,)) for voter in quorum - ready
        }
        if not missing:
            return ""
        return f"{_any_of(missing)} {what}: its node-agent must run, and its VIPNode be free of problems"


def _any_of(names: AbstractSet[str]) -> str:
    return " or ".join(sorted(spoken(name) for name in names))
