"""What a fence is made of goes away, or is loaded anew beside it, in the owner's kernel."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyroute2 import IPRoute

from lab import kernelcalls
from lab.addressscene import NOTICED_S
from lab.agents import KEEPER_METRICS
from lab.holdings import told

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from lab.addressscene import Deed, Scene


@contextmanager
def rules_reloaded(scene: Scene) -> Iterator[None]:
    """The owner's packet filter is loaded anew again and again, some thousand rules of it."""
    owner = scene.owner
    chain = "\n".join(f"ip saddr 203.0.113.{number % 256} tcp dport {number} drop" for number in range(4000))
    rules = f"table ip reloads {{\nchain input {{\ntype filter hook input priority 0;\n{chain}\n}}\n}}\n"
    script = owner.folder / "reloads.nft"
    script.write_text(f"table ip reloads\ndelete table ip reloads\n{rules}")

    def load(_: threading.Event) -> None:
        owner.run("nft", "-f", script)

    try:
        with scene.repeating(load):
            yield
    finally:
        owner.run("nft", "add table ip reloads; delete table ip reloads")  # whether it is there or not


@contextmanager
def ruleset_flushed(scene: Scene) -> Iterator[None]:
    def flush(is_over: threading.Event) -> None:
        scene.owner.run("nft", "flush", "ruleset")
        is_over.wait(0.5)

    with scene.repeating(flush):
        yield


@contextmanager
def tables_flushed(scene: Scene) -> Iterator[None]:
    """The ruleset is flushed that the fence is part of: its tables stay, or the keeper restores them."""
    with ruleset_flushed(scene):
        yield

    def has_tables() -> bool:
        tables = scene.owner.run("nft", "list", "tables").splitlines()
        return {"table netdev vipkeeper", "table inet vipkeeper"} <= set(tables)

    scene.stage.wait_until("the fence's tables", has_tables, patience_s=NOTICED_S)


@contextmanager
def filters_deleted(scene: Scene) -> Iterator[None]:
    """Somebody takes the traffic control of the owner's link away, and the fence's programs with it."""
    with kernelcalls.entered(scene.owner.network), IPRoute() as netlink:
        [eth0] = netlink.link_lookup(ifname="eth0")
        netlink.tc("del", "clsact", index=eth0)
    yield


@contextmanager
def noticed(scene: Scene, *, deed: Deed) -> Iterator[None]:
    """Do what takes something of the fence away; the owner's keeper must put that back while it lasts."""
    before = repairs(scene)
    with deed(scene):
        yield
        scene.stage.wait_until(
            "the keeper to put its fence back", lambda: repairs(scene) > before, patience_s=NOTICED_S
        )


def repairs(scene: Scene) -> float:
    """Return how often the owner's keeper has put its fence back since it started, as its metrics tell."""
    return told(scene.owner, KEEPER_METRICS, "vipkeeper_fence_repairs_total")
