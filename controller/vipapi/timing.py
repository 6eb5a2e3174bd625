"""Which lease times a domain runs with: a profile's, or the four that its spec gives.

| profile | heartbeat | lease (T) | grant (Tw) | restart silence |
|---|---|---|---|---|
| Fast | 50 ms | 250 ms | 310 ms | 320 ms |
| Balanced (the effective default) | 100 ms | 400 ms | 500 ms | 600 ms |
| Relaxed | 200 ms | 1000 ms | 1250 ms | 1300 ms |

The arithmetic that keeps an address on one node: two nodes' clocks may run at rates that differ by
up to 10 %, so a witness's grant must outlast the owner's lease by (1 + 0.1) / (1 - 0.1), that is
1.223 rounded up; and a witness that restarts stays silent for at least a grant, for it has forgotten
what it granted. An owner needs more than two heartbeats in a lease, or one lost datagram ends it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from vipapi.nodeplan import Timing

if TYPE_CHECKING:
    from vipapi.resources import FailoverDomainSpec

DEFAULT_PROFILE = "Balanced"

PROFILES = MappingProxyType(
    {
        "Fast": Timing(heartbeat_ms=50, lease_ms=250, grant_ms=310, silence_ms=320),
        "Balanced": Timing(heartbeat_ms=100, lease_ms=400, grant_ms=500, silence_ms=600),
        "Relaxed": Timing(heartbeat_ms=200, lease_ms=1000, grant_ms=1250, silence_ms=1300),
    }
)

GRANT_PER_MILLE_OF_LEASE = 1223
"""ceil(1000 * (1 + rho) / (1 - rho)) for clock rates that differ by rho = 10 % at most."""


def effective(spec: FailoverDomainSpec) -> Timing:
    """Return the times in force.

    Raises `ValueError` for times under which an address could be on two nodes.
    """
    if spec.timing is None:
        return PROFILES[spec.profile or DEFAULT_PROFILE]
    timing = Timing(
        heartbeat_ms=spec.timing.heartbeat_milliseconds,
        lease_ms=spec.timing.lease_milliseconds,
        grant_ms=spec.timing.grant_milliseconds,
        silence_ms=spec.timing.silence_milliseconds,
    )
    wrong = objection(timing)
    if wrong is not None:
        raise ValueError(wrong)
    return timing


def objection(timing: Timing) -> str | None:
    """Return why these times are not safe, in words that say what to write, or None."""
    if timing.heartbeat_ms < 1 or timing.heartbeat_ms * 2 >= timing.lease_ms:
        return "`heartbeatMilliseconds` must be less than half of `leaseMilliseconds`"
    if timing.grant_ms * 1000 < timing.lease_ms * GRANT_PER_MILLE_OF_LEASE:
        return "`grantMilliseconds` must be greater than or equal to 1.223 times `leaseMilliseconds`"
    if timing.silence_ms < timing.grant_ms:
        return "`silenceMilliseconds` must be greater than or equal to `grantMilliseconds`"
    return None
