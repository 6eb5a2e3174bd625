"""Fixtures that every folder of tests may use: a control plane, and where it runs.

As root, pytest moves into an enclosure (`lab.enclosure`) before it collects anything: its tests can make
and break networks freely, nothing they send leaves the machine, and killing pytest in whatever way
leaves no process and no namespace behind. A failed test with a lab shows the ends of the lab's logs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from lab import binaries, enclosure, kernelcalls
from lab.api import manifests_in
from lab.cluster import Lab
from lab.controlplane import ControlPlane, free_ports

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

ROOT = Path(__file__).parents[1]
LOG_TAIL = 2000

hypothesis.settings.register_profile(  # how long an example takes is no law
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    if os.geteuid() == 0 and not config.option.help and not config.option.version:
        enclosure.enter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    running = item.funcargs.get("lab") if isinstance(item, pytest.Function) and call.excinfo else None
    if isinstance(running, Lab):
        for log in sorted(running.folder.rglob("*.log")):
            if tail := log.read_text(errors="replace")[-LOG_TAIL:]:
                report.sections.append((f"end of {log.relative_to(running.folder)}", tail))
    return report


@pytest.fixture(scope="session")
def control_plane_binaries(request: pytest.FixtureRequest) -> binaries.Binaries:
    """etcd, kube-apiserver and kubectl, built if need be."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert enclosure.is_entered(), (
        "tests with a control plane or a lab make network namespaces: run pytest as root"
    )

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    with kernelcalls.entered(enclosure.outside_network()):
        return binaries.locate(say)


@pytest.fixture(scope="session")
def bare_control_plane(
    control_plane_binaries: binaries.Binaries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """etcd and kube-apiserver on loopback, with vipkeeper's CRDs."""
    plane = ControlPlane(control_plane_binaries, tmp_path_factory.mktemp("control-plane"), ports=free_ports())
    plane.start()
    plane.api.apply_definitions(manifests_in(ROOT / "crds"))
    yield plane
    plane.stop()


@pytest.fixture
def apiserver(bare_control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The session's control plane; every vipkeeper object and every Node is gone again after the test."""
    yield bare_control_plane
    api = bare_control_plane.api
    api.erase_group("vipkeeper.io")
    for node in api.list("v1", "Node"):
        api.delete("v1", "Node", node["metadata"]["name"])
