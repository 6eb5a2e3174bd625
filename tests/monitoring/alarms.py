"""The table of what sets an alert off: stories of a small cluster, as Prometheus would scrape it.

Every story begins with `healthy()`: three nodes, two controllers of which the first one leads, the addresses
`web` and `db`, and a service. It says which series go otherwise, and at which moments exactly which alerts
fire; at each of them all others are silent. What goes wrong goes wrong at 2 minutes unless the story says so,
thus 2 minutes more than an alert's `for` is when it fires first, and 15 seconds earlier it does not yet.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

STEP_S: Final = 15
END_MIN: Final = 45
STALE: Final = "stale"
"""What Prometheus notes where a target, or a series of one, is there no more."""
CONTROLLER_JOB: Final = "vipkeeper-system/vipkeeper-controller"
AGENT_JOB: Final = "vipkeeper-system/vipkeeper-agent"
NODES: Final = ("node-a", "node-b", "node-c")
SERVICE: Final = {"namespace": "shop", "servicefailover": "billing", "service": "app"}
STATES: Final = ("Active", "StopFailed")

Value = float | str | None
Course = list[Value]
"""One sample for each scrape until the end; None is none."""
Series = dict[str, Course]


def _scrapes(minutes: float) -> int:
    return round(minutes * 60 / STEP_S)


def until(moment_min: float, before: Value, after: Value, *more: tuple[float, Value]) -> Course:
    """A gauge: one value, from a moment on another, and so on."""
    course: Course = [before] * _scrapes(END_MIN)
    for start, value in ((moment_min, after), *more):
        course[_scrapes(start) :] = [value] * (len(course) - _scrapes(start))
    return course


def always(value: Value) -> Course:
    """A gauge that stays, or a counter of what does not happen."""
    return [value] * _scrapes(END_MIN)


def begun(course: Course, moment_min: float = 2) -> Course:
    """The series of a target that is there only from a moment on."""
    return [None] * _scrapes(moment_min) + course[_scrapes(moment_min) :]


def ended(course: Course, moment_min: float = 2) -> Course:
    """The series of a target that goes away."""
    return [*course[: _scrapes(moment_min)], STALE, *always(None)[_scrapes(moment_min) + 1 :]]


def climbing(*paces: tuple[float, float], restarts: bool = False) -> Course:
    """A counter that from each moment, in minutes, grows by so much; `restarts`: each time from 0 again."""
    course: Course = []
    count = 0.0
    for number, (start, pace) in enumerate(paces):
        end = paces[number + 1][0] if number + 1 < len(paces) else END_MIN
        count = 0.0 if restarts else count
        for _ in range(_scrapes(end) - _scrapes(start)):
            course.append(count)
            count += pace
    return course


def text(course: Course) -> str:
    """The words that promtool has for it."""
    runs = [(value, len(list(run))) for value, run in itertools.groupby(course)]
    return " ".join(
        f"_x{many}" if value is None else value if isinstance(value, str) else f"{value:g}+0x{many - 1}"
        for value, many in runs
    )


def _name(metric: str, **labels: str) -> str:
    return metric + "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}"


def controller(metric: str, replica: int = 0, **labels: str) -> str:
    """A series of a controller's."""
    pod = f"vipkeeper-controller-{replica}"
    return _name(metric, job=CONTROLLER_JOB, pod=pod, container="controller", **labels)


def agent(metric: str, node: str, container: str = "keeper", **labels: str) -> str:
    """A series of a keeper's or courier's."""
    return _name(metric, job=AGENT_JOB, pod=f"agent-{node}", container=container, node=node, **labels)


def margins(node: str, *times: tuple[float, float | None], restarts: bool = False) -> Series:
    """Leases that a node renews ten times a second, from each minute on with so much time left; or never."""

    def buckets(le: float) -> Course:
        paces = ((start, 150.0 if left_s is not None and left_s <= le else 0.0) for start, left_s in times)
        return climbing(*paces, restarts=restarts)

    name = "vipkeeper_lease_margin_seconds_bucket"
    bounds = ("0.0", "0.025", "0.05", "0.1", "0.25", "+Inf")
    return {agent(name, node, le=le): buckets(float(le)) for le in bounds}


