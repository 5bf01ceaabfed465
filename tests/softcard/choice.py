"""Which of many variants of a test stand for the others where time is short.

The ops' tests run once for each format and shape, on machine code as on the host; CI runs them all.
The README's command takes a few of each: the first, the last and what lies between in equal steps.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

KEPT = 3


def mark_slow(items: list[pytest.Item], folder: Path) -> None:
    """Mark all but `KEPT` variants of each test below `folder` as slow."""
    variants: dict[tuple[Path, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        if folder in item.path.parents:
            variants[item.path, item.name.partition("[")[0]].append(item)
    for found in variants.values():
        last = len(found) - 1
        kept = {round(k * last / (KEPT - 1)) for k in range(KEPT)}
        for number, item in enumerate(found):
            if number not in kept:
                item.add_marker(pytest.mark.slow)
