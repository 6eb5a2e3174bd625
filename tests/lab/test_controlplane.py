from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from lab.api import Api, RefusedError

if TYPE_CHECKING:
    from lab.controlplane import ControlPlane


def test_the_api_server_tells_its_real_version(apiserver: ControlPlane) -> None:
    assert apiserver.api.request("GET", "/version")["gitVersion"].startswith("v1.")
    assert "Server Version: v1." in apiserver.kubectl("version")


def test_a_service_account_may_do_only_what_it_was_granted(apiserver: ControlPlane) -> None:
    apiserver.kubeconfig_of_service_account("lab-rbac", "someone")
    admin = apiserver.api
    someone = Api(admin.host, admin.port, admin.authority, admin.service_account_token("lab-rbac", "someone"))
    with pytest.raises(
        RefusedError, match=r"nodes is forbidden: User .*system:serviceaccount:lab-rbac:someone"
    ):
        someone.list("v1", "Node")


def test_objects_survive_a_restart_of_both(apiserver: ControlPlane) -> None:
    apiserver.api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "survivor"}})
    apiserver.stop()
    with pytest.raises(OSError, match="refused"):
        apiserver.api.request("GET", "/readyz")
    apiserver.start_etcd()
    apiserver.start_apiserver()
    assert apiserver.api.get("v1", "Node", "survivor")["metadata"]["name"] == "survivor"


def test_pytest_runs_in_an_enclosure_of_its_own() -> None:
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert os.getpid() == 2, "process 1 is the enclosure's init"
