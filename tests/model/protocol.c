/* Every state that the lease protocol can get into, within bounds, and a search for one that is wrong.
 *
 *     cc -std=c11 -O2 -o protocol protocol.c
 *     ./protocol lease                          every state of a domain whose witnesses stay the same
 *     ./protocol change                         the same while its witnesses change
 *     ./protocol lease --without silence        with that rule broken: prints how it goes wrong
 *     ./protocol                                lists rules and options
 *
 * WHAT IS MODELLED. The rules of docs/protocol.md, by their numbers, as node-agent/vipagent/lease.py and
 * witness.py carry them out; one address, two candidates c1 and c2, witnesses w1, w2, ... Everything that may
 * happen is a step (the functions under "Steps"); from each state every possible step is taken, breadth first,
 * until nothing new turns up, so the first wrong state has a shortest way to it. States are kept whole, not
 * as hashes: "no violation" is an exhaustive statement about the model.
 *
 * What is wrong:
 *   - Safety: two fences are open in one instant.
 *   - Order: a fence opens, or is extended, under a term that is not above all terms opened before it by others.
 *
 * TIME. True time goes in ticks, all timers are integers that say how many ticks are left, and there is no
 * end of time. Two forms:
 *   - without --slow each clock shows each tick, and T = Tw: an owner's clock always at its slowest and a
 *     witness's always at its fastest, so that T of the one is Tw of the other, as rule 3's arithmetic allows.
 *   - with --slow 3 a candidate's clock may leave out any tick, but at most one in three: rates that differ
 *     by rho = 20 %, (1 + rho)/(1 - rho) = 3/2, with T = 2 ticks of the owner's clock and Tw = 3 of the witness's.
 * A witness's clock that is slower only keeps others out for longer, which lost messages do as well; a faster
 * clock of an owner only closes its own fence sooner, as a voluntary close does.
 *
 * MESSAGES. A request or a release goes to all witnesses and stays deliverable, to each of them and any
 * number of times; nothing need ever be delivered. So loss, duplication, reordering, delay and one-way
 * partitions are all there. So it is with acks. A refusal is a message that is lost: it tells the candidate
 * only which term to propose, and here a candidate may propose any above its last. A request is dropped when its
 * ack can no longer count (its sender's clock has passed sent_at + T, or the sender has given up what it asked
 * for, rule 6): a grant of it backs no lease, all it could do is to keep others out. `--keep` keeps them.
 *
 * PROCESSES. Between deciding and acting on the kernel's fence a candidate may stall for any time (`act`).
 * It may be killed in any state, as often as you like: answers and timers are forgotten, the kernel's fence
 * runs on by itself until the start closes it (rule 8). A whole machine that dies is no more than that. A
 * witness that is killed forgets its grants and starts at once, silent. A witness that merely stalls is one
 * whose messages are late. A candidate may try, renew, give up or close whenever it is free to: what makes
 * it do so (rules 10 to 15) only takes some of these steps away.
 *
 * A CHANGE OF WITNESSES (`change`): the epochs 0 {S}, 1 {S and S'} joining, 2 {S and S'} sealing, 3 {S'},
 * written one after the other by one writer, heard of by each keeper at any time after, if ever. A witness
 * at epoch n serves requests of n-1, n and n+1. So at epoch 1 it serves all that it serves at 0, and more; at 2
 * all that it serves at 3, and more; and a candidate at 1 and one at 2 ask the same witnesses and are served by
 * the same. Therefore witnesses go from 1 to 2 only, candidates from 0 to 2 to 3, and epoch 2 is written from
 * the start; `--whole` goes through every epoch.
 *
 * BOUNDS. `--rounds`: how many messages of each candidate may be in flight (a dead one, which can have no more
 * effect, makes room, so the rounds of a history are not bounded). `--terms`: the highest term; so the number
 * of owners in succession is. `--kills`, `--restarts`: how often candidates and witnesses are killed, if bounded.
 *
 * SYMMETRY. Witnesses of the same set are interchangeable, and so are candidates with the same bounds: states
 * that differ by their names only are one.
 *
 * NOT MODELLED: several addresses, the API server's vote, two writers of epochs (rule 14b), hand-overs (13: a
 * close here and a try there), one change of witnesses after another, liveness.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { UNBOUNDED = 100 };
enum { CANDIDATES = 2, MOST_WITNESSES = 6, MOST_ROUNDS = 4, MOST_WORDS = 8 };
enum { STANDBY, ACQUIRING, OWNER, CLOSING };
enum { NOTHING, OPEN, EXTEND };                  /* what a candidate is about to tell its kernel */
enum { DEAD, ACQUIRE, HELD, RELEASE };           /* kinds of rounds */
enum { NOBODY = CANDIDATES };
enum { JOINING = 1, SEALING = 2, CHANGED = 3 };  /* epochs; 0 is the first, with {S} alone */

typedef struct {
    uint8_t kind, term, epoch;
    uint8_t age; /* ticks of the sender's clock since it read it, before it sent; no more than T */
} Round;

typedef struct {
    uint8_t phase, term, epoch;
    uint8_t newest;   /* its newest round; rounds are 1 .. newest */
    uint8_t started;  /* its newest round when this incarnation started */
    uint8_t voided;   /* its newest round at the last release or new attempt: answers up to here are void */
    uint8_t act;      /* the process has decided on this and not yet told the kernel */
    uint8_t act_left; /* the deadline that it decided on, as ticks of its clock from now */
    uint8_t deadline; /* the lease's, as ticks left */
    uint8_t fence;    /* the kernel's deadline, as ticks left; 0 is closed */
    uint8_t slow;     /* ticks until its clock may leave one out again */
    Round rounds[MOST_ROUNDS + 1];
} Candidate;

typedef struct {
    uint8_t holder, left, round;       /* the grant: whose, ticks left, of which round */
    uint8_t term;                      /* its term, as long as its holder goes on asking for that; else 0 */
    uint8_t known;                     /* the highest term granted or told of; on disk */
    uint8_t silent;                    /* ticks left of the silence after a restart */
    uint8_t newest[CANDIDATES];        /* the newest round of each candidate that counted here */
    uint8_t acks[CANDIDATES];          /* bit r: the ack of round r is on its way */
    uint8_t heard[CANDIDATES];         /* what the candidate has in hand from here: ticks until sent_at + T */
    uint8_t epoch;                     /* on disk */
    uint8_t undrained;                 /* ticks until its grants from before the seal are over; Tw + 1: not sealed */
    uint8_t floor;                     /* the highest term it knew when it was sealed */
} Witness;

typedef struct {
    Witness witnesses[MOST_WITNESSES];
    Candidate candidates[CANDIDATES];
    uint8_t opened;          /* the highest term that ever was open */
    uint8_t is_out_of_order; /* something was opened or extended under a term that was too low */
    uint8_t written;         /* the newest epoch that the controller wrote */
    uint8_t kills, restarts; /* how many candidates and witnesses may still be killed, if that is bounded */
} State;

