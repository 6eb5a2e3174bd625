"""The lease: how a candidate comes to hold an address set, keeps it, hands it over and gives it up.

A quorum lease without disks (after PaxosLease, Trencseni et al. 2012, and Gray & Cheriton 1989). For
each address set:

                    a majority calls it free,             a majority granted it
                    or its owner hands it over            under one term
        STANDBY ──────────────────────────▶ ACQUIRING ──────────────────▶ OWNER
           ▲                                   │ lost, or no answer         │ deadline passed, unfit,
           │          release is sent          ▼                            ▼ handed over, no longer planned
           └──────────────────────────────  CLOSING  ◀──────────────────────┘
                    (the shell says that the fence is closed and the address unbound)

The rules (numbers as in docs/protocol.md):

 1. the deadline is T after the clock reading *before* the request left, over the majority-th best answer;
 6. an answer counts only for this incarnation, only for rounds after the last release, and only under
    the term that is being asked for; answers are forgotten when the lease is given up;
 7. a release leaves only after the shell has said `closed`: the fence first, then the word;
10. a candidate tries only while a majority freshly calls the address free, `rank` × 30 ms after it heard
    so; losers give back at once and hold back for a random moment, which doubles from the third time on, each
    within two seconds of the one before: whoever is overburdened loses more by trying more often;
12. `expire` and `receive` first let go of what has lapsed, whatever the clock did meanwhile;
13. a planned move asks the target first (Prepare, Ready), then closes, releases and hands over. Where
    services run that follow the address set they are stopped in between, under the lease: whoever has it next
    knows that they have stopped. An owner whose lease has lapsed says `closed` only when they have;
16. releases are repeated until each witness has seen them or Tw has passed, ever more rarely; attempts that
    are given up in one turn are released together.

*A majority* is one of every quorum of the configuration in force: two while the witnesses change. A
lease is not touched by a change: its deadline stands, and what is renewed next needs the new majority.

*Alone* (`onQuorumLoss: Hold`, outside the promise): where the order allows it, a sound candidate that
hears no other witness goes on with its own vote. When it hears another owner again the higher term
stays. Where the API server is a witness a standby first gives it the time of two requests: it is asked
only once the other node is silent, and a slow answer is no silence.

*Sound* is who reaches its gateway. An owner that has not been sound for a while asks a sound standby to
take over, and stays where there is none: a dead gateway moves nothing, for by then every node has noticed.

Effects come out in the order in which they must be carried out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vipagent.effects import MILLISECOND, Close, Effect, Extend, LeaseTiming, Open, Order, Origin, Phase, Send
from vipagent.holding import Handing, Holding
from vipagent.messages import (
    Ack,
    Denied,
    Free,
    Granted,
    Handover,
    Key,
    Offer,
    Prepare,
    Ready,
    Released,
    Request,
    ToCandidate,
    Want,
)
from vipagent.releases import Releases
from vipapi.configuration import API_SERVER, is_majority
from vipapi.nodeplan import MOST_FLOOR, MOST_TERM

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet
    from random import Random

_RETRY_NS: Final = 12 * MILLISECOND
_ATTEMPTS: Final = 3
_RANK_DELAY_NS: Final = 30 * MILLISECOND
_HOLD_BACK_NS: Final = 40 * MILLISECOND
_HOLD_BACK_DOUBLINGS: Final = 3
_PATIENCE_DOUBLINGS: Final = 2
_HEARTBEAT_JITTER: Final = 0.1
_BEHIND_HEARTBEATS: Final = 1.3
_CATCH_UP: Final = 0.3
_FREE_IS_FRESH_HEARTBEATS: Final = 1.2
_AFTER_MOVE_HEARTBEATS: Final = 3
_OWNER_ALONE_HEARTBEATS: Final = 2.5
_API_SERVER_PATIENCE_NS: Final = 2000 * MILLISECOND
_GATEWAY_GRACE_NS: Final = 1000 * MILLISECOND
_ASK_AGAIN_NS: Final = 5000 * MILLISECOND
_NEVER_NS: Final = 1 << 63
_ASKS: Final = (Phase.ACQUIRING, Phase.OWNER)


class Lease:
    """The candidate's role of one keeper in one domain.

    It does no I/O: facts and `now_ns` (CLOCK_BOOTTIME) go in, effects come out. `now_ns` must have been
    read before the effects are carried out (rule 1).
    """

    def __init__(
        self,
        *,
        me: str,
        incarnation: int,
        quorums: tuple[frozenset[str], ...],
        timing: LeaseTiming,
        random: Random,
        now_ns: int,
    ) -> None:
        self._me = me
        self._incarnation = incarnation
        self._quorums = quorums
        self._witnesses = _union(quorums)
        self._asked = tuple(sorted(self._witnesses))
        self._timing = timing
        self._random = random
        self._round = 0
        self._term_floor = 0
        self._is_resigning = False
        self._is_sound = True
        self._unsound_since_ns = now_ns
        self._heard_ns = self._answered_ns = now_ns
        self._holdings: dict[Key, Holding] = {}
        self._unassigned: frozenset[Key] = frozenset()
        self._releases = Releases()
        self._restraint = 0.0
        self._asking: list[Key] = []
        self._next_heartbeat_ns = now_ns + int(random.random() * timing.heartbeat_ns)
        self._due_ns = _NEVER_NS

    def phase(self, key: Key) -> Phase:
        """Where the address set stands here; STANDBY if it is not ours to hold."""
        holding = self._holdings.get(key)
        return holding.phase if holding else Phase.STANDBY

    @property
    def standings(self) -> tuple[tuple[Phase, int], ...]:
        """Where every address set stands here, and under which term it was asked for last."""
        return tuple((holding.phase, holding.term) for holding in self._holdings.values())

    def term(self, key: Key) -> int:
        """The term under which it is held here, or was until it is closed; 0 if it is not."""
        holding = self._holdings.get(key)
        return holding.term if holding and holding.phase in (Phase.OWNER, Phase.CLOSING) else 0

    def standby(self, key: Key) -> str | None:
        """Who would take over what is held here, as a witness said last; None if nobody stands by."""
        holding = self._holdings.get(key)
        return holding.standby if holding and holding.phase is Phase.OWNER else None

    def margin_ns(self, now_ns: int) -> int | None:
        """Time left of the lease that ends first; None if nothing is held."""
        return min(
            (h.deadline_ns - now_ns for h in self._holdings.values() if h.phase is Phase.OWNER), default=None
        )

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is held or on its way, and every release has been seen: safe to stop."""
        return not self._releases and all(h.phase is Phase.STANDBY for h in self._holdings.values())

    @property
    def deadline_ns(self) -> int:
        """When `expire` has something to do next."""
        return min(self._next_heartbeat_ns, self._due_ns)

    def _wake_by(self, at_ns: int) -> None:
        """Keep `_due_ns` from being later than anything that is due; it may well be too early."""
        self._due_ns = min(self._due_ns, at_ns)

    def _earliest_due_ns(self) -> int:
        due = [self._releases.due_ns]
        for holding in self._holdings.values():
            if holding.phase is Phase.OWNER:
                due.append(holding.deadline_ns)
                if holding.handing is not None and not (holding.handing.is_ready and holding.is_occupied):
                    due.append(holding.handing.next_ask_ns)
            elif holding.phase is Phase.ACQUIRING:
                due.append(holding.retry_at_ns)
            elif holding.phase is Phase.STANDBY and holding.try_at_ns is not None:
                due.append(holding.try_at_ns)
        return min(due)

    @property
    def is_asking(self) -> bool:
        """Whether it holds anything, or is on its way to."""
        return any(h.phase in _ASKS for h in self._holdings.values())

    def leans_on(self, witness: str, since_ns: int) -> bool:
        """Whether something is held that without that witness no majority grants, of what was asked since."""

        def others(holding: Holding) -> set[str]:
            return {name for name, at_ns in holding.acks_ns.items() if at_ns > since_ns and name != witness}

        owned = (holding for holding in self._holdings.values() if holding.phase is Phase.OWNER)
        return any(not is_majority(others(holding), self._quorums) for holding in owned)

    @property
    def highest_term(self) -> int:
        """The highest term that it has heard of or proposed, whatever the address set."""
        return max(self._term_floor, *(max(h.term, h.known_term) for h in self._holdings.values()), 0)

    @property
    def polls(self) -> tuple[Key, ...]:
        """The address sets for which it stands by, ready to take over."""
        return tuple(
            key for key, h in self._holdings.items() if h.phase is Phase.STANDBY and self._is_ready(h)
        )

    def assign(self, orders: Mapping[Key, Order], now_ns: int) -> list[Effect]:
        """Take over the address sets for which this node is a candidate; others are given up."""
        effects: list[Effect] = []
        for key, holding in list(self._holdings.items()):
            if key in orders:
                continue
            holding.is_fit = False
            effects += self._give_up(key, holding, now_ns)
            if holding.phase is Phase.STANDBY:
                del self._holdings[key]
        for key, order in orders.items():
            holding = self._holdings.setdefault(key, Holding(order))
            holding.order = order
        self._unassigned = frozenset(self._holdings) - frozenset(orders)
        effects += self._steer(now_ns)
        return effects + self._tell_releases(now_ns)

    def configure(self, quorums: tuple[frozenset[str], ...], now_ns: int) -> list[Effect]:
        """Take over another set of witnesses, or two that must both agree, and ask them at once.

        An attempt under way is given up: what some witnesses have granted to it under a term that others
        did not see must not become a majority by there being fewer of them.
        """
        for key, holding in self._holdings.items():
            if holding.phase is Phase.ACQUIRING:
                self._give_up(key, holding, now_ns)
        effects = self._tell_releases(now_ns)
        self._quorums = quorums
        self._witnesses = _union(quorums)
        self._asked = tuple(sorted(self._witnesses))
        self.hurry(now_ns)
        return effects

    def hurry(self, now_ns: int) -> None:
        """Somebody else may answer now: the next heartbeat is due at once."""
        self._next_heartbeat_ns = now_ns

    def hear(self, node: str, now_ns: int, *, is_answer: bool) -> None:
        """Another keeper, or the API server, has said something; an answer comes only from who votes."""
        if node in self._witnesses and node != self._me:
            self._heard_ns = max(now_ns, self._heard_ns)
            if is_answer:
                self._answered_ns = max(now_ns, self._answered_ns)

    def is_leaving(self, key: Key) -> bool:
        """Whether what runs here for the address set is to be stopped, so that another node may own it."""
        holding = self._holdings.get(key)
        if holding is None or holding.phase is not Phase.OWNER:
            return False
        return not self._is_ready(holding) or (holding.handing is not None and holding.handing.is_ready)

    def judge(
        self,
        fit: frozenset[Key],
        now_ns: int,
        *,
        is_sound: bool = True,
        occupied: frozenset[Key] = frozenset(),
    ) -> list[Effect]:
        """Take over which address sets this node is fit to hold, and whether it reaches its gateway.

        Those that are `occupied` have services running here.
        """
        if self._is_sound and not is_sound:
            self._unsound_since_ns = now_ns
        self._is_sound = is_sound
        for key, holding in self._holdings.items():
            holding.is_fit = key in fit
            holding.is_occupied = key in occupied
        effects = self._steer(now_ns)
        return effects + self._tell_releases(now_ns)

    def resign(self, now_ns: int) -> list[Effect]:
        """Hand everything over and take nothing more, for a shutdown; done when `is_at_rest`."""
        self._is_resigning = True
        effects = self._steer(now_ns)
        return effects + self._tell_releases(now_ns)

    def closed(self, key: Key, now_ns: int) -> list[Effect]:
        """The shell says that the fence of `key` is closed and its addresses are unbound."""
        holding = self._holdings[key]
        assert holding.phase is Phase.CLOSING, holding.phase
        holding.phase = Phase.STANDBY
        self._release(key, holding, now_ns)
        effects = self._tell_releases(now_ns)
        if holding.successor is not None:
            effects.append(Send(holding.successor, Handover(key, holding.term)))
            holding.successor = None
        if key in self._unassigned:
            del self._holdings[key]
        return effects

    def receive(self, sender: str, message: ToCandidate, now_ns: int) -> list[Effect]:
        """Take note of what another keeper says."""
        effects = self._lapse(now_ns)
        match message:
            case Ack():
                effects += self._on_ack(sender, message, now_ns)
            case Offer():
                for free in message.free:
                    self._on_free(sender, free, now_ns)
            case Handover():
                self._on_handover(sender, message, now_ns)
            case Prepare():
                holding = self._holdings.get(message.key)
                if holding is not None and self._is_ready_for(holding, message):
                    effects.append(Send(sender, Ready(message.incarnation, message.key)))
            case Ready():
                effects += self._on_ready(sender, message, now_ns)
            case Released():
                if message.incarnation == self._incarnation:
                    self._releases.seen(sender, message.keys, message.round)
        self._try_due(now_ns)
        effects += self._tell_releases(now_ns)
        return effects + self._ask_witnesses(now_ns)

    def expire(self, now_ns: int) -> list[Effect]:
        """Do what is due: let go, try, retry, repeat, move, renew."""
        if now_ns < self.deadline_ns:
            return []
        effects = self._lapse(now_ns)
        self._try_due(now_ns)
        effects += self._retry_due(now_ns)
        effects += self._steer(now_ns)
        effects += self._tell_releases(now_ns)
        if self._next_heartbeat_ns <= now_ns:
            effects += self._heartbeat(now_ns)
        effects += self._ask_witnesses(now_ns)
        self._due_ns = self._earliest_due_ns()
        return effects

    def _lapse(self, now_ns: int) -> list[Effect]:
        """Rule 12: whatever ran out is given up before anything else is looked at."""
        effects: list[Effect] = []
        if now_ns < self._due_ns:
            return effects
        for key, holding in self._holdings.items():
            if holding.phase is Phase.OWNER and holding.deadline_ns <= now_ns:
                effects += self._give_up(key, holding, now_ns)
        return effects

    def _give_up(self, key: Key, holding: Holding, now_ns: int, successor: str | None = None) -> list[Effect]:
        if holding.phase is Phase.OWNER:
            holding.phase = Phase.CLOSING
            holding.successor = successor
            holding.handing = None
            return [Close(key)]
        if holding.phase is Phase.ACQUIRING:
            holding.phase = Phase.STANDBY
            self._release(key, holding, now_ns)
        return []

    def _release(self, key: Key, holding: Holding, now_ns: int) -> None:
        """Rules 6, 7 and 16: from here on earlier answers are void, and the witnesses are to be told.

        What is released in one breath has one round, and holds back for the same moment, to be asked for
        in one request again.
        """
        if not self._releases.has_unsent:
            self._round += 1
            self._restraint = self._random.random()
        holding.min_round = self._round
        holding.known_term = max(holding.known_term, holding.term)
        holding.acks_ns.clear()
        holding.free.clear()
        holding.denied_by.clear()
        holding.try_at_ns = None
        if holding.successor is not None:
            holding.not_before_ns = now_ns + _AFTER_MOVE_HEARTBEATS * self._timing.heartbeat_ns
        else:
            holding.lose(now_ns)
            hold_back_ns = _HOLD_BACK_NS << min(holding.excess(now_ns), _HOLD_BACK_DOUBLINGS)
            holding.not_before_ns = now_ns + int(self._restraint * hold_back_ns)
        self._releases.add(
            key,
            self._round,
            successor=holding.successor,
            witnesses=self._witnesses,
            now_ns=now_ns,
            until_ns=now_ns + self._timing.grant_ns,
        )

    def _tell_releases(self, now_ns: int) -> list[Effect]:
        effects = self._releases.due(now_ns)
        self._wake_by(self._releases.due_ns)
        return effects

    def _steer(self, now_ns: int) -> list[Effect]:
        """Move what should be elsewhere: unfit, resigning, or ordered to another node at this term."""
        effects: list[Effect] = []
        for key, holding in self._holdings.items():
            if holding.phase is Phase.ACQUIRING and not self._is_ready(holding):
                effects += self._give_up(key, holding, now_ns)
            if holding.phase is not Phase.OWNER:
                continue
            must_leave = not self._is_ready(holding)
            if must_leave and holding.is_occupied:
                holding.handing = None
                continue
            target = holding.standby if must_leave else self._better_elsewhere(holding, now_ns)
            if target is None:
                holding.handing = None
                if must_leave:
                    effects += self._give_up(key, holding, now_ns)
                continue
            handing = holding.handing
            if handing is None or (handing.target, handing.must_leave) != (target, must_leave):
                handing = holding.handing = Handing(target, must_leave)
            effects += self._ask(key, holding, handing, now_ns)
        return effects

    def _ask(self, key: Key, holding: Holding, handing: Handing, now_ns: int) -> list[Effect]:
        if now_ns < handing.next_ask_ns or (handing.is_ready and holding.is_occupied):
            return []
        if handing.asks >= _ATTEMPTS:
            if handing.must_leave:
                return self._give_up(key, holding, now_ns)
            if handing.is_ready:
                # It changed its mind while services were stopped for it: they start again.
                again_ns = now_ns + _ASK_AGAIN_NS
                holding.handing = Handing(handing.target, must_leave=False, next_ask_ns=again_ns)
                return []
        handing.asks += 1
        handing.next_ask_ns = now_ns + (_RETRY_NS if handing.must_leave else self._timing.heartbeat_ns)
        self._wake_by(handing.next_ask_ns)
        return [Send(handing.target, Prepare(self._incarnation, key, self._is_sound))]

    def _better_elsewhere(self, holding: Holding, now_ns: int) -> str | None:
        """Whom to ask to take over although this node could stay."""
        order = holding.order
        if order.owner != self._me and order.based_on_term == holding.term:
            return order.owner
        is_without = not self._is_sound and now_ns - self._unsound_since_ns >= _GATEWAY_GRACE_NS
        return holding.standby if is_without and holding.is_standby_sound else None

    def _is_ready_for(self, holding: Holding, asked: Prepare) -> bool:
        is_no_worse = self._is_sound or not asked.is_sound
        return holding.phase is Phase.STANDBY and self._is_ready(holding) and is_no_worse

    def _is_ready(self, holding: Holding) -> bool:
        return holding.is_fit and not self._is_resigning

    def _on_ready(self, sender: str, message: Ready, now_ns: int) -> list[Effect]:
        holding = self._holdings.get(message.key)
        if holding is None or holding.phase is not Phase.OWNER or message.incarnation != self._incarnation:
            return []
        if holding.handing is None or holding.handing.target != sender:
            return []
        if holding.is_occupied:
            holding.handing.is_ready, holding.handing.asks = True, 0
            return []
        return self._give_up(message.key, holding, now_ns, successor=sender)

    def _on_free(self, witness: str, free: Free, now_ns: int) -> None:
        """Rule 10: a majority must call it free; the worst of their ranks says how long to wait."""
        holding = self._holdings.get(free.key)
        if holding is None or witness not in self._witnesses or holding.phase is not Phase.STANDBY:
            return
        holding.free[witness] = (now_ns, free)
        fresh = self._freshly_free(holding, now_ns)
        if not fresh:
            return
        try_at_ns = now_ns + max(said.rank for said in fresh) * _RANK_DELAY_NS
        if holding.try_at_ns is None or try_at_ns < holding.try_at_ns:
            holding.try_at_ns = try_at_ns
            self._wake_by(try_at_ns)
        for said in fresh:
            holding.learn(said.term)
        holding.origin = self._origin(fresh, now_ns)

    def _freshly_free(self, holding: Holding, now_ns: int) -> list[Free]:
        """Return what was said by those who freshly call it free, if they are a majority."""
        since_ns = now_ns - int(_FREE_IS_FRESH_HEARTBEATS * self._timing.heartbeat_ns)
        fresh = {witness: said for witness, (at_ns, said) in holding.free.items() if at_ns > since_ns}
        is_enough = is_majority(fresh.keys(), self._quorums) or (
            self._me in fresh and self._may_go_alone(holding, now_ns)
        )
        return list(fresh.values()) if is_enough else []

    def _may_go_alone(self, holding: Holding, now_ns: int) -> bool:
        """Whether the order lets a candidate that heard nobody for long enough go on with its own vote.

        Who is alone already stays so until somebody votes: a witness that has just started does not yet.
        """
        since_ns = self._answered_ns if holding.is_alone else self._heard_ns
        is_silence = now_ns - since_ns > self._alone_after_ns(holding)
        return holding.order.is_held_alone and self._is_sound and is_silence

    def _origin(self, fresh: list[Free], now_ns: int) -> Origin:
        told = [said for said in fresh if said.former is not None]
        if not told:
            return Origin("Elected", None, now_ns)
        newest = min(told, key=lambda said: said.lapsed_ns)
        if newest.was_released:
            return Origin("OwnerReleased", newest.former, now_ns - newest.lapsed_ns)
        return Origin("LeaseExpired", newest.former, now_ns - newest.lapsed_ns - self._timing.grant_ns)

    def _on_handover(self, sender: str, message: Handover, now_ns: int) -> None:
        holding = self._holdings.get(message.key)
        if holding is None or holding.phase is not Phase.STANDBY or not self._is_ready(holding):
            return
        holding.learn(message.term)
        holding.origin = Origin("Moved", sender, now_ns)
        self._try(message.key, holding, now_ns)

    def _try_due(self, now_ns: int) -> None:
        if now_ns < self._due_ns:
            return
        for key, holding in self._holdings.items():
            if holding.phase is not Phase.STANDBY or holding.try_at_ns is None or holding.try_at_ns > now_ns:
                continue
            if now_ns < holding.not_before_ns:
                holding.try_at_ns = holding.not_before_ns
                self._wake_by(holding.not_before_ns)
                continue
            holding.try_at_ns = None
            # somebody better may have taken it while this one waited its turn (rule 15)
            if self._freshly_free(holding, now_ns) and self._is_ready(holding):
                self._try(key, holding, now_ns)

    def _try(self, key: Key, holding: Holding, now_ns: int) -> None:
        self._releases.forget(key)
        holding.phase = Phase.ACQUIRING
        holding.try_at_ns = None
        holding.attempts = 0
        holding.min_round = self._round
        holding.free.clear()
        self._propose(holding, holding.known_term + 1)
        self._attempt(key, holding, now_ns)

    def _propose(self, holding: Holding, term: int) -> None:
        """Ask under this term from now on; answers under another one do not count (rule 6)."""
        holding.term = term
        holding.acks_ns.clear()
        holding.denied_by.clear()
        holding.deadline_ns = 0

    def _attempt(self, key: Key, holding: Holding, now_ns: int) -> None:
        """Ask, with the next request that leaves; each attempt has twice the patience of the one before.

        So has the first one where several were lost in a row: answers that come too late are of no use,
        however many, and to ask for more of them keeps everybody busy.
        """
        doublings = holding.attempts + min(holding.excess(now_ns), _PATIENCE_DOUBLINGS)
        holding.retry_at_ns = now_ns + (_RETRY_NS << doublings)
        holding.attempts += 1
        self._wake_by(holding.retry_at_ns)
        self._asking.append(key)

    def _retry_due(self, now_ns: int) -> list[Effect]:
        effects: list[Effect] = []
        for key, holding in self._holdings.items():
            if holding.phase is not Phase.ACQUIRING or holding.retry_at_ns > now_ns:
                continue
            if holding.attempts >= _ATTEMPTS:
                effects += self._give_up(key, holding, now_ns)
            else:
                self._attempt(key, holding, now_ns)
        return effects

    def _heartbeat(self, now_ns: int) -> list[Effect]:
        """Renew everything at once; an owner that is behind renews three times as fast."""
        timing = self._timing
        behind_ns = timing.lease_ns - int(_BEHIND_HEARTBEATS * timing.heartbeat_ns)
        margin_ns = self.margin_ns(now_ns)
        pace = _CATCH_UP if margin_ns is not None and margin_ns < behind_ns else 1.0
        jitter = 1 - _HEARTBEAT_JITTER + 2 * _HEARTBEAT_JITTER * self._random.random()
        self._next_heartbeat_ns = now_ns + int(timing.heartbeat_ns * jitter * pace)
        self._asking.clear()
        return self._request([key for key, h in self._holdings.items() if h.phase in _ASKS], now_ns)

    def _ask_witnesses(self, now_ns: int) -> list[Effect]:
        """One request for every address set that is to be asked for now."""
        if not self._asking:
            return []
        asking, self._asking = self._asking, []
        still = [key for key in asking if self.phase(key) is Phase.ACQUIRING]
        return self._request(still, now_ns) if still else []

    def _request(self, keys: list[Key], now_ns: int) -> list[Effect]:
        self._round += 1
        wants = []
        for key in keys:
            holding = self._holdings[key]
            wants.append(Want(key, holding.term, holding.phase is Phase.OWNER))
        request = Request(
            self._round, now_ns, self._term_floor, self._is_sound, wants=tuple(wants), polls=self.polls
        )
        return [Send(witness, request) for witness in self._asked]

    def _on_ack(self, witness: str, ack: Ack, now_ns: int) -> list[Effect]:
        if ack.incarnation != self._incarnation or witness not in self._witnesses:
            return []
        if not self.has_asked(ack, now_ns):
            return []
        if ack.term_floor <= MOST_FLOOR:
            self._term_floor = max(self._term_floor, ack.term_floor)
        effects: list[Effect] = []
        for granted in ack.granted:
            effects += self._on_granted(witness, ack, granted, now_ns)
        for denied in ack.denied:
            effects += self._on_denied(witness, ack, denied, now_ns)
        for free in ack.free:
            self._on_free(witness, free, now_ns)
        return effects

    def has_asked(self, ack: Ack, now_ns: int) -> bool:
        """Whether an answer may be one to a request of this node's.

        A deadline made of an answer to what was never asked would outlast the grants (rule 1).
        """
        return ack.incarnation != self._incarnation or (ack.round <= self._round and ack.sent_at_ns <= now_ns)

    def _on_granted(self, witness: str, ack: Ack, granted: Granted, now_ns: int) -> list[Effect]:
        holding = self._holdings.get(granted.key)
        if holding is None or holding.phase not in (Phase.ACQUIRING, Phase.OWNER):
            return []
        if ack.round <= holding.min_round or granted.term != holding.term:
            return []
        holding.denied_by.discard(witness)
        holding.standby, holding.is_standby_sound = granted.standby, granted.is_standby_sound
        holding.acks_ns[witness] = max(ack.sent_at_ns, holding.acks_ns.get(witness, 0))
        quorum_ns = deadline_ns = self._quorum_deadline_ns(holding)
        if self._may_go_alone(holding, now_ns):
            deadline_ns = max(quorum_ns, holding.acks_ns.get(self._me, 0) + self._timing.lease_ns)
        if deadline_ns <= holding.deadline_ns:
            return []
        holding.deadline_ns, holding.is_alone = deadline_ns, deadline_ns > quorum_ns
        if holding.phase is Phase.OWNER:
            return [Extend(granted.key, deadline_ns)]
        if deadline_ns - now_ns <= self._timing.lease_ns // 4:
            return []  # too little is left of it to be worth opening
        holding.phase = Phase.OWNER
        self._wake_by(deadline_ns)
        assert holding.origin is not None
        return [Open(granted.key, deadline_ns, holding.term, holding.origin)]

    def _alone_after_ns(self, holding: Holding) -> int:
        """An owner that hears nobody goes on before its lease ends; a standby waits for the owner's end.

        The API server is asked by the standby only then, over a connection that may have to be made first.
        """
        if holding.phase is Phase.OWNER:
            return int(_OWNER_ALONE_HEARTBEATS * self._timing.heartbeat_ns)
        return self._timing.grant_ns + (_API_SERVER_PATIENCE_NS if API_SERVER in self._witnesses else 0)

    def _on_denied(self, witness: str, ack: Ack, denied: Denied, now_ns: int) -> list[Effect]:
        holding = self._holdings.get(denied.key)
        if holding is None or holding.phase not in _ASKS or ack.round <= holding.min_round:
            return []
        if holding.phase is Phase.OWNER:
            is_beaten = (denied.holder_term, denied.holder or "") > (holding.term, self._me)
            return self._give_up(denied.key, holding, now_ns) if holding.is_alone and is_beaten else []
        holding.learn(denied.term)
        if denied.holder is None:
            # else it was about an earlier proposal of this attempt, or nothing can be proposed above it
            if holding.term <= denied.term < MOST_TERM:
                self._propose(holding, denied.term + 1)
                self._attempt(denied.key, holding, now_ns)
            return []
        origin = holding.origin
        if origin is not None and origin.reason == "Moved" and denied.holder == origin.former:
            return []  # the hand-over overtook its release, which is on its way to this witness
        holding.denied_by.add(witness)
        if is_majority(self._witnesses - holding.denied_by, self._quorums):
            return []
        return self._give_up(denied.key, holding, now_ns)  # cannot win this round: give back what we got

    def _quorum_deadline_ns(self, holding: Holding) -> int:
        """Rule 1: T after the majority-th newest of the requests that were granted, over every quorum.

        0 without a majority.
        """
        return min(self._deadline_over_ns(quorum, holding.acks_ns) for quorum in self._quorums)

    def _deadline_over_ns(self, quorum: frozenset[str], acks_ns: Mapping[str, int]) -> int:
        majority = len(quorum) // 2 + 1
        sent_at_ns = sorted((at_ns for witness, at_ns in acks_ns.items() if witness in quorum), reverse=True)
        return sent_at_ns[majority - 1] + self._timing.lease_ns if len(sent_at_ns) >= majority else 0


def _union(quorums: tuple[AbstractSet[str], ...]) -> frozenset[str]:
    return frozenset().union(*quorums)
