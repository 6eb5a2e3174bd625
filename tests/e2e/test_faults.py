"""The faults of `make demo`, done to keepers that are containers, on nodes with kubelets.

What each cost is in the table at the end of the run, beside the budget that the demonstration has. A budget
that was missed fails nothing, for machines are noisy; an address on two nodes does, and one that does not
come back.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from e2e.podstage import KEEPER
from lab.stage import HTTP

if TYPE_CHECKING:
    from e2e.chart import Chart
    from e2e.cluster import Cluster
    from e2e.conftest import Told
    from e2e.podstage import PodStage

PRIMARY = "node-a"  # the candidate of examples/virtualip-http-check.yaml with the highest priority
FREEZE_S = 5.0
BACK_S = 60


def test_an_address_follows_its_service_away_and_home(stage: PodStage, told: Told) -> None:
    home = stage.lab.nodes[PRIMARY]
    stage.wait_until(f"web on {PRIMARY}", lambda: stage.owner("web") is home)

    away = stage.act("web", stage.web[PRIMARY].kill, reads=HTTP)

    told.fault(f"the HTTP server on {PRIMARY} dies", away, budget_ms=700)

    def repair() -> None:
        stage.web[PRIMARY] = stage.lab.start_webserver(home)

    back = stage.act("web", repair, reads=HTTP, expect=PRIMARY, patience_s=40)
    told.fault("automatic failback", back, budget_ms=60)
    stage.rest("web", "minimal")
    assert away.is_safe
    assert back.is_safe


def test_an_address_leaves_a_node_whose_link_is_cut(stage: PodStage, told: Told) -> None:
    owner = stage.owner("minimal")

    outcome = stage.act("minimal", lambda: stage.lab.segment.cut(owner))

    told.fault(f"the link of {owner.name} is cut", outcome, budget_ms=700)
    stage.lab.segment.mend(owner)
    stage.rest("minimal", "web")
    assert outcome.is_safe


def test_an_address_leaves_a_node_whose_keeper_is_killed(
    stage: PodStage, cluster: Cluster, told: Told
) -> None:
    owner = stage.owner("minimal")
    before = stage.incarnation(owner)

    outcome = stage.act("minimal", lambda: cluster.machines[owner.name].signal(KEEPER, signal.SIGKILL))

    told.fault(f"kill -9 of the keeper's container on {owner.name}", outcome, budget_ms=250)
    cluster.wait_until(
        "the keeper started again", lambda: stage.incarnation(owner) > before, patience_s=BACK_S
    )
    stage.rest("minimal", "web")
    assert outcome.is_safe


def test_an_address_leaves_a_node_whose_keeper_is_frozen(
    stage: PodStage, cluster: Cluster, told: Told
) -> None:
    owner = stage.owner("minimal")
    machine = cluster.machines[owner.name]

    outcome = stage.act(
        "minimal",
        lambda: machine.signal(KEEPER, signal.SIGSTOP),
        lasts_s=FREEZE_S,
        undo=lambda: machine.signal(KEEPER, signal.SIGCONT),
    )

    told.fault(f"the keeper on {owner.name} is frozen for {FREEZE_S:.0f} s", outcome, budget_ms=250)
    stage.rest("minimal", "web")
    assert outcome.is_safe


def test_an_address_is_moved_as_planned(stage: PodStage, told: Told) -> None:
    owner = stage.owner("minimal").name
    target = next(name for name in stage.lab.nodes if name != owner)

    outcome = stage.act("minimal", lambda: stage.move("minimal", target), expect=target)

    told.fault(f"planned move to {target}", outcome, budget_ms=60)
    stage.rest("minimal", "web")
    assert outcome.is_safe


def test_an_address_leaves_a_dead_node_without_an_api_server_and_comes_back_by_hand(
    stage: PodStage, chart: Chart, cluster: Cluster, told: Told
) -> None:
    home = stage.owner("minimal")
    cluster.plane.stop()

    away = stage.act("minimal", lambda: stage.power_off(home))

    told.fault(f"API server and etcd are down, then {home.name} dies", away, budget_ms=700)
    cluster.plane.start_etcd()
    cluster.plane.start_apiserver()
    stage.power_on(home)
    cluster.await_node(home.name)
    chart.await_ready()
    stage.rest("minimal", "web")
    stayed = stage.owner("minimal").name
    assert away.is_safe
    assert stayed == away.after

    back = stage.act("minimal", lambda: stage.move("minimal", home.name), expect=home.name)

    told.fault(f"manual failback: {home.name} is back, but {stayed} kept it", back, budget_ms=60)
    stage.rest("minimal", "web")
    assert back.is_safe
