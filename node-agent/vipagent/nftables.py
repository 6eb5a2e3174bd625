"""nftables: the kernel's messages about tables, chains, rules and sets, written and read as bytes.

It knows only what `vipagent.nftfilters` and the door `vipagent.nftfence` use, so that a node needs no `nft`
program. A change is a *batch*: all its messages between a begin and an end, which the kernel does all or
none of, and which packets see at once. Layouts: linux/netfilter/nfnetlink.h and nf_tables.h. The attributes'
numbers are big-endian, the headers' in the machine's byte order.

An expression works on registers; the registers start afresh in each rule. Those of 16 bytes (`KEY`) lie over
four of 4 bytes each (`WORDS`), so an IPv4 address is mapped into an IPv6 one by loading its last word.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

INET, NETDEV = 1, 5
"""Families of tables (linux/netfilter.h, NFPROTO)."""

INGRESS, EGRESS = 0, 1
"""Hooks of the family netdev."""
OUTPUT: Final = 3
"""A hook of the family inet: what this node itself makes."""
FIRST, LAST = -(1 << 31), (1 << 31) - 1
"""Priorities of a chain at its hook."""

VERDICT: Final = 0
KEY: Final = 1
WORDS: Final = (8, 9, 10, 11)
SCRATCH: Final = 12
"""Registers: the rule's verdict, the first 16 bytes, those again word by word, and a word beyond them."""

TIMEOUT, MAP = 0x10, 0x08
"""Flags of a set: its elements may end by themselves; its elements have verdicts."""

OWNED: Final = 0x02 | 0x04
"""Flags of a table that nobody but the socket that made it can change, and that outlives it (Linux 6.9)."""


class Message(IntEnum):
    """enum nf_tables_msg_types."""

    NEW_TABLE = 0
    DELETE_TABLE = 2
    NEW_CHAIN = 3
    GET_CHAIN = 4
    DELETE_CHAIN = 5
    NEW_RULE = 6
    GET_RULE = 7
    DELETE_RULE = 8
    NEW_SET = 9
    NEW_ELEMENTS = 12
    GET_ELEMENTS = 13
    DELETE_ELEMENTS = 14
    NEW_GENERATION = 15
    GET_GENERATION = 16


class Header(IntEnum):
    """Where a payload's offset counts from."""

    NETWORK = 1
    TRANSPORT = 2


class Meta(IntEnum):
    """enum nft_meta_keys."""

    PROTOCOL = 1
    OUT_LINK = 5
    TRANSPORT_PROTOCOL = 16
    WALL_CLOCK_NS = 30


class Comparison(IntEnum):
    """enum nft_cmp_ops."""

    EQUAL = 0
    UNEQUAL = 1
    LESS = 2
    NOT_LESS = 5


_REQUEST, _ACKNOWLEDGE, _CREATE, _APPEND, _DUMP = 0x001, 0x004, 0x400, 0x800, 0x300
_DUMP_INTERRUPTED: Final = 0x10
_ERROR, _DONE = 2, 3
_SUBSYSTEM: Final = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NESTED: Final = 0x8000
_ACCEPT, _DROP, _JUMP, _RETURN = 1, 0, -3, -5
_VERDICT_DATA: Final = 0xFFFFFF00
_IPV6_KEY: Final = 8
"""What `nft list` shows the elements as."""
_LONGEST_MESSAGE_OF_ELEMENTS: Final = 200
"""Elements to a message: the attribute that holds them is at most 64 KiB long."""


