"""What tests of other kernels are given: as those of the node agent."""

from __future__ import annotations

from agent.conftest import importable

__all__ = ["importable"]
