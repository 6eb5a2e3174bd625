"""A kernel that lacks a system call, or a kind of socket: seccomp answers in its place, for good."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_BPF = {"x86_64": 321, "aarch64": 280}
_SOCKET = {"x86_64": 41, "aarch64": 198}
_AF_NETLINK, _NETFILTER = 16, 12
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_CALL, _FIRST_ARGUMENT, _THIRD_ARGUMENT = 0, 16, 32  # struct seccomp_data


def take_bpf_away() -> None:
    """As a kernel without CONFIG_BPF_SYSCALL."""
    _filter(
        (_LOAD, 0, 0, _CALL),
        (_JUMP_IF_EQUAL, 0, 1, _BPF[platform.machine()]),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    )


def take_netfilter_away() -> None:
    """As a kernel without CONFIG_NETFILTER_NETLINK."""
    _filter(
        (_LOAD, 0, 0, _CALL),
        (_JUMP_IF_EQUAL, 0, 5, _SOCKET[platform.machine()]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_IF_EQUAL, 0, 3, _AF_NETLINK),
        (_LOAD, 0, 0, _THIRD_ARGUMENT),
        (_JUMP_IF_EQUAL, 0, 1, _NETFILTER),
        (_RETURN, 0, 0, _ERRNO | errno.EPROTONOSUPPORT),
    )


def _filter(*instructions: tuple[int, int, int, int]) -> None:
    code = b"".join(struct.pack("=HBBI", *each) for each in (*instructions, (_RETURN, 0, 0, _ALLOW)))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    library = ctypes.CDLL(None, use_errno=True)
    assert library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    assert library.prctl(_SET_SECCOMP, _FILTER, program, 0, 0) == 0
