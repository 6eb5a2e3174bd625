"""What the controller makes of the world: stories on a stage, each told in every way of looking."""

from __future__ import annotations

import copy
from collections import Counter

import msgspec
import pytest

from controller.stage import Object, Stage, Way
from vipapi.bounds import VIRTUAL_IPS as MOST_VIRTUAL_IPS
from vipapi.selectors import LabelSelector
from vipcontroller.claims import judge
from vipcontroller.decisions import ALARM_S, SETTLE_S, Memory, reconcile
from vipcontroller.vitals import Vitals


@pytest.fixture(params=list(Way), ids=lambda way: way.value)
def stage(request: pytest.FixtureRequest) -> Stage:
    stage = Stage(way=request.param)
    stage.agents("node-a", "node-b", "node-c")
    stage.settle()
    stage.report()
    stage.pass_time(10)
    return stage


def order(stage: Stage, name: str = "web") -> tuple[str | None, list[str], int]:
    found = stage.get("VirtualIP", name)["status"]["election"]
    return found.get("owner"), found.get("succession", []), found["basedOnTerm"]


def own(stage: Stage, node: str, term: int, name: str = "web", **report: object) -> None:
    """Let a node own an address and the controller hear of it."""
    stage.report(owners={name: (node, term)}, **report)  # type: ignore[arg-type]
    stage.settle()


def web_owned_by_a(stage: Stage) -> None:
    candidates = [{"nodeName": node} for node in ("node-a", "node-b", "node-c")]
    stage.virtual_ip("web", candidates=candidates)
    stage.settle()
    own(stage, "node-a", 1, scores={"node-a": 150})


def test_a_domain_chooses_its_witnesses_and_says_so(stage: Stage) -> None:
    domain = stage.get("FailoverDomain", "default")
    assert [each["nodeName"] for each in domain["status"]["witnesses"]] == ["node-a", "node-b", "node-c"]
    assert domain["status"]["epoch"] == 1
    assert stage.condition("FailoverDomain", "default", "Quorate")["status"] == "True"
    assert "default WitnessesChosen" in stage.tellings


def test_witnesses_that_have_not_joined_yet_speak_against_nobody() -> None:
    stage = Stage()
    stage.agents("node-a", "node-b", "node-c")
    for node in ("node-a", "node-b", "node-c"):
        stage.get("VIPNode", node)["status"]["domains"][0]["reachablePeers"] = []
    stage.settle()
    assert stage.condition("FailoverDomain", "default", "Quorate")["status"] == "True"
    assert "default QuorumLost" not in stage.tellings


def test_too_few_nodes_are_told_what_is_missing() -> None:
    stage = Stage()
    stage.agents("node-a", "node-b")
    stage.settle()
    condition = stage.condition("FailoverDomain", "default", "Quorate")
    assert (condition["status"], condition["reason"]) == ("False", "TooFewWitnesses")
    assert "3 witnesses are wanted and 2 nodes" in condition["message"]


def test_a_lost_quorum_is_told_with_who_is_not_heard(stage: Stage) -> None:
    stage.report(alive={"node-a"})
    stage.delete("VIPNode", "node-b")
    stage.settle()
    condition = stage.condition("FailoverDomain", "default", "Quorate")
    assert condition["reason"] == "QuorumLost"
    assert "not heard: node-b, node-c" in condition["message"] or "node-b" in condition["message"]
    assert "default QuorumLost" in stage.tellings


def test_the_first_choice_waits_for_reports_but_not_for_ever(stage: Stage) -> None:
    stage.virtual_ip("web", candidates=[{"nodeName": node} for node in ("node-a", "node-b", "node-x")])
    stage.settle()
    assert order(stage) == (None, [], 0)
    del stage.objects["Node", "node-c"]
    stage.report(unfit={"node-a": "CheckPending"})
    stage.settle()
    assert order(stage)[0] is None
    assert stage.last is not None
    assert stage.last.due is not None
    assert stage.last.due - stage.now_s <= 4.0
    stage.pass_time(4.1)
    assert order(stage) == ("node-b", [], 0)


def test_a_first_choice_need_not_wait_for_who_cannot_be_better(stage: Stage) -> None:
    stage.virtual_ip(
        "web", candidates=[{"nodeName": "node-a", "priority": 90}, {"nodeName": "node-b", "priority": 100}]
    )
    stage.settle()
    stage.report(unfit={"node-a": "CheckPending"})
    stage.settle()
    assert order(stage)[0] == "node-b"


def alarms(stage: Stage) -> int:
    return stage.tellings.count("web NoEligibleNode")


def test_a_new_address_that_nobody_has_reported_on_yet_is_no_matter_for_a_warning(stage: Stage) -> None:
    stage.virtual_ip("web")
    stage.settle()
    assert stage.reasons("web")["Owned"] == "False NoOwner"
    stage.report(unfit=dict.fromkeys(("node-a", "node-b", "node-c"), "NotArmed"))
    stage.pass_time(ALARM_S - 1)
    assert stage.reasons("web")["Ready"] == "False NoOwner"
    stage.converge()
    stage.converge(owners={"web": ("node-a", 1)})
    stage.pass_time(2 * ALARM_S)
    assert stage.reasons("web")["Ready"] == "True Held"
    assert alarms(stage) == 0


def test_a_new_address_that_nobody_reports_on_is_warned_of_when_it_has_had_its_time(stage: Stage) -> None:
    stage.virtual_ip("web")
    stage.settle()
    made_s = stage.now_s
    stage.pass_time(SETTLE_S + 1)
    assert stage.last is not None
    assert stage.last.due is not None
    assert ALARM_S <= stage.last.due - made_s <= ALARM_S + 1
    assert alarms(stage) == 0
    stage.pass_time(stage.last.due - stage.now_s)
    assert stage.reasons("web")["Ready"] == "False NoEligibleNode"
    stage.pass_time(ALARM_S)
    assert alarms(stage) == 1


def test_a_new_address_that_every_candidate_has_refused_is_warned_of_at_once(stage: Stage) -> None:
    nodes = ("node-a", "node-b", "node-c")
    stage.virtual_ip("web")
    stage.settle()
    stage.report(unfit=dict.fromkeys(nodes[:2], "CheckFailed") | {"node-c": "CheckPending"})
    stage.settle()
    assert alarms(stage) == 0
    stage.report(unfit=dict.fromkeys(nodes, "CheckFailed"))
    stage.settle()
    assert alarms(stage) == 1
    assert stage.reasons("web")["Owned"] == "False NoEligibleNode"


def test_an_address_that_somebody_had_is_warned_of_at_once_when_nobody_can_have_it(stage: Stage) -> None:
    stage.virtual_ip("web")
    stage.converge()
    stage.converge(owners={"web": ("node-a", 1)})
    stage.report(unfit=dict.fromkeys(("node-a", "node-b", "node-c"), "CheckPending"))
    stage.settle()
    assert alarms(stage) == 1


def test_owner_and_term_are_what_a_majority_of_the_witnesses_granted(stage: Stage) -> None:
    web_owned_by_a(stage)
    status = stage.get("VirtualIP", "web")["status"]
    assert (status["owner"], status["term"]) == ("node-a", 1)
    assert order(stage) == ("node-a", sorted(order(stage)[1]), 1)
    assert stage.reasons("web") == {
        "Ready": "True Held",
        "Accepted": "True Accepted",
        "Owned": "True Owned",
        "Bound": "True Bound",
        "Redundant": "True StandbyAvailable",
        "Conflict": "False NoConflict",
    }
    assert status["lastFailover"]["durationMilliseconds"] == 401
    uid = stage.get("VirtualIP", "web")["metadata"]["uid"]
    report = stage.objects["VIPNode", "node-b"]
    report["status"]["domains"][0]["grants"] = [{"uid": uid, "name": "web", "holder": "node-b", "term": 9}]
    stage.version += 1
    report["metadata"]["resourceVersion"] = str(stage.version)
    stage.settle()
    assert stage.get("VirtualIP", "web")["status"]["term"] == 1, "one witness is no majority"


