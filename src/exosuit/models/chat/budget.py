"""What one rendering of a template may use: characters, objects, time.

Every value that a template makes is measured as if it were printed, which also stops structures
that share their parts and would only explode when written out. No signals, no threads: the checks
work wherever rendering happens, because no single operation between two of them is long.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast

from jinja2 import Undefined

NODE_BYTES = 64  # what one object costs besides its characters
_MAX_DEPTH = 64
_MAX_INTEGER_BITS = 1024


class OverBudget(Exception):
    """A template asked for more than it may have; the message goes on after "the template"."""


@dataclass(frozen=True)
class Limits:
    """Sizes grow with the measured size of the messages, so long conversations stay possible."""

    source_characters: int = 1 << 17
    value_bytes: int = 8 << 20
    total_bytes: int = 128 << 20
    input_factor: int = 16
    seconds: float = 5.0


class Budget:
    """What is left of one rendering. Owned by the thread that renders."""

    def __init__(self, limits: Limits, input_bytes: int = 0) -> None:
        self._seconds = limits.seconds
        self._deadline = time.monotonic() + limits.seconds
        self._value_bytes = limits.value_bytes + limits.input_factor * input_bytes
        self._left = limits.total_bytes + limits.input_factor * input_bytes

    def spend(self, size: int) -> None:
        """Takes bytes from what is left, and looks at the clock."""
        self._left -= size
        if self._left < 0:
            raise OverBudget("makes more text than a prompt can need")
        if time.monotonic() > self._deadline:
            raise OverBudget(f"runs for more than {self._seconds:g} s")

    def allow(self, size: int) -> None:
        """Refuses a value of that many bytes: called before an operation that could make one."""
        if size > self._value_bytes:
            raise OverBudget(f"makes a value of more than {self._value_bytes >> 20} MiB")
        self.spend(0)

    def measure(self, value: Any) -> int:
        """Bytes of a value, its parts counted as often as they would be printed."""
        size = 0
        pending: list[tuple[Any, int]] = [(value, 0)]
        while pending:
            part, depth = pending.pop()
            size += NODE_BYTES
            if depth > _MAX_DEPTH:
                raise OverBudget(f"nests lists more than {_MAX_DEPTH} deep")
            if isinstance(part, str):
                size += 4 * len(part)
            elif isinstance(part, (list, tuple)):
                pending += [(child, depth + 1) for child in cast("Sequence[Any]", part)]
            elif isinstance(part, Mapping):
                pairs = cast("Mapping[Any, Any]", part).items()
                pending += [(child, depth + 1) for pair in pairs for child in pair]
            elif isinstance(part, int):
                self.allow_bits(part.bit_length())
            elif part is not None and not isinstance(part, (float, Undefined, range)):
                raise OverBudget(f"uses a {type(part).__name__.lower()} as if it were text")
            if size > self._value_bytes:
                break
        self.allow(size)
        return size

    def allow_bits(self, bits: int) -> None:
        if bits > _MAX_INTEGER_BITS:
            raise OverBudget("makes a number of hundreds of digits")

    def charge(self, value: Any) -> Any:
        """Pays for a value that the template made, and returns it."""
        if isinstance(value, str):
            self.allow(4 * len(value))
            self.spend(NODE_BYTES + 4 * len(value))
        elif isinstance(value, (list, tuple, Mapping)):
            self.measure(value)
            self.spend(NODE_BYTES * (1 + len(cast("Sized", value))))
        elif isinstance(value, int):
            self.allow_bits(value.bit_length())
            self.spend(NODE_BYTES)
        else:
            self.spend(NODE_BYTES)
        return cast("Any", value)
