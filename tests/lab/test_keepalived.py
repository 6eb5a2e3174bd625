"""keepalived, the benchmark's peer, is set up as its manual has it: the configuration is checked as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab import keepalived
from lab.keepalived import DEFAULT, QUICK, Router, Settings
from lab.topology import Host


def router(folder: Path, *, rank: int = 0, settings: Settings = DEFAULT) -> Router:
    return Router(
        host=Host(name="node-a", number=101, network=-1, folder=folder),
        rank=rank,
        settings=settings,
        addresses={"minimal": "192.0.2.10/24", "web": "192.0.2.11/24"},
        checked="web",
        port=8080,
        path="/healthz",
    )


@pytest.mark.parametrize("settings", [DEFAULT, QUICK], ids=["default", "quick"])
def test_every_address_is_an_instance_of_its_own_that_never_takes_back(
    tmp_path: Path, settings: Settings
) -> None:
    text = router(tmp_path, settings=settings).configuration()

    assert re.findall(r"vrrp_instance (\S+)", text) == ["minimal", "web"]
    assert len(set(re.findall(r"virtual_router_id (\d+)", text))) == 2
    assert text.count("nopreempt") == text.count("state BACKUP") == 2
    assert text.count(f"advert_int {settings.advert_s}") == 2
    assert text.count("{") == text.count("}")


def test_only_the_address_of_the_service_depends_on_its_check(tmp_path: Path) -> None:
    minimal, web = router(tmp_path).configuration().split("vrrp_instance ")[1:]

    assert "track_script" not in minimal
    assert "track_script {\nweb\n}" in web


def test_the_first_node_is_the_first_choice(tmp_path: Path) -> None:
    priorities = [
        int(re.findall(r"priority (\d+)", router(tmp_path, rank=rank).configuration())[0])
        for rank in range(3)
    ]

    assert priorities == sorted(priorities, reverse=True)
    assert len(set(priorities)) == 3


def test_it_has_rested_when_every_router_could_take_over() -> None:
    assert DEFAULT.rested_ms > 3_000 + 1_000
    assert QUICK.rested_ms > 2_000


def test_an_address_is_taken_off_a_node_and_given_back_by_its_own_track_file(tmp_path: Path) -> None:
    one = router(tmp_path)
    one.install()
    files = dict(re.findall(r'track_file off-(\S+) \{\nfile "(\S+)"', one.configuration()))
    assert {name: Path(path).read_text() for name, path in files.items()} == {"minimal": "0\n", "web": "0\n"}

    one.take_off("web")

    assert (tmp_path / "off-web").read_text() == "1\n"
    assert (tmp_path / "off-minimal").read_text() == "0\n"


def test_a_machine_without_keepalived_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(keepalived.KeepalivedMissingError, match="install"):
        keepalived.find()
