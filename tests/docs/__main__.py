"""`python -m docs` writes the generated pages; `make docs` calls it."""

from __future__ import annotations

import sys

from apiserver.definitions import ROOT
from docs.pages import pages

for path, text in pages().items():
    path.write_text(text)
    sys.stdout.write(f"{path.relative_to(ROOT)}\n")
