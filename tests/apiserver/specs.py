"""Good and bad objects: each bad one with the sentence that it must be refused with.

The sentences are those of the CRDs where a rule of ours refuses, and the API server's own where a
type, a bound or a list does. `apiserver.spellings` has the tables of single addresses.
"""

from __future__ import annotations

from typing import Any

import pytest

Object = dict[str, Any]


def virtual_ip(**spec: Any) -> Object:
    return _object("VirtualIP", {"addresses": ["192.0.2.10/24"], **spec})


def domain(**spec: Any) -> Object:
    return _object("FailoverDomain", spec)


def switchover(**spec: Any) -> Object:
    return _object("Switchover", {"virtualIPRef": {"name": "web"}, "to": "node-b", **spec})


def failover(*services: Object, mode: str = "ActiveStandby", **spec: Any) -> Object:
    """Return a ServiceFailover, by default of one service."""
    return _object("ServiceFailover", {"mode": mode, "services": list(services or [service()]), **spec})


def service(name: str = "app", follows: str = "web", **said: Any) -> Object:
    """Return a service of a ServiceFailover, by default on node-a with the standby node-b."""
    found = {
        "name": name,
        "virtualIPRef": {"name": follows},
        "primary": "node-a",
        "standbys": ["node-b"],
        "workload": {"exec": {"start": {"hook": f"{name}-start"}}},
        **said,
    }
    return {key: value for key, value in found.items() if value is not None}


def executed(**scripts: Any) -> Object:
    """Return a ServiceFailover of one service with these hooks."""
    return failover(service(workload={"exec": {"start": {"hook": "app-start"}, **scripts}}))


def run_by_systemd(unit: str) -> Object:
    """Return a ServiceFailover of one service that is a unit of systemd."""
    return failover(service(workload={"systemd": {"unit": unit}}))


def placed(workload: Object, **said: Any) -> Object:
    """Return a ServiceFailover of one service with this workload."""
    return failover(service(workload=workload, **said))


def hooked(kind: str, **hook: Any) -> Object:
    """Return a ServiceFailover of one service with one hook of that kind."""
    return failover(service(hooks={kind: [{"hook": "tell", **hook}]}))


def probed(**probe: Any) -> Object:
    """Return a VirtualIP with one health check of this kind."""
    return virtual_ip(healthChecks=[{"name": "app", **probe}])


def verified(**check: Any) -> Object:
    """Return a ServiceFailover with one health check, by default a TCP one."""
    return failover(healthChecks=[{"name": "app", "tcpSocket": {"port": 80}, **check}])


def _object(kind: str, spec: Object) -> Object:
    spec = {name: value for name, value in spec.items() if value is not None}
    return {
        "apiVersion": "vipkeeper.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": "tried"},
        "spec": spec,
    }


def checked(**check: Any) -> Object:
    """Return a VirtualIP with one health check, by default a TCP one."""
    return virtual_ip(healthChecks=[{"name": "app", "tcpSocket": {"port": 80}, **check}])


def asked(**http_get: Any) -> Object:
    """Return a VirtualIP with one HTTP check."""
    return virtual_ip(healthChecks=[{"name": "app", "httpGet": {"port": 80, **http_get}}])


def selected(**selector: Any) -> Object:
    """Return a VirtualIP with one candidate entry that selects nodes."""
    return virtual_ip(candidates=[{"nodeSelector": selector}])


def timed(heartbeat: int, lease: int, grant: int, silence: int) -> Object:
    return domain(
        timing={
            "heartbeatMilliseconds": heartbeat,
            "leaseMilliseconds": lease,
            "grantMilliseconds": grant,
            "silenceMilliseconds": silence,
        }
    )


