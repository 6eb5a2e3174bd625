"""What a workload is called, and what can stand in a table of those that are known."""

from __future__ import annotations

import pytest

from vipapi.healthchecks import Exec, HealthCheck, Pods, Selector
from vipapi.workloads import Deployment, KubernetesService, Mount, Ocf, Scripts, Systemd, Workload

APACHE = Ocf("heartbeat", "apache", {"port": "80", "configfile": "/etc/my apache.conf"})


@pytest.mark.parametrize(
    ("workload", "identity", "is_on_node"),
    [
        pytest.param(
            Workload(systemd=Systemd("a.service")), "the systemd unit `a.service`", True, id="systemd"
        ),
        pytest.param(
            Workload(exec=Scripts(Exec("up", ("a b",)), stop=Exec("down"))),
            "the start hook `up 'a b'`",
            True,
            id="exec",
        ),
        pytest.param(
            Workload(ocf=APACHE),
            "the resource agent `ocf:heartbeat:apache 'configfile=/etc/my apache.conf' port=80`",
            True,
            id="ocf",
        ),
        pytest.param(Workload(mount=Mount("/dev/sdb1", "/srv")), "the mount point `/srv`", True, id="mount"),
        pytest.param(
            Workload(kubernetes_service=KubernetesService("a", 80)), "the Service `a`", False, id="Service"
        ),
        pytest.param(Workload(deployment=Deployment("a")), "the Deployment `a`", False, id="Deployment"),
    ],
)
def test_a_workload_is_named_by_what_there_is_one_of(
    workload: Workload, identity: str, *, is_on_node: bool
) -> None:
    assert workload.identity == identity
    assert workload.is_on_node is is_on_node


def test_a_resource_agent_with_its_parameters_in_another_order_is_the_same() -> None:
    other = Ocf("heartbeat", "apache", dict(reversed(APACHE.parameters.items())))
    assert (other, hash(other)) == (APACHE, hash(APACHE))
    assert Workload(ocf=other).identity == Workload(ocf=APACHE).identity
    assert Ocf("heartbeat", "apache", {"port": "81"}) != APACHE


def test_people_are_told_no_values_of_parameters() -> None:
    secret = Workload(ocf=Ocf("heartbeat", "mysql", {"replication_passwd": "hunter2", "pid": "/run/x"}))
    assert secret.title == "the resource agent `ocf:heartbeat:mysql pid=… replication_passwd=…`"
    assert Workload(ocf=Ocf("heartbeat", "Dummy")).title == "the resource agent `ocf:heartbeat:Dummy`"
    assert Workload(systemd=Systemd("a.service")).title == "the systemd unit `a.service`"
    assert "hunter2" in secret.identity, "it makes two of another password two"


def test_a_check_with_labels_can_be_looked_up() -> None:
    one = HealthCheck("app", pods=Pods(Selector({"a": "1", "b": "2"}), namespace="prod"))
    other = HealthCheck("app", pods=Pods(Selector({"b": "2", "a": "1"}), namespace="prod"))
    assert {one: 1}[other] == 1
    assert HealthCheck("app", pods=Pods(Selector({"a": "1"}), namespace="prod")) != one


@pytest.mark.parametrize(
    "kinds",
    [{}, {"mount": Mount("a", "/b"), "deployment": Deployment("a")}],
    ids=["none", "two"],
)
def test_a_workload_is_of_one_kind(kinds: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must have exactly one of"):
        Workload(**kinds)  # type: ignore[arg-type]
