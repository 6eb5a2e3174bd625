"""Which keepers may still hold an address when vipkeeper is being uninstalled.

With the finalizers off an address can be given to another object, whose witnesses know nothing of the lease
that an old one has. So whoever takes them off asks first who says `Owner` in its VIPNode. That is what an
agent said last, and an agent that was told to end may have said it just before. A claim counts for nothing
where the node

- was *swept*: its keeper has ended, for a sweeper has its place,
- has *left* the cluster, or is *out of service*: somebody says that the machine is gone or off.

It counts on every other node that Kubernetes hears: a static pod or a unit runs on there, and somebody can
stop it. On a node that is not heard nobody can, and most of these are off, with a claim of long ago. There
the lease decides: a keeper that runs on holds no longer than a majority of its witnesses does, and swept
witnesses grant nothing. (Nor does the API server, for the couriers' rights went before.) So it counts only
while such a majority may run on out of sight, and for `onQuorumLoss: Hold`, which needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vipapi.configuration import is_majority
from vipapi.resources import configuration_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from vipapi.nodestatus import HoldingStatus
    from vipapi.resources import FailoverDomain, Node, VIPNode, VirtualIP


class Claim(NamedTuple):
    """A node's word that it owns a VirtualIP; `addresses` as far as they are known."""

    node: str
    virtual_ip: str
    addresses: tuple[str, ...]

    def __str__(self) -> str:
        addresses = ", ".join(self.addresses) or "its addresses"
        return f"{self.node} has {addresses} (VirtualIP {self.virtual_ip})"


class Claims(NamedTuple):
    """Those that may be true, and those that need not be minded though nobody has swept their nodes."""

    standing: tuple[Claim, ...]
    void: tuple[Claim, ...]


class Remains(NamedTuple):
    """What is there: `unheard` are Nodes of which Kubernetes hears nothing, `swept` names of nodes."""

    agents: tuple[VIPNode, ...]
    nodes: tuple[Node, ...]
    virtual_ips: tuple[VirtualIP, ...]
    domains: tuple[FailoverDomain, ...]
    unheard: frozenset[str]
    swept: frozenset[str]


def is_unheard(node: Mapping[str, Any]) -> bool:
    """Return whether Kubernetes takes a Node, as the API server has it, for not ready."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] != "True" for each in conditions)


def claims(remains: Remains) -> Claims:
    """Return who says that it owns what on nodes that were not swept, in order."""
    off = {node.metadata.name for node in remains.nodes if node.is_out_of_service}
    there = {node.metadata.name for node in remains.nodes} - off - remains.swept
    virtual_ips = {each.metadata.uid: each for each in remains.virtual_ips}
    standing: list[Claim] = []
    void: list[Claim] = []
    for agent in sorted(remains.agents, key=lambda each: each.metadata.name):
        node = agent.metadata.name
        if node in remains.swept:
            continue
        for holding in agent.status.virtual_ips:
            if holding.state != "Owner":
                continue
            virtual_ip = virtual_ips.get(holding.uid)
            is_possible = node in there and (
                node not in remains.unheard or _may_hold(agent, virtual_ip, there, remains.domains)
            )
            (standing if is_possible else void).append(_claim(node, holding, virtual_ip))
    return Claims(tuple(standing), tuple(void))


def _claim(node: str, holding: HoldingStatus, virtual_ip: VirtualIP | None) -> Claim:
    addresses = holding.bound or (() if virtual_ip is None else virtual_ip.spec.addresses)
    return Claim(node, holding.name, tuple(each.partition("/")[0] for each in addresses))


def _may_hold(
    agent: VIPNode, virtual_ip: VirtualIP | None, running: AbstractSet[str], domains: Iterable[FailoverDomain]
) -> bool:
    """Whether an agent out of sight can have a lease still, if all these run; True where nobody knows."""
    if virtual_ip is None or virtual_ip.spec.on_quorum_loss == "Hold":
        return True
    domain = virtual_ip.spec.domain
    told = [each.configuration for each in agent.status.domains if each.name == domain]
    # It may have learnt of a newer one from its peers, and not been able to say so.
    told += [configuration_of(each.status) for each in domains if each.metadata.name == domain]
    return not told or any(is_majority(running, each.quorums) for each in told)
