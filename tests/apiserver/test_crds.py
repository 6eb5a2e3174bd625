from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apiserver.definitions import ROOT, definitions, places, schema_of
from apiserver.specs import (
    BAD,
    BAD_CHANGES,
    GOOD,
    GOOD_CHANGES,
    domain,
    failover,
    switchover,
    virtual_ip,
)
from apiserver.spellings import BAD_ADDRESSES, GOOD_ADDRESSES
from lab.api import APPLY, MERGE, Api, RefusedError
from lab.processes import ProcessFailedError
from vipapi import addresses, resources

if TYPE_CHECKING:
    from lab.controlplane import ControlPlane

Object = dict[str, Any]
Attempt = Callable[[Object], Object]
Outcome = TypeVar("Outcome")
V1ALPHA1 = "vipkeeper.io/v1alpha1"
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))


def patch(
    api: Api, obj: Object, *, subresource: str = "", manager: str = "user", force: bool = True
) -> Object:
    """Server-side apply."""
    path = api.path_of(obj["apiVersion"], obj["kind"], name=obj["metadata"]["name"]) + subresource
    query = f"fieldManager={manager}&force={str(force).lower()}&fieldValidation=Strict"
    return api.request("PATCH", f"{path}?{query}", obj, content_type=APPLY)


def status_of(kind: str, status: Object) -> Object:
    return {"apiVersion": V1ALPHA1, "kind": kind, "metadata": {"name": "tried"}, "status": status}


def condition(kind: str, **more: Any) -> Object:
    return {
        "type": kind,
        "status": "True",
        "reason": "Held",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        **more,
    }


@pytest.mark.parametrize("obj", GOOD)
def test_a_good_object_is_accepted_as_it_was_written(attempt: Attempt, obj: Object) -> None:
    assert attempt(obj)["spec"] == obj["spec"], "nothing is defaulted into a spec and nothing pruned from it"


@pytest.mark.parametrize("obj", GOOD)
def test_a_good_object_is_understood(attempt: Attempt, obj: Object) -> None:
    kind = getattr(resources, obj["kind"])
    assert resources.parse(kind, attempt(obj)).metadata.name == "tried"


@pytest.mark.parametrize(("obj", "sentence"), BAD)
def test_a_bad_object_is_refused_with_a_sentence(attempt: Attempt, obj: Object, sentence: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        attempt(obj)
    assert sentence in refusal.value.message


@pytest.mark.parametrize("text", GOOD_ADDRESSES)
def test_a_good_address_is_accepted(attempt: Attempt, text: str) -> None:
    attempt(virtual_ip(addresses=[text]))


@pytest.mark.parametrize(("text", "sentence"), BAD_ADDRESSES)
def test_a_bad_address_is_refused_with_one_sentence(attempt: Attempt, text: str, sentence: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        attempt(virtual_ip(addresses=[text]))
    assert sentence in refusal.value.message
    assert refusal.value.message.count("must ") == sentence.count("must "), "one mistake, one sentence"


def test_every_rule_has_an_object_that_it_refuses() -> None:
    sentences = [case.values[-1] for table in (BAD, BAD_ADDRESSES, BAD_CHANGES) for case in table]
    untried = {
        f"{place.kind}{place.path}: {rule['message']}"
        for place in places()
        for rule in place.schema.get("x-kubernetes-validations", ())
        if not any(str(sentence) in rule["message"] for sentence in sentences)
    }
    assert not untried


ODD_ADDRESSES = st.one_of(
    st.ip_addresses().map(str),
    st.tuples(st.ip_addresses(v=4).map(str), st.integers(0, 34)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    st.tuples(st.ip_addresses(v=6).map(str), st.integers(0, 130)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 32), st.sampled_from([0, -1, 1])).map(
        lambda drawn: _edge_of_a_network(*drawn)
    ),
    st.text(alphabet="0123456789abcdefA:./%", min_size=2, max_size=43),
)


def _edge_of_a_network(number: int, length: int, offset: int) -> str:
    mask = (1 << (32 - length)) - 1
    number = ((number & ~mask) + offset) % 2**32
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0)) + f"/{length}"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=ODD_ADDRESSES)
def test_parser_and_api_server_agree_on_every_address(attempt: Attempt, text: str) -> None:
    try:
        addresses.parse(text)
    except ValueError:
        with pytest.raises(RefusedError):
            attempt(virtual_ip(addresses=[text]))
    else:
        attempt(virtual_ip(addresses=[text]))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_every_example_is_accepted(attempt: Attempt, path: Any) -> None:
    for obj in yaml.safe_load_all(path.read_text()):
        # Kubernetes' own kinds are not ours to check.
        if obj["apiVersion"] == V1ALPHA1:
            assert attempt(obj)["spec"] == obj["spec"]


@pytest.mark.parametrize(("before", "after", "sentence"), BAD_CHANGES)
def test_what_must_not_change_does_not(
    attempt: Attempt, apiserver: ControlPlane, before: Object, after: Object, sentence: str
) -> None:
    attempt(before)
    patch(apiserver.api, before)
    with pytest.raises(RefusedError) as refusal:
        patch(apiserver.api, after)
    assert sentence in refusal.value.message