@pytest.mark.parametrize("said", ["NotArmed", "CheckPending", None], ids=str)
def test_an_owner_whose_own_report_is_older_than_its_lease_keeps_the_address(
    stage: Stage, said: str | None
) -> None:
    """The other witnesses were sooner to tell of it. Its report is from when it was getting ready."""
    stage.virtual_ip("web")
    stage.settle()
    stage.report(unfit=dict.fromkeys(("node-a", "node-b", "node-c"), said or "NotArmed"))
    stage.settle()
    behind = stage.objects["VIPNode", "node-a"]
    before = copy.deepcopy(behind["status"])
    if said is None:
        before["virtualIPs"] = []
    stage.report(owners={"web": ("node-a", 1)})
    behind["status"] = before
    stage.touch(behind)
    stage.settle()
    assert order(stage)[::2] == ("node-a", 1)


def test_an_owner_that_says_that_a_check_fails_is_believed_although_the_witnesses_have_not_heard(
    stage: Stage,
) -> None:
    web_owned_by_a(stage)
    stage.report(owners={"web": ("node-a", 1)})
    said = stage.objects["VIPNode", "node-a"]
    [holding] = said["status"]["virtualIPs"]
    holding |= {"state": "Standby", "term": 0, "fitness": "Unfit", "reason": "CheckFailed"}
    stage.touch(said)
    stage.settle()
    assert order(stage)[0] == "node-b"


def test_a_failover_is_adopted_and_a_new_order_given_for_its_term(stage: Stage) -> None:
    web_owned_by_a(stage)
    own(stage, "node-b", 2, alive={"node-b", "node-c"})
    assert order(stage) == ("node-b", ["node-c"], 2)
    own(stage, "node-b", 2, scores={"node-a": 150})
    assert order(stage) == ("node-b", ["node-a", "node-c"], 2)
    assert stage.tellings.count("web OwnerChanged") == 2


def test_without_an_observed_owner_the_order_stands(stage: Stage) -> None:
    web_owned_by_a(stage)
    stage.report(scores={"node-b": 200})
    stage.settle()
    assert order(stage)[0] == "node-a"
    assert "owner" not in stage.get("VirtualIP", "web")["status"]
    assert stage.get("VirtualIP", "web")["status"]["term"] == 1, "the term only grows"


def test_peace_writes_nothing_however_often_one_looks(stage: Stage) -> None:
    web_owned_by_a(stage)
    for _ in range(3):
        stage.report(owners={"web": ("node-a", 1)}, scores={"node-a": 150})
        stage.now_s += 1000
        assert stage.look().writes == ()


def test_the_last_standby_lost_is_told_once(stage: Stage) -> None:
    web_owned_by_a(stage)
    own(stage, "node-a", 1, unfit={"node-b": "CheckFailed", "node-c": "CheckFailed"})
    assert stage.reasons("web")["Redundant"] == "False NoStandby"
    assert stage.tellings.count("web NoStandby") == 1


def test_a_missing_address_on_the_owner_is_not_ready(stage: Stage) -> None:
    web_owned_by_a(stage)
    for holding in stage.objects["VIPNode", "node-a"]["status"]["virtualIPs"]:
        holding["bound"] = []
    stage.version += 1
    stage.objects["VIPNode", "node-a"]["metadata"]["resourceVersion"] = str(stage.version)
    stage.settle()
    assert stage.reasons("web")["Ready"] == "False NotBound"
    assert stage.reasons("web")["Reconciling"] == "True Progressing"


@pytest.mark.parametrize("first", ["ant", "zebra"])
def test_of_two_claims_the_older_wins_whatever_its_name(stage: Stage, first: str) -> None:
    second = "zebra" if first == "ant" else "ant"
    stage.virtual_ip(first, "192.0.2.10/24")
    stage.now_s += 1
    stage.virtual_ip(second, "192.0.2.11/24", "192.0.2.10")
    stage.settle()
    assert stage.reasons(first)["Accepted"] == "True Accepted"
    assert stage.reasons(second)["Conflict"] == "True AddressConflict"
    assert stage.reasons(second)["Stalled"] == "True AddressConflict"
    assert "finalizers" not in stage.get("VirtualIP", second)["metadata"]


def test_of_two_claims_of_one_second_the_name_decides(stage: Stage) -> None:
    stage.virtual_ip("zebra")
    stage.virtual_ip("ant")
    stage.settle()
    assert stage.reasons("ant")["Accepted"] == "True Accepted"
    assert stage.reasons("zebra")["Accepted"] == "False AddressConflict"


def test_whoever_was_accepted_keeps_its_claim_against_an_older_object(stage: Stage) -> None:
    stage.now_s += 100
    stage.virtual_ip("young")
    stage.settle()
    old = stage.virtual_ip("old")
    old["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    stage.settle()
    assert stage.reasons("young")["Accepted"] == "True Accepted"
    assert stage.reasons("old")["Accepted"] == "False AddressConflict"


def test_an_edit_takes_no_address_from_whoever_has_it_in_force_however_old_its_object(stage: Stage) -> None:
    stage.virtual_ip("old", "192.0.2.10/24")
    stage.now_s += 100
    stage.virtual_ip("young", "192.0.2.11/24")
    stage.converge(owners={"young": ("node-b", 1)})
    before = copy.deepcopy(stage.get("VirtualIP", "young")["status"])
    edit(stage, "192.0.2.10/24", "192.0.2.11", name="old")
    assert stage.get("VirtualIP", "young")["status"] == before
    assert (
        "192.0.2.11 belongs to VirtualIP 'young'" in stage.condition("VirtualIP", "old", "Stalled")["message"]
    )


def test_of_two_that_have_one_address_in_force_the_older_keeps_it(stage: Stage) -> None:
    """As after a restore of statuses of different times."""
    for name in ("zebra", "ant"):
        stage.virtual_ip(name, "192.0.2.10/24" if name == "zebra" else "192.0.2.11/24")
        stage.settle()
        stage.now_s += 1
    ant = stage.get("VirtualIP", "ant")
    ant["spec"]["addresses"] = ant["status"]["addresses"] = ["192.0.2.10/24"]
    stage.touch(ant)
    stage.settle()
    assert stage.reasons("zebra")["Accepted"] == "True Accepted"
    assert stage.reasons("ant")["Accepted"] == "False AddressConflict"


def test_two_that_exchange_their_addresses_at_once_both_stay_accepted(stage: Stage) -> None:
    stage.virtual_ip("one", "192.0.2.10/24")
    stage.virtual_ip("other", "192.0.2.11/24")
    stage.settle()
    for name, address in (("one", "192.0.2.11/24"), ("other", "192.0.2.10/24")):
        obj = stage.get("VirtualIP", name)
        obj["spec"] = {"addresses": [address]}
        obj["metadata"]["generation"] += 1
        stage.touch(obj)
    for _ in range(3):
        stage.look()
        assert {stage.reasons(name)["Accepted"] for name in ("one", "other")} == {"True Accepted"}
    assert stage.get("VirtualIP", "one")["status"]["addresses"] == ["192.0.2.11/24"]


def test_of_an_exchange_that_is_only_half_acceptable_nothing_is_acted_upon(stage: Stage) -> None:
    stage.get("FailoverDomain", "default")["spec"]["allowedAddresses"] = ["192.0.2.0/24"]
    stage.touch(stage.get("FailoverDomain", "default"))
    stage.virtual_ip("one", "192.0.2.10/24")
    stage.virtual_ip("other", "192.0.2.11/24")
    stage.settle()
    edit(stage, "192.0.2.11/24", name="one")
    edit(stage, "192.0.2.10/24", "198.51.100.1", name="other")
    for name, address in (("one", "192.0.2.10/24"), ("other", "192.0.2.11/24")):
        assert stage.get("VirtualIP", name)["status"]["addresses"] == [address]
        assert stage.reasons(name)["Accepted"] == "True Accepted"
        assert stage.reasons(name)["Stalled"] == "True InvalidSpec"
    edit(stage, "192.0.2.10/24", name="other")
    assert stage.get("VirtualIP", "one")["status"]["addresses"] == ["192.0.2.11/24"]
    assert stage.get("VirtualIP", "other")["status"]["addresses"] == ["192.0.2.10/24"]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        pytest.param("192.0.2.11/24", "192.0.2.11 belongs to VirtualIP 'other'", id="taken"),
        pytest.param("198.51.100.1", "198.51.100.1 outside `allowedAddresses`", id="outside"),
        pytest.param("192.0.2.300", "spec.addresses: '192.0.2.300'", id="no address"),
    ],
)
def test_an_edit_that_is_not_acceptable_takes_nothing_out_of_force(
    stage: Stage, address: str, told: str
) -> None:
    stage.get("FailoverDomain", "default")["spec"]["allowedAddresses"] = ["192.0.2.0/24"]
    stage.touch(stage.get("FailoverDomain", "default"))
    stage.virtual_ip("other", "192.0.2.11/24")
    web_owned_by_a(stage)
    before = copy.deepcopy(stage.get("VirtualIP", "web")["status"])
    status = edit(stage, "192.0.2.10/24", address)
    assert status["observedGeneration"] == 2
    for part in ("addresses", "election", "candidates", "effective", "owner", "term"):
        assert status[part] == before[part]
    assert "retiredAddresses" not in status
    accepted = stage.condition("VirtualIP", "web", "Accepted")
    assert accepted in before["conditions"]
    assert stage.reasons("web") == {
        "Ready": "False InvalidSpec",
        "Accepted": "True Accepted",
        "Owned": "True Owned",
        "Bound": "True Bound",
        "Redundant": "True StandbyAvailable",
        "Conflict": "False NoConflict",
        "Stalled": "True InvalidSpec",
    }
    message = stage.condition("VirtualIP", "web", "Stalled")["message"]
    assert message.startswith("generation 2 is not acted upon, and what was before goes on: ")
    assert told in message
    assert stage.tellings.count("web InvalidSpec") == 1
    stage.virtual_ip("thief")
    own(stage, "node-b", 2)
    assert stage.reasons("thief")["Accepted"] == "False AddressConflict"
    assert stage.get("VirtualIP", "web")["status"]["owner"] == "node-b", "it fails over as well"
    edit(stage, "192.0.2.10/24", "192.0.2.12")
    assert stage.condition("VirtualIP", "web", "Accepted")["observedGeneration"] == 3
    assert stage.get("VirtualIP", "web")["status"]["addresses"] == ["192.0.2.10/24", "192.0.2.12"]
    assert "Stalled" not in stage.reasons("web")
    assert order(stage)[2] == 2


