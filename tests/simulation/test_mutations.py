"""Each rule of the protocol is needed: switched off alone, it is missed within a few seeds of its mix.

The table is the test: the rule (numbers as in docs/protocol.md), what is switched off, the mix that shows
it, and the number of seeds within which something must break.

Some are not missed when they alone are switched off, for something else stands behind them:

- 6, the incarnation of an answer: terms only grow, and an answer under another term does not count;
- 7, a request older than a release: its grant binds the witness to one who does not listen; it costs time;
- 8, closing the fences at start: the deadline that is in the kernel ends before any witness's grant does;
- the replay window: rounds, terms and incarnations order all that a keeper says, seen again or late;
- a vote that is given back: falling silent for T before that (by then two keepers carry every lease); what
  its courier tells no more, for its keeper heeds no old vote; and what the Lease says of who asked, which
  matters only where two couriers of a node run at once (`test_votes`, `test_vote`);
- machines: a clone hears no answers, so it wants nothing; what it says can only keep others waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from simulation import mutations
from simulation.mutations import seat_with, seat_with_vote
from simulation.runs import make
from simulation.watch import Broken

if TYPE_CHECKING:
    from collections.abc import Mapping


class Row(NamedTuple):
    """One rule, without which something must break before that seed of that mix."""

    rule: str
    without: Mapping[str, Any]
    mix: str
    within: int


_ROWS = (
    Row("1: from before it", {"seat_type": seat_with(lease=mutations.DeadlineFromReceipt)}, "late", 50),
    Row("2: from after it", {"seat_type": seat_with(witness=mutations.DatesBackwards)}, "pauses", 80),
    Row("3: for Tw", {"seat_type": seat_with(witness=mutations.GrantsForALease)}, "partitions", 8),
    Row("3: by address", {"seat_type": seat_with(witness=mutations.LocksNamesOnly)}, "plans", 8),
    Row("4: a majority", {"seat_type": seat_with(lease=mutations.HalfIsEnough)}, "partitions", 8),
    Row("4: of both sets", {"seat_type": seat_with(lease=mutations.NewWitnessesOnly)}, "changing", 8),
    Row("4: sealed", {"seat_type": mutations.NeverSeals}, "outrun", 8),
    Row("4: drained", {"seat_type": mutations.NeverDrains}, "outrun", 8),
    Row("6: after the release", {"seat_type": seat_with(lease=mutations.AnyAnswerCounts)}, "late", 40),
    Row("7: after the fence", {"seat_type": seat_with(lease=mutations.ReleasesFirst)}, "stalls", 20),
    Row("7: no old release", {"seat_type": seat_with(witness=mutations.HeedsOldReleases)}, "stale", 8),
    Row("12: lapsed first", {"seat_type": seat_with(lease=mutations.NeverLapses)}, "pauses", 12),
    Row("14a: kept", {"seat_type": seat_with(witness=mutations.KeepsNoCeiling)}, "crashes", 8),
    Row("14a: floors", {"seat_type": seat_with(witness=mutations.RaisesNoFloor)}, "changing", 20),
    Row("5: silent at first", {"seat_type": seat_with(witness=mutations.NeverSilent)}, "amnesia", 40),
    Row("9: on the disk first", {"alter_world": mutations.configure_before_the_disk}, "forgotten", 12),
    Row("tombstones: late", {"seat_type": mutations.BuriesTooEarly}, "reborn", 8),
    Row("vote: from before it", {"alter_world": mutations.reckon_votes_from_receipt}, "usurped", 20),
    Row("vote: forgotten", {"seat_type": seat_with_vote(mutations.VoteGivenBackAndKept)}, "given_back", 8),
    Row("vote: not an old one", {"seat_type": seat_with_vote(mutations.HeedsOldVotes)}, "given_back", 8),
    Row("vote: not early", {"alter_world": mutations.take_votes_early}, "usurped", 12),
)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.rule) for row in _ROWS])
def test_a_rule_that_is_switched_off_is_missed(row: Row) -> None:
    for seed in range(row.within):
        try:
            make(row.mix, seed, **row.without).run()
        except Broken:
            return
    pytest.fail(f"nothing broke in {row.within} seeds of {row.mix}")
