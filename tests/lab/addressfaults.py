"""What can go wrong with addresses: each fault, how it is undone, how it must end.

A fault is done to a `Scene` by one of the `deeds`, and how it must end is the promise; never two owners,
whatever happens, and

    MOVES    another node answers while the fault lasts, and its end moves nothing
    STAYS    the owner keeps the address under the term that it had
    SILENT   nobody answers when a lease has run out, until it is undone; then somebody does, by itself
    BACK     where it is meanwhile may differ; once it is undone, somebody answers

Two faults at once are done by `addressruns`, where they do not take hold of the same thing (`takes`).

What is not here: clocks that are set or slewed and machines that sleep, for all nodes of a lab share one
clock (`tests/simulation` has both), witnesses that are replaced (`test_witnesses`), and a soak (`endurance`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING, Any, Final

from lab import burdens, weather
from lab.deeds import fence, hearing, keepers, machine, moves, nodes, objects, plane, strangers, witnesses
from vipapi.timing import DEFAULT_PROFILE, PROFILES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.addressscene import Deed

TIMING: Final = PROFILES[DEFAULT_PROFILE]
NODE_DEATH_MS: Final = TIMING.grant_ms + 2 * TIMING.heartbeat_ms
"""The grant, a heartbeat until somebody asks, and one for all the rest."""
LEASE_END_MS: Final = TIMING.grant_ms - TIMING.lease_ms + 1.5 * TIMING.heartbeat_ms
"""The owner's kernel answers until its lease ends."""
MOVE_MS: Final = 60.0
API_VOTE_MS: Final = 5_000.0

KEEPER, LINK, LEASE, API, FENCE, CONTROLLER, OTHERS, OBJECT, MACHINE = (
    "the owner's keeper", "its link", "the lease's datagrams", "the API server", "its fence",
    "the controllers", "other nodes", "the object", "the machine",
)  # fmt: skip


class Ending(Enum):
    """How a fault must end for the address."""

    MOVES = "moves"
    STAYS = "stays"
    SILENT = "silent"
    BACK = "back"


