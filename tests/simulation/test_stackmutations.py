"""Each rule of `vipagent.workload` is needed: switched off alone, it is missed within a few seeds of its mix.

The table is the test: the rule (numbers as in that module), what is switched off, the mix that shows it, and
the number of seeds within which something must break.

Some were not missed when they alone were switched off, for something else stands behind them:

- 1, the owner before this one (`ForgetsTheFormer`): whoever was a candidate once is asked anyway;
- 2, without the lease (`GoesOnWithoutTheLease`): the leash ends what runs, and starts nothing;
- 5, the run that an outcome names (`AnyRunCounts`): a leash tells outcomes once and in order;
- 6, another term's first (`NeverDrains`): a lease is not `closed`, so not won anew, before all has stopped;
- 7 allows what is safe; without it a stack would only ask again.

Rules 9 and 10, for nodes that are fenced or said to be off, are not simulated: `test_suspects.py` has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from simulation import stackmutations as without
from simulation.runs import make
from simulation.stackmutations import stack_with
from simulation.watch import Broken

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulation.world import World


class Row(NamedTuple):
    """One rule, without which something must break before that seed of that mix."""

    rule: str
    alter_world: Callable[[World], None]
    mix: str
    within: int


_ROWS = (
    Row("1: for the leash's time", stack_with(without.NeverWaits), "stubborn", 4),
    Row("1: by any clock", stack_with(without.WaitsForExactClocks), "timeouts", 12),
    Row("1: who was a candidate", stack_with(without.ForgetsFormerCandidates), "dropped", 8),
    Row("1: who could not stop it", stack_with(without.HeedsNoDenial), "hanging", 16),
    Row("2: what was left behind", without.OTHERS["leftovers"], "hanging", 16),
    Row("3: what is being stopped", stack_with(without.VacantTooEarly), "held_up", 12),
    Row("3: is told of", stack_with(without.DeniesWhatStops), "stubborn", 4),
    Row("4: in this tenure", stack_with(without.AnyTenureCounts), "tardy", 24),
    Row("4: nor is it remembered", stack_with(without.RemembersOtherTenures), "stubborn", 16),
    Row("6: under its former name", stack_with(without.StartsBesideTheFormer), "renames", 4),
    Row("8: the address first", stack_with(without.StopsBeneathTheAddress), "services", 4),
    Row("leash: from the lease's end", without.OTHERS["orders"], "frozen", 24),
    Row("leash: without its keeper", without.OTHERS["leash"], "stubborn", 24),
)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.rule) for row in _ROWS])
def test_a_rule_of_the_services_that_is_switched_off_is_missed(row: Row) -> None:
    for seed in range(row.within):
        try:
            make(row.mix, seed, alter_world=row.alter_world).run()
        except Broken:
            return
    pytest.fail(f"nothing broke in {row.within} seeds of {row.mix}")
