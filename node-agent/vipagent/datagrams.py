"""Bytes on the wire: one authenticated UDP datagram for each message.

    header   magic "VK", version, key id, domain tag, epoch, hashes of this and the former epoch  (32 bytes)
    body     msgpack [sender, machine, incarnation, newest key, receiver, sequence, message];
             a long one is deflated, and the magic is "VZ"
    tag      BLAKE2b keyed with the domain's heartbeat key, over header and body                  (16 bytes)

Everything that decides what a datagram means stands under the tag. The domain tag is a hash of the
FailoverDomain's UID, so that a domain made anew is a stranger to the old one; epoch and hashes say which
witness configuration the sender works with (`vipapi.configuration.relation`), the lease's timing included.

Replays: a receiver remembers, for each sender, the newest incarnation and a window of sequence numbers
(as IPsec does, RFC 4303, 3.4.3). What is refused is refused with one word that a counter can carry.

Keys: who has two keys signs for each peer with the highest that the peer is known to have, so that while
a new key spreads nothing is lost. Of a peer that has not been heard yet the lowest is the best guess.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from vipagent.messages import Count, Message, Sender
from vipapi.configuration import Relation, Stamp, relation

Refusal = Literal[
    "Truncated", "NotOurs", "Version", "UnknownKey", "Forged", "Garbage",
    "Domain", "Receiver", "Sender", "Incarnation", "Replayed", "Unasked",
]  # fmt: skip

MAXIMUM_SIZE: Final = 65_507
"""The most that UDP over IPv4 carries (RFC 768)."""
_MAGIC: Final = b"VK"
_MAGIC_DEFLATED: Final = b"VZ"
_DEFLATE_FROM: Final = 1400
_LONGEST_BODY: Final = 1 << 22
_VERSION: Final = 2
_HEADER: Final = struct.Struct("!2sBB8sI8s8s")
_TAG_SIZE: Final = 16
_WINDOW: Final = 256
LEAST_SECRET: Final = 16


class DatagramRefused(ValueError):  # noqa: N818 - it reads as what happened
    """A datagram that is not for us, or not to be believed; `refusal` says why in one word.

    `sender` is known only of those that are authentic.
    """

    def __init__(self, refusal: Refusal, sender: str | None = None) -> None:
        super().__init__(refusal)
        self.refusal: Refusal = refusal
        self.sender = sender


class _Body(msgspec.Struct, frozen=True, array_like=True):
    sender: str
    machine: bytes
    incarnation: Count
    newest_key: int
    receiver: str
    sequence: Count
    message: Message


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message, who sent it, and how its configuration stands to ours."""

    sender: Sender
    relation: Relation
    message: Message


def _short_hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def domain_tag(datagram: bytes) -> bytes | None:
    """The domain that a datagram claims to be of; None if it is none of ours. Not authenticated."""
    if len(datagram) < _HEADER.size + _TAG_SIZE or datagram[:2] not in (_MAGIC, _MAGIC_DEFLATED):
        return None
    return datagram[4:12]


@dataclass(slots=True)
class _Window:
    """What one sender has said: its incarnation and the newest sequence numbers seen."""

    incarnation: int = -1
    machine: bytes = b""
    newest: int = -1
    seen: int = 0

    def admit(self, incarnation: int, machine: bytes, sequence: int) -> Refusal | None:
        if incarnation > self.incarnation:
            self.incarnation, self.machine, self.newest, self.seen = incarnation, machine, -1, 0
        elif (incarnation, machine) != (self.incarnation, self.machine):
            return "Incarnation"
        ahead = sequence - self.newest
        if ahead > 0:
            self.seen = ((self.seen << ahead) | 1) & ((1 << _WINDOW) - 1) if ahead < _WINDOW else 1
            self.newest = sequence
            return None
        if -ahead >= _WINDOW or self.seen >> -ahead & 1:
            return "Replayed"
        self.seen |= 1 << -ahead
        return None


