"""The cluster of all tests of this folder, what is in it, and what is told at the end.

There is one cluster for all modules in a row that want as many nodes: three, or as many as a module's `NODES`
says. A test leaves it as it found it, and before another one starts it ends. When a test fails, the cluster's
events and the ends of its logs are shown, those of the containers too.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from rich.table import Table

import gotools
from e2e import images
from e2e.chart import NEXT, REGISTRY, Chart
from e2e.cluster import Cluster, Programs
from e2e.podstage import EXAMPLES, PodStage
from lab import binaries, enclosure, kernelcalls
from lab.cluster import ROOT
from lab.stage import urls_for

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from e2e.podstage import Move
    from lab.binaries import Binaries
    from lab.stage import Outcome

NODES = 3
ADDRESSES = {"minimal": "192.0.2.10", "web": "192.0.2.11"}
LOG_TAIL = 3000
TEST_S = 600  # the first test also waits for the cluster
MOVE_MS = 60  # what a planned move may cost at most
BUSY = {"etcd.log", "kube-apiserver.log", "ctr.log"}


@dataclass(slots=True)
class Told:
    """What is told at the end of the run: measured times, and what faults cost."""

    times: list[tuple[str, float]] = field(default_factory=list)
    faults: list[tuple[str, Outcome, float | None]] = field(default_factory=list)
    moves: list[tuple[str, Move]] = field(default_factory=list)

    def time(self, what: str, seconds: float) -> None:
        """Note how long something took."""
        self.times.append((what, seconds))

    def fault(self, title: str, outcome: Outcome, *, budget_ms: float | None = None) -> Outcome:
        """Note what a fault cost, and return that."""
        self.faults.append((title, outcome, budget_ms))
        return outcome

    def move(self, title: str, move: Move) -> None:
        """Note what one of several moves cost."""
        self.moves.append((title, move))


_told = Told()
_running: list[Cluster] = []  # the cluster, if there is one, also for what fails before a test has it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo and item.path.is_relative_to(Path(__file__).parent):
        for running in _running:
            report.sections.extend(_evidence(running))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(TEST_S))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cluster" in metafunc.fixturenames:
        nodes = getattr(metafunc.module, "NODES", NODES)
        ids = [pytest.HIDDEN_PARAM]
        metafunc.parametrize("cluster", [nodes], indirect=True, ids=ids, scope="session")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    console = Console(file=terminalreporter._tw._file, width=130)  # noqa: SLF001
    if _told.times:
        table = Table(title="how long it took", title_justify="left")
        table.add_column("what")
        table.add_column("seconds", justify="right")
        for what, seconds in _told.times:
            table.add_row(what, f"{seconds:.1f}")
        console.print(table)
    if _told.faults:
        console.print(_fault_table())
    if _told.moves:
        console.print(_move_table())


@pytest.fixture(scope="session")
def told() -> Told:
    """What is told at the end of the run."""
    return _told


@pytest.fixture(scope="session")
def programs(control_plane_binaries: Binaries, say: Callable[[str], None]) -> Programs:
    """All that a cluster is made of, built if need be. vipkeeper's images are those of `make images`."""
    with kernelcalls.entered(enclosure.outside_network()):
        own = list(images.archives().values())
        missing = [str(each) for each in own if not each.exists()]
        assert not missing, f"run `make images` first: there is no {' and no '.join(missing)}"
        return Programs(
            plane=control_plane_binaries,
            cluster=binaries.locate_cluster_programs(say),
            helm=gotools.locate("helm", say),
            archives=[images.pause_archive(say), *own],
        )


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line at once, past pytest's capture."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def print_it(line: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    return print_it


