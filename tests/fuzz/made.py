"""Values that are made of choices: of a type's own shape, from what is plausible there or from anything."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import inspect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fuzz.target import Choices

Document = Any
_MOST: Final = 3
_JUNK: Final[tuple[Any, ...]] = (
    None, "", "x", 0, -1, 1 << 63, 1 << 200, 1.5, True, [], {}, [None], {"": None}, ["x"], "9" * 5000, "\0",
    "2026-02-30T00:00:00Z", "192.0.2.10/24", {"name": 5}, [[[]]], "x" * 70_000,
)  # fmt: skip


@cache
def _described(kind: Any) -> Any:
    return inspect.type_info(kind)


def value(kind: Any, choices: Choices, pools: Mapping[str, Sequence[Any]]) -> Any:
    """Return a value of that type; `pools` has what is plausible for a field, by its name.

    Raises `ValueError` where a struct refuses to be made so.
    """
    return _value(_described(kind), choices, pools, "")


def _value(kind: Any, choices: Choices, pools: Mapping[str, Sequence[Any]], name: str) -> Any:  # noqa: C901, PLR0911 - one for each kind of type
    match kind:
        case inspect.StructType():
            return _struct(kind, choices, pools)
        case inspect.UnionType(types=types):
            return _value(choices.pick(types), choices, pools, name)
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return tuple(_value(item, choices, pools, name) for _ in range(choices.below(_MOST + 1)))
        case inspect.TupleType(item_types=items):
            return tuple(_value(item, choices, pools, name) for item in items)
        case inspect.DictType(key_type=key, value_type=of):
            return {
                _value(key, choices, pools, name): _value(of, choices, pools, name)
                for _ in range(choices.below(_MOST))
            }
        case inspect.NoneType():
            return None
        case inspect.BoolType():
            return choices.below(2) == 1
        case inspect.LiteralType(values=values):
            return choices.pick(values)
    if name in pools and choices.below(8) < 7:
        return choices.pick(pools[name])
    match kind:
        case inspect.IntType():
            return choices.number(pools.get(name, (0,)))
        case inspect.StrType():
            return choices.text()
        case inspect.BytesType():
            return choices.octets(choices.below(20))
    raise NotImplementedError(kind)


def _struct(kind: inspect.StructType, choices: Choices, pools: Mapping[str, Sequence[Any]]) -> Any:
    fields: dict[str, Any] = {}
    for each in kind.fields:
        if each.required or choices.below(2):
            fields[each.name] = _value(each.type, choices, pools, each.name)
    return kind.cls(**fields)


def documents_of(made: msgspec.Struct) -> Document:
    """Return a struct as JSON has it."""
    return msgspec.json.decode(msgspec.json.encode(made))


def spoil(document: Document, choices: Choices) -> Document:
    """Return a document like this one, with some of its places replaced, left out, doubled or made up."""
    for _ in range(choices.below(4)):
        document = _spoil_once(document, choices)
    return document


def _spoil_once(document: Document, choices: Choices) -> Document:
    match document:
        case dict() if document and choices.below(8):
            name = sorted(document)[choices.below(256) % len(document)]
            if not choices.below(8):
                return {each: item for each, item in document.items() if each != name}
            return {**document, name: _spoil_once(document[name], choices)}
        case list() if document and choices.below(8):
            at = choices.below(256) % len(document)
            if not choices.below(8):
                return [*document, document[at]]
            return [*document[:at], _spoil_once(document[at], choices), *document[at + 1 :]]
        case _:
            return choices.pick(_JUNK)