/* The bounds, and what is being asked for. */
static bool is_change, is_whole, keeps_all;
static unsigned rounds_in_flight[CANDIDATES] = {2, 1}, most_terms = 2, lease = 2, grant = 2, slow_every = 0;
static unsigned set_size = 3, replaced = 1, witnesses = 3;
static unsigned most_kills = UNBOUNDED, most_restarts = UNBOUNDED;
static uint64_t most_states = 400000000;

/* Rules that can be broken. */
typedef enum {
    R1_DEADLINE, R2_GRANT_DATE, R3_EXCLUSIVE, R3_RATES, R4_MAJORITY, R4_ASKS_FORMER, R4_ASKS_WANTED, R4_SEAL, R4_DRAIN,
    R4_FLOORS, R4_JOINED, R4_ATTEMPT, R5_SILENCE, R5_LENGTH, R6_INCARNATION, R6_ROUND, R6_TERM, R6_FORGET, R7_CLOSE_FIRST, R7_OLD_RELEASE,
    R7_OLD_REQUEST, R8_CLOSED_START, R9_DISK, R12_LAPSE, R14A_TERMS, R14A_MEMORY, FENCE, FENCE_ABSOLUTE,
    MACHINE, RULES
} Rule;

static const struct {
    const char *name, *number, *broken;
    const char *models;
} rules[RULES] = {
    [R1_DEADLINE] = {"deadline", "1", "the deadline is T after the ack came in", "lease"},
    [R2_GRANT_DATE] = {"grant-date", "2", "a grant is dated from a clock read one tick before the request was in hand", "lease"},
    [R3_EXCLUSIVE] = {"exclusive", "3", "a witness grants what another holds", "lease"},
    [R3_RATES] = {"rates", "3", "Tw = T, as if all clocks had one rate", "lease"},
    [R4_MAJORITY] = {"majority", "4", "one witness less than a majority will do", "lease"},
    [R4_ASKS_FORMER] = {"former-quorum", "4", "during the change only S' is asked", "change"},
    [R4_ASKS_WANTED] = {"wanted-quorum", "4", "during the change only S is asked", "change"},
    [R4_SEAL] = {"seal", "4", "a witness serves requests of every epoch", "change"},
    [R4_DRAIN] = {"drain", "4", "the last epoch is written before the grants of S have drained", "change"},
    [R4_FLOORS] = {"floors", "4", "the last epoch is written before S' knows the terms of S", "change"},
    [R4_JOINED] = {"joined", "4", "the sealing epoch is written before majorities are at the joining one", "change"},
    [R4_ATTEMPT] = {"attempt", "4", "an attempt goes on when its candidate takes an epoch over", "change"},
    [R5_SILENCE] = {"silence", "5", "a restarted witness grants at once", "lease"},
    [R5_LENGTH] = {"silence-length", "5", "a restarted witness is silent one tick less than Tw", "lease"},
    [R6_INCARNATION] = {"incarnation", "6", "acks to an earlier incarnation count", "lease"},
    [R6_ROUND] = {"round", "6", "acks of rounds before the last release count", "lease"},
    [R6_TERM] = {"ack-term", "6", "acks under another term count", "lease"},
    [R6_FORGET] = {"forget", "6", "acks in hand are not forgotten when the attempt or lease is given up", "lease"},
    [R7_CLOSE_FIRST] = {"close-first", "7", "the release is sent before the fence is closed", "lease"},
    [R7_OLD_RELEASE] = {"old-release", "7", "a release older than the granted request counts", "lease"},
    [R7_OLD_REQUEST] = {"old-request", "7", "a request older than a release counts", "lease"},
    [R8_CLOSED_START] = {"closed-start", "8", "a start leaves the fence as it was", "lease"},
    [R9_DISK] = {"disk", "9", "the sealing epoch is not on disk: a crash undoes it", "change"},
    [R12_LAPSE] = {"lapse", "12", "a lease that ran out goes on when a late ack comes in", "lease"},
    [R14A_TERMS] = {"terms", "14a", "a witness grants under any term", "lease"},
    [R14A_MEMORY] = {"term-memory", "14a", "a restarted witness has forgotten the terms", "lease"},
    [FENCE] = {"fence", "fence", "the kernel has no deadline, the process closes", "lease"},
    [FENCE_ABSOLUTE] = {"absolute", "fence", "the kernel counts the time left from when it is told", "lease"},
    [MACHINE] = {"machine", "machine", "c2 is a clone with c1's name, and is taken for c1 restarted", "lease"},
};

static bool is_broken[RULES];

/* ---- Sets of witnesses. S comes first, then what S and S' share, then the rest of S'. ---- */

static unsigned former(void) { return (1u << set_size) - 1; }
static unsigned wanted(void) { return is_change ? former() << replaced : former(); }

static unsigned members(unsigned set) {
    unsigned count = 0;
    for (; set; set &= set - 1) count++;
    return count;
}

static unsigned majority_of(unsigned set) { return members(set) / 2 + 1; }

static bool may_swap(unsigned w) { /* whether w and w + 1 are in the same sets */
    unsigned one = former() >> w & 1, other = wanted() >> w & 1;
    return one == (former() >> (w + 1) & 1) && other == (wanted() >> (w + 1) & 1);
}

/* Ticks until the majority-th best of what the candidate has in hand from that set is T old (rule 1). */
static unsigned backed_by(const State *s, unsigned c, unsigned set) {
    unsigned needed = majority_of(set) - is_broken[R4_MAJORITY];
    for (unsigned ticks = lease; ticks > 0; ticks--) {
        unsigned count = 0;
        for (unsigned w = 0; w < witnesses; w++)
            count += (set >> w & 1) && s->witnesses[w].heard[c] >= ticks;
        if (count >= needed) return ticks;
    }
    return 0;
}

/* The same for the candidate's configuration: a majority of every set that is in force (rule 4). */
static unsigned backed(const State *s, unsigned c) {
    unsigned epoch = s->candidates[c].epoch;
    unsigned by_former = backed_by(s, c, former()), by_wanted = backed_by(s, c, wanted());
    bool is_joint = epoch == JOINING || epoch == SEALING;
    if (epoch == 0 || (is_joint && is_broken[R4_ASKS_WANTED])) return by_former;
    if (epoch == CHANGED || (is_joint && is_broken[R4_ASKS_FORMER])) return by_wanted;
    return by_former < by_wanted ? by_former : by_wanted;
}

/* ---- Steps ---- */

typedef enum {
    TICK, TRY, PROPOSE, ASK_AGAIN, RENEW, GIVE_UP, CLOSE, RELEASE_FIRST, CLOSE_AFTER, TAKE_ACK, TELL_KERNEL, KILL,
    GRANT, TAKE_RELEASE, RESTART, WRITE, LEARN, ADOPT, STEPS
} Kind;

static const char *const counted[STEPS] = {
    [TICK] = "ticks", [TRY] = "tries", [PROPOSE] = "new proposals", [ASK_AGAIN] = "repeated requests", [RENEW] = "renewals",
    [GIVE_UP] = "attempts given up", [CLOSE] = "closes", [RELEASE_FIRST] = "early releases", [CLOSE_AFTER] = "late closes",
    [TAKE_ACK] = "acks", [TELL_KERNEL] = "fence orders", [KILL] = "restarts of candidates",
    [GRANT] = "grants", [TAKE_RELEASE] = "releases taken", [RESTART] = "restarts of witnesses", [WRITE] = "epochs written",
    [LEARN] = "epochs taken over by candidates", [ADOPT] = "epochs taken over by witnesses",
};

