"""What every engine does with methods: keep what they say, and act on those that act."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exosuit.datasheet import Block
from exosuit.datasheet.registers import SingleField
from exosuit.softcard.registers import Refuse


class Methods:
    """The methods of one object on one channel, zero until written.

    block  the methods that are described; others keep what is written, and are refused
    """

    def __init__(self, block: type[Block], class_id: int, refuse: Refuse) -> None:
        self.class_id = class_id
        self._refuse = refuse
        self._values: dict[int, int] = {}
        self._known = frozenset(d.offset for d in block.REGISTERS.values())
        self._handlers: dict[int, Callable[[int], None]] = {}

    def on(self, method: SingleField[Any], handler: Callable[[int], None]) -> None:
        """Let `handler` act on a write, after it is kept."""
        self._handlers[method.description.offset] = handler

    def get(self, method: SingleField[Any]) -> int:
        return self._values.get(method.description.offset, 0)

    def wide(self, upper: SingleField[Any], lower: SingleField[Any]) -> int:
        """A number in a pair of methods."""
        return self.get(upper) << 32 | self.get(lower)

    def write(self, method: int, value: int) -> None:
        """One dword."""
        self._values[method] = value
        if method not in self._known:
            self._refuse(f"method {method:#06x} of class {self.class_id:#06x}, which is unknown")
        handler = self._handlers.get(method)
        if handler is not None:
            handler(value)
