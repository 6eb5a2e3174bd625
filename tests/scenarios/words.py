"""Datagrams and configurations in words, for stories; nothing for what every heartbeat says again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.registrar import told
from vipagent.messages import (
    Ack,
    Config,
    GetConfig,
    Handover,
    Offer,
    Prepare,
    Ready,
    Release,
    Released,
    Request,
)

if TYPE_CHECKING:
    from simulation.watch import Watch
    from vipagent.messages import Message


def say(message: Message, watch: Watch) -> str:  # noqa: C901, PLR0911 - it is a table
    """The datagram in words."""
    names = watch.names
    match message:
        case Request(wants=wants):
            asked = [want for want in wants if not want.is_held]
            return ", ".join(f"wants {names[want.key]} under term {want.term}" for want in asked)
        case Ack(granted=granted, denied=denied):
            said = [f"grants {names[g.key]} under term {g.term}" for g in granted]
            said += [f"denies {names[d.key]}, {d.holder or 'a higher term'} has it" for d in denied]
            return ", ".join(said) if denied or not _is_renewal(message, watch) else ""
        case Release(successor=successor):
            return f"releases {' and '.join(names[k] for k in message.keys)}" + (
                f" for {successor}" if successor else ""
            )
        case Released():
            return f"has seen the release of {' and '.join(names[k] for k in message.keys)}"
        case Offer(free=free):
            return ", ".join(f"offers {names[f.key]}, rank {f.rank}" for f in free)
        case Prepare(key=key):
            return f"could you take {names[key]}?"
        case Ready(key=key):
            return f"ready for {names[key]}"
        case Handover(key=key):
            return f"{names[key]} is yours"
        case GetConfig():
            return "which witnesses?"
        case Config(configuration):
            return f"epoch {configuration.epoch} is {told(configuration)}"


def _is_renewal(ack: Ack, watch: Watch) -> bool:
    """Whether everything that is granted was opened under that term before."""
    return all(watch.newest_term.get(g.key) == g.term for g in ack.granted)
