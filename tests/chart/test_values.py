"""The chart's values: each is described and used, and a wrong one is told before anything is installed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from chart.rendering import CHART

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chart.rendering import Chart, Object

VALUES = (CHART / "values.yaml").read_text(encoding="utf-8")
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def _places(schema: Object, path: str = "") -> Iterator[tuple[str, Object]]:
    yield path, schema
    for name, each in schema.get("properties", {}).items():
        yield from _places(each, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from _places(schema["items"], f"{path}[]")


SCHEMA_AT = dict(_places(SCHEMA))


def _comments() -> dict[str, str]:
    """Return the descriptions in values.yaml, by what they describe: `# -- ` and the lines after it."""
    found: dict[str, str] = {}
    path: list[str] = []
    text: list[str] = []
    for line in VALUES.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            text = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("# ") and text:
            text.append(stripped.removeprefix("# "))
        elif match := re.match(r"( *)(\w+):", line):
            path[len(match[1]) // 2 :] = [match[2]]
            if text:
                found[".".join(path)] = " ".join(text)
            text = []
        else:
            text = []
    return found


def _value(path: str) -> Any:
    found: Any = yaml.safe_load(VALUES)
    for name in path.split("."):
        found = found[name]
    return found


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_value_is_described_in_both_files_with_the_same_words() -> None:
    comments = _comments()
    described = {path: schema["description"] for path, schema in _places(SCHEMA) if path in comments}
    assert described == comments
    assert all(
        "description" in schema for path, schema in _places(SCHEMA) if path and not path.endswith("[]")
    )


def test_the_schema_has_exactly_the_values_that_there_are() -> None:
    def known(values: Object, path: str = "") -> Iterator[str]:
        for name, each in values.items():
            yield (place := f"{path}.{name}".lstrip("."))
            if isinstance(each, dict) and place not in _comments():
                yield from known(each, place)

    comments = _comments()
    sections = {
        path for path, schema in _places(SCHEMA) if path and "properties" in schema and path not in comments
    }
    inner = {
        path
        for path, _ in _places(SCHEMA)
        if any(path.startswith(f"{each}.") for each in comments) or "[]" in path
    }
    assert {path for path, _ in _places(SCHEMA) if path} - inner - {"global"} == set(
        known(yaml.safe_load(VALUES))
    )
    assert all(not SCHEMA_AT[path].get("additionalProperties", True) for path in sections)


# What is in force at the end, as it stands in what is rendered. Two of these go with others only.
MARKED: dict[str, tuple[Any, str]] = {
    "image.registry": ("marked.example:5000", "marked.example:5000/vipkeeper/controller"),
    "image.tag": ("marked-tag", "marked-tag"),
    "image.pullSecrets": ([{"name": "marked-secret"}], "marked-secret"),
    "image.pullPolicy": ("Never", "imagePullPolicy: Never"),
    "apiServer.host": ("api.marked.example", "api.marked.example"),
    "apiServer.port": (64430, 'value: "64430"'),
    "logLevel": ("WARNING", "--log-level=WARNING"),
    "controller.replicas": (7, "replicas: 7"),
    "controller.resources": ({"requests": {"memory": "771Mi"}}, "771Mi"),
    "controller.nodeSelector": ({"marked/controllers": "yes"}, "marked/controllers"),
    "controller.tolerations": ([{"key": "marked/tolerated", "operator": "Exists"}], "marked/tolerated"),
    "controller.affinity": ({"podAffinity": {"marked-controllers": {}}}, "marked-controllers: {}"),
    "controller.topologySpreadConstraints": ([{"topologyKey": "marked/rack"}], "marked/rack"),
    "controller.priorityClassName": ("marked-controllers", "priorityClassName: marked-controllers"),
    "controller.podAnnotations": ({"marked/annotation": "controller"}, "marked/annotation"),
    "controller.podLabels": ({"marked/label": "controller"}, "marked/label"),
    "controller.terminationGracePeriodSeconds": (3131, "terminationGracePeriodSeconds: 3131"),
    "controller.metrics.port": (19945, "--metrics=[$(POD_IP)]:19945"),
    "controller.health.port": (19955, "--health=[$(POD_IP)]:19955"),
    "controller.notifications.secretName": ("marked-notifications", "marked-notifications"),
    "controller.notifications.key": ("marked.yaml", "marked.yaml"),
    "controller.networkPolicy.metricsFrom": (
        [{"podSelector": {"matchLabels": {"marked": "from"}}}],
        "marked: from",
    ),
    "agent.nodeSelector": ({"marked/agents": "yes"}, "marked/agents"),
    "agent.tolerations": (
        [{"key": "marked/agents-tolerate", "operator": "Exists"}],
        "marked/agents-tolerate",
    ),
    "agent.affinity": ({"podAffinity": {"marked-agents": {}}}, "marked-agents: {}"),
    "agent.priorityClassName": ("marked-agents", "priorityClassName: marked-agents"),
    "agent.podAnnotations": ({"marked/annotation-agent": "x"}, "marked/annotation-agent"),
    "agent.podLabels": ({"marked/label-agent": "x"}, "marked/label-agent"),
    "agent.updateStrategy": ({"type": "OnDelete"}, "OnDelete"),
    "agent.minReadySeconds": (77, "minReadySeconds: 77"),
    "agent.terminationGracePeriodSeconds": (999, "terminationGracePeriodSeconds: 999"),
    "agent.stateDir": ("/marked/state", "/marked/state"),
    "agent.keeper.resources": ({"limits": {"memory": "777Mi"}}, "777Mi"),
    "agent.keeper.metrics.address": ("192.0.2.9", "--metrics=[192.0.2.9]:19946"),
    "agent.keeper.metrics.port": (19946, "--metrics=[192.0.2.9]:19946"),
    "agent.keeper.health.port": (19956, "--health=127.0.0.1:19956"),
    "agent.keeper.seccompProfile": ({"type": "Localhost", "localhostProfile": "marked.json"}, "marked.json"),
    "agent.courier.resources": ({"limits": {"memory": "778Mi"}}, "778Mi"),
    "agent.courier.metrics.address": ("$(NODE_IP)", "--metrics=[$(NODE_IP)]:19947"),
    "agent.courier.metrics.port": (19947, "--metrics=[$(NODE_IP)]:19947"),
    "agent.courier.health.port": (19957, "--health=127.0.0.1:19957"),
    "agent.workloads.hooksConfigMap": ("marked-hooks", "marked-hooks"),
    "agent.workloads.ocfRootHostPath": ("/marked/ocf", "/marked/ocf"),
    "agent.checks.filePaths": (["/marked/files"], "/marked/files"),
    "agent.fence": ("reboot", "--fence=reboot"),
    "agent.keeper.fenceBackend": ("bpf", "--fence-backend=bpf"),
    "agent.staticPod.kubeconfigDir": ("/marked/kubeconfig", "/marked/kubeconfig"),
}

# Switches, and what other tests of this folder look at.
SWITCHES = {
    "fullnameOverride",
    *(f"crds.{each}" for each in ("enabled", "keep")),
    *(f"rbac.{each}" for each in ("create", "aggregateRoles")),
    *(
        f"{image}.{each}"
        for image in ("controller.image", "agent.image")
        for each in ("repository", "tag", "digest")
    ),
    "controller.podDisruptionBudget.enabled",
    *(f"controller.networkPolicy.{each}" for each in ("enabled", "apiServerCIDRs")),
    "agent.keeper.realTime",
    *(f"agent.workloads.{each}" for each in ("enabled", "programs", "hooksHostPath", "mountFolders")),
    *(f"agent.checks.{each}" for each in ("processes", "processPaths")),
    *(f"agent.witnessOnly.{each}" for each in ("enabled", "nodeSelector", "tolerations", "updateStrategy")),
    "agent.staticPod.enabled",
}
ELSEWHERE = ("admission.", "monitoring.", "cleanup.")


def _values_of(marked: dict[str, Any]) -> Object:
    values: Object = {}
    for path, each in marked.items():
        *above, name = path.split(".")
        place = values
        for part in above:
            place = place.setdefault(part, {})
        place[name] = each
    return values


def test_every_value_is_tested_somewhere() -> None:
    leaves = {path for path in _comments() if not path.startswith(ELSEWHERE)}
    assert set(MARKED) | SWITCHES == leaves
    assert all(_value(path) != each for path, (each, _) in MARKED.items())


def test_every_value_reaches_what_is_installed(chart: Chart) -> None:
    values = _values_of({path: each for path, (each, _) in MARKED.items()})
    values["agent"]["staticPod"]["enabled"] = True
    text = chart.template(values | {"crds": {"enabled": False}})
    assert [path for path, (_, mark) in MARKED.items() if mark not in text] == []


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        pytest.param("controler.replicas", 2, "controler", id="a misspelled section"),
        pytest.param("controller.replica", 2, "replica", id="a misspelled value"),
        pytest.param("agent.keeper.resource", {}, "resource", id="a misspelled value three levels down"),
        pytest.param("controller.replicas", 0, "replicas", id="no controller"),
        pytest.param("controller.replicas", "two", "replicas", id="a word for a number"),
        pytest.param("controller.metrics.port", 70000, "port", id="a port that is none"),
        pytest.param("image.pullPolicy", "Sometimes", "pullPolicy", id="a policy that is none"),
        pytest.param("image.pullSecrets", ["pull"], "pullSecrets", id="a Secret without name"),
        pytest.param("controller.image.digest", "sha256:abc", "digest", id="half a digest"),
        pytest.param("controller.image.tag", "v1:2", "tag", id="a tag with a colon"),
        pytest.param("logLevel", "verbose", "logLevel", id="a level that is none"),
        pytest.param("apiServer.host", "https://api.example", "host", id="a URL for a host"),
        pytest.param("agent.stateDir", "var/lib", "stateDir", id="a path that starts nowhere"),
        pytest.param("agent.checks.filePaths", ["/srv/app", "srv"], "filePaths", id="one such path of two"),
        *(
            pytest.param("agent.checks.filePaths", [each], "filePaths", id=f"{each} for files")
            for each in ("/tmp", "/etc", "/run", "/var/lib/vipkeeper", "/var/lib/kubelet/pods")  # noqa: S108
        ),
        *(
            pytest.param(
                "agent.updateStrategy.rollingUpdate.maxUnavailable",
                each,
                "maxUnavailable",
                id=f"{each} at a time",
            )
            for each in (0, "0%", "one")
        ),
        pytest.param("agent.fence", "poweroff", "fence", id="a way that is none"),
        pytest.param("agent.keeper.fenceBackend", "iptables", "fenceBackend", id="a fence that is none"),
        pytest.param(
            "agent.terminationGracePeriodSeconds",
            5,
            "terminationGracePeriodSeconds",
            id="no time to hand over",
        ),
        pytest.param(
            "agent.updateStrategy",
            {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "updateStrategy",
            id="two keepers on a node",
        ),
        pytest.param("agent.keeper.metrics.address", "localhost", "address", id="a name for an address"),
        pytest.param("agent.keeper.resources", {"claims": []}, "resources", id="neither requests nor limits"),
        pytest.param(
            "controller.networkPolicy.apiServerCIDRs", ["192.0.2.1"], "apiServerCIDRs", id="no prefix length"
        ),
        pytest.param("crds.keep", "yes", "keep", id="a word for a switch"),
        pytest.param("agent.witnessOnly.enabled", True, "say which nodes vote", id="witnesses nowhere"),
        pytest.param(
            "agent.workloads.mountFolders", ["/srv"], "agent.workloads.programs", id="mounts without programs"
        ),
    ],
)
def test_a_bad_value_is_refused_by_its_name(chart: Chart, path: str, value: object, word: str) -> None:
    assert word in chart.refusal({"crds": {"enabled": False}} | _values_of({path: value}))


def test_two_places_for_hooks_are_refused(chart: Chart) -> None:
    told = chart.refusal({"agent": {"workloads": {"hooksConfigMap": "hooks", "hooksHostPath": "/etc/hooks"}}})
    assert "two places for the hooks" in told


def test_witnesses_and_an_affinity_of_ones_own_are_refused_together(chart: Chart) -> None:
    agent = {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}},
        "witnessOnly": {"enabled": True, "nodeSelector": {"a": "b"}},
    }
    assert "do not go together" in chart.refusal({"agent": agent})


def test_a_grace_period_for_services_is_explained_where_it_is_set() -> None:
    assert "12 s longer" in _comments()["agent.terminationGracePeriodSeconds"]
