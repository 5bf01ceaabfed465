"""Registers of a software card: declared storage, access rules, and handlers for what acts.

A `RegisterFile` covers one BAR, or a part of one. Declared registers keep what is written, unless
their access or a handler says otherwise. An undeclared offset keeps storage semantics and is
noted; in strict mode it is refused, and so is a write to a read-only register.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from exosuit.datasheet import Block
from exosuit.datasheet.registers import Description

OnRead = Callable[[int, int], int]
"""`on_read(index, stored) -> value`; `index` counts in an array of registers."""
OnWrite = Callable[[int, int], int]
"""`on_write(index, written) -> stored`."""
Refuse = Callable[[str], None]
"""Called with what an access did wrong; raises in strict mode, notes it otherwise."""


class RegisterFile:
    """Storage for blocks of registers, in dwords by byte offset."""

    def __init__(self, refuse: Refuse) -> None:
        self._refuse = refuse
        self._values: dict[int, int] = {}
        self._declared: dict[int, tuple[Description[Any], int, int]] = {}
        self._on_read: dict[str, OnRead] = {}
        self._on_write: dict[str, OnWrite] = {}
        self._resets: dict[int, int] = {}
        self._named: dict[str, tuple[int, Description[Any]]] = {}

    def declare(self, block: type[Block], base: int | Sequence[int] = 0, prefix: str = "") -> None:
        """Add the registers of a block at its base, or bases by segment, with their resets.

        prefix  put before their names, where two blocks of one kind share a file
        """
        bases = [base] if isinstance(base, int) else base
        for description in block.REGISTERS.values():
            register = replace(description, name=prefix + description.name)
            self._named[register.name] = (bases[register.segment] + register.offset, register)
            for index in range(register.count):
                first = bases[register.segment] + register.offset + index * register.stride
                for half in range(register.kind.WIDTH // 32):
                    self._declared[first + 4 * half] = (register, index, half)
                    value = register.reset >> 32 * half & 0xFFFF_FFFF
                    self._values[first + 4 * half] = self._resets[first + 4 * half] = value

    def on_read(self, name: str, handler: OnRead) -> None:
        """Let `handler` give the value of a register, 64 bits wide if the register is."""
        self._on_read[name] = handler

    def on_write(self, name: str, handler: OnWrite) -> None:
        """Let `handler` act on a write; for 64-bit registers, on the write of the high half."""
        self._on_write[name] = handler

    def reset(self, keep: Callable[[str], bool] = lambda name: False) -> None:
        """Back to reset values, except registers that `keep` names."""
        for offset, value in self._resets.items():
            if not keep(self._declared[offset][0].name):
                self._values[offset] = value

    def get(self, name: str, index: int = 0) -> int:
        """The stored value of a register, all its bits, without side effects."""
        first, register = self._named[name]
        first += index * register.stride
        value = self._values[first]
        return value | self._values[first + 4] << 32 if register.kind.WIDTH == 64 else value

    def put(self, name: str, value: int, index: int = 0) -> None:
        """Store a register's value, all its bits, without side effects."""
        first, register = self._named[name]
        first += index * register.stride
        self._values[first] = value & 0xFFFF_FFFF
        if register.kind.WIDTH == 64:
            self._values[first + 4] = value >> 32

    def peek(self, offset: int) -> int:
        """The stored dword, without side effects."""
        return self._values.get(offset, 0)

    def poke(self, offset: int, value: int) -> None:
        """Store a dword, without side effects."""
        self._values[offset] = value & 0xFFFF_FFFF

    def read32(self, offset: int) -> int:
        found = self._declared.get(offset)
        if found is None:
            self._refuse(f"a read of {offset:#x}, where no register is declared")
            return self._values.get(offset, 0)
        register, index, half = found
        if register.access == "wo":
            self._refuse(f"a read of {register.name}, which is write-only")
            return 0
        handler = self._on_read.get(register.name)
        if handler is None:
            return self._values[offset]
        first = offset - 4 * half
        stored = self._values[first]
        if register.kind.WIDTH == 64:
            stored |= self._values[first + 4] << 32
        return handler(index, stored) >> 32 * half & 0xFFFF_FFFF

    def write32(self, offset: int, value: int) -> None:
        found = self._declared.get(offset)
        if found is None:
            self._refuse(f"a write to {offset:#x}, where no register is declared")
            self._values[offset] = value
            return
        register, index, half = found
        if register.access == "ro":
            self._refuse(f"a write to {register.name}, which is read-only")
            return
        if register.access == "w1c":
            value = self._values[offset] & ~value
        handler = self._on_write.get(register.name)
        wide = register.kind.WIDTH == 64
        self._values[offset] = value
        if handler is not None and (not wide or half == 1):
            first = offset - 4 * half
            whole = self._values[first] | (self._values[first + 4] << 32 if wide else 0)
            stored = handler(index, whole)
            self._values[first] = stored & 0xFFFF_FFFF
            if wide:
                self._values[first + 4] = stored >> 32
