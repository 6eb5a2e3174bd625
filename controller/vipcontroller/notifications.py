"""Which happenings people are notified of, who is, and in which words: mails, chats and webhooks.

A notification is an Event that is worth waking somebody. `of` picks them from the Events that belong to a
write (`KINDS` says which), so each is sent once, by the leader, after the write that it tells of succeeded.
They are news: what a leader had gathered when it died is lost, and the objects' statuses say what is so.

A `Digest` gathers what one target is to be told, so that five hundred addresses that move with one node are
one mail:

    (empty) ── receive ──▶ gathering for `gather_s` ──▶ take: one message ──▶ (empty), silent for `pause_s`
                                 ▲                        │ it could not be sent
                                 └── put_back, `pause_s` ─┘ (`ATTEMPTS` times; then it is lost, and counted)

It holds so many lines and counts the rest, so a target that takes nothing costs no memory. An object
without an owner that has got one meanwhile is only told to have moved, and to who wants no news of moves
it is not told at all.

The settings are a YAML file, from a Secret, for the address of a target has passwords in it. So nothing
that is said about a file that cannot be used has anything of its contents, and a target is called by its
name only.

    cluster: berlin                                 # in every title; optional
    targets:
    - name: ops
      url: mailtos://user:password@example.com?to=ops@example.com     # an address as apprise has them
    - name: billing-team
      url: json://chat.example.com/hooks/0123
      kinds: [ServiceFailed, NoOwner]               # absent: all
      namespaces: [billing]                         # only ServiceFailovers there; absent: all objects
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

import msgspec

from vipapi.bounds import clip
from vipapi.conditions import Reason
from vipcontroller.writes import StatusWrite

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vipcontroller.writes import Write

Kind: TypeAlias = Literal["NoOwner", "StopFailed", "ServiceFailed", "HookFailed", "Degraded", "OwnerChanged"]
Severity: TypeAlias = Literal["failure", "warning", "info"]

KINDS: Mapping[str, Kind] = {
    Reason.NO_OWNER: "NoOwner",
    Reason.NO_ELIGIBLE_NODE: "NoOwner",
    Reason.QUORUM_LOST: "NoOwner",
    Reason.STOP_FAILED: "StopFailed",
    Reason.OWNER_UNREACHABLE: "StopFailed",
    Reason.SERVICE_FAILED: "ServiceFailed",
    "HookFailed": "HookFailed",
    Reason.NO_STANDBY: "Degraded",
    "OwnerChanged": "OwnerChanged",
}
"""The reasons of Events that are worth a notification, each with the kind that it is of."""

ATTEMPTS = 3
LINES = 20
"""How many happenings of one kind a message tells in full."""
MOST = 1000
"""How many objects of one kind a digest knows by name; of more than that it knows the number."""
NOTE = 500

_WORDS: Mapping[Kind, str] = {
    "NoOwner": "down",
    "StopFailed": "not stopped",
    "ServiceFailed": "failed",
    "HookFailed": "with a hook that failed",
    "Degraded": "without a standby",
    "OwnerChanged": "moved",
}
"""What befell the objects, the worst first."""
_SEVERITIES: Mapping[Kind, Severity] = {
    "NoOwner": "failure",
    "StopFailed": "failure",
    "ServiceFailed": "failure",
    "HookFailed": "warning",
    "Degraded": "warning",
    "OwnerChanged": "info",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_PLACE = re.compile(r" - at `(?P<place>[^`]*)`$")


class Notification(NamedTuple):
    """One happening; `about` is the object for people, `namespace` is "" for one of the whole cluster."""

    kind: Kind
    about: str
    namespace: str
    note: str


class Pace(NamedTuple):
    """How long happenings are gathered, and how long a target is left alone after a message, sent or not."""

    gather_s: float = 5.0
    pause_s: float = 30.0


class Message(NamedTuple):
    """What is sent: one line of title, a body of several."""

    title: str
    body: str
    severity: Severity


_PACE = Pace()


class Target(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Somebody to be notified, of these kinds and namespaces only, or of all."""

    name: str
    url: str
    kinds: tuple[Kind, ...] = ()
    namespaces: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return its name: the address has passwords in it."""
        return f"Target({self.name!r})"

    def wants(self, notification: Notification) -> bool:
        """Whether it is to be told."""
        is_of_kind = not self.kinds or notification.kind in self.kinds
        return is_of_kind and (not self.namespaces or notification.namespace in self.namespaces)


class Settings(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Everybody who is to be notified; `cluster` is for the title."""

    targets: tuple[Target, ...] = ()
    cluster: str = ""