GOOD = [
    pytest.param(virtual_ip(), id="vip-minimal"),
    pytest.param(
        virtual_ip(addresses=[f"192.0.2.{n}/24" for n in range(10, 26)]), id="vip-sixteen-addresses"
    ),
    pytest.param(virtual_ip(addresses=["192.0.2.10/24", "2001:db8::10/64"]), id="vip-both-families"),
    pytest.param(
        virtual_ip(
            domain="rack-1.example",
            interface="bond0.100",
            candidates=[
                {"nodeName": "node-a", "priority": 254},
                {"nodeSelector": {}, "priority": 1},
                {
                    "nodeSelector": {
                        "matchLabels": {"role": "edge", "example.org/empty": ""},
                        "matchExpressions": [
                            {"key": "zone", "operator": "In", "values": ["a", "b"]},
                            {"key": "node-role.kubernetes.io/control-plane", "operator": "DoesNotExist"},
                        ],
                    }
                },
            ],
            failback={"policy": "Automatic", "delaySeconds": 0},
            healthChecks=[
                {
                    "name": "app",
                    "httpGet": {
                        "port": 8443,
                        "path": "/healthz?full=1",
                        "host": "app.example.org",
                        "scheme": "HTTPS",
                        "tlsServerName": "app.example.org",
                        "headers": [
                            {"name": "X-Probe", "value": "vip keeper"},
                            {"name": "Empty", "value": ""},
                        ],
                        "expectedStatuses": [200, 204],
                        "bodyRegex": '"status": *"(ok|degraded)"',
                    },
                    "periodMilliseconds": 50,
                    "timeoutMilliseconds": 50,
                    "failureThreshold": 1,
                    "successThreshold": 100,
                },
                {"name": "db", "tcpSocket": {"host": "2001:db8::9", "port": 5432}, "weight": 253},
                {"name": "uplink", "icmp": {"target": "gateway"}, "weight": -253},
                {"name": "router", "icmp": {"target": "2001:db8::1"}},
                {"name": "disk", "exec": {"hook": "check-disk", "args": ["/data", ""]}},
                {"name": "nic", "link": {"interface": "eth1"}},
                {"name": "rpc", "grpc": {"port": 9000, "host": "2001:db8::9", "service": "billing"}},
                {"name": "page", "httpGet": {"port": 80}, "observedFrom": "Peers"},
                {"name": "own", "exec": {"hook": "own"}, "weight": 1, "observedFrom": "Candidate"},
                {"name": "nginx", "process": {"executable": "/usr/sbin/nginx", "atLeast": 2}},
                {"name": "cron", "process": {"executable": "cron"}},
                {
                    "name": "state",
                    "file": {
                        "path": "/run/app/state",
                        "maxAgeSeconds": 30,
                        "contentRegex": "^state=(ready|ok)",
                    },
                },
                {"name": "time", "systemdUnit": {"unit": "chronyd.service"}},
                {"name": "data", "systemdUnit": {"unit": r"srv-my\x2ddata.mount"}},
                {
                    "name": "pods",
                    "pods": {
                        "namespace": "prod",
                        "selector": {"matchLabels": {"app": "billing", "example.org/tier": ""}},
                        "atLeast": 2,
                    },
                },
            ],
            announcement={"count": 10, "refreshSeconds": 1},
            routes=[
                {"destination": "0.0.0.0/0", "via": "192.0.2.254", "table": 100, "metric": 1},
                {"destination": "0.0.0.0/0", "via": "192.0.2.253", "table": 100},
                {"destination": "198.51.100.7"},
            ],
            rules=[{"table": 100}, {"table": 101, "from": "192.0.2.10", "priority": 32765}],
            spread={"group": "edge"},
            onQuorumLoss="Release",
            suspend=True,
            allowedNamespaces={"names": ["prod", "a" * 63, "7"]},
        ),
        id="vip-everything",
    ),
    pytest.param(virtual_ip(onQuorumLoss="Hold"), id="vip-hold"),
    pytest.param(
        virtual_ip(onQuorumLoss="Hold", candidates=[{"nodeName": "a"}, {"nodeName": "b"}]), id="vip-hold-two"
    ),
    pytest.param(checked(timeoutMilliseconds=1000), id="vip-timeout-as-long-as-the-period-in-force"),
    pytest.param(failover(), id="failover-minimal"),
    pytest.param(
        failover(
            service(
                "db",
                standbys=["node-b", "node-c.example"],
                workload={
                    "exec": {
                        "start": {"hook": "db-start", "args": ["--port", "5432", ""]},
                        "stop": {"hook": "db-stop"},
                        "status": {"hook": "db-status", "args": []},
                    }
                },
                singleton=True,
                order="ServiceFirst",
                startTimeoutSeconds=3600,
                stopTimeoutSeconds=1,
                onStopFailure="Block",
                hooks={
                    "promoted": [{"hook": "tell", "args": ["--page", ""]}] * 4,
                    "demoted": [],
                    "faulted": [],
                },
            ),
            service(
                "app",
                standbys=["node-b", "node-c.example"],
                after=["db"],
                workload={"systemd": {"unit": r"app@blue\x2dgreen.service"}},
                singleton=False,
                order="AddressFirst",
            ),
            service("cron", standbys=["node-b", "node-c.example"], after=["db", "app"], order="AddressFirst"),
            failback={"policy": "Automatic", "delaySeconds": 86400},
            healthChecks=[
                {"name": "http", "httpGet": {"port": 80}, "failureThreshold": 1},
                {"name": "sql", "exec": {"hook": "check-sql"}, "periodMilliseconds": 5000},
                {"name": "rpc", "grpc": {"port": 9000}, "observedFrom": "Peers"},
                {"name": "nginx", "process": {"executable": "nginx"}},
                {"name": "state", "file": {"path": "/run/app/state"}},
                {"name": "time", "systemdUnit": {"unit": "app@blue.service"}},
                {"name": "pods", "pods": {"selector": {"matchLabels": {"app": "billing"}}}},
            ],
        ),
        id="failover-everything",
    ),
    pytest.param(
        failover(
            service("one", "first"),
            service("two", "second", primary="node-b", standbys=["node-a"]),
            mode="Mutual",
        ),
        id="failover-mutual",
    ),
    pytest.param(
        failover(
            *(
                service(f"app-{n}", f"vip-{n // 2}", primary=f"node-{n // 2}", standbys=["node-8", "node-9"])
                for n in range(16)
            ),
            mode="Cluster",
        ),
        id="failover-cluster-of-sixteen",
    ),
    pytest.param(
        failover(service(standbys=[f"node-{n}" for n in range(15)])), id="failover-fifteen-standbys"
    ),
    pytest.param(verified(timeoutMilliseconds=1000), id="failover-check"),
    pytest.param(run_by_systemd("a.service"), id="failover-shortest-unit"),
    pytest.param(placed({"ocf": {"provider": "heartbeat", "type": "IPsrcaddr"}}), id="failover-ocf"),
    pytest.param(
        placed(
            {
                "ocf": {
                    "provider": "my.own",
                    "type": "db_2",
                    "parameters": {"config": "/etc/db.conf", "x": ""},
                }
            },
            onStopFailure="Fence",
            hooks={"faulted": [{"hook": "page-someone"}]},
        ),
        id="failover-ocf-everything",
    ),
    pytest.param(placed({"mount": {"source": "server:/data", "target": "/data"}}), id="failover-mount"),
    pytest.param(
        placed(
            {
                "mount": {
                    "source": "/dev/disk/by-label/data",
                    "target": "/srv/my data/..a",
                    "fsType": "ext4",
                    "options": ["noatime", "errors=remount-ro"],
                }
            }
        ),
        id="failover-mount-everything",
    ),
    pytest.param(placed({"kubernetesService": {"name": "billing"}}), id="failover-kubernetes-service"),
    pytest.param(
        failover(
            service(workload={"mount": {"source": "/dev/drbd0", "target": "/srv/data"}}),
            service(
                "front",
                workload={
                    "kubernetesService": {
                        "name": "billing",
                        "port": 8080,
                        "podSelector": {"matchLabels": {"app": "billing"}},
                    }
                },
            ),
            service("batch", workload={"deployment": {"name": "batch.v2"}}, singleton=False),
            healthChecks=[{"name": "http", "httpGet": {"port": 80}}],
        ),
        id="failover-of-nodes-and-cluster",
    ),
    pytest.param(domain(), id="domain-empty"),
    pytest.param(
        domain(
            nodeSelector={"matchLabels": {"rack": "1"}},
            allowedAddresses=["192.0.2.0/24", "2001:db8::/64", "198.51.100.7/32", "0.0.0.0/0"],
            heartbeat={"interface": "eth0", "port": 65535},
            profile="Fast",
            witnesses={"count": 7, "nodeSelector": {}, "apiServer": False, "replaceAfterSeconds": 3600},
            gateway={"probe": "Off", "onUnreachable": "Ignore"},
            key={"secretName": "rack-1.heartbeat"},
        ),
        id="domain-everything",
    ),
    pytest.param(timed(49, 100, 123, 123), id="domain-timing-at-the-edge"),
    pytest.param(switchover(), id="switchover"),
    pytest.param(switchover(type="Move"), id="switchover-with-type"),
    pytest.param(switchover(type="Drill"), id="switchover-drill"),
]

NODE_NAME = "must be the name of a node as `kubectl get nodes` shows it"
INTERFACE = "must be the name of a network interface as `ip link` shows it: up to 15 characters"
LABEL_VALUE = "must be a label value: up to 63 letters, digits, `-`, `_` or `.`"
HOST = "must be an IP address or a DNS name without scheme, port or brackets"
HOOK = "must be the plain name of a file in the node's hook folder, without `/`"
VALUES = "must have one or more entries for the operators In and NotIn, and none for Exists and DoesNotExist"
HOLD = "must be Release, unless `candidates` has exactly two entries, each with a `nodeName`"
NAME = "must be lower-case letters, digits and `-`, beginning and ending with a letter or digit"

