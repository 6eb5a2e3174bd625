"""How long the API server takes to answer, felt all the time: the control address of what rests on its vote.

    with Pulse(api) as pulse:
        ...
    pulse.slowest_s

A write goes through etcd as a vote does. One that is refused or gets no answer took for ever.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

from lab.api import RefusedError

if TYPE_CHECKING:
    from lab.api import Api

EVERY_S = 0.2


class Pulse:
    """Writes to one object of the API server until the end of a `with` block."""

    def __init__(self, api: Api) -> None:
        self.slowest_s = 0.0
        self._api = api
        self._beats = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._api.delete("v1", "ConfigMap", "pulse", namespace="default")

    def _run(self) -> None:
        while not self._end.wait(EVERY_S):
            asked = time.monotonic()
            try:
                self._beat()
            except (OSError, RefusedError):
                self.slowest_s = float("inf")
            self.slowest_s = max(self.slowest_s, time.monotonic() - asked)

    def _beat(self) -> None:
        self._beats += 1
        metadata = {"name": "pulse", "namespace": "default"}
        data = {"beats": str(self._beats)}
        self._api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
