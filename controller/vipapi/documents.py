"""Documents: JSON that somebody else wrote, read so that whatever it is there is one kind of error.

msgspec has an error of another kind for what is nested more deeply than Python's stack goes: a few kilobytes
of brackets, in a field that nobody knows, would pass by those who expect a `ValueError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import msgspec

T = TypeVar("T")


def read(decoder: msgspec.json.Decoder[T], text: bytes | msgspec.Raw) -> T:
    """Return what a document says; raises `ValueError` with the place and the reason."""
    try:
        return decoder.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