def read(text: bytes) -> Settings:
    """Read the settings; raises `ValueError` with the place and what is wanted there, and no contents."""
    try:
        settings = msgspec.yaml.decode(text, type=Settings)
    except msgspec.ValidationError as error:
        found = _PLACE.search(str(error))
        raise ValueError(
            f"`{found['place'] if found else '$'}` is not as it should be: a file has `targets`, and may "
            "have `cluster`; a target has `name` and `url`, and may have `namespaces` and `kinds`, of "
            + ", ".join(get_args(Kind))
        ) from None
    except msgspec.DecodeError as error:
        mark = getattr(error.__context__, "problem_mark", None)
        place = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        raise ValueError(f"it is no YAML{place}") from None
    except UnicodeDecodeError:
        raise ValueError("it is not written in UTF-8") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # A tag such as `!!bool`, or what looks like a date: the reader's own words tell of the contents.
        raise ValueError(
            "it has a value that is not of the type that it is said, or looks, to be of"
        ) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    twice = [name for name, times in Counter(target.name for target in settings.targets).items() if times > 1]
    if twice:
        raise ValueError(f"two targets have the name {twice[0]!r}")
    return settings


def of(write: Write) -> tuple[Notification, ...]:
    """Return what people are to be notified of once a write has succeeded."""
    if not isinstance(write, StatusWrite) or write.kind == "Switchover":
        return ()
    namespace, name = write.metadata.namespace, write.metadata.name
    about = f"{write.kind} {namespace}/{name}" if namespace else f"{write.kind} {name}"
    return tuple(
        Notification(KINDS[telling.reason], about, namespace, telling.note)
        for telling in write.tellings
        if telling.reason in KINDS
    )


class Digest:
    """What one target is still to be told."""

    def __init__(self, cluster: str = "", pace: Pace = _PACE) -> None:
        self._cluster = cluster
        self._pace = pace
        self._notes: dict[Kind, dict[str, str]] = {}
        self._nameless: Counter[Kind] = Counter()
        self._taken, self._taken_nameless = self._notes, self._nameless
        self._attempts = 0
        self._due: float | None = None
        self._silent_until = float("-inf")

    @property
    def deadline(self) -> float | None:
        """When there is something to send, or None."""
        return self._due

    def receive(self, notification: Notification, now: float) -> None:
        """Take one happening in."""
        kind, about = notification.kind, notification.about
        if kind == "OwnerChanged":
            self.withdraw(about)
        self._keep(kind, about, clip(_CONTROL.sub(" ", notification.note).strip(), NOTE))
        if self._due is None:
            self._due = max(now + self._pace.gather_s, self._silent_until)

    def withdraw(self, about: str) -> None:
        """Forget that an object has no owner: it has one, which this target need not be told."""
        # What is being sent just now may come back.
        for notes in (self._notes, self._taken):
            notes.get("NoOwner", {}).pop(about, None)

    def take(self, now: float) -> Message | None:
        """Return what is to be sent now; it counts as told until `put_back` says otherwise."""
        notes = {kind: self._notes[kind] for kind in _WORDS if self._notes.get(kind)}
        message = self._message(notes) if notes else None
        self._taken, self._taken_nameless = self._notes, self._nameless
        self._notes, self._nameless = {}, Counter()
        self._due = None
        if message is None:
            # All of it was withdrawn.
            self._attempts = 0
        else:
            self._silent_until = now + self._pace.pause_s
        return message

    def put_back(self, now: float) -> bool:
        """Keep what was taken last, to be sent again; returns False where it was tried often enough."""
        self._attempts += 1
        if self._attempts >= ATTEMPTS:
            self._attempts = 0
            return False
        newer, newer_nameless = self._notes, self._nameless
        self._notes, self._nameless = self._taken, self._taken_nameless + newer_nameless
        for kind, notes in newer.items():
            for about, note in notes.items():
                self._keep(kind, about, note)
        self._due = self._silent_until = now + self._pace.pause_s
        return True

    def sent(self) -> None:
        """Take note that what was taken last has been told."""
        self._attempts = 0

    def _keep(self, kind: Kind, about: str, note: str) -> None:
        known = self._notes.setdefault(kind, {})
        if about in known or len(known) < MOST:
            known[about] = note
        else:
            self._nameless[kind] += 1

    def _message(self, notes: Mapping[Kind, Mapping[str, str]]) -> Message:
        sender = f"vipkeeper {_CONTROL.sub(' ', self._cluster)}".strip()
        counts = {kind: len(found) + self._nameless[kind] for kind, found in notes.items()}
        if sum(counts.values()) == 1:
            [(kind, found)] = notes.items()
            [about] = found
            title = f"{sender}: {about} {_WORDS[kind]}"
        else:
            title = f"{sender}: {', '.join(f'{count} {_WORDS[kind]}' for kind, count in counts.items())}"
        body: list[str] = []
        for kind, found in notes.items():
            lines = [f"{about}: {note}" for about, note in list(found.items())[:LINES]]
            rest = counts[kind] - len(lines)
            body += [f"{counts[kind]} {_WORDS[kind]}:", *lines]
            if rest:
                body.append(f"and {rest} more: `kubectl get events --all-namespaces` has them")
            body.append("")
        return Message(title, "\n".join(body).strip(), _worst(notes))


def _worst(kinds: Iterable[Kind]) -> Severity:
    found: Sequence[Severity] = [_SEVERITIES[kind] for kind in kinds]
    return next(severity for severity in get_args(Severity) if severity in found)
