"""Two web servers behind one address, as `examples/web-pair` has it: exactly those files, applied by kubectl.

The web server is the lab's legacy server, which answers its page with status 500 when it is told to. Of the
third way, where vipkeeper starts and stops the server, only the port is another one here, for the servers
of the first two run on the same nodes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import copies, legacyserver
from lab.copies import Watch
from lab.legacy import Legacy, running
from lab.servicefaults import kill_everything_on
from lab.stage import HTTP, VERSION, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.cluster import Lab
    from lab.topology import Host

NODES = 2
EXAMPLES = Path(__file__).parents[2] / "examples" / "web-pair"
ADDRESSES = {"web": "192.0.2.30", "web-by-hand": "192.0.2.31", "web-fenced": "192.0.2.32"}
PORT, FENCED_PORT = 80, 8090
# failureThreshold x periodMilliseconds + timeoutMilliseconds, a move, and a busy machine
PAGE_MS = 2 * 500 + 500 + 700


class Pair:
    """Both nodes with their web servers, the three ways side by side, and who watches them."""

    def __init__(self, lab: Lab) -> None:
        self.stage = Stage(lab)
        self.servers = {
            name: Legacy(node, lab.folder / "pages", name="page", port=PORT)
            for name, node in lab.nodes.items()
        }
        self.fenced = {
            name: Legacy(node, lab.folder / "shared", name="web", port=FENCED_PORT)
            for name, node in lab.nodes.items()
        }
        self.watch = Watch(folder=lab.folder / "copies", port=FENCED_PORT)

    @property
    def shared(self) -> Path:
        return next(iter(self.fenced.values())).shared

    def start(self) -> None:
        """Start the servers as their nodes do, vipkeeper, and apply the examples."""
        for name, node in self.stage.lab.nodes.items():
            self.fenced[name].install_in_foreground()
            self.serve(node)
        self.watch.watch(*self.stage.lab.nodes.values())
        self.stage.start()
        self.stage.lab.plane.kubectl("apply", "-f", EXAMPLES.parent / "failoverdomain-default.yaml")
        for file in ("failback-automatic.yaml", "failback-manual.yaml", "self-fencing.yaml"):
            self.apply(file)
        self.stage.watch(
            ADDRESSES,
            urls={
                f"{name}-{HTTP}": f"http://{address}:{PORT if name != 'web-fenced' else FENCED_PORT}/healthz"
                for name, address in ADDRESSES.items()
            },
        )
        self.stage.rest(*ADDRESSES)

    def apply(self, file: str) -> None:
        """Apply an example, as its first lines say."""
        manifest = self.stage.lab.folder / file
        text = (EXAMPLES / file).read_text()
        manifest.write_text(
            text.replace(f"port: {PORT},", f"port: {FENCED_PORT},") if file == "self-fencing.yaml" else text
        )
        self.stage.lab.plane.kubectl("apply", "-f", manifest)

    def serve(self, node: Host) -> None:
        """Start the web server of a node, as the node does when it boots."""
        server = self.servers[node.name]
        for folder in (server.folder, server.shared):
            folder.mkdir(exist_ok=True)
        node.start(server.command, name="page").wait_for_output("serves on port", patience_s=20)

    def power_off(self, node: Host) -> None:
        """Pull a node's plug: nothing of it goes on."""
        self.stage.power_off(node)
        kill_everything_on(node, sparing={self.watch.started[node.name].child.pid})

    def power_on(self, node: Host) -> None:
        """Boot a node, with its web server."""
        self.stage.power_on(node)
        self.watch.watch(node)
        self.serve(node)

    def owner(self, virtual_ip: str) -> str:
        return self.stage.owner(virtual_ip).name

    def doubles(self) -> list[copies.Overlap | copies.Collision]:
        """Return every proof that the server that vipkeeper starts ever ran twice."""
        return [*copies.overlaps(self.watch.attempts()), *copies.collisions_in(self.shared)]


@pytest.fixture(scope="module")
def pair(lab: Lab) -> Iterator[Pair]:
    running_pair = Pair(lab)
    running_pair.start()
    yield running_pair
    running_pair.watch.stop()


def test_a_page_without_status_200_moves_the_address_which_returns_by_itself_or_when_it_is_asked_for(
    pair: Pair,
) -> None:
    pair.stage.wait_until(
        "both at home", lambda: {pair.owner("web"), pair.owner("web-by-hand")} == {"node-a"}
    )
    page = pair.servers["node-a"]
    outcome = pair.stage.act("web", partial(page.wish, legacyserver.SICK), reads=HTTP, expect="node-b")
    assert outcome.is_safe, outcome
    assert "release" in outcome.said, outcome
    assert outcome.outage_ms - outcome.hiccup_ms < PAGE_MS, outcome
    pair.stage.wait_until("the other's move", lambda: pair.owner("web-by-hand") == "node-b")
    page.unwish(legacyserver.SICK)
    pair.stage.wait_until("its return", lambda: pair.owner("web") == "node-a")
    # The same page has been well for just as long, and nobody has asked for this one.
    assert pair.owner("web-by-hand") == "node-b"
    pair.stage.rest("web-by-hand")
    back = pair.stage.act(
        "web-by-hand", partial(pair.apply, "switchover-back.yaml"), reads=HTTP, expect="node-a"
    )
    assert back.is_safe, back


def test_the_address_follows_the_death_of_its_node(pair: Pair) -> None:
    owner = pair.stage.owner("web")
    outcome = pair.stage.act("web", partial(pair.power_off, owner), reads=HTTP)
    pair.power_on(owner)
    assert outcome.is_safe, outcome


def test_a_node_whose_page_fails_stops_its_own_server_and_the_other_starts_it_and_takes_over(
    pair: Pair,
) -> None:
    pair.stage.wait_until("one server", lambda: len(running(pair.shared)) == 1)
    pair.stage.rest("web-fenced")
    owner = pair.owner("web-fenced")
    standby = next(name for name in pair.fenced if name != owner)
    server = pair.fenced[owner]
    outcome = pair.stage.act(
        "web-fenced", partial(server.wish, legacyserver.SICK), reads=HTTP, expect=standby
    )
    assert outcome.is_safe, outcome
    assert running(pair.shared) == [f"{standby}.{pair.fenced[standby].starts()}"]
    assert f"{ADDRESSES['web-fenced']}/32" not in pair.stage.lab.nodes[owner].addresses()
    server.unwish(legacyserver.SICK)
    starts = server.starts()
    pair.stage.wait_until("the owner's settled state", lambda: service_state(pair) == (standby, "Active"))
    assert (pair.owner("web-fenced"), server.starts()) == (standby, starts)


def service_state(pair: Pair) -> tuple[str, str]:
    """Return where the service is and in which state, as its status says."""
    found = pair.stage.lab.plane.api.get(VERSION, "ServiceFailover", "web", namespace="default")
    [service] = found["status"]["services"]
    return service.get("owner", ""), service["state"]


def test_in_all_this_time_the_server_never_ran_twice(pair: Pair) -> None:
    assert {each.node for each in pair.watch.attempts() if each.answered_ns} == set(pair.fenced)
    assert pair.doubles() == []