def test_an_edit_is_acted_upon_once_nothing_is_in_its_way(stage: Stage) -> None:
    stage.virtual_ip("other", "192.0.2.11/24")
    web_owned_by_a(stage)
    assert edit(stage, "192.0.2.10/24", "192.0.2.11")["addresses"] == ["192.0.2.10/24"]
    edit(stage, "192.0.2.12/24", name="other")
    assert stage.get("VirtualIP", "web")["status"]["addresses"] == ["192.0.2.10/24", "192.0.2.11"]
    assert stage.condition("VirtualIP", "web", "Accepted")["observedGeneration"] == 2
    assert stage.get("VirtualIP", "web")["status"]["inForce"]["generation"] == 2


BAD_EDITS = [
    pytest.param({"addresses": ["192.0.2.300"]}, id="refused"),
    pytest.param({"failback": {"policy": "SomethingNewer"}}, id="unreadable"),
    pytest.param({"addresses": 5}, id="unreadable addresses"),
    pytest.param({"addresses": [], "domain": {}}, id="unreadable domain"),
]


def rewrite(stage: Stage, **spec: object) -> None:
    """Edit `web` in any way."""
    obj = stage.get("VirtualIP", "web")
    obj["spec"] = {**obj["spec"], **spec}
    obj["metadata"]["generation"] += 1
    stage.touch(obj)
    stage.settle()


@pytest.mark.parametrize("bad", BAD_EDITS)
def test_it_is_elected_by_the_spec_that_is_in_force_while_an_edit_is_held_back(
    stage: Stage, bad: Object
) -> None:
    web = stage.virtual_ip("web", candidates=[{"nodeName": name} for name in ("node-a", "node-b")])
    stage.converge(owners={"web": ("node-a", 1)})
    in_force = {"generation": 1, "spec": copy.deepcopy(web["spec"])}
    assert web["status"]["inForce"] == in_force
    rewrite(stage, candidates=[{"nodeName": "node-c"}], suspend=True, **bad)
    assert order(stage) == ("node-a", ["node-b"], 1)
    assert stage.reasons("web")["Stalled"] == "True InvalidSpec"
    assert stage.condition("VirtualIP", "web", "Accepted")["observedGeneration"] == 1
    own(stage, "node-a", 1, unfit={"node-b": "CheckFailed"})
    assert stage.reasons("web")["Redundant"] == "False NoStandby"
    own(stage, "node-a", 1)
    move(stage, "to-b", "node-b")
    assert order(stage)[0] == "node-b", "a move goes on as well"
    own(stage, "node-b", 2)
    assert stage.condition("Switchover", "to-b", "Complete")["status"] == "True"
    assert web["status"]["inForce"] == in_force
    stage.virtual_ip("thief")
    own(stage, "node-b", 2)
    assert stage.reasons("thief")["Accepted"] == "False AddressConflict"
    web["spec"] = {"addresses": ["192.0.2.10/24"], "candidates": [{"nodeName": "node-c"}]}
    rewrite(stage)
    assert web["status"]["inForce"] == {"generation": 3, "spec": web["spec"]}
    assert order(stage)[0] == "node-c"


@pytest.mark.parametrize("bad", BAD_EDITS)
def test_where_nobody_knows_what_was_accepted_the_standing_order_stands(stage: Stage, bad: Object) -> None:
    web_owned_by_a(stage)
    web = stage.get("VirtualIP", "web")
    del web["status"]["inForce"]
    rewrite(stage, **bad)
    before = copy.deepcopy(web["status"])
    move(stage, "to-b", "node-b")
    own(stage, "node-a", 1, unfit={"node-b": "CheckFailed", "node-c": "CheckFailed"})
    assert "conditions" not in stage.get("Switchover", "to-b")["status"], "a move waits"
    assert web["status"] == before
    assert web["status"]["addresses"] == ["192.0.2.10/24"]
    stage.virtual_ip("thief")
    own(stage, "node-a", 1)
    assert stage.reasons("thief")["Accepted"] == "False AddressConflict"


def test_a_spec_that_is_in_force_and_only_a_newer_version_can_read_is_never_written_over(
    stage: Stage,
) -> None:
    web_owned_by_a(stage)
    web = stage.get("VirtualIP", "web")
    web["status"]["inForce"]["spec"]["onQuorumLoss"] = "SomethingNewer"
    before = copy.deepcopy(web["status"])
    rewrite(stage, addresses=["192.0.2.300"])
    own(stage, "node-b", 2)
    assert web["status"] == before
    assert stage.last is not None
    assert [(each.kind, each.name) for each in stage.last.problems] == [("VirtualIP", "web")]


def test_a_good_edit_comes_into_force_also_where_what_was_can_be_read_by_a_newer_version_only(
    stage: Stage,
) -> None:
    web_owned_by_a(stage)
    web = stage.get("VirtualIP", "web")
    web["status"]["inForce"]["spec"]["onQuorumLoss"] = "SomethingNewer"
    rewrite(stage, candidates=[{"nodeName": "node-b"}])
    assert web["status"]["inForce"] == {"generation": 2, "spec": web["spec"]}
    assert order(stage)[0] == "node-b"


def test_the_deletion_of_what_only_a_newer_version_can_read_is_told(stage: Stage) -> None:
    web_owned_by_a(stage)
    web = stage.get("VirtualIP", "web")
    web["status"]["inForce"]["spec"]["onQuorumLoss"] = "SomethingNewer"
    web["metadata"]["generation"] += 1
    stage.delete("VirtualIP", "web")
    own(stage, "node-a", 1)
    assert stage.reasons("web")["Reconciling"] == "True Releasing"


@pytest.mark.parametrize("bad", BAD_EDITS)
def test_a_wiped_list_of_addresses_lets_none_go_while_an_edit_is_held_back(stage: Stage, bad: Object) -> None:
    web_owned_by_a(stage)
    web = stage.get("VirtualIP", "web")
    del web["status"]["addresses"]
    rewrite(stage, **bad)
    assert web["status"]["addresses"] == ["192.0.2.10/24"]
    assert stage.condition("VirtualIP", "web", "Accepted")["observedGeneration"] == 1
    stage.virtual_ip("thief")
    own(stage, "node-a", 1)
    assert stage.reasons("thief")["Accepted"] == "False AddressConflict"


