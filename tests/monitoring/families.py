"""Every metric of every process, from the registries themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from prometheus_client.metrics import MetricWrapperBase

from vipagent import metrics as of_keeper
from vipcontroller.metrics import OF_OBJECTS, Metrics
from vipcourier import metrics as of_courier

BUILD: Final = ("vipkeeper_build_info", "1, with the version of the program.", ("component", "version"))
_SERIES: Final = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


@dataclass(frozen=True, slots=True, order=True)
class Family:
    """One metric: its name as Prometheus shows it, type, labels, and what it says."""

    name: str
    type: str
    labels: tuple[str, ...]
    text: str

    @property
    def series(self) -> dict[str, tuple[str, ...]]:
        """The names that a query may use, each with its labels."""
        suffixes = _SERIES.get(self.type, ("",))
        return {
            self.name + suffix: (*self.labels, *(["le"] if suffix == "_bucket" else []))
            for suffix in suffixes
        }


def _family(metric: Any) -> Family:
    # The library has no public word for the labels of a metric that has no sample yet.
    kind = metric._type  # noqa: SLF001
    name = metric._name + ("_total" if kind == "counter" else "")  # noqa: SLF001
    return Family(name, kind, tuple(metric._labelnames), metric._documentation)  # noqa: SLF001


def _of_module(module: Any) -> list[Family]:
    found = [each for each in vars(module).values() if isinstance(each, MetricWrapperBase)]
    return sorted([Family(BUILD[0], "gauge", BUILD[2], BUILD[1]), *map(_family, found)])


def _of_controller() -> list[Family]:
    own = [each for each in vars(Metrics()).values() if isinstance(each, MetricWrapperBase)]
    objects = [Family(name, "gauge", labels, text) for name, (text, labels) in OF_OBJECTS.items()]
    return sorted([Family(BUILD[0], "gauge", BUILD[2], BUILD[1]), *map(_family, own), *objects])


def processes() -> dict[str, list[Family]]:
    """Return each process's metrics, by name."""
    return {
        "controller": _of_controller(),
        "keeper": _of_module(of_keeper),
        "courier": _of_module(of_courier),
    }


def series() -> dict[str, tuple[str, ...]]:
    """Return every name that a query may use, each with its labels."""
    return {
        name: labels for each in processes().values() for one in each for name, labels in one.series.items()
    }
