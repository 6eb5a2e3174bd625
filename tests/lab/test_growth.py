"""What counts as growth, and what is noise or warm-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.growth import JUDGED_FROM, Growth, Kind, Measure, Sample, growths, least, slope

if TYPE_CHECKING:
    from collections.abc import Sequence

FILES = Measure("node-a/keeper", "descriptors", Kind.COUNT)
MEMORY = Measure("node-a/keeper", "memory MB", Kind.MEMORY)
OBJECTS = Measure("Kubernetes", "VirtualIPs kB", Kind.DOCUMENT)
EVENTS = Measure("Kubernetes", "Events", Kind.TOLD)


def over(measure: Measure, values: Sequence[float], *, step: int = 300) -> Growth:
    """Return how a measure grew that had these values, one every `step` take-overs."""
    samples = [Sample(number * step, {measure: value}) for number, value in enumerate(values)]
    [growth] = growths(samples)
    return growth


@pytest.mark.parametrize(
    ("measure", "values"),
    [
        pytest.param(FILES, [20, 20, 20, 20, 20, 21, 20, 21, 22], id="a descriptor in a thousand"),
        pytest.param(FILES, [20, 30, 30, 30, 30, 31, 31, 31, 31], id="one more, once and for all"),
        pytest.param(MEMORY, [50, 53, 53.1, 53.5, 54, 54.4, 54.9, 55.3, 55.7], id="1.5 MB in 1,000"),
        pytest.param(OBJECTS, [100, 100, 100, 102, 104, 106, 108, 110, 112], id="a list that gets longer"),
    ],
)
def test_what_only_goes_up_has_grown(measure: Measure, values: Sequence[float]) -> None:
    assert "grows by" in (over(measure, values).objection or "")


@pytest.mark.parametrize(
    ("measure", "values"),
    [
        pytest.param(FILES, [20] * 9, id="nothing"),
        pytest.param(FILES, [20, 25, 28, 30, 30, 30, 30, 30, 30], id="warm-up"),
        pytest.param(FILES, [20, 20, 20, 20, 22, 20, 20, 22, 20], id="what comes back"),
        pytest.param(FILES, [20, 20, 20, 20, 21, 20, 21, 20, 22], id="what comes back from ever higher"),
        pytest.param(FILES, [20, 20, 20, 20, 21, 21, 21, 21, 22], id="too little to tell it from noise"),
        pytest.param(FILES, [30, 29, 28, 27, 26, 25, 24, 23, 22], id="it shrinks"),
        pytest.param(MEMORY, [50, 53, 53, 53.2, 53.4, 53.6, 53.8, 54, 54.2], id="0.7 MB in 1,000"),
        pytest.param(MEMORY, [50, 53, 53, 59, 52, 57, 53, 60, 54], id="memory that comes and goes"),
        pytest.param(OBJECTS, [100, 100, 100, 100, 100.3, 100.3, 100.3, 100.6, 100.6], id="digits"),
        pytest.param(EVENTS, [0, 60, 120, 180, 240, 300, 360, 420, 480], id="what only is told"),
        pytest.param(FILES, [20, 21, 22, 23, 24], id="too few to tell"),
    ],
)
def test_what_is_noise_warm_up_or_within_its_limit_has_not(measure: Measure, values: Sequence[float]) -> None:
    assert over(measure, values).objection is None


def test_as_many_samples_as_are_needed_tell_a_leak_of_one_a_cycle() -> None:
    assert over(FILES, range(JUDGED_FROM)).objection is not None


def test_growth_is_told_for_1000_take_overs_without_the_warm_up() -> None:
    growth = over(FILES, [0, 90, 100, 103, 106, 109, 112, 115, 118])
    assert growth.per_thousand == pytest.approx(10)
    assert (growth.first, growth.middle, growth.last) == (0, 106, 118)
    assert not growth.is_constant
    assert over(FILES, [3, 3, 3]).is_constant


def test_what_a_sample_lacks_was_not_there() -> None:
    samples = [Sample(number, {} if number < 6 else {FILES: 1.0}) for number in range(9)]
    [growth] = growths(samples)
    assert (growth.first, growth.last, growth.rises) == (0, 1, True)


def test_the_slope_of_one_point_is_none() -> None:
    assert slope([(5, 7)]) == 0
    assert slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)


def test_what_is_there_for_a_moment_only_does_not_count() -> None:
    assert least([{FILES: 21.0, EVENTS: 1.0}, {FILES: 20.0}, {FILES: 22.0}]) == {FILES: 20.0}