def test_a_spec_that_is_too_large_is_not_kept_twice(stage: Stage) -> None:
    web_owned_by_a(stage)
    checks = [{"name": f"check-{n}", "exec": {"hook": "x", "args": ["y" * 9000]}} for n in range(30)]
    rewrite(stage, healthChecks=checks)
    assert stage.condition("VirtualIP", "web", "Accepted")["observedGeneration"] == 2
    assert "inForce" not in stage.get("VirtualIP", "web")["status"]


def test_a_range_that_was_narrowed_takes_the_address_away_also_while_an_edit_is_held_back(
    stage: Stage,
) -> None:
    stage.virtual_ip("other", "192.0.2.11/24")
    web_owned_by_a(stage)
    edit(stage, "192.0.2.10/24", "192.0.2.11")
    respec(stage, allowedAddresses=["198.51.100.0/24"])
    assert stage.reasons("web")["Accepted"] == "False AddressNotAllowed"
    assert stage.reasons("web")["Stalled"] == "True AddressNotAllowed"
    assert "addresses" not in stage.get("VirtualIP", "web")["status"]


def test_a_deleted_object_keeps_what_it_has_whatever_its_last_edit_named(stage: Stage) -> None:
    stage.now_s += 1
    stage.virtual_ip("other", "192.0.2.11/24")
    stage.now_s -= 1
    web_owned_by_a(stage)
    edit(stage, "192.0.2.10/24", "192.0.2.11")
    stage.get("VirtualIP", "web")["metadata"]["generation"] += 1
    stage.delete("VirtualIP", "web")
    stage.virtual_ip("heir")
    stage.settle()
    assert stage.get("VirtualIP", "web")["status"]["addresses"] == ["192.0.2.10/24"]
    assert stage.reasons("web")["Reconciling"] == "True Releasing"
    assert stage.reasons("other")["Accepted"] == "True Accepted"
    assert stage.reasons("heir")["Accepted"] == "False AddressConflict"
    stage.report()
    stage.settle()
    assert ("VirtualIP", "web") not in stage.objects
    assert stage.reasons("heir")["Accepted"] == "True Accepted"


def test_a_range_that_was_narrowed_takes_the_address_away(stage: Stage) -> None:
    web_owned_by_a(stage)
    domain = stage.get("FailoverDomain", "default")
    domain["spec"]["allowedAddresses"] = ["198.51.100.0/24"]
    stage.version += 1
    domain["metadata"]["resourceVersion"] = str(stage.version)
    stage.settle()
    assert stage.reasons("web")["Accepted"] == "False AddressNotAllowed"
    assert "election" not in stage.get("VirtualIP", "web")["status"]


def test_an_object_for_a_newer_version_keeps_what_it_has(stage: Stage) -> None:
    web_owned_by_a(stage)
    before = stage.get("VirtualIP", "web")["status"]["election"]
    web = stage.get("VirtualIP", "web")
    web["spec"]["onQuorumLoss"] = "SomethingNewer"
    web["metadata"] |= {"generation": 2, "resourceVersion": str(stage.version + 1)}
    stage.version += 1
    stage.virtual_ip("thief")
    stage.settle()
    assert stage.get("VirtualIP", "web")["status"]["election"] == before
    assert stage.reasons("web")["Stalled"] == "True InvalidSpec"
    assert "onQuorumLoss" in stage.condition("VirtualIP", "web", "Stalled")["message"]
    assert stage.reasons("thief")["Accepted"] == "False AddressConflict"


def test_a_deleted_object_waits_for_its_owner_and_goes(stage: Stage) -> None:
    web_owned_by_a(stage)
    stage.virtual_ip("heir")
    stage.delete("VirtualIP", "web")
    stage.settle()
    assert stage.reasons("web")["Reconciling"] == "True Releasing"
    assert stage.reasons("heir")["Accepted"] == "False AddressConflict", "the address is not free yet"
    stage.report()
    stage.settle()
    assert ("VirtualIP", "web") not in stage.objects
    assert stage.reasons("heir")["Accepted"] == "True Accepted"


def test_what_an_owner_says_alone_does_not_release_a_deleted_object(stage: Stage) -> None:
    """Another node, which missed the deletion and cannot say so, may have the address by now."""
    web_owned_by_a(stage)
    stage.delete("VirtualIP", "web")
    for node in ("node-a", "node-b", "node-c"):
        stage.words[node] = {"tombstones": []}
    stage.report()
    stage.settle()
    assert stage.reasons("web")["Reconciling"] == "True Releasing"


def test_a_deleted_object_without_a_majority_of_witnesses_stays(stage: Stage) -> None:
    web_owned_by_a(stage)
    stage.delete("VirtualIP", "web")
    stage.report(alive={"node-b"})
    stage.delete("VIPNode", "node-c")
    stage.delete("VIPNode", "node-a")
    stage.settle()
    assert stage.reasons("web")["Stalled"] == "True OwnerUnreachable"
    stage.report()
    stage.settle()
    assert ("VirtualIP", "web") not in stage.objects


def test_a_majority_of_the_witnesses_buries_what_its_owner_cannot_release(stage: Stage) -> None:
    web_owned_by_a(stage)
    uid = stage.get("VirtualIP", "web")["metadata"]["uid"]
    stage.delete("VirtualIP", "web")
    stage.words["node-c"] = {"tombstones": []}
    stage.report(alive={"node-b", "node-c"})
    stage.settle()
    assert ("VirtualIP", "web") in stage.objects, "one witness is no majority"
    stage.words["node-c"] = {"tombstones": ["another", uid]}
    stage.report(alive={"node-b", "node-c"})
    stage.settle()
    assert ("VirtualIP", "web") not in stage.objects


def test_an_address_that_was_edited_away_is_kept_from_other_domains_until_it_is_buried(stage: Stage) -> None:
    web_owned_by_a(stage)
    stage.put("FailoverDomain", "second", {"allowedAddresses": ["192.0.2.0/24"]})
    web = stage.get("VirtualIP", "web")
    [old] = web["status"]["addresses"]
    web["spec"]["addresses"] = ["192.0.2.99/24"]
    web["metadata"]["generation"] = 2
    stage.touch(web)
    heir = stage.virtual_ip("heir", domain="second")
    stage.look()
    assert "finalizers" not in heir["metadata"], "what was in force is kept in the first look, too"
    stage.settle()
    assert web["status"]["addresses"] == ["192.0.2.99/24"]
    assert web["status"]["retiredAddresses"] == [{"address": "192.0.2.10", "generation": 2}]
    assert stage.reasons("heir")["Accepted"] == "False AddressConflict"
    stage.virtual_ip("neighbour", old)
    stage.settle()
    assert stage.reasons("neighbour")["Accepted"] == "True Accepted", "the witnesses of one domain lock it"
    stage.delete("VirtualIP", "neighbour")
    for node in ("node-a", "node-b"):
        stage.words[node] = {"tombstones": [f"{web['metadata']['uid']}/192.0.2.10/2"]}
    stage.report()
    stage.settle()
    assert not web["status"].get("retiredAddresses")


def edit(stage: Stage, *addresses: str, name: str = "web") -> Object:
    web = stage.get("VirtualIP", name)
    web["spec"] = {**web["spec"], "addresses": list(addresses)}
    web["metadata"]["generation"] += 1
    stage.touch(web)
    stage.settle()
    status: Object = web["status"]
    return status


def test_an_old_tombstone_does_not_bury_an_address_that_came_back(stage: Stage) -> None:
    web_owned_by_a(stage)
    uid = stage.get("VirtualIP", "web")["metadata"]["uid"]
    edit(stage, "192.0.2.11/24")
    for node in ("node-a", "node-b"):
        stage.words[node] = {"tombstones": [f"{uid}/192.0.2.10/2"]}
    stage.report()
    stage.settle()
    assert "retiredAddresses" not in edit(stage, "192.0.2.10/24", "192.0.2.11")
    retired = edit(stage, "192.0.2.12/24")["retiredAddresses"]
    assert retired == [{"address": ip, "generation": 4} for ip in ("192.0.2.10", "192.0.2.11")]


