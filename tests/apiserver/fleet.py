"""A fleet of agents as the API server sees them: VIPNode statuses written by the test itself.

The fleet has no network and no leases. It says what agents would say, and `obey` does what agents
would do about an order; everything that the controller sees of them goes through a real API server.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from vipapi import resources
from vipapi.resources import FailoverDomain

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.api import Api

Object = dict[str, Any]
Found = TypeVar("Found")

API_VERSION = "vipkeeper.io/v1alpha1"
PATIENCE_S = 60.0


def eventually(look: Callable[[], Found | None], *, within_s: float = PATIENCE_S, what: str = "") -> Found:
    """Look until what is found is true, and return it; fails with the last thing seen."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or look}; last seen: {found!r}"
        time.sleep(0.05)


def eventually_equals(look: Callable[[], Found], wanted: Found, *, within_s: float = PATIENCE_S) -> None:
    """Look until what is found is what is wanted; fails with the last thing seen."""
    deadline = time.monotonic() + within_s
    while (found := look()) != wanted:
        assert time.monotonic() < deadline, f"not within {within_s} s: {wanted!r}; last seen: {found!r}"
        time.sleep(0.05)


def condition(obj: Object, kind: str) -> Object:
    """Return a condition, or an empty one."""
    found = (each for each in obj.get("status", {}).get("conditions", []) if each["type"] == kind)
    empty: Object = {}
    return next(found, empty)


