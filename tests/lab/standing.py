"""A lab that stays: `python -m lab up`, and what a person needs to look around in it from another shell.

The lab's namespaces have no names, so it writes two small scripts that lead into them: `kubectl`, which
talks to the lab's API server, and `on`, which runs any command on a host of the lab.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from lab import enclosure
from lab.agents import start_agents
from lab.cluster import Lab

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab.binaries import Binaries

KUBECTL = """#!/bin/sh
exec nsenter --target {lab} --net {kubectl} --kubeconfig={kubeconfig} "$@"
"""
ON = """#!/bin/sh
# Runs a command on a host of the lab: on HOST COMMAND [ARGUMENT]...
case "$1" in
{hosts}
*) echo "no such host; there are: {names}" >&2; exit 2;;
esac
shift
exec nsenter --net=/proc/{lab}/fd/$fd "$@"
"""


def write_ways_in(lab: Lab) -> Path:
    """Write the scripts and return their folder."""
    outside = enclosure.process_id_outside()
    hosts = "\n".join(f"{host.name}) fd={host.network};;" for host in lab.segment.hosts.values())
    kubectl = KUBECTL.format(lab=outside, kubectl=lab.plane.binaries.kubectl, kubeconfig=lab.plane.kubeconfig)
    on = ON.format(lab=outside, hosts=hosts, names=" ".join(lab.segment.hosts))
    for name, text in (("kubectl", kubectl), ("on", on)):
        script = lab.folder / name
        script.write_text(text)
        script.chmod(0o755)
    return lab.folder


def explain(lab: Lab, say: Callable[[str], None]) -> None:
    """Tell how to look around from another shell."""
    folder = write_ways_in(lab)
    say("The lab is running. From another shell, as root:")
    say(f"  {folder}/kubectl get vip")
    say(f"  {folder}/kubectl describe vip web")
    say(f"  {folder}/on client curl -s http://192.0.2.11:8080/")
    say(f"  {folder}/on node-a ip addr")
    say(f"Its logs and state are in {folder}. Ctrl-C ends it and removes everything.")


def wait_for_the_end() -> None:
    """Wait for Ctrl-C or a signal that asks to end."""
    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    signal.sigwait(ending)


def run(binaries: Binaries, say: Callable[[str], None], *, nodes: int, bare: bool) -> int:
    """Bring a lab up and keep it until a signal ends it."""
    say(f"Bringing up {nodes} nodes and a control plane ({binaries.origin}).")
    with Lab(binaries, enclosure.scratch_folder(), nodes=nodes) as lab:
        if not bare:
            start_agents(lab)
            for node in lab.nodes.values():
                lab.start_webserver(node)
        explain(lab, say)
        wait_for_the_end()
    return 0