def attribute(kind: int, value: bytes) -> bytes:
    """Write one attribute."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nested(kind: int, *values: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(values))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _list(kind: int, values: Iterable[bytes]) -> bytes:
    return _nested(kind, *(_nested(1, each) for each in values))


def message(kind: int, flags: int, family: int, body: bytes, *, resource: int = 0) -> bytes:
    """Write one message; its sequence number and sender are left 0."""
    header = struct.pack("=IHHII", 20 + len(body), kind, _REQUEST | flags, 0, 0)
    return header + struct.pack("=BB", family, 0) + struct.pack(">H", resource) + body


def batch(messages: Iterable[bytes]) -> bytes:
    """Write a batch whose last message the kernel acknowledges; several may be in one piece."""
    written = bytearray(message(_BATCH_BEGIN, 0, 0, b"", resource=_SUBSYSTEM))
    piece_at = len(written)
    for piece in messages:
        piece_at = len(written)
        written += piece
    last_at, (length, kind, flags) = piece_at, struct.unpack_from("=IHH", written, piece_at)
    while last_at + length < len(written):
        last_at += length
        length, kind, flags = struct.unpack_from("=IHH", written, last_at)
    struct.pack_into("=IHH", written, last_at, length, kind, flags | _ACKNOWLEDGE)
    written += message(_BATCH_END, 0, 0, b"", resource=_SUBSYSTEM)
    return bytes(written)


def _ours(kind: Message, flags: int, family: int, *attributes: bytes) -> bytes:
    return message(_SUBSYSTEM << 8 | kind, flags, family, b"".join(attributes))


def add_table(family: int, table: str, *, flags: int = 0) -> bytes:
    """Make a table; one that is there stays as it is, if no flags are asked for."""
    asked = _number(2, flags) if flags else b""
    return _ours(Message.NEW_TABLE, _CREATE, family, _text(1, table), asked)


def delete_table(family: int, table: str) -> bytes:
    """Remove a table with all that it has; an absent one fails the batch."""
    return _ours(Message.DELETE_TABLE, 0, family, _text(1, table))


def add_chain(family: int, table: str, chain: str) -> bytes:
    """Make a chain that rules and elements jump to; one that is there stays."""
    return _ours(Message.NEW_CHAIN, _CREATE, family, _text(1, table), _text(3, chain))


def add_base_chain(family: int, table: str, chain: str, *, hook: int, priority: int, link: str = "") -> bytes:
    """Make a chain that packets come to, of one link where that is given; it lets pass what no rule stops."""
    on = [_number(1, hook), _number(2, priority)]
    if link:
        on.append(_text(3, link))
    return _ours(
        Message.NEW_CHAIN,
        _CREATE,
        family,
        *(_text(1, table), _text(3, chain), _nested(4, *on), _number(5, _ACCEPT), _text(7, "filter")),
    )


def delete_chain(family: int, table: str, chain: str) -> bytes:
    """Remove a chain with its rules; an absent one fails the batch."""
    return _ours(Message.DELETE_CHAIN, 0, family, _text(1, table), _text(3, chain))


def add_set(family: int, table: str, name: str, *, key_bytes: int, flags: int = 0) -> bytes:
    """Make a set; one that is there stays."""
    attributes = [_text(1, table), _text(2, name), _number(3, flags)]
    attributes += [_number(4, _IPV6_KEY if key_bytes == 16 else 0), _number(5, key_bytes)]  # noqa: PLR2004
    if flags & MAP:
        attributes += [_number(6, _VERDICT_DATA), _number(7, 0)]
    attributes.append(_number(10, 1))
    return _ours(Message.NEW_SET, _CREATE, family, *attributes)


def add_rule(family: int, table: str, chain: str, *expressions: bytes) -> bytes:
    """Put a rule after the others of a chain."""
    flags = _CREATE | _APPEND
    return _ours(Message.NEW_RULE, flags, family, _text(1, table), _text(2, chain), _list(4, expressions))


def delete_rules(family: int, table: str, chain: str) -> bytes:
    """Remove every rule of a chain."""
    return _ours(Message.DELETE_RULE, 0, family, _text(1, table), _text(2, chain))


def element(key: bytes, *, chain: str = "", timeout_ms: int | None = None) -> bytes:
    """Write an element for `add_elements`: of a map the chain that it jumps to. 0 ms would be for ever."""
    assert timeout_ms is None or timeout_ms > 0, timeout_ms
    attributes = [_nested(1, attribute(1, key))]
    if chain:
        attributes.append(_nested(2, _nested(2, _number(1, _JUMP), _text(2, chain))))
    if timeout_ms is not None:
        attributes.append(attribute(4, struct.pack(">Q", timeout_ms)))
    return b"".join(attributes)


def add_elements(family: int, table: str, name: str, elements: Iterable[bytes]) -> Iterator[bytes]:
    """Put elements into a set; those that are there stay as they are."""
    for body in _element_bodies(table, name, elements):
        yield _ours(Message.NEW_ELEMENTS, _CREATE, family, body)


def delete_elements(family: int, table: str, name: str, elements: Iterable[bytes]) -> Iterator[bytes]:
    """Take elements out of a set; an absent one fails the batch."""
    for body in _element_bodies(table, name, elements):
        yield _ours(Message.DELETE_ELEMENTS, 0, family, body)


def _element_bodies(table: str, name: str, elements: Iterable[bytes]) -> Iterator[bytes]:
    left = list(elements)
    while left:
        now, left = left[:_LONGEST_MESSAGE_OF_ELEMENTS], left[_LONGEST_MESSAGE_OF_ELEMENTS:]
        yield _text(1, table) + _text(2, name) + _list(3, now)


def ask_generation() -> bytes:
    """Ask how often the ruleset of this network namespace was changed."""
    return _ours(Message.GET_GENERATION, 0, 0)


def ask_chains(family: int) -> bytes:
    """Ask for all chains of all tables of a family."""
    return _ours(Message.GET_CHAIN, _DUMP, family)


def ask_rules(family: int, table: str) -> bytes:
    """Ask for all rules of a table."""
    return _ours(Message.GET_RULE, _DUMP, family, _text(1, table))


def ask_elements(family: int, table: str, name: str) -> bytes:
    """Ask for all elements of a set."""
    return _ours(Message.GET_ELEMENTS, _DUMP, family, _text(1, table), _text(2, name))


def _expression(name: str, *attributes: bytes) -> bytes:
    return _text(1, name) + _nested(2, *attributes)


def load_meta(key: Meta, register: int) -> bytes:
    """Load something that the kernel knows of the packet."""
    return _expression("meta", _number(1, register), _number(2, key))


def load_payload(header: Header, offset: int, size: int, register: int) -> bytes:
    """Load part of the packet; a packet that has no such part does not match."""
    return _expression(
        "payload", _number(1, register), _number(2, header), _number(3, offset), _number(4, size)
    )


def load_value(register: int, value: bytes) -> bytes:
    """Load a constant."""
    return _expression("immediate", _number(1, register), _nested(2, attribute(1, value)))


def to_big_endian(register: int, size: int) -> bytes:
    """Turn the number in a register from the machine's byte order, so that it can be compared."""
    return _expression(
        "byteorder",
        _number(1, register),
        _number(2, register),
        _number(3, 1),
        _number(4, size),
        _number(5, size),
    )


