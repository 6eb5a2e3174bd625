"""What can go wrong with a service that follows its address: each fault, how it is undone, how it must end.

A fault is committed to the node that runs the service. How it must end is the promise: never two copies,
whatever happens, and

    TOLD     another node has it as soon as this one has said that nothing of it runs any more
    LEASHED  this one cannot say so: another node has it when this one's leash must have ended it
    STAYS    it goes on where it is
    NOWHERE  nobody may start it, for nobody can know that it is gone

Two faults at once are no part of this, save those that `without_api_server` and a standby's own trouble
make. What must never happen is looked for by `copies`, not here.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from lab import faults, legacy, legacyserver
from lab.faults import Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from lab.site import Site
    from lab.topology import Host

LEASH = "vipagent.leash"
PATIENCE_S = 10


class Ending(Enum):
    """How a fault must end for the service."""

    TOLD = "told"
    LEASHED = "leashed"
    STAYS = "stays"
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFault:
    """One fault, as what is done to the node that runs the service.

    `lasts_s` is how long it is left before it is undone, however soon the service is back. `futile_starts`
    is how many nodes try to start the service in vain before one can. `like` names a fault of this table that
    shows nearly the same, so that `make test` does without this one; `make faults` does not. `is_death` says
    that the service, and nothing else, dies or fails.
    """

    name: str
    commit: Callable[[Site, Host], None]
    undo: Callable[[Site, Host], None]
    ending: Ending
    lasts_s: float = 0
    futile_starts: int = 0
    like: str = ""
    is_death: bool = False


def processes_on(host: Host) -> list[int]:
    """Return every process in a host's network, whoever started it and however it detached itself."""
    network = os.fstat(host.network)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                own = (entry / "ns" / "net").stat()
            except OSError:  # it has ended meanwhile
                continue
            if (own.st_dev, own.st_ino) == (network.st_dev, network.st_ino):
                found.append(int(entry.name))
    return found


def kill_everything_on(host: Host, *, sparing: Collection[int] = ()) -> None:
    """Kill -9 all that runs on a host, also what left its process group, until nothing does.

    A process that ends leaves its network before its files are closed and their locks lifted: from then on
    only its pid descriptor tells that it is not gone yet.
    """
    deadline = time.monotonic() + PATIENCE_S
    while remaining := set(processes_on(host)).difference(sparing):
        with ExitStack() as descriptors:
            ending = [each for pid in remaining if (each := killed(pid, descriptors)) is not None]
            for descriptor in ending:
                left_s = max(deadline - time.monotonic(), 0)
                assert select.select([descriptor], [], [], left_s)[0], f"{host.name} still runs {remaining}"


def killed(pid: int, descriptors: ExitStack) -> int | None:
    """Kill -9 a process; return a descriptor that is readable when it has ended, None if it had already."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    descriptors.callback(os.close, descriptor)
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    return descriptor


def signal_to(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process of the lab, which may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def leash_of(host: Host) -> int:
    """Return the process id of a host's leash."""
    [found] = [pid for pid in processes_on(host) if f"\0{LEASH}\0" in command_of(pid)]
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def server_of(site: Site, owner: Host) -> int:
    """Return the process id of the service on its owner, as it wrote it itself."""
    return int((site.installed[owner.name].folder / legacyserver.PID_FILE).read_text())


def nothing(_site: Site, _owner: Host) -> None:
    """There is nothing to undo, or nothing to do."""


def restore(site: Site, _owner: Host) -> None:
    """Mend every misbehaviour and start again what ended."""
    site.restore()


def kill_keeper(site: Site, owner: Host) -> None:
    """The leash is in a session of its own and lives on."""
    site.stage.agents.keepers[owner.name].kill()


def kill_and_restart_keeper(site: Site, owner: Host) -> None:
    """As a kubelet or systemd does: the new keeper finds what the old one left."""
    kill_keeper(site, owner)
    site.stage.agents.restart(owner)


def end_keeper(site: Site, owner: Host) -> None:
    """SIGTERM, as at an upgrade: it hands over before it ends."""
    code = site.stage.agents.keepers[owner.name].terminate(patience_s=30)
    assert code == 0, f"the keeper of {owner.name} ended with {code}"


def freeze_keeper(site: Site, owner: Host) -> None:
    site.stage.agents.keepers[owner.name].freeze()


def thaw_keeper(site: Site, owner: Host) -> None:
    site.stage.agents.keepers[owner.name].thaw()


def kill_leash(_site: Site, owner: Host) -> None:
    signal_to(leash_of(owner), signal.SIGKILL)


def cut(site: Site, owner: Host) -> None:
    """Pull the cable: the kernel tells the node."""
    site.stage.lab.segment.cut(owner)


