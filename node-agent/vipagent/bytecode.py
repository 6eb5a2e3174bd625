"""Bytecode: a small assembler for BPF programs, so that a node needs no compiler.

A `Program` is written top to bottom as calls that read like the instructions they make; jumps and
calls name a label, and `encode` turns the labels into distances. It knows only the instructions that
our packet filters use. The encoding is RFC 9669: eight bytes each (opcode, registers, offset,
immediate), a map's address takes two. Registers as the kernel has them: R0 is a result, R1 to R5 are
arguments and lost at each call, R6 to R9 survive calls, R10 points at the end of the 512-byte stack.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum


class Register(IntEnum):
    """A BPF register."""

    R0 = 0
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    R7 = 7
    R8 = 8
    R9 = 9
    STACK_END = 10


class Size(IntEnum):
    """How much a load or store moves: the size bits of its opcode."""

    WORD = 0x00
    HALF = 0x08
    BYTE = 0x10
    DOUBLE = 0x18


_LOAD, _STORE_VALUE = 0x61, 0x62
_COPY, _SET, _ADD, _ADD_REGISTER, _SHIFT_LEFT = 0xBF, 0xB7, 0x07, 0x0F, 0x67
_JUMP, _JUMP_EQUAL, _JUMP_NOT_EQUAL, _JUMP_AT_MOST = 0x05, 0x15, 0x55, 0xB5
_JUMP_REGISTERS_EQUAL, _JUMP_REGISTER_ABOVE = 0x1D, 0x2D
_CALL, _EXIT, _LOAD_MAP = 0x85, 0x95, 0x18
_FROM_MAP_DESCRIPTOR, _TO_OWN_FUNCTION = 1, 1


@dataclass(frozen=True, slots=True)
class _Instruction:
    opcode: int
    to: int = 0
    source: int = 0
    offset: int = 0
    value: int = 0
    label: str | None = None


class Program:
    """A program being written; each method appends one instruction (`map_address` appends two)."""

    def __init__(self) -> None:
        self._instructions: list[_Instruction] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        """Name the place of the next instruction."""
        assert name not in self._labels, name
        self._labels[name] = len(self._instructions)

    def copy(self, to: Register, source: Register) -> None:
        """Copy a register, all 64 bits."""
        self._add(_Instruction(_COPY, to, source))

    def set(self, to: Register, value: int) -> None:
        """Set a register to a signed 32-bit value."""
        self._add(_Instruction(_SET, to, value=value))

    def add(self, to: Register, value: int) -> None:
        """Add a value to a register."""
        self._add(_Instruction(_ADD, to, value=value))

    def add_register(self, to: Register, source: Register) -> None:
        """Add one register to another."""
        self._add(_Instruction(_ADD_REGISTER, to, source))

    def shift_left(self, to: Register, bits: int) -> None:
        """Shift a register left."""
        self._add(_Instruction(_SHIFT_LEFT, to, value=bits))

    def load(self, to: Register, base: Register, offset: int, size: Size) -> None:
        """Load from memory at `base + offset`, in the machine's byte order, zero-extended."""
        self._add(_Instruction(_LOAD | size, to, base, offset))

    def store(self, base: Register, offset: int, value: int, size: Size) -> None:
        """Store a value at `base + offset`, in the machine's byte order."""
        self._add(_Instruction(_STORE_VALUE | size, base, offset=offset, value=value))

    def map_address(self, to: Register, map_fd: int) -> None:
        """Set a register to the address of the map that a file descriptor of the loader names."""
        self._add(_Instruction(_LOAD_MAP, to, _FROM_MAP_DESCRIPTOR, value=map_fd))
        self._add(_Instruction(0))

    def call(self, helper: int) -> None:
        """Call a kernel helper by its number."""
        self._add(_Instruction(_CALL, value=helper))

    def call_own(self, label: str) -> None:
        """Call a function of this program; it has R6 to R9 and a stack of its own."""
        self._add(_Instruction(_CALL, source=_TO_OWN_FUNCTION, label=label))

    def jump(self, label: str) -> None:
        """Jump."""
        self._add(_Instruction(_JUMP, label=label))

    def jump_if_equal(self, register: Register, value: int, label: str) -> None:
        """Jump if the register holds the value."""
        self._add(_Instruction(_JUMP_EQUAL, register, value=value, label=label))

    def jump_if_not_equal(self, register: Register, value: int, label: str) -> None:
        """Jump unless the register holds the value."""
        self._add(_Instruction(_JUMP_NOT_EQUAL, register, value=value, label=label))

    def jump_if_at_most(self, register: Register, value: int, label: str) -> None:
        """Jump if the register, unsigned, is the value or less."""
        self._add(_Instruction(_JUMP_AT_MOST, register, value=value, label=label))

    def jump_if_same(self, one: Register, other: Register, label: str) -> None:
        """Jump if two registers hold the same."""
        self._add(_Instruction(_JUMP_REGISTERS_EQUAL, one, other, label=label))

    def jump_if_above(self, one: Register, other: Register, label: str) -> None:
        """Jump if the first register, unsigned, is greater than the second."""
        self._add(_Instruction(_JUMP_REGISTER_ABOVE, one, other, label=label))

    def exit(self) -> None:
        """Return R0 to the caller."""
        self._add(_Instruction(_EXIT))

    def encode(self) -> bytes:
        """Return the program as the kernel takes it."""
        return b"".join(self._encode(place, each) for place, each in enumerate(self._instructions))

    def _add(self, instruction: _Instruction) -> None:
        self._instructions.append(instruction)

    def _encode(self, place: int, each: _Instruction) -> bytes:
        offset, value = each.offset, each.value
        if each.label is not None:
            distance = self._labels[each.label] - place - 1
            offset, value = (0, distance) if each.opcode == _CALL else (distance, value)
        return struct.pack("=BBhi", each.opcode, each.source << 4 | each.to, offset, value)
