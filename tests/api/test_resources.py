from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.schema import objections
from api.shapes import shape_of, values_of
from apiserver.definitions import definitions, schema_of
from apiserver.specs import (
    checked,
    domain,
    failover,
    placed,
    probed,
    service,
    switchover,
    verified,
    virtual_ip,
)
from vipapi import bounds, nodestatus, resources
from vipapi.conditions import Condition
from vipapi.configuration import Configuration
from vipapi.resources import (
    FailoverDomain,
    FailoverDomainStatus,
    Node,
    ServiceFailover,
    ServiceFailoverStatus,
    Switchover,
    SwitchoverStatus,
    VIPNode,
    VIPNodeStatus,
    VirtualIP,
    VirtualIPStatus,
    configuration_of,
    node_status,
    parse,
    to_dict,
    with_configuration,
)

KINDS: dict[str, Any] = {
    "VirtualIP": VirtualIP,
    "ServiceFailover": ServiceFailover,
    "FailoverDomain": FailoverDomain,
    "Switchover": Switchover,
    "VIPNode": VIPNode,
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_the_api_has_its_struct(kind: str) -> None:
    assert set(definitions()) == set(KINDS)
    properties = schema_of(definitions()[kind])["properties"]
    fields = {field.encode_name for field in msgspec.structs.fields(KINDS[kind])}
    assert fields == set(properties) - {"apiVersion", "kind"}


@pytest.mark.parametrize("part", ["spec", "status"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_schema_and_struct_have_the_same_fields_types_and_choices(kind: str, part: str) -> None:
    schema = schema_of(definitions()[kind])["properties"].get(part)
    field = {each.name: each for each in msgspec.structs.fields(KINDS[kind])}.get(part)
    assert (schema is None) == (field is None)
    if field is not None:
        shape = shape_of(field.type)
        if (kind, part) == ("ServiceFailover", "spec"):
            # One struct serves both kinds. A check of services that run is always required, and its Pods are
            # those of their own namespace.
            [check] = shape["healthChecks"]
            del check["weight"], check["pods"]["namespace"]
        if part == "status" and "inForce" in shape:
            shape["inForce"]["spec"] = {}
        assert shape == _shape(schema)


def _shape(schema: dict[str, Any]) -> Any:
    """Return the schema in the form that `shape_of` gives a type."""
    match schema["type"]:
        case "object" if "additionalProperties" in schema:
            return {"{}": _shape(schema["additionalProperties"])}
        case "object":
            return {name: _shape(child) for name, child in schema.get("properties", {}).items()}
        case "array":
            return [_shape(schema["items"])]
        case "string" if "enum" in schema:
            return ("string", *sorted(schema["enum"]))
        case "string" if schema.get("format") == "date-time":
            return "date-time"
        case plain:
            return plain


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_the_schema_requires_the_struct_requires(kind: str) -> None:
    spec = schema_of(definitions()[kind])["properties"].get("spec")
    if spec is not None:
        _assert_required(spec, get_type_hints(KINDS[kind])["spec"], ".spec")


def _assert_required(schema: dict[str, Any], struct: Any, path: str) -> None:
    struct = next((each for each in get_args(struct) if each is not type(None)), struct)
    if get_origin(struct) is tuple:
        struct = get_args(struct)[0]
    if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
        return
    schema = schema.get("items", schema)
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    required = {name for name, field in fields.items() if field.required}
    if path == ".spec.healthChecks.pods" and "namespace" in schema["properties"]:
        # A ServiceFailover has a namespace, a VirtualIP has not; one struct serves both.
        required.add("namespace")
    assert required == set(schema.get("required", ())), path
    for name, child in schema["properties"].items():
        _assert_required(child, fields[name].type, f"{path}.{name}")


STATUSES = {
    "VirtualIP": VirtualIPStatus,
    "ServiceFailover": ServiceFailoverStatus,
    "FailoverDomain": FailoverDomainStatus,
    "Switchover": SwitchoverStatus,
    "VIPNode": VIPNodeStatus,
}


@pytest.mark.parametrize("kind", sorted(STATUSES))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_status_that_is_written_fits_the_schema_and_reads_back_the_same(
    kind: str, data: st.DataObject
) -> None:
    status = data.draw(values_of(STATUSES[kind]))
    written = to_dict(status)
    assert objections(written, schema_of(definitions()[kind])["properties"]["status"]) == []
    body = {"metadata": {"name": "x"}, "status": written, "spec": _MINIMAL.get(kind, {})}
    assert parse(KINDS[kind], body).status == status


_MINIMAL = {obj["kind"]: obj["spec"] for obj in (virtual_ip(), failover(), switchover())}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values_of(nodestatus.Report, longest_text=1100))
def test_any_report_fits_the_status_of_its_node(report: nodestatus.Report) -> None:
    written = to_dict(node_status(report, generation=1, conditions=()))
    assert objections(written, schema_of(definitions()["VIPNode"])["properties"]["status"]) == []


def test_a_report_too_long_keeps_what_the_node_holds() -> None:
    holdings = tuple(
        nodestatus.HoldingStatus(
            uid=str(n),
            name=f"vip-{n}",
            state="Owner" if n >= 1490 else "Standby",
            fitness="Fit",
            message="x" * 2000,
        )
        for n in range(1500)
    )
    report = nodestatus.Report(node="a", version="1" * 99, incarnation=1, virtual_ips=holdings)
    fitted = bounds.fit(report)
    assert len(fitted.virtual_ips) == bounds.VIRTUAL_IPS
    assert sum(holding.state == "Owner" for holding in fitted.virtual_ips) == 10
    written = to_dict(node_status(report, generation=1, conditions=()))
    assert objections(written, schema_of(definitions()["VIPNode"])["properties"]["status"]) == []


def test_a_report_too_long_keeps_the_services_that_run() -> None:
    services = tuple(
        nodestatus.ServiceStatus(
            uid=str(n // 16),
            name=f"app-{n % 16}",
            virtual_ip="web",
            state="StopFailed" if n >= 1490 else "Stopped",
            message="x" * 2000,
        )
        for n in range(1500)
    )
    report = nodestatus.Report(node="a", version="1", incarnation=1, services=services)
    fitted = bounds.fit(report)
    assert len(fitted.services) == bounds.SERVICES
    assert sum(service.state == "StopFailed" for service in fitted.services) == 10
    written = to_dict(node_status(report, generation=1, conditions=()))
    assert objections(written, schema_of(definitions()["VIPNode"])["properties"]["status"]) == []


def test_more_checks_of_services_than_a_status_holds_are_told_in_part() -> None:
    checks = tuple(nodestatus.CheckStatus(f"c-{n}", "Failing", "x" * 2000) for n in range(100))
    holding = nodestatus.HoldingStatus("u", "web", "Owner", "Fit", service_checks=checks)
    report = nodestatus.Report(node="a", version="1", incarnation=1, virtual_ips=(holding,))
    (fitted,) = bounds.fit(report).virtual_ips
    assert [each.name for each in fitted.service_checks] == [f"c-{n}" for n in range(64)]
    written = to_dict(node_status(report, generation=1, conditions=()))
    assert objections(written, schema_of(definitions()["VIPNode"])["properties"]["status"]) == []


def test_a_decision_over_more_nodes_than_a_status_holds_is_told_in_part() -> None:
    status = VirtualIPStatus(
        candidates=tuple(
            resources.CandidateStatus(f"node-{n}", eligible=False, reason="CheckFailed", message="x" * 1100)
            for n in range(1100)
        ),
        conditions=(
            Condition("Ready", "False", "NoEligibleNode", "y" * 2000, datetime(2026, 1, 1, tzinfo=UTC)),
        ),
    )
    written = to_dict(status)
    assert objections(written, schema_of(definitions()["VirtualIP"])["properties"]["status"]) == []
    assert written["conditions"][0]["message"] == "y" * 2000


def test_the_limits_are_the_schema_s() -> None:
    vip = schema_of(definitions()["VirtualIP"])["properties"]["status"]["properties"]
    fod = schema_of(definitions()["FailoverDomain"])["properties"]["status"]["properties"]
    node = schema_of(definitions()["VIPNode"])["properties"]["status"]["properties"]
    assert vip["candidates"]["maxItems"] == bounds.NODES
    assert vip["candidates"]["items"]["properties"]["message"]["maxLength"] == bounds.TEXT
    assert vip["election"]["properties"]["succession"]["maxItems"] == bounds.NODES
    assert vip["conditions"]["items"]["properties"]["message"]["maxLength"] == bounds.CONDITION_TEXT
    assert fod["members"]["maxItems"] == bounds.NODES
    assert node["virtualIPs"]["maxItems"] == bounds.VIRTUAL_IPS
    holding = node["virtualIPs"]["items"]["properties"]
    assert holding["checks"]["maxItems"] == bounds.CHECKS
    assert holding["serviceChecks"]["maxItems"] == bounds.SERVICE_CHECKS
    assert node["interfaces"]["maxItems"] == bounds.INTERFACES
    assert node["domains"]["maxItems"] == bounds.DOMAINS
    assert node["services"]["maxItems"] == bounds.SERVICES
    assert node["problems"]["maxItems"] == bounds.PROBLEMS


def named(obj: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {**obj, "metadata": {"name": "web", **metadata}}


@pytest.mark.parametrize(
    ("kind", "obj", "told"),
    [
        pytest.param(
            VirtualIP,
            named(virtual_ip(candidates=[{"nodeName": "a", "priority": "high"}])),
            "VirtualIP web: spec.candidates[0].priority: Expected `int`, got `str`",
            id="type",
        ),
        pytest.param(
            VirtualIP,
            named({"spec": {}}),
            "VirtualIP web: spec: Object missing required field `addresses`",
            id="missing",
        ),
        pytest.param(
            VirtualIP,
            named(virtual_ip(failback={"policy": "Never"})),
            "VirtualIP web: spec.failback.policy: Invalid enum value 'Never'",
            id="choice",
        ),
        pytest.param(
            VirtualIP,
            named(virtual_ip(candidates=[{}])),
            "VirtualIP web: spec.candidates[0]: must have exactly one of `nodeName` and `nodeSelector`",
            id="candidate-union",
        ),
        pytest.param(
            VirtualIP,
            named(checked(tcpSocket=None, dns={"port": 1})),
            "VirtualIP web: spec: the health check `app` must have exactly one probe of a kind known here",
            id="a-probe-of-a-newer-version",
        ),
        pytest.param(
            VirtualIP,
            named(virtual_ip(healthChecks=[{"name": "app", "httpGet": {"port": 1, "bodyRegex": "(?P<a>b"}}])),
            "VirtualIP web: spec: the `bodyRegex` of the health check `app` cannot be used: missing )",
            id="regular-expression",
        ),
        pytest.param(
            VirtualIP,
            named(
                virtual_ip(
                    healthChecks=[{"name": "app", "httpGet": {"port": 1, "bodyRegex": "a{,4294967296}"}}]
                )
            ),
            "the `bodyRegex` of the health check `app` cannot be used: the repetition number is too large",
            id="regular-expression-of-a-number-that-python-has-not",
        ),
        pytest.param(
            VirtualIP,
            named(probed(file={"path": "/a", "contentRegex": "(" * 500 + ")" * 500})),
            "the `contentRegex` of the health check `app` cannot be used: maximum recursion depth",
            id="regular-expression-that-is-too-deep",
        ),
        pytest.param(
            VirtualIP,
            named(probed(file={"path": "/a", "contentRegex": "(?P<a>b"})),
            "VirtualIP web: spec: the `contentRegex` of the health check `app` cannot be used: missing )",
            id="regular-expression-for-a-file",
        ),
        pytest.param(
            VirtualIP,
            named(probed(file={"path": "/a", "contentRegex": "up[[:space:]]*$"})),
            "the `contentRegex` of the health check `app` cannot be used: `[:space:]` is not known in a set: "
            "write \\s, \\d, \\w or the characters",
            id="regular-expression-with-a-named-set",
        ),
        *(
            pytest.param(
                VirtualIP,
                named(probed(file={"path": "/a", "contentRegex": expression})),
                "cannot be used: `[:",
                id=f"regular-expression-{expression}",
            )
            for expression in (
                "[^[:digit:]]",
                "[_[:alnum:]-]+",
                "[][:alpha:]]",
                "[[:^space:]]",
                r"\[[[:upper:]]",
                r"[\]\\[:digit:]]",
            )
        ),
        pytest.param(
            VirtualIP,
            named(probed(pods={"selector": {"matchLabels": {"app": "billing"}}})),
            "VirtualIP web: spec: the health check `app` must name the `namespace` of its `pods`",
            id="pods-of-no-namespace",
        ),
        pytest.param(
            ServiceFailover,
            named(placed({"ocf": {"provider": "p", "type": "t", "parameters": {"a b": ""}}})),
            "spec.services[0].workload.ocf: must have parameters named in letters, digits, `_` and `-`, and",
            id="ocf-parameter",
        ),
        pytest.param(
            ServiceFailover,
            named(failover(service(workload={"container": {"image": "app"}})), namespace="prod"),
            "ServiceFailover prod/web: spec.services[0].workload: must have exactly one of `systemd`, ",
            id="a-workload-of-a-newer-version",
        ),
        pytest.param(
            ServiceFailover,
            named(verified(tcpSocket=None, dns={"port": 1})),
            "ServiceFailover web: spec: the health check `app` must have exactly one probe of a kind known",
            id="a-probe-of-services-of-a-newer-version",
        ),
        pytest.param(
            FailoverDomain,
            named(
                domain(
                    profile="Fast",
                    timing={f"{n}Milliseconds": 1 for n in ("heartbeat", "lease", "grant", "silence")},
                )
            ),
            "FailoverDomain web: spec: must have only one of `profile` and `timing`",
            id="profile-and-timing",
        ),
        pytest.param(Switchover, {"spec": {}}, "Switchover (without a name): ", id="nameless"),
        pytest.param(
            Node, {"metadata": {"name": 7}}, "Node (without a name): metadata.name: Expected `str`", id="node"
        ),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(kind: Any, obj: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        parse(kind, obj)
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    "expression", ["[:space:]", r"\[[:space:]\]", r"[x[\]:a-z:]]", r"[\[:digit:]", "[]:]x:]"]
)
def test_a_set_that_only_looks_like_a_named_one_is_taken(expression: str) -> None:
    parse(VirtualIP, named(probed(file={"path": "/a", "contentRegex": expression})))


def test_what_is_not_known_is_passed_over() -> None:
    metadata = {
        "managedFields": [{"manager": "kubectl"}],
        "annotations": {"a": "b"},
        "ownerReferences": [],
        "selfLink": None,
        "newInKubernetes2": {"deep": [1]},
        "labels": None,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "deletionTimestamp": "2026-01-01T00:00:01Z",
    }
    found = parse(
        VirtualIP, {**named(virtual_ip(newSwitch={"on": True}), **metadata), "status": {"newer": 1}}
    )
    assert found.metadata.labels == {}
    assert found.metadata.creation_timestamp == datetime(2026, 1, 1, tzinfo=UTC)
    assert found.metadata.is_deleting


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["metadata", "name", "spec", "addresses", "status", "conditions"]), inner
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("kind", [*KINDS.values(), Node])
@given(obj=st.dictionaries(st.sampled_from(["metadata", "spec", "status", "kind"]), JSON))
def test_any_json_is_an_object_or_a_value_error(kind: Any, obj: dict[str, Any]) -> None:
    try:
        parse(kind, obj)
    except ValueError as refusal:
        assert str(refusal).startswith(f"{kind.__name__} ")  # noqa: PT017 -- either outcome is right


def test_a_node_is_read_as_the_cluster_gives_it() -> None:
    node = parse(
        Node,
        {
            "metadata": {"name": "node-a", "labels": {"role": "edge"}},
            "spec": {"unschedulable": True, "taints": [{"key": "x", "effect": "NoSchedule"}]},
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": "node-a"},
                    {"type": "InternalIP", "address": "192.0.2.101"},
                    {"type": "InternalIP", "address": "2001:db8::65"},
                ],
                "nodeInfo": {"kernelVersion": "6.18"},
            },
        },
    )
    assert node.is_cordoned
    assert not node.is_out_of_service
    assert node.internal_addresses == ("192.0.2.101", "2001:db8::65")


@pytest.mark.parametrize("effect", ["NoExecute", "NoSchedule"])
def test_a_node_that_somebody_says_is_off_is_out_of_service(effect: str) -> None:
    taint = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": effect}
    other = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
    node = parse(Node, {"metadata": {"name": "node-a"}, "spec": {"taints": [other, taint]}})
    assert node.is_out_of_service
    assert not parse(Node, {"metadata": {"name": "node-a"}, "spec": {"taints": [other]}}).is_out_of_service
    assert not parse(Node, {"metadata": {"name": "node-a"}, "spec": {"taints": None}}).is_out_of_service


def test_an_absent_field_reads_as_its_effective_value() -> None:
    spec = parse(VirtualIP, named(virtual_ip())).spec
    assert (spec.domain, spec.failback.policy, spec.failback.delay_seconds) == ("default", "Manual", 300)
    assert (spec.announcement.count, spec.announcement.refresh_seconds) == (5, 60)
    assert (spec.on_quorum_loss, spec.suspend, spec.candidates) == ("Release", False, ())
    fod = parse(FailoverDomain, named(domain())).spec
    assert (fod.witnesses.count, fod.witnesses.api_server, fod.witnesses.replace_after_seconds) == (
        3,
        True,
        60,
    )
    assert (fod.gateway.probe, fod.gateway.on_unreachable) == ("Auto", "Release")
    assert parse(Switchover, named(switchover())).spec.type == "Move"
    sfo = parse(ServiceFailover, named(failover())).spec
    assert (sfo.failback.policy, sfo.health_checks) == ("Manual", ())
    [app] = sfo.services
    assert (app.after, app.singleton, app.order, app.on_stop_failure) == ((), True, "ServiceFirst", "Block")
    assert (app.start_timeout_seconds, app.stop_timeout_seconds) == (60, 30)
    assert spec.allowed_namespaces is None


def test_the_nodes_of_a_service_are_its_primary_and_then_its_standbys() -> None:
    [app] = parse(ServiceFailover, named(failover(service(standbys=["c", "b"])))).spec.services
    assert app.nodes == ("node-a", "c", "b")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values_of(Configuration), values_of(FailoverDomainStatus))
def test_a_domain_s_status_keeps_a_configuration_as_it_is(
    configuration: Configuration, status: FailoverDomainStatus
) -> None:
    if configuration.former is not None and not configuration.former.names:
        configuration = msgspec.structs.replace(configuration, former=None)
    written = to_dict(with_configuration(status, configuration))
    read = parse(FailoverDomain, {"metadata": {"name": "x"}, "spec": {}, "status": written}).status
    assert configuration_of(read) == configuration
    assert with_configuration(read, configuration_of(status)) == status


@pytest.mark.parametrize(
    ("check", "period", "timeout"),
    [
        pytest.param({}, 1000, 1000, id="nothing-said"),
        pytest.param({"periodMilliseconds": 200}, 200, 200, id="a-short-period-shortens-the-timeout"),
        pytest.param({"periodMilliseconds": 5000}, 5000, 1000, id="a-long-one-does-not-lengthen-it"),
        pytest.param({"periodMilliseconds": 200, "timeoutMilliseconds": 50}, 200, 50, id="both-said"),
    ],
)
def test_a_probe_ends_before_the_next_one_starts(check: dict[str, int], period: int, timeout: int) -> None:
    [found] = parse(VirtualIP, named(checked(**check))).spec.health_checks
    assert (found.period_ms, found.timeout_ms) == (period, timeout)


def test_the_names_of_the_api_stand_in_one_place() -> None:
    for definition in definitions().values():
        assert definition["spec"]["group"] == resources.GROUP
        assert definition["spec"]["versions"][0]["name"] == resources.VERSION
