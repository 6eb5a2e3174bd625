"""A stage for pure decisions: objects, agents and an API server that is only a dictionary.

`look` lets the controller decide once and does its writes; `settle` looks until nothing is written. How
the looks are made is the stage's `Way`: whatever it is, the same story has to end the same.
"""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass, field
from typing import Any

from vipapi import resources
from vipapi.configuration import API_SERVER
from vipapi.resources import FailoverDomain
from vipcontroller.assignments import Carried
from vipcontroller.decisions import Decisions, Memory, reconcile
from vipcontroller.world import Moment, Reader, World
from vipcontroller.writes import FinalizerWrite, SecretWrite, StatusWrite

Object = dict[str, Any]
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Way(enum.Enum):
    PLAIN = "plain"
    REVERSED = "reversed"
    DOUBLED = "doubled"
    REBUILT = "rebuilt"


@dataclass
class Stage:
    way: Way = Way.PLAIN
    now_s: float = 0.0
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)
    memory: Memory = field(default_factory=Memory)
    carried: Carried = field(default_factory=Carried)
    reader: Reader = field(default_factory=Reader)
    tellings: list[str] = field(default_factory=list)
    words: dict[str, Object] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    services: dict[str, list[Object]] = field(default_factory=dict)
    version: int = 0
    last: Decisions | None = None

    def put(self, kind: str, name: str, spec: Object | None = None, **metadata: Any) -> Object:
        self.version += 1
        created = (START + dt.timedelta(seconds=self.now_s)).isoformat()
        obj: Object = {
            "metadata": {
                "name": name,
                "uid": f"{kind}-{name}-{self.version}",
                "resourceVersion": str(self.version),
                "generation": 1,
                "creationTimestamp": created,
                **metadata,
            },
            "spec": spec or {},
        }
        if kind not in {"Node", "VIPNode"}:
            obj["status"] = {"observedGeneration": -1}
        self.objects[kind, name] = obj
        return obj

    def virtual_ip(self, name: str, *addresses: str, **spec: Any) -> Object:
        return self.put("VirtualIP", name, {"addresses": list(addresses or ["192.0.2.10/24"]), **spec})

    def failover(self, name: str, *services: Object, namespace: str = "prod", **spec: Any) -> Object:
        """Make a ServiceFailover of these services, or of one that follows `web` on node-a and node-b."""
        found = {"mode": "Cluster", "services": list(services) or [service("app")], **spec}
        return self.put("ServiceFailover", name, found, namespace=namespace)

    def delete(self, kind: str, name: str) -> None:
        obj = self.objects[kind, name]
        if obj["metadata"].get("finalizers"):
            obj["metadata"]["deletionTimestamp"] = START.isoformat()
            self.touch(obj)
        else:
            del self.objects[kind, name]

    def get(self, kind: str, name: str) -> Object:
        return self.objects[kind, name]

    def condition(self, kind: str, name: str, type_: str) -> Object:
        found = self.objects[kind, name].get("status", {}).get("conditions", [])
        return next((each for each in found if each["type"] == type_), {})

    def reasons(self, name: str, kind: str = "VirtualIP") -> dict[str, str]:
        found = self.objects[kind, name]["status"]["conditions"]
        return {each["type"]: f"{each['status']} {each['reason']}" for each in found}

    def witnesses(self, name: str = "default") -> set[str]:
        status = self.objects["FailoverDomain", name]["status"]
        nodes = {each["nodeName"] for each in status.get("witnesses", [])}
        return nodes | ({API_SERVER} if status.get("apiServerVotes") else set())

    def look(self) -> Decisions:
        if self.way is Way.REBUILT:
            self.memory, self.reader = Memory(), Reader()
        decisions = self._decide()
        if self.way is Way.DOUBLED:
            assert self._decide().writes == decisions.writes
        self.memory, self.last = decisions.memory, decisions
        for write in decisions.writes:
            self._carry_out(write)
        return decisions

    def settle(self) -> None:
        for _ in range(20):
            if not self.look().writes:
                return
        raise AssertionError(f"never settles: {self.last}")

    def converge(self, **report: Any) -> None:
        """Let agents report and the controller decide in turns, until it has nothing to write."""
        for _ in range(20):
            self.report(**report)
            if not self.look().writes:
                return
        raise AssertionError(f"never converges: {self.last}")

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.settle()

    def _decide(self) -> Decisions:
        return reconcile(self.world(), self.memory, self.moment())

    def moment(self) -> Moment:
        return Moment(START + dt.timedelta(seconds=self.now_s), self.now_s)

    def world(self) -> World:
        def of(kind: str) -> list[Object]:
            found = [obj for (known, _), obj in self.objects.items() if known == kind]
            return found[::-1] if self.way is Way.REVERSED else found

        world = self.reader.read(
            virtual_ips=of("VirtualIP"),
            failovers=of("ServiceFailover"),
            domains=of("FailoverDomain"),
            switchovers=of("Switchover"),
            vip_nodes=of("VIPNode"),
            nodes=of("Node"),
        )
        wanted = {domain.spec.key.secret_name for domain in world.domains.values()}
        return world.lacking(frozenset(wanted - self.secrets)).with_carried(self.carried)

    def _carry_out(self, write: StatusWrite | FinalizerWrite | SecretWrite) -> None:
        if isinstance(write, SecretWrite):
            self.secrets.add(write.name)
            return
        key = (write.kind, write.metadata.name)
        obj = self.objects[key]
        assert obj["metadata"]["resourceVersion"] == write.metadata.resource_version, (
            "one write for each look"
        )
        if isinstance(write, StatusWrite):
            obj["status"] = resources.to_dict(write.status)
        else:
            obj["metadata"]["finalizers"] = list(write.finalizers)
            if "deletionTimestamp" in obj["metadata"] and not write.finalizers:
                del self.objects[key]
        self.touch(obj)
        self.tellings += [f"{write.metadata.name} {telling.reason}" for telling in write.tellings]

    def touch(self, obj: Object) -> None:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)

    def run(
        self, node: str, state: str, service: str = "app", failover: str = "billing", **more: Any
    ) -> None:
        """Let a node's next report tell of a service, in place of what it told of it before."""
        uid = self.objects["ServiceFailover", failover]["metadata"]["uid"]
        told = [each for each in self.services.get(node, []) if (each["uid"], each["name"]) != (uid, service)]
        one = {"uid": uid, "name": service, "virtualIP": "web", "state": state, **more}
        self.services[node] = [*told, one]

    def agents(self, *nodes: str, domain: str = "default", **spec: Any) -> None:
        """Nodes whose agents are alive, hear each other, and call themselves fit for everything.

        They run what the domain's status says as soon as they report; `words` of a node go over its report.
        `homes` are heartbeat addresses other than the usual ones.
        """
        self.put("FailoverDomain", domain, spec)
        for node in nodes:
            self.put("Node", node)
        self.report()

    def report(
        self,
        *,
        alive: set[str] | None = None,
        unfit: dict[str, str] | None = None,
        owners: dict[str, tuple[str, int]] | None = None,
        scores: dict[str, int] | None = None,
    ) -> None:
        """Let the agents of the living nodes report; `owners` is by VirtualIP name, (node, term)."""
        nodes = [name for kind, name in self.objects if kind == "Node"]
        living = set(nodes) if alive is None else alive
        for node in sorted(living):
            status = self._status(node, living, unfit=unfit or {}, owners=owners or {}, scores=scores or {})
            if ("VIPNode", node) not in self.objects:
                self.put("VIPNode", node)
            self.objects["VIPNode", node]["status"] = status
            self.touch(self.objects["VIPNode", node])

    def _status(
        self,
        node: str,
        living: set[str],
        *,
        unfit: dict[str, str],
        owners: dict[str, tuple[str, int]],
        scores: dict[str, int],
    ) -> Object:
        uids = {
            name: obj["metadata"]["uid"] for (kind, name), obj in self.objects.items() if kind == "VirtualIP"
        }
        reports = []
        for (kind, name), domain in self.objects.items():
            if kind == "FailoverDomain":
                grants = [
                    {"uid": uids[vip], "name": vip, "holder": holder, "term": term}
                    for vip, (holder, term) in sorted(owners.items())
                ]
                report = {"name": name, "uid": domain["metadata"]["uid"], "role": "Witness", "grants": grants}
                report |= {
                    "heartbeatAddress": self.homes.get(node, f"198.51.100.{ord(node[-1])}"),
                    "reachablePeers": sorted(living),
                }
                read = resources.parse(FailoverDomain, {**domain, "spec": {}}).status
                report["configuration"] = resources.to_dict(resources.configuration_of(read))
                report["drainedEpoch"] = read.epoch
                report["tombstones"] = [
                    obj["metadata"]["uid"]
                    for (kind_, vip), obj in sorted(self.objects.items())
                    if kind_ == "VirtualIP" and "deletionTimestamp" in obj["metadata"] and vip not in owners
                ]
                reports.append(report | self.words.get(node, {}))
        holdings = []
        for name, uid in sorted(uids.items()):
            holding: Object = {"uid": uid, "name": name, "state": "Standby", "fitness": "Fit"}
            holding["score"] = scores.get(node, 100)
            if node in unfit:
                holding |= {"fitness": "Unfit", "reason": unfit[node], "message": f"{node} cannot"}
            holder, term = owners.get(name, ("", 0))
            if holder == node:
                obj = self.objects["VirtualIP", name]
                bound = obj["status"].get("addresses") or obj["spec"]["addresses"]
                holding |= {"state": "Owner", "term": term, "bound": bound, "interface": "eth0"}
                holding["takeover"] = {
                    "reason": "LeaseExpired",
                    "startedAt": "2026-01-01T00:00:00Z",
                    "durationMilliseconds": 400 + term,
                }
            holdings.append(holding)
        return {
            "version": "test",
            "incarnation": 1,
            "domains": reports,
            "virtualIPs": holdings,
            "services": self.services.get(node, []),
        }


def service(name: str, virtual_ip: str = "web", *nodes: str, **more: Any) -> Object:
    """A service of a ServiceFailover; without nodes it is node-a's, and node-b stands by."""
    primary, *standbys = nodes or ("node-a", "node-b")
    return {
        "name": name,
        "virtualIPRef": {"name": virtual_ip},
        "primary": primary,
        "standbys": standbys,
        "workload": {"systemd": {"unit": f"{name}.service"}},
        **more,
    }
