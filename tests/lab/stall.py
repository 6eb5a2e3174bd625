"""Holds a process inside a system call: it has decided what to do, and does it seconds later.

`python -m lab.stall PROCESS CALL SECONDS` waits until the process's main thread enters CALL, stops it there
as a slow kernel would, before anything is done, and lets it go on after SECONDS. Its other threads run
meanwhile, which SIGSTOP does not allow. It is ptrace(2)'s work: the tracer's death frees the process too.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
import time
from typing import Final

CALLS: Final = {
    "x86_64": {"bpf": 321, "sendto": 44},
    "aarch64": {"bpf": 280, "sendto": 206},
}
"""System calls' numbers, by machine."""
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_SYSCALL, PTRACE_DETACH = 0x4206, 0x4207, 24, 17
PTRACE_GET_SYSCALL_INFO = 0x420E
PTRACE_O_TRACESYSGOOD = 1
PTRACE_SYSCALL_INFO_ENTRY = 1
SYSCALL_STOP = signal.SIGTRAP | 0x80
WALL = 0x40000000
# op, architecture, instruction and stack pointer, number: struct ptrace_syscall_info of linux/ptrace.h.
_ENTRY: Final = struct.Struct("@B3xIQQQ")
_INFO_SIZE: Final = 128

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, process: int, address: int = 0, content: int = 0) -> None:
    if _libc.ptrace(request, process, address, content) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")


def entered_call(process: int) -> int | None:
    """Return which call a process in a system call's stop is about to do; None where it leaves one."""
    buffer = ctypes.create_string_buffer(_INFO_SIZE)
    ptrace(PTRACE_GET_SYSCALL_INFO, process, _INFO_SIZE, ctypes.addressof(buffer))
    what, _, _, _, number = _ENTRY.unpack_from(buffer)
    return int(number) if what == PTRACE_SYSCALL_INFO_ENTRY else None


def hold(process: int, call: int, seconds: float) -> None:
    """Stop a process at its next `call`, for so long."""
    ptrace(PTRACE_SEIZE, process, 0, PTRACE_O_TRACESYSGOOD)
    ptrace(PTRACE_INTERRUPT, process)
    while True:
        _, status = os.waitpid(process, WALL)
        if not os.WIFSTOPPED(status):
            return
        stop = os.WSTOPSIG(status)
        if stop == SYSCALL_STOP and entered_call(process) == call:
            break
        is_signal = stop != SYSCALL_STOP and status >> 16 == 0
        ptrace(PTRACE_SYSCALL, process, 0, stop if is_signal else 0)
    print("stalled", flush=True)  # noqa: T201  # the lab waits for it
    time.sleep(seconds)
    ptrace(PTRACE_DETACH, process)


if __name__ == "__main__":
    hold(int(sys.argv[1]), CALLS[platform.machine()][sys.argv[2]], float(sys.argv[3]))
