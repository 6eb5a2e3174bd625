"""`python -m vipcontroller.roundtrip`: is there a controller that answers? `helm test` runs this in a Pod.

It creates a VirtualIP in a FailoverDomain that does not exist, so that no node can ever hold it, waits until
the controller has said so in the status, deletes it, and waits until the controller has let it go. Whatever
happens, it deletes what it made; one that a killed run left behind is deleted first.

Exit status: 0 when the controller did both, 1 when it did not (the last line of the log says what was
missing), 2 for a configuration that cannot work.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
from typing import TYPE_CHECKING, Final

from vipcluster.client import VIRTUAL_IPS, ApiError, BadConfiguration, NotFound, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vipcluster.client import Cluster
    from vipcluster.store import Document

PATIENCE_S: Final = 60.0
_LOOK_S: Final = 0.5
_ADDRESS: Final = "192.0.2.1/32"
"""Of TEST-NET-1 (RFC 5737), which no network uses."""

_logger = logging.getLogger("vipcontroller")


class NoAnswer(Exception):  # noqa: N818 - it reads as what happened
    """The controller did not do its part in time; the message says which."""


def check(
    cluster: Cluster, name: str, *, sleep: Callable[[float], None], patience_s: float = PATIENCE_S
) -> None:
    """Go round once. Raises `NoAnswer`, and `ApiError` when the API server does not let it.

    `sleep` is given how long to wait between two looks.
    """
    _delete(cluster, name)
    looks = int(patience_s / _LOOK_S)
    _await(
        lambda: _found(cluster, name) is None,
        looks,
        sleep,
        f"a VirtualIP {name} that was there is not let go",
    )
    spec = {"addresses": [_ADDRESS], "domain": f"{name}-has-no-such-domain"}
    try:
        cluster.create(VIRTUAL_IPS, {"metadata": {"name": name}, "spec": spec}, manager="vipkeeper-roundtrip")
        _await(
            lambda: _is_answered(_found(cluster, name)),
            looks,
            sleep,
            "no controller has written the status of a new one",
        )
    finally:
        _delete(cluster, name)
    _await(
        lambda: _found(cluster, name) is None, looks, sleep, "no controller has let the deleted VirtualIP go"
    )


def _is_answered(document: Document | None) -> bool:
    if document is None:
        return False
    status = document.get("status", {})
    return (
        bool(status.get("conditions"))
        and status.get("observedGeneration") == document["metadata"]["generation"]
    )


def _found(cluster: Cluster, name: str) -> Document | None:
    try:
        return cluster.get(VIRTUAL_IPS, name)
    except NotFound:
        return None


def _delete(cluster: Cluster, name: str) -> None:
    with contextlib.suppress(NotFound):
        cluster.delete(VIRTUAL_IPS, name)


def _await(is_so: Callable[[], bool], looks: int, sleep: Callable[[float], None], otherwise: str) -> None:
    for _ in range(looks):
        if is_so():
            return
        sleep(_LOOK_S)
    raise NoAnswer(f"{otherwise}: look at the log of the controller")


def main(arguments: Sequence[str] | None = None) -> int:
    """Go round once; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m vipcontroller.roundtrip", description="Is there a controller?"
    )
    parser.add_argument(
        "--name", default="vipkeeper-test", help="name of the VirtualIP that is made for this"
    )
    parser.add_argument("--kubeconfig", help="default: the pod's service account, else KUBECONFIG")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        check(connect(options.kubeconfig, user_agent="vipkeeper-roundtrip"), options.name, sleep=time.sleep)
    except BadConfiguration as error:
        _logger.error("Cannot start: %s", error)  # noqa: TRY400 - a sentence for people, not a trace
        return 2
    except (NoAnswer, ApiError) as error:
        _logger.error("%s", error)  # noqa: TRY400 - the same
        return 1
    _logger.info("The controller has answered")
    return 0


if __name__ == "__main__":
    sys.exit(main())