def test_an_address_that_goes_twice_without_an_edit_is_retired_under_two_numbers(stage: Stage) -> None:
    web_owned_by_a(stage)
    uid = stage.get("VirtualIP", "web")["metadata"]["uid"]

    def allow(network: str) -> Object:
        domain = stage.get("FailoverDomain", "default")
        domain["spec"]["allowedAddresses"] = [network]
        stage.touch(domain)
        stage.settle()
        status: Object = stage.get("VirtualIP", "web")["status"]
        return status

    assert allow("198.51.100.0/24")["retiredAddresses"] == [{"address": "192.0.2.10", "generation": 1}]
    stage.words["node-a"] = {"tombstones": [f"{uid}/192.0.2.10/1"]}
    stage.report()
    assert "retiredAddresses" not in allow("192.0.2.0/24")
    assert allow("198.51.100.0/24")["retiredAddresses"] == [{"address": "192.0.2.10", "generation": 2}]


def test_another_prefix_length_retires_nothing(stage: Stage) -> None:
    web_owned_by_a(stage)
    status = edit(stage, "192.0.2.10/25")
    assert status["addresses"] == ["192.0.2.10/25"]
    assert "retiredAddresses" not in status


def test_a_domain_is_kept_before_its_witnesses_are_told(stage: Stage) -> None:
    stage.put("FailoverDomain", "second", {})
    stage.report()
    while "finalizers" not in stage.get("FailoverDomain", "second")["metadata"]:
        assert "epoch" not in stage.get("FailoverDomain", "second")["status"]
        stage.look()
    stage.settle()
    assert stage.get("FailoverDomain", "second")["metadata"]["finalizers"] == ["vipkeeper.io/release"]
    assert stage.get("FailoverDomain", "second")["status"]["epoch"] == 1


def test_a_deleted_domain_works_on_until_its_last_virtual_ip_is_gone(stage: Stage) -> None:
    web_owned_by_a(stage)
    stage.put("FailoverDomain", "second", {})
    stage.report(owners={"web": ("node-a", 1)})
    stage.settle()
    stage.delete("FailoverDomain", "default")
    stage.virtual_ip("heir", domain="second")
    stage.virtual_ip("late", "192.0.2.11/24")
    stage.settle()
    told = stage.condition("FailoverDomain", "default", "Reconciling")
    assert told["reason"] == "InUse"
    assert told["message"].endswith("until they are gone: late, web")
    assert stage.reasons("late")["Accepted"] == "False DomainDeleting"
    assert stage.reasons("heir")["Accepted"] == "False AddressConflict"
    own(stage, "node-b", 2, alive={"node-b", "node-c"})
    assert order(stage) == ("node-b", ["node-c"], 2)
    stage.delete("VirtualIP", "late")
    stage.delete("VirtualIP", "web")
    stage.settle()
    assert ("FailoverDomain", "default") in stage.objects, "web is not buried yet"
    assert stage.condition("FailoverDomain", "default", "Reconciling")["message"].endswith(": web")
    stage.report()
    stage.settle()
    assert ("VirtualIP", "web") not in stage.objects
    assert ("FailoverDomain", "default") not in stage.objects
    assert stage.reasons("heir")["Accepted"] == "True Accepted"


def test_a_domain_taken_away_by_force_buries_nothing(stage: Stage) -> None:
    web_owned_by_a(stage)
    stage.put("FailoverDomain", "second", {})
    del stage.objects["FailoverDomain", "default"]
    stage.virtual_ip("heir", domain="second")
    stage.settle()
    assert stage.get("VirtualIP", "web")["status"]["retiredAddresses"]
    stage.delete("VirtualIP", "web")
    stage.report()
    stage.settle()
    assert stage.reasons("web")["Stalled"] == "True OwnerUnreachable"
    assert stage.reasons("heir")["Accepted"] == "False AddressConflict"


def test_of_a_wiped_domain_nothing_is_decided_before_its_witnesses_are_told_again(stage: Stage) -> None:
    web_owned_by_a(stage)
    domain = stage.get("FailoverDomain", "default")
    domain["status"] = {"observedGeneration": -1}
    stage.touch(domain)
    stage.delete("VirtualIP", "web")
    for node in ("node-a", "node-b", "node-c"):
        stage.words[node] = {"tombstones": []}
    stage.report(alive={"node-c"})
    before = stage.get("VirtualIP", "web")["status"]
    stage.look()
    assert domain["status"]["epoch"] == 1
    assert stage.get("VirtualIP", "web")["status"] == before
    stage.settle()
    assert stage.reasons("web")["Reconciling"] == "True Releasing"


def test_of_two_nodes_the_living_one_and_the_api_server_bury_nothing() -> None:
    stage = Stage()
    stage.agents("node-a", "node-b")
    stage.settle()
    stage.pass_time(10)
    stage.virtual_ip("web")
    stage.settle()
    own(stage, "node-b", 1)
    stage.delete("VirtualIP", "web")
    stage.words = {"node-a": {"voteTransitions": 1}, "node-b": {"tombstones": []}}
    stage.report(alive={"node-a"})
    stage.settle()
    assert stage.condition("FailoverDomain", "default", "Quorate")["status"] == "True"
    assert stage.reasons("web")["Stalled"] == "True OwnerUnreachable"
    del stage.words["node-b"]
    stage.report()
    stage.settle()
    assert ("VirtualIP", "web") not in stage.objects


def hold(stage: Stage, *nodes: str) -> None:
    """A VirtualIP with `onQuorumLoss: Hold` and these candidates; none means those of the domain."""
    candidates = {"candidates": [{"nodeName": node} for node in nodes]} if nodes else {}
    stage.virtual_ip("web", onQuorumLoss="Hold", **candidates)
    stage.settle()


def test_hold_is_accepted_with_exactly_two_candidates(stage: Stage) -> None:
    hold(stage, "node-a", "node-b")
    assert stage.reasons("web")["Accepted"] == "True Accepted"
    assert stage.get("VirtualIP", "web")["status"]["effective"]["onQuorumLoss"] == "Hold"


def test_hold_with_three_candidates_is_refused_with_a_remedy(stage: Stage) -> None:
    hold(stage)
    assert stage.reasons("web")["Accepted"] == "False HoldNeedsTwoCandidates"
    assert stage.reasons("web")["Stalled"] == "True HoldNeedsTwoCandidates"
    message = stage.condition("VirtualIP", "web", "Accepted")["message"]
    assert "3 nodes are (node-a, node-b, node-c): name two" in message


def test_hold_is_void_and_no_outage_when_a_third_node_joins() -> None:
    stage = Stage()
    stage.agents("node-a", "node-b")
    stage.settle()
    stage.pass_time(10)
    hold(stage)
    assert stage.reasons("web")["Accepted"] == "True Accepted"
    stage.put("Node", "node-c")
    stage.settle()
    assert stage.reasons("web")["Accepted"] == "True HoldNeedsTwoCandidates"
    assert "not in force" in stage.condition("VirtualIP", "web", "Accepted")["message"]
    assert stage.get("VirtualIP", "web")["status"]["effective"]["onQuorumLoss"] == "Release"
    stage.report(alive={"node-a"})
    for node in ("node-b", "node-c"):
        stage.objects.pop(("VIPNode", node), None)
    stage.settle()
    assert stage.reasons("default", "FailoverDomain")["Quorate"] == "False QuorumLost"
    assert "Hold" not in stage.condition("FailoverDomain", "default", "Quorate")["message"]
    assert "Hold" not in stage.condition("VirtualIP", "web", "Owned")["message"]


def test_a_domain_without_a_quorum_does_not_tell_of_an_address_that_is_not_accepted() -> None:
    stage = Stage()
    stage.agents("node-a", "node-b")
    stage.settle()
    stage.pass_time(10)
    hold(stage)
    stage.virtual_ip("other", onQuorumLoss="Hold")
    stage.report(alive={"node-a"})
    stage.delete("VIPNode", "node-b")
    stage.settle()
    assert stage.reasons("other")["Accepted"] == "False AddressConflict"
    told = stage.condition("FailoverDomain", "default", "Quorate")["message"]
    assert "those of web stay" in told


