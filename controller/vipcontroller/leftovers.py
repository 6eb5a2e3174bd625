"""What of other field managers stands in a status that the controller has just applied whole.

Server-side apply takes out what its manager leaves away, but not what somebody else has set as well: a
restore that brings the status along, or `kubectl edit --subresource=status`. An owner or a `Stalled` of last
year would stand there for good, and be found to differ at every look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vipapi.conditions import TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping


def cleared(found: Mapping[str, Any], applied: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the status that is to stand where `found` has more than was applied; None where it has not.

    Conditions of types that vipkeeper does not know are their writers' business, and stay.
    """
    others = [each for each in found.get("conditions", ()) if each["type"] not in TYPES]
    wanted = {**applied, "conditions": [*applied.get("conditions", ()), *others]}
    return wanted if _has_more(_by_type(found), _by_type(wanted)) else None


def _by_type(status: Mapping[str, Any]) -> dict[str, Any]:
    return {**status, "conditions": {each["type"]: each for each in status.get("conditions", ())}}


def _has_more(found: object, wanted: object) -> bool:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return any(name not in wanted or _has_more(each, wanted[name]) for name, each in found.items())
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) > len(wanted) or any(map(_has_more, found, wanted))
    return False