OTHER_NODES = "must have the same `primary` and the same `standbys`, in the same order, where they share"
MUTUAL = "must be exactly two with two different `virtualIPRef`s in the mode Mutual"
CROSSED = "must each have the other's `primary` as the only one of their `standbys` in the mode Mutual"
AFTER = "must name in `after` only services of this list that have the same `virtualIPRef`"
BEHIND = "must stand behind the services that they name in `after`"
WORKLOAD = "must have exactly one of `systemd`, `exec`, `ocf`, `mount`, `kubernetesService` and `deployment`"
OF_THE_CLUSTER = "must be left out for a `kubernetesService` or `deployment`"
PROBE = (
    "must have exactly one of `httpGet`, `tcpSocket`, `icmp`, `exec`, `link`, `grpc`, `process`, `file`, "
    "`systemdUnit` and `pods`"
)
PEERS = "must be Candidate, unless the check is a `httpGet`, `tcpSocket` or `grpc` without `host`"
UNIT = "must be the name of a service unit as `systemctl` shows it, with its suffix"

BAD = [
    # addresses
    pytest.param(virtual_ip(addresses=None), "spec.addresses: Required value", id="vip-no-addresses"),
    pytest.param(virtual_ip(addresses=[]), "should have at least 1 items", id="vip-empty-addresses"),
    pytest.param(
        virtual_ip(addresses=[f"192.0.2.{n}" for n in range(10, 27)]),
        "must have at most 16 items",
        id="vip-seventeen-addresses",
    ),
    pytest.param(
        virtual_ip(addresses=["192.0.2.10", "192.0.2.10"]),
        "spec.addresses[1]: Duplicate value",
        id="vip-twice",
    ),
    pytest.param(
        virtual_ip(addresses=["192.0.2.10/24", "192.0.2.10"]),
        "must not name an address twice, not even with two prefix lengths",
        id="vip-twice-with-two-prefixes",
    ),
    # names
    pytest.param(virtual_ip(domain="Default"), "must be the name of a FailoverDomain", id="vip-domain-name"),
    pytest.param(virtual_ip(domain=""), "should be at least 1 chars long", id="vip-empty-domain"),
    pytest.param(virtual_ip(interface="eth0/1"), INTERFACE, id="vip-interface-slash"),
    pytest.param(virtual_ip(interface=".."), INTERFACE, id="vip-interface-dots"),
    pytest.param(
        virtual_ip(interface="a-name-of-sixteen"), "may not be more than 15", id="vip-interface-long"
    ),
    pytest.param(virtual_ip(spread={"group": "Edge!"}), NAME, id="vip-group-name"),
    pytest.param(virtual_ip(spread={}), "spec.spread.group: Required value", id="vip-group-missing"),
    # candidates
    pytest.param(virtual_ip(candidates=[]), "should have at least 1 items", id="vip-no-candidates"),
    pytest.param(
        virtual_ip(candidates=[{"priority": 100}]),
        "must have exactly one of `nodeName` and `nodeSelector`",
        id="vip-candidate-without-node",
    ),
    pytest.param(
        virtual_ip(candidates=[{"nodeName": "node-a", "nodeSelector": {}}]),
        "must have exactly one of `nodeName` and `nodeSelector`",
        id="vip-candidate-with-both",
    ),
    pytest.param(
        virtual_ip(candidates=[{"nodeName": "node-a"}, {"nodeName": "node-a", "priority": 1}]),
        "must not name a node twice",
        id="vip-candidate-twice",
    ),
    pytest.param(virtual_ip(candidates=[{"nodeName": "Node A"}]), NODE_NAME, id="vip-node-name"),
    pytest.param(
        virtual_ip(candidates=[{"nodeName": "node-a", "priority": 255}]),
        "should be less than or equal to 254",
        id="vip-priority-high",
    ),
    pytest.param(
        virtual_ip(candidates=[{"nodeName": "node-a", "priority": 0}]),
        "should be greater than or equal to 1",
        id="vip-priority-low",
    ),
    pytest.param(
        virtual_ip(candidates=[{"nodeName": "node-a", "priority": 1.5}]),
        "must be of type integer",
        id="vip-float",
    ),
    pytest.param(selected(matchLabels={"role": "-edge"}), LABEL_VALUE, id="selector-label-value"),
    pytest.param(
        selected(matchExpressions=[{"key": "a b", "operator": "Exists"}]),
        "must be a label's name with an optional DNS prefix",
        id="selector-key",
    ),
    pytest.param(
        selected(matchExpressions=[{"key": "role", "operator": "Gt", "values": ["1"]}]),
        'supported values: "In", "NotIn", "Exists", "DoesNotExist"',
        id="selector-operator",
    ),
    pytest.param(
        selected(matchExpressions=[{"key": "role", "operator": "In"}]), VALUES, id="selector-in-nothing"
    ),
    pytest.param(
        selected(matchExpressions=[{"key": "role", "operator": "Exists", "values": ["edge"]}]),
        VALUES,
        id="selector-exists-with-values",
    ),
    pytest.param(
        selected(matchExpressions=[{"key": "role", "operator": "In", "values": ["edge "]}]),
        LABEL_VALUE,
        id="selector-value",
    ),
    # routes and rules
    pytest.param(
        virtual_ip(routes=[{"destination": "198.51.100.1/24"}]),
        "must be the first address of its prefix: write the network",
        id="vip-route-to-a-host-of-a-network",
    ),
    pytest.param(
        virtual_ip(routes=[{"destination": "2001:DB8::/64"}]), "canonical form", id="vip-route-spelling"
    ),
    pytest.param(
        virtual_ip(routes=[{"destination": "everywhere"}]),
        "must be an IPv4 or IPv6 address or network",
        id="vip-route-to-a-name",
    ),
    pytest.param(
        virtual_ip(routes=[{"destination": "2001:db8::/64"}]),
        "must lead to destinations of IP versions that `addresses` has",
        id="vip-route-without-a-source",
    ),
    pytest.param(
        virtual_ip(routes=[{"destination": "198.51.100.0/24", "via": "2001:db8::1"}]),
        "must be of the IP version of `destination`",
        id="vip-route-over-the-other-version",
    ),
    pytest.param(
        virtual_ip(routes=[{"destination": "198.51.100.0/24", "via": "0.0.0.0"}]),  # noqa: S104 - no listener
        "must be the address of a router",
        id="vip-route-over-nobody",
    ),
    pytest.param(
        virtual_ip(
            routes=[{"destination": "198.51.100.0/24"}, {"destination": "198.51.100.0/24", "table": 254}]
        ),
        "must not name a destination twice in one table with one metric",
        id="vip-route-twice",
    ),
    pytest.param(
        virtual_ip(routes=[{"destination": "198.51.100.7"}, {"destination": "198.51.100.7/32"}]),
        "must not name a destination twice in one table with one metric",
        id="vip-route-to-a-host-twice",
    ),
    pytest.param(
        virtual_ip(
            addresses=["2001:db8::10"],
            routes=[{"destination": "2001:db8:1::7"}, {"destination": "2001:db8:1::7/128", "metric": 1024}],
        ),
        "must not name a destination twice in one table with one metric",
        id="vip-route-twice-by-the-kernels-metric",
    ),
    pytest.param(
        virtual_ip(routes=[{"destination": "198.51.100.0/24", "table": 255}]),
        "must not be 255",
        id="vip-route-in-the-kernels-table",
    ),
    pytest.param(
        virtual_ip(routes=[{"destination": f"198.51.100.{n}"} for n in range(17)]),
        "must have at most 16 items",
        id="vip-seventeen-routes",
    ),
    pytest.param(
        virtual_ip(rules=[{"table": 100, "from": "192.0.2.11"}]),
        "must be from addresses that are in `addresses`",
        id="vip-rule-from-another-address",
    ),
    pytest.param(
        virtual_ip(rules=[{"table": 100, "from": "192.0.2.10/24"}]),
        "must be one of `addresses` without its prefix length",
        id="vip-rule-from-an-address-with-prefix",
    ),
    pytest.param(
        virtual_ip(rules=[{"table": 100}, {"table": 100, "priority": 7}]),
        "must not send an address to a table twice",
        id="vip-rule-twice",
    ),
    pytest.param(
        virtual_ip(rules=[{"table": 100, "priority": 32766}]),
        "should be less than or equal to 32765",
        id="vip-rule-after-the-main-table",
    ),
    pytest.param(virtual_ip(rules=[{"table": 255}]), "must not be 255", id="vip-rule-to-the-kernels-table"),
    # failback, announcement, the rest
    pytest.param(
        virtual_ip(failback={"policy": "Never"}), 'supported values: "Manual", "Automatic"', id="vip-failback"
    ),
    pytest.param(
        virtual_ip(failback={"delaySeconds": -1}), "should be greater than or equal to 0", id="vip-delay-low"
    ),
    pytest.param(
        virtual_ip(failback={"delaySeconds": 86401}),
        "should be less than or equal to 86400",
        id="vip-delay-high",
    ),
    pytest.param(
        virtual_ip(announcement={"count": 0}),
        "should be greater than or equal to 1",
        id="vip-no-announcement",
    ),
    pytest.param(
        virtual_ip(announcement={"refreshSeconds": 3601}),
        "should be less than or equal to 3600",
        id="vip-refresh-too-seldom",
    ),
    pytest.param(
        virtual_ip(onQuorumLoss="Keep"), 'supported values: "Release", "Hold"', id="vip-quorum-loss"
    ),
    pytest.param(
        virtual_ip(onQuorumLoss="Hold", candidates=[{"nodeName": node} for node in ("a", "b", "c")]),
        HOLD,
        id="vip-hold-three",
    ),
    pytest.param(virtual_ip(onQuorumLoss="Hold", candidates=[{"nodeName": "a"}]), HOLD, id="vip-hold-one"),
    pytest.param(
        virtual_ip(onQuorumLoss="Hold", candidates=[{"nodeName": "a"}, {"nodeSelector": {}}]),
        HOLD,
        id="vip-hold-selected",
    ),
    pytest.param(
        virtual_ip(allowedNamespaces={}),
        "spec.allowedNamespaces.names: Required value",
        id="vip-namespaces-missing",
    ),
    pytest.param(
        virtual_ip(allowedNamespaces={"names": []}), "should have at least 1 items", id="vip-no-namespaces"
    ),
    pytest.param(
        virtual_ip(allowedNamespaces={"names": ["prod", "prod"]}),
        "names[1]: Duplicate value",
        id="vip-namespace-twice",
    ),
    pytest.param(
        virtual_ip(allowedNamespaces={"names": ["*"]}), "must be the name of a namespace", id="vip-namespace"
    ),
    pytest.param(virtual_ip(suspend="yes"), "must be of type boolean", id="vip-suspend-string"),
    # health checks
    pytest.param(
        virtual_ip(healthChecks=[{"name": "app"}]),
        PROBE,
        id="check-without-probe",
    ),
    pytest.param(
        checked(icmp={"target": "gateway"}),
        PROBE,
        id="check-with-two-probes",
    ),
    pytest.param(
        virtual_ip(healthChecks=[{"name": "a", "link": {"interface": "eth0"}}] * 2),
        "spec.healthChecks[1]: Duplicate value",
        id="check-name-twice",
    ),
    pytest.param(checked(name="My App"), NAME, id="check-name"),
    pytest.param(
        checked(weight=0), "must not be 0: leave `weight` out to make the check required", id="weight-0"
    ),
    pytest.param(checked(weight=254), "should be less than or equal to 253", id="weight-high"),
    pytest.param(checked(weight=-254), "should be greater than or equal to -253", id="weight-low"),
    pytest.param(checked(periodMilliseconds=49), "should be greater than or equal to 50", id="period-low"),
    pytest.param(
        checked(timeoutMilliseconds=1001),
        "must be less than or equal to `periodMilliseconds` (1000 if absent)",
        id="timeout-beyond-the-period-in-force",
    ),
    pytest.param(
        checked(periodMilliseconds=200, timeoutMilliseconds=201),
        "must be less than or equal to `periodMilliseconds` (1000 if absent)",
        id="timeout-beyond-the-period",
    ),
    pytest.param(checked(failureThreshold=0), "should be greater than or equal to 1", id="failure-threshold"),
    pytest.param(
        checked(successThreshold=101), "should be less than or equal to 100", id="success-threshold"
    ),
    pytest.param(checked(tcpSocket={}), "tcpSocket.port: Required value", id="tcp-port-missing"),
    pytest.param(
        checked(tcpSocket={"port": 65536}), "should be less than or equal to 65535", id="tcp-port-high"
    ),
    pytest.param(checked(tcpSocket={"port": "http"}), "must be of type integer", id="tcp-port-by-name"),
    pytest.param(checked(tcpSocket={"port": 1, "host": "tcp://db:1"}), HOST, id="tcp-host-url"),
    pytest.param(checked(tcpSocket={"port": 1, "host": "192.0.2.300"}), HOST, id="tcp-host-not-an-ip"),
    pytest.param(asked(host="[2001:db8::1]"), HOST, id="http-host-brackets"),
    pytest.param(asked(path="healthz"), "must begin with `/` and have no spaces", id="http-path"),
    pytest.param(asked(path="/a b"), "must begin with `/` and have no spaces", id="http-path-space"),
    pytest.param(asked(scheme="https"), 'supported values: "HTTP", "HTTPS"', id="http-scheme"),
    pytest.param(
        asked(tlsServerName="a.example"),
        "must be left out unless `scheme` is HTTPS",
        id="http-server-name-of-http",
    ),
    pytest.param(
        asked(scheme="HTTPS", tlsServerName="a b"),
        "must be a DNS name such as `app.example.org`",
        id="http-server-name",
    ),
    pytest.param(
        asked(headers=[{"name": "X Probe", "value": ""}]),
        "must be a header's name without spaces or `:`",
        id="http-header-name",
    ),
    pytest.param(
        asked(headers=[{"name": "content-Length", "value": "0"}]),
        "must not be Connection, Content-Length or Transfer-Encoding",
        id="http-header-of-the-probe",
    ),
    pytest.param(
        asked(headers=[{"name": "X", "value": "a\r\nHost: evil"}]),
        "must be printable ASCII without line breaks",
        id="http-header-injection",
    ),
    pytest.param(asked(expectedStatuses=[]), "should have at least 1 items", id="http-no-statuses"),
    pytest.param(
        asked(expectedStatuses=[100]), "should be greater than or equal to 200", id="http-status-100"
    ),
    pytest.param(asked(expectedStatuses=[200, 200]), "Duplicate value: 200", id="http-status-twice"),
    pytest.param(
        asked(bodyRegex="(ok"), "must be a regular expression of RE2", id="http-regex-that-does-not-compile"
    ),
    pytest.param(asked(bodyRegex="x" * 513), "may not be more than 512", id="http-regex-long"),
    pytest.param(
        checked(tcpSocket=None, icmp={"target": "router"}),
        "must be an IP address such as `192.0.2.1`, or the word `gateway`",
        id="icmp-target",
    ),
    pytest.param(checked(tcpSocket=None, exec={"hook": "/bin/sh"}), HOOK, id="exec-path"),
    pytest.param(checked(tcpSocket=None, exec={"hook": ".."}), HOOK, id="exec-parent-folder"),
    pytest.param(
        checked(tcpSocket=None, exec={"hook": "a", "args": ["b\0c"]}),
        "must not contain a NUL character",
        id="exec-nul",
    ),
    pytest.param(checked(tcpSocket=None, link={"interface": "eth 0"}), INTERFACE, id="link-interface"),
    pytest.param(probed(grpc={"service": "billing"}), "grpc.port: Required value", id="grpc-port-missing"),
    pytest.param(probed(grpc={"port": 1, "host": "db:1"}), HOST, id="grpc-host-with-port"),
    pytest.param(
        probed(process={"executable": "bin/nginx"}),
        "must be an absolute path or a plain name without `/`",
        id="process-relative",
    ),
    pytest.param(
        probed(process={"executable": "nginx", "atLeast": 0}),
        "should be greater than or equal to 1",
        id="process-at-least-none",
    ),
    pytest.param(probed(file={"path": "run/a"}), "must be the absolute path of a file", id="file-relative"),
    pytest.param(probed(file={"path": "/run/"}), "must be the absolute path of a file", id="file-folder"),
    pytest.param(
        probed(file={"path": "/a", "maxAgeSeconds": 0}),
        "should be greater than or equal to 1",
        id="file-of-no-age",
    ),
    pytest.param(
        probed(file={"path": "/a", "contentRegex": "(ok"}),
        "must be a regular expression of RE2",
        id="file-regex-that-does-not-compile",
    ),
    pytest.param(
        probed(systemdUnit={"unit": "chronyd"}),
        "must be the name of a unit as `systemctl` shows it",
        id="unit-looked-at-without-suffix",
    ),
    pytest.param(
        probed(pods={"selector": {"matchLabels": {"a": "b"}}}),
        "pods.namespace: Required value",
        id="pods-of-no-namespace",
    ),
    pytest.param(
        probed(pods={"namespace": "Prod", "selector": {"matchLabels": {"a": "b"}}}),
        "must be the name of a namespace",
        id="pods-namespace",
    ),
    pytest.param(
        probed(pods={"namespace": "prod", "selector": {"matchLabels": {}}}),
        "should have at least 1 properties",
        id="pods-all-of-them",
    ),
    pytest.param(
        probed(pods={"namespace": "prod", "selector": {"matchLabels": {"a": "b c"}}}),
        LABEL_VALUE,
        id="pods-label-value",
    ),
    pytest.param(checked(observedFrom="Peers", weight=20), PEERS, id="peers-with-weight"),
    pytest.param(checked(observedFrom="Peers", tcpSocket={"port": 1, "host": "db"}), PEERS, id="peers-host"),
    pytest.param(
        probed(httpGet={"port": 1, "host": "127.0.0.1"}, observedFrom="Peers"), PEERS, id="peers-of-http-host"
    ),
    pytest.param(
        probed(grpc={"port": 1, "host": "db"}, observedFrom="Peers"), PEERS, id="peers-of-grpc-host"
    ),
    pytest.param(probed(exec={"hook": "app"}, observedFrom="Peers"), PEERS, id="peers-of-a-hook"),
    pytest.param(
        verified(observedFrom="Peers", tcpSocket={"port": 1, "host": "db"}),
        PEERS,
        id="peers-of-a-service-s-host",
    ),
    pytest.param(
        verified(observedFrom="Peers", tcpSocket=None, process={"executable": "app"}),
        PEERS,
        id="peers-of-a-process",
    ),
    pytest.param(checked(observedFrom="Witnesses"), 'supported values: "Candidate", "Peers"', id="observers"),
    # typing errors
    pytest.param(
        virtual_ip(adresses=["192.0.2.10"]), 'unknown field "spec.adresses"', id="vip-unknown-field"
    ),
    pytest.param(
        checked(dns={"name": "a"}), 'unknown field "spec.healthChecks[0].dns"', id="check-of-no-kind"
    ),
    # ServiceFailover
    pytest.param(
        failover(mode="Active"), 'supported values: "ActiveStandby", "Mutual", "Cluster"', id="mode"
    ),
    pytest.param(
        {**failover(), "spec": {"services": [service()]}}, "spec.mode: Required value", id="without-mode"
    ),
    pytest.param(
        {**failover(), "spec": {"mode": "Cluster", "services": []}},
        "should have at least 1 items",
        id="no-services",
    ),
    pytest.param(
        failover(*(service(f"app-{n}") for n in range(17))), "must have at most 16 items", id="many-services"
    ),
    pytest.param(failover(service(), service()), "spec.services[1]: Duplicate value", id="service-twice"),
    pytest.param(
        failover(service("one", "first"), service("two", "second")),
        "must all have the same `virtualIPRef` in the mode ActiveStandby",
        id="active-standby-of-two-addresses",
    ),
    pytest.param(
        failover(service("one"), service("two", standbys=["node-c"])), OTHER_NODES, id="other-standbys"
    ),
    pytest.param(
        failover(
            service("one", standbys=["node-b", "node-c"]),
            service("two", standbys=["node-c", "node-b"]),
            mode="Cluster",
        ),
        OTHER_NODES,
        id="standbys-in-another-order",
    ),
    pytest.param(
        failover(service("one"), service("two", primary="node-c"), mode="Cluster"),
        OTHER_NODES,
        id="other-primary",
    ),
    pytest.param(failover(mode="Mutual"), MUTUAL, id="mutual-of-one"),
    pytest.param(failover(service("one"), service("two"), mode="Mutual"), MUTUAL, id="mutual-on-one-address"),
    pytest.param(
        failover(
            service("one", "first"),
            service("two", "second", primary="node-b", standbys=["node-a"]),
            service("three", "third"),
            mode="Mutual",
        ),
        MUTUAL,
        id="mutual-of-three",
    ),
    pytest.param(
        failover(service("one", "first"), service("two", "second"), mode="Mutual"), CROSSED, id="not-mutual"
    ),
    pytest.param(
        failover(
            service("one", "first", standbys=["node-b", "node-c"]),
            service("two", "second", primary="node-b", standbys=["node-a"]),
            mode="Mutual",
        ),
        CROSSED,
        id="mutual-with-a-third-node",
    ),
    pytest.param(failover(service("one"), service("two", after=["three"])), AFTER, id="after-nobody"),
    pytest.param(
        failover(service("one", "first"), service("two", "second", after=["one"]), mode="Cluster"),
        AFTER,
        id="after-another-address-s",
    ),
    pytest.param(failover(service("one", after=["two"]), service("two")), BEHIND, id="before-it"),
    pytest.param(failover(service("one", after=["one"])), BEHIND, id="after-itself"),
    pytest.param(
        failover(service("one", after=["two"]), service("two", after=["one"])), BEHIND, id="in-a-ring"
    ),
    pytest.param(
        failover(service("one", order="AddressFirst"), service("two", after=["one"])),
        "must start after the addresses are bound where they name a service in `after` that does",
        id="before-the-addresses-and-after",
    ),
    pytest.param(
        failover(service("one"), service("two", after=["one", "one"])), "Duplicate value", id="after-twice"
    ),
    pytest.param(failover(service("My App")), NAME, id="service-name"),
    pytest.param(failover(service(follows="Web")), "must be the name of a VirtualIP", id="service-vip-name"),
    pytest.param(
        failover(service(virtualIPRef=None)), "services[0].virtualIPRef: Required value", id="service-vip"
    ),
    pytest.param(failover(service(primary="Node A")), NODE_NAME, id="service-primary"),
    pytest.param(failover(service(primary=None)), "primary: Required value", id="service-no-primary"),
    pytest.param(failover(service(standbys=["Node B"])), NODE_NAME, id="service-standby"),
    pytest.param(failover(service(standbys=[])), "should have at least 1 items", id="service-no-standby"),
    pytest.param(
        failover(service(standbys=[f"node-{n}" for n in range(16)])),
        "must have at most 15 items",
        id="service-sixteen-standbys",
    ),
    pytest.param(
        failover(service(standbys=["node-b", "node-c", "node-b"])),
        "standbys: Invalid value: must not name a node twice",
        id="service-standby-twice",
    ),
    pytest.param(
        failover(service(standbys=["node-b", "node-a"])),
        "must not have the `primary` among them: remove it",
        id="service-primary-as-standby",
    ),
    pytest.param(failover(service(workload=None)), "workload: Required value", id="service-no-workload"),
    pytest.param(failover(service(workload={})), WORKLOAD, id="workload-of-no-kind"),
    pytest.param(
        failover(service(workload={"systemd": {"unit": "a.service"}, "exec": {"start": {"hook": "a"}}})),
        WORKLOAD,
        id="workload-of-two-kinds",
    ),
    pytest.param(failover(service(workload={"exec": {}})), "start: Required value", id="exec-no-start"),
    pytest.param(run_by_systemd("tomcat"), "should be at least 9 chars long", id="unit-without-suffix"),
    pytest.param(run_by_systemd("tomcat.socket"), UNIT, id="unit-of-another-kind"),
    pytest.param(run_by_systemd("../app.service"), UNIT, id="unit-path"),
    pytest.param(run_by_systemd("app@.service"), UNIT, id="unit-without-instance"),
    *(
        case
        for step in ("start", "stop", "status")
        for case in (
            pytest.param(executed(**{step: {"hook": "../app"}}), HOOK, id=f"{step}-path"),
            pytest.param(
                executed(**{step: {"hook": "app", "args": ["a\0"]}}),
                "must not contain a NUL character",
                id=f"{step}-nul",
            ),
        )
    ),
    pytest.param(
        failover(service(order="Together")), 'supported values: "ServiceFirst", "AddressFirst"', id="order"
    ),
    pytest.param(failover(service(singleton="yes")), "must be of type boolean", id="singleton-string"),
    pytest.param(
        failover(service(startTimeoutSeconds=0)), "should be greater than or equal to 1", id="no-start-time"
    ),
    pytest.param(
        failover(service(stopTimeoutSeconds=3601)),
        "should be less than or equal to 3600",
        id="a-stop-of-hours",
    ),
    pytest.param(
        failover(service(onStopFailure="Kill")), 'supported values: "Block", "Fence"', id="stop-failure"
    ),
    pytest.param(
        placed({"ocf": {"provider": "..", "type": "apache"}}),
        "must be the plain name of a folder of resource agents",
        id="ocf-provider",
    ),
    pytest.param(
        placed({"ocf": {"provider": "heartbeat", "type": "../apache"}}),
        "must be the plain name of a resource agent",
        id="ocf-type",
    ),
    pytest.param(
        placed({"ocf": {"provider": "heartbeat", "type": "apache", "parameters": {"a": "b\0"}}}),
        "must not contain a NUL character",
        id="ocf-nul",
    ),
    pytest.param(
        placed({"mount": {"source": "/dev/sdb1\0", "target": "/srv"}}),
        "must not contain a NUL character",
        id="mount-nul",
    ),
    *(
        pytest.param(
            placed({"mount": {"source": "/dev/sdb1", "target": target}}),
            "must be the absolute path of a folder, not `/` itself",
            id=f"mount-on-{target}",
        )
        for target in ("srv", "/srv/", "//srv", "/srv/../etc", "/srv/.", "/..")
    ),
    pytest.param(
        placed({"mount": {"source": "/dev/sdb1", "target": "/"}}),
        "should be at least 2 chars long",
        id="mount-on-the-root",
    ),
    pytest.param(
        placed({"mount": {"source": "/dev/sdb1", "target": "/srv", "fsType": "ext4,rw"}}),
        "must be the type of a file system as mount(8) has it",
        id="mount-type",
    ),
    pytest.param(
        placed({"mount": {"source": "/dev/sdb1", "target": "/srv", "options": ["ro,noatime"]}}),
        "must be one mount option without commas and spaces",
        id="mount-two-options-in-one",
    ),
    pytest.param(
        placed({"kubernetesService": {"name": "7"}}), "must be the name of a Service", id="kube-service-name"
    ),
    pytest.param(
        placed({"kubernetesService": {"name": "billing", "port": 0}}),
        "should be greater than or equal to 1",
        id="kube-service-port",
    ),
    pytest.param(
        placed({"kubernetesService": {"name": "a", "podSelector": {"matchLabels": {"a": "-"}}}}),
        LABEL_VALUE,
        id="kube-service-label-value",
    ),
    pytest.param(
        placed({"kubernetesService": {"name": "a", "podSelector": {}}}),
        "podSelector.matchLabels: Required value",
        id="kube-service-of-any-pod",
    ),
    pytest.param(
        placed({"deployment": {"name": "Billing"}}, singleton=False),
        "must be the name of a Deployment",
        id="deployment-name",
    ),
    *(
        pytest.param(
            placed({"deployment": {"name": "billing"}}, singleton=singleton),
            "must be false, written out, for a `deployment`",
            id=f"deployment-singleton-{singleton}",
        )
        for singleton in (None, True)
    ),
    *(
        pytest.param(
            failover(service("one"), service("two", workload=workload, singleton=False, **said)),
            OF_THE_CLUSTER,
            id=f"{next(iter(workload))}-{next(iter(said))}",
        )
        for workload in ({"deployment": {"name": "billing"}}, {"kubernetesService": {"name": "billing"}})
        for said in ({"hooks": {}}, {"onStopFailure": "Block"}, {"after": ["one"]})
    ),
    *(
        pytest.param(
            failover(service("one", workload=workload, singleton=False), service("two", after=["one"])),
            "must not name a `kubernetesService` or `deployment` in `after`",
            id=f"after-a-{next(iter(workload))}",
        )
        for workload in ({"deployment": {"name": "billing"}}, {"kubernetesService": {"name": "billing"}})
    ),
    pytest.param(
        failover(
            service("one", workload={"deployment": {"name": "a"}}, singleton=False),
            service("two", workload={"kubernetesService": {"name": "a"}}),
            healthChecks=[{"name": "app", "tcpSocket": {"port": 80}}],
        ),
        "must be left out where every service is a `kubernetesService` or `deployment`",
        id="checks-that-nobody-runs",
    ),
    *(
        case
        for kind in ("promoted", "demoted", "faulted")
        for case in (
            pytest.param(hooked(kind, hook="../tell"), HOOK, id=f"{kind}-path"),
            pytest.param(hooked(kind, args=["a\0"]), "must not contain a NUL character", id=f"{kind}-nul"),
        )
    ),
    pytest.param(
        failover(service(hooks={"promoted": [{"hook": "tell"}] * 5})),
        "must have at most 4 items",
        id="five-hooks",
    ),
    pytest.param(
        verified(tcpSocket=None, pods={"selector": {"matchLabels": {"a": "b"}}, "namespace": "other"}),
        'unknown field "spec.healthChecks[0].pods.namespace"',
        id="pods-of-another-namespace",
    ),
    pytest.param(
        verified(weight=20), 'unknown field "spec.healthChecks[0].weight"', id="failover-check-weight"
    ),
    pytest.param(
        failover(failback={"policy": "Never"}),
        'supported values: "Manual", "Automatic"',
        id="failover-failback",
    ),
    # FailoverDomain
    pytest.param(domain(allowedAddresses=[]), "should have at least 1 items", id="domain-allows-nothing"),
    pytest.param(
        domain(allowedAddresses=["192.0.2.0"]),
        "must be a network with its prefix length, such as `192.0.2.0/24`",
        id="domain-range-without-prefix",
    ),
    pytest.param(
        domain(allowedAddresses=["192.0.2.1/24"]),
        "must not have host bits, such as `192.0.2.0/24`",
        id="domain-host-bits",
    ),
    pytest.param(
        domain(allowedAddresses=["2001:DB8::/64"]),
        "must be in canonical form, such as `2001:db8::/64`",
        id="domain-range-upper-case",
    ),
    pytest.param(
        domain(allowedAddresses=["192.0.2.0/24", "192.0.2.0/24"]),
        "[1]: Duplicate value",
        id="domain-range-twice",
    ),
    pytest.param(
        domain(profile="Turbo"), 'supported values: "Fast", "Balanced", "Relaxed"', id="domain-profile"
    ),
    pytest.param(
        domain(profile="Fast", timing=timed(50, 250, 310, 320)["spec"]["timing"]),
        "must be left out where `timing` is set: remove one of the two",
        id="domain-profile-and-timing",
    ),
    pytest.param(
        domain(timing={"heartbeatMilliseconds": 50, "leaseMilliseconds": 250, "grantMilliseconds": 310}),
        "spec.timing.silenceMilliseconds: Required value",
        id="domain-three-times",
    ),
    pytest.param(
        timed(50, 100, 123, 123), "must be less than half of `leaseMilliseconds`", id="domain-heartbeat"
    ),
    pytest.param(
        timed(20, 1000, 1222, 1300),
        "must be greater than or equal to 1.223 times `leaseMilliseconds`",
        id="domain-grant",
    ),
    pytest.param(
        timed(20, 100, 123, 122), "must be greater than or equal to `grantMilliseconds`", id="domain-silence"
    ),
    pytest.param(timed(9, 100, 123, 123), "should be greater than or equal to 10", id="domain-heartbeat-low"),
    pytest.param(
        timed(20, 60001, 120000, 120000), "should be less than or equal to 60000", id="domain-lease-high"
    ),
    pytest.param(domain(witnesses={"count": 2}), "must be odd: 1, 3, 5 or 7", id="domain-even-witnesses"),
    pytest.param(
        domain(witnesses={"count": 9}), "should be less than or equal to 7", id="domain-nine-witnesses"
    ),
    pytest.param(domain(heartbeat={"port": 0}), "should be greater than or equal to 1", id="domain-port"),
    pytest.param(domain(heartbeat={"interface": "a:b"}), INTERFACE, id="domain-interface"),
    pytest.param(domain(key={"secretName": "My_Key"}), "must be the name of a Secret", id="domain-secret"),
    pytest.param(
        domain(witnesses={"replaceAfterSeconds": 0}),
        "should be greater than or equal to 1",
        id="domain-replace-at-once",
    ),
    pytest.param(
        domain(witnesses={"replaceAfterSeconds": 3601}),
        "should be less than or equal to 3600",
        id="domain-replace-late",
    ),
    pytest.param(
        domain(witnesses={"apiServer": "yes"}), "must be of type boolean", id="domain-api-server-string"
    ),
    pytest.param(
        domain(gateway={"probe": "On"}), 'supported values: "Auto", "Off"', id="domain-gateway-probe"
    ),
    pytest.param(
        domain(gateway={"onUnreachable": "Hold"}),
        'supported values: "Release", "Ignore"',
        id="domain-gateway-unreachable",
    ),
    # Switchover
    pytest.param(switchover(to=None), "spec.to: Required value", id="switchover-without-target"),
    pytest.param(switchover(to="Node B"), NODE_NAME, id="switchover-node-name"),
    pytest.param(
        switchover(virtualIPRef=None), "spec.virtualIPRef: Required value", id="switchover-without-vip"
    ),
    pytest.param(
        switchover(virtualIPRef={"name": "Web"}), "must be the name of a VirtualIP", id="switchover-vip-name"
    ),
    pytest.param(switchover(type="Test"), 'supported values: "Move", "Drill"', id="switchover-type"),
]

