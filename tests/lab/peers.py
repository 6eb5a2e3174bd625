"""`make bench`, second part: the same faults done to vipkeeper and to keepalived, in the same lab and run.

A **subject** is something that keeps two addresses on three nodes: `minimal`, which follows the node, and
`web`, which follows the node's web server too. Each fault is committed again and again to whichever
node answers the client, and judged by what the client and the inquirer wrote down alone:

    outage      the client's longest silence
    two owners  for how long two nodes answered, as far as their answers prove it (`analysis.shared_ns`)

A fault lasts as long for every subject, and is undone afterwards; nobody is blamed for what lies outside
of it. Where a subject has no equal of something, the nearest thing that its manual offers is done: keepalived
moves an address by hand when a track file says so.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from lab import analysis, choice, enclosure, faults, keepalived, ledger
from lab.analysis import MILLISECOND
from lab.burdens import Burden
from lab.cluster import WEB_PORT, Lab
from lab.keepalived import Router, Settings
from lab.measuring import HTTP_INTERVAL_NS, LAG_NS, LAG_S, start_responder
from lab.processes import ProcessFailedError
from lab.stage import HTTP, VERSION, NotReadyError, Stage, urls_for
from lab.topology import Host

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from lab.binaries import Binaries
    from lab.ledger import Ledger
    from lab.measuring import Measurement
    from lab.processes import Process

ADDRESSES = {"minimal": "192.0.2.10", "web": "192.0.2.11"}
IDLE = {f"idle-{number}": f"192.0.2.{20 + number}" for number in range(8)}
"""Eight more, so that each node's programs look after ten addresses while nothing happens."""

HEALTH_PATH = "/healthz"
LASTS_S = 5.0
"""How long what is undone late lasts: over a second more than keepalived takes at adverts of a second."""
AFTERMATH_S = 1.5
RECENTLY_NS = 4_500 * MILLISECOND  # who answers now has answered since
IDLE_S = 20.0
PATIENCE_S = 120.0
TAKEN_OVER_S = 15.0
STARTS_S = 20.0
"""About how long a lab takes to come up and to end; only the estimate rests on it."""

Say = Callable[[str], None]


class Subject(Protocol):
    """What keeps the addresses, in a lab of its own. `daemons` are what holds them on a node."""

    title: str
    lab: Lab

    @property
    def measured(self) -> Measurement:
        """What the addresses are measured by."""

    @property
    def web(self) -> dict[str, Process]:
        """Return the web server of each node."""

    def set_up(self) -> None:
        """Start everything, and the measurement."""

    def rest(self) -> None:
        """Wait until every node could take every address."""

    def daemons(self, node: Host) -> Sequence[Process]:
        """Return what holds the addresses on a node, to be killed or frozen."""

    def restart(self, node: Host) -> None:
        """Start what was killed on a node."""

    def power_on(self, node: Host) -> None:
        """Boot a node, and start everything there."""

    def move(self, label: str, node: Host) -> None:
        """Have an address leave a node, as a person does who plans it."""

    def moved(self, label: str, node: Host) -> None:
        """Let the node have the address again."""

    def processes(self) -> list[tuple[str, list[int]]]:
        """Return the name and the process ids of every part."""


def objects(profile: str, names: Collection[str]) -> list[dict[str, Any]]:
    """Return what vipkeeper is told: its domain, and a VirtualIP for each of some addresses, by name."""
    check = {
        "name": "web-server",
        "httpGet": {"port": WEB_PORT, "path": HEALTH_PATH},
        "periodMilliseconds": 200,
        "timeoutMilliseconds": 200,
        "failureThreshold": 2,
        "successThreshold": 2,
    }
    found = [_object("FailoverDomain", "default", {"profile": profile, "allowedAddresses": ["192.0.2.0/24"]})]
    for name, address in {**ADDRESSES, **IDLE}.items():
        spec: dict[str, object] = {"addresses": [f"{address}/24"]}
        if name in names:
            checks = {"healthChecks": [check]} if name == "web" else {}
            found.append(_object("VirtualIP", name, {**spec, **checks}))
    return found