class Layout(Enum):
    """How many nodes there are, all of them candidates and witnesses; with two the API server votes too.

    And what their keepers keep addresses silent with.
    """

    TWO = (2, "auto")
    THREE = (3, "auto")
    FIVE = (5, "auto")
    NFTABLES = (3, "nftables")

    @property
    def nodes(self) -> int:
        return self.value[0]

    @property
    def witnesses(self) -> int:
        """How many vote; of two nodes the API server is the third."""
        return max(self.nodes, 3)

    @property
    def fence(self) -> str:
        return self.value[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressFault:
    """One fault. `deed` commits it when it is entered and undoes it when it is left.

    `lasts_s` is how long it is left at least. `limit_ms` is how long the address may be silent, None where
    nothing follows from the lease's times. `asks` is how often it asks the address away from a node and back.
    `takes` is what the fault takes hold of: two that take hold of the same thing are no pair. `spares` says
    that an address of another owner must not notice.
    """

    name: str
    deed: Deed
    ending: Ending
    takes: frozenset[str]
    layout: Layout = Layout.THREE
    lasts_s: float = 0.0
    limit_ms: float | None = None
    asks: int = 0
    spares: bool = True
    patience_s: float = 30.0


def _fault(name: str, deed: Deed, ending: Ending, takes: set[str], **rest: Any) -> AddressFault:
    return AddressFault(name=name, deed=deed, ending=ending, takes=frozenset(takes), **rest)


_OF_NODES: Final = (
    _fault("power-off", nodes.power_off, Ending.MOVES, {KEEPER, LINK}, limit_ms=NODE_DEATH_MS),
    _fault("link-down", nodes.link_down, Ending.MOVES, {LINK}, limit_ms=NODE_DEATH_MS),
    _fault("link-flapping", nodes.link_flapping, Ending.BACK, {LINK}, lasts_s=4, asks=2),
    _fault("silenced", hearing.silenced, Ending.MOVES, {LINK}, limit_ms=NODE_DEATH_MS),
)

_OF_KEEPERS: Final = (
    _fault("frozen-briefly", keepers.frozen_briefly, Ending.STAYS, {KEEPER}, lasts_s=1),
    _fault("frozen-about-a-lease", keepers.frozen_about_a_lease, Ending.BACK, {KEEPER}, lasts_s=1.5),
    _fault("frozen-long", keepers.frozen_long, Ending.MOVES, {KEEPER}, limit_ms=LEASE_END_MS),
    _fault(
        "killed-restarted-at-once", partial(keepers.killed, restart_s=0), Ending.BACK, {KEEPER}, lasts_s=2
    ),
    _fault(
        "killed-restarted-after-the-lease", partial(keepers.killed, restart_s=0.6), Ending.MOVES, {KEEPER},
        limit_ms=LEASE_END_MS,
    ),
    _fault("killed", keepers.killed_for_good, Ending.MOVES, {KEEPER}, limit_ms=LEASE_END_MS),
    *(
        _fault(
            f"stalled-in-{call}", partial(keepers.stalled, call=call), Ending.MOVES, {KEEPER},
            limit_ms=LEASE_END_MS,
        )
        for call in ("sendto", "bpf")
    ),
    _fault("throttled", keepers.throttled, Ending.STAYS, {KEEPER}, lasts_s=4),
    _fault(
        "rolling-restart", keepers.restarted_by_turns, Ending.BACK,
        {KEEPER, OTHERS, CONTROLLER, API, LINK, LEASE}, asks=2, spares=False,
    ),
    _fault("all-killed", keepers.all_killed, Ending.BACK, {KEEPER, OTHERS}, lasts_s=2, spares=False),
)  # fmt: skip

_OF_HEARING: Final = (
    _fault("lease-cut", hearing.lease_cut, Ending.MOVES, {LEASE}, limit_ms=LEASE_END_MS),
    _fault("lease-deaf", hearing.lease_deaf, Ending.MOVES, {LEASE}),
    _fault("lease-dumb", hearing.lease_dumb, Ending.MOVES, {LEASE}, limit_ms=LEASE_END_MS),
    _fault("cut-from-one-witness", partial(hearing.cut_from, peers=1), Ending.STAYS, {LEASE}, lasts_s=3),
    _fault(
        "cut-from-all-witnesses", partial(hearing.cut_from, peers=2), Ending.MOVES, {LEASE},
        limit_ms=LEASE_END_MS,
    ),
    _fault("loss-5", partial(hearing.lossy, rate=0.05), Ending.STAYS, {LEASE}, lasts_s=5),
    _fault("loss-20", partial(hearing.lossy, rate=0.2), Ending.STAYS, {LEASE}, lasts_s=5),
    _fault("loss-40", partial(hearing.lossy, rate=0.4), Ending.BACK, {LEASE}, lasts_s=5, spares=False),
    *(
        _fault(kind, partial(hearing.weathered, kind=kind), Ending.STAYS, {LEASE}, lasts_s=4)
        for kind in weather.KINDS
    ),
)  # fmt: skip

_OF_WITNESSES: Final = (
    _fault(
        "one-witness-killed", partial(witnesses.killed, many=1), Ending.STAYS, {OTHERS},
        lasts_s=2, spares=False,
    ),
    _fault(
        "two-witnesses-killed", partial(witnesses.killed, many=2), Ending.SILENT, {OTHERS},
        lasts_s=2, spares=False,
    ),
    _fault(
        "witnesses-in-a-loop", witnesses.killed_in_a_loop, Ending.BACK, {OTHERS}, lasts_s=6, spares=False
    ),
)  # fmt: skip

_OF_KUBERNETES: Final = (
    _fault("kubernetes-away", partial(plane.away, what="both"), Ending.STAYS, {API}, lasts_s=2),
    *(
        _fault(
            f"{name}-and-power-off", partial(plane.away, what=what, owner_dies=True), Ending.MOVES,
            {taken, KEEPER, LINK}, limit_ms=NODE_DEATH_MS,
        )
        for name, what, taken in (
            ("kubernetes-away", "both", API),
            ("etcd-away", "etcd", API),
            ("api-server-frozen", "frozen", API),
            ("controllers-away", "controllers", CONTROLLER),
        )
    ),
    _fault("one-controller-killed", plane.one_controller_killed, Ending.STAYS, {CONTROLLER}, lasts_s=2),
    # It waits for the plan of every node.
    _fault(
        "key-rotated", objects.key_rotated, Ending.STAYS, {API, CONTROLLER, KEEPER, LINK, OTHERS}, lasts_s=2
    ),
    _fault("claimed-twice", objects.claimed_twice, Ending.STAYS, {API, CONTROLLER, OBJECT}, lasts_s=2),
    _fault("recreated", objects.recreated, Ending.BACK, {API, CONTROLLER, OBJECT}, asks=1),
)  # fmt: skip

_OF_MOVES: Final = (
    _fault(
        "moved", moves.moved, Ending.MOVES, {API, CONTROLLER, OBJECT, KEEPER, OTHERS, LEASE}, limit_ms=MOVE_MS
    ),
    *(
        _fault(
            f"{who}-killed-at-{word}", partial(moves.killed_in_a_move, word=word, is_owner=who == "owner"),
            Ending.BACK, {KEEPER, OTHERS, CONTROLLER, API, LEASE, LINK}, spares=who == "owner", asks=1,
        )
        for word in ("prepare", "ready", "release", "handover", "acquire", "granted")
        for who in ("owner", "target")
    ),
)  # fmt: skip

_OF_THE_OWNERS_MACHINE: Final = (
    _fault("rules-reloaded", fence.rules_reloaded, Ending.STAYS, {FENCE}, lasts_s=3),
    _fault("ruleset-flushed", fence.ruleset_flushed, Ending.STAYS, {FENCE}, lasts_s=2),
    # A keeper that does not run cannot put its fence back.
    _fault(
        "filters-deleted", partial(fence.noticed, deed=fence.filters_deleted), Ending.BACK,
        {FENCE, KEEPER, LINK, LEASE}, lasts_s=2,
    ),
    _fault(
        "address-removed", strangers.address_removed, Ending.STAYS, {OBJECT},
        limit_ms=3 * TIMING.heartbeat_ms,
    ),
    _fault(
        "used-by-a-stranger", strangers.used_by_a_stranger, Ending.BACK, {OBJECT, LINK, LEASE},
        lasts_s=4, patience_s=90, spares=False,
    ),
    _fault(
        "cpu-hogged", partial(machine.hogged, kind=burdens.CPU, many=4), Ending.STAYS, {MACHINE}, lasts_s=4
    ),
    _fault(
        "memory-hogged", partial(machine.hogged, kind=burdens.MEMORY, many=2, arguments=("512",)),
        Ending.STAYS, {MACHINE}, lasts_s=4,
    ),
    _fault("flooded", machine.flooded, Ending.STAYS, {MACHINE}, lasts_s=4),
)  # fmt: skip

_five = partial(_fault, layout=Layout.FIVE)
_OF_FIVE_WITNESSES: Final = (
    _five("five-power-off", nodes.power_off, Ending.MOVES, {KEEPER, LINK}, limit_ms=NODE_DEATH_MS),
    _five(
        "five-cut-from-two-witnesses", partial(hearing.cut_from, peers=2), Ending.STAYS, {LEASE}, lasts_s=3
    ),
    _five("five-cut-from-three-witnesses", partial(hearing.cut_from, peers=3), Ending.MOVES, {LEASE}),
    _five(
        "five-two-witnesses-killed", partial(witnesses.killed, many=2), Ending.STAYS, {OTHERS},
        lasts_s=2, spares=False,
    ),
    _five(
        "five-witness-killed-then-power-off", partial(witnesses.killed, many=1, then_owner=True),
        Ending.MOVES, {OTHERS, KEEPER, LINK}, spares=False, limit_ms=NODE_DEATH_MS,
    ),
    _five(
        "five-three-witnesses-killed", partial(witnesses.killed, many=3), Ending.SILENT, {OTHERS},
        lasts_s=2, spares=False,
    ),
)  # fmt: skip

_two = partial(_fault, layout=Layout.TWO)
_OF_TWO_NODES_AND_THE_API_SERVER: Final = (
    _two("two-power-off", nodes.power_off, Ending.MOVES, {KEEPER, LINK}, limit_ms=API_VOTE_MS),
    _two(
        "two-cut-from-each-other", partial(hearing.cut_from, peers=1), Ending.BACK, {LEASE},
        lasts_s=5, spares=False,
    ),
    _two(
        "two-standby-killed", partial(witnesses.killed, many=1), Ending.STAYS, {OTHERS},
        lasts_s=4, spares=False,
    ),
    _two("two-kubernetes-away", partial(plane.away, what="both"), Ending.STAYS, {API}, lasts_s=3),
    _two(
        "two-kubernetes-away-and-power-off", partial(plane.away, what="both", owner_dies=True),
        Ending.SILENT, {API, KEEPER, LINK}, lasts_s=3, spares=False,
    ),
)  # fmt: skip

_BY_THE_USUAL_FENCE: Final = (
    *_OF_NODES, *_OF_KEEPERS, *_OF_HEARING, *_OF_WITNESSES, *_OF_KUBERNETES, *_OF_MOVES,
    *_OF_THE_OWNERS_MACHINE, *_OF_FIVE_WITNESSES, *_OF_TWO_NODES_AND_THE_API_SERVER,
)  # fmt: skip

_BY_NFTABLES: Final = (
    "power-off",
    "frozen-about-a-lease",
    "frozen-long",
    "killed-restarted-at-once",
    "killed",
    "stalled-in-sendto",
    "rules-reloaded",
    "address-removed",
)


def _fenced_by_nftables() -> Iterator[AddressFault]:
    """Do again what a fence is for, and what takes hold of it, where nftables is the fence."""
    usual = {fault.name: fault for fault in _BY_THE_USUAL_FENCE}
    for name in _BY_NFTABLES:
        yield replace(usual[name], name=f"nftables-{name}", layout=Layout.NFTABLES)
    yield _fault(
        "nftables-ruleset-flushed", fence.tables_flushed, Ending.STAYS,
        {FENCE, KEEPER}, lasts_s=2, layout=Layout.NFTABLES,
    )  # fmt: skip


FAULTS: Final = (*_BY_THE_USUAL_FENCE, *_fenced_by_nftables())


def chosen(name: str) -> tuple[AddressFault, ...]:
    """Return the fault of a name, or the two of `one+other`; raises `ValueError` where there is none."""
    known = {fault.name: fault for fault in FAULTS}
    try:
        return tuple(known[each] for each in name.split("+"))
    except KeyError as unknown:
        raise ValueError(f"there is no fault {unknown}: there are {', '.join(known)}") from unknown


def pairs() -> list[tuple[AddressFault, AddressFault]]:
    """Return all pairs of faults in three nodes that may be done at once, in both orders."""
    return [
        (one, other)
        for one, other in permutations(FAULTS, 2)
        if one.layout is other.layout is Layout.THREE and not one.takes & other.takes
    ]
