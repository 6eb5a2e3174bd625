"""Every way in which an object of ours can stand, with what a GitOps tool should make of it.

The statuses are those that the controller's own decisions write (`controller.stage`), and the courier's.
"""

from __future__ import annotations

import copy
import datetime as dt
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from controller.stage import START, Stage
from vipapi import resources
from vipapi.nodestatus import Problem, Report
from vipapi.resources import VIPNodeStatus
from vipcourier import status as courier_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Object = dict[str, Any]
NODES = ("node-a", "node-b", "node-c")


@dataclass(frozen=True, slots=True)
class Case:
    """One object, named by what has happened to it, as kstatus and Argo CD should read it."""

    name: str
    kind: str
    object: Object
    kstatus: str
    health: str

    @property
    def id(self) -> str:
        return f"{self.kind}-{self.name}"


@functools.cache
def cases() -> tuple[Case, ...]:
    """Return all of them; nothing in them may be changed."""
    return (*_virtual_ips(), *_failovers(), *_domains(), *_switchovers(), *_nodes())


def _as_stored(stage: Stage, kind: str, name: str) -> Object:
    found = copy.deepcopy(stage.get(kind, name))
    return {"apiVersion": "vipkeeper.io/v1alpha1", "kind": kind, **found}


def _ready_stage(*, with_services: bool = False) -> Stage:
    stage = Stage()
    stage.agents(*NODES)
    stage.settle()
    stage.report()
    stage.pass_time(10)
    if with_services:
        stage.virtual_ip("web", allowedNamespaces={"names": ["prod"]})
    return stage


def _own(stage: Stage, node: str, term: int, **report: Any) -> None:
    stage.report(owners={"web": (node, term)}, **report)
    stage.settle()


def _edit(stage: Stage, kind: str, name: str, **spec: Any) -> None:
    found = stage.get(kind, name)
    found["spec"] = {**found["spec"], **spec}
    found["metadata"]["generation"] += 1
    stage.touch(found)


def _nothing(_: Stage) -> None:
    pass


def _elect(stage: Stage) -> None:
    stage.report()
    stage.settle()


def _hold(stage: Stage) -> None:
    stage.settle()
    _own(stage, "node-a", 1)


def _move(stage: Stage) -> None:
    _hold(stage)
    stage.put("Switchover", "move", {"virtualIPRef": {"name": "web"}, "to": "node-b"})
    stage.settle()


def _lose_all_candidates(stage: Stage) -> None:
    _hold(stage)
    stage.report(unfit=dict.fromkeys(NODES, "CheckFailed"))
    stage.settle()


def _lose_the_quorum(stage: Stage) -> None:
    _hold(stage)
    stage.report(alive={"node-c"})
    for node in ("node-a", "node-b"):
        stage.delete("VIPNode", node)
    stage.settle()


def _name_no_domain(stage: Stage) -> None:
    _edit(stage, "VirtualIP", "web", domain="nowhere")
    stage.settle()


def _want_what_is_taken(stage: Stage) -> None:
    stage.delete("VirtualIP", "web")
    stage.virtual_ip("first")
    stage.settle()
    stage.now_s += 60
    stage.virtual_ip("web")
    stage.settle()


def _name_no_node(stage: Stage) -> None:
    _edit(stage, "VirtualIP", "web", candidates=[{"nodeSelector": {"matchLabels": {"no": "where"}}}])
    stage.settle()


def _unbind(stage: Stage) -> None:
    _hold(stage)
    node = stage.get("VIPNode", "node-a")
    for holding in node["status"]["virtualIPs"]:
        holding["bound"] = []
    stage.touch(node)
    stage.settle()


def _suspend(stage: Stage) -> None:
    _hold(stage)
    _edit(stage, "VirtualIP", "web", suspend=True)
    stage.settle()


def _lose_the_standbys(stage: Stage) -> None:
    _hold(stage)
    _own(stage, "node-a", 1, unfit={"node-b": "CheckFailed", "node-c": "CheckFailed"})


def _change(stage: Stage) -> None:
    _hold(stage)
    _edit(stage, "VirtualIP", "web", failback={"policy": "Automatic"})


_OF_VIRTUAL_IPS: tuple[tuple[str, str, str, Callable[[Stage], None]], ...] = (
    ("fresh", "InProgress", "Progressing", _nothing),
    ("electing", "InProgress", "Progressing", _elect),
    ("held", "Current", "Healthy", _hold),
    ("moving", "InProgress", "Progressing", _move),
    ("not-bound", "InProgress", "Progressing", _unbind),
    ("no-eligible-node", "InProgress", "Degraded", _lose_all_candidates),
    ("no-quorum", "InProgress", "Degraded", _lose_the_quorum),
    ("no-domain", "Failed", "Degraded", _name_no_domain),
    ("address-conflict", "Failed", "Degraded", _want_what_is_taken),
    ("no-candidate", "Failed", "Degraded", _name_no_node),
    ("suspended", "Current", "Suspended", _suspend),
    ("no-standby", "Current", "Healthy", _lose_the_standbys),
    ("edited", "InProgress", "Progressing", _change),
)


def _virtual_ips() -> Iterator[Case]:
    for name, kstatus, health, happens in _OF_VIRTUAL_IPS:
        stage = _ready_stage()
        stage.virtual_ip("web", candidates=[{"nodeName": node} for node in NODES])
        happens(stage)
        yield Case(name, "VirtualIP", _as_stored(stage, "VirtualIP", "web"), kstatus, health)


def _serve(stage: Stage, node: str = "node-a", term: int = 1, state: str = "Active", **more: Any) -> None:
    stage.settle()
    stage.run(node, state, term=term, since="2026-01-01T00:00:00Z", **more)
    _own(stage, node, term)


