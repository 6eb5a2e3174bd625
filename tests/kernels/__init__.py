"""Tests that need links which not every kernel has, and a machine of QEMU's that has them."""
