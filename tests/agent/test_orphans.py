"""A keeper that is its container's first process reaps whoever nobody waits for, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys

from vipagent.orphans import Orphans

FIRST = """
import os, subprocess, time
from pathlib import Path
from vipagent.orphans import Orphans

def ended():
    stats = [each.read_text() for each in Path("/proc").glob("[0-9]*/stat")]
    return sum(stat.rpartition(")")[2].split()[0] == "Z" for stat in stats)

def until_ended(count):
    while ended() != count:
        time.sleep(0.01)

orphans = Orphans()
parent = os.fork()
if parent == 0:
    os.spawnl(os.P_NOWAIT, "/bin/true", "true")
    os._exit(0)
os.waitpid(parent, 0)
until_ended(1)
assert orphans.reap() == 0
own = subprocess.Popen(["/bin/sh", "-c", "exit 7"])
until_ended(2)
assert orphans.reap() == 1
assert own.wait() == 7
assert ended() == 0
assert orphans.reap() == 0
print("reaped")
"""


def test_an_orphan_is_reaped_at_the_second_look_and_an_own_child_keeps_its_status() -> None:
    ran = subprocess.run(
        ["/usr/bin/unshare", "--fork", "--pid", "--mount-proc", "--kill-child", sys.executable, "-c", FIRST],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("reaped\n", "")


def test_where_there_is_an_init_the_keeper_leaves_reaping_to_it() -> None:
    child = subprocess.Popen(["/bin/sh", "-c", "exit 7"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    orphans = Orphans()
    assert (orphans.reap(), orphans.reap()) == (0, 0)
    assert child.wait() == 7
