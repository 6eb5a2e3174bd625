"""`helm upgrade` of two nodes, whose third vote is the API server's: there is always a keeper to take over.

While one keeper is restarted the other is no majority. It goes on with the API server's vote, and must stay:
the DaemonSet's controller deletes every old pod that is not ready at once, so a keeper that said in `/readyz`
that it misses the other would be taken away too.

What is judged follows from the API server's own record of the pods, from the kernels' of the addresses, and
from what the keepers said to each other. A machine so busy that the API server does not answer in time for a
vote costs an owner its lease, as the docs say, and fails here.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from e2e.chart import NAMESPACE, REGISTRY, is_ready
from e2e.conftest import ADDRESSES
from lab.stage import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from e2e.chart import Chart
    from e2e.cluster import Cluster
    from e2e.conftest import Told
    from e2e.podstage import Move, PodStage

NODES = 2
UPGRADED_S = 180
AGENTS = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dnode-agent"


def changes_since(cluster: Cluster, version: str) -> list[dict[str, Any]]:
    """Return what has happened to the agents' pods since then, in order, as a watch tells it."""
    query = f"&watch=true&timeoutSeconds=1&resourceVersion={version}"
    told = cluster.plane.kubectl("get", "--raw", f"{AGENTS}{query}")
    changes = [json.loads(line) for line in told.splitlines()]
    assert {each["type"] for each in changes} <= {"ADDED", "MODIFIED", "DELETED"}, changes[-1]
    return changes


def ends(
    pods: Iterable[dict[str, Any]], changes: Iterable[dict[str, Any]]
) -> Iterator[tuple[str, frozenset[str], frozenset[str]]]:
    """Yield the node of each agent that was told to stop, in order, and who is there at that moment.

    These are the nodes whose agents are Ready and not to stop, and those whose former agent has not ended.
    """
    known = {each["metadata"]["uid"]: each for each in pods}
    ending: set[str] = set()
    for change in changes:
        pod = change["object"]
        uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName", "")
        if change["type"] == "DELETED":
            known.pop(uid)
            ending.discard(uid)
            continue
        known[uid] = pod
        if "deletionTimestamp" in pod["metadata"] and uid not in ending:
            others = frozenset(known[each]["spec"]["nodeName"] for each in ending)
            ending.add(uid)
            there = (each for key, each in known.items() if key not in ending and is_ready(each))
            yield node, frozenset(each["spec"]["nodeName"] for each in there), others


def path_of(moves: Iterable[Move]) -> list[tuple[str, str]]:
    return [(move.before, move.after) for move in moves]


def test_one_keeper_of_two_is_always_there_and_an_address_moves_only_when_its_owner_stops(
    stage: PodStage, cluster: Cluster, chart: Chart, told: Told, next_version: str
) -> None:
    stage.rest(*ADDRESSES)
    api = cluster.plane.api
    [domain] = api.list(VERSION, "FailoverDomain")
    assert {each["nodeName"] for each in domain["status"]["witnesses"]} == set(cluster.nodes)
    assert domain["status"]["apiServerVotes"]
    owner = stage.owner("minimal").name
    terms = {name: stage.status(name)["term"] for name in ADDRESSES}
    before = json.loads(cluster.plane.kubectl("get", "--raw", AGENTS))
    since_ns = time.monotonic_ns()

    chart.upgrade({"image": {"registry": REGISTRY, "tag": next_version}}, f"--timeout={UPGRADED_S}s")

    chart.await_ready()
    changes = changes_since(cluster, before["metadata"]["resourceVersion"])
    stage.rest(*ADDRESSES)
    until_ns = stage.measured.settle()
    title = f"helm upgrade of two nodes to {next_version}"
    told.time(f"{title}, one after the other", (until_ns - since_ns) / 1e9)
    assert {each["status"]["version"] for each in api.list(VERSION, "VIPNode")} == {next_version}
    ended = list(ends(before["items"], changes))
    stopped = [node for node, _, _ in ended]
    assert sorted(stopped) == sorted(cluster.nodes)
    for node, ready, ending in ended:
        assert ready == set(cluster.nodes) - {node}, f"{node} was told to stop: {ended}"
        assert not ending, f"{node} was told to stop: {ended}"

    moves = {name: stage.moves(name, since_ns=since_ns, until_ns=until_ns) for name in ADDRESSES}
    for name in ADDRESSES:
        for move in moves[name]:
            told.move(title, move)
        assert moves[name]
        assert not stage.measured.overlaps(name, since_ns=since_ns)
        assert stage.status(name)["term"] > terms[name]
        # Nobody was taken for dead: each owner told the next.
        assert all(move.was_handed_over for move in moves[name])
        assert stage.status(name)["lastFailover"]["reason"] != "LeaseExpired"
    expected = []
    for node in stopped:
        if node == owner:
            [owner] = set(cluster.nodes) - {node}
            expected.append((node, owner))
    assert path_of(moves["minimal"]) == expected
    # Nor did its kernel lose and get it in between. (`web` may fail back by itself at any moment.)
    assert stage.bindings("minimal", since_ns=since_ns) == [after for _, after in expected]
