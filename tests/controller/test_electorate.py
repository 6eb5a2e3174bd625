"""How a domain gets its witnesses and changes them: stories on a stage, told in every way of looking."""

from __future__ import annotations

from typing import Any

import pytest

from controller.stage import Object, Stage, Way
from vipapi.configuration import API_SERVER

WAYS = pytest.mark.parametrize("way", list(Way), ids=lambda way: way.value)
REMEMBERING = pytest.mark.parametrize(
    "way", [Way.PLAIN, Way.REVERSED, Way.DOUBLED], ids=lambda way: way.value
)


def cast(way: Way, *nodes: str, **spec: Any) -> Stage:
    """A domain whose witnesses took office."""
    stage = Stage(way=way)
    stage.agents(*nodes, **spec)
    stage.settle()
    stage.pass_time(10)
    stage.converge()
    return stage


def status(stage: Stage) -> Object:
    found: Object = stage.get("FailoverDomain", "default")["status"]
    return found


def quorate(stage: Stage) -> Object:
    return stage.condition("FailoverDomain", "default", "Quorate")


@WAYS
def test_enough_nodes_are_witnesses_at_once(way: Way) -> None:
    stage = Stage(way=way)
    stage.agents("node-a", "node-b", "node-c")
    stage.settle()
    assert stage.witnesses() == {"node-a", "node-b", "node-c"}
    assert status(stage)["epoch"] == 1


@WAYS
@pytest.mark.parametrize(
    ("nodes", "spec", "witnesses"),
    [
        pytest.param(["node-a", "node-b"], {}, {"node-a", "node-b", API_SERVER}, id="two"),
        pytest.param(["node-a"], {}, {"node-a"}, id="one"),
        pytest.param(["node-a", "node-b", "node-c", "node-d"], {"witnesses": {"count": 5}}, 3, id="four"),
        pytest.param(["node-a", "node-b"], {"witnesses": {"apiServer": False}}, 1, id="no-api-server"),
    ],
)
def test_fewer_nodes_are_witnesses_after_ten_seconds(
    way: Way, nodes: list[str], spec: Object, witnesses: set[str] | int
) -> None:
    stage = Stage(way=way)
    stage.agents(*nodes, **spec)
    stage.settle()
    stage.pass_time(9)
    assert stage.witnesses() == set()
    assert stage.last is not None
    assert stage.last.due == 10
    stage.pass_time(1)
    found = stage.witnesses()
    assert found == witnesses if isinstance(witnesses, set) else len(found) == witnesses
    stage.converge()
    assert quorate(stage)["status"] == "True"


def test_a_sole_witness_is_told_with_what_would_help() -> None:
    stage = cast(Way.PLAIN, "node-a", "node-b", witnesses={"apiServer": False})
    assert "3 are wanted" in quorate(stage)["message"]
    assert "witnesses.apiServer" in quorate(stage)["message"]
    assert "is an outage" in quorate(stage)["message"]


@WAYS
def test_a_third_node_takes_the_place_of_the_api_server_step_by_step(way: Way) -> None:
    stage = cast(way, "node-a", "node-b")
    assert stage.witnesses() == {"node-a", "node-b", API_SERVER}
    stage.put("Node", "node-c")
    steps = []
    for _ in range(6):
        stage.report()
        stage.look()
        found = status(stage)
        steps.append((found["epoch"], "formerWitnesses" in found, found.get("sealing", False)))
        assert quorate(stage)["status"] == "True"
    assert list(dict.fromkeys(steps)) == [(2, True, False), (3, True, True), (4, False, False)]
    assert stage.witnesses() == {"node-a", "node-b", "node-c"}
    assert [each for each in stage.tellings if "Witnesses" in each] == [
        "default WitnessesChosen",
        "default WitnessesChanging",
        "default WitnessesChanged",
    ]


@REMEMBERING
def test_a_silent_witness_is_replaced_after_its_time(way: Way) -> None:
    stage = cast(way, "node-a", "node-b", "node-c", "node-d", witnesses={"replaceAfterSeconds": 30})
    dead = min(stage.witnesses())
    [spare] = {"node-a", "node-b", "node-c", "node-d"} - stage.witnesses()
    alive = {"node-a", "node-b", "node-c", "node-d"} - {dead}
    stage.converge(alive=alive)
    stage.now_s += 29
    stage.converge(alive=alive)
    assert dead in stage.witnesses()
    assert stage.last is not None
    assert stage.last.due == stage.now_s + 1
    stage.now_s += 1
    stage.converge(alive=alive)
    assert stage.witnesses() == alive
    assert spare in stage.witnesses()
    assert status(stage)["epoch"] == 4
    assert "default WitnessReplaced" in stage.tellings
    stage.now_s += 1000
    stage.converge()
    assert status(stage)["epoch"] == 4, "who comes back is a spare"