def led_by(replica: int) -> Series:
    """What a controller tells of objects while it leads: all is well with them."""
    told: dict[str, float] = {
        controller("vipkeeper_servicefailover_degraded", replica, **_failover()): 0,
        controller("vipkeeper_domain_witnesses", replica, domain="default"): 3,
        controller("vipkeeper_domain_heard_witnesses", replica, domain="default"): 3,
        controller("vipkeeper_domain_spare_witnesses", replica, domain="default"): 1,
    }
    for address in ("web", "db"):
        for metric, value in {"ready": 1, "redundant": 1, "holders": 1, "observed_term": 3}.items():
            told[controller(f"vipkeeper_virtualip_{metric}", replica, virtualip=address)] = value
    for node in NODES:
        told[controller("vipkeeper_node_agent_heard", replica, domain="default", node=node)] = 1
    return {name: always(value) for name, value in told.items()}


def _begun(series: Series, moment_min: float = 2) -> Series:
    return {name: begun(course, moment_min) for name, course in series.items()}


def _ended(series: Series) -> Series:
    return {name: ended(course) for name, course in series.items()}


def _failover() -> dict[str, str]:
    return {key: SERVICE[key] for key in ("namespace", "servicefailover")}


def of_agents() -> Series:
    """What the keepers and couriers tell, where their metrics are fetched: node-a holds both addresses."""
    found: Series = {}
    for node in NODES:
        found[agent("up", node)] = found[agent("up", node, "courier")] = always(1)
        found[agent("vipkeeper_courier_keeper_connected", node, "courier")] = always(1)
        for state in STATES:
            value = float(state == "Active" and node == "node-a")
            found[agent("vipkeeper_service_state", node, state=state, **SERVICE)] = always(value)
    for address in ("web", "db"):
        found[agent("vipkeeper_virtualip_held", "node-a", virtualip=address)] = always(1)
    return found | margins("node-a", (0, 0.2))


def healthy() -> Series:
    """A cluster in which nothing is wrong."""
    found = led_by(0) | of_agents()
    for replica in (0, 1):
        found[controller("up", replica)] = always(1)
        found[controller("vipkeeper_controller_leader", replica)] = always(1 - replica)
        found[controller("vipkeeper_controller_problems", replica)] = always(0)
    for result in ("ok", "conflict"):
        writes = controller("vipkeeper_controller_writes_total", kind="VirtualIP", result=result)
        found[writes] = climbing((0, 3))
    found[controller("vipkeeper_controller_notifications_total", target="mail", result="ok")] = always(7)
    return found


class Firing(NamedTuple):
    """An alert that fires: the labels that tell it from others, and the value as its texts show it."""

    alert: str
    labels: Mapping[str, str]
    value: str = ""


Moments = dict[str, list[Firing]]


class Story(NamedTuple):
    """Series that go otherwise than in the healthy cluster, and what fires when; None: no such series."""

    name: str
    changes: Mapping[str, Course | None]
    fires: Moments


def _vip(metric: str, name: str = "web", replica: int = 0) -> str:
    return controller(f"vipkeeper_virtualip_{metric}", replica, virtualip=name)


def _conflict(reason: str) -> str:
    return agent("vipkeeper_virtualip_conflict", "node-a", virtualip="web", reason=reason)


def _domain(metric: str) -> str:
    return controller(f"vipkeeper_domain_{metric}", domain="default")


def _heard(node: str) -> str:
    return controller("vipkeeper_node_agent_heard", domain="default", node=node)


def _writes(result: str) -> str:
    return controller("vipkeeper_controller_writes_total", kind="VirtualIP", result=result)


def _told(result: str, target: str = "mail", replica: int = 0) -> str:
    return controller("vipkeeper_controller_notifications_total", replica, target=target, result=result)


def _of_pod(replica: int) -> Series:
    """All that a controller of the healthy cluster tells, but not that it answers."""
    pod = f'pod="vipkeeper-controller-{replica}"'
    return {name: course for name, course in healthy().items() if pod in name and not name.startswith("up{")}


