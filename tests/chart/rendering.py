"""The door to Helm: renders the chart, each set of values once.

    chart = Chart(gotools.locate("helm"))
    chart.render({"controller": {"replicas": 3}}).one("Deployment", "vipkeeper-controller")
    chart.refusal({"controller": {"replica": 3}})       # what Helm says to it

`helm template` needs no cluster. Helm keeps its own files in a folder that goes away, so that nobody's
plugins and repositories count.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Object = dict[str, Any]

CHART = Path(__file__).parents[2] / "charts" / "vipkeeper"
RELEASE, NAMESPACE = "vipkeeper", "vipkeeper-system"


@dataclass(frozen=True, slots=True)
class Rendering:
    """Everything that one set of values makes."""

    text: str
    objects: tuple[Object, ...]

    def of(self, kind: str) -> list[Object]:
        """Return all objects of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        """Return the one object of a kind and a name."""
        [found] = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        return found

    def pod(self, kind: str, name: str) -> Object:
        """Return the template of the Pods that an object makes."""
        template: Object = self.one(kind, name)["spec"]["template"]
        return template

    def names(self) -> set[tuple[str, str]]:
        """Return kind and name of every object."""
        return {(each["kind"], each["metadata"]["name"]) for each in self.objects}


def container(pod: Object, name: str) -> Object:
    """Return a container of a Pod or of a template of one."""
    found: Object = next(each for each in pod["spec"]["containers"] if each["name"] == name)
    return found


def read(text: str) -> list[Object]:
    """Return the objects of a stream of YAML, by the parser in C, which is ten times as fast."""
    return [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]


def strings(value: object) -> Iterator[str]:
    """Yield every string in a tree, keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from strings(key)
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


@dataclass(frozen=True, slots=True)
class Chart:
    """The chart and the Helm that renders it."""

    helm: Path
    _rendered: dict[str, Rendering] = field(default_factory=dict, repr=False)

    def render(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        release: str = RELEASE,
        namespace: str = NAMESPACE,
        definitions: bool = False,
    ) -> Rendering:
        """Return what these values make; the same are rendered once.

        Without the definitions, unless they are asked for: they are nine tenths of the text.
        """
        if not definitions:
            values = {**(values or {}), "crds": {"enabled": False}}
        key = json.dumps([values, release, namespace])
        if key not in self._rendered:
            text = self.template(values, release=release, namespace=namespace)
            self._rendered[key] = Rendering(text, tuple(read(text)))
        return self._rendered[key]

    def template(
        self, values: Mapping[str, Any] | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE
    ) -> str:
        """Return the text that `helm template` prints."""
        done = self.run("template", release, CHART, "--namespace", namespace, values=values)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def notes(self, values: Mapping[str, Any] | None = None) -> str:
        """Return what `helm install` says at its end."""
        options = ("--namespace", NAMESPACE, "--dry-run=client")
        done = self.run("install", RELEASE, CHART, *options, values=values)
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("\nNOTES:\n")[2]

    def refusal(self, values: Mapping[str, Any]) -> str:
        """Return what Helm says to values that it does not take."""
        done = self.run("template", RELEASE, CHART, "--namespace", NAMESPACE, values=values)
        assert done.returncode != 0, f"Helm took {values}"
        return done.stderr

    def run(
        self, *arguments: str | Path, values: Mapping[str, Any] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Helm, with values if there are any; it may fail."""
        with tempfile.TemporaryDirectory(prefix="helm-") as home:
            places = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
            return subprocess.run(
                [self.helm, *arguments, *(["--values", "-"] if values is not None else [])],
                input=json.dumps(values) if values is not None else "",
                env={**os.environ, **dict.fromkeys(places, home), "KUBECONFIG": "/dev/null"},
                capture_output=True,
                text=True,
                check=False,
            )
