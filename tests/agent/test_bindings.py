"""Which held sets are gone through when a lease may be about to leave."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from vipagent.bindings import Bindings
from vipagent.effects import Open, Origin
from vipagent.tasks import Tasks
from vipapi.nodeplan import CandidatePlan, VirtualIPPlan

if TYPE_CHECKING:
    from vipagent.contests import Contests
    from vipagent.node import Node
    from vipagent.seats import Seated
    from vipagent.workloads import Workloads

FOLLOWED = {"vip-7", "vip-9"}


@dataclass
class Around:
    """What stands around the held sets: nothing may be bound, and services follow two of them."""

    vips: dict[bytes, VirtualIPPlan] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)
    left: set[tuple[str, bool]] = field(default_factory=set)
    followed: frozenset[str] = frozenset(FOLLOWED)
    leaving: bytes = b""

    def vip(self, key: bytes) -> VirtualIPPlan:
        return self.vips[key]

    def is_leaving(self, key: bytes) -> bool:
        self.asked.append(key)
        return key == self.leaving

    def leave(self, uid: str, *, is_leaving: bool) -> None:
        if uid in FOLLOWED:
            self.left.add((uid, is_leaving))

    def may_bind(self, _: object) -> bool:
        return False

    def open(self, *_: object, **__: object) -> None:
        pass

    def own(self, *_: object) -> None:
        pass

    def seated(self) -> Seated:
        timing = SimpleNamespace(grant_ms=500)
        seat = SimpleNamespace(lease=self, vip=self.vip, domain=SimpleNamespace(timing=timing))
        return cast("Seated", SimpleNamespace(seat=seat))

    def bindings(self) -> Bindings:
        return Bindings(
            node=cast("Node", self),
            workloads=cast("Workloads", self),
            contests=cast("Contests", self),
            tasks=Tasks(),
            now_ns=lambda: 0,
            on_left=lambda *_: None,
            on_change=lambda: None,
        )


def test_only_sets_that_services_follow_are_asked_whether_they_leave() -> None:
    """It is asked at every wake of the heartbeat socket."""

    async def story() -> None:
        around = Around()
        bindings, seated = around.bindings(), around.seated()
        for number in range(500):
            key = str(number).encode()
            around.vips[key] = VirtualIPPlan(
                uid=f"vip-{number}",
                name=f"vip-{number}",
                addresses=(f"10.0.{number >> 8}.{number & 255}/16",),
                candidates=(CandidatePlan("a", 100),),
            )
            bindings.open(seated, Open(key, 1 << 62, 1, Origin("Initial", None, 0)))
        bindings.follow()
        assert sorted(around.asked) == [b"7", b"9"]
        assert around.left == {("vip-7", False), ("vip-9", False)}
        around.leaving = b"9"
        bindings.follow()
        assert ("vip-9", True) in around.left

    asyncio.run(story())