_WEB: Final = {"virtualip": "web"}
_SILENT: Final[list[Firing]] = []
_CALM: Final[Moments] = {f"{minute}m": _SILENT for minute in (1, 2, 3, 4, 6, 8, 12, 15, 20, 25, 30, 40)}
_GONE: Final = ended(always(1))
_WITHOUT_OWNER: Final = Firing("VipkeeperAddressWithoutOwner", _WEB)
_NO_STANDBY: Final = Firing("VipkeeperNoStandby", _WEB)
_AT_RISK: Final = {"domain": "default"}
_SILENT_AGENT: Final = Firing("VipkeeperNodeAgentSilent", {"domain": "default", "node": "node-c"})
_NODE_C: Final = {"job": AGENT_JOB, "pod": "agent-node-c", "node": "node-c"}
_KEEPER_DOWN: Final = Firing("VipkeeperKeeperDown", {**_NODE_C, "container": "keeper"})
_NO_COURIER: Final = Firing("VipkeeperCourierDisconnected", {**_NODE_C, "container": "courier"})
_DEGRADED: Final = Firing("VipkeeperServiceDegraded", _failover())
_STOP_FAILED: Final = Firing("VipkeeperServiceStopFailed", {**SERVICE, "node": "node-a"})
_NO_CONTROLLER: Final = Firing("VipkeeperControllerDown", {})
_NO_LEADER: Final = Firing("VipkeeperControllerNoLeader", {})
_ERRORS: Final = Firing("VipkeeperControllerErrors", {})
_NOT_TOLD: Final = Firing("VipkeeperNotificationsFailing", {"target": "mail"})

_IN_CONFLICT: Final = Firing("VipkeeperAddressInConflict", _WEB)

