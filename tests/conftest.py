"""Fixtures that every folder of tests may use: a control plane, and a whole lab.

As root, pytest moves into an enclosure (`lab.enclosure`) before it collects anything: its tests can make
and break networks freely, nothing they send leaves the machine, and killing pytest in whatever way
leaves no process and no namespace behind.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import binaries, enclosure, kernelcalls
from lab.api import manifests_in
from lab.controlplane import ControlPlane, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    if os.geteuid() == 0 and not config.option.help and not config.option.version:
        enclosure.enter()


@pytest.fixture(scope="session")
def control_plane_binaries(request: pytest.FixtureRequest) -> binaries.Binaries:
    """etcd, kube-apiserver and kubectl, built if need be."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

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
