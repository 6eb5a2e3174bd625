"""A unit of the nodes' systemd that follows its address, with a real systemd on every node.

The unit runs the legacy server in the foreground, so nothing but systemd starts and ends it. What a node's
own trouble does to a service is shown with hooks (`test_services`); here it is enough that it ends as well
where systemd is to end it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from lab import enclosure, faultruns, kernelcalls, legacy, systemd, systemd_binaries
from lab.legacy import Legacy
from lab.servicefaults import FAULTS, ServiceFault
from lab.site import Site, site_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.cluster import Lab

UNIT = "billing.service"
# It is active when it listens: from then on its page is asked for.
LISTENS = f"until grep -q ':{legacy.PORT:04X} 00000000:0000 0A' /proc/net/tcp; do sleep 0.1; done"
UNIT_FILE = """
[Service]
ExecStart={command}
ExecStartPost=/bin/sh -c "{listens}"
"""
NAMES = {"keeper killed", "service crashed", "page fails", "planned move"}
CHOSEN = [fault for fault in FAULTS if fault.name in NAMES]


@pytest.fixture(scope="module")
def running_site(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Three nodes with a systemd each, whose unit one of them runs."""
    with kernelcalls.entered(enclosure.outside_network()):
        program = systemd_binaries.locate(request.config.get_terminal_writer().line)
    with ExitStack() as everything:
        for node in lab.nodes.values():
            command = " ".join(Legacy(node, lab.folder / "shared").command)
            started = everything.enter_context(
                systemd.running(
                    program,
                    network=node.network,
                    units={UNIT: UNIT_FILE.format(command=command, listens=LISTENS)},
                )
            )
            node.environment["DBUS_SYSTEM_BUS_ADDRESS"] = started.address
        site = site_on(lab, {"systemd": {"unit": UNIT}})
        yield site
        site.watch.stop()


@pytest.fixture
def at_rest(running_site: Site) -> Site:
    """The service on one node, and every other node fit to take it over."""
    running_site.restore()
    running_site.forgive()
    running_site.rest()
    return running_site


@pytest.mark.parametrize("fault", CHOSEN, ids=lambda fault: fault.name)
def test_a_unit_comes_back_elsewhere_in_time_and_there_are_never_two(
    at_rest: Site, fault: ServiceFault
) -> None:
    assert faultruns.run(at_rest, fault).objection is None


def test_in_all_this_time_there_were_never_two(running_site: Site) -> None:
    assert running_site.doubles(since_ns=running_site.since_ns) == []