def compare(register: int, how: Comparison, value: bytes) -> bytes:
    """Match what compares so, byte by byte."""
    return _expression("cmp", _number(1, register), _number(2, how), _nested(3, attribute(1, value)))


def is_element(name: str, register: int) -> bytes:
    """Match what is an element of a set."""
    return _expression("lookup", _text(1, name), _number(2, register), _number(4, 1))


def jump_by(name: str, register: int) -> bytes:
    """Jump where the map says; what is no element of it does not match."""
    return _expression("lookup", _text(1, name), _number(2, register), _number(3, VERDICT), _number(4, 1))


def _verdict(code: int, chain: str = "") -> bytes:
    target = _text(2, chain) if chain else b""
    return _expression("immediate", _number(1, VERDICT), _nested(2, _nested(2, _number(1, code), target)))


def jump(chain: str) -> bytes:
    """Go on in a chain, and come back at its end."""
    return _verdict(_JUMP, chain)


def leave_chain() -> bytes:
    """Go back to where this chain was jumped to from."""
    return _verdict(_RETURN)


def drop() -> bytes:
    """Drop the packet."""
    return _verdict(_DROP)


def messages_of(answer: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Read what a socket received: the type, the sender and the body of each message."""
    offset = 0
    while offset + 16 <= len(answer):
        length, kind, _flags, _sequence, sender = struct.unpack_from("=IHHII", answer, offset)
        if length < 16:  # noqa: PLR2004 - a message's own header
            return
        yield kind, sender, answer[offset + 16 : offset + length]
        offset += length + 3 & ~3


def refusal_in(kind: int, body: bytes) -> int | None:
    """Read what ends an answer: the errno of a refusal, 0 where all was done; None for any other message."""
    return -int(struct.unpack_from("=i", body)[0]) if kind in (_ERROR, _DONE) else None


def is_interrupted(answer: bytes) -> bool:
    """Whether a list that a socket received is of two states, for it changed while it was told."""
    offset = 0
    while offset + 16 <= len(answer):
        length, _kind, flags = struct.unpack_from("=IHH", answer, offset)
        if flags & _DUMP_INTERRUPTED:
            return True
        offset += max(length, 16) + 3 & ~3
    return False


def is_about(kind: int, what: Message) -> bool:
    """Whether a message's type is this one of nftables."""
    return kind == _SUBSYSTEM << 8 | what


def attributes_of(body: bytes, offset: int = 4) -> dict[int, bytes]:
    """Read attributes; the first 4 bytes of a message's body are a header of their own."""
    found: dict[int, bytes] = {}
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if length < 4:  # noqa: PLR2004 - an attribute's own header
            break
        found[kind & 0x3FFF] = body[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found


def list_of(value: bytes) -> Iterator[bytes]:
    """Read a list of attributes that have the same number."""
    offset = 0
    while offset + 4 <= len(value):
        (length,) = struct.unpack_from("=H", value, offset)
        if length < 4:  # noqa: PLR2004 - an attribute's own header
            return
        yield value[offset + 4 : offset + length]
        offset += length + 3 & ~3


def text_of(value: bytes) -> str:
    """Read a name."""
    return value.rstrip(b"\0").decode(errors="replace")


def number_of(value: bytes) -> int:
    """Read a 32-bit number."""
    return int.from_bytes(value, "big")


def key_of(element_body: bytes) -> bytes:
    """Read the key of an element."""
    return attributes_of(attributes_of(element_body, 0).get(1, b""), 0).get(1, b"")