class Fleet:
    """Agents on some nodes, all in one domain, all witnesses until the controller has chosen."""

    def __init__(self, api: Api, *nodes: str, domain: str = "default") -> None:
        self.api = api
        self.nodes = list(nodes)
        self.domain = domain
        self.silent: set[str] = set()
        self.unfit: dict[str, tuple[str, str]] = {}
        self.scores: dict[str, int] = {}
        self.checks: dict[str, list[Object]] = {}
        self.services: dict[str, list[Object]] = {}
        self.grants: dict[str, tuple[str, int]] = {}
        self.holders: dict[str, tuple[str, int, int | None]] = {}
        self.unbound: set[str] = set()
        self.unburied: set[str] = set()
        self.is_obedient = True

    def arrive(self, **labels: str) -> None:
        """Make the Nodes, the domain and the first reports."""
        for node in self.nodes:
            self.api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}})
        self.api.apply(
            {
                "apiVersion": API_VERSION,
                "kind": "FailoverDomain",
                "metadata": {"name": self.domain},
                "spec": {"allowedAddresses": ["192.0.2.0/24", "2001:db8::/64"]},
            }
        )
        self.publish()

    def publish(self) -> None:
        """Let every agent that is not silent report."""
        domain = self.api.get(API_VERSION, "FailoverDomain", self.domain)
        virtual_ips = self.api.list(API_VERSION, "VirtualIP")
        for node in self.nodes:
            if node not in self.silent:
                self._report(node, domain, virtual_ips)

    def obey(self) -> None:
        """Do what agents do: the ordered owner of each accepted address gets it, all others release."""
        known = {}
        for virtual_ip in self.api.list(API_VERSION, "VirtualIP"):
            uid, status = virtual_ip["metadata"]["uid"], virtual_ip["status"]
            accepted = condition(virtual_ip, "Accepted").get("status") == "True"
            known[uid] = accepted and "deletionTimestamp" not in virtual_ip["metadata"]
            owner = status.get("election", {}).get("owner")
            if known[uid] and owner and owner not in self.silent and self.is_obedient:
                holder, term = self.grants.get(uid, ("", 0))
                if holder != owner and term <= status["election"]["basedOnTerm"]:
                    self.take_over(uid, owner, took_ms=12 if holder else None)
        for uid in list(self.grants):
            if not known.get(uid) and self.grants[uid][0] not in self.silent:
                del self.grants[uid]
                self.holders.pop(uid, None)
        self.publish()

    def take_over(self, uid: str, node: str, *, took_ms: int | None = 400) -> None:
        """Let a node get an address under the next term."""
        _, term = self.grants.get(uid, ("", 0))
        self.grants[uid] = (node, term + 1)
        self.holders[uid] = (node, term + 1, took_ms)

    def run(self, node: str, failover: Object, state: str, **more: Any) -> None:
        """Let a node report the first service of a ServiceFailover, and nothing of any other."""
        [service, *_] = failover["spec"]["services"]
        about = {"uid": failover["metadata"]["uid"], "name": service["name"]}
        about["virtualIP"] = service["virtualIPRef"]["name"]
        self.services[node] = [{**about, "state": state, **more}]
        self.publish()

    def settle(
        self, look: Callable[[], Found | None], *, within_s: float = PATIENCE_S, what: str = ""
    ) -> Found:
        """Obey until something is so."""

        def obey_and_look() -> Found | None:
            self.obey()
            return look()

        return eventually(obey_and_look, within_s=within_s, what=what)

    def virtual_ip(self, name: str) -> Object:
        return self.api.get(API_VERSION, "VirtualIP", name)

    def owns(self, name: str, node: str) -> Object | None:
        """Return the VirtualIP if it is Ready on that node."""
        found = self.virtual_ip(name)
        is_there = found["status"].get("owner") == node and condition(found, "Ready")["status"] == "True"
        return found if is_there else None

    def _report(self, node: str, domain: Object, virtual_ips: list[Object]) -> None:
        chosen = {witness["nodeName"] for witness in domain["status"].get("witnesses", [])}
        heard = [other for other in self.nodes if other not in self.silent]
        about: Object = {
            "name": self.domain,
            "uid": domain["metadata"]["uid"],
            "role": "Witness" if node in chosen else "Member",
            "heartbeatAddress": f"198.51.100.{self.nodes.index(node) + 1}",
            "reachablePeers": heard,
        }
        if chosen:
            read = resources.parse(FailoverDomain, domain).status
            about["configuration"] = resources.to_dict(resources.configuration_of(read))
            buried = sorted(
                each["metadata"]["uid"]
                for each in virtual_ips
                if "deletionTimestamp" in each["metadata"]
                and each["metadata"]["uid"] not in self.grants.keys() | self.unburied
            )
            about |= {"drainedEpoch": read.epoch, "tombstones": buried}
        if node in chosen and self.grants:
            names = {each["metadata"]["uid"]: each["metadata"]["name"] for each in virtual_ips}
            about["grants"] = [
                {"uid": uid, "name": names.get(uid, "gone"), "holder": holder, "term": term}
                for uid, (holder, term) in sorted(self.grants.items())
            ]
        status = {
            "version": "test",
            "incarnation": 1,
            "candidacy": "Candidate",
            "domains": [about],
            "virtualIPs": [self._holding(node, each) for each in virtual_ips],
            "services": self.services.get(node, []),
        }
        self.api.apply(
            {"apiVersion": API_VERSION, "kind": "VIPNode", "metadata": {"name": node}}, manager="fleet"
        )
        self.api.apply(
            {"apiVersion": API_VERSION, "kind": "VIPNode", "metadata": {"name": node}, "status": status},
            manager="fleet",
            subresource="/status",
        )

    def _holding(self, node: str, virtual_ip: Object) -> Object:
        uid = virtual_ip["metadata"]["uid"]
        reason, message = self.unfit.get(node, ("", ""))
        holding: Object = {
            "uid": uid,
            "name": virtual_ip["metadata"]["name"],
            "state": "Standby",
            "fitness": "Unfit" if reason else "Fit",
            "score": self.scores.get(node, self._priority(node, virtual_ip)),
        }
        if reason:
            holding |= {"reason": reason, "message": message}
        if node in self.checks:
            holding["checks"] = self.checks[node]
        holder, term, took_ms = self.holders.get(uid, ("", 0, None))
        if holder == node:
            holding |= {"state": "Owner", "term": term, "interface": "eth0"}
            holding["takeover"] = {
                "reason": "LeaseExpired",
                "startedAt": "2026-01-01T00:00:00.123Z",
                "durationMilliseconds": took_ms or 0,
            }
            if uid not in self.unbound:
                in_force = virtual_ip.get("status", {}).get("addresses") or virtual_ip["spec"]["addresses"]
                holding["bound"] = [f"{each.partition('/')[0]}/32" for each in in_force]
        return holding

    def _priority(self, node: str, virtual_ip: Object) -> int:
        for candidate in virtual_ip["spec"].get("candidates", []):
            if candidate.get("nodeName") == node:
                priority: int = candidate.get("priority", 100)
                return priority
        return 100
