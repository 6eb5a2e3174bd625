"""Whose word counts for which witness, and who only has a witness's name.

Where the API server votes, the node that holds its vote speaks for it: the one whose report counts the
most transitions of that vote. Without such a node that vote is silent.

A node that reports another heartbeat address than its witness has is a *stranger*: another machine with
its name, or the same one with another address. The witness itself may be alive behind a partition, and
have granted what the stranger knows nothing of, so the stranger speaks for nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vipapi.configuration import API_SERVER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vipapi.configuration import Configuration
    from vipapi.nodestatus import DomainStatus


class Voice(NamedTuple):
    """Who speaks for a voter: the node itself, or the one that holds the API server's vote."""

    node: str
    report: DomainStatus


def voices(reports: Mapping[str, DomainStatus], configuration: Configuration) -> Mapping[str, Voice]:
    """Return who speaks for each voter; nobody for one that has not reported."""
    holders = {node: report.vote_transitions for node, report in reports.items() if report.vote_transitions}
    speakers = {node: node for node in reports}
    if holders:
        speakers[API_SERVER] = max(sorted(holders), key=holders.__getitem__)
    silenced = strangers(reports, configuration).keys()
    voters = frozenset[str]().union(*configuration.quorums) & speakers.keys()
    return {
        voter: Voice(speakers[voter], reports[speakers[voter]])
        for voter in sorted(voters)
        if speakers[voter] not in silenced
    }


def strangers(reports: Mapping[str, DomainStatus], configuration: Configuration) -> Mapping[str, str]:
    """Return the witnesses, present and former, whose node reports another address, each with that one."""
    former = () if configuration.former is None else configuration.former.members
    homes: dict[str, set[str]] = {}
    for member in (*configuration.witnesses.members, *former):
        homes.setdefault(member.node, set()).add(member.address)
    told = {node: reports[node].heartbeat_address for node in sorted(homes.keys() & reports.keys())}
    return {node: address for node, address in told.items() if address and address not in homes[node]}


def spoken(voter: str) -> str:
    """Return how a voter is called in a sentence."""
    return "the API server" if voter == API_SERVER else voter