def mend(site: Site, owner: Host) -> None:
    site.stage.lab.segment.mend(owner)


def silence(site: Site, owner: Host) -> None:
    """Lose everything while the carrier stays, as behind a broken switch."""
    site.stage.lab.faults.add(*faults.silence(owner.name))


def deafen(site: Site, owner: Host) -> None:
    """Lose all that the others send to it."""
    site.stage.lab.faults.add(Loss(receiver=owner.name))


def mute(site: Site, owner: Host) -> None:
    """Lose all that it sends."""
    site.stage.lab.faults.add(Loss(sender=owner.name))


def part(site: Site, owner: Host) -> None:
    """Keep it from its peers; the API server and clients reach it as before."""
    others = [name for name in site.stage.lab.nodes if name != owner.name]
    site.stage.lab.faults.add(*faults.apart(owner.name, *others))


def clear_faults(site: Site, _owner: Host) -> None:
    site.stage.lab.faults.clear()


def power_off(site: Site, owner: Host) -> None:
    """Pull the plug: nothing of the node goes on, what left its process group included."""
    site.stage.power_off(owner)
    watching = site.watch.started.get(owner.name)
    kill_everything_on(owner, sparing={watching.child.pid} if watching else ())


def power_on(site: Site, owner: Host) -> None:
    """Boot it, and look for copies in its new network, too."""
    site.stage.power_on(owner)
    site.watch.watch(owner)


def crash(site: Site, owner: Host) -> None:
    site.installed[owner.name].wish(legacyserver.CRASH)


def kill_server(site: Site, owner: Host) -> None:
    signal_to(server_of(site, owner), signal.SIGKILL)


def sicken(site: Site, owner: Host) -> None:
    """Its page is answered with status 500; it runs, and has its port open."""
    site.installed[owner.name].wish(legacyserver.SICK)


def freeze_server(site: Site, owner: Host) -> None:
    """It runs, has its port open and answers nobody."""
    signal_to(server_of(site, owner), signal.SIGSTOP)


def ask_away(site: Site, owner: Host) -> None:
    """A planned move to the first standby."""
    site.stage.move(site.virtual_ip, site.standbys(owner)[0].name)


def ask_away_with_a_stop_hook_that_hangs(site: Site, owner: Host) -> None:
    site.installed[owner.name].replace(legacy.STOP, legacy.HANGING)
    ask_away(site, owner)


def ask_away_with_a_server_that_hangs(site: Site, owner: Host) -> None:
    """The server ignores SIGTERM, so the example's stop hook waits for it without end."""
    site.installed[owner.name].wish(legacyserver.HANG)
    ask_away(site, owner)


def ask_away_with_a_stop_that_cannot_be_proved(site: Site, owner: Host) -> None:
    """The stop hook fails and the status hook goes on saying that it runs."""
    site.installed[owner.name].replace(legacy.STOP, legacy.FAILING)
    site.installed[owner.name].replace(legacy.STATUS, legacy.PASSING)
    ask_away(site, owner)


def crash_while_the_first_standby_cannot_start_it(site: Site, owner: Host) -> None:
    site.installed[site.standbys(owner)[0].name].wish(legacyserver.FAIL_START)
    crash(site, owner)


def crash_while_the_first_standby_starts_it_without_end(site: Site, owner: Host) -> None:
    site.installed[site.standbys(owner)[0].name].replace(legacy.START, legacy.HANGING)
    crash(site, owner)


def take_the_api_server_away(site: Site, _owner: Host) -> None:
    site.stage.lab.plane.stop()


def bring_the_api_server_back(site: Site, _owner: Host) -> None:
    site.stage.lab.plane.start()
    site.stage.agents.restart_controllers()


def kill_courier(site: Site, owner: Host) -> None:
    site.stage.agents.couriers[owner.name].kill()


def kill_controllers(site: Site, _owner: Host) -> None:
    site.stage.agents.stop_controllers()


def without_api_server(fault: ServiceFault, *, like: str = "") -> ServiceFault:
    """Return the same fault, committed while the API server is away; it ends the same."""

    def commit(site: Site, owner: Host) -> None:
        take_the_api_server_away(site, owner)
        fault.commit(site, owner)

    def undo(site: Site, owner: Host) -> None:
        fault.undo(site, owner)
        bring_the_api_server_back(site, owner)

    return replace(fault, name=f"{fault.name}, no API server", commit=commit, undo=undo, like=like)


def with_a_hanging_api_server(fault: ServiceFault) -> ServiceFault:
    """Return the same fault, committed while the API server takes connections and answers nobody."""

    def commit(site: Site, owner: Host) -> None:
        site.stage.lab.plane.freeze_apiserver()
        fault.commit(site, owner)

    def undo(site: Site, owner: Host) -> None:
        site.stage.lab.plane.thaw_apiserver()
        fault.undo(site, owner)

    return replace(fault, name=f"{fault.name}, API server hangs", commit=commit, undo=undo)


