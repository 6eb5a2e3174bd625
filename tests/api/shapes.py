"""What a struct looks like as JSON: its shape, to compare with a schema, and values of it, to try.

A shape is a dict of field names (`{"{}": shape}` for a map), a list of one shape, or a word: string,
integer, boolean, date-time; a choice is a tuple of `string` and its words in order.
"""

from __future__ import annotations

import types
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

T = TypeVar("T")
PLAIN = {str: "string", int: "integer", bool: "boolean", datetime: "date-time"}


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in {Union, types.UnionType}:
        [kind] = [each for each in get_args(kind) if each is not type(None)]
    return kind


def shape_of(kind: Any, name: str = "") -> Any:
    """Return the shape of a struct's field type."""
    kind = _without_none(kind)
    if get_origin(kind) is Literal:
        return ("string", *sorted(get_args(kind)))
    if get_origin(kind) is tuple:
        return [shape_of(get_args(kind)[0])]
    if get_origin(kind) is dict:
        return {"{}": shape_of(get_args(kind)[1])}
    if kind in PLAIN:
        # The keeper writes this one time as text; it has no clock type on its side of the socket.
        return "date-time" if name == "startedAt" else PLAIN[kind]
    return {
        field.encode_name: shape_of(field.type, field.encode_name) for field in msgspec.structs.fields(kind)
    }


WORDS = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,14}", fullmatch=True)
TIMES = st.datetimes(datetime(2026, 1, 1), datetime(2036, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 -- bounds
SMALL = st.integers(1, 7)


def values_of(kind: type[T], *, longest_text: int = 30, longest_list: int = 3) -> st.SearchStrategy[T]:
    """Return values of a struct as vipkeeper's own code makes them: short words, unique keys, free messages."""

    def of(kind: Any, name: str) -> st.SearchStrategy[Any]:
        kind = _without_none(kind)
        if get_origin(kind) is Literal:
            return st.sampled_from(get_args(kind))
        if get_origin(kind) is tuple:
            return st.lists(of(get_args(kind)[0], name), max_size=longest_list, unique_by=_key).map(tuple)
        if kind is datetime:
            return TIMES
        if kind is bool:
            return st.booleans()
        if kind is int:
            return SMALL
        if name == "startedAt":
            return TIMES.map(lambda moment: moment.isoformat().replace("+00:00", "Z"))
        if kind is str:
            text = st.characters(codec="utf-8")
            return st.text(text, max_size=longest_text) if name == "message" else WORDS
        return struct(kind)

    def struct(kind: Any) -> st.SearchStrategy[Any]:
        required = {f.name: of(f.type, f.encode_name) for f in msgspec.structs.fields(kind) if f.required}
        optional = {f.name: of(f.type, f.encode_name) for f in msgspec.structs.fields(kind) if not f.required}
        return st.fixed_dictionaries(required, optional=optional).map(lambda fields: kind(**fields))

    found: st.SearchStrategy[T] = struct(kind)
    return found


def _key(item: Any) -> Any:
    """Return what is unique among an item's neighbours: the key of its list-map."""
    for name in ("type", "uid", "node_name", "name"):
        if hasattr(item, name):
            return getattr(item, name)
    return msgspec.json.encode(item)
