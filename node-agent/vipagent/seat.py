"""A keeper's seat in one domain: its lease, its witness if it is one, and the words between them.

It joins the pure parts and touches nothing outside: datagrams and clock readings go in, effects and
sealed datagrams come out. A message from this node to itself (its lease asking its own witness) never
becomes a datagram; the shell delivers it with a clock reading of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from vipagent.datagrams import Codec, Configuration
from vipagent.lease import Lease
from vipagent.messages import Release, Request
from vipagent.succession import key_of, lease_timing, orders, rosters
from vipagent.witness import Witness
from vipapi.nodestatus import DomainStatus, GrantStatus

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from vipagent.effects import Effect, Send
    from vipagent.messages import Key, Message
    from vipapi.nodeplan import DomainPlan, VirtualIPPlan

_REACHABLE_NS: Final = 1_000_000_000


def configuration_of(domain: DomainPlan) -> Configuration:
    """What two keepers must agree on before they understand each other.

    The timing is part of it: an owner with another T than its witnesses' Tw was made for is unsafe.
    """
    timing = ",".join(str(milliseconds) for milliseconds in msgspec.structs.astuple(domain.timing))
    return Configuration(domain.uid, domain.epoch, f"{domain.config_hash},{timing}")


class Seat:
    """One domain in which this node takes part; its witnesses are known and do not change."""

    def __init__(
        self,
        domain: DomainPlan,
        *,
        node: str,
        incarnation: int,
        random: Random,
        now_ns: int,
        term_ceiling: int,
    ) -> None:
        assert domain.witnesses
        self.domain = domain
        self._node = node
        self._incarnation = incarnation
        timing = lease_timing(domain.timing)
        witnesses = tuple(sorted(witness.node for witness in domain.witnesses))
        self.lease = Lease(
            me=node,
            incarnation=incarnation,
            witnesses=witnesses,
            timing=timing,
            random=random,
            now_ns=now_ns,
        )
        self.witness: Witness | None = None
        if node in witnesses:
            self.witness = Witness(me=node, timing=timing, now_ns=now_ns, term_ceiling=term_ceiling)
        self._codec = Codec(
            me=node,
            incarnation=incarnation,
            configuration=configuration_of(domain),
            keys={},
            signing_key=0,
            peers=frozenset(),
        )
        self.tag: Final = self._codec.tag()
        self._addresses: dict[str, str] = {}
        self._heard_ns: dict[str, int] = {}
        self._vips: dict[Key, VirtualIPPlan] = {}
        self._keys: dict[str, Key] = {}

    def assign(self, domain: DomainPlan, now_ns: int) -> list[Effect]:
        """Take over the newest plan of the same configuration: address sets, orders, members, keys."""
        assert configuration_of(domain) == self._codec.configuration
        self.domain = domain
        self._vips = {key_of(vip): vip for vip in domain.virtual_ips}
        self._keys = {vip.uid: key for key, vip in self._vips.items()}
        self._addresses = {member.node: member.address for member in (*domain.witnesses, *domain.members)}
        for node in self._addresses:
            self._heard_ns.setdefault(node, now_ns)  # who is new has a second to be heard
        self._codec.adopt(
            keys={key.key_id: key.secret for key in domain.keys},
            signing_key=domain.keys[0].key_id,
            peers=frozenset(self._addresses) - {self._node},
        )
        if self.witness is not None:
            self.witness.assign(rosters(domain), now_ns)
        return self.lease.assign(orders(domain, self._node), now_ns)

    def judge(self, fit_uids: Iterable[str], now_ns: int) -> list[Effect]:
        """Take over which address sets this node is fit to hold."""
        fit = frozenset(fit_uids)
        return self.lease.judge(frozenset(key for uid, key in self._keys.items() if uid in fit), now_ns)

    def key(self, uid: str) -> Key | None:
        """The key of a planned VirtualIP's address set; None if it is not planned here."""
        return self._keys.get(uid)

    def vip(self, key: Key) -> VirtualIPPlan | None:
        """The planned VirtualIP of that key."""
        return self._vips.get(key)

    def receive(self, datagram: bytes, now_ns: int) -> list[Effect]:
        """Act on a datagram; raises `DatagramRefused`."""
        envelope = self._codec.open(datagram)
        self._heard_ns[envelope.sender] = now_ns
        return self._route(envelope.sender, envelope.incarnation, envelope.message, now_ns)

    def deliver(self, send: Send, now_ns: int) -> list[Effect]:
        """Act on a message from this node to itself."""
        assert send.to == self._node
        return self._route(self._node, self._incarnation, send.message, now_ns)

    def seal(self, send: Send) -> tuple[str, bytes] | None:
        """Return where to and what to send; None if nobody knows the receiver's address any more."""
        address = self._addresses.get(send.to)
        return None if address is None else (address, self._codec.seal(send.to, send.message))

    def expire(self, now_ns: int) -> list[Effect]:
        """Do what is due."""
        effects = self.lease.expire(now_ns)
        if self.witness is not None:
            effects += self.witness.expire(now_ns)
        return effects

    @property
    def deadline_ns(self) -> int:
        """When `expire` has something to do next."""
        grants_end_ns = self.witness.deadline_ns if self.witness is not None else None
        return self.lease.deadline_ns if grants_end_ns is None else min(self.lease.deadline_ns, grants_end_ns)

    def status(self, *, heartbeat_address: str, now_ns: int) -> DomainStatus:
        """What this seat reports; it changes only when somebody would act on it."""
        heard = (node for node, at_ns in self._heard_ns.items() if now_ns - at_ns <= _REACHABLE_NS)
        grants = self.witness.grants if self.witness is not None else {}
        return DomainStatus(
            name=self.domain.name,
            uid=self.domain.uid,
            role="Witness" if self.witness is not None else "Member",
            heartbeat_address=heartbeat_address,
            epoch=self.domain.epoch,
            config_hash=self.domain.config_hash,
            reachable_peers=tuple(sorted({*heard, self._node} & {*self._addresses, self._node})),
            grants=tuple(
                GrantStatus(uid=vip.uid, name=vip.name, holder=grants[key].holder, term=grants[key].term)
                for key, vip in sorted(self._vips.items(), key=lambda item: item[1].name)
                if key in grants
            ),
        )

    def _route(self, sender: str, incarnation: int, message: Message, now_ns: int) -> list[Effect]:
        if isinstance(message, Request | Release):
            if self.witness is None:
                return []
            return list(self.witness.receive(sender, incarnation, message, now_ns))
        return self.lease.receive(sender, message, now_ns)
