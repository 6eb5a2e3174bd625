"""What a keeper is told of Pods: who asks, what a listing means, and whose turn it is."""

from __future__ import annotations

from typing import Any

import pytest

from vipapi.configuration import Configuration
from vipapi.healthchecks import HealthCheck, Pods, Selector, TCPSocket
from vipapi.nodeplan import CandidatePlan, DomainPlan, Plan, PodsFact, Timing, VirtualIPPlan
from vipcourier import pods
from vipcourier.pods import Facts

WEB = Pods(Selector({"tier": "front", "app": "web"}), namespace="prod")
TWO = Pods(Selector({"app": "web"}), namespace="prod", at_least=2)
DB = Pods(Selector({"app": "db"}), namespace="test")


def pod(*, ready: str = "True", **metadata: Any) -> dict[str, Any]:
    conditions = [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}]
    return {"metadata": {"name": "web-1", **metadata}, "status": {"conditions": conditions}}


def check(name: str, probe: Pods) -> HealthCheck:
    return HealthCheck(name, pods=probe)


def virtual_ip(uid: str, *checks: HealthCheck, nodes: str = "ab", **more: Any) -> VirtualIPPlan:
    candidates = tuple(CandidatePlan(node, 100) for node in nodes)
    return VirtualIPPlan(uid, uid, ("192.0.2.10",), candidates, health_checks=checks, **more)


def plan(*virtual_ips: VirtualIPPlan) -> Plan:
    domains = tuple(
        DomainPlan(uid, uid, 1, Timing(1, 4, 5, 6), Configuration(), (), (), virtual_ips=found)
        for uid, found in (("d", virtual_ips), ("e", ()))
    )
    return Plan("a", domains)


def test_each_pods_are_asked_for_once_wherever_they_are_checked() -> None:
    of_services = virtual_ip("v", check("x", WEB), service_checks=(check("y", DB), check("z", WEB)))
    plain = virtual_ip("w", HealthCheck("t", tcp_socket=TCPSocket(80)), check("x", TWO), check("u", WEB))
    found = pods.asked(plan(of_services, plain))
    assert sorted(found, key=str) == sorted((WEB, TWO, DB), key=str)
    assert pods.asked(plan(plain, of_services)) == found, "the order of a plan does not matter"


def test_nobody_looks_for_an_address_that_the_node_cannot_own() -> None:
    assert pods.asked(plan(virtual_ip("v", check("x", WEB), nodes="bc"))) == ()
    assert pods.asked(plan()) == ()


def test_labels_are_asked_for_as_kubectl_writes_them() -> None:
    assert pods.label_selector(WEB) == "app=web,tier=front"
    assert pods.label_selector(Pods(Selector({"app": ""}))) == "app="


@pytest.mark.parametrize(
    ("probe", "listing", "is_ok"),
    [
        pytest.param(WEB, [pod()], True, id="one"),
        pytest.param(WEB, [pod(), pod(ready="False")], True, id="one-of-two"),
        pytest.param(WEB, [], False, id="none"),
        pytest.param(WEB, [pod(ready="False"), pod(ready="Unknown")], False, id="not-ready"),
        pytest.param(WEB, [pod(deletionTimestamp="2026-01-01T00:00:00Z")], False, id="on-its-way-out"),
        pytest.param(WEB, [{"metadata": {"name": "new"}}], False, id="without-a-status"),
        pytest.param(WEB, [{"metadata": {}, "status": {"conditions": None}}], False, id="with-an-empty-one"),
        pytest.param(TWO, [pod()], False, id="too-few"),
        pytest.param(TWO, [pod(), pod()], True, id="as-many-as-there-must-be"),
    ],
)
def test_pods_pass_while_enough_of_them_are_ready(
    probe: Pods, listing: list[dict[str, Any]], *, is_ok: bool
) -> None:
    fact = pods.found(probe, listing)
    assert (fact.pods, fact.is_ok) == (probe, is_ok)
    assert bool(fact.message) is not is_ok


def test_it_is_said_how_many_are_missing() -> None:
    message = "of 1 Pods with app=web of the namespace prod on this node 0 are ready, and 2 must be"
    assert pods.found(TWO, [pod(ready="False")]).message == message
    assert pods.refused(TWO, "400 bad") == PodsFact(
        TWO, is_ok=False, message="the Pods cannot be listed: 400 bad"
    )


def test_only_what_is_new_is_news() -> None:
    facts = Facts()
    facts.ask((WEB, DB))
    good, bad = PodsFact(WEB, is_ok=True), PodsFact(WEB, is_ok=False, message="none")
    assert [facts.learn(each) for each in (good, good, bad, bad, good)] == [True, False, True, False, True]
    assert facts.known == (good,)


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    facts = Facts()
    assert (facts.is_asked, facts.due(9)) == (False, ())
    facts.ask((WEB, DB))
    facts.learn(PodsFact(WEB, is_ok=True))
    facts.ask((DB,))
    assert not facts.learn(PodsFact(WEB, is_ok=False)), "an answer that comes too late"
    assert (facts.known, facts.due(9)) == ((), (DB,))
    facts.ask(())
    assert (facts.is_asked, facts.due(9)) == (False, ())


def test_what_is_known_stays_while_the_question_stays() -> None:
    facts = Facts()
    fact = PodsFact(DB, is_ok=True)
    facts.ask((DB,))
    facts.learn(fact)
    facts.ask((DB, WEB))
    assert facts.known == (fact,)
    assert facts.due(1) == (WEB,), "which is asked for newly"


def test_with_more_questions_than_looks_everyone_has_its_turn() -> None:
    many = tuple(Pods(Selector({"app": str(n)}), namespace="prod") for n in range(5))
    facts = Facts()
    facts.ask(many)
    seen = []
    for _ in range(5):
        now = facts.due(2)
        seen += now
        for each in now:
            facts.learn(PodsFact(each, is_ok=True))
        # A plan is made anew after each answer that is news, and asks for the same.
        facts.ask(many)
    assert {each: seen.count(each) for each in many} == dict.fromkeys(many, 2)


def test_a_question_without_an_answer_keeps_nobody_from_its_turn() -> None:
    silent = tuple(Pods(Selector({"app": str(n)}), namespace="prod") for n in range(3))
    facts = Facts()
    facts.ask((*silent, WEB))
    seen: set[Pods] = set()
    for _ in range(4):
        seen |= set(facts.due(1))
        facts.ask((*silent, WEB))
    assert seen == {*silent, WEB}
