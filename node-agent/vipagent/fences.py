"""Fences: which packet fence this node has, and how one takes the place of the other.

`auto` is BPF wherever the kernel lets the keeper have it, and nftables where not. The choice is made once, at
the start, and told: in the log, in the VIPNode's `status.fence`, and in the metrics. A kernel that has BPF
but no tc that takes it is found out only when a link is guarded; the log says so, and nothing is held.

A keeper with BPF that follows one with nftables, or the other way round, has both for a moment: it guards
every link anew before it removes what it found (`retire`), so no packet ever meets a link without either.
What both know must be open in both, so this is done before anything is acquired.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Literal, get_args

from vipagent.fence import Fence
from vipagent.nftfence import NftFence, clear
from vipagent.packetfence import FenceRefused

if TYPE_CHECKING:
    from vipagent.kernel import Kernel

AnyFence = Fence | NftFence
Backend = Literal["auto", "bpf", "nftables"]
BACKENDS: Final[tuple[Backend, ...]] = get_args(Backend)
Kind = Literal["BPF", "Nftables"]

_log = logging.getLogger(__name__)


def load(backend: Backend) -> AnyFence:
    """Load the fence that was asked for; raises FenceRefused, for `auto` with what both said."""
    if backend == "bpf":
        return Fence.load()
    if backend == "nftables":
        return NftFence.load()
    try:
        return Fence.load()
    except FenceRefused as refused:
        try:
            fence = NftFence.load()
        except FenceRefused as refused_too:
            raise FenceRefused(f"{refused}. Instead of BPF: {refused_too}") from refused
        _log.warning("%s. It is not BPF: %s", instead_of_bpf(is_owned=fence.owns_tables), refused)
        return fence


def instead_of_bpf(*, is_owned: bool) -> str:
    """Tell what nftables are worth as the fence: whether the kernel keeps others from its tables."""
    others = (
        "others can neither flush nor change it while this keeper lives"
        if is_owned
        else "others can flush it, which Linux 6.9 and newer prevent"
    )
    return f"The fence is nftables, which costs more; {others}"


def kind(fence: AnyFence) -> Kind:
    """Name the fence as the VIPNode shows it."""
    return "BPF" if isinstance(fence, Fence) else "Nftables"


async def retire(kernel: Kernel, fence: AnyFence | None) -> bool:
    """Remove what a keeper with another kind of fence left, or of every kind; whether there was anything.

    Raises KernelRefused, FenceRefused, and has removed the one kind where the other was refused. Where
    nftables cannot be asked, nobody can have used them.
    """
    is_gone, refusal = False, None
    if not isinstance(fence, NftFence):
        try:
            is_gone = clear()
        except FenceRefused as refused:
            refusal = refused
        if is_gone:
            _log.info("Removed the fence of nftables")
    if not isinstance(fence, Fence):
        is_gone = await _detach_bpf(kernel) or is_gone
    if refusal is not None:
        raise refusal
    return is_gone


async def _detach_bpf(kernel: Kernel) -> bool:
    try:
        bpf = Fence.load()
    except FenceRefused:
        bpf = None
    found = False
    try:
        for link in (await kernel.observe()).links:
            if await kernel.unguard(link.index, bpf):
                found = True
                _log.info("Removed the fence from %s", link.name)
    finally:
        if bpf is not None:
            bpf.release()
    return found
