from __future__ import annotations

from images import build, trial


def test_what_is_tried_in_an_image_is_there() -> None:
    assert set(trial.FILES) == set(build.IMAGES)
    for files in trial.FILES.values():
        assert [each for each in files if not (build.TREE / "tests" / each).exists()] == []