typedef struct {
    Kind kind;
    unsigned candidate, witness, number; /* number: a round, a term, an epoch or a set of slow clocks */
} Step;

static void visit(State *next, Step step);

/* Rule 6: whether the candidate may ever count the ack of that round. */
static bool is_counted(const Candidate *c, unsigned round) {
    if (round <= c->started) return is_broken[R6_INCARNATION];
    return round > c->voided || is_broken[R6_ROUND];
}

static bool may_be_counted(const Candidate *c, unsigned round) { return is_counted(c, round) || is_broken[R6_INCARNATION]; }

static bool is_request(const Round *r) { return r->kind == ACQUIRE || r->kind == HELD; }
static bool is_release(const Round *r) { return r->kind == RELEASE; }

/* A round is dead when no delivery of it, and of no ack of it, can help anybody to open a fence any more. */
static bool is_dead(const State *s, unsigned c, unsigned number) {
    const Candidate *self = &s->candidates[c];
    const Round *round = &self->rounds[number];
    if (round->kind == DEAD) return true;
    if (is_request(round)) {
        if (keeps_all) return false;
        bool is_late = round->age >= lease && !is_broken[R1_DEADLINE];
        return is_late || (!may_be_counted(self, number) && !is_broken[R7_OLD_REQUEST]);
    }
    for (unsigned w = 0; w < witnesses; w++) {
        const Witness *witness = &s->witnesses[w];
        if (witness->holder == c && (witness->round <= number || is_broken[R7_OLD_RELEASE])) return false;
    }
    for (unsigned older = 1; older < number; older++)
        if (!is_dead(s, c, older)) return false;
    return true;
}

static uint8_t newest_upto(const Candidate *c, unsigned number, bool (*is_such)(const Round *)) {
    while (number > 0 && !is_such(&c->rounds[number])) number--;
    return (uint8_t)number;
}

static void tidy_rounds(State *s, unsigned c) {
    Candidate *self = &s->candidates[c];
    for (unsigned number = self->newest; number > 0; number--) {
        Round *round = &self->rounds[number];
        bool is_void = is_dead(s, c, number) || !may_be_counted(self, number);
        if (round->term != self->term && !is_broken[R6_TERM] && !is_broken[R6_INCARNATION]) is_void = true;
        bool counts_age = !is_broken[R1_DEADLINE] && !is_broken[R6_INCARNATION] && !is_broken[R6_ROUND];
        for (unsigned w = 0; w < witnesses; w++) {
            Witness *witness = &s->witnesses[w];
            if (is_void || (counts_age && round->age + witness->heard[c] >= lease)) witness->acks[c] &= (uint8_t)~(1u << number);
        }
        if (is_dead(s, c, number)) *round = (Round){0};
    }
    /* Bounds on numbers matter only for what is still in flight. */
    self->started = newest_upto(self, self->started, is_request);
    self->voided = newest_upto(self, self->voided, is_request);
    for (unsigned w = 0; w < witnesses; w++) {
        Witness *witness = &s->witnesses[w];
        witness->newest[c] = newest_upto(self, witness->newest[c], is_request);
        if (witness->holder != c) continue;
        if (witness->round > 0) witness->round = newest_upto(self, witness->round - 1u, is_release);
        witness->round = (uint8_t)(witness->round + (witness->round > 0));
        if (self->phase == STANDBY || witness->term != self->term) witness->term = 0;
    }
}

/* Number what is in flight anew, without gaps. */
static void renumber(State *s, unsigned c) {
    Candidate *self = &s->candidates[c];
    uint8_t renamed[MOST_ROUNDS + 2] = {0};
    unsigned kept = 0;
    for (unsigned number = 1; number <= self->newest; number++) {
        Round round = self->rounds[number];
        if (round.kind != DEAD) self->rounds[++kept] = round;
        renamed[number] = (uint8_t)kept;
    }
    if (kept == self->newest) return;
    memset(&self->rounds[kept + 1], 0, (self->newest - kept) * sizeof(Round));
    for (unsigned w = 0; w < witnesses; w++) {
        Witness *witness = &s->witnesses[w];
        unsigned acks = 0;
        for (unsigned number = 1; number <= self->newest; number++)
            acks |= (witness->acks[c] >> number & 1u) << renamed[number];
        witness->acks[c] = (uint8_t)acks;
        witness->newest[c] = renamed[witness->newest[c]];
        if (witness->holder == c && witness->round > 0) witness->round = (uint8_t)(renamed[witness->round - 1] + 1);
    }
    self->started = renamed[self->started];
    self->voided = renamed[self->voided];
    self->newest = (uint8_t)kept;
}

/* Make states equal that cannot be told apart by anything that may still happen. */
static void tidy(State *s) {
    for (unsigned c = 0; c < CANDIDATES; c++) {
        tidy_rounds(s, c);
        renumber(s, c);
    }
    for (unsigned w = 0; w < witnesses && s->written == CHANGED; w++) s->witnesses[w].undrained = s->witnesses[w].floor = 0;
}

static void end_grant(Witness *w) {
    w->holder = NOBODY;
    w->left = w->round = w->term = 0;
}

static void forget_acks(State *s, unsigned c) {
    for (unsigned w = 0; w < witnesses; w++) s->witnesses[w].heard[c] = 0;
}

static bool has_room(const State *s, unsigned c) { return s->candidates[c].newest < rounds_in_flight[c]; }

/* The candidate reads its clock and sends: the age counts from before the send (rule 1). */
static void send_round(State *s, unsigned c, unsigned kind) {
    Candidate *self = &s->candidates[c];
    self->newest++;
    self->rounds[self->newest] = (Round){.kind = (uint8_t)kind, .term = self->term, .epoch = self->epoch};
    if (kind == RELEASE) self->rounds[self->newest] = (Round){.kind = RELEASE};
}

/* Back to STANDBY with a release; from here on earlier answers are void (rule 6). */
static void send_release(State *s, unsigned c) {
    send_round(s, c, RELEASE);
    s->candidates[c].voided = s->candidates[c].newest;
    s->candidates[c].deadline = 0;
    if (!is_broken[R6_FORGET]) forget_acks(s, c);
}

static void ask_for_the_first_time(const State *s, unsigned c) {
    for (unsigned term = s->candidates[c].term + 1u; term <= most_terms; term++) {
        State next = *s;
        Candidate *self = &next.candidates[c];
        bool is_new_attempt = self->phase == STANDBY;
        if (is_new_attempt) self->voided = self->newest;
        self->phase = ACQUIRING;
        self->term = (uint8_t)term;
        if (!is_broken[R6_FORGET]) forget_acks(&next, c);
        send_round(&next, c, ACQUIRE);
        visit(&next, (Step){is_new_attempt ? TRY : PROPOSE, c, 0, term});
    }
}

