"""How exosuit holds a model's tensors, as against how the file stores them.

Matrices are packed in panels of rows, larger ones on a card than on the host; a storage type that
no kernel reads is held as Q8_0; vectors are f32. The rules are those of `models.matrices` and
`ops.packing`, which are asked for them, so that a plan and a load agree; a test loads models and
compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from exosuit.advise.footprint import SizeOf
from exosuit.models.encoder import ENCODERS
from exosuit.models.matrices import format_of
from exosuit.models.model import ARCHITECTURES
from exosuit.ops.formats import FORMATS
from exosuit.ops.matmul_float import FLOAT_FORMATS
from exosuit.ops.packing import Packing
from exosuit.ops.quants import StorageType
from exosuit.units import round_up

ALIGNMENT = 128


def placed_by(packing: Packing) -> SizeOf:
    """How many device bytes the loader reserves for a tensor where matrices are packed so."""

    def placed_bytes(shape: tuple[int, ...], kind: StorageType) -> int:
        """Two panels of rows to spare, as the loader's arena has them."""
        if len(shape) == 1:
            return round_up(4 * shape[0], ALIGNMENT)
        rows = prod(shape[:-1]) + 2 * packing.rows
        return round_up(packing.bytes(rows, shape[-1], format_of(kind)), ALIGNMENT)

    return placed_bytes


def caveats(architecture: str, kinds: Iterable[StorageType]) -> list[str]:
    """What should be known before relying on a plan for exosuit itself."""
    found: list[str] = []
    if architecture in ENCODERS:
        found.append(
            "it makes embeddings: it keeps no cache and decodes nothing, only prefill counts"
        )
    elif architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        found.append(
            f"exosuit cannot run the architecture {architecture} yet (it knows {known}); this is"
            " what it would need"
        )
    labels = {kind.label for kind in kinds}
    expanded = sorted(labels - set(FORMATS) - set(FLOAT_FORMATS))
    if expanded:
        found.append(f"{', '.join(expanded)} has no kernel yet and is held as Q8_0")
    return found
