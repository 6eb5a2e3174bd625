"""`python -m suites` runs all tests."""

from __future__ import annotations

import sys

from suites import main

if __name__ == "__main__":
    sys.exit(main())