static void ask_again(const State *s, unsigned c) {
    State next = *s;
    bool is_held = s->candidates[c].phase == OWNER;
    send_round(&next, c, is_held ? HELD : ACQUIRE);
    visit(&next, (Step){is_held ? RENEW : ASK_AGAIN, c, 0, next.candidates[c].newest});
}

static void give_up(const State *s, unsigned c) {
    State next = *s;
    Candidate *self = &next.candidates[c];
    self->voided = self->newest; /* what it asked for before is dead now and makes room */
    tidy(&next);
    if (!has_room(&next, c)) return;
    Kind kind = GIVE_UP;
    if (self->phase == OWNER) kind = is_broken[R7_CLOSE_FIRST] ? RELEASE_FIRST : CLOSE;
    self->phase = STANDBY;
    if (kind == CLOSE) self->fence = 0; /* rule 7: the fence first, then the word */
    if (kind == RELEASE_FIRST) self->phase = CLOSING;
    send_release(&next, c);
    visit(&next, (Step){kind, c, 0, next.candidates[c].newest});
}

static void close_after(const State *s, unsigned c) {
    State next = *s;
    next.candidates[c].phase = STANDBY;
    next.candidates[c].fence = 0;
    visit(&next, (Step){CLOSE_AFTER, c, 0, 0});
}

static void take_acks(const State *s, unsigned c) {
    const Candidate *before = &s->candidates[c];
    for (unsigned w = 0; w < witnesses; w++) {
        for (unsigned round = 1; round <= before->newest; round++) {
            if (!(s->witnesses[w].acks[c] >> round & 1) || !is_counted(before, round)) continue;
            if (before->rounds[round].term != before->term && !is_broken[R6_TERM]) continue;
            unsigned left = is_broken[R1_DEADLINE] ? lease : lease - before->rounds[round].age;
            if (left <= s->witnesses[w].heard[c]) continue;
            State next = *s;
            Candidate *self = &next.candidates[c];
            next.witnesses[w].heard[c] = (uint8_t)left;
            next.witnesses[w].acks[c] &= (uint8_t)~(1u << round);
            unsigned deadline = backed(&next, c);
            if (deadline > self->deadline) {
                self->act = self->phase == OWNER ? EXTEND : OPEN;
                self->act_left = self->deadline = (uint8_t)deadline;
                self->phase = OWNER;
            }
            visit(&next, (Step){TAKE_ACK, c, w, round});
        }
    }
}

/* What was decided reaches the kernel: an absolute deadline, so a stall before this has not moved it. */
static void tell_kernel(const State *s, unsigned c) {
    State next = *s;
    Candidate *self = &next.candidates[c];
    if (self->act_left > 0) {
        bool is_in_order = self->act == OPEN ? self->term > s->opened : self->term == s->opened;
        next.is_out_of_order |= !is_in_order;
        if (self->term > next.opened) next.opened = self->term;
    }
    self->fence = self->act_left;
    self->act = NOTHING;
    self->act_left = 0;
    visit(&next, (Step){TELL_KERNEL, c, 0, self->fence});
}

/* The process dies in whatever it was doing and starts again; the kernel's fence ran on meanwhile. (To be down
 * for a while first would be to do nothing for a while and to die then.) */
static void be_killed(const State *s, unsigned c) {
    State next = *s;
    Candidate *self = &next.candidates[c];
    if (most_kills != UNBOUNDED && next.kills-- == 0) return;
    self->phase = STANDBY;
    self->act = NOTHING;
    self->act_left = self->deadline = self->term = 0;
    self->started = self->voided = self->newest;
    if (!is_broken[R8_CLOSED_START]) self->fence = 0;
    forget_acks(&next, c);
    for (unsigned w = 0; w < witnesses; w++)
        if (next.witnesses[w].holder == c) next.witnesses[w].term = 0;
    visit(&next, (Step){KILL, c, 0, 0});
}

static void steps_of_candidate(const State *s, unsigned c) {
    const Candidate *self = &s->candidates[c];
    bool is_stalled = self->act != NOTHING;
    bool has_lapsed = self->phase == OWNER && self->deadline == 0;
    be_killed(s, c);
    if (self->phase == CLOSING) close_after(s, c);
    if (is_stalled) {
        tell_kernel(s, c);
        return;
    }
    if (self->phase == CLOSING) return;
    if (has_room(s, c)) {
        if (self->phase == STANDBY || self->phase == ACQUIRING) ask_for_the_first_time(s, c);
        if (self->phase == ACQUIRING || (self->phase == OWNER && !has_lapsed)) ask_again(s, c);
    }
    if (self->phase == ACQUIRING || self->phase == OWNER) give_up(s, c);
    /* Rule 12: what has lapsed is let go before anything else is looked at. */
    if (self->phase == ACQUIRING || (self->phase == OWNER && (!has_lapsed || is_broken[R12_LAPSE]))) take_acks(s, c);
    if (self->phase == ACQUIRING && !is_broken[R4_ATTEMPT]) return; /* its attempt is to be given up first */
    unsigned first = is_whole || self->epoch > 0 ? self->epoch + 1u : SEALING;
    for (unsigned epoch = first; epoch <= s->written; epoch++) {
        State next = *s;
        next.candidates[c].epoch = (uint8_t)epoch; /* the deadline stays */
        visit(&next, (Step){LEARN, c, 0, epoch});
    }
}

static bool is_served(const Witness *w, const Round *round) {
    return is_broken[R4_SEAL] || (round->epoch + 1 >= w->epoch && round->epoch <= w->epoch + 1);
}

static bool is_grantable(const Witness *w, unsigned c, const Round *round) {
    bool is_holder = w->holder == c || (is_broken[MACHINE] && w->holder != NOBODY);
    if (w->holder != NOBODY && !is_holder && !is_broken[R3_EXCLUSIVE]) return false;
    bool is_same = w->holder == c && w->term == round->term;
    return round->kind == HELD || is_same || round->term > w->known || is_broken[R14A_TERMS];
}

static void take_request(const State *s, unsigned w, unsigned c, unsigned number) {
    const Round *round = &s->candidates[c].rounds[number];
    const Witness *before = &s->witnesses[w];
    if (number <= before->newest[c] || !is_served(before, round) || !is_grantable(before, c, round)) return;
    State next = *s;
    Witness *self = &next.witnesses[w];
    self->holder = (uint8_t)c;
    self->left = (uint8_t)(grant - is_broken[R2_GRANT_DATE]);
    self->round = self->newest[c] = (uint8_t)number;
    self->term = (uint8_t)(number > s->candidates[c].started ? round->term : 0);
    if (round->term > self->known) self->known = round->term;
    self->acks[c] |= (uint8_t)(1u << number);
    visit(&next, (Step){GRANT, c, w, number});
}

/* A release that ends nothing is not taken: all it could do is to make older requests void. */
static void take_release(const State *s, unsigned w, unsigned c, unsigned number) {
    const Witness *before = &s->witnesses[w];
    if (before->holder != c || (number < before->round && !is_broken[R7_OLD_RELEASE])) return;
    State next = *s;
    Witness *self = &next.witnesses[w];
    end_grant(self);
    if (number > self->newest[c] && !is_broken[R7_OLD_REQUEST]) self->newest[c] = (uint8_t)number;
    visit(&next, (Step){TAKE_RELEASE, c, w, number});
}

