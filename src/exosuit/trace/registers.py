"""Names of registers by offset, for showing accesses to a BAR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from exosuit.datasheet import Block
from exosuit.datasheet.registers import Description


class RegisterNames:
    """Registers of blocks at fixed places: offset to description, for one BAR.

    blocks  each with its base, or bases by segment, and what precedes its names
    """

    def __init__(self, *blocks: tuple[type[Block], int | Sequence[int], str]) -> None:
        self._found: dict[int, tuple[Description[Any], int, int]] = {}
        for block, base, prefix in blocks:
            bases = (base,) if isinstance(base, int) else base
            for described in block.REGISTERS.values():
                register = replace(described, name=prefix + described.name)
                for index in range(register.count):
                    first = bases[register.segment] + register.offset + index * register.stride
                    for half in range(register.kind.WIDTH // 32):
                        self._found[first + 4 * half] = (register, index, half)

    def name(self, offset: int) -> str:
        """The register at an offset, or nothing."""
        found = self._found.get(offset)
        if found is None:
            return ""
        register, index, _ = found
        return register.name if register.count == 1 else f"{register.name}[{index}]"

    def explain(self, offset: int, value: int, width: int) -> str:
        """`NAME = value  field=value`, or nothing."""
        found = self._found.get(offset)
        if found is None:
            return ""
        register, _, half = found
        name = self.name(offset)
        if register.kind.WIDTH == 64 and width == 4:
            return f"{name}.{('low', 'high')[half]} = {value:08x}"
        if width * 8 != register.kind.WIDTH:
            return ""
        fields = register.kind(value).explain()
        return f"{name} = {value:0{2 * width}x}{'  ' + fields if fields else ''}"
