"""The last resort of the leash: the node ends itself, because a service could not be ended otherwise.

`--fence` names the way, and a node without one only says that its service may still run:

    reboot      reboot(2): the machine restarts at once, without writing anything more to its disks. Only from
                the machine's own PID namespace (in a Pod: `hostPID: true`), with CAP_SYS_BOOT
    namespace   the same call, where the node is itself a container with a PID namespace of its own, as those
                of kind: the kernel ends process 1 of that namespace, and with it all that are in it (who
                waits for that process sees SIGHUP). Never from the machine's own

In another PID namespace than the machine's, reboot(2) ends that namespace and nothing else
(reboot_pid_ns in kernel/pid_namespace.c), which for a keeper in a Pod would be the keeper and not the node.
So each way is refused where the other belongs, by `obstacle` beforehand and by `end_node` at the last moment.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final, Literal

Way = Literal["reboot", "namespace"]


class Unsure(str):
    """A doubt of which nobody knows: what would know did not answer.

    Of what this leash has started it counts as any other. Of what an earlier one may have left it does not
    end the node, which otherwise would end at each start of a keeper while, say, systemd cannot be reached.
    """

    __slots__ = ()


WAYS: Final[tuple[Way, ...]] = ("reboot", "namespace")
NO_WAY: Final = "this node has no way to fence itself: start its keeper with --fence reboot"
DELAY_S: Final = 1.0
"""Between saying that the node is fenced and doing it, so that the keeper can tell others."""

_MACHINES_NAMESPACE: Final = 0xEFFFFFFC
"""The inode of the first PID namespace (PROC_PID_INIT_INO in the kernel's proc_ns.h)."""
_RB_AUTOBOOT: Final = 0x01234567
_CAP_SYS_BOOT: Final = 22


def obstacle(way: Way) -> str | None:
    """Say why this process cannot end its node in that way, None where it can."""
    is_machines = os.stat("/proc/self/ns/pid").st_ino == _MACHINES_NAMESPACE  # noqa: PTH116 - no Path needed
    if way == "reboot" and not is_machines:
        return (
            "this node cannot fence itself: the keeper is not in the machine's own PID namespace; give its "
            "Pod `hostPID: true`, or, where the node is itself a container, start it with --fence namespace"
        )
    if way == "namespace" and is_machines:
        return (
            "this node cannot fence itself: --fence namespace is for a node that is a container, and the "
            "keeper is in the machine's own PID namespace; start it with --fence reboot"
        )
    capabilities = next(
        line
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        if "CapEff" in line
    )
    if not int(capabilities.split()[1], 16) >> _CAP_SYS_BOOT & 1:
        return "this node cannot fence itself: grant the keeper the capability SYS_BOOT"
    return None


def end_node(way: Way) -> str:
    """End the node at once; return why that was refused, for otherwise nothing returns from it."""
    if (why_not := obstacle(way)) is not None:
        return why_not
    libc = ctypes.CDLL(None, use_errno=True)
    libc.reboot(_RB_AUTOBOOT)
    # In a namespace the call itself ends the caller; only a refusal comes here.
    return f"the kernel refused to fence this node: {os.strerror(ctypes.get_errno())}"
