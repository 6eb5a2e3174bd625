"""Whose word that it holds an address counts when vipkeeper is being uninstalled."""

from __future__ import annotations

from typing import Any

import pytest

from vipapi import resources
from vipapi.configuration import Configuration, Member, WitnessSet
from vipapi.nodestatus import DomainStatus, HoldingStatus
from vipapi.resources import (
    FailoverDomain,
    FailoverDomainStatus,
    Node,
    ObjectMeta,
    VIPNode,
    VIPNodeStatus,
    VirtualIP,
)
from vipcontroller.stragglers import Remains, claims, is_unheard

WITNESSES = WitnessSet(tuple(Member(name, "198.51.100.1") for name in ("a", "b", "c")))
CONFIGURATION = Configuration(epoch=3, witnesses=WITNESSES)
PAIR = Configuration(epoch=3, witnesses=WitnessSet(WITNESSES.members[:2], has_api_vote=True))


def agent(name: str, state: Any = "Standby", configuration: Configuration | None = CONFIGURATION) -> VIPNode:
    bound = ("192.0.2.10/32",) if state == "Owner" else ()
    holding = HoldingStatus(uid="uid", name="web", state=state, fitness="Fit", bound=bound)
    told = DomainStatus(name="default", uid="d", role="Witness", configuration=configuration or CONFIGURATION)
    domains = () if configuration is None else (told,)
    return VIPNode(ObjectMeta(name=name), VIPNodeStatus(virtual_ips=(holding,), domains=domains))


def node(name: str, *taints: str) -> Node:
    metadata, spec = {"name": name}, {"taints": [{"key": taint, "effect": "NoExecute"} for taint in taints]}
    return resources.parse(Node, {"metadata": metadata, "spec": spec})


def virtual_ip(**spec: Any) -> VirtualIP:
    metadata = {"name": "web", "uid": "uid"}
    return resources.parse(
        VirtualIP, {"metadata": metadata, "spec": {"addresses": ["192.0.2.10/24"], **spec}}
    )


def remains(**more: Any) -> Remains:
    given: dict[str, Any] = {
        "agents": (agent("a", "Owner"), agent("b"), agent("c")),
        "nodes": tuple(map(node, ("a", "b", "c"))),
        "virtual_ips": (virtual_ip(),),
        "domains": (),
        "unheard": frozenset(),
        "swept": frozenset({"b", "c"}),
    }
    return Remains(**{**given, **more})


def domain(configuration: Configuration) -> FailoverDomain:
    status = resources.with_configuration(FailoverDomainStatus(), configuration)
    return FailoverDomain(metadata=ObjectMeta(name="default"), status=status)


ALL = frozenset({"a", "b", "c"})
A = frozenset({"a"})
OUT = (node("a", resources.OUT_OF_SERVICE), node("b"), node("c"))


@pytest.mark.parametrize(
    ("given", "standing", "void"),
    [
        pytest.param(remains(), ["a"], [], id="not-swept"),
        pytest.param(remains(swept=ALL), [], [], id="swept"),
        pytest.param(remains(swept=frozenset()), ["a"], [], id="nobody-was-swept"),
        pytest.param(remains(agents=(agent("a"), agent("b", "Acquiring"))), [], [], id="nobody-owns"),
        pytest.param(
            remains(agents=(agent("b", "Owner"), agent("a", "Owner")), swept=frozenset()),
            ["a", "b"],
            [],
            id="two",
        ),
        pytest.param(remains(nodes=(node("b"), node("c"))), [], ["a"], id="its-node-left"),
        pytest.param(remains(nodes=OUT), [], ["a"], id="out-of-service"),
        pytest.param(remains(nodes=OUT, unheard=A), [], ["a"], id="out-of-service-and-unheard"),
        pytest.param(remains(unheard=A), [], ["a"], id="unheard-without-a-majority"),
        pytest.param(
            remains(unheard=A, swept=frozenset({"c"})), ["a"], [], id="unheard-and-b-may-vote-for-it"
        ),
        pytest.param(
            remains(unheard=A, swept=frozenset({"c"}), nodes=(node("a"), node("c"))),
            [],
            ["a"],
            id="unheard-and-b-has-left",
        ),
        pytest.param(
            remains(unheard=A, agents=(agent("a", "Owner", PAIR),)), [], ["a"], id="unheard-with-the-api-vote"
        ),
        pytest.param(
            remains(unheard=A, virtual_ips=(virtual_ip(onQuorumLoss="Hold"),)),
            ["a"],
            [],
            id="unheard-and-hold",
        ),
        pytest.param(
            remains(nodes=OUT, unheard=A, virtual_ips=(virtual_ip(onQuorumLoss="Hold"),)),
            [],
            ["a"],
            id="out-of-service-and-hold",
        ),
        pytest.param(
            remains(unheard=A, virtual_ips=(virtual_ip(domain="other"),)),
            ["a"],
            [],
            id="unheard-unknown-domain",
        ),
        pytest.param(remains(unheard=A, virtual_ips=()), ["a"], [], id="unheard-and-its-object-is-gone"),
        pytest.param(
            remains(
                unheard=A,
                domains=(domain(Configuration(epoch=4, witnesses=WitnessSet(WITNESSES.members[:1]))),),
            ),
            ["a"],
            [],
            id="unheard-with-a-majority-of-newer-witnesses",
        ),
        pytest.param(
            remains(unheard=A, domains=(domain(CONFIGURATION),)),
            [],
            ["a"],
            id="unheard-and-the-domain-agrees",
        ),
        pytest.param(
            remains(
                unheard=A,
                agents=(
                    agent("a", "Owner", Configuration(epoch=4, witnesses=WITNESSES, former=PAIR.witnesses)),
                ),
                swept=frozenset({"c"}),
            ),
            ["a"],
            [],
            id="unheard-with-a-majority-of-both-sets",
        ),
    ],
)
def test_a_claim_counts_while_its_keeper_may_hold(
    given: Remains, standing: list[str], void: list[str]
) -> None:
    found = claims(given)
    assert [claim.node for claim in found.standing] == standing
    assert [claim.node for claim in found.void] == void


def test_a_claim_is_told_with_its_node_and_its_addresses() -> None:
    [claim] = claims(remains()).standing
    assert str(claim) == "a has 192.0.2.10 (VirtualIP web)"
    unbound = HoldingStatus(uid="uid", name="web", state="Owner", fitness="Fit")
    agents = (VIPNode(ObjectMeta(name="a"), VIPNodeStatus(virtual_ips=(unbound,))),)
    assert [str(each) for each in claims(remains(agents=agents)).standing] == [str(claim)]
    [claim] = claims(remains(agents=agents, virtual_ips=())).standing
    assert str(claim) == "a has its addresses (VirtualIP web)"


@pytest.mark.parametrize(
    ("status", "is_silent"),
    [
        pytest.param({}, False, id="says-nothing"),
        pytest.param({"conditions": [{"type": "Ready", "status": "True"}]}, False, id="ready"),
        pytest.param({"conditions": [{"type": "Ready", "status": "Unknown"}]}, True, id="unknown"),
        pytest.param({"conditions": [{"type": "DiskPressure", "status": "False"}]}, False, id="other"),
    ],
)
def test_a_node_is_heard_unless_kubernetes_says_that_it_is_not(
    status: dict[str, Any], *, is_silent: bool
) -> None:
    assert is_unheard({"metadata": {"name": "a"}, "status": status}) is is_silent
