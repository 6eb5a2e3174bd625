"""Somebody else's tcx program, as a CNI attaches one: it lets every packet in, past whatever comes later."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

from vipagent.bytecode import Program, Register

TCX_PASS = 0
INGRESS, EGRESS = 46, 47
_QUERY, _LOAD, _ATTACH, _FIRST = 16, 5, 8, 1 << 3


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    buffer = ctypes.create_string_buffer(attributes, 144)
    number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
    result = ctypes.CDLL(None, use_errno=True).syscall(number, command, buffer, len(buffer))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result, buffer.raw


def attach_first(link_index: int, where: int) -> None:
    """Put a program that passes everything before all others on a link."""
    program = Program()
    program.set(Register.R0, TCX_PASS)
    program.exit()
    code = ctypes.create_string_buffer(program.encode(), 16)
    terms = ctypes.create_string_buffer(b"GPL")
    fd, _ = _bpf(_LOAD, struct.pack("=IIQQ", 3, 2, ctypes.addressof(code), ctypes.addressof(terms)))
    _bpf(_ATTACH, struct.pack("=IIII", link_index, fd, where, _FIRST))
    os.close(fd)


def programs(link_index: int, where: int) -> list[int]:
    """List the numbers of a link's programs, in the order in which they run."""
    found = (ctypes.c_uint32 * 16)()
    attributes = struct.pack("=IIIIQI", link_index, where, 0, 0, ctypes.addressof(found), len(found))
    _, answer = _bpf(_QUERY, attributes)
    return list(found[: struct.unpack_from("=I", answer, 24)[0]])