def test_what_hold_is_of_a_domain_that_nobody_can_read_stands(stage: Stage) -> None:
    hold(stage, "node-a", "node-b")
    stage.get("FailoverDomain", "default")["spec"]["profile"] = "SomethingNewer"
    stage.touch(stage.get("FailoverDomain", "default"))
    stage.settle()
    assert stage.get("VirtualIP", "web")["status"]["effective"]["onQuorumLoss"] == "Hold"
    stage.report(alive={"node-a"})
    stage.delete("VIPNode", "node-b")
    stage.settle()
    told = stage.condition("FailoverDomain", "default", "Quorate")["message"]
    assert "`onQuorumLoss: Hold` those of web stay" in told


def test_an_interface_that_no_candidate_can_use_is_told_as_what_to_correct(stage: Stage) -> None:
    unfit = dict.fromkeys(("node-a", "node-b", "node-c"), "NoInterface")
    stage.virtual_ip("web", interface="eth9")
    stage.virtual_ip("db", "192.0.2.11/24")
    stage.converge(unfit=unfit)
    assert stage.reasons("web")["Stalled"] == "True NoInterface"
    message = stage.condition("VirtualIP", "web", "Stalled")["message"]
    assert "no candidate can use the interface 'eth9': correct `spec.interface`, or leave it out" in message
    assert "prefix" not in message
    assert stage.reasons("db")["Stalled"] == "True NoSubnet"
    stage.converge()
    assert "Stalled" not in stage.reasons("web")


def test_a_domain_without_a_quorum_says_what_hold_does(stage: Stage) -> None:
    hold(stage, "node-a", "node-b")
    stage.report(alive={"node-a"})
    stage.delete("VIPNode", "node-b")
    stage.settle()
    told = stage.condition("FailoverDomain", "default", "Quorate")["message"]
    assert "`onQuorumLoss: Hold` those of web stay with a candidate that hears no other witness" in told
    assert "onQuorumLoss: Hold" in stage.condition("VirtualIP", "web", "Owned")["message"]


def test_who_does_not_reach_its_gateway_stands_last_and_stays_eligible(stage: Stage) -> None:
    stage.words["node-a"] = stage.words["node-b"] = {"isSound": False}
    web_owned_by_a(stage)
    own(stage, "node-a", 1, scores={"node-b": 200})
    assert order(stage) == ("node-a", ["node-c", "node-b"], 1)
    rows = stage.get("VirtualIP", "web")["status"]["candidates"]
    assert [(row["nodeName"], row["eligible"]) for row in rows] == [
        ("node-c", True),
        ("node-b", True),
        ("node-a", True),
    ]
    assert rows[1]["message"].endswith("it does not reach its gateway")


def test_an_unsound_node_is_never_better_than_a_sound_owner(stage: Stage) -> None:
    stage.words["node-b"] = {"isSound": False}
    web_owned_by_a(stage)
    stage.get("VirtualIP", "web")["spec"]["failback"] = {"policy": "Automatic", "delaySeconds": 0}
    own(stage, "node-a", 1, scores={"node-b": 200})
    stage.pass_time(100)
    assert order(stage)[0] == "node-a"


def test_a_dead_owner_of_an_older_term_holds_no_deletion_up(stage: Stage) -> None:
    web_owned_by_a(stage)
    own(stage, "node-b", 2, alive={"node-b", "node-c"})
    stage.delete("VirtualIP", "web")
    stage.settle()
    stage.report(alive={"node-b", "node-c"})
    stage.settle()
    assert ("VirtualIP", "web") not in stage.objects


def test_a_group_keeps_apart(stage: Stage) -> None:
    for number in range(6):
        stage.virtual_ip(f"vip-{number}", f"192.0.2.{10 + number}/24", spread={"group": "edge"})
    stage.settle()
    stage.report()
    stage.pass_time(5)
    owners = [order(stage, f"vip-{number}")[0] for number in range(6)]
    assert sorted(owners.count(node) for node in ("node-a", "node-b", "node-c")) == [2, 2, 2]


def test_the_addresses_of_a_group_on_one_node_have_different_first_successors(stage: Stage) -> None:
    names = [f"vip-{number}" for number in range(6)]
    for number, name in enumerate(names):
        stage.virtual_ip(name, f"192.0.2.{10 + number}/24", spread={"group": "edge"})
        stage.virtual_ip(f"other-{number}", f"192.0.2.{100 + number}/24")
    stage.settle()
    stage.report(owners=dict.fromkeys(names, ("node-a", 1)))
    stage.pass_time(5)

    def heirs() -> dict[str, str]:
        return {name: order(stage, name)[1][0] for name in names}

    first = heirs()
    assert sorted(first.values()) == ["node-b"] * 3 + ["node-c"] * 3
    stage.virtual_ip("another", "192.0.2.20/24", spread={"group": "other"})
    stage.report(owners=dict.fromkeys(names, ("node-a", 1)) | {"other-1": ("node-b", 7)})
    stage.pass_time(5)
    assert heirs() == first, "another group, or an address of none, is no reason for anything"
    moved = dict.fromkeys(names, ("node-a", 1)) | {"vip-0": (first["vip-0"], 2)}
    stage.report(owners=moved)
    stage.settle()
    loads = Counter(first["vip-0"] if name == "vip-0" else heir for name, heir in heirs().items())
    assert sorted(loads.values()) == [3, 3]
    changed = [name for name in names[1:] if heirs()[name] != first[name]]
    assert len(changed) <= 1


def move(stage: Stage, name: str, to: str, virtual_ip: str = "web") -> None:
    stage.put("Switchover", name, {"virtualIPRef": {"name": virtual_ip}, "to": to})
    stage.settle()


def test_a_move_orders_waits_and_keeps_its_result(stage: Stage) -> None:
    web_owned_by_a(stage)
    move(stage, "to-b", "node-b")
    assert order(stage)[::2] == ("node-b", 1)
    assert stage.reasons("web")["Reconciling"] == "True Moving"
    assert stage.reasons("web")["Ready"] == "True Held"
    own(stage, "node-b", 2)
    assert stage.condition("Switchover", "to-b", "Complete")["status"] == "True"
    assert stage.get("Switchover", "to-b")["status"]["outageMilliseconds"] == 402
    own(stage, "node-c", 3)
    assert stage.condition("Switchover", "to-b", "Complete")["status"] == "True", "a result stays"
    assert "to-b Moved" in stage.tellings


def test_a_move_that_nobody_carries_out_fails_at_its_deadline(stage: Stage) -> None:
    web_owned_by_a(stage)
    move(stage, "to-b", "node-b")
    stage.pass_time(29)
    assert stage.condition("Switchover", "to-b", "Failed")["status"] == "False"
    assert stage.last is not None
    assert stage.last.due is not None
    stage.pass_time(1)
    assert stage.condition("Switchover", "to-b", "Failed")["reason"] == "DeadlineExceeded"
    assert order(stage)[0] == "node-a", "the order goes back to the owner"


def test_a_newer_move_supersedes_an_older_one(stage: Stage) -> None:
    web_owned_by_a(stage)
    move(stage, "to-b", "node-b")
    stage.now_s += 1
    move(stage, "to-c", "node-c")
    assert stage.condition("Switchover", "to-b", "Failed")["reason"] == "Superseded"
    assert order(stage)[0] == "node-c"


def test_a_move_whose_owner_died_on_the_way_to_somebody_else_fails(stage: Stage) -> None:
    web_owned_by_a(stage)
    move(stage, "to-b", "node-b")
    own(stage, "node-c", 2)
    assert stage.condition("Switchover", "to-b", "Failed")["reason"] == "Superseded"
    assert order(stage)[0] == "node-c"


def test_a_new_move_waits_a_moment_for_what_it_names(stage: Stage) -> None:
    move(stage, "early", "node-b")
    assert "conditions" not in stage.get("Switchover", "early")["status"]
    web_owned_by_a(stage)
    own(stage, "node-b", 2)
    assert stage.condition("Switchover", "early", "Complete")["status"] == "True"
    move(stage, "late", "node-b", virtual_ip="nowhere")
    stage.pass_time(5)
    assert stage.condition("Switchover", "late", "Failed")["reason"] == "VirtualIPNotFound"


