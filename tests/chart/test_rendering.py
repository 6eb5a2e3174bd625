"""What the chart installs: names, labels, images, switches; and that it is the same every time."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from chart.rendering import CHART, container, read, strings
from vipapi import __version__

if TYPE_CHECKING:
    from chart.rendering import Chart, Object, Rendering

ROOT = CHART.parents[1]
WORKLOADS = ("Deployment", "DaemonSet")
WITNESSES: Object = {
    "enabled": True,
    "nodeSelector": {"rack": "a", "votes": "only"},
    "tolerations": [{"key": "x"}],
}
NOTIFIED = {"controller": {"notifications": {"secretName": "told"}}}
MOST: Object = {
    "controller": {"notifications": {"secretName": "told"}},
    "agent": {
        "witnessOnly": WITNESSES,
        "staticPod": {"enabled": True},
        "workloads": {"hooksConfigMap": "hooks"},
    },
}
CLUSTER_WIDE = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


def test_everything_is_of_one_version() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert about["version"] == about["appVersion"] == __version__
    images = yaml.safe_load(about["annotations"]["artifacthub.io/images"])
    assert [each["image"] for each in images] == [
        f"vipkeeper/controller:{__version__}",
        f"vipkeeper/node-agent:{__version__}",
    ]


def test_the_chart_tells_of_every_kind_that_it_brings() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    told = {each["name"] for each in yaml.safe_load(about["annotations"]["artifacthub.io/crds"])}
    definitions = [
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / "crds").glob("*.yaml")
    ]
    assert told == {each["metadata"]["name"] for each in definitions}


def test_the_documented_release_has_the_documented_names(chart: Chart) -> None:
    assert {
        ("Deployment", "vipkeeper-controller"),
        ("ServiceAccount", "vipkeeper-controller"),
        ("ServiceAccount", "vipkeeper-courier"),
        ("ClusterRole", "vipkeeper-controller"),
        ("ClusterRole", "vipkeeper-courier"),
        ("Role", "vipkeeper-controller"),
        ("Role", "vipkeeper-courier"),
        ("DaemonSet", "vipkeeper-agent"),
        ("DaemonSet", "vipkeeper-agent-witness"),
        ("ConfigMap", "vipkeeper-agent-static-pod"),
    } <= chart.render(MOST).names()


@pytest.mark.parametrize(
    ("release", "values", "prefix"),
    [
        pytest.param("edge", {}, "edge-vipkeeper", id="another release"),
        pytest.param("my-vipkeeper", {}, "my-vipkeeper", id="one that names the chart"),
        pytest.param("edge", {"fullnameOverride": "ha"}, "ha", id="a name of one's own"),
    ],
)
def test_another_release_in_another_namespace_has_no_name_of_the_documented_one(
    chart: Chart, release: str, values: Object, prefix: str
) -> None:
    rendering = chart.render(MOST | values, release=release, namespace="addresses", definitions=True)
    for each in rendering.objects:
        if each["kind"] != "CustomResourceDefinition":
            assert each["metadata"]["name"].startswith(f"{prefix}-"), each["metadata"]["name"]
            in_namespace = each["metadata"].get("namespace", "")
            assert in_namespace == ("" if each["kind"] in CLUSTER_WIDE else "addresses"), each["metadata"][
                "name"
            ]
        for said in strings(each):
            assert "vipkeeper-system" not in said
            # The controller has one Lease name, whatever it is called.
            if prefix not in said and each["kind"] not in ("CustomResourceDefinition", "Role"):
                assert not re.search(r"(?<!bin/)\bvipkeeper-(controller|agent|courier)\b", said), said


def test_labels_are_the_recommended_ones_and_selectors_never_change(chart: Chart) -> None:
    for each in chart.render(MOST).objects:
        labels = each["metadata"]["labels"]
        assert {
            "app.kubernetes.io/name": "vipkeeper",
            "app.kubernetes.io/instance": "vipkeeper",
            "app.kubernetes.io/version": __version__,
            "app.kubernetes.io/managed-by": "Helm",
            "app.kubernetes.io/part-of": "vipkeeper",
            "helm.sh/chart": f"vipkeeper-{__version__}",
        }.items() <= labels.items(), each["metadata"]["name"]
        if each["kind"] in WORKLOADS:
            selector = each["spec"]["selector"]["matchLabels"]
            assert set(selector) == {
                f"app.kubernetes.io/{label}" for label in ("name", "instance", "component")
            }
            assert selector.items() <= each["spec"]["template"]["metadata"]["labels"].items()


def test_no_workload_selects_the_pods_of_another(chart: Chart) -> None:
    found = [each for each in chart.render(MOST).objects if each["kind"] in WORKLOADS]
    selectors = [tuple(each["spec"]["selector"]["matchLabels"].items()) for each in found]
    assert len(set(selectors)) == len(found) > 2


def test_labels_of_ones_own_do_not_replace_what_selects(chart: Chart) -> None:
    rendering = chart.render({"agent": {"podLabels": {"team": "net"}}})
    labels = rendering.pod("DaemonSet", "vipkeeper-agent")["metadata"]["labels"]
    assert labels["team"] == "net"
    assert labels["app.kubernetes.io/component"] == "node-agent"


DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("values", "controller", "agent"),
    [
        pytest.param(
            {}, f"vipkeeper/controller:{__version__}", f"vipkeeper/node-agent:{__version__}", id="as released"
        ),
        pytest.param(
            {"image": {"registry": "r.example:5000/x", "tag": "9"}},
            "r.example:5000/x/vipkeeper/controller:9",
            "r.example:5000/x/vipkeeper/node-agent:9",
            id="another registry and tag",
        ),
        pytest.param(
            {
                "image": {"tag": "9"},
                "controller": {"image": {"tag": "10"}},
                "agent": {"image": {"repository": "mine/agent"}},
            },
            "vipkeeper/controller:10",
            "mine/agent:9",
            id="each its own",
        ),
        pytest.param(
            {
                "image": {"tag": "9"},
                "controller": {"image": {"tag": "10", "digest": DIGEST}},
                "agent": {"image": {"digest": DIGEST}},
            },
            f"vipkeeper/controller@{DIGEST}",
            f"vipkeeper/node-agent@{DIGEST}",
            id="a digest counts more than any tag",
        ),
    ],
)
def test_images_are_those_that_were_asked_for(
    chart: Chart, values: Object, controller: str, agent: str
) -> None:
    rendering = chart.render(values)
    assert container(rendering.pod("Deployment", "vipkeeper-controller"), "controller")["image"] == controller
    pod = rendering.pod("DaemonSet", "vipkeeper-agent")
    assert {each["image"] for each in pod["spec"]["containers"]} == {agent}


def test_the_definitions_are_those_of_the_tree(chart: Chart) -> None:
    rendered = {
        each["metadata"]["name"]: each
        for each in chart.render(definitions=True).of("CustomResourceDefinition")
    }
    for path in (ROOT / "crds").glob("*.yaml"):
        [wanted] = read(path.read_text(encoding="utf-8"))
        found = rendered.pop(wanted["metadata"]["name"])
        assert _floats(found["spec"]) == _floats(wanted["spec"]), "run `make manifests`"
        assert wanted["metadata"].get("annotations", {}).items() <= found["metadata"]["annotations"].items()
    assert rendered == {}


def _floats(value: Object) -> Object:
    """Give every number as JSON has it, for Helm reads and writes YAML by way of that."""
    found: Object = json.loads(json.dumps(value), parse_int=float)
    return found


def test_definitions_outlive_an_uninstall_unless_somebody_says_otherwise(chart: Chart) -> None:
    policy = "helm.sh/resource-policy"
    for each in chart.render(definitions=True).of("CustomResourceDefinition"):
        assert each["metadata"]["annotations"][policy] == "keep"
    for each in chart.render({"crds": {"keep": False}}, definitions=True).of("CustomResourceDefinition"):
        assert policy not in each["metadata"].get("annotations", {})
    assert chart.render({"crds": {"enabled": False}}, definitions=True).of("CustomResourceDefinition") == []


def test_no_object_of_a_kind_comes_with_its_definition(chart: Chart) -> None:
    assert [
        each
        for each in chart.render(MOST, definitions=True).objects
        if each["apiVersion"].startswith("vipkeeper.io/")
    ] == []


@pytest.mark.parametrize(
    ("values", "gone"),
    [
        pytest.param(
            {"rbac": {"create": False}},
            {
                ("ClusterRole", "vipkeeper-cleanup"),
                ("ClusterRole", "vipkeeper-controller"),
                ("ClusterRole", "vipkeeper-courier"),
                ("ClusterRole", "vipkeeper-host-workloads"),
                ("ClusterRole", "vipkeeper-test"),
                ("ClusterRoleBinding", "vipkeeper-cleanup"),
                ("ClusterRoleBinding", "vipkeeper-controller"),
                ("ClusterRoleBinding", "vipkeeper-courier"),
                ("ClusterRoleBinding", "vipkeeper-test"),
                ("Role", "vipkeeper-cleanup"),
                ("Role", "vipkeeper-controller"),
                ("Role", "vipkeeper-courier"),
                ("RoleBinding", "vipkeeper-cleanup"),
                ("RoleBinding", "vipkeeper-controller"),
                ("RoleBinding", "vipkeeper-courier"),
            },
            id="rbac.create",
        ),
        pytest.param(
            {"rbac": {"aggregateRoles": False}},
            {("ClusterRole", f"vipkeeper-{role}") for role in ("view", "edit", "admin")},
            id="rbac.aggregateRoles",
        ),
        pytest.param(
            {"controller": {"podDisruptionBudget": {"enabled": False}}},
            {("PodDisruptionBudget", "vipkeeper-controller")},
            id="podDisruptionBudget",
        ),
        pytest.param(
            {"controller": {"networkPolicy": {"enabled": False}}},
            {("NetworkPolicy", "vipkeeper-controller")},
            id="networkPolicy",
        ),
    ],
)
def test_a_switch_takes_away_what_it_names_and_nothing_else(
    chart: Chart, values: Object, gone: set[tuple[str, str]]
) -> None:
    assert chart.render().names() - chart.render(values).names() == gone


def test_it_is_the_same_every_time(chart: Chart) -> None:
    assert chart.template(MOST) == chart.template(MOST)
    for path in CHART.glob("templates/**/*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not re.search(
                r"\b(rand\w+|genCA|genSelfSignedCert|lookup|now|uuidv4)\b *[(\"0-9.$}]", text
            ), path


def test_one_keeper_at_a_time_is_replaced_and_there_are_never_two_on_a_node(chart: Chart) -> None:
    agent = chart.render().one("DaemonSet", "vipkeeper-agent")
    assert agent["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 1},
    }


def test_witnesses_wait_for_a_hand_while_the_other_agents_roll(chart: Chart) -> None:
    def strategies(witnesses: Object) -> list[Object]:
        rendering = chart.render({"agent": {"witnessOnly": witnesses}})
        names = ("vipkeeper-agent", "vipkeeper-agent-witness")
        return [rendering.one("DaemonSet", name)["spec"]["updateStrategy"] for name in names]

    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}
    assert strategies(WITNESSES) == [rolling, {"type": "OnDelete"}]
    assert strategies(WITNESSES | {"updateStrategy": {"type": "RollingUpdate"}}) == [rolling, rolling]


def test_agents_live_through_what_a_network_agent_has_to(chart: Chart) -> None:
    spec = chart.render().pod("DaemonSet", "vipkeeper-agent")["spec"]
    assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert spec["priorityClassName"] == "system-node-critical"
    assert {each["key"] for each in spec["tolerations"]} == {
        "node-role.kubernetes.io/control-plane",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/network-unavailable",
    }


def test_no_container_has_a_limit_of_the_processor(chart: Chart) -> None:
    for kind, name in (("Deployment", "vipkeeper-controller"), ("DaemonSet", "vipkeeper-agent")):
        for each in chart.render().pod(kind, name)["spec"]["containers"]:
            assert set(each["resources"]["limits"]) == {"memory"}
            assert set(each["resources"]["requests"]) == {"cpu", "memory"}


def test_probes_of_agents_stay_on_the_node_itself(chart: Chart) -> None:
    for each in chart.render().pod("DaemonSet", "vipkeeper-agent")["spec"]["containers"]:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert each[probe]["httpGet"]["host"] == "127.0.0.1"
            assert f"--health=127.0.0.1:{each[probe]['httpGet']['port']}" in each["args"]
        assert each["livenessProbe"]["httpGet"]["path"] != each["readinessProbe"]["httpGet"]["path"]


def _chosen(rendering: Rendering, name: str, labels: dict[str, str]) -> bool:
    """Whether a DaemonSet would run on a node with these labels."""
    spec = rendering.pod("DaemonSet", name)["spec"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    holds = {
        "DoesNotExist": lambda each: each["key"] not in labels,
        "NotIn": lambda each: labels.get(each["key"]) not in each["values"],
        "In": lambda each: labels.get(each["key"]) in each["values"],
    }
    return spec["nodeSelector"].items() <= labels.items() and any(
        all(holds[each["operator"]](each) for each in term["matchExpressions"]) for term in terms
    )


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        pytest.param({}, ["vipkeeper-agent"], id="any node"),
        pytest.param({"rack": "a"}, ["vipkeeper-agent"], id="one label of a witness"),
        pytest.param({"rack": "b", "votes": "only"}, ["vipkeeper-agent"], id="the other label of a witness"),
        pytest.param({"rack": "a", "votes": "only"}, ["vipkeeper-agent-witness"], id="a witness"),
        pytest.param({"vipkeeper.io/agent": "static-pod"}, [], id="a node with an agent of its own"),
        pytest.param(
            {"rack": "a", "votes": "only", "vipkeeper.io/agent": "systemd"}, [], id="such a witness"
        ),
    ],
)
def test_every_node_has_at_most_one_agent(chart: Chart, labels: dict[str, str], wanted: list[str]) -> None:
    labels = labels | {"kubernetes.io/os": "linux"}
    rendering = chart.render({"agent": {"witnessOnly": WITNESSES}})
    found = [
        name for name in ("vipkeeper-agent", "vipkeeper-agent-witness") if _chosen(rendering, name, labels)
    ]
    assert found == wanted
    if "votes" not in labels:
        assert _chosen(chart.render(), "vipkeeper-agent", labels) is bool(wanted)


def test_an_affinity_of_ones_own_brings_no_second_agent_to_a_node(chart: Chart) -> None:
    near: Object = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}
    terms = [{"matchExpressions": [{"key": "rack", "operator": "In", "values": [each]}]} for each in "bc"]
    of_nodes = {**near, "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    linux = {"kubernetes.io/os": "linux"}
    taken = linux | {"rack": "c", "vipkeeper.io/agent": "systemd"}
    witness = linux | {"rack": "a", "votes": "only"}

    pods = chart.render({"agent": {"affinity": {"podAntiAffinity": near}, "witnessOnly": WITNESSES}})
    assert pods.pod("DaemonSet", "vipkeeper-agent")["spec"]["affinity"]["podAntiAffinity"] == near
    assert _chosen(pods, "vipkeeper-agent", linux)
    assert not any(_chosen(pods, "vipkeeper-agent", each) for each in (taken, witness))

    nodes = chart.render({"agent": {"affinity": {"nodeAffinity": of_nodes}}})
    assert (
        near.items() <= nodes.pod("DaemonSet", "vipkeeper-agent")["spec"]["affinity"]["nodeAffinity"].items()
    )
    assert _chosen(nodes, "vipkeeper-agent", linux | {"rack": "c"})
    assert not any(_chosen(nodes, "vipkeeper-agent", each) for each in (taken, linux))

    preferred = chart.render({"agent": {"affinity": {"nodeAffinity": near}}})
    assert _chosen(preferred, "vipkeeper-agent", linux)
    assert not _chosen(preferred, "vipkeeper-agent", taken)


def test_a_witness_only_votes(chart: Chart) -> None:
    rendering = chart.render({"agent": {"witnessOnly": WITNESSES}})
    args = {
        name: container(rendering.pod("DaemonSet", name), "keeper")["args"]
        for name in ("vipkeeper-agent", "vipkeeper-agent-witness")
    }
    assert args["vipkeeper-agent-witness"] == [*args["vipkeeper-agent"], "--witness-only"]
    tolerations = rendering.pod("DaemonSet", "vipkeeper-agent-witness")["spec"]["tolerations"]
    assert tolerations == [
        *rendering.pod("DaemonSet", "vipkeeper-agent")["spec"]["tolerations"],
        {"key": "x"},
    ]


def _static_pod(chart: Chart, **agent: Any) -> Object:
    rendering = chart.render(
        {"agent": {"staticPod": {"enabled": True}, **agent}, "image": {"pullSecrets": [{"name": "p"}]}}
    )
    manifest = rendering.one("ConfigMap", "vipkeeper-agent-static-pod")["data"]["vipkeeper.yaml"]
    pod: Object = yaml.safe_load(manifest)
    return pod


def test_a_static_pod_names_no_object_of_the_cluster(chart: Chart) -> None:
    pod = _static_pod(chart, workloads={"hooksConfigMap": "hooks"})
    spec = pod["spec"]
    assert not {"serviceAccountName", "imagePullSecrets", "nodeName"} & set(spec)
    assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} == {
        "hostPath",
        "emptyDir",
    }
    assert not any("configMapKeyRef" in said or "secretKeyRef" in said for said in strings(spec))
    assert "--kubeconfig=/etc/vipkeeper/courier/kubeconfig" in container(pod, "courier")["args"]


@pytest.mark.parametrize("name", ["", "system-node-critical", "vipkeeper-agents"])
def test_a_static_pod_has_the_one_class_whose_number_stands_beside_it(chart: Chart, name: str) -> None:
    """Of another class the API server refuses the mirror Pod; without a class it takes it for priority 0."""
    spec = _static_pod(chart, priorityClassName=name)["spec"]
    assert (spec["priorityClassName"], spec["priority"]) == ("system-node-critical", 2000001000)


def test_a_static_keeper_is_the_keeper_of_the_daemonset(chart: Chart) -> None:
    assert container(_static_pod(chart), "keeper") == container(
        chart.render().pod("DaemonSet", "vipkeeper-agent"), "keeper"
    )


def test_pods_reach_the_api_server_where_it_was_said_to_be(chart: Chart) -> None:
    rendering = chart.render({"apiServer": {"host": "192.0.2.5", "port": 7443}})
    for kind, name, which in (
        ("Deployment", "vipkeeper-controller", "controller"),
        ("DaemonSet", "vipkeeper-agent", "courier"),
    ):
        environment = {
            each["name"]: each.get("value") for each in container(rendering.pod(kind, name), which)["env"]
        }
        assert environment["KUBERNETES_SERVICE_HOST"] == "192.0.2.5"
        assert environment["KUBERNETES_SERVICE_PORT"] == "7443"
    keeper = container(rendering.pod("DaemonSet", "vipkeeper-agent"), "keeper")
    assert not any(each["name"].startswith("KUBERNETES") for each in keeper["env"])


def test_the_controller_reaches_the_api_server_and_dns_and_nothing_else(chart: Chart) -> None:
    values = {
        "controller": {"networkPolicy": {"apiServerCIDRs": ["192.0.2.5/32"]}},
        "apiServer": {"host": "x", "port": 7443},
    }
    policy = chart.render(values).one("NetworkPolicy", "vipkeeper-controller")["spec"]
    dns, server = policy["egress"]
    assert {each["port"] for each in dns["ports"]} == {53}
    assert {each["port"] for each in server["ports"]} == {443, 6443, 7443}
    assert server["to"] == [{"ipBlock": {"cidr": "192.0.2.5/32"}}]
    assert [each["port"] for rule in policy["ingress"] for each in rule["ports"]] == [9945, 9955]
    assert (
        policy["podSelector"] == chart.render().one("Deployment", "vipkeeper-controller")["spec"]["selector"]
    )


def test_notifications_may_go_anywhere(chart: Chart) -> None:
    assert chart.render(NOTIFIED).one("NetworkPolicy", "vipkeeper-controller")["spec"]["egress"] == [{}]
    args = container(chart.render(NOTIFIED).pod("Deployment", "vipkeeper-controller"), "controller")["args"]
    assert "--notifications=/etc/vipkeeper/notifications/notifications.yaml" in args


def test_a_drain_ends_one_controller_at_a_time_and_is_never_stuck(chart: Chart) -> None:
    budget = chart.render().one("PodDisruptionBudget", "vipkeeper-controller")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def test_hooks_come_from_a_configmap_or_a_folder(chart: Chart) -> None:
    def hooks(**workloads: str) -> Object:
        volumes = chart.render({"agent": {"workloads": workloads}}).pod("DaemonSet", "vipkeeper-agent")[
            "spec"
        ]["volumes"]
        return next((each for each in volumes if each["name"] == "hooks"), {})

    assert hooks() == {}
    # Executable, and nobody may write them: others are refused.
    assert hooks(hooksConfigMap="h")["configMap"] == {"name": "h", "defaultMode": 0o555}
    assert hooks(hooksHostPath="/etc/h")["hostPath"] == {"path": "/etc/h", "type": "Directory"}


def test_mounts_of_services_reach_the_node(chart: Chart) -> None:
    workloads = {"programs": True, "mountFolders": ["/srv/data"]}
    keeper = container(
        chart.render({"agent": {"workloads": workloads}}).pod("DaemonSet", "vipkeeper-agent"), "keeper"
    )
    [mount] = [each for each in keeper["volumeMounts"] if each["mountPath"] == "/srv/data"]
    assert mount["mountPropagation"] == "Bidirectional"


def test_the_notes_say_what_to_do_next_and_warn_of_what_bites(chart: Chart) -> None:
    plain = chart.notes()
    assert "kubectl get vipnodes" in plain
    assert "WARNING" not in plain
    values = {"crds": {"enabled": False, "keep": False}, "rbac": {"create": False}}
    warned = chart.notes(values)
    assert warned.count("WARNING") == 3
    assert "the roles of the hooks too" in warned
    assert "helm uninstall without --wait" in warned
    assert "stop timeouts + 12 s" in chart.notes({"agent": {"workloads": {"enabled": True}}})
    assert "get configmap vipkeeper-agent-static-pod" in chart.notes(
        {"agent": {"staticPod": {"enabled": True}}}
    )
