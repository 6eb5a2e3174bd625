"""Links that count how often somebody goes through all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vipagent.nodeview import Link

if TYPE_CHECKING:
    from collections.abc import Iterator


class Counted(tuple[Link, ...]):  # noqa: SLOT001 - a tuple's subclass that counts has to have a dict
    """Equal to the links that it is made of; `passes` grows."""

    passes = 0

    def __iter__(self) -> Iterator[Link]:
        self.passes += 1
        return super().__iter__()