BAD_CHANGES = [
    pytest.param(
        virtual_ip(),
        virtual_ip(domain="other"),
        "must not change: delete this VirtualIP and create it anew in the other domain",
        id="vip-domain-set",
    ),
    pytest.param(
        virtual_ip(domain="other"),
        virtual_ip(),
        "must not change: delete this VirtualIP and create it anew in the other domain",
        id="vip-domain-unset",
    ),
    pytest.param(
        domain(), domain(profile="Fast"), "must not change, and `timing` neither", id="domain-profile-set"
    ),
    pytest.param(
        domain(profile="Relaxed", witnesses={"count": 3}),
        domain(witnesses={"count": 3}),
        "must not change, and `timing` neither",
        id="domain-profile-unset",
    ),
    pytest.param(
        timed(20, 100, 123, 123),
        timed(20, 100, 124, 124),
        "must not change, and `timing` neither",
        id="domain-timing-changed",
    ),
    pytest.param(
        domain(),
        domain(heartbeat={"interface": "eth0"}),
        "spec.heartbeat.interface: Forbidden: must not change",
        id="domain-interface-set",
    ),
    pytest.param(
        domain(heartbeat={"interface": "eth0"}),
        domain(heartbeat={"interface": "eth1"}),
        "must not change: the witnesses know each other by their addresses on it",
        id="domain-interface-changed",
    ),
    pytest.param(
        domain(heartbeat={"interface": "eth0", "port": 7947}),
        domain(heartbeat={"port": 7947}),
        "spec.heartbeat.interface: Forbidden: must not change",
        id="domain-interface-unset",
    ),
    pytest.param(
        domain(heartbeat={"interface": "eth0"}, witnesses={"count": 3}),
        domain(witnesses={"count": 3}),
        "spec.heartbeat.interface: Forbidden: must not change",
        id="domain-interface-gone-with-its-parent",
    ),
    pytest.param(
        domain(),
        domain(heartbeat={"port": 7947}),
        "must not change: nodes that use different ports for a moment do not hear each other",
        id="domain-port-set",
    ),
    pytest.param(
        domain(heartbeat={"interface": "eth0", "port": 7947}),
        domain(heartbeat={"interface": "eth0"}),
        "spec.heartbeat.port: Forbidden: must not change",
        id="domain-port-unset",
    ),
    pytest.param(
        domain(),
        domain(key={"secretName": "rack-1.heartbeat"}),
        "must not change: nodes that read different Secrets for a moment do not hear each other",
        id="domain-secret-set",
    ),
    pytest.param(
        domain(key={"secretName": "rack-1.heartbeat"}, witnesses={"count": 3}),
        domain(witnesses={"count": 3}),
        "spec.key.secretName: Forbidden: must not change",
        id="domain-secret-unset",
    ),
    pytest.param(
        switchover(),
        switchover(to="node-c"),
        "must not change: create another Switchover instead",
        id="switchover",
    ),
    pytest.param(
        failover(service("one", "web"), mode="Cluster"),
        failover(service("one", "db"), mode="Cluster"),
        "must not change: remove the service and add it under another `name`",
        id="service-on-another-address",
    ),
]

