"""The units for nodes that must start without the API server, under a real systemd."""

from __future__ import annotations

import asyncio
import configparser
import grp
import os
import pwd
import socket
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import AsyncIPRoute, IPRoute

from agent.onekeeper import FIRST, WEB, planned
from lab import enclosure, kernelcalls, systemd_binaries
from lab.systemd import running
from vipagent.disk import Disk
from vipagent.units import Units
from vipapi.nodeplan import Plan, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from lab.systemd import Systemd

UNITS = Path(__file__).parents[2] / "node-agent" / "systemd"
KEEPER, COURIER = BOTH = "vipkeeper-keeper.service", "vipkeeper-courier.service"
PATIENCE_S = 60
STRANGER = pwd.getpwnam("nobody")
KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
"""
ADDRESS = WEB.addresses[0].partition("/")[0]


def service(name: str) -> configparser.SectionProxy:
    """Return the section of a unit; of what it says twice, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser["Service"]


def test_the_units_have_the_rights_of_the_containers_and_no_more() -> None:
    keeper, courier = service(KEEPER), service(COURIER)
    assert sorted(keeper["CapabilityBoundingSet"].split()) == sorted(
        ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_SYS_NICE", "CAP_IPC_LOCK"]
    )
    assert courier["CapabilityBoundingSet"] == ""
    assert courier["User"] == "vipkeeper"
    assert keeper["Group"] == courier["Group"]
    assert {each["NoNewPrivileges"] for each in (keeper, courier)} == {"yes"}
    assert {each["ProtectSystem"] for each in (keeper, courier)} == {"strict"}


def here(name: str, folder: Path) -> str:
    """Return a unit as this machine can run it: its programs, its folders, and a group that there is.

    The cell of the tests has no other folder to write to than that of temporary files, and few devices; and
    the tests' own programs may be in root's home, so that the courier is root here, with no capability.
    """
    text = (UNITS / name).read_text()
    module = "vipagent" if name == KEEPER else "vipcourier"
    group = grp.getgrgid(STRANGER.pw_gid).gr_name
    environment = f"PYTHONPATH={os.pathsep.join(sys.path)} PYTHONDONTWRITEBYTECODE=1"
    for given, taken in {
        f"/opt/vipkeeper/bin/{name.removesuffix('.service')} ": f"{sys.executable} -m {module} ",
        "NODE_NAME=%H": "NODE_NAME=a",
        "vipkeeper\nRuntimeDirectory=": f"{group}\nRuntimeDirectory=",
        "User=vipkeeper\nGroup=vipkeeper": f"Group={group}",
        "/var/lib/vipkeeper": str(folder / "state"),
        "/etc/vipkeeper/courier": str(folder),
        "StateDirectory=vipkeeper\n": f"ReadWritePaths={folder}\n",
        "StateDirectoryMode=0700\n": "",
        "ProtectHome=yes\n": "ProtectHome=read-only\n",
        "PrivateDevices=yes\n": "",
        "PrivateTmp=yes\n": f"Environment={environment}\n",
        "[Install]": f"[Service]\nStandardError=append:{folder}/{module}.log\n[Install]",
    }.items():
        text = text.replace(given, taken)
    return text


@pytest.fixture
def folder() -> Path:
    """A folder with the state of a node that alone may hold an address, and an API server that is away."""
    made = enclosure.scratch_folder() / "units"
    made.mkdir(mode=0o755)
    disk = Disk(made / "state")
    disk.store_plan(encode(Plan(node="a", domains=(planned(FIRST, WEB),))))
    disk.store_configuration(planned().uid, FIRST)
    (made / "kubeconfig").write_text(KUBECONFIG)
    return made


@pytest.fixture
def systemd(request: pytest.FixtureRequest, folder: Path) -> Iterator[Systemd]:
    """A systemd with both units, on a node with eth0 (192.0.2.1/24)."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"{line}\n")

    with kernelcalls.entered(enclosure.outside_network()):
        program = systemd_binaries.locate(say)
    network = kernelcalls.new_network()
    with kernelcalls.entered(network):
        with IPRoute() as route:
            route.link("add", ifname="eth0", kind="veth", peer={"ifname": "far0"})
            for name in ("lo", "eth0", "far0"):
                route.link("set", index=socket.if_nametoindex(name), state="up")
            route.addr("add", index=socket.if_nametoindex("eth0"), address="192.0.2.1", prefixlen=24)
        with running(program, network=network, units={name: here(name, folder) for name in BOTH}) as started:
            yield started
    os.close(network)


async def is_held() -> bool:
    async with AsyncIPRoute() as route:
        return ADDRESS in [each.get("address") async for each in await route.get_addr(label="eth0")]


def logs(folder: Path) -> str:
    """Return what the units have logged, for a test that fails."""
    return "\n".join(each.read_text() for each in folder.glob("*.log"))


async def until(is_so: Callable[[], Awaitable[bool]], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not await is_so():
        assert time.monotonic() < deadline, logs(folder)
        await asyncio.sleep(0.05)


def test_a_node_takes_part_without_the_api_server_and_lets_go_when_its_keeper_is_stopped(
    systemd: Systemd, folder: Path
) -> None:
    async def story() -> None:
        units = Units([systemd.address])
        keeper_log, courier_log = folder / "vipagent.log", folder / "vipcourier.log"

        async def is_connected() -> bool:
            return "Connected to the keeper" in courier_log.read_text()

        try:
            for name in BOTH:
                await units.start(name, PATIENCE_S)
            await until(is_held, folder)
            await until(is_connected, folder)
            found = (Path(systemd.address.removeprefix("unix:path=")).parent / "vipkeeper/keeper.sock").stat()
            assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, STRANGER.pw_gid)
            for word in ("CRITICAL", "Traceback"):
                assert word not in keeper_log.read_text()
            for name in reversed(BOTH):
                assert await units.stop(name, PATIENCE_S) == "Stopped"
            assert not await is_held()
            assert "Keeper stopped" in keeper_log.read_text()
        finally:
            await units.close()

    asyncio.run(story())
