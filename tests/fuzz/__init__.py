"""Fuzzing: every byte that comes from outside, against the code that reads it.

`registry.TARGETS` has one target for each surface: a function of bytes that drives the production code and
asserts what that code promises of any bytes whatever (a valid value or the error that it declares, no other
exception; bounded sizes; a round trip where there is one; a state machine that keeps its invariants). The
bytes are what came in, or choices from which something well-formed and hostile is made (`made`), such as
messages that are sealed with the right key.

`test_fuzz` runs all of them for seconds, under hypothesis. `make fuzz` runs them for as long as one likes,
guided by coverage (`engine`). What that finds becomes a seed of its target once it is mended.
"""
