"""How kstatus (Flux, Helm, kubectl's appliers) and Argo CD read our objects: by their own programs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import yaml

from gitops import argo
from gitops.stories import Case, cases
from vipapi.conditions import ABNORMAL

Object = dict[str, Any]

CASES = [pytest.param(case, id=case.id) for case in cases()]


@pytest.fixture(scope="module")
def kstatus() -> dict[str, str]:
    """What kstatus says of each case, by its id; asked in one go."""
    told = argo.run_kstatus([case.object for case in cases()])
    return {case.id: each["status"] for case, each in zip(cases(), told, strict=True)}


@pytest.fixture(scope="module")
def health() -> dict[str, Object]:
    """What the health checks say of each case, by its id."""
    asked: list[tuple[str, Object, dict[str, str]]] = [
        (argo.script(case.kind, "health.lua"), case.object, {}) for case in cases()
    ]
    return {case.id: each for case, each in zip(cases(), argo.run_lua(asked), strict=True)}


@pytest.mark.parametrize("case", CASES)
def test_kstatus_reads_an_object_as_it_stands(case: Case, kstatus: dict[str, str]) -> None:
    assert kstatus[case.id] == case.kstatus, case.object["status"]


@pytest.mark.parametrize("case", CASES)
def test_argo_cd_reads_an_object_as_it_stands(case: Case, health: dict[str, Object]) -> None:
    told = health[case.id]
    assert "error" not in told
    assert told["result"]["status"] == case.health, case.object["status"]
    assert told["result"]["message"]


def test_kstatus_never_calls_current_what_argo_cd_calls_failed(
    kstatus: dict[str, str], health: dict[str, Object]
) -> None:
    for case in cases():
        argo_says = health[case.id]["result"]["status"]
        assert (kstatus[case.id] == "Current") == (argo_says in {"Healthy", "Suspended"}), case.id
        assert kstatus[case.id] != "Failed" or argo_says == "Degraded", case.id


def test_every_case_is_another_one() -> None:
    assert len({case.id for case in cases()}) == len(cases())
    reasons = {
        condition["reason"]
        for case in cases()
        for condition in case.object["status"].get("conditions", ())
        if condition["type"] in {"Ready", "Complete", *ABNORMAL}
    }
    assert len(reasons) >= 20, "the cases have become alike"


def test_whatever_the_conditions_nothing_stale_is_current() -> None:
    """Also combinations that no case shows: kstatus goes by the statuses, never by a reason."""
    asked: list[Object] = []
    expected = []
    for ready, stalled, reconciling, observed in itertools.product(
        ("True", "False", "Unknown"), (False, True), (False, True), (-1, 1, 2)
    ):
        conditions = [("Ready", ready)]
        conditions += [("Stalled", "True")] * stalled + [("Reconciling", "True")] * reconciling
        listed = [{"type": kind, "status": status, "reason": "Any"} for kind, status in conditions]
        asked.append(
            {
                "apiVersion": "vipkeeper.io/v1alpha1",
                "kind": "VirtualIP",
                "metadata": {"name": "web", "generation": 2},
                "status": {"observedGeneration": observed, "conditions": listed},
            }
        )
        is_current = (ready, stalled, reconciling, observed) == ("True", False, False, 2)
        expected.append(is_current)
    assert [each["status"] == "Current" for each in argo.run_kstatus(asked)] == expected


def test_the_files_for_argo_cd_are_those_of_the_scripts() -> None:
    wanted = argo.generated()
    there = {*argo.SCRIPTS.glob("*/testdata/*.yaml"), *argo.SCRIPTS.glob("*/health_test.yaml"), argo.CONFIG}
    assert there == wanted.keys(), "run `python -m gitops`"
    for path, text in wanted.items():
        assert path.read_text() == text, f"{path.name}: run `python -m gitops`"


def test_what_is_offered_upstream_passes_as_it_stands_there() -> None:
    """Every `health_test.yaml`, run as Argo CD's own tests run it."""
    for kind in argo.KINDS:
        tests = yaml.safe_load((argo.SCRIPTS / kind / "health_test.yaml").read_text())["tests"]
        assert tests
        inputs = [yaml.safe_load((argo.SCRIPTS / kind / each["inputPath"]).read_text()) for each in tests]
        told = argo.run_lua([(argo.script(kind, "health.lua"), each, {}) for each in inputs])
        assert [each["result"] for each in told] == [each["healthStatus"] for each in tests]


def act(action: str, case: Case) -> Any:
    [told] = argo.run_lua([(argo.script("VirtualIP", f"actions/{action}/action.lua"), case.object, {})])
    assert "error" not in told
    return told["result"]


def offered(case: Case) -> set[str]:
    [told] = argo.run_lua([(argo.script("VirtualIP", "actions/discovery.lua"), case.object, {})])
    assert set(told["result"]) == set(argo.actions("VirtualIP")), "every action and no other is discovered"
    return {name for name, about in told["result"].items() if not about["disabled"]}


def case_of(name: str) -> Case:
    return next(case for case in cases() if (case.kind, case.name) == ("VirtualIP", name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fresh", {"suspend"}),
        ("held", {"suspend", "failover", "drill"}),
        ("suspended", {"resume"}),
        ("no-standby", {"suspend"}),
        ("no-domain", {"suspend"}),
    ],
)
def test_what_can_be_done_is_offered(name: str, expected: set[str]) -> None:
    assert offered(case_of(name)) == expected


def test_suspending_and_resuming_give_back_what_was_there() -> None:
    held = case_of("held")
    suspended = act("suspend", held)
    assert suspended["spec"] == {**held.object["spec"], "suspend": True}
    resumed = act("resume", case_of("suspended"))
    assert resumed["spec"] == held.object["spec"], "as a manifest that says nothing of it"


@pytest.mark.parametrize(("action", "kind"), [("failover", None), ("drill", "Drill")])
def test_a_failover_is_a_switchover_to_the_first_standby(action: str, kind: str | None) -> None:
    [made] = act(action, case_of("held"))
    assert made["operation"] == "create"
    spec = {"virtualIPRef": {"name": "web"}, "to": "node-b"} | ({"type": kind} if kind else {})
    assert made["resource"] == {
        "apiVersion": "vipkeeper.io/v1alpha1",
        "kind": "Switchover",
        "metadata": {"name": "web-20260102030405"},
        "spec": spec,
    }
