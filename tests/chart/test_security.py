"""What the chart lets its containers and its service accounts do, and that it is no more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chart.rendering import CHART, Object, container, read

if TYPE_CHECKING:
    from chart.rendering import Chart

AGENT = ("DaemonSet", "vipkeeper-agent")
WITNESS = ("DaemonSet", "vipkeeper-agent-witness")
CONTROLLER = ("Deployment", "vipkeeper-controller")
ALL_ON = {
    "workloads": {
        "enabled": True,
        "programs": False,
        "hooksConfigMap": "hooks",
        "ocfRootHostPath": "/usr/lib/ocf",
    },
    "checks": {"processes": True, "filePaths": ["/srv/app"]},
    "fence": "reboot",
}
TOKENS = "/var/run/secrets/kubernetes.io/serviceaccount"


def test_the_keeper_has_exactly_the_capabilities_that_it_needs(chart: Chart) -> None:
    assert container(chart.render().pod(*AGENT), "keeper")["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "readOnlyRootFilesystem": True,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW", "BPF", "SYS_NICE", "IPC_LOCK"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@pytest.mark.parametrize(
    ("agent", "added"),
    [
        pytest.param({"keeper": {"realTime": False}}, [], id="not in real time"),
        pytest.param({"fence": "reboot"}, ["SYS_NICE", "IPC_LOCK", "SYS_BOOT"], id="reboot"),
        pytest.param({"fence": "namespace"}, ["SYS_NICE", "IPC_LOCK", "SYS_BOOT"], id="namespace"),
        pytest.param({"checks": {"processPaths": True}}, ["SYS_NICE", "IPC_LOCK", "SYS_PTRACE"], id="paths"),
        pytest.param({"checks": {"processes": True}}, ["SYS_NICE", "IPC_LOCK"], id="names of processes"),
        pytest.param({"workloads": {"enabled": True}}, ["SYS_NICE", "IPC_LOCK"], id="units"),
    ],
)
def test_an_option_adds_its_capability_and_no_other(chart: Chart, agent: Object, added: list[str]) -> None:
    context = container(chart.render({"agent": agent}).pod(*AGENT), "keeper")["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW", "BPF", *added]}
    assert context["privileged"] is False


def test_a_fence_of_nftables_may_remove_what_bpf_left(chart: Chart) -> None:
    values: Object = {"agent": {"keeper": {"fenceBackend": "nftables"}}}
    keeper = container(chart.render(values).pod(*AGENT), "keeper")
    assert keeper["securityContext"]["capabilities"]["add"] == [
        "NET_ADMIN",
        "NET_RAW",
        "BPF",
        "SYS_NICE",
        "IPC_LOCK",
    ]
    assert "--fence-backend=nftables" in keeper["args"]


def test_only_programs_in_the_container_make_it_privileged(chart: Chart) -> None:
    rendering = chart.render({"agent": {"workloads": {"programs": True}}})
    keeper = container(rendering.pod(*AGENT), "keeper")
    assert keeper["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "readOnlyRootFilesystem": True,
        "privileged": True,
    }
    assert "limits" not in keeper["resources"]
    assert '"privileged": true' not in str(chart.render({"agent": ALL_ON}).objects)


def test_the_courier_has_no_power_whatever_is_enabled(chart: Chart) -> None:
    for values in ({}, {"agent": ALL_ON}, {"agent": {"workloads": {"programs": True}}}):
        courier = container(chart.render(values).pod(*AGENT), "courier")
        assert courier["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        mounts = {each["name"]: each["mountPath"] for each in courier["volumeMounts"]}
        assert mounts == {"socket": "/run/vipkeeper", "courier-tmp": "/tmp", "token": TOKENS}  # noqa: S108


def test_the_keeper_has_no_token(chart: Chart) -> None:
    rendering = chart.render(
        {"agent": ALL_ON | {"witnessOnly": {"enabled": True, "nodeSelector": {"a": "b"}}}}
    )
    for kind, name in (AGENT, WITNESS):
        pod = rendering.pod(kind, name)
        assert pod["spec"]["automountServiceAccountToken"] is False
        volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
        mounted = {each["name"] for each in container(pod, "keeper")["volumeMounts"]}
        assert all("projected" not in volumes[each] and "secret" not in volumes[each] for each in mounted)
        folders = [volumes[each].get("hostPath", {}).get("path", "") for each in mounted]
        assert not [each for each in folders if Path("/var/lib/kubelet").is_relative_to(each or "-")]
    for account in rendering.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_the_courier_may_enter_the_keepers_socket_and_cannot_replace_it(chart: Chart) -> None:
    pod = chart.render().pod(*AGENT)
    courier = container(pod, "courier")
    # The folder is the group's, with the setgid bit, and the keeper's socket is for owner and group.
    assert pod["spec"]["securityContext"] == {"fsGroup": courier["securityContext"]["runAsGroup"]}
    [socket] = [each for each in courier["volumeMounts"] if each["name"] == "socket"]
    assert socket["readOnly"] is True


@pytest.mark.parametrize("option", ["workloads", "checks", "fence"])
def test_a_witness_gets_nothing_that_only_a_holder_needs(chart: Chart, option: str) -> None:
    witness: Object = {"witnessOnly": {"enabled": True, "nodeSelector": {"a": "b"}}}
    plain = chart.render({"agent": witness}).pod(*WITNESS)
    assert chart.render({"agent": witness | {option: ALL_ON[option]}}).pod(*WITNESS) == plain


def test_the_nodes_processes_are_seen_only_where_an_option_needs_it(chart: Chart) -> None:
    assert "hostPID" not in chart.render().pod(*AGENT)["spec"]
    for agent in ({"checks": {"processes": True}}, {"checks": {"processPaths": True}}, {"fence": "reboot"}):
        assert chart.render({"agent": agent}).pod(*AGENT)["spec"]["hostPID"] is True
    # Such a node is itself a container: its own PID namespace is the one that has to end.
    assert chart.render({"agent": {"fence": "namespace"}}).pod(*AGENT)["spec"]["hostPID"] is True


def test_host_folders_are_only_those_that_were_asked_for(chart: Chart) -> None:
    def folders(agent: Object) -> dict[str, bool]:
        pod = chart.render({"agent": agent}).pod(*AGENT)
        paths = {
            each["name"]: each["hostPath"]["path"] for each in pod["spec"]["volumes"] if "hostPath" in each
        }
        mounts = container(pod, "keeper")["volumeMounts"]
        return {
            paths[each["name"]]: not each.get("readOnly", False) for each in mounts if each["name"] in paths
        }

    assert folders({}) == {"/var/lib/vipkeeper": True}
    assert folders(ALL_ON) == {
        "/var/lib/vipkeeper": True,
        "/run/systemd": False,
        "/run/dbus": False,
        "/usr/lib/ocf": False,
        "/srv/app": False,
    }


def test_files_are_seen_where_the_node_has_them(chart: Chart) -> None:
    pod = chart.render({"agent": {"checks": {"filePaths": ["/srv/app", "/etc/app"]}}}).pod(*AGENT)
    paths = {each["name"]: each["hostPath"]["path"] for each in pod["spec"]["volumes"] if "hostPath" in each}
    mounts = [each for each in container(pod, "keeper")["volumeMounts"] if each["name"].startswith("files-")]
    assert [each["mountPath"] for each in mounts] == ["/srv/app", "/etc/app"]
    assert all(paths[each["name"]] == each["mountPath"] for each in mounts)


def _restricted(pod: Object) -> list[str]:
    """What the Pod Security Standard `restricted` has against a Pod, control by control."""
    spec = pod["spec"]
    everywhere = spec.get("securityContext", {})
    found = [each for each in ("hostNetwork", "hostPID", "hostIPC") if spec.get(each)]
    kinds = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    found += [f"volume {each['name']}" for each in spec.get("volumes", []) if not kinds & set(each)]
    for each in spec["containers"] + spec.get("initContainers", []):
        context = everywhere | each.get("securityContext", {})
        checks = {
            "privileged": not context.get("privileged"),
            "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
            "runAsNonRoot": context.get("runAsNonRoot") is True,
            "runAsUser": context.get("runAsUser") != 0,
            "seccompProfile": context.get("seccompProfile", {}).get("type")
            in ("RuntimeDefault", "Localhost"),
            "drop": "ALL" in context.get("capabilities", {}).get("drop", []),
            "add": set(context.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"},
            "procMount": context.get("procMount", "Default") == "Default",
            "hostPort": not any("hostPort" in port for port in each.get("ports", [])),
        }
        found += [f"{each['name']}: {name}" for name, is_met in checks.items() if not is_met]
    return found


def test_the_controller_meets_the_restricted_pod_security_standard(chart: Chart) -> None:
    for values in ({}, {"controller": {"notifications": {"secretName": "told"}}}):
        pod = chart.render(values).pod(*CONTROLLER)
        assert _restricted(pod) == []
        assert container(pod, "controller")["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_agent_breaks_that_standard_only_as_the_documentation_says(chart: Chart) -> None:
    assert _restricted(chart.render().pod(*AGENT)) == [
        "hostNetwork",
        "volume state",
        "keeper: runAsNonRoot",
        "keeper: runAsUser",
        "keeper: add",
    ]


def _rules(chart: Chart, **values: Any) -> list[tuple[Object, Object]]:
    roles = [each for each in chart.render(values).objects if each["kind"] in ("Role", "ClusterRole")]
    return [(role, rule) for role in roles for rule in role["rules"]]


def test_no_role_has_a_wildcard_or_a_way_to_more_rights(chart: Chart) -> None:
    for role, rule in _rules(chart, agent={"staticPod": {"enabled": True}}):
        named = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"*", "escalate", "bind", "impersonate"} & set(named), role["metadata"]["name"]
        assert not any("*" in each for each in named), role["metadata"]["name"]
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"]


def test_secrets_are_read_in_the_own_namespace_only(chart: Chart) -> None:
    told = [
        (role["kind"], role["metadata"]["name"])
        for role, rule in _rules(chart)
        if "secrets" in rule["resources"]
    ]
    assert sorted(told) == [("Role", "vipkeeper-controller"), ("Role", "vipkeeper-courier")]
    for role, rule in _rules(chart):
        if "secrets" in rule["resources"]:
            assert role["metadata"]["namespace"] == "vipkeeper-system"
            assert not {"update", "patch", "delete", "deletecollection"} & set(rule["verbs"])


def test_who_writes_a_status_does_not_write_the_spec_with_it(chart: Chart) -> None:
    for role, rule in _rules(chart):
        if set(rule["verbs"]) - {"get", "list", "watch", "use"}:
            statuses = [each for each in rule["resources"] if each.endswith("/status")]
            assert statuses in ([], rule["resources"]), role["metadata"]["name"]


def test_people_are_given_no_status_and_no_vipnode_to_write(chart: Chart) -> None:
    for role, rule in _rules(chart):
        if any("aggregate" in label for label in role["metadata"]["labels"]):
            assert not any("/" in each for each in rule["resources"])
            if set(rule["verbs"]) - {"get", "list", "watch"}:
                assert "vipnodes" not in rule["resources"]


def test_the_rights_are_those_that_the_tests_run_the_processes_under(chart: Chart) -> None:
    """`tests/apiserver` and `tests/lab` apply this file as it stands."""

    def bare(objects: list[Object]) -> dict[tuple[str, str], Object]:
        for each in objects:
            each["metadata"].pop("labels")
        return {(each["kind"], each["metadata"]["name"]): each for each in objects}

    wanted = bare(read((CHART / "files" / "rbac.yaml").read_text(encoding="utf-8")))
    rendered = bare(read(chart.template({"crds": {"enabled": False}})))
    assert {name: rendered[name] for name in wanted} == wanted
    hooks = ("vipkeeper-cleanup", "vipkeeper-test")  # with roles of their own, for a moment
    bound = {each["roleRef"]["name"] for each in rendered.values() if each["kind"].endswith("RoleBinding")}
    assert bound - set(hooks) == {"vipkeeper-controller", "vipkeeper-courier"}


def test_couriers_with_certificates_have_rights_only_where_static_pods_are_on(chart: Chart) -> None:
    def groups(values: Object) -> set[str]:
        bindings = [each for each in chart.render(values).objects if each["kind"].endswith("RoleBinding")]
        return {
            f"{each['kind']} {each['metadata']['name']}"
            for each in bindings
            if any(
                subject["kind"] == "Group" and subject["name"] == "vipkeeper:nodes"
                for subject in each["subjects"]
            )
        }

    assert groups({}) == set()
    assert groups({"agent": {"staticPod": {"enabled": True}}}) == {
        "ClusterRoleBinding vipkeeper-courier",
        "RoleBinding vipkeeper-courier",
    }


def test_a_namespace_whose_secrets_let_nodes_join_is_refused(chart: Chart) -> None:
    done = chart.run("template", "vipkeeper", CHART, "--namespace", "kube-system")
    assert done.returncode != 0
    assert "must not be installed into kube-system" in done.stderr
    assert "--namespace vipkeeper-system --create-namespace" in done.stderr
    assert chart.render(namespace="kube-systems").of("Deployment")
