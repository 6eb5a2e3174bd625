"""What a plan must be before a keeper acts on it."""

import msgspec
import pytest

from vipapi import nodeplan
from vipapi.configuration import Configuration, Member, WitnessSet
from vipapi.healthchecks import GRPC, Exec, HealthCheck, Pods, Process, Selector
from vipapi.nodeplan import CandidatePlan, DomainPlan, Key, Plan, PodsFact, ServicePlan, Timing, VirtualIPPlan
from vipapi.workloads import Deployment, Hooks, Mount, Ocf, Scripts, Systemd, Workload

APP = ServicePlan(
    uid="f", namespace="prod", failover="billing", name="app", workload=Workload(systemd=Systemd("a.service"))
)
DB = ServicePlan(
    uid="f",
    namespace="prod",
    failover="billing",
    name="db",
    workload=Workload(
        exec=Scripts(Exec("db-start", ("-v",)), stop=Exec("db-stop"), status=Exec("db-status"))
    ),
    is_singleton=False,
    is_first=False,
    start_timeout_ms=1,
    stop_timeout_ms=2,
    generation=3,
    fences=True,
    hooks=Hooks(promoted=(Exec("tell", ("up",)),), faulted=(Exec("tell"), Exec("page"))),
)
APACHE = ServicePlan(
    uid="f",
    namespace="prod",
    failover="billing",
    name="apache",
    workload=Workload(ocf=Ocf("heartbeat", "apache", {"port": "80"})),
)
DISK = ServicePlan(
    uid="f",
    namespace="prod",
    failover="billing",
    name="disk",
    workload=Workload(mount=Mount("/dev/sdb1", "/srv", "ext4", ("noatime",))),
)
WEB_PODS = Pods(Selector({"app": "web"}), namespace="prod", at_least=2)
VIP = VirtualIPPlan(
    uid="u",
    name="web",
    addresses=("192.0.2.10/24", "2001:db8::10"),
    candidates=(CandidatePlan("a", 100),),
    services=(DB, APP, APACHE, DISK),
    health_checks=(HealthCheck("pods", pods=WEB_PODS), HealthCheck("up", process=Process("app"))),
    service_checks=(HealthCheck("rpc", grpc=GRPC(9000, service="a"), observed_from="Peers"),),
)
DOMAIN = DomainPlan(
    name="default",
    uid="d",
    configuration=Configuration(1, "h", witnesses=WitnessSet((Member("a", "192.0.2.1"),))),
    port=7946,
    timing=Timing(100, 400, 500, 600),
    members=(Member("b", "2001:db8::2"),),
    keys=(Key(1, b"k" * 32),),
    virtual_ips=(VIP,),
    out_of_service=("b", "c"),
)


def _running(*services: ServicePlan) -> VirtualIPPlan:
    return msgspec.structs.replace(VIP, services=services)


def _plan(**changes: object) -> Plan:
    return Plan(
        node="a",
        node_addresses=("192.0.2.1",),
        domains=(msgspec.structs.replace(DOMAIN, **changes),),
        facts=(PodsFact(WEB_PODS, is_ok=False, message="none"),),
    )


def test_a_plan_is_read_as_it_was_written() -> None:
    assert nodeplan.decode(nodeplan.encode(_plan())) == _plan()


def test_a_service_has_a_name_for_programs_and_one_for_people() -> None:
    assert APP.id == "f/app"
    assert APP.title == "prod/billing/app"


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        pytest.param(_plan(port=0), "there is no port 0", id="port"),
        pytest.param(_plan(keys=(Key(256, b"k" * 32),)), "a key's id must be from 1 to 255", id="key id"),
        pytest.param(_plan(members=(Member("b", "elsewhere"),)), "'elsewhere'", id="a member's address"),
        pytest.param(
            _plan(
                configuration=Configuration(
                    2, "h", former=WitnessSet((Member("b", "nowhere"),), has_api_vote=True)
                )
            ),
            "'nowhere'",
            id="a former witness's address",
        ),
        pytest.param(Plan(node="a", node_addresses=("eth0",)), "'eth0'", id="the node's address"),
        pytest.param(
            _plan(virtual_ips=(msgspec.structs.replace(VIP, addresses=()),)), "web has no address", id="none"
        ),
        pytest.param(
            _plan(virtual_ips=(msgspec.structs.replace(VIP, addresses=("192.0.2.300",)),)),
            "'192.0.2.300'",
            id="an address that is none",
        ),
        pytest.param(
            _plan(virtual_ips=(msgspec.structs.replace(VIP, addresses=("192.0.2.1",) * 4097),)),
            "4097 addresses are more than the 4096",
            id="more than the fence holds",
        ),
        pytest.param(_plan(virtual_ips=(VIP,) * 2501), "spread them over domains", id="more than a datagram"),
        pytest.param(
            _plan(virtual_ips=(_running(APP, DB, APP),)),
            "the service prod/billing/app is in the plan twice",
            id="a service twice",
        ),
        pytest.param(
            _plan(virtual_ips=(_running(APP), _running(APP))),
            "the service prod/billing/app is in the plan twice",
            id="a service with two addresses",
        ),
        pytest.param(
            _plan(virtual_ips=(_running(msgspec.structs.replace(APP, start_timeout_ms=0)),)),
            "the service prod/billing/app has no time to start or to stop",
            id="no time to start",
        ),
        pytest.param(
            _plan(virtual_ips=(_running(msgspec.structs.replace(APP, stop_timeout_ms=-1)),)),
            "the service prod/billing/app has no time to start or to stop",
            id="no time to stop",
        ),
        pytest.param(
            _plan(
                virtual_ips=(
                    _running(msgspec.structs.replace(APP, workload=Workload(deployment=Deployment("app")))),
                )
            ),
            "the service prod/billing/app is the cluster's, and no keeper runs it",
            id="a service that is no keeper's",
        ),
        pytest.param(Plan(node="a", format=nodeplan.FORMAT + 1), "upgrade the keeper", id="a newer format"),
    ],
)
def test_a_plan_that_cannot_be_acted_on_is_refused_with_a_sentence(plan: Plan, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        nodeplan.decode(nodeplan.encode(plan))


def test_a_plan_of_an_older_courier_is_read() -> None:
    """A keeper that was upgraded first has one on its disk."""
    old = b'{"type":"plan","node":"a","domains":[],"nodeAddresses":[],"format":2}'
    assert nodeplan.decode(old) == Plan(node="a", format=2)


def test_a_workload_of_a_newer_kind_is_no_plan() -> None:
    line = nodeplan.encode(_plan()).replace(b'"systemd"', b'"container"')
    with pytest.raises(ValueError, match="must have exactly one of `systemd`, `exec`, `ocf`"):
        nodeplan.decode(line)
