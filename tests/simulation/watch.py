"""The one who watches, in true time: safety, the order of terms, and what moved.

What must never happen is checked at the moment at which it could begin: an overlap begins only where a
fence is opened or extended, and a term counts only where a lease is opened. Fences are kept by address
and over all domains, so that two domains that hold one address on two nodes are seen as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulation.clock import Agenda
    from simulation.machine import Machine
    from vipagent.effects import Open
    from vipagent.messages import Key


class Broken(AssertionError):  # noqa: N818 - it reads as what happened
    """An invariant does not hold."""


class Watch:
    """All fences of the world, and what was said of them. Without `is_strict` an overlap is only measured."""

    def __init__(self, agenda: Agenda) -> None:
        self.is_strict = True
        self.is_order_kept = True
        self.names: dict[Key, str] = {}
        self.newest_term: dict[Key, int] = {}
        self.opens: list[tuple[int, str, Open]] = []
        self.trace: list[tuple[int, str]] = []
        self.closes = 0
        self.releases = 0
        self.worst_overlap_ns = 0
        self._agenda = agenda
        self._fences: dict[str, dict[tuple[Machine, Key], int]] = {}

    def note(self, line: str) -> None:
        self.trace.append((self._agenda.now_ns, line))

    def fail(self, line: str) -> None:
        raise Broken(f"{self._agenda.now_ns / 1e6:.3f} ms: {line}")

    def admit(self, machine: Machine, key: Key, address: str, deadline_ns: int) -> None:
        """The fence is opened or moved: at that moment no other machine's may be open."""
        places = self._fences.setdefault(address, {})
        places[machine, key] = deadline_ns
        if len(places) > 1:
            now_ns = self._agenda.now_ns
            own_end_ns = machine.clock.when(deadline_ns)
            for (other, _), other_ns in places.items():
                if other is machine:
                    continue
                overlap_ns = min(other.clock.when(other_ns), own_end_ns) - now_ns
                if overlap_ns > 0 and not other.is_paused:
                    self.worst_overlap_ns = max(self.worst_overlap_ns, overlap_ns)
                    if self.is_strict:
                        self.fail(
                            f"{address} is open on {other.label} and on {machine.label} "
                            f"for {overlap_ns / 1e6:.3f} ms ({self.names[key]})"
                        )

    def shut(self, machine: Machine, key: Key, address: str) -> None:
        self._fences.get(address, {}).pop((machine, key), None)

    def open_until_ns(self, machine: Machine, key: Key, address: str) -> int:
        """The deadline of that fence on that machine's clock, 0 if it has none."""
        return self._fences.get(address, {}).get((machine, key), 0)

    def owners(self, address: str) -> list[str]:
        """Whose fence is open for the address now."""
        open_on = {
            machine.label
            for (machine, _), deadline_ns in self._fences.get(address, {}).items()
            if machine.now() < deadline_ns and not machine.is_paused
        }
        return sorted(open_on)

    def look_at(self, machine: Machine) -> None:
        """A machine goes on after a pause: what it still holds open must be nobody else's."""
        for address, places in self._fences.items():
            for (owner, key), deadline_ns in list(places.items()):
                if owner is machine and machine.now() < deadline_ns:
                    self.admit(machine, key, address, deadline_ns)

    def opened(self, machine: Machine, opened: Open) -> None:
        """Order: terms of successive owners grow."""
        before = self.newest_term.get(opened.key, 0)
        name = self.names[opened.key]
        self.note(f"{machine.label} opens {name}, term {opened.term} ({opened.origin.reason})")
        if opened.term <= before and self.is_order_kept:
            self.fail(
                f"{machine.label} opens {name} under term {opened.term}, but {before} was opened before"
            )
        self.newest_term[opened.key] = max(before, opened.term)
        self.opens.append((self._agenda.now_ns, machine.label, opened))

    def extended(self, machine: Machine, key: Key, term: int, deadline_ns: int) -> None:
        """Order, again: once a newer term was opened, an older one is not extended."""
        if 0 < term < self.newest_term.get(key, 0) and machine.now() < deadline_ns and self.is_order_kept:
            self.fail(
                f"{machine.label} extends {self.names[key]} under term {term}, but "
                f"{self.newest_term[key]} was opened before"
            )

    @property
    def moves(self) -> tuple[int, int, int]:
        """What counts as movement: opens, closes, releases."""
        return len(self.opens), self.closes, self.releases
