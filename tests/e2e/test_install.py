"""What `helm install` puts on a cluster runs there, with the rights that the chart says and no others."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from e2e.chart import NAMESPACE, RELEASE
from e2e.conftest import ADDRESSES
from e2e.containers import facts_of
from lab.stage import HEARTBEAT_SECRET, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from e2e.chart import Chart
    from e2e.cluster import Cluster
    from e2e.containers import Facts
    from e2e.podstage import PodStage

FIRST_ANSWER_S = 30
SECCOMP_FILTER = 2
CAPABILITIES: Final = {
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "IPC_LOCK": 14,
    "SYS_NICE": 23,
    "BPF": 39,
}
POWERFUL = {"keeper"}
QUIET_S = 20
OURS = "/apis/vipkeeper.io/v1alpha1"
AT_REST = (
    *(f"{OURS}/{kind}" for kind in ("virtualips", "failoverdomains", "switchovers", "vipnodes")),
    f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets",
    f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
    f"/api/v1/namespaces/{NAMESPACE}/pods",
    f"/api/v1/namespaces/{NAMESPACE}/secrets",
)


def containers(chart: Chart) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], Facts]]:
    """Yield every container of vipkeeper: its pod, its specification, and what runs in it."""
    for pod in (*chart.pods("controller"), *chart.pods("node-agent")):
        for container in pod["spec"]["containers"]:
            yield pod, container, facts_of(pod, container["name"])


def test_every_pod_becomes_ready_and_each_node_has_one_agent(chart: Chart, cluster: Cluster) -> None:
    assert sorted(each["spec"]["nodeName"] for each in chart.pods("node-agent")) == sorted(cluster.nodes)
    assert len({each["spec"]["nodeName"] for each in chart.pods("controller")}) == 2
    assert chart.is_ready()


def test_every_process_has_the_rights_that_the_chart_says_and_no_others(chart: Chart) -> None:
    for pod, container, facts in containers(chart):
        context = {**pod["spec"].get("securityContext", {}), **container["securityContext"]}
        added = context["capabilities"].get("add", [])
        assert context["capabilities"]["drop"] == ["ALL"]
        assert facts.capabilities == sum(1 << CAPABILITIES[each] for each in added), container["name"]
        assert facts.user == context["runAsUser"], container["name"]
        assert facts.has_no_new_privileges, container["name"]
        is_confined = context["seccompProfile"]["type"] == "RuntimeDefault"
        assert (facts.seccomp == SECCOMP_FILTER) == is_confined, container["name"]
        assert facts.has_read_only_root, container["name"]


def test_only_the_keeper_has_any_power(chart: Chart) -> None:
    powerful = {
        container["name"]
        for _, container, facts in containers(chart)
        if facts.capabilities or facts.user == 0
    }
    assert powerful == POWERFUL


def test_the_keeper_can_read_no_token_and_no_secret(chart: Chart) -> None:
    for _, container, facts in containers(chart):
        has_token = any(facts.finds(name) for name in ("token", "service-account-token", "kubeconfig"))
        assert has_token == (container["name"] != "keeper"), container["name"]
        if container["name"] == "keeper":
            assert not [each for each in facts.volumes if each in {"secret", "projected", "configmap"}]


def test_the_courier_reads_the_heartbeat_key_and_nobody_reads_other_secrets(
    stage: PodStage, cluster: Cluster
) -> None:
    def may(account: str, verb: str, namespace: str) -> bool:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{NAMESPACE}:{account}",
                "resourceAttributes": {"verb": verb, "resource": "secrets", "namespace": namespace},
            },
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        answer = cluster.plane.api.request("POST", path, review)
        return bool(answer["status"]["allowed"])

    stage.owner("minimal")  # the key is made for the first domain
    assert may("vipkeeper-courier", "list", NAMESPACE)
    for account in ("vipkeeper-courier", "vipkeeper-controller"):
        for verb in ("get", "list", "watch"):
            assert not may(account, verb, "default")
            assert not may(account, verb, "kube-system")
    secrets = cluster.plane.api.list("v1", "Secret", namespace=NAMESPACE)
    own = [each for each in secrets if not each["type"].startswith("helm.sh/")]
    assert [each["metadata"]["name"] for each in own] == [HEARTBEAT_SECRET]


def test_the_first_address_answers_soon_after_it_was_asked_for(stage: PodStage) -> None:
    assert stage.owner("minimal").name in stage.lab.nodes
    assert stage.first_answer_s < FIRST_ANSWER_S


def test_the_api_server_finds_no_fault_in_any_admission_policy(chart: Chart, cluster: Cluster) -> None:
    assert chart.is_ready()
    version, kind = "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"

    def policies() -> list[dict[str, Any]]:
        found = cluster.plane.api.list(version, kind)
        return [each for each in found if each["metadata"]["name"].startswith(f"{RELEASE}-")]

    def is_checked(policy: dict[str, Any]) -> bool:
        seen = policy.get("status", {}).get("observedGeneration")
        return bool(seen == policy["metadata"]["generation"])

    assert policies()
    cluster.wait_until("every policy checked", lambda: all(is_checked(each) for each in policies()))
    warnings = {each["metadata"]["name"]: each["status"]["typeChecking"] for each in policies()}
    assert {name: found for name, found in warnings.items() if found} == {}


def test_helm_test_passes_and_leaves_nothing(stage: PodStage, cluster: Cluster) -> None:
    stage.rest(*ADDRESSES)
    said = cluster.helm("test", RELEASE, f"--namespace={NAMESPACE}", "--timeout=90s")
    assert "Succeeded" in said
    assert "Failed" not in said
    assert {each["metadata"]["name"] for each in cluster.plane.api.list(VERSION, "VirtualIP")} == set(
        ADDRESSES
    )


def test_at_rest_nothing_is_written(stage: PodStage, cluster: Cluster) -> None:
    stage.rest(*ADDRESSES)

    def changes_of(path: str) -> str:
        listed = json.loads(cluster.plane.kubectl("get", "--raw", path))
        since = listed["metadata"]["resourceVersion"]
        query = f"watch=true&timeoutSeconds={QUIET_S}&resourceVersion={since}"
        return cluster.plane.kubectl("get", "--raw", f"{path}?{query}")

    with ThreadPoolExecutor(max_workers=len(AT_REST)) as watches:
        changes = dict(zip(AT_REST, watches.map(changes_of, AT_REST), strict=True))
    assert {path: said for path, said in changes.items() if said} == {}
