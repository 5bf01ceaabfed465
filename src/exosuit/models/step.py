"""The memory that one step reads and writes: which tokens, where they belong, what comes out.

A recorded graph never changes; everything that differs from step to step lies here. All steps of a
model share one set of these buffers, cut for the largest step.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.driver.device import Device, Region
from exosuit.graph import Arena
from exosuit.units import round_up


@dataclass(frozen=True)
class StepLimits:
    """The largest step.

    tokens     tokens of a step
    sequences  sequences that may be alive; rows of the page table
    pages      pages of one sequence, columns of the page table
    rows       rows of logits
    """

    tokens: int
    sequences: int
    pages: int
    rows: int


@dataclass(frozen=True)
class StepBuffers:
    """Device memory of a step's facts.

    ids         i32[tokens], token ids
    positions   i32[tokens]
    slots       i32[tokens], row of the page table; -1 for padding
    page_table  i32[sequences, pages]
    tiles       i32[tokens + sequences, 4]: first token, count (0: nothing), slot, 0
    rows        i32[rows]: tokens whose logits are wanted
    logits      f32[rows, vocabulary]
    """

    limits: StepLimits
    ids: Region
    positions: Region
    slots: Region
    page_table: Region
    tiles: Region
    rows: Region
    logits: Region
    arena: Arena

    @staticmethod
    def allocate(device: Device, limits: StepLimits, vocabulary: int) -> StepBuffers:
        words = (
            limits.tokens,
            limits.tokens,
            limits.tokens,
            limits.sequences * limits.pages,
            4 * (limits.tokens + limits.sequences),
            limits.rows,
            round_up(limits.rows, 8) * round_up(vocabulary, 8),
        )
        arena = Arena(device, sum(round_up(4 * n, 128) for n in words), "step")
        return StepBuffers(limits, *(arena.take(4 * n) for n in words), arena)
