"""From the cluster's objects to a node's plan: who takes part, what is told, and what never drops out."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from courier.objects import (
    KEY_1,
    KEY_2,
    KEY_3,
    accepted,
    changed,
    configuration,
    domain,
    failover,
    meta,
    node,
    nodes,
    secret,
    service,
    told,
    vip,
    world,
)
from vipapi import nodeplan
from vipapi.configuration import Configuration, Member
from vipapi.nodeplan import CandidatePlan, Key
from vipapi.routing import Route, Rule
from vipcourier.planning import Planned, Planner, Sources, read_keys

if TYPE_CHECKING:
    from vipcourier.reading import Document


UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy


def plan(sources: Sources, name: str = "a") -> Planned:
    return Planner(name).plan(sources)


def names(planned: Planned) -> list[str]:
    return [found.name for each in planned.plan.domains for found in each.virtual_ips]


@pytest.mark.parametrize(
    ("name", "selector", "voters", "takes_part"),
    [
        pytest.param("a", {}, ("", ""), True, id="an-empty-selector-takes-every-node"),
        pytest.param("c", {"matchLabels": {"role": "edge"}}, ("", ""), True, id="selected"),
        pytest.param("a", {"matchLabels": {"role": "edge"}}, ("", ""), False, id="not-selected"),
        pytest.param("a", {"matchLabels": {"role": "edge"}}, ("abc", ""), True, id="a-witness"),
        pytest.param("a", {"matchLabels": {"role": "edge"}}, ("bcd", "abc"), True, id="one-that-is-replaced"),
        pytest.param("unknown", {}, ("", ""), False, id="a-node-that-is-not-there"),
        pytest.param("u", {}, ("u", ""), True, id="a-witness-whose-node-was-deleted"),
    ],
)
def test_a_node_takes_part_where_it_is_selected_or_votes(
    *, name: str, selector: Document, voters: tuple[str, str], takes_part: bool
) -> None:
    witnesses, former = voters
    sources = world(domains=[domain(nodeSelector=selector, witnesses=witnesses, former=former)])
    assert bool(plan(sources, name).plan.domains) is takes_part


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        pytest.param([], [("a", 100), ("b", 100), ("c", 100)], id="absent-means-every-node-of-the-domain"),
        pytest.param(
            [{"nodeName": "b", "priority": 150}, {"nodeSelector": {}, "priority": 50}],
            [("a", 50), ("b", 150), ("c", 50)],
            id="the-first-that-fits-counts",
        ),
        pytest.param([{"nodeSelector": {"matchLabels": {"role": "edge"}}}], [("c", 100)], id="by-label"),
        pytest.param([{"nodeName": "elsewhere"}], [], id="a-node-that-is-not-there-is-none"),
    ],
)
def test_candidates_are_resolved(candidates: list[Document], expected: list[tuple[str, int]]) -> None:
    (found,) = plan(world(virtual_ips=[vip(candidates=candidates)])).plan.domains[0].virtual_ips
    assert found.candidates == tuple(CandidatePlan(name, priority) for name, priority in expected)


def test_a_candidate_outside_the_domain_is_none() -> None:
    sources = world(
        domains=[domain(nodeSelector={"matchLabels": {"role": "edge"}}, witnesses="a")],
        virtual_ips=[vip(candidates=[{"nodeName": "a"}, {"nodeName": "c"}])],
    )
    (found,) = plan(sources).plan.domains[0].virtual_ips
    assert found.candidates == (CandidatePlan("c", 100),)


def test_a_domain_is_told_as_its_status_has_it() -> None:
    spec: Document = {"heartbeat": {"interface": "eth1", "port": 7000}, "profile": "Fast"}
    planned = plan(world(domains=[domain(witnesses="cab", former="abd", epoch=5, **spec)])).plan
    assert planned.node_addresses == ("192.0.2.1",)
    (found,) = planned.domains
    assert found.uid == "uid-default"
    assert found.configuration == configuration("cab", former="abd", epoch=5)
    assert found.members == tuple(Member(name, f"192.0.2.{ord(name)}") for name in "ab")
    assert (found.port, found.heartbeat_interface, found.timing.lease_ms) == (7000, "eth1", 250)
    assert found.keys == (Key(1, KEY_1),)


def test_a_virtual_ip_is_told_with_its_standing_order() -> None:
    document = vip(
        interface="eth0",
        healthChecks=[{"name": "app", "tcpSocket": {"port": 80}}],
        announcement={"count": 3, "refreshSeconds": 30},
        routes=[{"destination": "198.51.100.0/24", "via": "192.0.2.254"}],
        rules=[{"table": 100, "from": "192.0.2.10"}],
    )
    document["status"] |= {
        "owner": "b",
        "term": 7,
        "election": {"owner": "a", "succession": ["b", "c"], "basedOnTerm": 7},
    }
    (found,) = plan(world(virtual_ips=[document])).plan.domains[0].virtual_ips
    assert (found.uid, found.addresses, found.interface) == ("uid-web", ("192.0.2.10/24",), "eth0")
    assert (found.owner, found.succession, found.based_on_term) == ("a", ("b", "c"), 7)
    assert found.observed_term == 7
    assert (found.announcement_count, found.announcement_refresh_s) == (3, 30)
    assert found.routes == (Route("198.51.100.0/24", via="192.0.2.254"),)
    assert found.rules == (Rule(100, from_address="192.0.2.10"),)
    assert [check.name for check in found.health_checks] == ["app"]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(vip(), ["web"], id="accepted"),
        pytest.param(vip(conditions=[accepted("False")]), [], id="refused"),
        pytest.param(vip(conditions=[]), [], id="nobody-has-looked-yet"),
        pytest.param(vip(domain="other"), [], id="of-another-domain"),
        pytest.param(
            {**vip(), "metadata": meta("web", deletionTimestamp="2026-01-01T00:00:00Z")},
            [],
            id="being-deleted",
        ),
    ],
)
def test_only_what_may_be_held_is_planned(document: Document, expected: list[str]) -> None:
    assert names(plan(world(virtual_ips=[document]))) == expected


def test_what_is_deleted_or_retired_is_told_to_the_nodes_of_its_domain() -> None:
    def going(name: str, **spec: Any) -> Document:
        return {**vip(name, **spec), "metadata": meta(name, deletionTimestamp="2026-01-01T00:00:00Z")}

    retired = [{"address": "192.0.2.7", "generation": 4}, {"address": "2001:db8::7", "generation": 2}]
    virtual_ips = [
        vip("stays"),
        going("web"),
        going("db"),
        going("other", domain="second"),
        going("unreadable", healthChecks="none"),
        {**going("refused"), "status": {"conditions": [accepted("False")]}},
        {**vip("edited"), "status": {"retiredAddresses": retired}},
    ]
    planned = plan(world(virtual_ips=virtual_ips, domains=[domain(), domain("second")])).plan
    assert {found.name: found.deleted for found in planned.domains} == {
        "default": (
            *("uid-db", "uid-edited/192.0.2.7/4", "uid-edited/2001:db8::7/2"),
            *("uid-refused", "uid-unreadable", "uid-web"),
        ),
        "second": ("uid-other",),
    }


@pytest.mark.parametrize(
    ("gateway", "probe"),
    [
        pytest.param({}, "Auto", id="absent"),
        pytest.param({"gateway": {}}, "Auto", id="empty"),
        pytest.param({"gateway": {"probe": "Off"}}, "Off", id="off"),
        pytest.param({"gateway": {"onUnreachable": "Ignore"}}, "Off", id="what-is-ignored-is-not-probed"),
    ],
)
def test_the_gateway_is_probed_where_its_answer_counts(gateway: Document, probe: str) -> None:
    (found,) = plan(world(domains=[domain(**gateway)])).plan.domains
    assert found.gateway_probe == probe


def test_nodes_that_somebody_says_are_off_are_told_with_every_domain() -> None:
    off = [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]
    listed = [node("c"), node("b"), node("a")]
    listed[:2] = (changed(each, spec={"taints": off}) for each in listed[:2])
    planner = Planner("a")
    domains = [domain(), domain("other")]
    found = planner.plan(world(nodes=listed, domains=domains)).plan.domains
    assert [each.out_of_service for each in found] == [("b", "c"), ("b", "c")]
    back = planner.plan(world(nodes=[node("c"), node("b"), node("a")], domains=domains)).plan.domains
    assert [each.out_of_service for each in back] == [(), ()]


@pytest.mark.parametrize(
    ("spec", "is_held_alone"),
    [
        pytest.param(
            {"onQuorumLoss": "Hold", "candidates": [{"nodeName": "a"}, {"nodeName": "b"}]}, True, id="two"
        ),
        pytest.param({"onQuorumLoss": "Hold"}, False, id="three-candidates"),
        pytest.param({"onQuorumLoss": "Hold", "candidates": [{"nodeName": "a"}]}, True, id="one-candidate"),
        pytest.param(
            {"onQuorumLoss": "Hold", "candidates": [{"nodeName": node} for node in ("a", "b", "gone")]},
            False,
            id="a-third-that-may-come-back",
        ),
        pytest.param({"candidates": [{"nodeName": "a"}, {"nodeName": "b"}]}, False, id="release-by-default"),
    ],
)
def test_only_one_of_two_candidates_may_hold_alone(*, spec: Document, is_held_alone: bool) -> None:
    (found,) = plan(world(virtual_ips=[vip(**spec)])).plan.domains[0].virtual_ips
    assert found.is_held_alone is is_held_alone


@pytest.mark.parametrize(
    ("document", "keys", "objection"),
    [
        pytest.param(None, (), "does not exist", id="missing"),
        pytest.param(secret(k1=KEY_1), ((1, KEY_1),), "", id="one"),
        pytest.param(
            secret(k9=KEY_1, k10=KEY_2, k2=KEY_3),
            ((10, KEY_2), (9, KEY_1)),
            "",
            id="the-two-newest-by-number",
        ),
        pytest.param(secret(k0=KEY_1), (), "it has no key", id="zero-is-no-id"),
        pytest.param(secret(k256=KEY_1), (), "it has no key", id="too-high-an-id"),
        pytest.param(secret(k1=b"short"), (), "it has no key", id="too-short"),
        pytest.param(secret(k1=KEY_1, extra=KEY_2), ((1, KEY_1),), "extra", id="something-else-beside-it"),
        pytest.param(
            {"metadata": meta("s"), "data": {"1": "no base64!"}}, (), "it has no key", id="not-base64"
        ),
        pytest.param({"metadata": meta("s")}, (), "it has no key", id="empty"),
    ],
)
def test_keys_are_read_newest_first(
    document: Document | None, keys: tuple[tuple[int, bytes], ...], objection: str
) -> None:
    found, said = read_keys(document)
    assert found == tuple(Key(key_id, value) for key_id, value in keys)
    assert objection in said
    assert bool(objection) is bool(said)


UNREADABLE: Document = {"addresses": "not a list"}


def test_an_object_that_cannot_be_read_any_more_stays_as_it_was() -> None:
    planner = Planner("a")
    good = planner.plan(world())
    broken = planner.plan(world(virtual_ips=[changed(vip(), spec=UNREADABLE)]))
    assert broken.plan == good.plan
    assert "VirtualIP web" in broken.problems[0]


def test_an_object_that_could_never_be_read_is_left_out_alone() -> None:
    planned = plan(world(virtual_ips=[vip("bad", **UNREADABLE), vip("good")]))
    assert names(planned) == ["good"]
    assert "VirtualIP bad" in planned.problems[0]


def test_what_is_in_force_and_could_never_be_read_is_named() -> None:
    odd, new = vip("odd", **UNREADABLE), changed(vip("new", **UNREADABLE), status={"conditions": []})
    gone = changed(odd, metadata={"name": "gone", "uid": "gone", "deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert plan(world(virtual_ips=[vip(), odd, new, gone])).unknown == {odd["metadata"]["uid"]}
    of_newer = domain(witnesses="abc", profile="Unheard")
    assert plan(world(domains=[of_newer])).unknown == {of_newer["metadata"]["uid"]}
    assert plan(world(domains=[domain(profile="Unheard")])).unknown == frozenset()
    unheard = changed(failover(), spec={"mode": "Unheard"})
    assert plan(world(failovers=[unheard])).unknown == {unheard["metadata"]["uid"]}


def test_what_was_read_before_is_not_unknown() -> None:
    planner = Planner("a")
    planner.plan(world())
    broken = world(
        virtual_ips=[changed(vip(), spec=UNREADABLE)],
        domains=[changed(domain(), spec={"profile": "Unheard"})],
    )
    assert planner.plan(broken).unknown == frozenset()


def test_an_object_that_cannot_be_read_is_let_go_when_it_is_deleted() -> None:
    planner = Planner("a")
    planner.plan(world())
    deleted = changed(vip(), spec=UNREADABLE, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert names(planner.plan(world(virtual_ips=[deleted]))) == []


def test_a_domain_that_cannot_be_read_any_more_stays_as_it_was() -> None:
    planner = Planner("a")
    good = planner.plan(world())
    for spec in ({"profile": "Unheard"}, {"timing": dict.fromkeys(TIMES, 100)}):
        broken = planner.plan(world(domains=[changed(domain(), spec=spec)]))
        assert broken.plan == good.plan
        assert "FailoverDomain default" in broken.problems[0]


TIMES = ("heartbeatMilliseconds", "leaseMilliseconds", "grantMilliseconds", "silenceMilliseconds")


def test_a_change_is_planned_when_it_has_been_accepted() -> None:
    planner = Planner("a")
    before = planner.plan(world())
    edited = changed(vip(), spec={"addresses": ["192.0.2.99/24"]}, metadata={"generation": 2})
    assert planner.plan(world(virtual_ips=[edited])).plan == before.plan
    judged = changed(edited, status={"conditions": [accepted(generation=2)]})
    (found,) = planner.plan(world(virtual_ips=[judged])).plan.domains[0].virtual_ips
    assert found.addresses == ("192.0.2.99/24",)


def test_a_standing_order_is_told_also_while_a_change_waits() -> None:
    planner = Planner("a")
    planner.plan(world())
    edited = changed(
        vip(),
        spec={"announcement": {"count": 9}},
        metadata={"generation": 2},
        status={"election": {"owner": "b", "basedOnTerm": 1}},
    )
    (found,) = planner.plan(world(virtual_ips=[edited])).plan.domains[0].virtual_ips
    assert (found.owner, found.announcement_count) == ("b", 5)


def edited_after(accepted_addresses: list[str], *, version: int = 2) -> Document:
    """Return `web` with other addresses and announcements, which nobody has accepted yet."""
    return changed(
        vip(),
        spec={"addresses": ["192.0.2.99/24"], "announcement": {"count": 9}},
        metadata={"generation": 2, "resourceVersion": str(version)},
        status={"addresses": accepted_addresses},
    )


def test_after_a_restart_a_change_that_waits_is_taken_with_the_addresses_that_were_accepted() -> None:
    planner = Planner("a")
    told_addresses = ["2001:db8::10/64", "192.0.2.10/24"]
    planned = planner.plan(world(virtual_ips=[edited_after(told_addresses)]))
    (found,) = planned.plan.domains[0].virtual_ips
    assert (found.addresses, found.announcement_count) == (tuple(told_addresses), 9)
    assert planned.problems == ()
    judged = changed(edited_after(told_addresses), status={"conditions": [accepted(generation=2)]})
    (found,) = planner.plan(world(virtual_ips=[judged])).plan.domains[0].virtual_ips
    assert found.addresses == ("192.0.2.99/24",)


def test_what_stands_in_after_a_restart_follows_the_accepted_addresses_and_is_not_lost_with_them() -> None:
    planner = Planner("a")
    found = []
    for version, addresses in enumerate((["192.0.2.10/24"], ["192.0.2.11/24"], [], ["none"]), 2):
        planned = planner.plan(world(virtual_ips=[edited_after(addresses, version=version)]))
        found.append(planned.plan.domains[0].virtual_ips[0].addresses)
    assert found == [("192.0.2.10/24",), *[("192.0.2.11/24",)] * 3]


def kept(*addresses: str, generation: int = 1, **spec: object) -> Document:
    """Return a status by which this spec was accepted last."""
    return {
        "conditions": [accepted(generation=generation)],
        "inForce": {"generation": generation, "spec": {"addresses": list(addresses), **spec}},
    }


@pytest.mark.parametrize("bad", [{}, {"onQuorumLoss": "Never"}], ids=["waits", "cannot be read"])
def test_after_a_restart_the_spec_that_was_accepted_goes_on_while_an_edit_waits(bad: Document) -> None:
    planner = Planner("a")
    status = {**kept("192.0.2.10/24", announcement={"count": 3}), "addresses": ["192.0.2.10/24"]}
    waiting = changed(edited_after([]), spec=bad, status=status)
    planned = planner.plan(world(virtual_ips=[waiting]))
    (found,) = planned.plan.domains[0].virtual_ips
    assert (found.addresses, found.announcement_count) == (("192.0.2.10/24",), 3)
    assert (len(planned.problems), planned.unknown) == (len(bad), frozenset())
    judged = changed(edited_after([]), spec={}, status={"conditions": [accepted(generation=2)]})
    judged["metadata"]["resourceVersion"] = "9"
    (found,) = planner.plan(world(virtual_ips=[judged])).plan.domains[0].virtual_ips
    assert (found.addresses, found.announcement_count) == (("192.0.2.99/24",), 9)


def test_a_spec_that_was_accepted_and_missed_is_taken_from_the_status() -> None:
    planner = Planner("a")
    planner.plan(world())
    third = changed(vip(), metadata={"generation": 3}, status=kept("192.0.2.12", generation=2))
    (found,) = planner.plan(world(virtual_ips=[third])).plan.domains[0].virtual_ips
    assert found.addresses == ("192.0.2.12",)
    # An older one, as of a status that was put back by hand, takes nothing out of force.
    stale = changed(third, status=kept("192.0.2.11", generation=1))
    (found,) = planner.plan(world(virtual_ips=[stale])).plan.domains[0].virtual_ips
    assert found.addresses == ("192.0.2.12",)


def test_what_was_put_back_takes_the_place_of_a_generation_that_is_no_more() -> None:
    planner = Planner("a")
    fifth = changed(
        vip(addresses=["192.0.2.12"]),
        metadata={"generation": 5},
        status={"conditions": [accepted(generation=5)]},
    )
    assert planner.plan(world(virtual_ips=[fifth])).plan.domains[0].virtual_ips[0].addresses == (
        "192.0.2.12",
    )
    fourth = changed(fifth, metadata={"generation": 4}, status=kept("192.0.2.10", generation=3))
    fourth["metadata"]["resourceVersion"] = "4"
    assert planner.plan(world(virtual_ips=[fourth])).plan.domains[0].virtual_ips[0].addresses == (
        "192.0.2.10",
    )


def test_a_spec_that_was_accepted_takes_the_place_of_what_only_stands_in() -> None:
    planner = Planner("a")
    planner.plan(world(virtual_ips=[edited_after(["192.0.2.10/24"])]))
    told = changed(edited_after(["192.0.2.10/24"], version=3), status=kept("192.0.2.10/24"))
    (found,) = planner.plan(world(virtual_ips=[told])).plan.domains[0].virtual_ips
    assert found.announcement_count == 5


@pytest.mark.parametrize("status", ["True", "False"])
def test_a_spec_that_was_accepted_and_cannot_be_read_hides_nothing_else_of_its_status(status: str) -> None:
    planner = Planner("a")
    planner.plan(world())
    told = {"conditions": [accepted(status)], "inForce": {"generation": 1, "spec": {"addresses": 5}}}
    newer = changed(vip(), spec={"addresses": 5}, metadata={"generation": 2}, status=told)
    assert names(planner.plan(world(virtual_ips=[newer]))) == (["web"] if status == "True" else [])


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        pytest.param([], "its status does not say which addresses were", id="none"),
        pytest.param(["192.0.2.300"], "the addresses in its status: '192.0.2.300'", id="unreadable"),
    ],
)
def test_a_change_that_waits_is_left_out_after_a_restart_where_nothing_was_accepted(
    addresses: list[str], said: str
) -> None:
    planned = plan(world(virtual_ips=[edited_after(addresses)]))
    assert names(planned) == []
    assert said in planned.problems[0]


@pytest.mark.parametrize(
    "conditions", [[], [accepted("Unknown", generation=2)]], ids=["wiped", "judged-by-nobody-yet"]
)
def test_a_change_of_which_nobody_says_that_it_is_accepted_is_not_planned(conditions: list[Document]) -> None:
    planner = Planner("a")
    before = planner.plan(world())
    edited = changed(edited_after(["192.0.2.10/24"]), status={"conditions": conditions})
    assert planner.plan(world(virtual_ips=[edited])).plan == before.plan


def test_a_status_wiped_by_hand_lets_nothing_go() -> None:
    planner = Planner("a")
    planner.plan(world())
    wiped = changed(vip(), status={"conditions": []})
    assert names(planner.plan(world(virtual_ips=[wiped]))) == ["web"]
    refused = changed(wiped, status={"conditions": [accepted("False")]})
    assert names(planner.plan(world(virtual_ips=[refused]))) == []


@pytest.mark.parametrize(
    ("status", "said"),
    [
        pytest.param({}, "shows epoch 0, and epoch 5 was there before", id="wiped"),
        pytest.param({"epoch": "five"}, "FailoverDomain default: ", id="unreadable"),
        pytest.param(told(configuration("bcd", epoch=4)), "shows epoch 4, and epoch 5", id="older"),
        pytest.param(
            {**told(configuration("abc", epoch=5)), "witnesses": nodes("a", "b", "d")},
            "is not the one that its hash names",
            id="edited-by-hand",
        ),
        pytest.param(
            {**told(configuration("abc", epoch=9)), "configHash": ""},
            "is not the one that its hash names",
            id="newer-without-its-hash",
        ),
    ],
)
def test_a_configuration_never_goes_back(status: Document, said: str) -> None:
    planner = Planner("a")
    first = domain(witnesses="abc", epoch=5)
    good = planner.plan(world(domains=[first]))
    broken = {**changed(first), "status": status}
    planned = planner.plan(world(domains=[broken]))
    assert planned.plan == good.plan
    assert any(said in problem for problem in planned.problems)
    mended = changed(broken, status={**told(configuration("bcd", epoch=6)), "members": nodes("b")})
    (found,) = planner.plan(world(domains=[mended])).plan.domains
    assert found.configuration == configuration("bcd", epoch=6)
    assert [member.node for member in found.members] == ["b"]


def test_a_node_that_took_part_as_a_witness_does_so_when_the_status_is_wiped() -> None:
    planner = Planner("a")
    first = domain(witnesses="abc", nodeSelector={"matchLabels": {"role": "edge"}})
    good = planner.plan(world(domains=[first]))
    assert good.plan.domains
    assert planner.plan(world(domains=[{**changed(first), "status": {}}])).plan == good.plan


def test_a_configuration_of_another_domain_of_the_same_name_is_none() -> None:
    planner = Planner("a")
    planner.plan(world(domains=[domain(witnesses="abc", epoch=5)]))
    anew = domain()
    anew["metadata"]["uid"] = "uid-anew"
    (found,) = planner.plan(world(domains=[anew])).plan.domains
    assert found.configuration == Configuration()


@pytest.mark.parametrize("secrets", [[], [secret(k1=b"short")]], ids=["deleted", "damaged"])
def test_a_lost_secret_cuts_nobody_off(secrets: list[Document]) -> None:
    planner = Planner("a")
    good = planner.plan(world())
    lost = planner.plan(world(secrets=secrets))
    assert lost.plan == good.plan
    assert "Secret vipkeeper-heartbeat" in lost.problems[0]


def test_a_domain_made_anew_gets_nothing_of_the_old_one() -> None:
    planner = Planner("a")
    planner.plan(world())
    anew = domain()
    anew["metadata"]["uid"] = "uid-anew"
    (found,) = planner.plan(world(domains=[anew], secrets=[])).plan.domains
    assert (found.uid, found.keys) == ("uid-anew", ())


def test_what_is_gone_is_gone() -> None:
    planner = Planner("a")
    planner.plan(world())
    assert names(planner.plan(world(virtual_ips=[]))) == []
    assert planner.plan(world(domains=[])).plan.domains == ()


def test_a_node_label_moves_candidates() -> None:
    planner = Planner("a")
    documents = [vip(candidates=[{"nodeSelector": {"matchLabels": {"role": "edge"}}}])]
    planner.plan(world(virtual_ips=documents))
    relabelled = [node("a", role="edge"), node("b"), node("c")]
    for each in relabelled:
        each["metadata"]["resourceVersion"] = "2"
    (found,) = planner.plan(world(virtual_ips=documents, nodes=relabelled)).plan.domains[0].virtual_ips
    assert found.candidates == (CandidatePlan("a", 100),)


def snapshot(draw: random.Random) -> Sources:
    """Return some world in which everything can be read and is accepted."""
    version = str(draw.randrange(10**9))

    def stamped(document: Document) -> Document:
        document["metadata"] |= {"resourceVersion": version}
        return document

    found = [vip(name, interface=draw.choice(["eth0", "eth1"])) for name in "xyz" if draw.random() < 0.7]
    following = [
        failover(
            name,
            *(
                service(each, follows=draw.choice("xyz"), standbys=draw.sample("bcd", 2))
                for each in draw.sample(["app", "db", "log"], draw.randrange(1, 4))
            ),
            created=draw.randrange(1, 3),
            healthChecks=[{"name": name, "tcpSocket": {"port": draw.choice([80, 81])}}],
        )
        for name in ("f", "g", "h")
        if draw.random() < 0.7
    ]
    for document in (*found, *following):
        generation = int(version)
        document["metadata"]["generation"] = generation
        document["status"]["conditions"] = [accepted(generation=generation)]
    domains = [domain(name, profile=draw.choice(["Fast", "Balanced"])) for name in ("default", "second")]
    for document in domains:
        document["metadata"]["generation"] = int(version)
    members = [node(name, role=draw.choice(["edge", "core"])) for name in "abc"]
    return Sources(
        virtual_ips=[stamped(document) for document in found],
        failovers=[stamped(document) for document in following],
        domains=[stamped(document) for document in domains],
        nodes=[stamped(document) for document in members],
        secrets=[secret(k1=KEY_1, k2=KEY_2)],
    )


@given(seed=st.integers(0, 2**32), doubled=st.booleans())
@UNHURRIED
def test_a_plan_depends_on_the_newest_world_only(*, seed: int, doubled: bool) -> None:
    draw = random.Random(seed)
    planner = Planner("a")
    snapshots = [snapshot(draw) for _ in range(draw.randrange(1, 5))]
    for sources in snapshots:
        planned = planner.plan(sources)
        if doubled:
            assert planner.plan(sources) == planned
    assert planned == Planner("a").plan(snapshots[-1])


@given(seed=st.integers(0, 2**32))
@UNHURRIED
def test_an_unchanged_world_in_any_order_is_the_same_plan_byte_for_byte(seed: int) -> None:
    draw = random.Random(seed)
    sources = snapshot(draw)
    shuffled = Sources(*(draw.sample(list(listed), len(listed)) for listed in sources))
    encoded = {nodeplan.encode(plan(each).plan) for each in (sources, shuffled)}
    assert len(encoded) == 1
    assert nodeplan.decode(encoded.pop()) == plan(sources).plan
