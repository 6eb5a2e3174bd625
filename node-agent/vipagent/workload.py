"""The services of one VirtualIP on this node: what is started and stopped, and what must be known before.

Each service has at most one copy here (`copies`), and together they are a stack. It goes up one after another
in the plan's order, those that start before the address first, and comes down in reverse:

        lose ───────────────────────────────────────────────────────▶ DOWN, everything at once
        leave, or a service failed (for its hold-off, 60 to 600 s) ─▶ DOWN, in reverse, the lease still held
        own; stay; the hold-off is over ────────────────────────────▶ UP

The rules:

 1. a singleton starts only when every other node that may run it has said, in this tenure, that it does not;
    or when the time is over in which that node's leash has ended it, and the node has not said that it could
    not stop it. Those are the other candidates, the owner before this one, and who was a candidate before,
    each with the longest time to stop that it may have started it with, and the time in which its leash
    restarts it where it is to do so (`fences`);
 2. nothing is started without the lease, while the stack must come down, or while an earlier copy of this
    node's own is not known to be gone;
 3. the stack is vacant only when nothing runs or might: what is starting, what was told to stop, what could
    not be stopped and what an earlier keeper left behind might;
 4. what was said in another tenure does not count: `own` forgets it, and an answer names its term. Only who
    could not stop a copy is not forgotten until it says that it has, or rule 9 or 10 frees it;
 5. an outcome counts only for the run that it names, so that a late one says nothing about a later start;
 6. what is up when the lease is lost comes down, though the lease be won again at once: nothing of another
    term starts until all of it is stopped. Nor does anything while what is planned no more has not stopped,
    nor a program while a copy of it is here by another name. Who might run the program that a service gets
    now is asked as by rule 1;
 7. a stack that is told to leave and then to stay goes up again, what was confirmed still confirmed: nobody
    else can have started anything while this node had the lease;
 8. the address goes before what stands beneath it: `may_bind` falls no later than the first such Stop;
 9. a node that could not stop its copy, but says within how many of its own milliseconds its leash restarts
    it, is waited for that long after its *last* word: it is asked all the time, and for 2 s at the least, so
    one that is not restarted goes on saying so and is waited for. A later word without the promise takes the
    promise back;
10. a node of which somebody says that it is off (`out_of_service`) runs nothing, whatever it denied, once it
    has been asked for 2 s and not answered: who answers is on, and believed instead. It stays cleared in this
    tenure though the word be taken back, for without the lease it can have started nothing; in the next
    tenure the word counts if it still stands, else the node is asked as any other. A word that has become
    wrong is forgotten until it is said anew: of a former owner that renewed its lease after it, and of a node
    that is heard a minute after it.

Rule 1's time begins when the lease was won, for by then the former owner's had ended. Its leash gives it its
stop timeout by its own clock, and `leash_ns` allows for both clocks being wrong by a tenth. The times of
rules 1, 9 and 10 are in `suspects`; how long a failure keeps this node off is in `holdoff`.

Facts go in with `now_ns` (CLOCK_BOOTTIME), and `step` says what to do. Each deed is said once, but for a Stop
that nothing was heard of, which is repeated: `Stopped` is what others wait for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vipagent.copies import Copy
from vipagent.holdoff import HoldOff
from vipagent.nodeview import Refusal
from vipagent.runs import Deed, Fault, Runs, Start, Stop
from vipagent.suspects import Questioning, ended_within_ms

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from vipagent.runs import Outcome
    from vipapi.nodeplan import ServicePlan
    from vipapi.nodestatus import State

_MESSAGE_LENGTH: Final = 1024


class Stack:
    """The services of one VirtualIP on this node.

    It does no I/O: facts and `now_ns` go in, `step` says what to do. `leftovers` are the ids of what an
    earlier keeper left behind and could not be ended; `runs` numbers the starts of all stacks of a node;
    `can_fence` is whether its leash restarts the node for services that ask for it.
    """

    def __init__(
        self,
        *,
        now_ns: int,
        leftovers: frozenset[str] = frozenset(),
        runs: Runs | None = None,
        can_fence: bool = False,
    ) -> None:
        self._plans: dict[str, ServicePlan] = {}
        self._services: tuple[ServicePlan, ...] = ()
        self._others: frozenset[str] = frozenset()
        self._can_fence = can_fence
        self._questioning = Questioning()
        self._copies = {
            service_id: Copy(
                now_ns,
                state="StopFailed",
                due_ns=now_ns,
                message="left behind by an earlier keeper",
                shown="StopFailed",
            )
            for service_id in sorted(leftovers)
        }
        self._term: int | None = None
        self._is_leaving = False
        self._is_bound = False
        self._hold_off = HoldOff()
        self._runs = runs or Runs()
        self._is_draining = False
        self._elsewhere: frozenset[str] = frozenset()
        self._faults: list[Fault] = []

    @property
    def may_bind(self) -> bool:
        """Whether the addresses may be bound and announced; look at it before carrying out a step's deeds.

        They wait for all that starts before them. Once bound they stay, though a service be added or
        exchanged, until the stack comes down: then they go after what started behind them.
        """
        if not self._plans:
            return True
        if self._term is None:
            return False
        is_founded = all(self._copies[each.id].state == "Active" for each in self._services if each.is_first)
        if self._must_come_down:
            is_above = any(not self._copies[each.id].is_down for each in self._services if not each.is_first)
            return self._is_bound and is_founded and is_above
        return self._is_bound or is_founded

    @property
    def is_vacant(self) -> bool:
        """Whether nothing runs or might: the lease may be released (rule 3)."""
        return all(copy.is_down for copy in self._copies.values())

    @property
    def is_active(self) -> bool:
        """Whether there are services and all of them are active."""
        return bool(self._plans) and all(self._copies[each].state == "Active" for each in self._plans)

    @property
    def planned(self) -> Mapping[str, ServicePlan]:
        """The services that are planned, by id."""
        return self._plans

    @property
    def ids(self) -> frozenset[str]:
        """The services that are planned, and those that were and are not stopped yet."""
        started = (key for key, copy in self._copies.items() if copy.service is not None)
        return frozenset((*self._plans, *started))

    def has(self, service_id: str) -> bool:
        """Whether an outcome of this service's runs would be about one of these copies."""
        return service_id in self._copies

    @property
    def running(self) -> frozenset[str]:
        """Which services run here or might, also what an earlier keeper left."""
        return frozenset(key for key, copy in self._copies.items() if not copy.is_down)

    @property
    def underway(self) -> tuple[ServicePlan, ...]:
        """What runs here or might, as it was started, and how it is to be ended.

        Nothing is known of what an earlier keeper left.
        """
        copies = self._copies.values()
        return tuple(copy.service for copy in copies if copy.service is not None and not copy.is_down)

    @property
    def promoted(self) -> Mapping[str, ServicePlan]:
        """The services, by id, if all of them are active and the addresses are bound."""
        is_promoted = self._may_come_up and self._is_bound and self.is_active
        return self._plans if is_promoted else {}

    def take_faults(self) -> list[Fault]:
        """Return what has failed since this was asked last."""
        faults, self._faults = self._faults, []
        return faults

    @property
    def unconfirmed(self) -> Mapping[str, frozenset[str]]:
        """By node, the services of which it must be asked whether it runs them."""
        if not self._may_come_up:
            return {}
        questions: dict[str, set[str]] = {}
        for service in self._services:
            copy = self._copies[service.id]
            if service.is_singleton and not copy.is_up:
                for node in copy.uncleared:
                    questions.setdefault(node, set()).add(service.id)
        return {node: frozenset(ids) for node, ids in questions.items()}

    @property
    def obstacle(self) -> Refusal | None:
        """Why this node must not have the lease: a service failed here, or a former copy cannot be stopped.

        An owner with such a copy stays: it could not give the lease away, and its other services run.
        """
        trouble = self._hold_off.trouble
        if trouble is not None:
            return _refusal(f"{trouble.message}; {trouble.told}")
        for service in self._services:
            copy = self._copies[service.id]
            if copy.state == "StopFailed" and self._term is None:
                return _refusal(_because(f"{service.title} could not be stopped", copy.message))
        return None

    def runs(self, service_ids: Iterable[str]) -> frozenset[str]:
        """Return which of these run here or might; ask only when what has lapsed of the lease was let go."""
        return self.running.intersection(service_ids)

    def stuck(self, service_ids: Iterable[str]) -> frozenset[str]:
        """Return which of these could not be stopped, so that the leash's time says nothing about them."""
        return frozenset(each for each in self.runs(service_ids) if self._copies[each].state == "StopFailed")

    def fencing(self, service_ids: Iterable[str]) -> Mapping[str, int]:
        """Return those of the stuck that the leash restarts the node for, and within how many milliseconds.

        That time runs from the lease's end, so nothing is promised before.
        """
        if self._term is not None:
            return {}
        return {
            each: ended_within_ms(service)
            for each in self.stuck(service_ids)
            for service in (self._copies[each].service,)
            if self._can_fence and service is not None and service.fences
        }

    def statuses(self) -> tuple[tuple[ServicePlan, State, int, str], ...]:
        """Return, as of the last step, each service's state, since when, and what to say about it.

        In the order in which they start, then what is planned no more but not stopped yet.
        """
        gone = [
            copy.service
            for key, copy in self._copies.items()
            if key not in self._plans and copy.service is not None
        ]
        return tuple(
            (each, copy.shown, copy.shown_since_ns, copy.shown_message)
            for each in (*self._services, *gone)
            for copy in (self._copies[each.id],)
        )

    @property
    def deadline_ns(self) -> int | None:
        """When `step` has something to do by time alone."""
        due = [copy.due_ns for copy in self._copies.values() if copy.state not in ("Stopped", "Active")]
        service = self._next
        free_ns = None if service is None else self._free_ns(service)
        due += [each for each in (self._hold_off.deadline_ns, free_ns) if each is not None]
        return min(due, default=None)

    def assign(
        self,
        services: tuple[ServicePlan, ...],
        others: frozenset[str],
        now_ns: int,
        *,
        out_of_service: frozenset[str] = frozenset(),
        former: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Take over the plan: the services in the order in which they start, and who else may run them.

        What is planned no more is stopped. Taking a node out of `others` is how a person says that it is
        dead: its denial is forgotten unless it says it again, and it is given its leash's time once more.
        Those `out_of_service` are said to be off (rule 10). `former` are, for a service whose program is new
        here, the nodes that may run that by another name or beneath another VirtualIP, with the milliseconds
        within which their leashes end it.
        """
        self._believe(now_ns)
        self._questioning.assign(out_of_service, now_ns)
        for service in services:
            copy = self._copies.setdefault(service.id, Copy(now_ns))
            copy.amend(service, now_ns)
            for node in others:
                copy.suspect(node, ended_within_ms(service), now_ns)
            planned = self._plans.get(service.id)
            if planned is None or planned.workload.identity != service.workload.identity:
                for node, within_ms in (former or {}).get(service.id, {}).items():
                    copy.suspect(node, within_ms, now_ns).renew(now_ns)
            if planned is None:
                # it may have followed another VirtualIP until now, so this tenure's age says nothing
                copy.doubt(now_ns)
            for node, suspect in copy.suspects.items():
                if suspect.has_denied and node in self._others - others:
                    suspect.forgive(now_ns)
        self._plans = {each.id: each for each in services}
        # What waits for the address holds up nothing that it waits for.
        self._services = tuple(sorted(services, key=lambda each: not each.is_first))
        self._others = others
        self._copies = {
            key: copy for key, copy in self._copies.items() if key in self._plans or not copy.is_down
        }
        self._hold_off.assign(self._plans)

    def own(
        self, term: int, since_ns: int, now_ns: int, former: str | None = None, *, seen_ns: int = 0
    ) -> None:
        """The lease was won; `former` is the other node that had it before, as far as is known.

        Rule 1's time counts from `since_ns`, which may lie a little in the future. `seen_ns` is the former
        owner's last sign.
        """
        if self._term == term:
            return
        self.lose(now_ns)
        self._term = term
        if former is not None:
            self._questioning.seen(former, seen_ns)
        for key, service in self._plans.items():
            if former is not None:
                self._copies[key].suspect(former, ended_within_ms(service), since_ns)
            self._copies[key].doubt(since_ns)

    def leave(self, now_ns: int) -> None:  # noqa: ARG002 - every fact comes with its time
        """Come down in order while the lease still stands; done when `is_vacant`."""
        self._is_leaving = self._term is not None

    def stay(self, now_ns: int) -> None:  # noqa: ARG002 - every fact comes with its time
        """Stay after all: come up again."""
        self._is_leaving = False

    def lose(self, now_ns: int) -> None:
        """The lease is over: everything stops at once (rule 6)."""
        self._term = None
        self._is_leaving = self._is_bound = False
        self._questioning.end()
        self._is_draining = not self.is_vacant
        for copy in self._copies.values():
            if copy.is_up:
                copy.end("", now_ns)

    def bound(self, now_ns: int) -> None:  # noqa: ARG002 - every fact comes with its time
        """The addresses are bound: what starts behind them may."""
        self._is_bound = self._term is not None and self.may_bind

    def unbound(self, now_ns: int) -> None:  # noqa: ARG002 - every fact comes with its time
        """The addresses are gone, the lease may stand: what starts behind them waits; what runs goes on."""
        self._is_bound = False

    def confirm(self, node: str, service_ids: Collection[str], now_ns: int, *, term: int) -> None:
        """In its answer to a question of this term that node said that it runs none of these."""
        for copy in self._asked_about(service_ids, term):
            copy.suspect(node, 0, now_ns).clear()

    def wait(self, node: str, service_ids: Collection[str], now_ns: int, *, term: int) -> None:
        """It said that it runs these still: the time in which its leash ends them begins now."""
        for copy in self._asked_about(service_ids, term):
            copy.suspect(node, 0, now_ns).wait(now_ns)

    def deny(
        self,
        node: str,
        service_ids: Collection[str],
        now_ns: int,
        *,
        term: int,
        fencing: Mapping[str, int] | None = None,
    ) -> None:
        """It said that it could not stop these: no time frees it, only a later `confirm`.

        For those in `fencing` its leash restarts it, within so many milliseconds of its own (rule 9).
        """
        for service_id in service_ids:
            for copy in self._asked_about((service_id,), term):
                copy.suspect(node, 0, now_ns).deny((fencing or {}).get(service_id), now_ns)

    def heard(self, nodes: Collection[str], now_ns: int) -> None:
        """These nodes say something to this one, whatever it is (rule 10)."""
        self._questioning.heard(nodes, now_ns)

    def fail(self, message: str, now_ns: int) -> None:
        """The services' health checks say that what is active does not work."""
        if self._may_come_up and any(self._copies[key].state == "Active" for key in self._plans):
            self._blame(self._plans, f"health checks of the services fail: {message}", now_ns)

    def receive(self, outcome: Outcome, now_ns: int) -> None:
        """Take note of what became of a run."""
        copy = self._copies.get(outcome.service_id)
        if copy is None or copy.run != outcome.run or copy.is_down:
            return
        match outcome.kind:
            case "Started":
                if copy.state == "Starting":
                    copy.state = "Active"
            case "StartFailed":
                self._break(copy, _because("its start failed", outcome.message), now_ns)
            case "Died":
                self._break(copy, _because("it died", outcome.message), now_ns)
            case "StopFailed":
                why = _because("it could not be stopped", outcome.message)
                is_told = copy.state == "StopFailed" or (copy.is_up and self._may_come_up)
                self._break(copy, why, now_ns)
                copy.state, copy.message = "StopFailed", outcome.message
                service = self._plans.get(outcome.service_id, copy.service)
                if service is not None and not is_told:
                    self._faults.append(Fault(service, copy.term, why, is_stop=True))
            case "Stopped":
                self._break(copy, _because("it stopped without having been told to", outcome.message), now_ns)
                copy.state, copy.message = "Stopped", ""
                if outcome.service_id not in self._plans:
                    del self._copies[outcome.service_id]

    def step(self, now_ns: int, elsewhere: frozenset[str] = frozenset()) -> list[Deed]:
        """Return what to do now, in this order.

        `elsewhere` are services that this node runs still as another VirtualIP's, or may.
        """
        self._elsewhere = elsewhere
        self._is_draining = self._is_draining and not self.is_vacant
        self._expire(now_ns)
        if self._may_come_up:
            self._questioning.begin(now_ns)
        else:
            self._questioning.end()
        self._believe(now_ns)
        self._come_down(now_ns)
        if not self.may_bind:
            self._is_bound = False
        deeds: list[Deed] = [*self._stops(now_ns), *self._starts(now_ns)]
        self._hold_off.see(is_active=self.is_active, now_ns=now_ns)
        for key, copy in self._copies.items():
            copy.show(*self._shown(key, copy), now_ns)
        assert self._term is not None or not any(copy.is_up for copy in self._copies.values())
        return deeds

    def _expire(self, now_ns: int) -> None:
        for copy in self._copies.values():
            if copy.state == "Starting" and now_ns >= copy.due_ns:
                self._break(copy, "nothing was heard of its start", now_ns)
        self._hold_off.expire(now_ns)

    def _come_down(self, now_ns: int) -> None:
        """End what is planned no more or otherwise, and the next of all while the stack must come down."""
        for key, copy in self._copies.items():
            planned = self._plans.get(key)
            if copy.is_up and planned is None:
                copy.end("it is not to run here any more", now_ns)
            elif copy.is_up and planned is not None and not _is_same(copy.service, planned):
                copy.end("it is to run otherwise", now_ns)
        if not self._must_come_down:
            return
        for service in reversed(self._services):
            copy = self._copies[service.id]
            if copy.is_up:
                copy.end("", now_ns)
            if not copy.is_down:
                return

    def _stops(self, now_ns: int) -> list[Stop]:
        stops = []
        for key, copy in self._copies.items():
            if copy.state in ("Stopping", "StopFailed") and now_ns >= copy.due_ns:
                copy.due_ns = now_ns + copy.patience_ns
                stops.append(Stop(key, copy.run))
        return stops

    def _starts(self, now_ns: int) -> list[Start]:
        service = self._next
        free_ns = None if service is None else self._free_ns(service)
        if service is None or free_ns is None or now_ns < free_ns:
            return []
        assert self._term is not None
        start = Start(service, self._term, self._runs.next(now_ns))
        self._copies[service.id].begin(start, self._others, now_ns)
        return [start]

    @property
    def _next(self) -> ServicePlan | None:
        """The one that starts next, if nothing but other nodes stands in its way (rule 2)."""
        if not self._may_come_up or self._is_unfinished:
            return None
        for service in self._services:
            copy = self._copies[service.id]
            if copy.state != "Active":
                is_its_turn = copy.is_down and (service.is_first or self._is_bound)
                return service if is_its_turn and not self._is_here_still(service) else None
        return None

    def _is_here_still(self, service: ServicePlan) -> bool:
        """Whether this node may run its program by another name, or beneath another VirtualIP."""
        identity = service.workload.identity
        return service.id in self._elsewhere or any(
            each.workload.identity == identity for each in self.underway
        )

    @property
    def _is_unfinished(self) -> bool:
        """Whether something runs still that is to be over first: of an earlier tenure, or planned no more.

        What is planned no more may be the same program by another name.
        """
        return self._is_draining or any(
            key not in self._plans and not copy.is_down for key, copy in self._copies.items()
        )

    @property
    def _may_come_up(self) -> bool:
        return self._term is not None and not self._must_come_down

    @property
    def _must_come_down(self) -> bool:
        return self._is_leaving or self._hold_off.trouble is not None

    def _asked_about(self, service_ids: Iterable[str], term: int) -> list[Copy]:
        """Rule 4: what an answer is about, if it is one to a question of this tenure."""
        return [self._copies[each] for each in service_ids if each in self._plans and self._term == term]

    def _believe(self, now_ns: int) -> None:
        for copy in self._copies.values():
            self._questioning.believe(copy.uncleared, now_ns)

    def _free_ns(self, service: ServicePlan) -> int | None:
        """Rule 1: when no other node has a copy any more; None while only a node can say so."""
        uncleared = self._copies[service.id].uncleared if service.is_singleton else {}
        return self._questioning.free_ns(uncleared)

    def _break(self, copy: Copy, message: str, now_ns: int) -> None:
        """It is not up any more although it was to be; if it was not, that is no failure."""
        if not copy.is_up:
            return
        copy.end(message, now_ns)
        service = copy.service
        assert service is not None
        if self._may_come_up and service.id in self._plans:
            self._blame([service.id], f"{service.title}: {message}", now_ns)

    def _blame(self, service_ids: Iterable[str], message: str, now_ns: int) -> None:
        assert self._term is not None
        blamed = {each: self._plans[each].generation for each in service_ids}
        self._faults += [Fault(self._plans[each], self._term, message) for each in blamed]
        self._hold_off.blame(blamed, message, now_ns)

    def _shown(self, key: str, copy: Copy) -> tuple[State, str]:
        service = self._plans.get(key)
        if not copy.is_down or service is None:
            return copy.state, copy.message[:_MESSAGE_LENGTH]
        trouble = self._hold_off.trouble
        if trouble is not None:
            if key in trouble.blamed:
                return "Failed", f"{trouble.message[:_MESSAGE_LENGTH]}; {trouble.told}"
            return "Stopped", f"with another that failed: {trouble.message}"[:_MESSAGE_LENGTH]
        if self._may_come_up:
            return "Waiting", self._obstacle_to(service)[:_MESSAGE_LENGTH]
        return "Stopped", ""

    def _obstacle_to(self, service: ServicePlan) -> str:
        if self._is_unfinished or self._is_here_still(service):
            return "starts when what ran here before has stopped"
        for earlier in self._services:
            if earlier.id == service.id:
                break
            if self._copies[earlier.id].state != "Active":
                return f"starts when {earlier.name} is active"
        if not service.is_first and not self._is_bound:
            return "starts when the addresses are bound"
        return self._questioning.told(self._copies[service.id].uncleared)


def _is_same(running: ServicePlan | None, planned: ServicePlan) -> bool:
    return running is not None and running.workload == planned.workload


def _because(what: str, message: str) -> str:
    return f"{what}: {message}" if message else what


def _refusal(message: str) -> Refusal:
    return Refusal("ServiceFailed", message[:_MESSAGE_LENGTH])