@pytest.mark.parametrize(("before", "after"), GOOD_CHANGES)
def test_what_may_change_does(
    attempt: Attempt, apiserver: ControlPlane, before: Object, after: Object
) -> None:
    attempt(before)
    patch(apiserver.api, before)
    assert patch(apiserver.api, after)["spec"] == after["spec"]


@pytest.mark.parametrize(
    "obj",
    [
        pytest.param(virtual_ip(), id="VirtualIP"),
        pytest.param(failover(), id="ServiceFailover"),
        pytest.param(domain(), id="FailoverDomain"),
        pytest.param(switchover(), id="Switchover"),
        pytest.param(
            {"apiVersion": V1ALPHA1, "kind": "VIPNode", "metadata": {"name": "tried"}}, id="VIPNode"
        ),
    ],
)
def test_a_fresh_object_is_in_progress_until_someone_has_looked(
    attempt: Attempt, apiserver: ControlPlane, obj: Object
) -> None:
    """kstatus reads `observedGeneration`: Flux and Helm wait while it is behind the generation."""
    attempt(obj)
    fresh = patch(apiserver.api, obj)
    assert fresh["status"] == {"observedGeneration": -1}
    assert fresh["metadata"]["generation"] == 1
    half = patch(
        apiserver.api, status_of(obj["kind"], {"conditions": [condition("Ready")]}), subresource="/status"
    )
    assert half["status"]["observedGeneration"] == -1, "also after a status write that forgot it"


def test_status_and_spec_are_written_apart(attempt: Attempt, apiserver: ControlPlane) -> None:
    api = apiserver.api
    attempt(virtual_ip())
    patch(api, {**virtual_ip(), "status": {"owner": "node-a"}})
    assert "owner" not in api.get(V1ALPHA1, "VirtualIP", "tried")["status"]
    meddling = {
        **status_of("VirtualIP", {"owner": "node-b", "term": 7}),
        "spec": {"addresses": ["192.0.2.99"]},
    }
    path = api.path_of(V1ALPHA1, "VirtualIP", name="tried")
    api.request("PATCH", f"{path}/status", meddling, content_type=MERGE)
    found = api.get(V1ALPHA1, "VirtualIP", "tried")
    assert (found["status"]["owner"], found["status"]["term"]) == ("node-b", 7)
    assert found["spec"] == virtual_ip()["spec"]
    assert found["metadata"]["generation"] == 1


def test_two_managers_each_keep_their_condition(attempt: Attempt, apiserver: ControlPlane) -> None:
    api = apiserver.api
    attempt(virtual_ip())
    patch(api, virtual_ip())
    for manager, kind in (("one", "Ready"), ("two", "Owned")):
        body = status_of("VirtualIP", {"conditions": [condition(kind)]})
        patch(api, body, subresource="/status", manager=manager, force=False)
    found = api.get(V1ALPHA1, "VirtualIP", "tried")
    assert {each["type"] for each in found["status"]["conditions"]} == {"Ready", "Owned"}


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        pytest.param({"phase": "Running"}, "field not declared in schema", id="no-phase"),
        pytest.param({"conditions": [condition("Ready", status="Maybe")]}, "supported values", id="a-status"),
        pytest.param({"conditions": [condition("Ready", reason="no owner")]}, "should match", id="a-reason"),
        pytest.param(
            {"conditions": [{"type": "Ready", "status": "True"}]}, "Required value", id="half-a-condition"
        ),
        pytest.param({"term": -1}, "should be greater than or equal to 0", id="a-negative-term"),
    ],
)
def test_a_bad_status_is_refused(
    attempt: Attempt, apiserver: ControlPlane, status: Object, sentence: str
) -> None:
    attempt(virtual_ip())
    patch(apiserver.api, virtual_ip())
    with pytest.raises(RefusedError) as refusal:
        patch(apiserver.api, status_of("VirtualIP", status), subresource="/status")
    assert sentence in refusal.value.message


def test_an_old_object_survives_a_rule_that_came_later(apiserver: ControlPlane) -> None:
    """An unchanged value that a new rule refuses is tolerated; changing it is not (KEP-4008)."""
    api = apiserver.api
    strict = copy.deepcopy(definitions()["VirtualIP"])
    strict["metadata"] = {"name": "virtualips.ratchet.example"}
    strict["spec"]["group"] = "ratchet.example"
    strict["spec"]["names"].pop("shortNames")
    strict["spec"]["names"].pop("categories")
    loose = copy.deepcopy(strict)
    schema_of(loose)["properties"]["spec"]["properties"]["addresses"]["items"].pop("x-kubernetes-validations")
    api.apply(loose)
    old = {**virtual_ip(addresses=["192.0.2.255/24"]), "apiVersion": "ratchet.example/v1alpha1"}
    patient(lambda: patch(api, old))
    api.apply(strict)
    # Until the server has taken the new rule in, a change is accepted: each attempt is another change.
    bad = ({**old, "spec": {"addresses": [f"192.0.{number}.255/24"]}} for number in itertools.count(3))
    refusal = patient(lambda: _refusal(lambda: patch(api, next(bad))))
    assert "must not be the last address of its prefix" in refusal.message
    stored = api.get("ratchet.example/v1alpha1", "VirtualIP", "tried")["spec"]
    labelled = patch(
        api, {**old, "spec": stored, "metadata": {"name": "tried", "labels": {"touched": "yes"}}}
    )
    assert labelled["metadata"]["labels"] == {"touched": "yes"}
    api.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", "virtualips.ratchet.example")