static void restart(const State *s, unsigned w) {
    State next = *s;
    Witness *self = &next.witnesses[w];
    if (most_restarts != UNBOUNDED && next.restarts-- == 0) return;
    end_grant(self);
    self->newest[0] = self->newest[1] = 0;
    self->silent = (uint8_t)(is_broken[R5_SILENCE] ? 0 : grant - is_broken[R5_LENGTH]);
    if (is_broken[R14A_MEMORY]) self->known = 0;
    if (is_broken[R9_DISK] && self->epoch >= SEALING) self->epoch = JOINING;
    /* What it once reported as drained the controller goes on believing. */
    if (self->undrained > 0) self->undrained = (uint8_t)(self->epoch >= SEALING ? grant : grant + 1);
    visit(&next, (Step){RESTART, 0, w, 0});
}

static void adopt(const State *s, unsigned w, unsigned epoch) {
    State next = *s;
    Witness *self = &next.witnesses[w];
    if (epoch >= SEALING && self->undrained > grant) {
        self->undrained = (uint8_t)grant;
        self->floor = self->known;
    }
    self->epoch = (uint8_t)epoch;
    visit(&next, (Step){ADOPT, 0, w, epoch});
}

static void steps_of_witness(const State *s, unsigned w) {
    const Witness *self = &s->witnesses[w];
    for (unsigned c = 0; c < CANDIDATES && self->silent == 0; c++)
        for (unsigned number = 1; number <= s->candidates[c].newest; number++) {
            unsigned kind = s->candidates[c].rounds[number].kind;
            if (kind == ACQUIRE || kind == HELD) take_request(s, w, c, number);
            if (kind == RELEASE) take_release(s, w, c, number);
        }
    /* A restart that forgets nothing only keeps others out. */
    if (self->holder != NOBODY || self->newest[0] || self->newest[1] || is_broken[R14A_MEMORY] || is_broken[R9_DISK]) restart(s, w);
    unsigned last = is_whole ? CHANGED : SEALING;
    for (unsigned epoch = self->epoch + 1u; epoch <= s->written && epoch <= last; epoch++) adopt(s, w, epoch);
}

static unsigned at_epoch(const State *s, unsigned epoch) {
    unsigned set = 0;
    for (unsigned w = 0; w < witnesses; w++) set |= (unsigned)(s->witnesses[w].epoch >= epoch) << w;
    return set;
}

static bool has_majority(unsigned set, unsigned of) { return members(set & of) >= majority_of(of); }

static void write_epoch(const State *s) {
    State next = *s;
    next.written++;
    visit(&next, (Step){WRITE, 0, 0, next.written});
}

/* The last step: a majority of S is sealed and drained, a majority of S' sealed with the floors of that majority.
 * The floors spread by messages; here those who lack them get them at the latest moment, with this step. */
static void write_last_epoch(const State *s) {
    unsigned drained = 0;
    for (unsigned w = 0; w < witnesses; w++)
        drained |= (unsigned)(s->witnesses[w].undrained == 0 || (is_broken[R4_DRAIN] && s->witnesses[w].undrained <= grant)) << w;
    drained &= former();
    if (!has_majority(drained, former())) return;
    unsigned floor = 0; /* the lowest that covers some majority: the controller may have heard of no other */
    for (unsigned count = 0; floor <= most_terms; floor++, count = 0) {
        for (unsigned w = 0; w < witnesses; w++) count += (drained >> w & 1) && s->witnesses[w].floor <= floor;
        if (count >= majority_of(former())) break;
    }
    unsigned told = at_epoch(s, SEALING) & wanted();
    for (unsigned chosen = 1; chosen < 1u << witnesses; chosen++) {
        if ((chosen & told) != chosen || members(chosen) != majority_of(wanted())) continue;
        State next = *s;
        next.written = CHANGED;
        for (unsigned w = 0; w < witnesses; w++)
            if ((chosen >> w & 1) && next.witnesses[w].known < floor && !is_broken[R4_FLOORS])
                next.witnesses[w].known = (uint8_t)floor;
        visit(&next, (Step){WRITE, 0, 0, CHANGED});
    }
}

static void steps_of_controller(const State *s) {
    unsigned joined = at_epoch(s, JOINING);
    bool have_joined = has_majority(joined, former()) && has_majority(joined, wanted());
    if (s->written == 0) write_epoch(s);
    if (s->written == JOINING && (have_joined || is_broken[R4_JOINED])) write_epoch(s);
    if (s->written == SEALING) write_last_epoch(s);
}

static void count_down(uint8_t *ticks) { *ticks = (uint8_t)(*ticks - (*ticks > 0)); }

/* Whether anything of the candidate still depends on how its clock goes. */
static bool is_clock_watched(const State *s, unsigned c) {
    const Candidate *self = &s->candidates[c];
    bool is_watched = self->fence || self->deadline || self->act_left;
    for (unsigned w = 0; w < witnesses; w++) is_watched |= s->witnesses[w].heard[c] > 0;
    for (unsigned round = 1; round <= self->newest; round++)
        is_watched |= self->rounds[round].kind == ACQUIRE || self->rounds[round].kind == HELD;
    return is_watched;
}

static void pass_on_clock_of(State *s, unsigned c) {
    Candidate *self = &s->candidates[c];
    if (!is_broken[FENCE]) count_down(&self->fence);
    if (!is_broken[FENCE_ABSOLUTE]) count_down(&self->act_left);
    count_down(&self->deadline);
    for (unsigned w = 0; w < witnesses; w++) count_down(&s->witnesses[w].heard[c]);
    for (unsigned number = 1; number <= self->newest; number++) {
        Round *round = &self->rounds[number];
        round->age = (uint8_t)(round->age + ((round->kind == ACQUIRE || round->kind == HELD) && round->age < lease));
    }
}

static void tick(const State *s) {
    for (unsigned slow = 0; slow < 1u << CANDIDATES; slow++) {
        State next = *s;
        bool is_possible = true;
        for (unsigned c = 0; c < CANDIDATES; c++) {
            Candidate *self = &next.candidates[c];
            bool is_slow = slow >> c & 1, is_watched = is_clock_watched(s, c);
            is_possible &= !is_slow || (slow_every > 0 && is_watched && self->slow == 0);
            if (is_slow) self->slow = (uint8_t)(slow_every - 1);
            else {
                count_down(&self->slow);
                pass_on_clock_of(&next, c);
            }
            /* No interval that is still to be measured began before this tick. */
            if (!is_clock_watched(&next, c)) self->slow = 0;
        }
        if (!is_possible) continue;
        for (unsigned w = 0; w < witnesses; w++) {
            Witness *self = &next.witnesses[w];
            count_down(&self->left);
            count_down(&self->silent);
            if (self->undrained <= grant) count_down(&self->undrained);
            if (self->left == 0) end_grant(self);
        }
        visit(&next, (Step){TICK, 0, 0, slow});
    }
}

static void all_steps(const State *s) {
    for (unsigned c = 0; c < CANDIDATES; c++) steps_of_candidate(s, c);
    for (unsigned w = 0; w < witnesses; w++) steps_of_witness(s, w);
    if (is_change) steps_of_controller(s);
    tick(s);
}

