"""Tenancy: a node has one keeper at a time, or one sweeper.

Two would each answer for the other's promises, and take away what the other has in the kernel, for whatever
has our mark is ours. So two things are claimed. One is the state folder, where promises are (`Disk.claim`).
The other is the network namespace, where addresses and fences are: there the claim is an abstract unix
socket (unix(7)), of which each namespace has its own, so that keepers with different state folders notice
each other too. On the host's network there is one, whatever containers they are in.

Both claims end with the process, however that ends, and no program that it starts inherits them. A roll-out
needs no more than that: a DaemonSet without `maxSurge` never has two on a node.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final

from vipagent.disk import FolderTaken

if TYPE_CHECKING:
    from vipagent.disk import Disk

_NAME: Final = "vipkeeper-keeper"


class NetworkTaken(OSError):  # noqa: N818 - it reads as what happened
    """Another process is the network namespace's keeper; the message says what to do."""


def claim(disk: Disk) -> None:
    """Make this process the only keeper, or sweeper, of its network and of this folder, until it ends.

    Raises `NetworkTaken` or `FolderTaken`, and has neither then; other `OSError`s as they come.
    """
    place = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        place.bind(f"\0{_NAME}")
        disk.claim()
    except OSError as error:
        place.close()
        if isinstance(error, FolderTaken) or error.errno != errno.EADDRINUSE:
            raise
        raise NetworkTaken(
            error.errno,
            "another keeper, or a sweeper (`--clean`, the DaemonSet vipkeeper-sweeper), runs on this node's "
            f"network, whatever its --state-dir: end it (`ss -xap | grep {_NAME}` names its process)",
        ) from error
    place.detach()  # open for as long as this process lives
