"""The page of the licences of what the images hold, from the locks and the distributions' own metadata."""

from __future__ import annotations

import importlib.metadata

from docs.markdown import code, table
from images import bill, build, seal

_INTRODUCTION = """\
# Licences

The Python distributions in the two images, with the licences that they state themselves. The label
`org.opencontainers.image.licenses` of an image sums them up, and its bill of materials,
`/opt/vipkeeper/share/sbom.cdx.json`, lists them again. The base below, Debian's and Python's own files, comes
with its own licences, in `/usr/share/doc`. [Security](../security.md#licences) says what they mean for you.
"""


def page() -> str:
    """Return the whole page."""
    pins = {image: bill.pins(image) for image in build.IMAGES}
    rows = [
        (
            name,
            version,
            seal.licence(importlib.metadata.metadata(name)),
            ", ".join(code(image) for image in build.IMAGES if name in pins[image]),
        )
        for name, version in sorted(set().union(*(each.items() for each in pins.values())))
    ]
    return f"{_INTRODUCTION}\n{table(('distribution', 'version', 'licence', 'in'), rows)}"