static State first_state(void) {
    State s = {0};
    s.kills = (uint8_t)(most_kills == UNBOUNDED ? 0 : most_kills);
    s.restarts = (uint8_t)(most_restarts == UNBOUNDED ? 0 : most_restarts);
    s.written = is_change && !is_whole ? SEALING : 0;
    for (unsigned w = 0; w < witnesses; w++) {
        s.witnesses[w].holder = NOBODY;
        s.witnesses[w].undrained = (uint8_t)(is_change && (former() >> w & 1) ? grant + 1 : 0);
        s.witnesses[w].epoch = is_change && !is_whole ? JOINING : 0;
    }
    return s;
}

static const char *wrong_in(const State *s) {
    if (s->candidates[0].fence > 0 && s->candidates[1].fence > 0) return "Safety: both fences are open";
    if (s->is_out_of_order) return "Order: a fence is open under a term that is not above those before";
    return NULL;
}

/* ---- States as bits: all fields one after another, each as wide as its bounds need ---- */

static unsigned tick_bits, round_bits, term_bits, epoch_bits, drain_bits, floor_bits, kill_bits, restart_bits;

#define WITNESS_FIELDS(FIELD)                                                                            \
    FIELD(holder, 2) FIELD(left, tick_bits) FIELD(round, round_bits) FIELD(term, term_bits)              \
    FIELD(known, term_bits) FIELD(silent, tick_bits) FIELD(newest[one], round_bits)   \
    FIELD(newest[other], round_bits) FIELD(acks[one], rounds_in_flight[0] + 1) FIELD(acks[other], rounds_in_flight[1] + 1) \
    FIELD(heard[one], tick_bits) FIELD(heard[other], tick_bits) FIELD(epoch, epoch_bits)                       \
    FIELD(undrained, drain_bits) FIELD(floor, floor_bits)
#define CANDIDATE_FIELDS(FIELD)                                                                          \
    FIELD(phase, 2) FIELD(term, term_bits) FIELD(epoch, epoch_bits) FIELD(newest, round_bits)            \
    FIELD(started, round_bits) FIELD(voided, round_bits) FIELD(act, 2) FIELD(act_left, tick_bits)        \
    FIELD(deadline, tick_bits) FIELD(fence, tick_bits) FIELD(slow, tick_bits)
#define ROUND_FIELDS(FIELD) FIELD(kind, 2) FIELD(term, term_bits) FIELD(epoch, epoch_bits) FIELD(age, tick_bits)
#define STATE_FIELDS(FIELD) FIELD(opened, term_bits) FIELD(is_out_of_order, 1) FIELD(written, epoch_bits) FIELD(kills, kill_bits) FIELD(restarts, restart_bits)

typedef struct {
    uint64_t words[MOST_WORDS];
    unsigned position;
} Bits;

static void put(Bits *bits, uint64_t value, unsigned width) {
    unsigned word = bits->position / 64, offset = bits->position % 64;
    bits->position += width;
    if (width == 0) return;
    bits->words[word] |= value << offset;
    if (offset + width > 64) bits->words[word + 1] |= value >> (64 - offset);
}

static uint8_t take(Bits *bits, unsigned width) {
    unsigned word = bits->position / 64, offset = bits->position % 64;
    bits->position += width;
    if (width == 0) return 0;
    uint64_t value = bits->words[word] >> offset;
    if (offset + width > 64) value |= bits->words[word + 1] << (64 - offset);
    return (uint8_t)(value & ((1u << width) - 1));
}

static unsigned words_of_a_state, witness_bits;

/* Interchangeable witnesses are put in order, so that names make no difference. */
static Bits packed(const State *s, unsigned one) {
    unsigned other = 1 - one; /* one is written down first, whatever its name */
    Bits bits = {0};
    uint64_t codes[MOST_WITNESSES];
    for (unsigned w = 0; w < witnesses; w++) {
        Witness witness = s->witnesses[w];
        if (one == 1 && witness.holder != NOBODY) witness.holder = 1 - witness.holder;
        uint64_t code = 0;
        unsigned offset = 0;
#define FIELD(field, width) code |= (uint64_t)witness.field << offset, offset += (width);
        WITNESS_FIELDS(FIELD)
#undef FIELD
        codes[w] = code;
        for (unsigned at = w; at > 0 && may_swap(at - 1) && codes[at - 1] > codes[at]; at--) {
            uint64_t larger = codes[at - 1];
            codes[at - 1] = codes[at];
            codes[at] = larger;
        }
    }
    for (unsigned w = 0; w < witnesses; w++) put(&bits, codes[w], witness_bits);
    for (unsigned i = 0; i < CANDIDATES; i++) {
        const Candidate *c = &s->candidates[i ^ one];
        uint64_t code = 0;
        unsigned offset = 0;
#define FIELD(field, width) code |= (uint64_t)c->field << offset, offset += (width);
        CANDIDATE_FIELDS(FIELD)
#undef FIELD
        for (unsigned r = 1; r <= rounds_in_flight[i]; r++) {
            const Round *round = &c->rounds[r];
#define FIELD(field, width) code |= (uint64_t)round->field << offset, offset += (width);
            ROUND_FIELDS(FIELD)
#undef FIELD
        }
        put(&bits, code, offset);
    }
#define FIELD(field, width) put(&bits, s->field, (width));
    STATE_FIELDS(FIELD)
#undef FIELD
    return bits;
}

/* Candidates with the same bounds are interchangeable too. */
static Bits pack(const State *s) {
    Bits bits = packed(s, 0);
    if (rounds_in_flight[0] != rounds_in_flight[1] || is_broken[MACHINE]) return bits;
    Bits swapped = packed(s, 1);
    return memcmp(bits.words, swapped.words, words_of_a_state * sizeof(uint64_t)) <= 0 ? bits : swapped;
}

static State unpack(const uint64_t *words) {
    enum { one = 0, other = 1 };
    State s = {0};
    Bits bits = {0};
    memcpy(bits.words, words, words_of_a_state * sizeof *words);
    for (unsigned w = 0; w < witnesses; w++) {
#define FIELD(field, width) s.witnesses[w].field = take(&bits, (width));
        WITNESS_FIELDS(FIELD)
#undef FIELD
    }
    for (unsigned i = 0; i < CANDIDATES; i++) {
        Candidate *c = &s.candidates[i];
#define FIELD(field, width) c->field = take(&bits, (width));
        CANDIDATE_FIELDS(FIELD)
#undef FIELD
        for (unsigned r = 1; r <= rounds_in_flight[i]; r++) {
#define FIELD(field, width) c->rounds[r].field = take(&bits, (width));
            ROUND_FIELDS(FIELD)
#undef FIELD
        }
    }
#define FIELD(field, width) s.field = take(&bits, (width));
    STATE_FIELDS(FIELD)
#undef FIELD
    return s;
}

static unsigned bits_for(unsigned most) {
    unsigned bits = 0;
    for (; most; most >>= 1) bits++;
    return bits;
}

