"""Whether controller and courier are live and ready, with an API server and without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apiserver.controllers import NAMESPACE, admit
from health.processes import answered, asked, running
from lab.controlplane import free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from lab.controlplane import ControlPlane

LIVE = (200, "ok")
NOT_LISTED = "the API server has not listed every kind to it yet"


def nowhere(folder: Path) -> Path:
    """A kubeconfig of an API server that is away."""
    file = folder / "kubeconfig"
    server = f"https://127.0.0.1:{free_ports().api}"
    file.write_text(
        f"""
apiVersion: v1
kind: Config
clusters: [{{name: away, cluster: {{server: "{server}", insecure-skip-tls-verify: true}}}}]
users: [{{name: me, user: {{token: t}}}}]
contexts: [{{name: away, context: {{cluster: away, user: me}}}}]
current-context: away
"""
    )
    return file


def controller(kubeconfig: Path, identity: str, health: int) -> list[str]:
    return [
        *(f"--namespace={NAMESPACE}", f"--identity={identity}", f"--kubeconfig={kubeconfig}"),
        *(f"--metrics=127.0.0.1:{free_ports().api}", f"--health=127.0.0.1:{health}"),
    ]


def test_leader_and_standby_are_ready_alike(apiserver: ControlPlane, tmp_path: Path) -> None:
    kubeconfig = admit(apiserver)
    first, second = free_ports().api, free_ports().api
    with (
        running(tmp_path / "one", "vipcontroller", *controller(kubeconfig, "one", first)),
        running(tmp_path / "two", "vipcontroller", *controller(kubeconfig, "two", second)),
    ):
        for port in (first, second):
            assert answered(port, "/readyz", "ok") == LIVE
            assert asked(port, "/healthz") == LIVE


def test_without_an_api_server_a_controller_is_live_and_waits(tmp_path: Path) -> None:
    port = free_ports().api
    with running(tmp_path / "log", "vipcontroller", *controller(nowhere(tmp_path), "one", port)):
        assert answered(port, "/readyz", NOT_LISTED) == (503, NOT_LISTED)
        assert asked(port, "/healthz") == LIVE


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_without_keeper_and_api_server_a_courier_is_live_and_says_what_it_lacks(
    tmp_path: Path, address: str
) -> None:
    port = free_ports().api
    options = [
        *("--node=a", f"--socket={tmp_path / 'keeper.sock'}", f"--kubeconfig={nowhere(tmp_path)}"),
        *(f"--metrics=127.0.0.1:{free_ports().api}", f"--health=[{address}]:{port}"),
    ]
    with running(tmp_path / "log", "vipcourier", *options):
        assert answered(port, "/readyz", "no keeper: ", address)[0] == 503
        assert asked(port, "/healthz", address) == LIVE
