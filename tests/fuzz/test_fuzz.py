"""Every target for a moment: its seeds, and what hypothesis makes of them and of nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import hypothesis
import hypothesis.strategies as st
import pytest
from msgspec import inspect

from fuzz import keepers, servers
from fuzz.registry import TARGETS
from fuzz.target import Choices
from vipagent import probes_http
from vipapi.healthchecks import HTTPGet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fuzz.target import Target

_EXAMPLES = 40
_LONGEST = 300
_TOKENS = (b"", b"\0", b"\xff" * 8, b"\x7f\xff\xff\xff", b"\n", b"[[", b'"', b"null", b"-1", b"9" * 30, b"}")


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Bytes of any kind, and seeds with places of them replaced, repeated, left out, or cut off."""
    return st.one_of(
        st.binary(max_size=_LONGEST), st.builds(mutated, st.sampled_from(target.seeds), _CHANGES)
    )


_CHANGES = st.lists(
    st.tuples(
        st.integers(0, 1 << 16),
        st.integers(0, 24),
        st.one_of(st.binary(max_size=9), st.sampled_from(_TOKENS)),
        st.booleans(),
    ),
    max_size=4,
)


def mutated(seed: bytes, changes: list[tuple[int, int, bytes, bool]]) -> bytes:
    for at, length, other, is_cut in changes:
        start = at % (len(seed) + 1)
        seed = seed[:start] + other + (b"" if is_cut and at & 1 else seed[start + length :])
    return seed


@pytest.mark.parametrize("name", TARGETS)
def test_what_once_broke_it_does_not_and_what_is_good_does_not_either(name: str) -> None:
    assert TARGETS[name].seeds
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_that_comes_from_outside_breaks_it(name: str) -> None:
    target = TARGETS[name]

    @hypothesis.settings(max_examples=_EXAMPLES, database=None)
    @hypothesis.given(inputs(target))
    def anything(data: bytes) -> None:
        target.run(data)

    anything()


def octets_in(kind: inspect.Type, name: str) -> Iterator[str]:
    """Yield the names of all fields of bytes in what is said, at any depth."""
    match kind:
        case inspect.BytesType():
            yield name
        case inspect.StructType():
            for field in kind.fields:
                yield from octets_in(field.type, field.name)
        case inspect.VarTupleType() | inspect.ListType():
            yield from octets_in(kind.item_type, name)
        case inspect.UnionType():
            for each in kind.types:
                yield from octets_in(each, name)


def test_whatever_names_an_address_set_or_a_check_names_planned_ones_at_times() -> None:
    named = {name for each in keepers.MESSAGES for name in octets_in(inspect.type_info(each), "")}
    assert named <= set(keepers.POOLS)
    assert {"key", "others", "polls", "failing"} <= named


def test_the_same_bytes_are_the_same_choices() -> None:
    def chosen(data: bytes) -> list[object]:
        choices = Choices(data)
        return [choices.number(), choices.text(), choices.subset("abc"), choices.pick("xyz"), choices.rest()]

    assert chosen(b"\x07\x01\x02\x03\x04\x05\x06\x07\x08rest") == chosen(
        b"\x07\x01\x02\x03\x04\x05\x06\x07\x08rest"
    )
    assert chosen(b"") == [-3, "", [], "x", b""]


def test_a_server_that_says_continue_without_end_leaves_the_loop_its_turns() -> None:
    answers = 1000

    async def turns() -> int:
        reader = asyncio.StreamReader()
        reader.feed_data(b"HTTP/1.1 100 Continue\r\n\r\n" * answers)
        reader.feed_eof()
        taken = 0
        async with servers.to_nowhere(reader) as writer:
            probing = asyncio.create_task(probes_http.converse(HTTPGet(80), reader, writer))
            while not probing.done():
                await asyncio.sleep(0)
                taken += 1
        return taken

    assert asyncio.run(turns()) > answers / 20