class Codec:
    """Seals and opens one domain's datagrams for one incarnation of one keeper.

    Not pure in the strict sense (it counts its own sequence numbers), but it touches nothing outside.
    """

    def __init__(self, *, me: Sender, domain_uid: str) -> None:
        self._me = me
        self._domain = _short_hash(domain_uid)
        self._stamp = Stamp(0, b"", b"")
        self._keys: dict[int, bytes] = {}
        self._peers: frozenset[str] = frozenset()
        self._newest_keys: dict[str, int] = {}
        self._windows: dict[str, _Window] = {}
        self._sequence = 0

    def configure(self, *, epoch: int, this: str, former: str) -> None:
        """Take over a configuration; `this` and `former` name it and the one before."""
        self._stamp = Stamp(epoch, _short_hash(this), _short_hash(former))

    def adopt(self, *, keys: dict[int, bytes], peers: frozenset[str]) -> None:
        """Take over the keys in force, by id, and the nodes that may send; replay windows are kept.

        Raises `ValueError` for a key that is too short to keep a secret: an empty one would sign for anybody.
        """
        for key_id, secret in keys.items():
            if len(secret) < LEAST_SECRET:
                raise ValueError(
                    f"heartbeat key {key_id} has {len(secret)} bytes, {LEAST_SECRET} are the least"
                )
        assert keys
        self._keys = keys
        self._peers = peers

    def tag(self) -> bytes:
        """What `domain_tag` reads from this domain's datagrams."""
        return self._domain

    def seal(self, receiver: str, message: Message) -> bytes:
        """Return the datagram that carries a message to a keeper."""
        self._sequence += 1
        body = _Body(*self._me, max(self._keys), receiver, self._sequence, message)
        return self.sign(_encoder.encode(body), self._key_for(receiver))

    def sign(self, body: bytes, key_id: int) -> bytes:
        """Return the datagram of a body, whatever it says."""
        magic = _MAGIC
        if len(body) > _DEFLATE_FROM:
            magic, body = _MAGIC_DEFLATED, zlib.compress(body, 1)
        sealed = _HEADER.pack(magic, _VERSION, key_id, self._domain, *self._stamp) + body
        return sealed + _authenticate(self._keys[key_id], sealed)

    def _key_for(self, receiver: str) -> int:
        newest = self._newest_keys.get(receiver, 0)
        return max((key_id for key_id in self._keys if key_id <= newest), default=min(self._keys))

    def open(self, datagram: bytes) -> Envelope:
        """Return what an authentic, new datagram for this keeper says; raises `DatagramRefused`."""
        if len(datagram) < _HEADER.size + _TAG_SIZE:
            raise DatagramRefused("Truncated")
        magic, version, key_id, domain, *stamp = _HEADER.unpack_from(datagram)
        if magic not in (_MAGIC, _MAGIC_DEFLATED):
            raise DatagramRefused("NotOurs")
        if version != _VERSION:
            raise DatagramRefused("Version")
        secret = self._keys.get(key_id)
        if secret is None:
            raise DatagramRefused("UnknownKey")
        sealed, tag = datagram[:-_TAG_SIZE], datagram[-_TAG_SIZE:]
        if not hmac.compare_digest(_authenticate(secret, sealed), tag):
            raise DatagramRefused("Forged")
        if domain != self._domain:
            raise DatagramRefused("Domain")
        return self._admit(_body(sealed), Stamp(*stamp))

    def _admit(self, body: _Body, stamp: Stamp) -> Envelope:
        if body.receiver != self._me.node:
            raise DatagramRefused("Receiver")
        if body.sender not in self._peers:
            raise DatagramRefused("Sender")
        window = self._windows.setdefault(body.sender, _Window())
        refusal = window.admit(body.incarnation, body.machine, body.sequence)
        if refusal is not None:
            raise DatagramRefused(refusal, body.sender)
        self._newest_keys[body.sender] = body.newest_key
        sender = Sender(body.sender, body.machine, body.incarnation)
        return Envelope(sender, relation(self._stamp, stamp), body.message)


def _body(sealed: bytes) -> _Body:
    packed = sealed[_HEADER.size :]
    try:
        if sealed[:2] == _MAGIC_DEFLATED:
            packed = zlib.decompressobj().decompress(packed, _LONGEST_BODY)
        return _decoder.decode(packed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, zlib.error) as error:
        raise DatagramRefused("Garbage") from error


def overhear(datagram: bytes) -> tuple[str, Message]:
    """Return to whom a datagram says what, unauthenticated: for those who only watch.

    Raises `DatagramRefused` for what cannot be read.
    """
    if domain_tag(datagram) is None:
        raise DatagramRefused("NotOurs")
    body = _body(datagram[:-_TAG_SIZE])
    return body.receiver, body.message


def _authenticate(secret: bytes, sealed: bytes) -> bytes:
    return hashlib.blake2b(sealed, key=secret[:64], digest_size=_TAG_SIZE).digest()


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Body)
