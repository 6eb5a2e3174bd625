"""The values in force, as `status.effective` shows them.

The API has no defaults in specs; what a spec leaves out is told in its field's description and shown
here, so that nobody has to guess what runs.
"""

from __future__ import annotations

from vipapi import timing
from vipapi.resources import (
    FailoverDomainEffective,
    FailoverDomainSpec,
    VirtualIPEffective,
    VirtualIPSpec,
)


def of_virtual_ip(spec: VirtualIPSpec, *, is_held_alone: bool) -> VirtualIPEffective:
    """Return what holds for a VirtualIP; `is_held_alone` is whether `onQuorumLoss: Hold` is in force."""
    return VirtualIPEffective(
        domain=spec.domain,
        failback_policy=spec.failback.policy,
        failback_delay_seconds=spec.failback.delay_seconds,
        announcement_count=spec.announcement.count,
        announcement_refresh_seconds=spec.announcement.refresh_seconds,
        on_quorum_loss="Hold" if is_held_alone else "Release",
    )


def of_domain(spec: FailoverDomainSpec) -> FailoverDomainEffective:
    """Return what holds for a domain; raises `ValueError` for unsafe times, as `timing.effective` does."""
    times = timing.effective(spec)
    return FailoverDomainEffective(
        heartbeat_port=spec.heartbeat.port,
        heartbeat_milliseconds=times.heartbeat_ms,
        lease_milliseconds=times.lease_ms,
        grant_milliseconds=times.grant_ms,
        silence_milliseconds=times.silence_ms,
        witness_count=spec.witnesses.count,
        secret_name=spec.key.secret_name,
        witness_replace_after_seconds=spec.witnesses.replace_after_seconds,
        api_server_may_vote=spec.witnesses.api_server,
        gateway_probe=spec.gateway.probe,
        gateway_on_unreachable=spec.gateway.on_unreachable,
    )