def test_a_broken_invariant_in_one_object_leaves_its_neighbours_alone(stage: Stage) -> None:
    web_owned_by_a(stage)
    stage.put("VIPNode", "node-z").update(status={"domains": [{"role": "King"}]})
    stage.virtual_ip("db", "192.0.2.11/24")
    stage.settle()
    assert stage.reasons("db")["Accepted"] == "True Accepted"
    assert stage.last is not None
    assert [problem.kind for problem in stage.last.problems] == ["VIPNode"]


def conflict(stage: Stage, node: str, reason: str, *, is_bound: bool) -> None:
    """Let a node that owns the address say that somebody else has it."""
    report = stage.get("VIPNode", node)
    (holding,) = report["status"]["virtualIPs"]
    holding["conflict"] = {"reason": reason, "message": "somebody has it"}
    if not is_bound:
        holding["bound"] = []
    stage.touch(report)
    stage.settle()


@pytest.mark.parametrize("reason", ["ForeignHost", "ForeignVRRP"])
def test_a_foreign_machine_with_the_address_is_told_by_condition_and_event(stage: Stage, reason: str) -> None:
    web_owned_by_a(stage)
    conflict(stage, "node-a", reason, is_bound=True)
    assert stage.reasons("web")["Conflict"] == f"True {reason}"
    assert stage.reasons("web")["Ready"] == "True Held"
    assert stage.condition("VirtualIP", "web", "Conflict")["message"] == "node-a sees that somebody has it"
    assert stage.tellings.count(f"web {reason}") == 1
    own(stage, "node-a", 1)
    assert stage.reasons("web")["Conflict"] == "False NoConflict"


def test_an_owner_that_leaves_the_addresses_to_a_foreign_machine_says_why_they_are_not_bound(
    stage: Stage,
) -> None:
    web_owned_by_a(stage)
    conflict(stage, "node-a", "ForeignHost", is_bound=False)
    told = stage.reasons("web")
    assert (told["Bound"], told["Ready"], told["Owned"]) == (
        "False ForeignHost", "False ForeignHost", "True Owned",
    )  # fmt: skip
    assert order(stage)[0] == "node-a", "another node would meet the same machine"


def test_what_a_former_owner_said_of_a_conflict_is_not_believed(stage: Stage) -> None:
    web_owned_by_a(stage)
    conflict(stage, "node-a", "ForeignHost", is_bound=False)
    own(stage, "node-b", 2, alive={"node-b", "node-c"})
    assert stage.get("VIPNode", "node-a")["status"]["virtualIPs"][0]["conflict"]
    assert stage.reasons("web")["Conflict"] == "False NoConflict"


def test_what_cannot_be_counted_for_the_metrics_keeps_nothing_from_being_decided(stage: Stage) -> None:
    """A node whose labels cannot be compared breaks what looks at them: its domain, and the numbers."""
    web_owned_by_a(stage)
    assert stage.last is not None
    assert stage.last.vitals.holders == {"web": 1}
    world = stage.world()
    node = world.nodes["node-a"]
    unlabelled = msgspec.structs.replace(node.metadata, labels=None)
    broken = {**world.nodes, "node-a": msgspec.structs.replace(node, metadata=unlabelled)}
    zoned = LabelSelector(match_labels={"zone": "1"})
    domain = world.domains["default"]
    spec = msgspec.structs.replace(domain.spec, node_selector=zoned)
    domains = {"default": msgspec.structs.replace(domain, spec=spec)}
    found = reconcile(msgspec.structs.replace(world, nodes=broken, domains=domains), Memory(), stage.moment())
    assert found.vitals == Vitals()
    assert ("World", "vitals") in {(problem.kind, problem.name) for problem in found.problems}


def test_an_owner_that_its_peers_hear_keeps_the_address_when_its_vipnode_is_deleted(stage: Stage) -> None:
    web_owned_by_a(stage)
    del stage.objects["VIPNode", "node-a"]
    stage.pass_time(100)
    assert order(stage)[0] == "node-a"
    assert stage.get("VirtualIP", "web")["status"]["owner"] == "node-a"
    assert "web OwnerUnfit" not in stage.tellings


@pytest.mark.parametrize("lost", [{"node-b"}, {"node-b", "node-c"}, {"node-a", "node-b", "node-c"}])
def test_vipnodes_that_are_deleted_move_nothing(stage: Stage, lost: set[str]) -> None:
    web_owned_by_a(stage)
    for node in lost:
        del stage.objects["VIPNode", node]
    stage.pass_time(100)
    assert order(stage)[0] == "node-a"
    own(stage, "node-a", 1)
    assert stage.reasons("web")["Ready"] == "True Held"


def test_an_owner_that_cannot_say_its_score_is_not_outscored(stage: Stage) -> None:
    check = {"name": "app", "tcpSocket": {"port": 80}, "weight": 20}
    stage.virtual_ip("web", healthChecks=[check], failback={"policy": "Automatic", "delaySeconds": 0})
    stage.settle()
    scores = dict.fromkeys(("node-a", "node-b", "node-c"), 120)
    own(stage, "node-a", 1, scores=scores)
    del stage.objects["VIPNode", "node-a"]
    stage.pass_time(100)
    assert order(stage)[0] == "node-a"


def test_an_owner_that_nobody_hears_and_that_has_no_vipnode_is_no_owner(stage: Stage) -> None:
    web_owned_by_a(stage)
    stage.report(alive={"node-b", "node-c"}, owners={"web": ("node-a", 1)})
    del stage.objects["VIPNode", "node-a"]
    stage.settle()
    assert order(stage)[0] != "node-a"
    assert "web OwnerUnfit" in stage.tellings


def test_a_node_that_holds_nothing_and_has_no_vipnode_is_no_standby(stage: Stage) -> None:
    web_owned_by_a(stage)
    del stage.objects["VIPNode", "node-b"]
    stage.settle()
    assert order(stage) == ("node-a", ["node-c"], 1)
    rows = stage.get("VirtualIP", "web")["status"]["candidates"]
    assert {row["nodeName"]: row["reason"] for row in rows}["node-b"] == "AgentMissing"


def newer(status: Object, what: str) -> None:
    """Make of a VIPNode's status one that only a newer version can read whole."""
    [domain], [holding] = status["domains"], status["virtualIPs"]
    match what:
        case "a fence":
            status["fence"] = "XDP"
        case "a role":
            domain["role"] = "Observer"
        case "a problem":
            status["problems"] = ["in one sentence"]
        case "a result of a check":
            holding["checks"] = [{"name": "app", "result": "Skipped"}]
        case "another holding":
            status["virtualIPs"] = [{**holding, "uid": "another", "state": "Lending"}, holding]
        case "another domain":
            status["domains"] = [{"name": "another", "uid": 7}, domain]


def test_a_witness_whose_peers_cannot_be_read_speaks_against_nobody(stage: Stage) -> None:
    web_owned_by_a(stage)
    report = stage.get("VIPNode", "node-b")
    report["status"]["domains"][0]["reachablePeers"] = [{"name": "node-b"}]
    stage.touch(report)
    stage.pass_time(100)
    assert order(stage)[0] == "node-a"
    assert stage.condition("FailoverDomain", "default", "Quorate")["status"] == "True"


@pytest.mark.parametrize(
    "what",
    ["a fence", "a role", "a problem", "a result of a check", "another holding", "another domain"],
)
def test_reports_of_newer_agents_count_as_far_as_they_can_be_read(stage: Stage, what: str) -> None:
    web_owned_by_a(stage)
    before = copy.deepcopy(stage.get("VirtualIP", "web")["status"])
    for node in ("node-a", "node-b", "node-c"):
        report = stage.get("VIPNode", node)
        newer(report["status"], what)
        stage.touch(report)
    stage.pass_time(100)
    assert stage.get("VirtualIP", "web")["status"] == before
    assert stage.condition("FailoverDomain", "default", "Quorate")["status"] == "True"
    assert stage.last is not None
    assert [problem.kind for problem in stage.last.problems] == ["VIPNode"] * 3


def test_what_cannot_be_read_of_a_holding_is_no_reason_to_move(stage: Stage) -> None:
    web_owned_by_a(stage)
    report = stage.get("VIPNode", "node-a")
    report["status"]["virtualIPs"][0]["fitness"] = "Splendid"
    stage.touch(report)
    stage.pass_time(100)
    assert order(stage)[0] == "node-a"


