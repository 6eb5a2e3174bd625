"""What the controller wants written, as data: the output of every decision.

There is at most one write to an object in one look, because each names the resource version that the
decision was made on; what is still missing then is found missing at the next look.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from vipapi.resources import (
    FailoverDomainStatus,
    ObjectMeta,
    ServiceFailoverStatus,
    SwitchoverStatus,
    VirtualIPStatus,
)

Kind = Literal["VirtualIP", "ServiceFailover", "FailoverDomain", "Switchover"]


class Telling(msgspec.Struct, frozen=True, kw_only=True):
    """An Event to tell after the write that it belongs to succeeded."""

    type: Literal["Normal", "Warning"]
    action: str
    reason: str
    note: str


class StatusWrite(msgspec.Struct, frozen=True, kw_only=True):
    """The whole new status of an object."""

    kind: Kind
    metadata: ObjectMeta
    status: VirtualIPStatus | ServiceFailoverStatus | FailoverDomainStatus | SwitchoverStatus
    tellings: tuple[Telling, ...] = ()


class FinalizerWrite(msgspec.Struct, frozen=True, kw_only=True):
    """The whole new list of an object's finalizers."""

    kind: Kind
    metadata: ObjectMeta
    finalizers: tuple[str, ...]
    tellings: tuple[Telling, ...] = ()


class SecretWrite(msgspec.Struct, frozen=True):
    """A heartbeat Secret that is missing and is to be made."""

    name: str


Write: TypeAlias = StatusWrite | FinalizerWrite | SecretWrite
