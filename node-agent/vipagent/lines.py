"""Lines: what a courier says, read a little at a time.

A plan of a thousand VirtualIPs with a hundred candidates each is four megabytes of JSON; reading and
checking it takes 55 ms. A thread would not help: the decoder keeps the interpreter's lock from the first
byte to the last, and a thread has not the loop's real-time priority, so that on a busy machine it is put
aside with that lock in hand (measured: the loop stood still for up to 100 ms). So a plan is read in the
loop, in steps, the longest of which is finding where its parts begin and end, 7 ms.

`read` is a generator: whoever drives it does other things between its steps, and has what was said as
its return value. It understands what `vipapi.link.decode_for_keeper` understands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vipapi import documents, nodeplan
from vipapi.link import Votes
from vipapi.nodeplan import DomainPlan, Plan, VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import Generator


class PlanOutline(Plan, frozen=True, rename="camel", tag="plan"):
    """A plan whose domains have not been read yet."""

    domains: tuple[msgspec.Raw, ...] = ()  # type: ignore[assignment]


class _DomainOutline(DomainPlan, frozen=True, rename="camel", kw_only=True):
    virtual_ips: tuple[msgspec.Raw, ...] = msgspec.field(  # type: ignore[assignment]
        name="virtualIPs", default=()
    )


_line: msgspec.json.Decoder[PlanOutline | Votes] = msgspec.json.Decoder(PlanOutline | Votes)
_domain = msgspec.json.Decoder(_DomainOutline)
_virtual_ip = msgspec.json.Decoder(VirtualIPPlan)


def outline(line: bytes) -> PlanOutline | Votes:
    """Read as much of a line as tells what it is; raises `ValueError` with the place and the reason."""
    return documents.read(_line, line)


def read(sketch: PlanOutline) -> Generator[None, None, Plan]:
    """Read the rest of a plan, and check it; raises `ValueError` with the place and the reason."""
    domains: list[DomainPlan] = []
    for raw_domain in sketch.domains:
        yield
        domain = documents.read(_domain, raw_domain)
        virtual_ips: list[VirtualIPPlan] = []
        for raw_virtual_ip in domain.virtual_ips:
            yield
            try:
                virtual_ips.append(documents.read(_virtual_ip, raw_virtual_ip))
            except ValueError as error:
                raise ValueError(
                    f"domain {domain.name}, VirtualIP number {len(virtual_ips) + 1}: {error}"
                ) from error
        fields = msgspec.structs.asdict(domain) | {"virtual_ips": tuple(virtual_ips)}
        domains.append(DomainPlan(**fields))
    plan = Plan(**msgspec.structs.asdict(sketch) | {"domains": tuple(domains)})
    yield from nodeplan.checks(plan)
    return plan