static void lay_out(void) {
    unsigned most_rounds = rounds_in_flight[0] > rounds_in_flight[1] ? rounds_in_flight[0] : rounds_in_flight[1];
    tick_bits = bits_for(grant);
    round_bits = bits_for(most_rounds);
    term_bits = bits_for(most_terms);
    epoch_bits = is_change ? 2 : 0;
    drain_bits = is_change ? bits_for(grant + 1) : 0;
    floor_bits = is_change ? term_bits : 0;
    kill_bits = most_kills == UNBOUNDED ? 0 : bits_for(most_kills);
    restart_bits = most_restarts == UNBOUNDED ? 0 : bits_for(most_restarts);
    unsigned round_width = 0, candidate_bits = 0;
#define FIELD(field, width) witness_bits += (width);
    WITNESS_FIELDS(FIELD)
#undef FIELD
#define FIELD(field, width) round_width += (width);
    ROUND_FIELDS(FIELD)
#undef FIELD
#define FIELD(field, width) candidate_bits += (width);
    CANDIDATE_FIELDS(FIELD)
#undef FIELD
    candidate_bits += most_rounds * round_width;
    State s = first_state();
    words_of_a_state = (pack(&s).position + 63) / 64;
    if (witness_bits > 64 || candidate_bits > 64 || words_of_a_state > MOST_WORDS) {
        fprintf(stderr, "these bounds make a state too large\n");
        exit(2);
    }
}

/* ---- The search ---- */

enum { CHUNK = 1 << 16 };
static uint64_t **chunks;   /* the states, in the order in which they were found */
static uint32_t **parents;  /* from which each was found */
static uint32_t *slots;     /* hash table of 1 + index */
static uint64_t slot_count, state_count, transitions, taken[STEPS], opened_in[CHANGED + 1], allocated;
static uint32_t current;    /* whose steps are being taken */
static bool has_ended;
static void (*on_step)(State *next, Step step);

static void *claimed(size_t size) {
    void *memory = calloc(1, size);
    if (memory == NULL) {
        fprintf(stderr, "out of memory after %llu states\n", (unsigned long long)state_count);
        exit(2);
    }
    allocated += size;
    return memory;
}

static const uint64_t *state_at(uint64_t index) { return &chunks[index / CHUNK][index % CHUNK * words_of_a_state]; }

