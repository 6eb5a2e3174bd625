from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import faults
from lab.analysis import INTERVAL_NS, MILLISECOND, longest_silence
from lab.measuring import CONTROL, Measurement, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.cluster import Lab
    from lab.records import Probe

ADDRESS = "192.0.2.77"
ADDRESS_6 = "2001:db8::77"
ADD = """
import sys
from pyroute2 import IPRoute
with IPRoute() as netlink:
    [eth0] = netlink.link_lookup(ifname="eth0")
    netlink.addr(sys.argv[1], index=eth0, address=sys.argv[2], prefixlen=int(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def measured(lab: Lab) -> Iterator[Measurement]:
    """node-b's addresses and two that nobody has at first, asked by the client and by node-c."""
    node_b = lab.nodes["node-b"]
    measurement = lab.measure(
        {"four": node_b.ipv4, "six": node_b.ipv6, "floating": ADDRESS, "floating-6": ADDRESS_6}
    )
    measurement.watch_from(lab.nodes["node-c"])
    wait_until(lambda: bool(answered(measurement.probes("six"))))
    wait_until(lambda: bool(answered(measurement.probes("four", vantage="node-c"))))
    yield measurement
    measurement.stop()


def wait_until(is_so: Callable[[], bool], *, patience_s: float = 10) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def answered(probes: list[Probe]) -> list[Probe]:
    return [probe for probe in probes if probe.node]


def answers_within(measured: Measurement, label: str, *, vantage: str | None = None) -> list[Probe]:
    """Return the answers to the probes of half a second that starts now."""
    start_ns = time.monotonic_ns()
    time.sleep(0.5)
    end_ns = measured.settle()
    probes = measured.probes(label, vantage=vantage)
    return answered([probe for probe in probes if start_ns < probe.sent_ns < end_ns])


def test_every_node_is_ready_and_has_its_addresses(lab: Lab) -> None:
    nodes = lab.plane.api.list("v1", "Node")
    assert [node["metadata"]["name"] for node in nodes] == ["node-a", "node-b", "node-c"]
    assert nodes[1]["status"]["addresses"][0] == {"type": "InternalIP", "address": "192.0.2.102"}
    assert lab.nodes["node-b"].addresses() == {"192.0.2.102/24", "2001:db8::66/64"}


def test_nodes_reach_the_api_server(lab: Lab) -> None:
    node = lab.nodes["node-a"]
    answer = node.run(
        lab.plane.binaries.kubectl, "--kubeconfig", lab.plane.kubeconfig, "get", "nodes", "-o", "name"
    )
    assert "node/node-c" in answer


def test_the_answer_comes_from_the_node_that_was_asked(measured: Measurement) -> None:
    for label in ("four", "six"):
        assert {probe.node for probe in answers_within(measured, label)} == {"node-b"}
    assert {probe.node for probe in answered(measured.probes(CONTROL))} == {"gateway"}


def test_a_cut_link_is_silent_and_noticed(lab: Lab, measured: Measurement) -> None:
    node = lab.nodes["node-b"]
    cut_ns = time.monotonic_ns()
    lab.segment.cut(node)
    is_cut_ns = time.monotonic_ns()
    time.sleep(0.3)
    mended_ns = time.monotonic_ns()
    lab.segment.mend(node)
    wait_until(lambda: any(probe.sent_ns > mended_ns for probe in answered(measured.probes("four"))))
    until_ns = measured.settle()
    silence = longest_silence(measured.probes("four"), since_ns=cut_ns, until_ns=until_ns)
    assert silence.end_ns is not None
    assert silence.start_ns - INTERVAL_NS <= is_cut_ns < mended_ns <= silence.end_ns
    told = [
        event.event for event in measured.address_events() if event.node == "node-b" and event.at_ns > cut_ns
    ]
    assert told == ["link-down", "link-up"]


def test_a_silenced_node_keeps_its_carrier(lab: Lab, measured: Measurement) -> None:
    start_ns = time.monotonic_ns()
    with lab.faults.during(*faults.silence("node-b")):
        assert answers_within(measured, "six") == []
    assert [event for event in measured.address_events() if event.at_ns > start_ns] == []
    assert answers_within(measured, "six")


def test_two_hosts_set_apart_still_reach_the_others(lab: Lab, measured: Measurement) -> None:
    with lab.faults.during(*faults.apart("client", "node-b")):
        assert answers_within(measured, "four") == []
        assert answers_within(measured, "four", vantage="node-c")


def test_loss_can_be_one_way(lab: Lab, measured: Measurement) -> None:
    with lab.faults.during(faults.Loss(sender="node-b", receiver="client")):
        heard_ns = time.monotonic_ns()
        assert answers_within(measured, "four") == []
    seen = [each for each in measured.sightings(lab.nodes["node-b"].ipv4) if each.at_ns > heard_ns]
    assert {each.node for each in seen} == {"node-b"}, "node-b goes on answering, as the bridge can see"


