"""vipkeeper-keeper: reads its options, checks the ground it stands on, and runs the keeper.

With `--clean` it holds nothing, but takes away what keepers left on the node (`sweeping`).

Exit status: 0 after an orderly stop, 1 when something that it needs is missing (each on its own line,
with its remedy), 2 for unusable options, 143 when `--clean` was ended before the node was clean.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import signal
import sys
from functools import partial
from pathlib import Path

from vipagent import fences, leash_fence, leash_ocf, machine, metrics, realtime
from vipagent.announcer import Announcer
from vipagent.disk import Disk
from vipagent.keeper import Keeper
from vipagent.kernel import Kernel, KernelRefused
from vipagent.leash_cgroups import default_cgroup
from vipagent.listener import Listener
from vipagent.node import Node
from vipagent.packetfence import FenceRefused
from vipagent.preflight import inspect, look
from vipagent.probes import Probes
from vipagent.probes_exec import HookRunner
from vipagent.runner import Runner
from vipagent.sweeping import claim_after_the_last_keeper, still_started, sweep
from vipagent.tenancy import claim
from vipapi import __version__, listen
from viphealth import ending, server

LEDGER = "services.json"

_log = logging.getLogger("vipagent")


def main() -> None:
    """Run the keeper until SIGTERM or SIGINT."""
    ending.end_at_once()
    options = _options(sys.argv[1:])
    logging.basicConfig(
        level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    missing = inspect(look(options.state_dir, options.fence_backend))
    for problem in missing:
        _log.critical("%s: %s", problem.reason, problem.message)
    if missing:
        sys.exit(1)
    try:
        if options.clean:
            ending.end_unfinished()
            _clean(options)
        else:
            asyncio.run(_run(options))
    except (FenceRefused, KernelRefused, server.CannotServeHealth, OSError) as error:
        _log.critical("%s", error)
        sys.exit(1)


def _clean(options: argparse.Namespace) -> None:
    disk = Disk(options.state_dir)
    if not claim_after_the_last_keeper(disk, options.patience):
        _log.critical("A keeper runs on: nothing was taken away, and nothing will be")
        while True:
            signal.pause()  # who ended would be started again, and win the place one day
    asyncio.run(sweep(disk))
    ending.end_at_once()
    if started := asyncio.run(still_started(options.state_dir / LEDGER)):
        _log.warning("Services that nobody stops any more: %s. Stop them by hand", ", ".join(started))
    _log.info("Nothing of vipkeeper is left on this node but promises, in %s", options.state_dir)
    if options.stay:
        signal.pause()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vipkeeper-keeper", description="Holds virtual IPs on this node.")
    parser.add_argument("--node", help="this node's name, as Kubernetes has it")
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path("/var/lib/vipkeeper"),
        help="what must outlive the keeper is kept here",
    )
    parser.add_argument(
        "--socket", type=Path, default=Path("/run/vipkeeper/keeper.sock"), help="where the courier connects"
    )
    parser.add_argument(
        "--hooks-dir",
        type=Path,
        default=Path("/etc/vipkeeper/hooks"),
        help="programs that exec checks and services may run",
    )
    parser.add_argument(
        "--services-cgroup",
        type=Path,
        help="cgroup below which services run; absent: vipkeeper-NODE below the keeper's own",
    )
    parser.add_argument(
        "--ocf-root",
        type=Path,
        default=leash_ocf.ROOT,
        help="where the node's resource agents (OCF) are: in PATH/resource.d/PROVIDER/TYPE",
    )
    parser.add_argument(
        "--fence",
        choices=leash_fence.WAYS,
        help="how this node ends itself when a service with `onStopFailure: Fence` cannot be stopped: reboot "
        "(the machine restarts at once), namespace (the node is itself a container); absent: not at all",
    )
    parser.add_argument(
        "--fence-backend",
        choices=fences.BACKENDS,
        default="auto",
        help="what keeps addresses silent that this node does not hold: bpf, nftables, or auto, which is "
        "nftables where BPF is not to be had",
    )
    parser.add_argument(
        "--metrics", type=listen.parse, default=("127.0.0.1", 9946), help="address:port of the metrics"
    )
    parser.add_argument(
        "--health",
        type=listen.parse,
        help="address:port of /healthz and /readyz, such as 127.0.0.1:9956; absent: not served",
    )
    parser.add_argument(
        "--clean",
        action="store_true",
        help="wait for the end of the keeper, take away what it left in this node's kernel, and end",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="with --clean: how long to wait for the keeper's end; then the node is left as it is, and this "
        "only waits to be ended itself; absent: without end",
    )
    parser.add_argument("--stay", action="store_true", help="with --clean: do not end, let no keeper start")
    parser.add_argument("--witness-only", action="store_true", help="vote, but never hold an address")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.node is None and not options.clean:
        parser.error("--node is required")
    return options


async def _run(options: argparse.Namespace) -> None:
    disk = Disk(options.state_dir)
    claim(disk)
    incarnation = disk.next_incarnation()
    metrics.incarnation.set(incarnation)
    metrics.serve(*options.metrics)
    async with contextlib.AsyncExitStack() as stack:
        fence = fences.load(options.fence_backend)
        stack.callback(fence.release)
        metrics.fence.labels(fences.kind(fence)).set(1)
        kernel = await stack.enter_async_context(Kernel.open())
        announcer = Announcer.open(disk=disk)
        stack.callback(announcer.close)
        listener = Listener()
        stack.callback(listener.close)
        node = Node(kernel=kernel, fence=fence, announcer=announcer)
        probes = Probes(
            hooks_dir=options.hooks_dir,
            gateways=node.gateways,
            facts=lambda: keeper.facts,
            closed=(options.state_dir, options.socket.parent),
        )
        stack.push_async_callback(probes.close)
        hooks = HookRunner(options.hooks_dir)
        stack.push_async_callback(hooks.close)
        keeper = Keeper(
            name=options.node,
            version=__version__,
            machine=machine.identity(),
            incarnation=incarnation,
            is_witness_only=options.witness_only,
            node=node,
            listener=listener,
            run_probe=probes.run,
            runner_for=partial(
                Runner,
                node=options.node,
                hooks_dir=options.hooks_dir,
                ocf_root=options.ocf_root,
                fence=options.fence,
                cgroup=options.services_cgroup or default_cgroup(options.node),
                ledger=options.state_dir / LEDGER,
            ),
            run_hook=hooks.run,
            disk=disk,
            socket=options.socket,
        )
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        if options.health is not None:
            stack.enter_context(server.serve(options.health, server.of_loop(loop, keeper.health)))
        for refusal in realtime.claim_real_time():
            _log.warning("%s", refusal)
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        _log.info("Keeper of %s started, incarnation %d", options.node, incarnation)
        await keeper.run(stop)
    _log.info("Keeper stopped")


if __name__ == "__main__":
    main()