STORIES: Final = (
    Story("all is well", {}, _CALM),
    Story("nobody fetches the agents' metrics", dict.fromkeys(of_agents()), _CALM),
    Story(
        "an address moves",
        {
            _vip("observed_term"): until(2, 3, 4),
            _vip("ready"): until(2, 1, 0, (2.25, 1)),
            _vip("holders"): until(2, 1, 2, (2.25, 1)),
            agent("vipkeeper_virtualip_held", "node-a", virtualip="web"): _GONE,
            agent("vipkeeper_virtualip_held", "node-b", virtualip="web"): until(2, None, 1),
        },
        _CALM,
    ),
    Story(
        "another controller comes to lead",
        {
            **_ended(_of_pod(0)),
            controller("up"): _GONE,
            **_begun(led_by(1), 2.5),
            controller("vipkeeper_controller_leader", 1): until(2.5, 0, 1),
        },
        _CALM,
    ),
    Story(
        "agents are rolled out",
        {
            **{
                name: until(2 + number, 1, 0, (3 + number, 1))
                for number, node in enumerate(NODES)
                for name in (
                    agent("up", node),
                    agent("up", node, "courier"),
                    agent("vipkeeper_courier_keeper_connected", node, "courier"),
                    _heard(node),
                )
            },
            **margins("node-a", (0, 0.2), (2, 0.2), restarts=True),
            _domain("heard_witnesses"): until(2, 3, 2, (3, 3)),
            _domain("spare_witnesses"): until(2, 1, 0, (3, 1)),
        },
        _CALM,
    ),
    Story(
        "a controller that had errors long ago is restarted",
        {_writes("error"): until(9, 4, 0), _told("error"): ended(always(4), 9)},
        {f"{minute}m": _SILENT for minute in (31, 35, 40)},
    ),
    Story(
        "a node is taken out of the cluster",
        _ended({name: course for name, course in healthy().items() if 'node="node-c"' in name}),
        _CALM,
    ),
    Story(
        "a domain has one witness",
        {
            _domain(metric): always(value)
            for metric, value in {"witnesses": 1, "heard_witnesses": 1, "spare_witnesses": 0}.items()
        },
        _CALM,
    ),
    Story("a domain has no witnesses yet", {_domain("spare_witnesses"): None}, _CALM),
    Story("a node that held addresses gave them up", margins("node-a", (0, 0.2), (3, None)), _CALM),
    Story(
        "an address has no owner",
        {_vip("ready"): until(2, 1, 0, (9, 1))},
        {"2m45s": _SILENT, "3m": [_WITHOUT_OWNER], "8m": [_WITHOUT_OWNER], "9m": _SILENT},
    ),
    Story(
        "an address is away twice, never for a minute",
        {_vip("ready"): until(2, 1, 0, (2.75, 1), (3, 0), (3.75, 1))},
        {**_CALM, "2m45s": _SILENT, "3m30s": _SILENT, "3m45s": _SILENT},
    ),
    Story(
        "an address has no owner when another controller comes to lead",
        {
            **_ended(led_by(0)),
            **_begun(led_by(1)),
            _vip("ready"): ended(until(1.5, 1, 0)),
            _vip("ready", replica=1): until(2, None, 0),
        },
        {"2m15s": _SILENT, "2m30s": [_WITHOUT_OWNER]},
    ),
    Story(
        "two nodes report that they hold an address",
        {_vip("holders"): until(2, 1, 2)},
        {"2m45s": _SILENT, "3m": [Firing("VipkeeperAddressWithTwoOwners", _WEB, "2")]},
    ),
    Story(
        "two keepers hold an address while no controller leads",
        {
            **_ended(led_by(0)),
            agent("vipkeeper_virtualip_held", "node-b", virtualip="web"): until(2, None, 1),
        },
        {"2m45s": _SILENT, "3m": [Firing("VipkeeperAddressWithTwoOwners", _WEB, "2")]},
    ),
    Story(
        "another machine has an address, and then a VRRP router",
        {
            _conflict("ForeignHost"): until(2, None, 1, (2.5, STALE), (2.75, None)),
            _conflict("ForeignVRRP"): until(2.5, None, 1),
        },
        {"2m45s": _SILENT, "3m": [_IN_CONFLICT], "20m": [_IN_CONFLICT]},
    ),
    Story(
        "another machine claims an address every four minutes for half a minute",
        {
            _conflict("ForeignHost"): until(
                2, None, 1, (2.5, STALE), (2.75, None), (6, 1), (6.5, STALE), (6.75, None)
            )
        },
        {"2m45s": _SILENT, "3m": [_IN_CONFLICT], "9m": [_IN_CONFLICT], "12m": _SILENT},
    ),
    Story(
        "an address has no standby",
        {_vip("redundant"): until(2, 1, 0)},
        {"6m45s": _SILENT, "7m": [_NO_STANDBY]},
    ),
    Story(
        "an address has neither owner nor standby",
        {_vip("redundant"): until(2, 1, 0), _vip("ready"): until(2, 1, 0)},
        {"3m": [_WITHOUT_OWNER], "8m": [_WITHOUT_OWNER]},
    ),
    Story(
        "an address moves five times in a quarter of an hour",
        {_vip("observed_term"): until(2, 3, 4, (4, 5), (6, 6), (8, 7), (10, 8))},
        {
            "9m45s": _SILENT,
            "10m": [Firing("VipkeeperAddressFlapping", _WEB, "5")],
            "16m45s": [Firing("VipkeeperAddressFlapping", _WEB, "5")],
            "17m15s": _SILENT,
        },
    ),
    Story(
        "an address moves five times in half an hour",
        {_vip("observed_term"): until(2, 3, 4, (8, 5), (14, 6), (20, 7), (26, 8))},
        _CALM,
    ),
    Story(
        "of three witnesses one is silent",
        {_domain("heard_witnesses"): until(2, 3, 2), _domain("spare_witnesses"): until(2, 1, 0)},
        {"3m45s": _SILENT, "4m": [Firing("VipkeeperWitnessQuorumAtRisk", _AT_RISK, "0")]},
    ),
    Story(
        "the majority of the witnesses is silent",
        {_domain("heard_witnesses"): until(2, 3, 1), _domain("spare_witnesses"): until(2, 1, -1)},
        {"4m": [Firing("VipkeeperWitnessQuorumAtRisk", _AT_RISK, "-1")]},
    ),
    Story(
        "of five witnesses one is silent",
        {
            _domain("witnesses"): always(5),
            _domain("heard_witnesses"): until(2, 5, 4),
            _domain("spare_witnesses"): until(2, 2, 1),
        },
        _CALM,
    ),
    Story(
        "a node's agent is not heard",
        {_heard("node-c"): until(2, 1, 0)},
        {"6m45s": _SILENT, "7m": [_SILENT_AGENT]},
    ),
    Story(
        "a keeper does not answer",
        {agent("up", "node-c"): until(2, 1, 0)},
        {"3m45s": _SILENT, "4m": [_KEEPER_DOWN]},
    ),
    Story(
        "a courier does not reach its keeper",
        {agent("vipkeeper_courier_keeper_connected", "node-c", "courier"): until(2, 1, 0)},
        {"3m45s": _SILENT, "4m": [_NO_COURIER]},
    ),
    Story(
        "a courier does not answer",
        {
            agent("up", "node-c", "courier"): until(2, 1, 0),
            agent("vipkeeper_courier_keeper_connected", "node-c", "courier"): _GONE,
        },
        {"3m45s": _SILENT, "4m": [_NO_COURIER]},
    ),
    Story(
        "leases are renewed late, also after the keeper was restarted",
        {**margins("node-a", (0, 0.2), (2, 0.04), (20, 0.04), restarts=True)},
        {
            "11m45s": _SILENT,
            "16m": [Firing("VipkeeperLeaseMarginLow", {"node": "node-a"}, "25.25ms")],
            "30m": [Firing("VipkeeperLeaseMarginLow", {"node": "node-a"}, "25.25ms")],
        },
    ),
    Story(
        "leases are renewed late for three minutes",
        {**margins("node-a", (0, 0.2), (5, 0.08), (8, 0.2))},
        _CALM,
    ),
    Story(
        "a service has failed",
        {controller("vipkeeper_servicefailover_degraded", **_failover()): until(2, 0, 1)},
        {"6m45s": _SILENT, "7m": [_DEGRADED]},
    ),
    Story(
        "a service cannot be stopped",
        {
            agent("vipkeeper_service_state", "node-a", state="Active", **SERVICE): until(2, 1, 0),
            agent("vipkeeper_service_state", "node-a", state="StopFailed", **SERVICE): until(2, 0, 1),
        },
        {"1m45s": _SILENT, "2m": [_STOP_FAILED]},
    ),
    Story("one of two controllers does not answer", {controller("up", 1): until(2, 1, 0)}, _CALM),
    Story(
        "no controller answers",
        {
            **_ended(_of_pod(0) | _of_pod(1)),
            **{controller("up", replica): until(2, 1, 0) for replica in (0, 1)},
        },
        {"6m45s": _SILENT, "7m": [_NO_CONTROLLER]},
    ),
    Story(
        "all controllers are gone",
        {
            **_ended(_of_pod(0) | _of_pod(1)),
            **{controller("up", replica): _GONE for replica in (0, 1)},
        },
        {"6m45s": _SILENT, "7m": [_NO_CONTROLLER]},
    ),
    Story(
        "no controller leads",
        {**_ended(led_by(0)), controller("vipkeeper_controller_leader"): until(2, 1, 0)},
        {"3m45s": _SILENT, "4m": [_NO_LEADER]},
    ),
    Story(
        "writes fail, also after the controller was restarted",
        {_writes("error"): climbing((0, 0), (2, 1), (20, 1), restarts=True)},
        {"11m45s": _SILENT, "14m": [_ERRORS], "30m": [_ERRORS]},
    ),
    Story("a few writes fail", {_writes("error"): climbing((0, 0), (2, 1), (3, 0))}, _CALM),
    Story(
        "an object cannot be read",
        {controller("vipkeeper_controller_problems"): until(2, 0, 1)},
        {"11m45s": _SILENT, "12m": [_ERRORS]},
    ),
    Story(
        "the first message ever that fails",
        {_told("error"): until(2, None, 1)},
        {"1m45s": _SILENT, "2m": [_NOT_TOLD], "31m45s": [_NOT_TOLD], "32m": _SILENT},
    ),
    Story(
        "one more message fails",
        {_told("hanging"): until(35, 3, 4)},
        {"33m": _SILENT, "34m45s": _SILENT, "35m": [_NOT_TOLD], "40m": [_NOT_TOLD]},
    ),
)