def respec(stage: Stage, **spec: object) -> None:
    """Give the domain another spec, and let the controller look."""
    domain = stage.get("FailoverDomain", "default")
    domain["spec"] = spec
    domain["metadata"]["generation"] += 1
    stage.touch(domain)
    stage.settle()


def test_a_domain_for_a_newer_version_takes_no_address_away(stage: Stage) -> None:
    web_owned_by_a(stage)
    before = copy.deepcopy(stage.get("VirtualIP", "web")["status"])
    domain = copy.deepcopy(stage.get("FailoverDomain", "default")["status"])
    assert stage.last is not None
    vitals = stage.last.vitals.domains[0]
    respec(stage, profile="Turbo")
    assert stage.get("VirtualIP", "web")["status"] == before
    own(stage, "node-a", 1, unfit={"node-a": "CheckFailed"})
    assert stage.get("VirtualIP", "web")["status"] == before, "nothing is ordered anew"
    told = stage.condition("FailoverDomain", "default", "Stalled")
    assert told["reason"] == "InvalidSpec"
    assert "spec.profile: Invalid enum value 'Turbo'" in told["message"]
    assert stage.reasons("default", "FailoverDomain") == {
        "Ready": "False InvalidSpec",
        "Quorate": "True Quorate",
        "Stalled": "True InvalidSpec",
    }
    after = stage.get("FailoverDomain", "default")["status"]
    assert after["observedGeneration"] == 2
    assert {**after, "conditions": [], "observedGeneration": 1} == {**domain, "conditions": []}
    assert stage.last.vitals.domains[0] == vitals._replace(agents={})
    assert stage.tellings.count("default InvalidSpec") == 1
    respec(stage, profile="Fast")
    own(stage, "node-a", 1, unfit={"node-a": "CheckFailed"})
    assert order(stage)[0] != "node-a"
    assert stage.reasons("default", "FailoverDomain") == {"Ready": "True Quorate", "Quorate": "True Quorate"}


def test_a_domain_for_a_newer_version_takes_no_new_address(stage: Stage) -> None:
    web_owned_by_a(stage)
    respec(stage, profile="Turbo")
    stage.virtual_ip("late", "192.0.2.11/24")
    stage.settle()
    assert stage.reasons("late")["Accepted"] == "False DomainUnreadable"
    message = stage.condition("VirtualIP", "late", "Stalled")["message"]
    assert "spec.profile: Invalid enum value 'Turbo'" in message
    assert "correct it, or" in message
    respec(stage, profile="Fast")
    assert stage.reasons("late")["Accepted"] == "True Accepted"


def test_what_its_witnesses_did_is_told_of_a_domain_for_a_newer_version(stage: Stage) -> None:
    web_owned_by_a(stage)
    respec(stage, profile="Turbo")
    own(stage, "node-b", 2, alive={"node-b", "node-c"})
    status = stage.get("VirtualIP", "web")["status"]
    assert (status["owner"], status["term"]) == ("node-b", 2)
    assert order(stage)[2] == 1, "the order was for the term before, and is void"
    assert stage.reasons("web")["Ready"] == "True Held"
    assert stage.reasons("web")["Redundant"] == "True StandbyAvailable"
    stage.report(alive={"node-b"})
    del stage.objects["VIPNode", "node-a"], stage.objects["VIPNode", "node-c"]
    stage.settle()
    assert stage.reasons("default", "FailoverDomain")["Quorate"] == "False QuorumLost"
    assert stage.reasons("web")["Owned"] == "False DomainNotQuorate"


def test_an_address_that_nobody_owns_says_that_its_domain_cannot_be_read(stage: Stage) -> None:
    stage.virtual_ip("web")
    stage.converge()
    respec(stage, profile="Turbo")
    assert order(stage)[0] is not None
    assert stage.reasons("web")["Stalled"] == "True DomainUnreadable"
    assert stage.reasons("web")["Accepted"] == "True Accepted"


def test_an_edit_is_not_in_force_while_its_domain_cannot_be_read(stage: Stage) -> None:
    web_owned_by_a(stage)
    stage.put("FailoverDomain", "second", {})
    stage.report(owners={"web": ("node-a", 1)})
    respec(stage, profile="Turbo")
    status = edit(stage, "198.51.100.10/24")
    assert status["addresses"] == ["192.0.2.10/24"]
    assert stage.condition("VirtualIP", "web", "Accepted")["observedGeneration"] == 1
    stage.virtual_ip("thief", "192.0.2.10/24", domain="second")
    stage.settle()
    assert stage.reasons("thief")["Accepted"] == "False AddressConflict"


def test_a_hold_that_is_not_in_force_says_so_while_its_domain_cannot_be_read() -> None:
    stage = Stage()
    stage.agents("node-a", "node-b")
    stage.settle()
    stage.pass_time(10)
    hold(stage)
    stage.put("Node", "node-c")
    stage.settle()
    before = copy.deepcopy(stage.get("VirtualIP", "web")["status"])
    respec(stage, profile="Turbo")
    accepted = stage.condition("VirtualIP", "web", "Accepted")
    assert accepted in before["conditions"]
    assert accepted["reason"] == "HoldNeedsTwoCandidates"


def test_a_move_waits_while_its_domain_cannot_be_read(stage: Stage) -> None:
    web_owned_by_a(stage)
    respec(stage, profile="Turbo")
    move(stage, "to-b", "node-b")
    stage.pass_time(100)
    assert "conditions" not in stage.get("Switchover", "to-b")["status"]
    respec(stage, profile="Fast")
    assert order(stage)[0] == "node-b"


def test_a_domain_that_cannot_be_read_goes_after_its_last_virtual_ip(stage: Stage) -> None:
    web_owned_by_a(stage)
    respec(stage, profile="Turbo")
    stage.delete("FailoverDomain", "default")
    stage.settle()
    assert stage.reasons("default", "FailoverDomain")["Reconciling"] == "True InUse"
    stage.delete("VirtualIP", "web")
    stage.report()
    stage.settle()
    assert ("VirtualIP", "web") not in stage.objects
    assert ("FailoverDomain", "default") not in stage.objects


def test_a_domain_s_status_that_only_a_newer_version_can_read_is_never_written_over(stage: Stage) -> None:
    web_owned_by_a(stage)
    domain = stage.get("FailoverDomain", "default")
    domain["status"]["witnesses"] = "by lot"
    stage.touch(domain)
    written = copy.deepcopy((domain["status"], stage.get("VirtualIP", "web")["status"]))
    stage.virtual_ip("late", "192.0.2.11/24")
    stage.delete("VirtualIP", "web")
    stage.settle()
    assert (domain["status"], stage.get("VirtualIP", "web")["status"]) == written
    assert stage.reasons("late")["Accepted"] == "False DomainUnreadable"
    assert stage.last is not None
    assert [problem.kind for problem in stage.last.problems] == ["FailoverDomain"]


def test_a_domain_takes_no_more_virtual_ips_than_the_report_of_a_node_can_tell(stage: Stage) -> None:
    names = [f"vip-{n:04}" for n in range(MOST_VIRTUAL_IPS + 2)]
    for n, name in enumerate(names):
        stage.virtual_ip(name, f"10.0.{n // 250}.{n % 250 + 1}/16")
    stage.virtual_ip("elsewhere", "10.1.0.1/16", domain="second")
    verdicts = judge(stage.world())

    def reason(name: str) -> str:
        return verdicts[stage.get("VirtualIP", name)["metadata"]["uid"]].reason

    assert [name for name in names if reason(name) != "Accepted"] == names[-2:]
    assert reason(names[-1]) == "DomainFull"
    assert reason("elsewhere") == "DomainNotFound"
    told = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""}
    told["lastTransitionTime"] = stage.moment().wall.isoformat()
    for name in names[2:]:
        virtual_ip = stage.get("VirtualIP", name)
        virtual_ip["status"] = {"conditions": [told]}
        stage.touch(virtual_ip)
    verdicts = judge(stage.world())
    assert [name for name in names if reason(name) != "Accepted"] == names[:2], "who is in stays in"
    del stage.objects["VirtualIP", names.pop(5)]
    verdicts = judge(stage.world())
    assert [name for name in names if reason(name) != "Accepted"] == names[1:2]
