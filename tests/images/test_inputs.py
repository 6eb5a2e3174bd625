from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from images import build, inputs
from images.inputs import Origin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGE = "controller"
COMMIT = "1795356903 4aa3273d23e8dd99a8196453cd56d058be444446"


def tree(root: Path) -> Path:
    """Make a small tree with everything that an image is made of."""
    for name in (*inputs.patterns(IMAGE), "docs/images.md", "controller/vip*/__pycache__/a.pyc"):
        path = root / name.replace("vip*", "vipapi")
        path = path / "a.py" if path.name == "vipapi" else path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def git(*, logged: str | None, changed: str | None) -> inputs.Git:
    """Git as it answers for a tree."""
    return lambda _, arguments: {"log": logged, "status": changed}[arguments[0]]


@pytest.mark.parametrize(
    ("logged", "changed", "origin"),
    [
        pytest.param(COMMIT, "", Origin(COMMIT.split()[1], 1795356903), id="as committed"),
        pytest.param(COMMIT, " M controller/vipapi/ports.py", Origin("", 1795356903), id="changed since"),
        pytest.param(COMMIT, None, Origin("", 1795356903), id="nobody knows whether changed"),
        pytest.param(None, None, Origin("", 0), id="no history"),
        pytest.param("", "?? LICENSE", Origin("", 0), id="nothing committed yet"),
    ],
)
def test_an_image_names_a_commit_only_if_it_holds_what_was_committed(
    logged: str | None, changed: str | None, origin: Origin
) -> None:
    assert inputs.origin(build.TREE, IMAGE, {}, git(logged=logged, changed=changed)) == origin


def test_whoever_builds_may_set_the_time() -> None:
    asked = git(logged=COMMIT, changed="")
    assert inputs.origin(build.TREE, IMAGE, {"SOURCE_DATE_EPOCH": "7"}, asked).time_s == 7


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda root: (root / "controller/vipapi/a.py").write_text("x"), id="a module"),
        pytest.param(lambda root: (root / "node-agent/vipapi/b.json").touch(), id="a new file"),
        pytest.param(lambda root: (root / "controller/vipapi/a.py").unlink(), id="a file less"),
        pytest.param(lambda root: (root / "controller/requirements.lock").write_text("x"), id="the lock"),
        pytest.param(
            lambda root: (root / "controller/Containerfile").write_text("x"), id="the Containerfile"
        ),
        pytest.param(lambda root: (root / "tests/images/seal.py").write_text("x"), id="how it is sealed"),
    ],
)
def test_an_archive_is_made_anew_when_something_in_it_changed(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    before = inputs.digest(tree(tmp_path), IMAGE, ("0.1.0",))
    change(tmp_path)
    assert inputs.digest(tmp_path, IMAGE, ("0.1.0",)) != before


def test_an_archive_is_kept_when_something_else_changed(tmp_path: Path) -> None:
    before = inputs.digest(tree(tmp_path), IMAGE, ("0.1.0",))
    (tmp_path / "docs/images.md").write_text("x")
    (tmp_path / "controller/vipapi/__pycache__/a.pyc").write_text("x")
    (tmp_path / "node-agent/Containerfile").parent.mkdir(exist_ok=True)
    (tmp_path / "node-agent/Containerfile").write_text("x")
    assert inputs.digest(tmp_path, IMAGE, ("0.1.0",)) == before


def test_another_stamp_makes_another_archive(tmp_path: Path) -> None:
    root = tree(tmp_path)
    assert inputs.digest(root, IMAGE, ("0.1.0", "")) != inputs.digest(root, IMAGE, ("0.1.1", ""))


@pytest.mark.parametrize("image", build.IMAGES)
def test_all_that_a_containerfile_copies_is_among_the_inputs(image: str) -> None:
    text = (build.TREE / image / "Containerfile").read_text()
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
        for source in line.split()
    }
    folders = {"controller/", "node-agent/"}
    assert copied >= folders
    assert copied - folders <= set(inputs.patterns(image))