@REMEMBERING
def test_a_witness_that_is_heard_now_and_then_stays(way: Way) -> None:
    stage = cast(way, "node-a", "node-b", "node-c", "node-d", witnesses={"replaceAfterSeconds": 30})
    before = stage.witnesses()
    shaky = min(before)
    for _ in range(4):
        stage.converge(alive={"node-a", "node-b", "node-c", "node-d"} - {shaky})
        stage.now_s += 29
        stage.converge()
        stage.now_s += 29
    assert stage.witnesses() == before


def test_nobody_is_silent_while_no_majority_is_there_to_hear() -> None:
    stage = cast(Way.PLAIN, "node-a", "node-b", "node-c", "node-d")
    before = stage.witnesses()
    first, second, third = sorted(before)
    [spare] = {"node-a", "node-b", "node-c", "node-d"} - before
    for node in (second, third):
        stage.delete("VIPNode", node)
    stage.converge(alive={first, spare})
    stage.now_s += 1000
    stage.converge(alive={first, second, spare})
    assert stage.witnesses() == before, f"{third} has a minute from here on"
    stage.now_s += 60
    stage.converge(alive={first, second, spare})
    assert stage.witnesses() == {first, second, spare}


def test_a_controller_that_restarted_counts_the_silence_anew() -> None:
    stage = cast(Way.PLAIN, "node-a", "node-b", "node-c", "node-d")
    dead = min(stage.witnesses())
    alive = {"node-a", "node-b", "node-c", "node-d"} - {dead}
    stage.converge(alive=alive)
    stage.now_s += 59
    stage.way = Way.REBUILT
    stage.look()
    stage.way = Way.PLAIN
    stage.now_s += 59
    stage.converge(alive=alive)
    assert dead in stage.witnesses()
    stage.now_s += 1
    stage.converge(alive=alive)
    assert dead not in stage.witnesses()


@REMEMBERING
def test_of_three_without_a_fourth_the_dead_one_is_replaced_by_the_api_server(way: Way) -> None:
    stage = cast(way, "node-a", "node-b", "node-c")
    stage.converge(alive={"node-a", "node-b"})
    stage.now_s += 60
    stage.converge(alive={"node-a", "node-b"})
    assert stage.witnesses() == {"node-a", "node-b", API_SERVER}
    stage.converge()
    assert stage.witnesses() == {"node-a", "node-b", "node-c"}, "and back"


@WAYS
def test_a_witness_whose_node_is_removed_is_replaced_at_once(way: Way) -> None:
    stage = cast(way, "node-a", "node-b", "node-c", "node-d")
    gone = min(stage.witnesses())
    stage.delete("Node", gone)
    stage.delete("VIPNode", gone)
    stage.converge()
    assert stage.witnesses() == {"node-a", "node-b", "node-c", "node-d"} - {gone}
    assert "default WitnessReplaced" in stage.tellings


@WAYS
def test_another_count_and_another_selector_are_followed(way: Way) -> None:
    nodes = [f"node-{letter}" for letter in "abcde"]
    stage = cast(way, *nodes)
    respec(stage, witnesses={"count": 5})
    stage.converge()
    assert stage.witnesses() == set(nodes)
    for node in nodes[:4]:
        stage.get("Node", node)["metadata"]["labels"] = {"role": "edge"}
        stage.get("Node", node)["metadata"]["resourceVersion"] += "0"
    respec(stage, witnesses={"nodeSelector": {"matchLabels": {"role": "edge"}}})
    stage.converge()
    assert len(stage.witnesses()) == 3
    assert stage.witnesses() < set(nodes[:4])


def respec(stage: Stage, **spec: Any) -> None:
    domain = stage.get("FailoverDomain", "default")
    domain["spec"] = spec
    domain["metadata"]["generation"] += 1
    stage.touch(domain)


