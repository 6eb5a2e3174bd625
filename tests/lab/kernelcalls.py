"""The door to system calls that Python 3.11 lacks (unshare, setns, mount, prctl, bpf) and to loopback."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
MS_REC_PRIVATE = 0x4000 | (1 << 18)
PR_SET_PDEATHSIG = 1
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
_BPF = {"x86_64": 321, "aarch64": 280}
_BPF_ATTRIBUTES_SIZE = 144

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def unshare(flags: int) -> None:
    """Give the calling thread (or, for CLONE_NEWPID, its next child) namespaces of its own."""
    _checked(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace that `fd` refers to."""
    _checked(_libc.setns(fd, kind), "setns")


def mount_own_proc() -> None:
    """Show this process its own PID namespace in /proc; it must be in a mount namespace of its own."""
    _checked(_libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None), "mount / private")
    _checked(_libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID_NODEV_NOEXEC, None), "mount /proc")


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process a signal when the thread that forked it ends."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl")


def bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """Return what bpf(2) returned, and the attributes as it left them; raises OSError."""
    buffer = ctypes.create_string_buffer(attributes, _BPF_ATTRIBUTES_SIZE)
    result = int(_libc.syscall(_BPF[platform.machine()], command, buffer, len(buffer)))
    _checked(min(result, 0), "bpf")
    return result, buffer.raw


def bring_loopback_up() -> None:
    """Set `lo` up in the calling thread's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(door, SIOCGIFFLAGS, request))
        fcntl.ioctl(door, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def current_network() -> int:
    """Return a descriptor of the calling thread's network namespace; the namespace lives while it is open."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def new_network() -> int:
    """Make an empty network namespace with loopback up and return the descriptor that keeps it alive.

    No process stands in it and it has no name, so closing the descriptor, however that comes about,
    is all it takes to remove it with everything inside.
    """
    made: list[int] = []

    def make() -> None:
        unshare(CLONE_NEWNET)
        bring_loopback_up()
        made.append(current_network())

    maker = threading.Thread(target=make)
    maker.start()
    maker.join()
    return made.pop()


@contextmanager
def entered(network: int) -> Iterator[None]:
    """Have the calling thread stand in a network namespace.

    Sockets opened and processes started inside stay there for good; the thread itself returns.
    """
    home = current_network()
    setns(network, CLONE_NEWNET)
    try:
        yield
    finally:
        setns(home, CLONE_NEWNET)
        os.close(home)


def _checked(result: int, call: str) -> None:
    if result != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{call}: {os.strerror(errno)}")