def _begin(stage: Stage) -> None:
    _serve(stage, state="Starting")


def _fail(stage: Stage) -> None:
    _serve(stage)
    _serve(stage, state="Failed", message="exit status 1")


def _fail_to_stop(stage: Stage) -> None:
    _serve(stage)
    stage.run("node-a", "StopFailed", term=1, message="2 processes are left")
    _serve(stage, "node-b", 2, "Waiting")


def _lose_the_standby(stage: Stage) -> None:
    _serve(stage)
    _own(stage, "node-a", 1, unfit={"node-b": "ServiceFailed"})


def _ask_for_what_is_not_allowed(stage: Stage) -> None:
    _edit(stage, "VirtualIP", "web", allowedNamespaces={"names": ["other"]})
    stage.settle()


def _follow_nothing(stage: Stage) -> None:
    stage.delete("VirtualIP", "web")
    stage.settle()


def _change_the_failback(stage: Stage) -> None:
    _serve(stage)
    _edit(stage, "ServiceFailover", "billing", failback={"policy": "Automatic"})


_OF_FAILOVERS: tuple[tuple[str, str, str, Callable[[Stage], None]], ...] = (
    ("fresh", "InProgress", "Progressing", _nothing),
    ("starting", "InProgress", "Progressing", _begin),
    ("active", "Current", "Healthy", _serve),
    ("failed", "InProgress", "Degraded", _fail),
    ("stop-failed", "Failed", "Degraded", _fail_to_stop),
    ("no-standby", "Current", "Healthy", _lose_the_standby),
    ("not-allowed", "Failed", "Degraded", _ask_for_what_is_not_allowed),
    ("no-virtual-ip", "Failed", "Degraded", _follow_nothing),
    ("edited", "InProgress", "Progressing", _change_the_failback),
)


def _failovers() -> Iterator[Case]:
    for name, kstatus, health, happens in _OF_FAILOVERS:
        stage = _ready_stage(with_services=True)
        stage.failover("billing")
        happens(stage)
        yield Case(name, "ServiceFailover", _as_stored(stage, "ServiceFailover", "billing"), kstatus, health)


def _domains() -> Iterator[Case]:
    def tell(name: str, kstatus: str, health: str, stage: Stage) -> Case:
        return Case(name, "FailoverDomain", _as_stored(stage, "FailoverDomain", "default"), kstatus, health)

    fresh = Stage()
    fresh.agents(*NODES)
    yield tell("fresh", "InProgress", "Progressing", fresh)
    small = Stage()
    small.agents("node-a")
    small.settle()
    yield tell("too-few-witnesses", "InProgress", "Progressing", small)
    yield tell("quorate", "Current", "Healthy", _ready_stage())
    lost = _ready_stage()
    lost.report(alive={"node-a"})
    for node in ("node-b", "node-c"):
        lost.delete("VIPNode", node)
    lost.settle()
    yield tell("quorum-lost", "InProgress", "Degraded", lost)
    wrong = Stage()
    timing = {"heartbeat": 100, "lease": 1000, "grant": 1000, "silence": 500}
    wrong.agents(*NODES, timing={f"{name}Milliseconds": value for name, value in timing.items()})
    wrong.settle()
    yield tell("invalid", "Failed", "Degraded", wrong)


def _switchovers() -> Iterator[Case]:
    def tell(name: str, kstatus: str, health: str, stage: Stage) -> Case:
        return Case(name, "Switchover", _as_stored(stage, "Switchover", "move"), kstatus, health)

    def ask(to: str = "node-b") -> Stage:
        stage = _ready_stage()
        stage.virtual_ip("web", candidates=[{"nodeName": node} for node in NODES])
        stage.settle()
        _own(stage, "node-a", 1)
        stage.put("Switchover", "move", {"virtualIPRef": {"name": "web"}, "to": to})
        return stage

    stage = ask()
    yield tell("fresh", "InProgress", "Progressing", stage)
    stage.settle()
    yield tell("waiting", "InProgress", "Progressing", stage)
    _own(stage, "node-b", 2)
    yield tell("moved", "Current", "Healthy", stage)
    stage = ask(to="node-x")
    stage.pass_time(60)
    yield tell("failed", "Failed", "Degraded", stage)


def _nodes() -> Iterator[Case]:
    def tell(name: str, kstatus: str, health: str, status: VIPNodeStatus | None) -> Case:
        told = {"observedGeneration": -1} if status is None else resources.to_dict(status)
        node: Object = {
            "apiVersion": "vipkeeper.io/v1alpha1",
            "kind": "VIPNode",
            "metadata": {"name": "node-a", "generation": 1},
            "status": told,
        }
        return Case(name, "VIPNode", node, kstatus, health)

    now, before = START.astimezone(dt.UTC), VIPNodeStatus()
    report = Report(node="node-a", version="0.1.0", incarnation=1)
    problem = Problem("StateUnwritable", "/var/lib/vipkeeper is read-only")
    sick = Report(node="node-a", version="0.1.0", incarnation=1, problems=(problem,))
    ready = courier_status.of_report(report, before=before, generation=1, now=now)
    yield tell("fresh", "InProgress", "Progressing", None)
    yield tell("ready", "Current", "Healthy", ready)
    ill = courier_status.of_report(sick, before=before, generation=1, now=now)
    yield tell("problem", "InProgress", "Degraded", ill)
    silent = courier_status.of_silence("nobody listens", before=ready, generation=1, now=now)
    yield tell("no-keeper", "InProgress", "Degraded", silent)