static uint64_t hash_of(const uint64_t *words) {
    uint64_t hash = 0;
    for (unsigned i = 0; i < words_of_a_state; i++) {
        hash = (hash ^ words[i]) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    hash *= 0xbf58476d1ce4e5b9u;
    return hash ^ hash >> 32;
}

static void grow_slots(void) {
    free(slots);
    allocated -= slot_count * sizeof *slots;
    slot_count *= 2;
    slots = claimed(slot_count * sizeof *slots);
    for (uint64_t index = 0; index < state_count; index++) {
        uint64_t at = hash_of(state_at(index)) & (slot_count - 1);
        while (slots[at]) at = (at + 1) & (slot_count - 1);
        slots[at] = (uint32_t)index + 1;
    }
}

static bool is_new(const Bits *bits) {
    uint64_t at = hash_of(bits->words) & (slot_count - 1);
    for (; slots[at]; at = (at + 1) & (slot_count - 1))
        if (memcmp(state_at(slots[at] - 1u), bits->words, words_of_a_state * sizeof(uint64_t)) == 0) return false;
    slots[at] = (uint32_t)state_count + 1;
    if (state_count % CHUNK == 0) {
        chunks[state_count / CHUNK] = claimed(CHUNK * words_of_a_state * sizeof(uint64_t));
        parents[state_count / CHUNK] = claimed(CHUNK * sizeof(uint32_t));
    }
    memcpy(&chunks[state_count / CHUNK][state_count % CHUNK * words_of_a_state], bits->words, words_of_a_state * sizeof(uint64_t));
    parents[state_count / CHUNK][state_count % CHUNK] = current;
    state_count++;
    if (state_count * 4 > slot_count * 3) grow_slots();
    return true;
}

static void visit(State *next, Step step) {
    tidy(next);
    on_step(next, step);
}

static void note(State *next, Step step) {
    if (has_ended) return;
    transitions++;
    taken[step.kind]++;
    if (step.kind == TELL_KERNEL && step.number > 0) opened_in[next->candidates[step.candidate].epoch]++;
    Bits bits = pack(next);
    if (is_new(&bits) && wrong_in(next)) has_ended = true;
}

static unsigned search(void) {
    unsigned depth = 0;
    slot_count = 1 << 16;
    slots = claimed(slot_count * sizeof *slots);
    chunks = claimed((most_states / CHUNK + 2) * sizeof *chunks);
    parents = claimed((most_states / CHUNK + 2) * sizeof *parents);
    on_step = note;
    State s = first_state();
    Bits bits = pack(&s);
    is_new(&bits);
    for (uint64_t index = 0, end_of_level = 1; index < state_count && !has_ended; index++) {
        if (index == end_of_level) {
            depth++;
            end_of_level = state_count;
        }
        if (state_count > most_states) {
            printf("stopped: more than %llu states\n", (unsigned long long)most_states);
            exit(2);
        }
        current = (uint32_t)index;
        s = unpack(state_at(index));
        all_steps(&s);
    }
    return depth;
}

/* ---- A way to a wrong state, told ---- */

static Bits aim;
static State arrived;
static Step arrived_by;
static bool has_arrived;

static void look_for_aim(State *next, Step step) {
    if (has_arrived) return;
    Bits bits = pack(next);
    if (memcmp(bits.words, aim.words, words_of_a_state * sizeof(uint64_t)) != 0) return;
    arrived = *next;
    arrived_by = step;
    has_arrived = true;
}

static const char *const phases[] = {"standby", "acquiring", "owner", "closing"};

static void tell_step(const State *before, Step step) {
    unsigned c = step.candidate + 1, w = step.witness + 1, n = step.number;
    const Candidate *self = &before->candidates[step.candidate];
    const Round *round = &self->rounds[n <= MOST_ROUNDS ? n : 0];
    char under[32] = "";
    if (is_change) snprintf(under, sizeof under, " under epoch %u", round->epoch);
    const char *what = round->kind == HELD ? "renewal" : "request";
    char text[200] = "";
#define TELL(...) snprintf(text, sizeof text, __VA_ARGS__)
    switch (step.kind) {
    case TICK:
        TELL("a tick passes%s", n == 0 ? "" : n == 1 ? "; c1's clock stands still" : n == 2 ? "; c2's clock stands still" : "; both candidates' clocks stand still");
        break;
    case TRY: TELL("c%u tries: asks for term %u", c, n); break;
    case PROPOSE: TELL("c%u proposes term %u instead", c, n); break;
    case ASK_AGAIN: TELL("c%u asks again for term %u", c, self->term); break;
    case RENEW: TELL("c%u asks to renew term %u", c, self->term); break;
    case GIVE_UP: TELL("c%u gives its attempt up and sends a release", c); break;
    case CLOSE: TELL("c%u closes its fence and sends a release", c); break;
    case RELEASE_FIRST: TELL("c%u sends a release; its fence is yet to be closed", c); break;
    case CLOSE_AFTER: TELL("c%u closes its fence", c); break;
    case TAKE_ACK: TELL("c%u takes w%u's ack of a %s for term %u that it sent %u ticks ago", c, w, what, round->term, round->age); break;
    case TELL_KERNEL: TELL("c%u tells its kernel: open for %u ticks more", c, n); break;
    case KILL: TELL("c%u is killed and starts again", c); break;
    case GRANT: TELL("w%u grants c%u a %s for term %u%s", w, c, what, round->term, under); break;
    case TAKE_RELEASE: TELL("w%u takes a release of c%u", w, c); break;
    case RESTART: TELL("w%u restarts and has forgotten its grants", w); break;
    case WRITE: TELL("the controller writes epoch %u", n); break;
    case LEARN: TELL("c%u takes epoch %u over", c, n); break;
    case ADOPT: TELL("w%u takes epoch %u over", w, n); break;
    case STEPS: break;
    }
#undef TELL
    printf("%-72s", text);
}

static void tell_state(const State *s) {
    for (unsigned i = 0; i < CANDIDATES; i++) {
        const Candidate *c = &s->candidates[i];
        printf(" | c%u %-9s", i + 1, phases[c->phase]);
        if (is_change) printf(" e%u", c->epoch);
        if (c->fence) printf(" OPEN %u", c->fence);
        else printf("       ");
    }
    printf(" |");
    for (unsigned i = 0; i < witnesses; i++) {
        const Witness *w = &s->witnesses[i];
        printf(" w%u", i + 1);
        if (is_change) printf(" e%u", w->epoch);
        if (w->silent) printf(" silent %u", w->silent);
        else if (w->holder == NOBODY) printf(" --");
        else printf(" c%u:%u", w->holder + 1, w->left);
    }
    printf("\n");
}

/* The states of the way are known only up to the names of witnesses: walk it again with names. */
static void tell_way(uint32_t end) {
    uint32_t length = 0, way[1000];
    for (uint32_t at = end; at != 0 && length < 1000; at = parents[at / CHUNK][at % CHUNK]) way[length++] = at;
    on_step = look_for_aim;
    State s = first_state();
    unsigned now = 0;
    for (unsigned step = 1; length > 0; step++) {
        length--;
        memcpy(aim.words, state_at(way[length]), words_of_a_state * sizeof(uint64_t));
        has_arrived = false;
        all_steps(&s);
        if (!has_arrived) {
            printf("the way back is lost\n");
            exit(2);
        }
        now += arrived_by.kind == TICK;
        printf("%3u  t=%-2u ", step, now);
        tell_step(&s, arrived_by);
        s = arrived;
        tell_state(&s);
    }
    printf("VIOLATION of %s\n", wrong_in(&s));
}

/* ---- The command line ---- */

static int usage(void) {
    printf("usage: protocol {lease|change} [--without RULE]... [--rounds N,M] [--terms N] [--kills N] [--restarts N]\n"
           "                [--lease T] [--grant TW] [--slow 3] [--set WITNESSES] [--replaced WITNESSES] [--whole] [--keep]\n"
           "                [--states MOST]\n\nRULE, its number, and what --without it means:\n");
    for (unsigned i = 0; i < RULES; i++) printf("  %-7s%-16s%-9s%s\n", rules[i].models, rules[i].name, rules[i].number, rules[i].broken);
    return 2;
}

static bool breaks(const char *name) {
    for (unsigned i = 0; i < RULES; i++)
        if (strcmp(rules[i].name, name) == 0) {
            printf("against rule %s: %s\n", rules[i].number, rules[i].broken);
            return is_broken[i] = true;
        }
    return false;
}

static bool understands(int count, char **words) {
    if (count < 2 || (strcmp(words[1], "lease") != 0 && strcmp(words[1], "change") != 0)) return false;
    is_change = strcmp(words[1], "change") == 0;
    for (int i = 2; i < count; i += 2) {
        if (strcmp(words[i], "--keep") == 0 || strcmp(words[i], "--whole") == 0) {
            keeps_all |= strcmp(words[i], "--keep") == 0;
            is_whole |= strcmp(words[i], "--whole") == 0;
            i--;
            continue;
        }
        const char *option = words[i], *value = i + 1 < count ? words[i + 1] : "";
        unsigned long long states;
        if (strcmp(option, "--without") == 0 && breaks(value)) continue;
        if (strcmp(option, "--rounds") == 0 && sscanf(value, "%u,%u", &rounds_in_flight[0], &rounds_in_flight[1]) == 2) continue;
        if (strcmp(option, "--terms") == 0 && sscanf(value, "%u", &most_terms) == 1) continue;
        if (strcmp(option, "--lease") == 0 && sscanf(value, "%u", &lease) == 1) continue;
        if (strcmp(option, "--grant") == 0 && sscanf(value, "%u", &grant) == 1) continue;
        if (strcmp(option, "--kills") == 0 && sscanf(value, "%u", &most_kills) == 1) continue;
        if (strcmp(option, "--restarts") == 0 && sscanf(value, "%u", &most_restarts) == 1) continue;
        if (strcmp(option, "--slow") == 0 && sscanf(value, "%u", &slow_every) == 1) continue;
        if (strcmp(option, "--set") == 0 && sscanf(value, "%u", &set_size) == 1) continue;
        if (strcmp(option, "--replaced") == 0 && sscanf(value, "%u", &replaced) == 1) continue;
        if (strcmp(option, "--states") == 0 && sscanf(value, "%llu", &states) == 1) {
            most_states = states;
            continue;
        }
        return false;
    }
    witnesses = is_change ? set_size + replaced : set_size;
    if (is_broken[R3_RATES]) grant = lease;
    bool fits = rounds_in_flight[0] >= 1 && rounds_in_flight[0] <= MOST_ROUNDS && rounds_in_flight[1] >= 1 && rounds_in_flight[1] <= MOST_ROUNDS;
    return fits && most_terms >= 1 && most_terms <= 7 && lease >= 1 && grant <= 15 && lease <= grant && replaced >= 1 && replaced <= set_size && set_size >= 1 && witnesses <= MOST_WITNESSES && most_states < UINT32_MAX;
}

int main(int count, char **words) {
    if (!understands(count, words)) return usage();
    lay_out();
    for (int i = 1; i < count; i++) printf("%s%c", words[i], i + 1 < count ? ' ' : '\n');
    clock_t began = clock();
    unsigned depth = search();
    printf("%llu states, %llu transitions, depth %u, %.1f s, %.0f MB\n", (unsigned long long)state_count,
           (unsigned long long)transitions, depth, (double)(clock() - began) / CLOCKS_PER_SEC, (double)allocated / 1e6);
    for (unsigned i = 0; i < STEPS; i++)
        if (taken[i]) printf("%12llu %s\n", (unsigned long long)taken[i], counted[i]);
    for (unsigned i = 0; i <= (is_change ? CHANGED : 0); i++)
        printf("%12llu openings and extensions under epoch %u\n", (unsigned long long)opened_in[i], i);
    if (has_ended) {
        tell_way((uint32_t)state_count - 1);
        return 1;
    }
    printf("no violation\n");
    return 0;
}
