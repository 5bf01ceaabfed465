"""Timelines: 32-bit numbers in memory that an engine counts up as its work gets done."""

from __future__ import annotations


def has_passed(seen: int, value: int) -> bool:
    """Whether a 32-bit signal has reached `value`, which it may have wrapped past."""
    return (seen - value) & 0xFFFF_FFFF < 1 << 31
