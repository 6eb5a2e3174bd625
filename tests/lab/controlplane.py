"""A real etcd and kube-apiserver: started, stopped, started again with the same data on the same ports.

There is no controller-manager and no scheduler: nothing garbage-collects, and a deleted namespace
stays Terminating. Authorisation is RBAC. The administrator has a token, and so has every user that the
control plane was told of; anyone else is a service account with a token of the real kind
(`kubeconfig_of_service_account`).
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import kernelcalls, processes
from lab.api import Api, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lab.binaries import Binaries

READY_S = 120
EVERYWHERE = "0.0.0.0"  # noqa: S104  # inside the enclosure


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the control plane listens."""

    api: int = 6443
    etcd_clients: int = 2379
    etcd_peers: int = 2380


def free_ports() -> Ports:
    """Return ports of 127.0.0.1 that nobody listens on now."""
    doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    api, clients, peers = (door.getsockname()[1] for door in doors)
    for door in doors:
        door.close()
    return Ports(api=api, etcd_clients=clients, etcd_peers=peers)


class ControlPlane:
    """One etcd and one kube-apiserver in the network namespace of the thread that makes it.

    `address` is where clients reach the API server; it must be an address of that namespace, and
    127.0.0.1 always works beside it. `users` are further users by their names, each with a group or none;
    `settings` are flags of the API server, without the dashes, added to the lab's or in place of them.
    """

    def __init__(
        self,
        binaries: Binaries,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        ports: Ports | None = None,
        users: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.binaries = binaries
        self.folder = folder
        self.address = address
        self.ports = ports or Ports()
        self._network = kernelcalls.current_network()
        self._token = secrets.token_hex(16)
        self._users = dict(users or {})
        self._user_tokens = {user: secrets.token_hex(16) for user in self._users}
        self._settings = dict(settings or {})
        self._etcd: processes.Process | None = None
        self._apiserver: processes.Process | None = None

    @property
    def api(self) -> Api:
        """The administrator's way to the API server."""
        return Api(self.address, self.ports.api, self.authority, self._token)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "admin.kubeconfig"

    @property
    def service_account_key(self) -> Path:
        """The private key that signs service accounts' tokens."""
        return self.folder / "service-account.key"

    @property
    def authority(self) -> Path:
        """The certificate of who signed the API server's."""
        # kube-apiserver writes its certificate and, after it, the authority that signed it.
        return self.folder / "certificates" / "apiserver.crt"

    def start(self) -> None:
        """Start both and wait until the API server is ready, some 2 to 3 s."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f'{self._token},admin,admin,"system:masters"']
        lines += [f'{self._user_tokens[user]},{user},{user},"{group}"' for user, group in self._users.items()]
        (self.folder / "tokens.csv").write_text("".join(f"{line}\n" for line in lines))
        if not self.service_account_key.exists():
            self.service_account_key.write_text(_new_key())
        self.start_etcd()
        self.start_apiserver()
        _write_kubeconfig(self.kubeconfig, self._url, self.authority, self._token)
        for user, token in self._user_tokens.items():
            _write_kubeconfig(self.kubeconfig_of_user(user), self._url, self.authority, token)

    def stop(self) -> None:
        """Kill both."""
        self.stop_apiserver()
        self.stop_etcd()

    def start_etcd(self) -> None:
        """Start etcd on the data that it had; does nothing when it runs."""
        if self._etcd and self._etcd.is_alive:
            return
        clients = f"http://127.0.0.1:{self.ports.etcd_clients}"
        peers = f"http://127.0.0.1:{self.ports.etcd_peers}"
        self._etcd = self._run(
            "etcd",
            [
                self.binaries.etcd,
                "--name=lab",
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={clients}",
                f"--advertise-client-urls={clients}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=lab={peers}",
                "--unsafe-no-fsync",  # the lab kills etcd, never the machine under it
                "--log-level=warn",
            ],
        )

    def stop_etcd(self) -> None:
        """Kill -9 etcd; its data stays."""
        if self._etcd:
            self._etcd.kill()

    def start_apiserver(self) -> None:
        """Start the API server and wait until it is ready; does nothing when it runs."""
        if self._apiserver and self._apiserver.is_alive:
            return
        settings = {
            "etcd-servers": f"http://127.0.0.1:{self.ports.etcd_clients}",
            "bind-address": "127.0.0.1" if self.address == "127.0.0.1" else EVERYWHERE,
            "advertise-address": self.address,
            "secure-port": str(self.ports.api),
            "cert-dir": str(self.folder / "certificates"),
            "token-auth-file": str(self.folder / "tokens.csv"),
            "service-account-key-file": str(self.service_account_key),
            "service-account-signing-key-file": str(self.service_account_key),
            "service-account-issuer": "https://lab.vipkeeper.invalid",
            "service-cluster-ip-range": "198.51.100.0/24",
            "authorization-mode": "RBAC",
            "allow-privileged": "true",
            "endpoint-reconciler-type": "none",
            "v": "1",
            **self._settings,
        }
        flags = [f"--{name}={value}" for name, value in settings.items()]
        self._apiserver = self._run("kube-apiserver", [self.binaries.kube_apiserver, *flags])
        self._await_readiness(self._apiserver)

    def stop_apiserver(self) -> None:
        """Kill -9 the API server: every watch of it breaks at once."""
        if self._apiserver:
            self._apiserver.kill()

    def freeze_apiserver(self) -> None:
        """SIGSTOP the API server: it takes connections, keeps watches open and answers nobody."""
        if self._apiserver:
            self._apiserver.freeze()

    def thaw_apiserver(self) -> None:
        """Let it go on."""
        if self._apiserver:
            self._apiserver.thaw()

    def kubeconfig_of_service_account(self, namespace: str, name: str) -> Path:
        """Return a kubeconfig with a token of a service account, made on first use with all that it needs."""
        path = self.folder / f"{namespace}.{name}.kubeconfig"
        if path.exists():
            return path
        self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": namespace},
        }
        self.api.apply(account)
        _write_kubeconfig(path, self._url, self.authority, self.api.service_account_token(namespace, name))
        return path

    def kubeconfig_of_user(self, user: str) -> Path:
        """Return the kubeconfig of one of the control plane's users."""
        return self.folder / f"{user.replace(':', '.')}.kubeconfig"

    def kubectl(self, *arguments: str | Path) -> str:
        """Run kubectl as the administrator and return what it printed; raises `KubectlFailedError`."""
        command = [self.binaries.kubectl, f"--kubeconfig={self.kubeconfig}", *arguments]
        log = self.folder / "kubectl" / f"{time.monotonic_ns()}.log"
        process = processes.start(command, name="kubectl", network=self._network, log=log)
        if process.wait(60) != 0:
            raise KubectlFailedError(f"kubectl {' '.join(map(str, arguments))}: {process.output()}")
        return process.output()

    @property
    def _url(self) -> str:
        return f"https://{self.address}:{self.ports.api}"

    def _run(self, name: str, command: list[str | Path]) -> processes.Process:
        log = self.folder / f"{name}.log"
        return processes.start(command, name=name, network=self._network, log=log)

    def _await_readiness(self, apiserver: processes.Process) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                self.api.request("GET", "/readyz", patience_s=2)
            except (OSError, RefusedError) as failure:
                if not apiserver.is_alive:
                    raise processes.ProcessFailedError(apiserver, "ended while it started") from failure
                if time.monotonic() > deadline:
                    raise processes.ProcessFailedError(
                        apiserver, f"was not ready within {READY_S} s"
                    ) from failure
                time.sleep(0.1)
            else:
                return


class KubectlFailedError(Exception):
    """kubectl exited with an error; the message is what it printed."""


def _new_key() -> str:
    """Return a new P-256 private key in SEC 1's PEM form (RFC 5915), without its optional public part."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    secret = (secrets.randbelow(order - 1) + 1).to_bytes(32)
    curve = bytes.fromhex("a00a06082a8648ce3d030107")
    body = base64.encodebytes(b"\x30\x31\x02\x01\x01\x04\x20" + secret + curve).decode()
    kind = "EC PRIVATE KEY"
    return f"-----BEGIN {kind}-----\n{body}-----END {kind}-----\n"


def _write_kubeconfig(path: Path, url: str, authority: Path, token: str) -> None:
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": "lab",
                        "cluster": {
                            "server": url,
                            "certificate-authority-data": base64.b64encode(authority.read_bytes()).decode(),
                        },
                    }
                ],
                "users": [{"name": "lab", "user": {"token": token}}],
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
                "current-context": "lab",
            },
            indent=1,
        )
    )
    path.chmod(0o600)
