"""Objects that the pages show are accepted by a real API server, as they stand."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from apiserver.definitions import ROOT
from docs.markdown import blocks, pages
from lab.api import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.controlplane import ControlPlane

OURS = "vipkeeper.io/v1alpha1"
READY_S = 30


def shown() -> Iterator[Any]:
    """Yield every object of ours in a YAML block of a page."""
    for page in pages(ROOT):
        for block in blocks((ROOT / page).read_text()):
            if block.language not in {"yaml", "yml"}:
                continue
            for obj in yaml.safe_load_all(block.text):
                if isinstance(obj, dict) and obj.get("apiVersion") == OURS:
                    yield pytest.param(obj, id=f"{page}:{block.line}-{obj['kind']}")


@pytest.mark.parametrize("obj", [*shown()])
def test_the_api_server_takes_what_a_page_shows(
    bare_control_plane: ControlPlane, obj: dict[str, Any]
) -> None:
    api = bare_control_plane.api
    namespace = obj["metadata"].get("namespace")
    path = api.path_of(OURS, obj["kind"], namespace=namespace and "default")
    metadata = {**obj["metadata"], "namespace": "default"} if namespace else obj["metadata"]
    deadline = time.monotonic() + READY_S
    while True:
        try:
            api.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", {**obj, "metadata": metadata})
        except RefusedError as refusal:
            # The storage of a new kind needs a moment.
            if refusal.status != http.client.TOO_MANY_REQUESTS or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            break


def test_every_yaml_block_can_be_read() -> None:
    for page in pages(ROOT):
        for block in blocks((ROOT / page).read_text()):
            if block.language in {"yaml", "yml"}:
                assert list(yaml.safe_load_all(block.text)), f"{page}:{block.line}"
