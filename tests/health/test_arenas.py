"""Malloc's arenas of a process, as glibc itself tells of them."""

from __future__ import annotations

import subprocess
import sys

THREADS = """
import ctypes, sys, threading
from viphealth import arenas
if sys.argv[1] == "shared":
    arenas.share_one()
libc = ctypes.CDLL(None)
met = threading.Barrier(8)

def work():
    met.wait()
    libc.malloc(10_000)
    met.wait()

for each in [threading.Thread(target=work) for _ in range(8)]:
    each.start()
for each in threading.enumerate()[1:]:
    each.join()
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def arenas_with(choice: str) -> int:
    told = subprocess.run([sys.executable, "-c", THREADS, choice], capture_output=True, check=True, text=True)
    return told.stdout.count("<heap ")


def test_threads_share_one_arena_that_would_have_several() -> None:
    assert arenas_with("shared") == 1
    assert arenas_with("left alone") > 1
