"""How much a status can hold, and how a report is cut to that size.

Every list and every string of the schemas in `crds/` is bounded, and the API server refuses a whole
write for one entry too many. So what comes from outside (a hook's output, an error's text, a machine
with a thousand interfaces) is cut here before it is written: texts end in an ellipsis, lists lose
their end, and of the VirtualIPs those that the node holds are kept first, of the services those that run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from vipapi.nodestatus import (
        CheckStatus,
        DomainStatus,
        HoldingStatus,
        InterfaceStatus,
        Report,
        ServiceStatus,
    )

TEXT = 1024
"""The longest message of a candidate, a check or a problem, in characters."""
CONDITION_TEXT = 32768
"""The longest message of a condition, in characters."""
NODES = 1024
"""The most nodes in a list of candidates, members or peers."""
VIRTUAL_IPS = 1024
"""The most VirtualIPs in a VIPNode's status, and so in a FailoverDomain.

A VIPNode that owns and granted them all, each of one address and with the longest names, takes 1.46 MiB with
what the API server notes of its fields; etcd takes 1.5.
"""
INTERFACES = 256
"""The most interfaces of a node, and the most addresses of one interface."""
DOMAINS = 64
"""The most domains of a node."""
SERVICES = 1024
"""The most services in a VIPNode's status."""
PROBLEMS = 64
"""The most problems of a node."""
CHECKS = 16
"""The most checks and the most addresses of a VirtualIP."""
SERVICE_CHECKS = 64
"""The most checks of the services that follow a VirtualIP."""


def clip(text: str, longest: int = TEXT) -> str:
    """Return the text, or its beginning and an ellipsis where it is longer than that."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def trim(status: Any, longest: int = TEXT) -> Any:
    """Return a status, as JSON, with every message and every list cut to what the schemas can hold."""
    match status:
        case dict():
            return {
                name: clip(value, longest)
                if name == "message" and isinstance(value, str)
                else trim(value, CONDITION_TEXT if name == "conditions" else longest)
                for name, value in status.items()
            }
        case list():
            return [trim(item, longest) for item in status[:NODES]]
        case _:
            return status


def fit(report: Report) -> Report:
    """Return the report as `VIPNode.status` can hold it; an ordinary one comes back as it is."""
    owned_first = report.virtual_ips
    if len(owned_first) > VIRTUAL_IPS:
        owned_first = tuple(sorted(owned_first, key=lambda holding: holding.state == "Standby"))
    running_first = report.services
    if len(running_first) > SERVICES:
        running_first = tuple(sorted(running_first, key=lambda service: service.state == "Stopped"))
    return msgspec.structs.replace(
        report,
        version=report.version[:64],
        interfaces=tuple(_interface(each) for each in report.interfaces[:INTERFACES]),
        domains=tuple(_domain(each) for each in report.domains[:DOMAINS]),
        virtual_ips=tuple(_holding(each) for each in owned_first[:VIRTUAL_IPS]),
        services=tuple(_service(each) for each in running_first[:SERVICES]),
        problems=tuple(
            msgspec.structs.replace(each, message=clip(each.message)) for each in report.problems[:PROBLEMS]
        ),
    )


def _interface(interface: InterfaceStatus) -> InterfaceStatus:
    return msgspec.structs.replace(interface, addresses=interface.addresses[:INTERFACES])


def _domain(domain: DomainStatus) -> DomainStatus:
    return msgspec.structs.replace(
        domain,
        reachable_peers=domain.reachable_peers[:NODES],
        behind=domain.behind[:NODES],
        grants=domain.grants[:VIRTUAL_IPS],
        tombstones=domain.tombstones[:VIRTUAL_IPS],
    )


def _holding(holding: HoldingStatus) -> HoldingStatus:
    conflict = holding.conflict
    if conflict is not None:
        conflict = msgspec.structs.replace(conflict, message=clip(conflict.message))
    return msgspec.structs.replace(
        holding,
        message=clip(holding.message),
        bound=holding.bound[:CHECKS],
        checks=_checks(holding.checks[:CHECKS]),
        service_checks=_checks(holding.service_checks[:SERVICE_CHECKS]),
        conflict=conflict,
    )


def _checks(checks: tuple[CheckStatus, ...]) -> tuple[CheckStatus, ...]:
    return tuple(msgspec.structs.replace(each, message=clip(each.message)) for each in checks)


def _service(service: ServiceStatus) -> ServiceStatus:
    hook = service.hook
    if hook is not None:
        hook = msgspec.structs.replace(hook, message=clip(hook.message))
    return msgspec.structs.replace(service, message=clip(service.message), hook=hook)