def test_a_change_does_not_start_without_the_present_quorum() -> None:
    stage = cast(Way.PLAIN, "node-a", "node-b", "node-c")
    for node in ("node-d", "node-e"):
        stage.put("Node", node)
    stage.converge(alive={"node-a", "node-d", "node-e"})
    stage.delete("VIPNode", "node-b")
    stage.delete("VIPNode", "node-c")
    stage.now_s += 1000
    stage.converge(alive={"node-a", "node-d", "node-e"})
    assert status(stage)["epoch"] == 1
    assert quorate(stage)["reason"] == "QuorumLost"


@WAYS
def test_a_change_waits_for_who_is_behind_and_says_for_whom(way: Way) -> None:
    stage = cast(way, "node-a", "node-b")
    stage.put("Node", "node-c")
    stage.words["node-b"] = {"behind": ["node-c"]}
    for _ in range(4):
        stage.report()
        stage.settle()
    assert status(stage)["epoch"] == 1
    told = stage.condition("FailoverDomain", "default", "Reconciling")
    assert told["reason"] == "WitnessesChanging"
    assert "waiting for node-c to take over epoch 1" in told["message"]
    assert stage.condition("FailoverDomain", "default", "Ready")["status"] == "True"
    stage.words.clear()
    stage.converge()
    assert status(stage)["epoch"] == 4
    assert stage.condition("FailoverDomain", "default", "Reconciling") == {}


def test_a_new_witness_that_dies_on_the_way_is_replaced_on_the_way() -> None:
    stage = cast(Way.PLAIN, "node-a", witnesses={"replaceAfterSeconds": 5})
    stage.put("Node", "node-b")
    stage.put("Node", "node-c")
    stage.words["node-c"] = {"configuration": {}}
    stage.words["node-b"] = {"configuration": {}}
    stage.report()
    stage.settle()
    assert status(stage)["epoch"] == 2
    assert (
        "node-b or node-c to report epoch 2"
        in stage.condition("FailoverDomain", "default", "Reconciling")["message"]
    )
    stage.words.clear()
    living = {"node-a", "node-b"}
    stage.report(alive=living)
    stage.words["node-b"] = {"configuration": {}}
    stage.report(alive=living)
    stage.settle()
    stage.now_s += 5
    stage.settle()
    assert status(stage)["epoch"] == 3
    assert stage.witnesses() == {"node-a", "node-b", API_SERVER}
    stage.words.clear()
    stage.converge(alive=living)
    assert "formerWitnesses" not in status(stage)


def wipe(stage: Stage, to: Object | None = None) -> None:
    """Let a backup of etcd bring an old status back, or somebody wipe it."""
    domain = stage.get("FailoverDomain", "default")
    domain["status"] = to or {"observedGeneration": -1}
    stage.touch(domain)


@WAYS
def test_a_wiped_status_is_taken_from_the_keepers(way: Way) -> None:
    stage = cast(way, "node-a", "node-b", "node-c", "node-d")
    before = status(stage)
    wipe(stage)
    stage.settle()
    assert {key: status(stage)[key] for key in ("epoch", "configHash", "witnesses")} == {
        key: before[key] for key in ("epoch", "configHash", "witnesses")
    }
    assert "default WitnessesAdopted" in stage.tellings
    stage.converge()
    assert quorate(stage)["status"] == "True"


@WAYS
def test_a_status_from_before_a_change_is_taken_from_the_keepers(way: Way) -> None:
    stage = cast(way, "node-a", "node-b")
    old = status(stage)
    stage.put("Node", "node-c")
    stage.converge()
    new = status(stage)
    wipe(stage, old)
    stage.settle()
    assert (status(stage)["epoch"], status(stage)["configHash"]) == (4, new["configHash"])


@WAYS
def test_without_a_majority_nothing_is_chosen_anew(way: Way) -> None:
    stage = cast(way, "node-a", "node-b", "node-c")
    stage.delete("VIPNode", "node-b")
    stage.delete("VIPNode", "node-c")
    for node in ("node-d", "node-e", "node-f"):
        stage.put("Node", node)
        stage.put("VIPNode", node)["status"] = fresh(stage, node)
    wipe(stage)
    stage.settle()
    stage.pass_time(1000)
    assert "epoch" not in status(stage)
    assert stage.condition("FailoverDomain", "default", "Stalled")["reason"] == "QuorumLost"


def fresh(stage: Stage, node: str) -> Object:
    """The report of a keeper that has just started with an empty disk."""
    uid = stage.get("FailoverDomain", "default")["metadata"]["uid"]
    about = {
        "name": "default",
        "uid": uid,
        "role": "Member",
        "heartbeatAddress": f"198.51.100.{ord(node[-1])}",
    }
    return {"version": "test", "incarnation": 1, "domains": [about], "virtualIPs": []}


