"""Which of several things a text picks by name, as `ONLY` and `PEERS` do.

A name that is the text picks that thing alone, though others contain it; otherwise every name that contains
the text does. Several texts have `;` between them. No text at all picks everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


def picked(texts: str, things: Sequence[T], names_of: Callable[[T], Sequence[str]]) -> list[T]:
    """Return the things that the texts pick, in their order; `names_of` gives every name of a thing."""
    names = [[name.lower() for name in names_of(thing)] for thing in things]
    chosen: set[int] = set()
    for text in [each.strip().lower() for each in texts.split(";") if each.strip()] or [""]:
        exact = {index for index, own in enumerate(names) if text in own}
        chosen |= exact or {index for index, own in enumerate(names) if any(text in name for name in own)}
    return [thing for index, thing in enumerate(things) if index in chosen]
