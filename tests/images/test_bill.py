from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from images import bill, build, check, seal

LABEL = 'org.opencontainers.image.licenses="'
COMPONENTS = [
    importlib.metadata.distribution(name) for name in ("vipkeeper", *sorted(bill.pins("node-agent")))
]


@pytest.mark.parametrize("image", build.IMAGES)
def test_an_image_declares_what_its_packages_import_and_nothing_else(image: str) -> None:
    packages = [path for name in check.PACKAGES[image] for path in build.TREE.glob(f"*/{name}")]
    assert len(packages) == len(check.PACKAGES[image])
    assert bill.imported(packages) == {seal.canonical(each.name) for each in bill.declared(image)}


@pytest.mark.parametrize("image", build.IMAGES)
def test_an_image_holds_what_it_declares_and_what_that_needs_and_nothing_else(image: str) -> None:
    assert bill.pins(image).keys() == bill.needed(bill.declared(image))


def test_the_bill_of_materials_is_cyclonedx() -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(seal.bill_of_materials(COMPONENTS))) is None


def test_the_bill_of_materials_is_the_same_in_whatever_order_distributions_are_found() -> None:
    backwards = seal.bill_of_materials(reversed(COMPONENTS))
    assert json.dumps(backwards) == json.dumps(seal.bill_of_materials(COMPONENTS))


@pytest.mark.parametrize("image", build.IMAGES)
def test_an_image_is_labelled_with_the_licences_of_all_that_it_holds(image: str) -> None:
    text = (build.TREE / image / "Containerfile").read_text()
    assert text.partition(LABEL)[2].partition('"')[0] == bill.together(bill.licences(image).values())


def test_a_choice_of_licences_stays_one_choice() -> None:
    stated = ("MIT", "GPL-2.0-or-later OR Apache-2.0", "BSD-2-Clause AND MIT")
    assert bill.together(stated) == "(GPL-2.0-or-later OR Apache-2.0) AND BSD-2-Clause AND MIT"


def loaded(program: str) -> set[str]:
    """The distributions of the images that a process has loaded once it ran this."""
    asked = [sys.executable, "-c", f"{program}\nimport sys; print(*sys.modules)"]
    answer = subprocess.run(asked, check=True, capture_output=True, text=True)
    names = {name.partition(".")[0] for name in answer.stdout.split()} - sys.stdlib_module_names
    of_images = {*bill.pins("controller"), *bill.pins("node-agent")}
    return {seal.canonical(owner) for name in names for owner in bill.owners().get(name, [])} & of_images


def test_the_process_that_loads_scapy_loads_nothing_else_that_is_not_ours_or_pythons() -> None:
    assert loaded("import vipagent.frames") == {"scapy"}


def test_the_keeper_itself_never_loads_scapy() -> None:
    here = loaded(
        "import importlib, pkgutil, vipagent\n"
        "for each in pkgutil.iter_modules(vipagent.__path__):\n"
        "    if each.name != 'frames': importlib.import_module(f'vipagent.{each.name}')"
    )
    assert "pyroute2" in here
    assert "scapy" not in here