KEEPER_KILLED = ServiceFault(name="keeper killed", commit=kill_keeper, undo=restore, ending=Ending.LEASHED)
KEEPER_FROZEN = ServiceFault(
    name="keeper frozen", commit=freeze_keeper, undo=thaw_keeper, ending=Ending.LEASHED, lasts_s=5
)
KEEPER_FROZEN_BRIEFLY = ServiceFault(
    name="keeper frozen briefly", commit=freeze_keeper, undo=thaw_keeper, ending=Ending.STAYS, lasts_s=0.2
)
CABLE_PULLED = ServiceFault(name="cable pulled", commit=cut, undo=mend, ending=Ending.LEASHED)
POWER_OFF = ServiceFault(name="power off", commit=power_off, undo=power_on, ending=Ending.LEASHED)
SERVICE_CRASHED = ServiceFault(
    name="service crashed", commit=crash, undo=restore, ending=Ending.TOLD, is_death=True
)

FAULTS: Sequence[ServiceFault] = (
    KEEPER_KILLED,
    KEEPER_FROZEN,
    KEEPER_FROZEN_BRIEFLY,
    ServiceFault(
        name="keeper killed and restarted at once",
        commit=kill_and_restart_keeper,
        undo=nothing,
        ending=Ending.LEASHED,
    ),
    ServiceFault(name="keeper upgraded", commit=end_keeper, undo=restore, ending=Ending.TOLD),
    ServiceFault(name="leash killed", commit=kill_leash, undo=nothing, ending=Ending.TOLD),
    CABLE_PULLED,
    ServiceFault(
        name="silent network",
        commit=silence,
        undo=clear_faults,
        ending=Ending.LEASHED,
        like="apart from its peers",
    ),
    ServiceFault(name="deaf", commit=deafen, undo=clear_faults, ending=Ending.LEASHED),
    ServiceFault(name="mute", commit=mute, undo=clear_faults, ending=Ending.LEASHED, like="deaf"),
    ServiceFault(name="apart from its peers", commit=part, undo=clear_faults, ending=Ending.LEASHED),
    POWER_OFF,
    SERVICE_CRASHED,
    ServiceFault(
        name="service killed",
        commit=kill_server,
        undo=nothing,
        ending=Ending.TOLD,
        like="service crashed",
        is_death=True,
    ),
    ServiceFault(
        name="service frozen", commit=freeze_server, undo=nothing, ending=Ending.TOLD, is_death=True
    ),
    ServiceFault(name="page fails", commit=sicken, undo=restore, ending=Ending.TOLD, is_death=True),
    ServiceFault(name="planned move", commit=ask_away, undo=nothing, ending=Ending.TOLD),
    ServiceFault(
        name="stop hook hangs",
        commit=ask_away_with_a_stop_hook_that_hangs,
        undo=restore,
        ending=Ending.TOLD,
        like="service ignores SIGTERM",
    ),
    ServiceFault(
        name="service ignores SIGTERM",
        commit=ask_away_with_a_server_that_hangs,
        undo=restore,
        ending=Ending.TOLD,
    ),
    ServiceFault(
        name="stop cannot be proved",
        commit=ask_away_with_a_stop_that_cannot_be_proved,
        undo=restore,
        ending=Ending.NOWHERE,
    ),
    ServiceFault(
        name="standby cannot start it",
        commit=crash_while_the_first_standby_cannot_start_it,
        undo=restore,
        ending=Ending.TOLD,
        futile_starts=1,
    ),
    ServiceFault(
        name="standby's start hangs",
        commit=crash_while_the_first_standby_starts_it_without_end,
        undo=restore,
        ending=Ending.TOLD,
        futile_starts=1,
    ),
    ServiceFault(
        name="API server away",
        commit=take_the_api_server_away,
        undo=bring_the_api_server_back,
        ending=Ending.STAYS,
        lasts_s=3,
    ),
    ServiceFault(name="courier killed", commit=kill_courier, undo=restore, ending=Ending.STAYS, lasts_s=2),
    ServiceFault(
        name="controllers killed", commit=kill_controllers, undo=restore, ending=Ending.STAYS, lasts_s=2
    ),
    without_api_server(POWER_OFF),
    without_api_server(KEEPER_KILLED, like="keeper killed, API server hangs"),
    without_api_server(CABLE_PULLED, like="cable pulled, API server hangs"),
    without_api_server(SERVICE_CRASHED, like="service crashed, API server hangs"),
    *map(with_a_hanging_api_server, (KEEPER_KILLED, CABLE_PULLED, SERVICE_CRASHED)),
)
