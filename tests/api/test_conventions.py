"""The API conventions that these CRDs keep, held line by line.

After kube-api-linter, which reads Go types only, and Kubernetes' own API conventions.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from apiserver.definitions import Place, definitions, places, schema_of

KINDS = sorted(definitions())
PLACES = places()
FIELDS = [place for place in PLACES if place.name]
OF_A_USER = [place for place in FIELDS if place.is_spec and place.path != ".spec"]
IDS = [f"{place.kind}{place.path}" for place in PLACES]
RULES = [
    pytest.param(place, rule, id=f"{place.kind}{place.path}-{number}")
    for place in PLACES
    for number, rule in enumerate(place.schema.get("x-kubernetes-validations", ()))
]
SHORT_NAMES = {
    "VirtualIP": "vip",
    "ServiceFailover": "sfo",
    "FailoverDomain": "fod",
    "Switchover": "swo",
    "VIPNode": "vipn",
}


def version_of(kind: str) -> dict[str, Any]:
    [version] = definitions()[kind]["spec"]["versions"]
    found: dict[str, Any] = version
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_named_and_served_as_the_others_are(kind: str) -> None:
    definition = definitions()[kind]
    names = definition["spec"]["names"]
    assert definition["spec"]["group"] == "vipkeeper.io"
    assert definition["spec"]["scope"] == ("Namespaced" if kind == "ServiceFailover" else "Cluster")
    assert definition["metadata"]["name"] == f"{names['plural']}.vipkeeper.io"
    assert (names["singular"], names["listKind"]) == (kind.lower(), f"{kind}List")
    assert names["shortNames"] == [SHORT_NAMES[kind]]
    assert names["categories"] == ["vipkeeper"]
    assert re.fullmatch(
        r"v\d+\.\d+\.\d+", definition["metadata"]["annotations"]["vipkeeper.io/bundle-version"]
    )
    version = version_of(kind)
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert version["subresources"] == {"status": {}}, "no scale: an address has no replicas"


@pytest.mark.parametrize("kind", KINDS)
def test_a_definition_fits_into_an_annotation(kind: str) -> None:
    """`kubectl apply` without `--server-side` keeps the whole object in one."""
    assert len(json.dumps(definitions()[kind])) < 262144


@pytest.mark.parametrize("kind", KINDS)
def test_the_columns_end_with_the_age_and_tell_readiness(kind: str) -> None:
    columns = version_of(kind)["additionalPrinterColumns"]
    assert columns[-1]["jsonPath"] == ".metadata.creationTimestamp"
    narrow = [column for column in columns if not column.get("priority")]
    assert any(".status.conditions" in column["jsonPath"] for column in narrow)
    assert len(columns) > len(narrow)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_object_says_that_nobody_has_looked(kind: str) -> None:
    status = schema_of(definitions()[kind])["properties"]["status"]
    assert status["default"] == {}
    assert status["properties"]["observedGeneration"]["default"] == -1
    assert "phase" not in status["properties"]


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_are_those_of_every_kubernetes_api(kind: str) -> None:
    conditions = schema_of(definitions()[kind])["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert conditions["maxItems"] >= 8
    item = conditions["items"]
    assert set(item["required"]) == {"type", "status", "reason", "message", "lastTransitionTime"}
    assert set(item["properties"]) == {*item["required"], "observedGeneration"}
    assert item["properties"]["status"]["enum"] == ["True", "False", "Unknown"]


@pytest.mark.parametrize("kind", KINDS)
def test_only_paths_that_exist_are_shown_and_selected(kind: str) -> None:
    known = {place.path.replace("[]", "") for place in PLACES if place.kind == kind}
    version = version_of(kind)
    columns = [column["jsonPath"] for column in version["additionalPrinterColumns"][:-1]]
    fields = [field["jsonPath"] for field in version.get("selectableFields", ())]
    assert len(fields) <= 8
    for path in columns + fields:
        assert re.sub(r"\[[^]]*\]", "", path) in known


@pytest.mark.parametrize("place", PLACES, ids=IDS)
def test_every_value_is_described_and_bounded(place: Place) -> None:
    schema = place.schema
    assert schema.get("description"), "kubectl explain would say nothing"
    match schema["type"]:
        case "string":
            assert "enum" in schema or "maxLength" in schema
        case "integer":
            assert schema["format"] in {"int32", "int64"}
            assert schema["minimum"] <= schema["maximum"]
        case "array":
            assert "maxItems" in schema
            assert schema["x-kubernetes-list-type"] in {"atomic", "set", "map"}
        case "object" if place.path == ".status.inForce.spec":
            assert schema["x-kubernetes-preserve-unknown-fields"], "a spec, and it was checked as one"
            return
        case "object":
            assert ("properties" in schema) != ("additionalProperties" in schema)
            assert "properties" in schema or "maxProperties" in schema
        case kind:
            assert kind == "boolean"
    forbidden = {"nullable", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string"}
    assert not forbidden & set(schema)


@pytest.mark.parametrize("place", PLACES, ids=IDS)
def test_there_are_no_maps_of_objects(place: Place) -> None:
    assert place.schema.get("additionalProperties", {}).get("type") != "object"


@pytest.mark.parametrize("place", FIELDS, ids=[f"{place.kind}{place.path}" for place in FIELDS])
def test_a_description_begins_with_the_field_s_name(place: Place) -> None:
    assert re.fullmatch(r"[a-z][A-Za-z0-9]*", place.name)
    description = place.schema["description"]
    assert description.startswith(f"{place.name} ")
    assert description.endswith(".")
    if place.name.endswith(("Milliseconds", "Seconds")):
        unit = "milliseconds" if place.name.endswith("Milliseconds") else "seconds"
        assert f"in {unit}" in description or "in force" in description
    for unit_elsewhere in ("Ms", "Secs", "Millis"):
        assert not place.name.endswith(unit_elsewhere)


@pytest.mark.parametrize("place", OF_A_USER, ids=[f"{place.kind}{place.path}" for place in OF_A_USER])
def test_what_a_user_writes_has_an_example_and_what_may_be_absent_says_what_then_holds(place: Place) -> None:
    description = place.schema["description"]
    assert "Example: " in description
    assert ("Absent: " in description) != place.is_required


@pytest.mark.parametrize("place", PLACES, ids=IDS)
def test_nothing_is_defaulted_but_the_observed_generation(place: Place) -> None:
    if "default" in place.schema:
        assert place.path in {".status", ".status.observedGeneration"}


@pytest.mark.parametrize(("place", "rule"), RULES)
def test_a_rule_refuses_with_a_sentence_at_the_right_field(place: Place, rule: dict[str, Any]) -> None:
    message = rule["message"]
    assert message.startswith("must "), "the API server writes the field's name before it"
    assert not message.endswith(".")
    assert not re.search(r"\b(should|may not|cannot be|<=|>=|at least|at most)\b", message)
    assert rule["reason"] in {"FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"}, (
        "with FieldValueDuplicate the API server would not show the message"
    )
    path = rule.get("fieldPath")
    if path is not None:
        schema = place.schema
        for name in path.removeprefix(".").split("."):
            schema = schema["properties"][name]
    elif place.schema["type"] == "object" and "oldSelf" not in rule["rule"]:
        assert "exactly one of" in message, "a rule over several fields names the one to change"


def test_booleans_are_few_and_chosen() -> None:
    assert {place.path for place in PLACES if place.schema["type"] == "boolean"} == {
        ".spec.services[].singleton",
        ".spec.suspend",
        ".spec.witnesses.apiServer",
        ".status.apiServerVotes",
        ".status.candidates[].eligible",
        ".status.domains[].configuration.former.hasApiVote",
        ".status.domains[].configuration.isSealing",
        ".status.domains[].configuration.witnesses.hasApiVote",
        ".status.domains[].isSound",
        ".status.effective.apiServerMayVote",
        ".status.formerApiServerVotes",
        ".status.sealing",
        ".status.services[].hook.isOk",
        ".status.services[].hooks[].isOk",
    }