@WAYS
def test_another_content_of_the_same_epoch_is_a_conflict(way: Way) -> None:
    stage = cast(way, "node-a", "node-b", "node-c")
    found = dict(stage.get("VIPNode", "node-b")["status"]["domains"][0]["configuration"], hash="other")
    stage.words["node-b"] = {"configuration": found}
    stage.put("Node", "node-d")
    stage.converge()
    told = stage.condition("FailoverDomain", "default", "Stalled")
    assert told["reason"] == "EpochConflict"
    assert "node-b run another witness configuration" in told["message"]
    assert stage.tellings.count("default EpochConflict") == 1
    assert quorate(stage)["status"] == "True"
    stage.words.clear()
    stage.converge()
    assert stage.condition("FailoverDomain", "default", "Stalled") == {}


@WAYS
def test_a_witness_at_another_address_is_replaced_at_once_and_comes_back_later(way: Way) -> None:
    stage = cast(way, "node-a", "node-b", "node-c", "node-d")
    moved = min(stage.witnesses())
    before = {each["nodeName"]: each["address"] for each in status(stage)["members"]}
    stage.homes[moved] = "198.51.100.200"
    stage.report()
    stage.look()
    assert moved not in stage.witnesses()
    found = {each["nodeName"]: each["address"] for each in status(stage)["members"]}
    assert found == before, "its peers know the witness of the configuration"
    stage.converge()
    assert status(stage)["epoch"] == 4
    assert "default WitnessReplaced" in stage.tellings
    found = {each["nodeName"]: each["address"] for each in status(stage)["members"]}
    assert found == before | {moved: "198.51.100.200"}
    stage.delete("Node", min(stage.witnesses()))
    stage.converge()
    assert moved in stage.witnesses()


@WAYS
def test_a_witness_at_another_address_whose_place_nobody_can_take_is_told(way: Way) -> None:
    stage = cast(way, "node-a", "node-b", witnesses={"apiServer": True})
    before = status(stage)["configHash"]
    stage.homes["node-a"] = "198.51.100.200"
    stage.words["node-b"] = {"voteTransitions": 1}
    stage.converge()
    told = stage.condition("FailoverDomain", "default", "Stalled")
    assert told["reason"] == "WitnessAddressChanged"
    assert "reports as the witness node-a (now 198.51.100.200)" in told["message"]
    assert status(stage)["configHash"] == before
    stage.get("Node", "node-b")["metadata"] |= {"labels": {"role": "edge"}, "resourceVersion": "b"}
    respec(stage, witnesses={"nodeSelector": {"matchLabels": {"role": "edge"}}})
    stage.converge()
    assert stage.witnesses() == {"node-b"}, "as the message advises"
    respec(stage)
    stage.words.clear()
    stage.converge()
    assert stage.witnesses() == {"node-a", "node-b", API_SERVER}
    assert stage.condition("FailoverDomain", "default", "Stalled") == {}


def test_witnesses_that_all_have_new_addresses_are_told() -> None:
    stage = cast(Way.PLAIN, "node-a")
    stage.homes["node-a"] = "198.51.100.200"
    stage.put("Node", "node-b")
    stage.converge()
    told = stage.condition("FailoverDomain", "default", "Stalled")
    assert told["reason"] == "WitnessAddressChanged"
    assert "--subresource=status" in told["message"]


@WAYS
def test_a_member_that_is_heard_stays_one_without_its_vipnode(way: Way) -> None:
    """Peers that are not told of it would not answer it, and it would lose what it holds."""
    stage = cast(way, "node-a", "node-b", "node-c", "node-d")
    before = status(stage)["members"]
    [other] = {"node-a", "node-b", "node-c", "node-d"} - stage.witnesses()
    del stage.objects["VIPNode", other]
    stage.settle()
    assert status(stage)["members"] == before
    stage.report(alive=stage.witnesses())
    stage.settle()
    assert {each["nodeName"] for each in status(stage)["members"]} == stage.witnesses()


@WAYS
def test_a_member_without_its_vipnode_is_not_made_a_witness(way: Way) -> None:
    stage = cast(way, "node-a", "node-b", "node-c", "node-d")
    before = stage.witnesses()
    [other] = {"node-a", "node-b", "node-c", "node-d"} - before
    del stage.objects["VIPNode", other]
    stage.delete("Node", min(before))
    stage.settle()
    assert other not in stage.witnesses()