def _object(kind: str, name: str, spec: dict[str, object]) -> dict[str, Any]:
    return {"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


@dataclass(slots=True)
class Vipkeeper:
    """vipkeeper under one timing profile."""

    title: str
    lab: Lab
    profile: str
    stage: Stage = field(init=False)

    def __post_init__(self) -> None:
        self.stage = Stage(self.lab)

    @property
    def measured(self) -> Measurement:
        return self.stage.measured

    @property
    def web(self) -> dict[str, Process]:
        return self.stage.web

    def set_up(self) -> None:
        self.lab.start()
        self.stage.start()
        domain, *addresses = objects(self.profile, {**ADDRESSES, **IDLE})
        self.lab.plane.api.apply(domain)
        self.lab.plane.kubectl("wait", "fod/default", "--for=condition=Quorate", "--timeout=60s")
        for each in addresses:
            self.lab.plane.api.apply(each)
        self.stage.watch(ADDRESSES, urls=urls_for({"web": ADDRESSES["web"]}))
        self.stage.rest(*ADDRESSES)

    def rest(self) -> None:
        self.stage.rest(*ADDRESSES)

    def daemons(self, node: Host) -> list[Process]:
        return [self.stage.agents.keepers[node.name]]

    def restart(self, node: Host) -> None:
        before = self.stage.incarnation(node)
        self.stage.agents.restart(node)
        self.stage.wait_until("a new report", lambda: self.stage.incarnation(node) > before)

    def power_on(self, node: Host) -> None:
        before = self.stage.incarnation(node)
        self.stage.power_on(node)
        self.stage.wait_until("a new report", lambda: self.stage.incarnation(node) > before)

    def move(self, label: str, node: Host) -> None:
        self.stage.move(label, next(name for name in self.lab.nodes if name != node.name))

    def moved(self, label: str, node: Host) -> None:
        """Need nothing: a Switchover is over once it is done."""

    def processes(self) -> list[tuple[str, list[int]]]:
        return [(each.name, [each.child.pid]) for each in self.stage.agents.everything()]


@dataclass(slots=True)
class Keepalived:
    """keepalived on every node, under one set of settings; there is no control plane."""

    title: str
    lab: Lab
    settings: Settings
    measured: Measurement = field(init=False)
    web: dict[str, Process] = field(default_factory=dict)
    routers: dict[str, Router] = field(default_factory=dict)
    running: dict[str, Process] = field(default_factory=dict)

    def set_up(self) -> None:
        start_responder(self.lab.gateway)
        for rank, host in enumerate(self.lab.nodes.values()):
            start_responder(host)
            self.web[host.name] = self.lab.start_webserver(host)
            self.routers[host.name] = router = router_of(host, rank, self.settings, {**ADDRESSES, **IDLE})
            router.install()
            self.running[host.name] = router.start()
        self.measured = self.lab.measure(ADDRESSES)
        self.measured.request_from(self.lab.client, urls_for({"web": ADDRESSES["web"]}))
        self.rest()

    def rest(self) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            if all(process.is_alive for process in self.running.values()) and self._is_settled():
                return
            time.sleep(0.2)
        raise NotReadyError(f"waited {PATIENCE_S} s for {self.title} to come to rest, in vain")

    def daemons(self, node: Host) -> list[Process]:
        return [self.running[node.name]]

    def restart(self, node: Host) -> None:
        self.running[node.name] = self.routers[node.name].start()

    def power_on(self, node: Host) -> None:
        self.lab.power_on(node)
        self.measured.watch_kernels([node])
        self.web[node.name] = self.lab.start_webserver(node)
        self.restart(node)

    def move(self, label: str, node: Host) -> None:
        self.routers[node.name].take_off(label)

    def moved(self, label: str, node: Host) -> None:
        self.routers[node.name].give_back(label)

    def processes(self) -> list[tuple[str, list[int]]]:
        return [(each.name, keepalived.family(each.child.pid)) for each in self.running.values()]

    def _is_settled(self) -> bool:
        """Tell whether one and the same node has answered for each address for long enough."""
        now_ns, rested_ns = time.monotonic_ns(), self.settings.rested_ms * MILLISECOND
        for label in ADDRESSES:
            answers = self.measured.answers(label, since_ns=now_ns - rested_ns - LAG_NS)
            owners = {each.node for each in answers if each.latest_ns > now_ns - rested_ns}
            if len(owners) != 1 or answers[-1].latest_ns - answers[0].latest_ns < rested_ns:
                return False
        return True


def router_of(host: Host, rank: int, settings: Settings, addresses: dict[str, str]) -> Router:
    """Return keepalived of one node with some addresses, by name."""
    return Router(
        host=host,
        rank=rank,
        settings=settings,
        addresses={name: f"{address}/24" for name, address in addresses.items()},
        checked="web",
        port=WEB_PORT,
        path=HEALTH_PATH,
    )


@dataclass(frozen=True, slots=True)
class Peer:
    """One subject to choose, by its title: vipkeeper's profile, or keepalived's settings.

    The seconds are what the estimate rests on: from a fault to another owner, and until it may be next.
    """

    title: str
    profile_or_settings: str | Settings
    takes_over_s: float
    rests_s: float

    def subject_in(self, lab: Lab) -> Subject:
        """Return the subject, in a lab of its own."""
        if isinstance(self.profile_or_settings, str):
            return Vipkeeper(self.title, lab, self.profile_or_settings)
        return Keepalived(self.title, lab, self.profile_or_settings)

    def described(self) -> ledger.Settings:
        """Return its settings in full, save that the addresses that only stand by are left out."""
        if isinstance(self.profile_or_settings, str):
            documents = objects(self.profile_or_settings, ADDRESSES)
            return ledger.Settings(
                who=self.title, language="yaml", text=yaml.safe_dump_all(documents, sort_keys=False)
            )
        first = Host(name="node-a", number=0, network=-1, folder=Path("/etc/keepalived"))
        router = router_of(first, 0, self.profile_or_settings, ADDRESSES)
        return ledger.Settings(who=self.title, language="text", text=keepalived.indented(router))


PEERS = (
    Peer("vipkeeper, Balanced", "Balanced", 0.5, 3.0),
    Peer("vipkeeper, Fast", "Fast", 0.3, 3.0),
    Peer(keepalived.DEFAULT.title, keepalived.DEFAULT, 3.5, 4.0),
    Peer(keepalived.QUICK.title, keepalived.QUICK, 0.5, 2.0),
)


def peers_with(texts: str) -> list[Peer]:
    """Return the subjects that some texts pick (`lab.choice`)."""
    return choice.picked(texts, PEERS, lambda peer: [peer.title])


def expected_s(peers: Sequence[Peer], chosen_faults: Sequence[Fault], runs: int) -> float:
    """Return about how long a comparison takes on an idle machine, in seconds."""
    return sum(
        STARTS_S
        + IDLE_S
        + runs
        * sum(
            peer.rests_s + (LASTS_S if fault.is_undone_late else peer.takes_over_s) + AFTERMATH_S + LAG_S
            for fault in chosen_faults
        )
        for peer in peers
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault; `is_undone_late` keeps it for `LASTS_S`, whoever has taken over by then."""

    title: str
    commit: Callable[[Subject, Host], None]
    undo: Callable[[Subject, Host], None]
    label: str = "minimal"
    reads: str = ""
    is_undone_late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one fault cost. `after` is None if nobody answers, `hiccup_ms` the control address's silence."""

    before: str
    after: str | None
    outage_ms: float
    shared_ms: float
    hiccup_ms: float


def _kill(subject: Subject, node: Host) -> None:
    for process in subject.daemons(node):
        process.kill()


def _freeze(subject: Subject, node: Host) -> None:
    for process in subject.daemons(node):
        process.freeze()


def _thaw(subject: Subject, node: Host) -> None:
    for process in subject.daemons(node):
        process.thaw()


def _stop(subject: Subject, node: Host) -> None:
    for process in subject.daemons(node):
        process.child.terminate()


def _start_again(subject: Subject, node: Host) -> None:
    """Start what was stopped, once it has ended: two of them would be in each other's way."""
    for process in subject.daemons(node):
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise NotReadyError(f"{process.name} was told to stop, and runs {PATIENCE_S} s later") from None
    subject.restart(node)


def _separate(subject: Subject, node: Host) -> None:
    subject.lab.faults.add(
        *faults.apart(node.name, *(name for name in subject.lab.nodes if name != node.name))
    )


def _restart_webserver(subject: Subject, node: Host) -> None:
    subject.web[node.name] = subject.lab.start_webserver(node)


FAULTS = (
    Fault(
        title="node loses power",
        commit=lambda subject, node: subject.lab.power_off(node),
        undo=lambda subject, node: subject.power_on(node),
    ),
    Fault(
        title="cable pulled",
        commit=lambda subject, node: subject.lab.segment.cut(node),
        undo=lambda subject, node: subject.lab.segment.mend(node),
    ),
    Fault(
        title="daemon killed (-9)",
        commit=_kill,
        undo=lambda subject, node: subject.restart(node),
        is_undone_late=True,
    ),
    Fault(title="daemon frozen", commit=_freeze, undo=_thaw, is_undone_late=True),
    Fault(title="daemon stopped", commit=_stop, undo=_start_again),
    Fault(
        title="owner cut off from its peers only",
        commit=_separate,
        undo=lambda subject, _: subject.lab.faults.clear(),
        is_undone_late=True,
    ),
    Fault(
        title="web server dies",
        commit=lambda subject, node: subject.web[node.name].kill(),
        undo=_restart_webserver,
        label="web",
        reads=HTTP,
    ),
    Fault(
        title="moved by hand",
        commit=lambda subject, node: subject.move("minimal", node),
        undo=lambda subject, node: subject.moved("minimal", node),
    ),
)


def chosen(only: str) -> list[Fault]:
    """Return the faults that some texts pick (`lab.choice`)."""
    return choice.picked(only, FAULTS, lambda fault: [fault.title])


def run(
    binaries: Binaries,
    say: Say,
    book: Ledger,
    *,
    runs: int,
    chosen_faults: Sequence[Fault],
    peers: Sequence[Peer],
    load: Collection[str],
) -> None:
    """Do faults to subjects, each in a lab of its own, and write down what came of it.

    A subject that does not come to rest is set up anew for the next fault. Raises `KeepalivedMissingError`.
    """
    for peer in peers:
        book.add(peer.described())
        remaining, lab_number = list(chosen_faults), 0
        while remaining:
            lab_number += 1
            say(f"{peer.title}: bringing up three nodes")
            folder = enclosure.scratch_folder() / f"{peer.title.replace(' ', '-')}-{lab_number}"
            subject = peer.subject_in(Lab(binaries, folder, nodes=3))
            burden = Burden(subject.lab, load)
            remaining = measure(subject, remaining, runs, book, say, burden=burden, with_idle=lab_number == 1)


def measure(
    subject: Subject,
    chosen_faults: Sequence[Fault],
    runs: int,
    book: Ledger,
    say: Say,
    *,
    burden: Burden,
    with_idle: bool,
) -> list[Fault]:
    """Set a subject up, measure what it costs while idle, and then do the faults to it under a burden.

    Returns the faults that it did not get to: those after the one in which it failed.
    """
    remaining = list(chosen_faults)
    try:
        subject.set_up()
        if with_idle:
            for each in _idle(subject):
                book.add(each)
        burden.start()
        while remaining:
            fault = remaining[0]
            for number in range(1, runs + 1):
                cost = _once(subject, fault, number, burden.named)
                book.add(cost)
                say(
                    f"  {fault.title} ({subject.title}) {number}/{runs}: {_shown(cost.outage_ms)}, "
                    f"two owners {_shown(cost.shared_ms)}, control {_shown(cost.hiccup_ms)}, "
                    f"{cost.before} to {cost.after}, took {cost.took_s:.1f} s"
                )
            remaining.pop(0)
    except (NotReadyError, ProcessFailedError) as failure:
        say(f"FAILED: {failure}")
        book.add(ledger.Failure(of=f"{subject.title}: {remaining[0].title}", message=str(failure)))
        return remaining[1:]
    finally:
        burden.end()
        subject.lab.close()
    return []


def _once(subject: Subject, fault: Fault, number: int, load: str) -> ledger.Beside:
    started_s = time.monotonic()
    subject.rest()
    cost = suffer(subject, fault)
    return ledger.Beside(
        who=subject.title,
        fault=fault.title,
        load=load,
        number=number,
        before=cost.before,
        after=cost.after,
        outage_ms=ledger.finite(cost.outage_ms),
        shared_ms=round(cost.shared_ms, 3),
        hiccup_ms=ledger.finite(cost.hiccup_ms),
        took_s=round(time.monotonic() - started_s, 1),
    )


def _shown(length_ms: float | None) -> str:
    return "no end" if length_ms is None else f"{length_ms:.1f} ms"


def suffer(subject: Subject, fault: Fault) -> Cost:
    """Commit a fault to the node that answers, undo it, and tell what it cost; raises `NotReadyError`."""
    name = _answerer(subject, fault.label, since_ns=0)
    if name is None:
        raise NotReadyError(f"nobody answers for {fault.label}, whom to do this to: {fault.title}")
    owner = subject.lab.nodes[name]
    fault_ns = time.monotonic_ns()
    fault.commit(subject, owner)
    until_s = time.monotonic() + TAKEN_OVER_S
    while time.monotonic() < until_s and _answerer(subject, _probed(fault), since_ns=fault_ns) in (
        None,
        owner.name,
    ):
        if fault.is_undone_late and time.monotonic_ns() - fault_ns > LASTS_S * 1e9:
            break
        time.sleep(0.02)
    if fault.is_undone_late:
        time.sleep(max(0.0, LASTS_S - (time.monotonic_ns() - fault_ns) / 1e9))
    undone_ns = time.monotonic_ns()
    fault.undo(subject, owner)
    time.sleep(AFTERMATH_S)
    until_ns = subject.measured.settle()
    silence = analysis.longest_silence(
        subject.measured.probes(_probed(fault), since_ns=fault_ns - LAG_NS),
        since_ns=fault_ns,
        until_ns=until_ns,
        interval_ns=HTTP_INTERVAL_NS if fault.reads == HTTP else analysis.INTERVAL_NS,
    )
    answers = subject.measured.answers(fault.label, since_ns=fault_ns - LAG_NS)
    after = _answerer(subject, _probed(fault), since_ns=undone_ns)
    return Cost(
        before=owner.name,
        after=after,
        outage_ms=silence.length_ms,
        shared_ms=analysis.shared_ns(answers, since_ns=fault_ns) / MILLISECOND,
        hiccup_ms=subject.measured.hiccup_ms(since_ns=fault_ns, until_ns=until_ns),
    )


def _probed(fault: Fault) -> str:
    return f"{fault.label}-{fault.reads}" if fault.reads else fault.label


def _answerer(subject: Subject, label: str, *, since_ns: int) -> str | None:
    """Return who answered the client last."""
    recent_ns = max(since_ns, time.monotonic_ns() - RECENTLY_NS)
    newest_first = reversed(subject.measured.probes(label, since_ns=recent_ns))
    return next((probe.node for probe in newest_first if probe.node), None)


def _idle(subject: Subject) -> list[ledger.Idle]:
    """Measure what each part of a subject costs while nothing happens."""
    before = [sum(map(cpu_s, pids)) for _, pids in subject.processes()]
    started_s = time.monotonic()
    time.sleep(IDLE_S)
    elapsed_s = time.monotonic() - started_s
    return [
        ledger.Idle(
            who=subject.title,
            part=name,
            resident_mb=round(sum(map(resident_mb, pids)), 1),
            core=round(100 * (sum(map(cpu_s, pids)) - spent_s) / elapsed_s, 2),
        )
        for (name, pids), spent_s in zip(subject.processes(), before, strict=True)
    ]


def cpu_s(pid: int) -> float:
    """Return the seconds of CPU of a process and of its children that have ended; 0 if it has ended itself.

    A check script is over in milliseconds: it is there as a child that has ended, or not at all.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Return how much memory a process has resident, in MB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
