"""What a keeper needs before it can hold an address, and what it says where that is missing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.kernelcalls import entered, new_network
from vipagent.preflight import Facts, inspect, look

READY = Facts(
    capabilities=1 << 12 | 1 << 13 | 1 << 39,
    kernel_release="6.1.0-18-amd64",
    state_dir="/var/lib/vipkeeper",
    arp_ignore=(("eth0", 0), ("eth1", 1), ("eth2", 2)),
)


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param(READY, id="all three capabilities"),
        pytest.param(replace(READY, capabilities=1 << 12 | 1 << 13 | 1 << 21), id="SYS_ADMIN for BPF"),
        pytest.param(
            replace(READY, capabilities=1 << 12 | 1 << 13, needs_bpf=False), id="nftables without BPF"
        ),
        pytest.param(replace(READY, kernel_release="5.18.0"), id="the oldest kernel"),
        pytest.param(replace(READY, kernel_release="10.0"), id="a kernel of the future"),
        pytest.param(
            replace(READY, kernel_release="unheard-of"), id="an unreadable release: the fence tells"
        ),
    ],
)
def test_a_node_that_has_it_all_has_no_problem(facts: Facts) -> None:
    assert inspect(facts) == ()


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        pytest.param(
            {"capabilities": 1 << 12},
            "CapabilityMissing",
            "capabilities NET_RAW, BPF: add",
            id="capabilities",
        ),
        pytest.param({"kernel_release": "5.15.0-91"}, "KernelTooOld", "use 5.18 or newer", id="the kernel"),
        pytest.param({"kernel_release": "4.19"}, "KernelTooOld", "Linux 4.19", id="a much older kernel"),
        pytest.param(
            {"state_dir_refusal": "Read-only file system"},
            "StateUnwritable",
            "/var/lib/vipkeeper (Read-only file system): make it",
            id="the state folder",
        ),
        pytest.param({"fence_refusal": "no bpf"}, "FenceRefused", "no bpf", id="the fence"),
        pytest.param(
            {"arp_ignore": (("eth0", 0), ("eth1", 8))},
            "ARPIgnored",
            "net.ipv4.conf.eth1.arp_ignore is 8",
            id="a link that answers no ARP",
        ),
    ],
)
def test_each_lack_is_named_with_its_remedy(change: dict[str, Any], reason: str, message: str) -> None:
    (problem,) = inspect(replace(READY, **change))
    assert problem.reason == reason
    assert message in problem.message


def test_every_lack_is_told_at_once() -> None:
    facts = replace(
        READY, capabilities=0, kernel_release="5.4", fence_refusal="no", arp_ignore=(("eth0", 8),)
    )
    assert len(inspect(facts)) == 4


def test_this_machine_is_ready(tmp_path: Path) -> None:
    facts = look(tmp_path / "state")
    assert inspect(facts) == ()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "state").iterdir()) == []


def test_a_state_folder_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    facts = look(tmp_path / "file")
    assert [problem.reason for problem in inspect(facts)] == ["StateUnwritable"]


def test_the_larger_of_a_links_and_everybodys_arp_ignore_counts(tmp_path: Path) -> None:
    network = new_network()
    with entered(network):
        Path("/proc/sys/net/ipv4/conf/all/arp_ignore").write_text("2", encoding="ascii")
        Path("/proc/sys/net/ipv4/conf/lo/arp_ignore").write_text("8", encoding="ascii")
        facts = look(tmp_path)
    os.close(network)
    assert all(name not in ("all", "default", "lo") for name, _ in facts.arp_ignore)
    assert all(value == 2 for _, value in facts.arp_ignore)
