"""Bytes on the wire: one authenticated UDP datagram for each message.

    header   magic "VK", version, key id, domain tag, epoch, configuration tag     (24 bytes)
    body     msgpack [sender, receiver, incarnation, sequence, message]
    tag      BLAKE2b keyed with the domain's heartbeat key, over header and body   (16 bytes)

Everything that decides what a datagram means stands under the tag. The domain tag is a hash of the
FailoverDomain's UID, so that a domain made anew is a stranger to the old one; epoch and configuration
tag name the witness configuration, and two keepers that disagree about it do not talk.

Replays: a receiver remembers, for each sender, the newest incarnation and a window of sequence numbers
(as IPsec does, RFC 4303, 3.4.3). What is refused is refused with one word that a counter can carry.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from vipagent.messages import Message

Refusal = Literal[
    "Truncated", "NotOurs", "Version", "UnknownKey", "Forged", "Garbage",
    "Domain", "Epoch", "Receiver", "Sender", "Incarnation", "Replayed",
]  # fmt: skip

MAXIMUM_SIZE: Final = 65_000
_MAGIC: Final = b"VK"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("!2sBB8sI8s")
_TAG_SIZE: Final = 16
_WINDOW: Final = 256
LEAST_SECRET: Final = 16


class DatagramRefused(ValueError):  # noqa: N818 - it reads as what happened
    """A datagram that is not for us, or not to be believed; `refusal` says why in one word."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal: Refusal = refusal


class _Body(msgspec.Struct, frozen=True, array_like=True):
    sender: str
    receiver: str
    incarnation: int
    sequence: int
    message: Message


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with what the datagram says about it."""

    sender: str
    incarnation: int
    message: Message


@dataclass(frozen=True, slots=True)
class Configuration:
    """The configuration that two keepers must share to understand each other."""

    domain_uid: str
    epoch: int
    config_hash: str


def _short_hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def domain_tag(datagram: bytes) -> bytes | None:
    """The domain that a datagram claims to be of; None if it is none of ours. Not authenticated."""
    if len(datagram) < _HEADER.size + _TAG_SIZE or datagram[:2] != _MAGIC:
        return None
    return datagram[4:12]


@dataclass(slots=True)
class _Window:
    """What one sender has said: its incarnation and the newest sequence numbers seen."""

    incarnation: int = -1
    newest: int = -1
    seen: int = 0

    def admit(self, incarnation: int, sequence: int) -> Refusal | None:
        if incarnation < self.incarnation:
            return "Incarnation"
        if incarnation > self.incarnation:
            self.incarnation, self.newest, self.seen = incarnation, -1, 0
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

    `keys` maps key id to secret; `signing_key` is the id that seals. Not pure in the strict sense (it
    counts its own sequence numbers), but it touches nothing outside.
    """

    def __init__(
        self,
        *,
        me: str,
        incarnation: int,
        configuration: Configuration,
        keys: dict[int, bytes],
        signing_key: int,
        peers: frozenset[str],
    ) -> None:
        self.configuration: Final = configuration
        self._me = me
        self._incarnation = incarnation
        self._domain = _short_hash(configuration.domain_uid)
        self._config = _short_hash(configuration.config_hash)
        self._sequence = 0
        self._windows: dict[str, _Window] = {}
        self.adopt(keys=keys, signing_key=signing_key, peers=peers)

    def tag(self) -> bytes:
        """The domain tag that this codec's datagrams carry."""
        return self._domain

    def adopt(self, *, keys: dict[int, bytes], signing_key: int, peers: frozenset[str]) -> None:
        """Take over new keys and peers; replay windows are kept.

        Raises `ValueError` for a key that is too short to keep a secret: an empty one would sign for anybody.
        """
        for key_id, secret in keys.items():
            if len(secret) < LEAST_SECRET:
                raise ValueError(
                    f"heartbeat key {key_id} has {len(secret)} bytes, {LEAST_SECRET} are the least"
                )
        self._keys, self._signing_key, self._peers = keys, signing_key, peers
        epoch = self.configuration.epoch
        self._header = _HEADER.pack(_MAGIC, _VERSION, signing_key, self._domain, epoch, self._config)

    def seal(self, receiver: str, message: Message) -> bytes:
        """Return the datagram that carries the message to `receiver`."""
        self._sequence += 1
        body = _Body(
            sender=self._me,
            receiver=receiver,
            incarnation=self._incarnation,
            sequence=self._sequence,
            message=message,
        )
        sealed = self._header + _encoder.encode(body)
        return sealed + _authenticate(self._keys[self._signing_key], sealed)

    def open(self, datagram: bytes) -> Envelope:
        """Return what an authentic, new datagram for this keeper says; raises `DatagramRefused`."""
        try:
            body = _decoder.decode(self._verified_body(datagram))
        except msgspec.MsgspecError as error:
            raise DatagramRefused("Garbage") from error
        if body.receiver != self._me:
            raise DatagramRefused("Receiver")
        if body.sender not in self._peers:
            raise DatagramRefused("Sender")
        refusal = self._windows.setdefault(body.sender, _Window()).admit(body.incarnation, body.sequence)
        if refusal is not None:
            raise DatagramRefused(refusal)
        return Envelope(body.sender, body.incarnation, body.message)

    def _verified_body(self, datagram: bytes) -> bytes:
        if len(datagram) < _HEADER.size + _TAG_SIZE:
            raise DatagramRefused("Truncated")
        magic, version, key_id, domain, epoch, config = _HEADER.unpack_from(datagram)
        if magic != _MAGIC:
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
        if epoch != self.configuration.epoch or config != self._config:
            raise DatagramRefused("Epoch")
        return sealed[_HEADER.size :]


def _authenticate(secret: bytes, sealed: bytes) -> bytes:
    return hashlib.blake2b(sealed, key=secret[:64], digest_size=_TAG_SIZE).digest()


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Body)
