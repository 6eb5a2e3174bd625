"""What a keeper must not forget of its domains: the newest witness configuration, and how high terms went.

Both are kept on disk before anything acts on them, and neither ever goes back. A configuration is
*offered* by a plan or by a peer; `keep_configurations` stores what counts, in a thread, and only then it
is `configuration`. What cannot be kept stays offered: the old one goes on, a problem says so, and the
next call tries again.

A damaged file may have held a higher epoch than the plan that is stored beside it. Acting on that plan
could be going back, so such a domain waits for a plan that comes from the API server.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vipagent import epochs
from vipagent.disk import ConfigurationUnreadable, TermsUnreadable
from vipapi.configuration import Configuration
from vipapi.nodestatus import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipagent.disk import Disk
    from vipapi.nodeplan import DomainPlan

_TERMS: Final = "TermsNotKept"
_TERMS_LOST: Final = "TermsUnreadable"
_NOT_KEPT: Final = "ConfigurationNotKept"
_UNREADABLE: Final = "ConfigurationUnreadable"
_REFUSED: Final = "ConfigurationRefused"
_NONE: Final = Configuration()

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Memory:
    """What the disk has of a domain, and what it is to have; `configuration` has epoch 0 if it has none."""

    name: str
    term_ceiling: int
    configuration: Configuration = _NONE
    offered: Configuration = _NONE
    is_damaged: bool = False
    problems: dict[str, Problem] = field(default_factory=dict)

    def note(self, reason: str, message: str) -> None:
        """Have a problem in the report, and once in the log."""
        problem = Problem(reason, message)
        if self.problems.get(reason) != problem:
            _log.error("%s", message)
        self.problems[reason] = problem


class Memories:
    """The memory of every domain that this keeper has met since it started."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._by_uid: dict[str, Memory] = {}
        self._keeping = asyncio.Lock()

    def __getitem__(self, domain_uid: str) -> Memory:
        return self._by_uid[domain_uid]

    async def settle(self, domains: Iterable[DomainPlan], *, is_from_disk: bool) -> None:
        """Have on disk what counts in each domain of a plan, as far as that can be."""
        for domain in domains:
            memory = self._by_uid.get(domain.uid)
            if memory is None:
                memory = self._by_uid[domain.uid] = await asyncio.to_thread(self._recall, domain)
            if not (memory.is_damaged and is_from_disk):
                self.offer(domain.uid, domain.configuration)
        await self.keep_configurations()

    def _recall(self, domain: DomainPlan) -> Memory:
        """Read what the disk has of a domain; in a thread."""
        memory = Memory(domain.name, term_ceiling=0)
        try:
            memory.term_ceiling = self._disk.load_term_ceiling(domain.uid)
        except TermsUnreadable as unreadable:
            memory.note(
                _TERMS_LOST,
                f"{unreadable}: this node's witness of domain {domain.name} goes by the terms that the API "
                "server and other witnesses tell it, and terms repeat only if those are lost too; it is told "
                "until the node-agent is started again",
            )
        try:
            memory.configuration = self._disk.load_configuration(domain.uid) or _NONE
        except ConfigurationUnreadable as unreadable:
            memory.is_damaged = True
            memory.note(
                _UNREADABLE,
                f"{unreadable}: this node takes no part in domain {domain.name} until the courier brings a "
                "plan from the API server",
            )
        return memory

    def offer(self, domain_uid: str, configuration: Configuration) -> bool:
        """Take note of a configuration that is to be kept; False if it does not count."""
        memory = self._by_uid[domain_uid]
        if configuration.epoch <= max(memory.configuration.epoch, memory.offered.epoch):
            return False
        flaw = epochs.flaw(domain_uid, configuration)
        if flaw:
            memory.note(
                _REFUSED,
                f"domain {memory.name} came with a witness configuration of epoch {configuration.epoch} that "
                f"cannot be used ({flaw}): see that controller and node-agents are of one version",
            )
            return False
        memory.problems.pop(_REFUSED, None)
        memory.offered = configuration
        return True

    async def keep_configurations(self) -> bool:
        """Keep what was offered; True if anything new counts now."""
        has_news = False
        async with self._keeping:
            for uid, memory in list(self._by_uid.items()):
                offered = memory.offered
                if offered.epoch <= memory.configuration.epoch:
                    continue
                try:
                    await asyncio.to_thread(self._disk.store_configuration, uid, offered)
                except OSError as error:
                    memory.note(
                        _NOT_KEPT,
                        f"the witness configuration of epoch {offered.epoch} for domain {memory.name} cannot "
                        f"be kept on disk ({error}), so epoch {memory.configuration.epoch} goes on here: "
                        "free space or mend the state folder",
                    )
                    continue
                memory.configuration, memory.is_damaged = offered, False
                for solved in (_NOT_KEPT, _UNREADABLE):
                    memory.problems.pop(solved, None)
                has_news = True
        return has_news

    async def keep_terms(self, domain_uid: str, ceiling: int, *, tries_again: bool) -> bool:
        """Keep how high a witness's terms may go; True if that was news and is on disk now.

        What failed before is only done again if `tries_again`.
        """
        memory = self._by_uid[domain_uid]
        if ceiling == memory.term_ceiling or (_TERMS in memory.problems and not tries_again):
            return False
        try:
            await asyncio.to_thread(self._disk.store_term_ceiling, domain_uid, ceiling)
        except OSError as error:
            memory.note(
                _TERMS,
                f"how high the terms of domain {memory.name} may go cannot be kept on disk ({error}), so "
                f"this node votes for no new owner beyond term {memory.term_ceiling}: free space or mend the "
                "state folder",
            )
            return False
        memory.problems.pop(_TERMS, None)
        memory.term_ceiling = ceiling
        return True
