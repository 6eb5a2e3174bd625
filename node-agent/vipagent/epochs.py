"""Which witness configuration of a domain counts on this node: the highest epoch that it ever heard of.

Configurations come with the plan, from peers, and from the disk. An epoch never falls, so a plan that
is behind (an API server restored from a backup, a courier that was away) changes nothing. Two of one
epoch were not written by one controller: the one in force stays, and people are told.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from vipapi.configuration import Configuration, fingerprint
from vipapi.nodestatus import Problem

if TYPE_CHECKING:
    from vipapi.nodeplan import DomainPlan


HIGHEST_EPOCH: Final = (1 << 32) - 1
"""As high as a datagram can count (`vipagent.datagrams`)."""


def flaw(domain_uid: str, configuration: Configuration) -> str:
    """Return why a configuration cannot be used, empty if it can."""
    if configuration.epoch > HIGHEST_EPOCH:
        return f"there is no epoch above {HIGHEST_EPOCH}"
    if configuration.hash != fingerprint(domain_uid, configuration):
        return "its hash is not that of its content"
    try:
        for member in configuration.members:
            ipaddress.ip_address(member.address)
    except ValueError as error:
        return str(error)
    return ""


def differ(domain: DomainPlan, in_force: Configuration) -> Problem | None:
    """Return the problem of a plan whose configuration has the epoch in force and another content."""
    planned = domain.configuration
    if planned.epoch != in_force.epoch or planned.hash == in_force.hash:
        return None
    return Problem(
        "EpochConflict",
        f"domain {domain.name} came with another witness configuration of epoch {planned.epoch} "
        f"({planned.hash}) than the one in force here ({in_force.hash}), which goes on: see that only one "
        "installation of vipkeeper writes this domain; if only this node says so, stop its node-agent, "
        "remove its /var/lib/vipkeeper and start it again",
    )
