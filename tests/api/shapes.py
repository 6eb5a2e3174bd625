"""What a struct looks like as JSON: its shape, to compare with a schema, and values of it, to try.

A shape is a dict of field names (`{"{}": shape}` for a map), a list of one shape, or a word: string,
integer, boolean, date-time; a choice is a tuple of `string` and its words in order.
"""

from __future__ import annotations

import types
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

from vipapi.healthchecks import Exec, HealthCheck, HTTPGet, Pods, Selector
from vipapi.nodestatus import DomainStatus
from vipapi.resources import (
    AllowedNamespaces,
    Announcement,
    Candidate,
    Failback,
    Service,
    ServiceFailoverSpec,
    Spread,
    VirtualIPRef,
    VirtualIPSpec,
)
from vipapi.routing import Route, Rule
from vipapi.selectors import LabelSelector, LabelSelectorRequirement
from vipapi.workloads import Hooks, Ocf, Systemd, Workload

T = TypeVar("T")
PLAIN = {str: "string", int: "integer", bool: "boolean", datetime: "date-time"}


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in {Union, types.UnionType}:
        [kind] = [each for each in get_args(kind) if each is not type(None)]
    return kind


def shape_of(kind: Any, name: str = "") -> Any:
    """Return the shape of a struct's field type."""
    kind = _without_none(kind)
    if get_origin(kind) is Literal:
        return ("string", *sorted(get_args(kind)))
    if get_origin(kind) is tuple:
        return [shape_of(get_args(kind)[0])]
    if get_origin(kind) is dict:
        return {"{}": shape_of(get_args(kind)[1])}
    if kind in PLAIN:
        # The keeper writes these times as text; it has no clock type on its side of the socket.
        return "date-time" if name in {"startedAt", "since", "at"} else PLAIN[kind]
    return {
        field.encode_name: shape_of(field.type, field.encode_name) for field in msgspec.structs.fields(kind)
    }


WORDS = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,14}", fullmatch=True)
TIMES = st.datetimes(datetime(2026, 1, 1), datetime(2036, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 -- bounds
SMALL = st.integers(1, 7)
SPECS: dict[Any, list[Any]] = {
    ServiceFailoverSpec: [
        ServiceFailoverSpec(
            mode="Cluster",
            services=(
                Service("app", VirtualIPRef("web"), "node-a", ("node-b",), workload, hooks=hooks),
                Service(
                    "db", VirtualIPRef("db"), "node-b", ("node-a",), workload, after=("app",), singleton=False
                ),
            ),
            failback=Failback("Automatic", 1),
            health_checks=(HealthCheck("app", pods=Pods(Selector({"app": "web"}), at_least=2)),),
        )
        for workload, hooks in (
            (Workload(systemd=Systemd("app.service")), None),
            (Workload(ocf=Ocf("heartbeat", "apache", {"port": "80"})), Hooks(promoted=(Exec("tell"),))),
        )
    ],
    VirtualIPSpec: [
        VirtualIPSpec(("192.0.2.10",)),
        VirtualIPSpec(
            ("192.0.2.10/24", "2001:db8::10/64"),
            domain="edge",
            interface="eth1",
            candidates=(
                Candidate(node_name="node-a", priority=200),
                Candidate(node_selector=LabelSelector()),
                Candidate(
                    node_selector=LabelSelector(
                        {"role": "edge"}, (LabelSelectorRequirement("zone", "In", ("a", "b")),)
                    )
                ),
            ),
            failback=Failback("Automatic", 1),
            health_checks=(HealthCheck("web", http_get=HTTPGet(80, path="/live", body_regex="^ok")),),
            announcement=Announcement(refresh_seconds=10),
            spread=Spread("edge"),
            on_quorum_loss="Hold",
            suspend=True,
            allowed_namespaces=AllowedNamespaces(("*",)),
            routes=(Route("203.0.113.0/24", via="192.0.2.1"),),
            rules=(Rule(100, from_address="192.0.2.10"),),
        ),
    ],
}
"""A spec in a status is one that was accepted, so these are written out."""


def values_of(kind: type[T], *, longest_text: int = 30) -> st.SearchStrategy[T]:
    """Return values of a struct as vipkeeper itself makes them: short words, unique keys, free messages."""
    found: st.SearchStrategy[T] = _struct(kind, longest_text)
    return found


def _struct(kind: Any, longest_text: int) -> st.SearchStrategy[Any]:
    fields = [
        (field.name, field.required, _field(_without_none(field.type), field.encode_name, longest_text))
        for field in msgspec.structs.fields(kind)
    ]
    required = {name: values for name, is_required, values in fields if is_required}
    optional = {name: values for name, is_required, values in fields if not is_required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda drawn: kind(**drawn))


def _field(kind: Any, name: str, longest_text: int) -> st.SearchStrategy[Any]:
    if kind in SPECS:
        return st.sampled_from(SPECS[kind])
    if get_origin(kind) is tuple:
        items = _field(get_args(kind)[0], name, longest_text)
        return st.lists(items, max_size=3, unique_by=_key).map(tuple)
    generic = get_origin(kind) or kind
    if isinstance(generic, type) and issubclass(generic, msgspec.Struct):
        return _struct(kind, longest_text)
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind is str:
        written = TIMES.map(lambda moment: moment.isoformat().replace("+00:00", "Z"))
        return {
            "startedAt": written,
            "since": written,
            "at": written,
            "message": st.text(st.characters(codec="utf-8"), max_size=longest_text),
        }.get(name, WORDS)
    return {datetime: TIMES, bool: st.booleans(), int: SMALL}[kind]


def _key(item: Any) -> Any:
    """Return what is unique among an item's neighbours: the key of its list-map.

    A domain's status has a UID too, but a node is in one domain of each name.
    """
    if isinstance(item, DomainStatus):
        return item.name
    for name in ("type", "uid", "node_name", "node", "name"):
        if hasattr(item, name):
            return getattr(item, name)
    return msgspec.json.encode(item)