def test_loss_at_a_rate(lab: Lab, measured: Measurement) -> None:
    with lab.faults.during(faults.Loss(sender="client", receiver="node-b", rate=0.4)):
        start_ns = time.monotonic_ns()
        answers = answers_within(measured, "four")
    sent = [probe for probe in measured.probes("four") if start_ns < probe.sent_ns <= answers[-1].sent_ns]
    assert 0.3 < len(answers) / len(sent) < 0.9


def test_the_watch_and_the_bridge_see_an_address_move(lab: Lab, measured: Measurement) -> None:
    before, after = lab.nodes["node-a"], lab.nodes["node-b"]
    before.run(sys.executable, "-c", ADD, "add", ADDRESS, "32")
    wait_until(lambda: bool(answered(measured.probes("floating"))))
    before.run(sys.executable, "-c", ADD, "del", ADDRESS, "32")
    after.run(sys.executable, "-c", ADD, "add", ADDRESS, "32")
    told = [(event.node, event.event) for event in measured.address_events(ADDRESS)]
    assert told == [("node-a", "added"), ("node-a", "removed"), ("node-b", "added")]
    [reply] = {each.mac for each in measured.sightings(ADDRESS) if each.kind == "arp-reply"} - {after.mac}
    assert reply == before.mac


@pytest.mark.parametrize(
    ("label", "address", "prefix"), [("floating", ADDRESS, "32"), ("floating-6", ADDRESS_6, "128")]
)
def test_a_duplicate_address_is_proved_though_every_client_knows_one_node_only(
    lab: Lab, measured: Measurement, label: str, address: str, prefix: str
) -> None:
    assert measured.overlaps("four") == []
    for node in ("node-a", "node-b"):
        if f"{address}/{prefix}" not in lab.nodes[node].addresses():
            lab.nodes[node].run(sys.executable, "-c", ADD, "add", address, prefix)
    wait_until(lambda: {each.old for each in measured.overlaps(label)} == {"node-a", "node-b"})


def test_an_address_that_moves_and_stays_is_no_duplicate(lab: Lab, measured: Measurement) -> None:
    for node in ("node-a", "node-b"):
        lab.nodes[node].run(sys.executable, "-c", ADD, "del", ADDRESS_6, "128")
    wait_until(partial(is_owned_by, measured, "floating-6", set()))
    since_ns = time.monotonic_ns()
    for node in ("node-a", "node-b"):
        lab.nodes[node].run(sys.executable, "-c", ADD, "add", ADDRESS_6, "128")
        wait_until(partial(is_owned_by, measured, "floating-6", {node}))
        if node == "node-a":
            lab.nodes[node].run(sys.executable, "-c", ADD, "del", ADDRESS_6, "128")
    # it came back to a node that had it shortly before, and by hand
    assert measured.overlaps("floating-6", since_ns=since_ns, lawful_returns=1) == []


def is_owned_by(measured: Measurement, label: str, nodes: set[str]) -> bool:
    """Tell whether these nodes, and no others, were heard to answer in the last 100 ms, by whomsoever."""
    since_ns = time.monotonic_ns() - 100 * MILLISECOND
    return {each.node for each in measured.answers(label, since_ns=since_ns)} == nodes


def test_a_frozen_process_goes_on_when_it_is_thawed(lab: Lab) -> None:
    clock = lab.nodes["node-a"].start(
        [sys.executable, "-uc", "import time\nwhile True: print('tick'); time.sleep(0.01)"], name="clock"
    )
    clock.wait_for_output("tick", patience_s=10)
    clock.freeze()
    time.sleep(0.1)
    frozen_at = clock.output()
    time.sleep(0.1)
    assert clock.output() == frozen_at
    clock.thaw()
    wait_until(lambda: clock.output() != frozen_at)
    clock.kill()
    assert not clock.is_alive


def test_a_powered_off_node_runs_nothing(lab: Lab, measured: Measurement) -> None:
    lab.power_off(lab.nodes["node-a"])
    assert not any(process.is_alive for process in lab.nodes["node-a"].processes)
    assert answers_within(measured, "four"), "its neighbours live"


NESTED = """
import os, signal, subprocess, sys
from lab import enclosure, kernelcalls
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
enclosure.enter()
kernelcalls.new_network()
subprocess.Popen(["sleep", "1234567"], start_new_session=True)
print(enclosure.scratch_folder(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_lab_that_is_killed(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NESTED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment()},
    ) as outer:
        assert outer.stdout is not None
        scratch = Path(outer.stdout.readline().strip())
        assert scratch.is_dir()
        assert "1234567" in commands()
        outer.send_signal(number)
        outer.wait(10)
    wait_until(lambda: "1234567" not in commands())
    if number == signal.SIGKILL:
        scratch.rmdir()  # nobody was left to do it
    assert not scratch.exists()


def commands() -> str:
    """Return the command lines of all processes of this enclosure and of those within it."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(each.read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return "\n".join(found)
