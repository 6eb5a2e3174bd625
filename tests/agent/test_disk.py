"""The state folder: what a keeper finds again after a crash, a cut file or a full disk."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from vipagent.disk import ConfigurationUnreadable, Disk, FramesUnreadable, PlanUnreadable, TermsUnreadable
from vipapi.configuration import Configuration, Member, WitnessSet
from vipapi.nodeplan import MOST_CEILING, Plan, encode


def test_a_stored_plan_is_found_again(tmp_path: Path) -> None:
    plan = Plan(node="node-a", node_addresses=("192.0.2.1",))
    Disk(tmp_path).store_plan(encode(plan))
    assert Disk(tmp_path).load_plan() == plan


def test_a_folder_without_a_plan_has_none(tmp_path: Path) -> None:
    assert Disk(tmp_path / "new").load_plan() is None


@pytest.mark.parametrize("keep", [0, 1, 10, 30], ids=lambda keep: f"{keep} bytes left")
def test_a_plan_cut_in_half_is_named_and_loses_nothing(tmp_path: Path, keep: int) -> None:
    disk = Disk(tmp_path)
    disk.store_plan(encode(Plan(node="node-a")))
    file = tmp_path / "plan.json"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(PlanUnreadable, match=r"plan\.json is damaged .* until the courier brings the next"):
        disk.load_plan()
    disk.store_plan(encode(Plan(node="node-a")))
    assert disk.load_plan() == Plan(node="node-a")


def test_a_plan_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    Disk(tmp_path).store_plan(encode(Plan(node="node-a", format=99)))
    with pytest.raises(PlanUnreadable, match="upgrade the keeper"):
        Disk(tmp_path).load_plan()


def test_a_full_disk_leaves_the_old_plan(tmp_path: Path) -> None:
    old, disk = Plan(node="node-a"), Disk(tmp_path)
    disk.store_plan(encode(old))
    (tmp_path / "plan.json.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        disk.store_plan(encode(Plan(node="node-b")))
    assert disk.load_plan() == old


def test_what_is_kept_is_for_root_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    Disk(folder).store_plan(encode(Plan(node="node-a")))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "plan.json").stat().st_mode) == 0o600


def test_a_folder_that_the_kubelet_made_is_closed_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Disk(tmp_path).claim()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_every_start_has_a_higher_incarnation(tmp_path: Path) -> None:
    numbers = [Disk(tmp_path).next_incarnation() for _ in range(20)]
    assert numbers == sorted(set(numbers))


def test_an_incarnation_grows_even_if_the_clock_was_set_back(tmp_path: Path) -> None:
    far_ahead = 10**15
    (tmp_path / "incarnation").write_text(str(far_ahead))
    assert Disk(tmp_path).next_incarnation() == far_ahead + 1


def test_a_damaged_incarnation_is_begun_anew(tmp_path: Path) -> None:
    first = Disk(tmp_path).next_incarnation()
    (tmp_path / "incarnation").write_bytes(b"\x00garbage")
    assert Disk(tmp_path).next_incarnation() >= first


def test_the_highest_term_of_each_domain_outlives_a_restart(tmp_path: Path) -> None:
    assert Disk(tmp_path).load_term_ceiling("uid/1") == 0
    Disk(tmp_path).store_term_ceiling("uid/1", 1000)
    Disk(tmp_path).store_term_ceiling("uid/2", 2000)
    assert [Disk(tmp_path).load_term_ceiling(uid) for uid in ("uid/1", "uid/2", "uid/3")] == [1000, 2000, 0]


@pytest.mark.parametrize("content", [b"", b"garbage", b"-5", str(MOST_CEILING + 1).encode()])
def test_a_highest_term_that_cannot_be_read_is_said_and_never_none(tmp_path: Path, content: bytes) -> None:
    Disk(tmp_path).store_term_ceiling("uid", MOST_CEILING)
    assert Disk(tmp_path).load_term_ceiling("uid") == MOST_CEILING
    (kept,) = tmp_path.glob("terms-*")
    kept.write_bytes(content)
    with pytest.raises(TermsUnreadable, match="cannot be read"):
        Disk(tmp_path).load_term_ceiling("uid")


def test_a_folder_has_one_keeper_at_a_time(tmp_path: Path) -> None:
    first, second = Disk(tmp_path), Disk(tmp_path)
    first.claim()
    with pytest.raises(OSError, match=r"another keeper, or a sweeper .* runs with .*: end it"):
        second.claim()


WITNESSES = WitnessSet((Member("node-a", "192.0.2.1"), Member("node-b", "192.0.2.2")), has_api_vote=True)
FIRST = Configuration(epoch=1, witnesses=WITNESSES).sealed("uid/1")
SECOND = Configuration(epoch=2, former_hash=FIRST.hash, witnesses=WITNESSES, former=WITNESSES).sealed("uid/1")


def test_the_newest_configuration_of_each_domain_outlives_a_restart(tmp_path: Path) -> None:
    for configuration in (FIRST, SECOND):
        Disk(tmp_path).store_configuration("uid/1", configuration)
    assert [Disk(tmp_path).load_configuration(uid) for uid in ("uid/1", "uid/2")] == [SECOND, None]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda kept: kept[:0], id="empty"),
        pytest.param(lambda kept: kept[: len(kept) // 2], id="cut in half"),
        pytest.param(lambda kept: kept.replace(b"192.0.2.2", b"192.0.2.9"), id="another witness"),
        pytest.param(lambda kept: kept.replace(b"uid/1", b"uid/2"), id="of another domain"),
        pytest.param(lambda kept: b"\xff" + kept, id="no text"),
    ],
)
def test_a_damaged_configuration_is_named_and_can_be_replaced(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    disk = Disk(tmp_path)
    disk.store_configuration("uid/1", FIRST)
    (file,) = tmp_path.glob("configuration-*")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ConfigurationUnreadable, match=rf"{file.name} is damaged"):
        disk.load_configuration("uid/1")
    disk.store_configuration("uid/1", SECOND)
    assert disk.load_configuration("uid/1") == SECOND


def test_a_full_disk_leaves_the_old_configuration(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.store_configuration("uid/1", FIRST)
    (file,) = tmp_path.glob("configuration-*")
    file.with_name(f"{file.name}.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        disk.store_configuration("uid/1", SECOND)
    assert disk.load_configuration("uid/1") == FIRST


def test_frames_that_another_builder_made_are_not_there_and_those_that_cannot_be_read_are_named(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path / "state")
    assert disk.load_frames("builder") == ()
    disk.store_frames([], "another")
    file = tmp_path / "state" / "frames"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert disk.load_frames("builder") == ()
    file.write_bytes(b"x" * (1 << 21))
    with pytest.raises(FramesUnreadable, match=r"frames is damaged \(it is longer .* are built anew"):
        disk.load_frames("builder")
    file.unlink()
    file.mkdir()
    with pytest.raises(FramesUnreadable, match=os.strerror(errno.EISDIR)):
        disk.load_frames("builder")