@pytest.fixture(scope="session")
def cluster(programs: Programs, told: Told, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Nodes with kubelets, which are Ready, as many as the module wants; nothing is installed."""
    nodes: int = request.param
    folder = Path(tempfile.mkdtemp(dir=enclosure.scratch_folder()))
    started = time.monotonic()
    running = Cluster(programs, folder, nodes=nodes)
    try:
        _running.append(running)
        running.start()
        told.time(
            f"a cluster from nothing: {nodes} nodes Ready, images in their stores", time.monotonic() - started
        )
        yield running
    finally:
        _running.clear()
        running.close()
    assert not running.left_behind()


@pytest.fixture(scope="session")
def chart(cluster: Cluster, told: Told) -> Chart:
    """vipkeeper, installed from its chart; every pod is Ready."""
    release = Chart(cluster)
    started = time.monotonic()
    release.install()
    told.time(f"helm install --wait, on {len(cluster.nodes)} nodes", time.monotonic() - started)
    release.await_ready()
    return release


@pytest.fixture(scope="session")
def stage(cluster: Cluster, chart: Chart, told: Told) -> PodStage:
    """The examples' addresses, held by nodes that serve a page, and measured."""
    assert chart.is_ready()
    made = PodStage(cluster)
    made.start()
    applied = time.monotonic()
    for name in EXAMPLES:
        cluster.plane.kubectl("apply", "-f", ROOT / "examples" / f"{name}.yaml")
        if name.startswith("failoverdomain"):
            cluster.plane.kubectl("wait", "fod/default", "--for=condition=Quorate", "--timeout=30s")
    made.watch(ADDRESSES, urls=urls_for({"web": ADDRESSES["web"]}))
    for name in ADDRESSES:
        made.owner(name)
    made.first_answer_s = time.monotonic() - applied
    told.time("kubectl apply of the examples, until both addresses answer", made.first_answer_s)
    made.rest(*ADDRESSES)
    return made


@pytest.fixture(scope="session")
def next_version(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return vipkeeper's next version, whose images every node has."""
    folder = tmp_path_factory.mktemp("next-version")
    made: list[Path] = []
    for name, archive in images.archives().items():
        made.append(folder / archive.name)
        image = f"{REGISTRY}/vipkeeper/{name}:{NEXT}"
        images.write_next_version(archive, made[-1], name=image, version=NEXT)
    cluster.load(made)
    return NEXT


def _fault_table() -> Table:
    table = Table(title="what each fault cost a client", title_justify="left")
    table.add_column("fault", overflow="fold")
    for column in ("address", "from → to"):
        table.add_column(column)
    for column in ("outage", "budget", "control"):
        table.add_column(column, justify="right")
    table.add_column("two owners")
    for title, outcome, budget_ms in _told.faults:
        table.add_row(
            title,
            outcome.virtual_ip,
            f"{outcome.before} → {outcome.after or 'nobody'}",
            f"{outcome.outage_ms:.0f} ms",
            "" if budget_ms is None else f"≤ {budget_ms:.0f} ms",
            f"{outcome.hiccup_ms:.0f} ms",
            "YES" if outcome.overlaps else "never",
        )
    return table


def _move_table() -> Table:
    table = Table(title="what each hand-over cost a client", title_justify="left")
    for column in ("while", "address", "from → to"):
        table.add_column(column)
    for column in ("outage", "budget", "control"):
        table.add_column(column, justify="right")
    for title, move in _told.moves:
        table.add_row(
            title,
            move.virtual_ip,
            f"{move.before} → {move.after}",
            f"{move.outage_ms:.1f} ms",
            f"≤ {MOVE_MS:.0f} ms",
            f"{move.hiccup_ms:.1f} ms",
        )
    return table


def _evidence(cluster: Cluster) -> Iterator[tuple[str, str]]:
    for what in (
        ("get", "pods", "-A", "-o", "wide"),
        ("get", "events", "-A"),
        ("get", "vip,fod", "-o", "wide"),
    ):
        try:
            yield f"kubectl {' '.join(what)}", cluster.plane.kubectl(*what)[-2 * LOG_TAIL :]
        except Exception as failure:  # noqa: BLE001  # the API server may be what is broken
            yield f"kubectl {' '.join(what)}", f"{failure}"
    logs = [*cluster.folder.glob("*/*.log"), *cluster.folder.glob("*/var/log/pods/*/*/*.log")]
    for log in sorted(logs):
        if log.name not in BUSY and (tail := log.read_text(errors="replace")[-LOG_TAIL:]):
            yield f"end of {log.relative_to(cluster.folder)}", tail
