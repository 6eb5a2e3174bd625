"""All targets, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fuzz import keepers, lines, neighbours, objects, servers, stocks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fuzz.target import Target

TARGETS: Final[Mapping[str, Target]] = {
    target.name: target
    for module in (keepers, neighbours, lines, stocks, servers, objects)
    for target in module.TARGETS
}
