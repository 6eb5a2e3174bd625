"""What people change: a key, a second claim to the address, a VirtualIP deleted and made anew."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from lab.addressscene import ADDRESSES, LOOKED_AT, manifest, virtual_ip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.addressscene import Scene
    from lab.topology import Host


@contextmanager
def key_rotated(scene: Scene) -> Iterator[None]:
    stage = scene.stage
    [first] = stage.key_ids()
    nodes = stage.lab.nodes.values()
    superfluous = first + 1  # until every node has it
    try:
        stage.add_key(first + 1)
        stage.wait_until("the new key everywhere", lambda: all(_has_key(node, first + 1) for node in nodes))
        superfluous = first
        yield
    finally:
        stage.remove_key(superfluous)


def _has_key(node: Host, key_id: int) -> bool:
    """Tell whether a heartbeat key stands in the plan that a node's keeper works from."""
    plan = json.loads((node.folder / "state" / "plan.json").read_bytes())
    return any(key["keyId"] == key_id for domain in plan["domains"] for key in domain["keys"])


@contextmanager
def claimed_twice(scene: Scene) -> Iterator[None]:
    """A second object asks for the same address."""
    stage = scene.stage
    name = "claimed-twice"
    stage.lab.plane.api.apply(manifest("VirtualIP", name, addresses=[f"{ADDRESSES[LOOKED_AT]}/24"]))
    try:
        yield
    finally:
        stage.delete(name)
        stage.wait_until("the end of the second object", partial(stage.is_gone, name))


@contextmanager
def recreated(scene: Scene) -> Iterator[None]:
    stage = scene.stage
    stage.delete(LOOKED_AT)
    try:
        stage.wait_until("the end of the object", partial(stage.is_gone, LOOKED_AT))
    finally:
        stage.lab.plane.api.apply(virtual_ip(LOOKED_AT))
    yield