def _refusal(act: Callable[[], Object]) -> RefusedError:
    try:
        act()
    except RefusedError as refusal:
        return refusal
    raise NotYetError


class NotYetError(Exception):
    """The API server has not noticed yet."""


def patient(act: Callable[[], Outcome]) -> Outcome:
    """Try until the API server has caught up with a definition that was applied a moment ago."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return act()
        except (RefusedError, NotYetError, ProcessFailedError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def test_kubectl_shows_one_line_that_tells_the_story(attempt: Attempt, apiserver: ControlPlane) -> None:
    attempt(virtual_ip())
    for name, owner in (("web", "node-a"), ("db", "node-b")):
        obj = virtual_ip()
        obj["metadata"]["name"] = name
        patch(apiserver.api, obj)
        status = {
            "owner": owner,
            "term": 7,
            "election": {"owner": owner, "succession": ["node-c", "node-d"], "basedOnTerm": 7},
            "conditions": [condition("Ready"), condition("Redundant")],
        }
        body = {**status_of("VirtualIP", status), "metadata": {"name": name}}
        patch(apiserver.api, body, subresource="/status")
    lines = apiserver.kubectl("get", "vip").splitlines()
    assert lines[0].split() == ["NAME", "ADDRESSES", "OWNER", "TERM", "READY", "REDUNDANT", "REASON", "AGE"]
    assert lines[1].split()[:7] == ["db", '["192.0.2.10/24"]', "node-b", "7", "True", "True", "Held"]
    assert '["node-c","node-d"]' in apiserver.kubectl("get", "vip", "-o", "wide")
    selected = apiserver.kubectl("get", "vip", "--field-selector=status.owner=node-a", "-o", "name")
    assert selected.split() == ["virtualip.vipkeeper.io/web"]
    assert "virtualip.vipkeeper.io/web" in apiserver.kubectl("get", "vipkeeper", "-o", "name")


def test_kubectl_shows_where_a_service_runs(attempt: Attempt, apiserver: ControlPlane) -> None:
    attempt(failover())
    patch(apiserver.api, failover())
    running = {
        "name": "app",
        "owner": "node-a",
        "state": "Active",
        "term": 7,
        "since": "2026-01-01T00:00:00Z",
    }
    status = {
        "services": [running],
        "conditions": [condition("Ready"), condition("Degraded", status="False", message="all is well")],
    }
    patch(apiserver.api, status_of("ServiceFailover", status), subresource="/status")
    lines = apiserver.kubectl("get", "sfo").splitlines()
    header = ["NAME", "MODE", "SERVICE", "OWNER", "STATE", "READY", "DEGRADED", "REASON", "AGE"]
    assert lines[0].split() == header
    assert lines[1].split()[1:-1] == ["ActiveStandby", "app", "node-a", "Active", "True", "False", "Held"]
    wide = apiserver.kubectl("get", "sfo", "-o", "wide", "--field-selector=spec.mode=ActiveStandby")
    assert "SINCE" in wide.splitlines()[0]
    assert len(wide.splitlines()) == 2


@pytest.mark.parametrize("kind", ["vip", "sfo", "fod", "swo", "vipn"])
def test_kubectl_explains_every_field(apiserver: ControlPlane, kind: str) -> None:
    told = patient(lambda: apiserver.kubectl("explain", kind, "--recursive"))
    [full] = [
        name
        for name, definition in definitions().items()
        if definition["spec"]["names"]["shortNames"] == [kind]
    ]
    for place in places():
        if place.kind == full and place.name:
            assert f"{place.name}\t" in told, place.path


@pytest.mark.parametrize(
    ("field", "sentences"),
    [
        pytest.param(
            "vip.spec.healthChecks.periodMilliseconds",
            (
                "periodMilliseconds is the time from the start of one probe to the start of the next",
                "in milliseconds. Absent: 1000. Example: 500.",
            ),
            id="VirtualIP",
        ),
        pytest.param(
            "sfo.spec.services.singleton",
            ("singleton says that there must never be two copies", "Absent: true. Example: false."),
            id="ServiceFailover",
        ),
    ],
)
def test_kubectl_explain_reads_like_documentation(
    apiserver: ControlPlane, field: str, sentences: tuple[str, ...]
) -> None:
    told = patient(lambda: apiserver.kubectl("explain", field))
    words = " ".join(told.split())
    for sentence in sentences:
        assert sentence in words
