"""Sweeping: taking away what keepers leave on a node, for a node that is to have none any more.

A keeper that ends leaves its fence where it is, closed, and it has to: the one that follows it a moment
later must not find that the node answered for an address meanwhile, which others hold (kube-proxy binds
service addresses on every node). Nothing tells it whether another one will follow. So its end and the
node's retirement are two things, and this is the second: `vipkeeper-keeper --clean`.

| what a keeper leaves | after SIGTERM | after SIGKILL |
|---|---|---|
| addresses with our mark | none | for 6 s at most, silent as soon as the lease has run out |
| routes and rules with our mark | none | what does not go with the addresses (`vipagent.routing`) |
| the fence on each guarded link, and its map; or nftables | until the node restarts | the same |
| the clsact of each guarded link, where BPF has its filters | until the node restarts | the same |
| the plan with the heartbeat keys, in the state folder | yes | yes |
| promises (incarnation, terms, witness configurations), in the state folder | yes | yes |

Swept are addresses, routes, rules, fence and plan. An empty clsact does nothing, and nobody can tell ours
from one that a network plugin is about to use: it stays until the node restarts, or somebody deletes it.
Promises stay, a few hundred bytes: a node that comes back must keep them, and one that does not is not
harmed. What services started is for a keeper to stop: it is named (`still_started`).
Sysctls, routes and rules of others, other tables of nftables and /sys/fs/bpf are never touched by a keeper.

Routes and rules go before the addresses, and these before the fence that keeps them silent. No keeper may
run meanwhile, so a keeper's place is taken first, for as long as that takes (`tenancy`). A keeper with
another state folder is waited for too, but its folder is not swept of its plan.

Where keepers may be there to stay, the wait needs an end, after which the place is never claimed: whoever
tried on would win it at the keeper's next restart, and keep the node without one.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Final

from vipagent import fences
from vipagent.disk import FolderTaken
from vipagent.kernel import Kernel
from vipagent.ledger import Ledger
from vipagent.tenancy import NetworkTaken, claim

if TYPE_CHECKING:
    from pathlib import Path

    from vipagent.disk import Disk

_AGAIN_S: Final = 0.5

_log = logging.getLogger(__name__)


def claim_after_the_last_keeper(disk: Disk, patience_s: float = math.inf) -> bool:
    """Wait until no keeper runs here or with this folder, and let none start; False when patience has ended.

    Raises `OSError`.
    """
    until = time.monotonic() + patience_s
    is_told = False
    while True:
        try:
            claim(disk)
        except (FolderTaken, NetworkTaken) as taken:
            if not is_told:
                _log.info("Waiting, for %s", taken)
            is_told = True
            if time.monotonic() >= until:
                return False
            time.sleep(_AGAIN_S)
        else:
            return True


async def still_started(ledger: Path) -> list[str]:
    """Name the services that a keeper of this boot has started and not seen stopped, by its ledger."""
    book = Ledger(ledger)
    await book.load()
    names = sorted(entry.service.title for entry in book.entries.values())
    await book.close()
    return names


async def sweep(disk: Disk) -> None:
    """Take it all away, by who has claimed them; raises `KernelRefused`, `FenceRefused`, `OSError`.

    What was refused half way is found again by the next sweep.
    """
    disk.forget_plan()
    async with Kernel.open() as kernel:
        view = await kernel.observe()
        for entry in view.entries:
            await kernel.withdraw(entry)
            _log.info("Removed the %s", entry)
        for link in view.links:
            for bound in link.addresses:
                if bound.is_ours:
                    await kernel.unbind(bound.ip, link.index)
                    _log.info("Removed %s from %s", bound.ip, link.name)
        await fences.retire(kernel, None)
