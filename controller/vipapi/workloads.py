"""What a service is on its node: the part of a ServiceFailover that says how one is started and stopped.

As with `vipapi.healthchecks`, the same structs are read from the Kubernetes object and travel in the node
plan. Exactly one kind of workload is set; the API server's rules see to it, and so does reading one.
"""

from __future__ import annotations

import shlex

import msgspec

from vipapi.healthchecks import Exec


class Systemd(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A unit of the node's systemd."""

    unit: str


class Scripts(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Programs of the node's hook folder; what `start` leaves running in its cgroup is the service.

    `status` exits with 0 while the service works. Without `stop` the service's processes are asked to end.
    """

    start: Exec
    stop: Exec | None = None
    status: Exec | None = None


class Workload(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One service as the keeper runs it: exactly one of these."""

    systemd: Systemd | None = None
    exec: Scripts | None = None

    def __post_init__(self) -> None:
        if (self.systemd is None) == (self.exec is None):
            raise ValueError("must have exactly one of `systemd` and `exec`, the kinds known here")

    @property
    def identity(self) -> str:
        """What only one service can have on a node, in words: the unit, or what starts it."""
        if self.systemd is not None:
            return f"the systemd unit `{self.systemd.unit}`"
        assert self.exec is not None
        return f"the start hook `{shlex.join((self.exec.start.hook, *self.exec.start.args))}`"
