"""That a deed is undone however it is left, and that a removed address must come back."""

from __future__ import annotations

import os
import random
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from pyroute2 import IPRoute

from lab import kernelcalls
from lab.addressscene import ADDRESSES, LOOKED_AT
from lab.deeds import fence, keepers, moves, nodes, objects, plane, strangers, witnesses
from lab.stage import NotReadyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.addressscene import Deed

PATIENCE = 3
"""So many looks are taken at what is waited for."""


class Recorder:
    """Something of the lab that notes what is asked of it, and does nothing."""

    _notes: list[str]
    _name: str
    network: int

    def __init__(self, notes: list[str], called: str, /, **known: object) -> None:
        self.__dict__ |= {"_notes": notes, "_name": called, **known}

    def __getattr__(self, name: str) -> Recorder:
        return Recorder(self._notes, f"{self._name}.{name}")

    def __call__(self, *arguments: object, **_: object) -> Recorder:
        self._notes.append(" ".join([self._name, *map(str, arguments)]))
        return self

    def __str__(self) -> str:
        return self._name


@contextmanager
def a_host(name: str, notes: list[str]) -> Iterator[Recorder]:
    """A host with a link and no address, in a network namespace of its own."""
    network = kernelcalls.new_network()
    try:
        with kernelcalls.entered(network), IPRoute() as netlink:
            netlink.link("add", ifname="eth0", kind="veth", peer={"ifname": "other-end"})
        yield Recorder(notes, name, name=name, network=network, mac="02:00:00:00:00:05")
    finally:
        os.close(network)


class Scene:
    """An owner and two others on a stage that notes what is asked of it."""

    def __init__(self, notes: list[str], owner: Recorder, *, is_alone: bool = True) -> None:
        self.owner = owner
        self.others = [Recorder(notes, name, name=name) for name in ("node-b", "node-c")]
        self.is_alone = is_alone
        self.chance = random.Random(1)
        self.keeper = Recorder(notes, "keeper")
        self.outside = Recorder(notes, "outside")
        self.stage = Recorder(
            notes,
            "stage",
            wait_until=self._wait_until,
            key_ids=lambda: {7},
            key=lambda _: b"key",
            agents=Recorder(notes, "agents", controllers=[Recorder(notes, "controller")]),
            lab=Recorder(
                notes, "lab", nodes={owner.name: owner}, segment=Recorder(notes, "segment", add=self._add)
            ),
        )
        self.meanwhile: Callable[[], None] = lambda: None

    def repeating(self, _: object) -> nullcontext[None]:
        return nullcontext()

    def _add(self, *_: object) -> Recorder:
        return self.owner

    def _wait_until(self, what: str, is_so: Callable[[], bool], **_: object) -> None:
        if what != "the address that was removed":
            return
        for _look in range(PATIENCE):
            if is_so():
                return
            self.meanwhile()
        raise NotReadyError(what)


@pytest.mark.parametrize(
    ("deed", "undone"),
    [
        pytest.param(fence.rules_reloaded, ["node-a.run nft add table ip reloads; delete table ip reloads"]),
        pytest.param(keepers.killed_for_good, ["agents.restart node-a"]),
        pytest.param(partial(keepers.stalled, call="bpf"), ["outside.wait"]),
        pytest.param(moves.moved, ["stage.forget_moves"]),
        pytest.param(
            partial(moves.killed_in_a_move, word="ready", is_owner=True),
            ["stage.forget_moves", "agents.restart node-a"],
        ),
        pytest.param(nodes.power_off, ["stage.power_on node-a"]),
        pytest.param(nodes.link_down, ["segment.mend node-a"]),
        pytest.param(nodes.link_flapping, ["segment.mend node-a"]),
        pytest.param(objects.key_rotated, ["stage.remove_key 7"]),
        pytest.param(objects.claimed_twice, ["stage.delete claimed-twice"]),
        pytest.param(
            partial(plane.away, what="both", owner_dies=True),
            [
                "stage.power_on node-a",
                "lab.plane.thaw_apiserver",
                "lab.plane.start_etcd",
                "lab.plane.start_apiserver",
                "agents.restart_controllers",
            ],
        ),
        pytest.param(plane.one_controller_killed, ["agents.restart_controllers"]),
        pytest.param(strangers.used_by_a_stranger, ["lab.remove_twin node-a"]),
        pytest.param(
            partial(witnesses.killed, many=2, then_owner=True),
            ["stage.power_on node-a", "agents.restart node-c", "agents.restart node-b"],
        ),
    ],
)
@pytest.mark.parametrize(
    "failure", [pytest.param(None, id="at its end"), pytest.param(OSError, id="because something failed")]
)
def test_a_deed_is_undone_however_it_is_left(
    deed: Deed, undone: list[str], failure: type[Exception] | None, tmp_path: Any
) -> None:
    notes: list[str] = []
    with a_host("node-a", notes) as owner:
        owner.__dict__["folder"] = tmp_path
        scene: Any = Scene(notes, owner)
        with pytest.raises(failure) if failure else nullcontext(), deed(scene):
            notes.clear()
            if failure:
                raise failure
    assert len(notes) == len(undone), notes
    assert all(map(str.startswith, notes, undone)), notes


def test_a_rotation_that_does_not_reach_every_node_is_given_up() -> None:
    notes: list[str] = []
    with a_host("node-a", notes) as owner:
        scene: Any = Scene(notes, owner)

        def in_vain(*_: object) -> None:
            raise NotReadyError("the new key everywhere")

        scene.stage.__dict__["wait_until"] = in_vain
        with pytest.raises(NotReadyError), objects.key_rotated(scene):
            pass
    assert notes == ["stage.add_key 8", "stage.remove_key 8"]


def bind(host: Recorder) -> None:
    with kernelcalls.entered(host.network), IPRoute() as netlink:
        [eth0] = netlink.link_lookup(ifname="eth0")
        netlink.addr("add", index=eth0, address=ADDRESSES[LOOKED_AT], prefixlen=32)


def test_an_address_is_removed_again_as_soon_as_it_is_back() -> None:
    notes: list[str] = []
    with a_host("node-a", notes) as owner:
        scene: Any = Scene(notes, owner)
        put_back: list[Recorder] = []

        def put_it_back() -> None:
            bind(owner)
            put_back.append(owner)

        scene.meanwhile = put_it_back
        bind(owner)
        with strangers.address_removed(scene):
            pass
        assert len(put_back) == 2


def test_an_address_that_does_not_come_back_is_no_removal() -> None:
    notes: list[str] = []
    with a_host("node-a", notes) as owner:
        scene: Any = Scene(notes, owner)
        bind(owner)
        with pytest.raises(NotReadyError), strangers.address_removed(scene):
            pass


def test_an_address_that_came_back_to_another_node_is_left_to_the_judge() -> None:
    notes: list[str] = []
    with a_host("node-a", notes) as owner, a_host("node-b", notes) as other:
        scene: Any = Scene(notes, owner)
        scene.stage.lab.nodes["node-b"] = other
        scene.meanwhile = partial(bind, other)
        bind(owner)
        with strangers.address_removed(scene):
            pass


def test_an_address_may_be_gone_where_another_fault_is_done_too() -> None:
    notes: list[str] = []
    with a_host("node-a", notes) as owner:
        scene: Any = Scene(notes, owner, is_alone=False)
        with strangers.address_removed(scene):
            pass