GOOD_CHANGES = [
    pytest.param(virtual_ip(), virtual_ip(domain="default"), id="vip-domain-said-aloud"),
    pytest.param(
        virtual_ip(domain="other"), virtual_ip(domain="other", addresses=["192.0.2.9"]), id="vip-addresses"
    ),
    pytest.param(
        domain(), domain(profile="Balanced", witnesses={"count": 5}), id="domain-profile-said-aloud"
    ),
    pytest.param(
        domain(),
        domain(heartbeat={"port": 7946}, key={"secretName": "vipkeeper-heartbeat"}),
        id="domain-heartbeat-said-aloud",
    ),
    pytest.param(
        domain(heartbeat={"port": 7946}, key={"secretName": "vipkeeper-heartbeat"}, witnesses={"count": 3}),
        domain(witnesses={"count": 5}),
        id="domain-heartbeat-said-no-more",
    ),
    pytest.param(
        domain(heartbeat={}, key={}),
        domain(heartbeat={"port": 7946}, key={"secretName": "vipkeeper-heartbeat"}),
        id="domain-heartbeat-filled-in",
    ),
    pytest.param(domain(), domain(heartbeat={}, key={}), id="domain-heartbeat-of-nothing"),
    pytest.param(
        domain(heartbeat={"interface": "eth0"}),
        domain(heartbeat={"interface": "eth0", "port": 7946}, key={}, gateway={"probe": "Off"}),
        id="domain-everything-else",
    ),
    pytest.param(switchover(), switchover(), id="switchover-applied-again"),
    pytest.param(
        failover(),
        failover(
            service("db", "db", primary="node-c", workload={"systemd": {"unit": "db.service"}}),
            mode="Cluster",
        ),
        id="failover-everything",
    ),
]
