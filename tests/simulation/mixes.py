"""The mixes: which faults come how often, how lossy the network is, how slow the machines, on what shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from simulation.leash import Nature
from simulation.network import Quality
from simulation.world import Disturbance
from vipagent.effects import MILLISECOND


@dataclass(frozen=True, slots=True)
class Shape:
    """Who is there (one letter each), who votes at first, who may hold."""

    names: str
    witnesses: str
    candidates: str
    has_api_vote: bool = False


@dataclass(frozen=True, slots=True)
class Mix:
    """`faults` by weight. Without `is_order_kept` a term may go back: the disk that kept it was lost.

    With a `nature` services follow the addresses.
    """

    faults: dict[str, int]
    quality: Quality = field(default_factory=Quality)
    disturbance: Disturbance = field(default_factory=Disturbance)
    shapes: tuple[Shape, ...] = ()
    is_sealed: bool = False
    is_order_kept: bool = True
    is_alone_allowed: bool = False
    domains: int = 1
    torment_s: int = 6
    nature: Nature | None = None


SHAPES: Final = (
    Shape("abc", "abc", "abc"),
    Shape("abcde", "abcde", "abcde"),
    Shape("abw", "abw", "ab"),  # two candidates and a node that is a witness only
    Shape("abcdef", "abc", "abcdef"),
    Shape("abvwx", "abvwx", "ab"),
)
_CHANGING: Final = (
    Shape("abcde", "abc", "abcde"),
    Shape("abcdef", "abc", "abc"),
    Shape("abcdefg", "abcde", "abcd"),
    Shape("abcd", "a", "abcd"),
)
_WIDE: Final = (Shape("abcdef", "abc", "abcdef"), Shape("abcdefg", "abc", "abcg"))
_PAIRS: Final = (Shape("ab", "ab", "ab", has_api_vote=True),)

_CUTS: Final = {"isolate": 3, "deafen": 2, "mute": 2, "cut_pair": 3, "mend": 5}
_ENDS: Final = {"crash": 3, "power_off": 2, "restart": 6, "resign": 2}
_ORDERS: Final = {"move": 3, "old_order": 1, "sicken": 3, "cure": 4}
_PLANS: Final = {"drop_vip": 1, "add_vip": 2, "swap_addresses": 2, "reorder": 2, "spread_plan": 1}
_CHANGES: Final = {
    "change_witnesses": 6,
    "cut_api": 1,
    "mend_api": 2,
    "send_registrar_away": 1,
    "call_registrar": 3,
}
_VOTES: Final = {"lose_api": 2, "find_api": 4, "cut_api": 2, "mend_api": 4, "restart_courier": 1}
_BAD: Final = Quality(loss=0.15, duplicates=0.1, late=0.1)
_LATE: Final = Quality(loss=0.02, duplicates=0.1, late=0.5, late_ns=350 * MILLISECOND)
_CROWDED: Final = Quality(loss=0.1, duplicates=0.3, late=0.6, late_ns=70 * MILLISECOND)
_STALE: Final = Quality(loss=0.05, duplicates=0.3, late=0.3, late_ns=1500 * MILLISECOND)
_SLOW_DISK: Final = Disturbance(slow_disk=0.4, slow_disk_ns=2500 * MILLISECOND)

MIXES: Final[dict[str, Mix]] = {
    "partitions": Mix(_CUTS, quality=Quality(loss=0.02)),
    "late": Mix(_CUTS | {"pause": 2, "crash": 1, "restart": 2, "slew": 1}, quality=_LATE),
    "crowded": Mix(_CUTS | {"move": 4, "reorder": 4, "resign": 2, "crash": 2, "sicken": 2}, quality=_CROWDED),
    "crashes": Mix(_ENDS, quality=Quality(loss=0.05, late=0.05)),
    "pauses": Mix({"pause": 6, "slew": 1, "mend": 1}, disturbance=Disturbance(stall=0.0005, slow_unbind=0.2)),
    "resumes": Mix({"suspend": 6, "pause": 1, "crash": 1, "restart": 2}, quality=Quality(loss=0.02)),
    "stalls": Mix(
        {"move": 8, "resign": 3, "crash": 1, "restart": 1},
        disturbance=Disturbance(stall=0.02, stall_ns=250 * MILLISECOND, slow_unbind=0.1),
    ),
    "moves": Mix(_ORDERS, quality=Quality(loss=0.05, late=0.05)),
    "gateways": Mix(
        {"lose_gateway": 3, "lose_gateways": 1, "find_gateways": 3, "crash": 1, "restart": 2, "move": 1}
    ),
    "plans": Mix(_PLANS | {"crash": 1, "restart": 3, "move": 1}, quality=Quality(loss=0.03)),
    "deletions": Mix({"drop_vip": 3, "add_vip": 4, "isolate": 2, "mend": 2, "crash": 1, "restart": 2}),
    "stale": Mix(_ORDERS | {"crash": 1, "restart": 2, "pause": 1}, quality=_STALE),
    "disks": Mix(
        _ENDS | _CHANGES | {"fill_disk": 2, "free_disk": 4, "move": 2},
        disturbance=_SLOW_DISK,
        shapes=_CHANGING,
    ),
    "wiped": Mix(
        {"wipe": 2, "restart": 4, "crash": 1, "move": 1}, shapes=SHAPES[:2] + SHAPES[4:], is_order_kept=False
    ),
    "clones": Mix({"clone": 3, "unclone": 2, "move": 2, "crash": 1, "restart": 2}, is_sealed=True),
    "keys": Mix(
        {"rotate_keys": 4, "crash": 1, "restart": 2, "move": 1, "cut_api": 1, "mend_api": 2},
        quality=Quality(loss=0.02, duplicates=0.3, late=0.3),
        is_sealed=True,
    ),
    "sealed": Mix(
        _CUTS | _ENDS | _ORDERS | _CHANGES | {"rotate_keys": 1, "pause": 2},
        quality=_CROWDED,
        shapes=SHAPES + _CHANGING,
        is_sealed=True,
    ),
    "witnesses": Mix(_CHANGES, quality=Quality(loss=0.05, late=0.05), shapes=_CHANGING),
    "changing": Mix(_CHANGES | _ENDS | _CUTS | {"move": 2, "pause": 1}, quality=_CROWDED, shapes=_CHANGING),
    "left_behind": Mix(
        {
            "change_witnesses": 8,
            "isolate": 2,
            "mend": 2,
            "cut_api": 4,
            "mend_api": 1,
            "crash": 1,
            "restart": 2,
        },
        quality=Quality(loss=0.02),
        shapes=_CHANGING,
    ),
    "outrun": Mix(
        {"leave_behind": 1},
        disturbance=Disturbance(disk_ns=4 * MILLISECOND),
        shapes=_WIDE,
    ),
    "amnesia": Mix({"blip": 6, "cut_pair": 4, "isolate": 2, "mend": 3}, quality=Quality(loss=0.1)),
    "forgotten": Mix(
        {"forget_behind": 1}, disturbance=Disturbance(disk_ns=4 * MILLISECOND), shapes=_WIDE, torment_s=12
    ),
    "usurped": Mix({"usurp": 1}, shapes=_PAIRS, torment_s=24),
    "given_back": Mix({"part_again": 1}, shapes=_PAIRS, torment_s=24),
    "votes": Mix(_VOTES | {"isolate": 4, "mend": 4, "crash": 2, "power_off": 1, "restart": 6}, shapes=_PAIRS),
    "pairs": Mix(
        _VOTES | _CUTS | _ENDS | _ORDERS | {"pause": 2, "slew": 1, "suspend": 1},
        quality=Quality(loss=0.05, late=0.1),
        disturbance=Disturbance(stall=0.0003),
        shapes=_PAIRS,
    ),
    "everything": Mix(
        _CUTS
        | _ENDS
        | _ORDERS
        | _PLANS
        | _CHANGES
        | {"pause": 3, "slew": 2, "lose_gateway": 1, "find_gateways": 2},
        quality=_BAD,
        disturbance=Disturbance(stall=0.0003, slow_unbind=0.1, slow_disk=0.1),
        shapes=SHAPES + _CHANGING,
    ),
}

_NODES: Final = {"crash": 2, "power_off": 1, "restart": 5, "isolate": 1, "mend": 3}
_CLIENTS: Final = {
    "lose_api": 1,
    "find_api": 3,
    "cut_api": 1,
    "mend_api": 2,
    "stick_mirror": 2,
    "free_mirrors": 3,
    "restart_courier": 1,
    "kill_controller": 2,
    "lead_twice": 2,
}
_FLEET: Final = {"grow": 2, "shrink": 2}

STACKS: Final[dict[str, Mix]] = {
    "stack": Mix(_NODES | _CLIENTS | {"move": 2, "sicken": 1, "cure": 2, "make_vip": 1}, domains=2),
    "fleet": Mix(_NODES | _CLIENTS | _FLEET, quality=Quality(loss=0.05), domains=1),
    "reborn": Mix(
        _CLIENTS | {"rebear": 3, "rebear_cut_off": 3, "mend": 1, "crash": 1, "restart": 3, "make_vip": 1},
        domains=2,
    ),
    "restored": Mix(_NODES | _CLIENTS | _FLEET | {"restore_etcd": 2, "back_etcd_up": 1}, domains=1),
    "grown": Mix(
        _NODES | _CLIENTS | {"grow": 2}, shapes=(Shape("ab", "", ""), Shape("a", "", "")), domains=1
    ),
}

_SERVED: Final = (Shape("abc", "abc", "abc"), Shape("abw", "abw", "ab"), Shape("abcde", "abcde", "abcd"))
_KINDLY: Final = Nature()
_STUBBORN: Final = Nature(ignores_stop=0.7)
_DEAF: Final = Nature(ignores_stop=1.0)
_FRAIL: Final = Nature(start_fails=0.1, start_hangs=0.05, dies=0.1, ignores_stop=0.3)
_HANGING: Final = Nature(dies=0.1, ignores_stop=0.6, hangs=0.5)
_EDITS: Final = {
    "raise_stop_timeout": 2,
    "lower_stop_timeout": 1,
    "rename_service": 2,
    "follow_another": 2,
    "exchange_workload": 1,
    "drop_service": 1,
    "add_service": 2,
    "drop_candidate": 2,
    "add_candidate": 3,
}

SERVICES: Final[dict[str, Mix]] = {
    "services": Mix(
        _CUTS | _ENDS | _ORDERS | {"pause": 2, "blip": 1, "slew": 1},
        quality=Quality(loss=0.05, late=0.05),
        shapes=_SERVED,
        torment_s=20,
        nature=_KINDLY,
    ),
    "stubborn": Mix(
        _CUTS | {"crash": 3, "blip": 2, "restart": 5, "pause": 3, "power_off": 1, "slew": 1},
        quality=Quality(loss=0.05, duplicates=0.1, late=0.2, late_ns=1500 * MILLISECOND),
        shapes=_SERVED,
        torment_s=20,
        nature=_STUBBORN,
    ),
    "frail": Mix(
        {"fall": 2, "ail": 2, "recover": 2, "kill_leash": 1, "crash": 1, "restart": 3, "move": 2, "pause": 1},
        quality=Quality(loss=0.02),
        shapes=_SERVED,
        torment_s=20,
        nature=_FRAIL,
    ),
    "hanging": Mix(
        {"move": 4, "isolate": 2, "mend": 3, "crash": 2, "blip": 2, "restart": 4, "fall": 1},
        quality=Quality(loss=0.05),
        shapes=_SERVED,
        torment_s=25,
        nature=_HANGING,
    ),
    "frozen": Mix(
        {"suspend": 6, "pause": 2, "move": 2, "crash": 1, "restart": 2},
        quality=Quality(loss=0.02),
        shapes=_SERVED,
        torment_s=20,
        nature=_STUBBORN,
    ),
    "edits": Mix(
        _EDITS | {"move": 3, "isolate": 2, "mend": 4, "crash": 2, "restart": 5, "cut_api": 1, "mend_api": 3},
        quality=Quality(loss=0.02),
        shapes=_SERVED,
        torment_s=25,
        nature=_STUBBORN,
    ),
    "renames": Mix(
        {"rename_service": 8, "pause": 4, "resign": 1, "move": 3, "restart": 2, "crash": 1},
        shapes=_SERVED,
        torment_s=25,
        nature=_STUBBORN,
    ),
    "timeouts": Mix(
        {"raise_stop_timeout": 4, "lower_stop_timeout": 4, "isolate": 4, "mend": 5, "crash": 1, "restart": 2},
        shapes=_SERVED,
        torment_s=30,
        nature=_DEAF,
    ),
    "dropped": Mix(
        {"drop_candidate": 5, "add_candidate": 4, "pause": 4, "raise_stop_timeout": 1, "restart": 1},
        shapes=_SERVED,
        torment_s=30,
        nature=_DEAF,
    ),
    "strangers": Mix(
        {
            "cut_api": 4,
            "mend_api": 2,
            "add_candidate": 5,
            "drop_candidate": 3,
            "isolate": 4,
            "mend": 4,
            "crash": 1,
            "restart": 3,
        },
        shapes=_SERVED[:2],
        torment_s=40,
        nature=_DEAF,
    ),
    "readdressed": Mix(
        {"swap_addresses": 5, "pause": 2, "move": 3, "crash": 1, "restart": 2},
        shapes=_SERVED,
        torment_s=20,
        nature=_DEAF,
    ),
    "tardy": Mix(
        {"pause": 5, "move": 3, "sicken": 2, "cure": 3},
        quality=Quality(late=0.25, late_ns=5000 * MILLISECOND),
        shapes=_SERVED[1:2],
        torment_s=30,
        nature=_STUBBORN,
    ),
    "held_up": Mix(
        {"move": 6, "resign": 2, "crash": 2, "restart": 3, "isolate": 2, "mend": 3, "pause": 2},
        quality=_CROWDED,
        disturbance=Disturbance(stall=0.01, stall_ns=700 * MILLISECOND, slow_unbind=0.1),
        shapes=_SERVED,
        torment_s=20,
        nature=_STUBBORN,
    ),
}
