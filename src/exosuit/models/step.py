"""The memory that one step reads and writes: which tokens, where they belong, what comes out.

A recorded graph never changes; everything that differs from step to step lies here. All steps of a
model share one set of these buffers, cut for the largest step.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.driver.device import Device, Region
from exosuit.graph import Arena
from exosuit.ops.masking import mask_words
from exosuit.ops.products import MOST_TILE
from exosuit.ops.sampling import SAMPLER, padded
from exosuit.units import round_up


@dataclass(frozen=True)
class StepLimits:
    """The largest step.

    tokens     tokens of a step
    sequences  sequences that may be alive; rows of the page table
    pages      pages of one sequence, columns of the page table
    rows       rows of logits
    biases     logits that one row may have changed
    """

    tokens: int
    sequences: int
    pages: int
    rows: int
    biases: int = 64


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
    samplers, bias_tokens, bias_values, counts, sampling_work, tokens, log_probabilities
                see `ops.sampling.sample`; the last two in the host's memory, which reads them
    masks       u32[rows, mask_words(vocabulary)]: see `ops.masking`; only masked steps read it
    draws       i32[rows]: positions of the tokens that the wanted rows belong to
    unused_ids  i32[rows]: where sampled ids go that no step follows directly
    """

    limits: StepLimits
    ids: Region
    positions: Region
    slots: Region
    page_table: Region
    tiles: Region
    rows: Region
    logits: Region
    samplers: Region
    bias_tokens: Region
    bias_values: Region
    counts: Region
    sampling_work: Region
    masks: Region
    draws: Region
    unused_ids: Region
    tokens: Region
    log_probabilities: Region
    arena: Arena
    results: Arena

    def close(self) -> None:
        self.arena.close()
        self.results.close()

    @staticmethod
    def allocate(device: Device, limits: StepLimits, vocabulary: int) -> StepBuffers:
        rows = limits.rows
        words = (
            limits.tokens,
            limits.tokens,
            limits.tokens,
            limits.sequences * limits.pages,
            4 * (limits.tokens + limits.sequences),
            rows,
            round_up(rows, MOST_TILE) * vocabulary,
            rows * SAMPLER.itemsize // 4,
            rows * limits.biases,
            rows * limits.biases,
            -(-limits.sequences * vocabulary // 2),
            rows * 2 * padded(vocabulary),
            rows * mask_words(vocabulary),
            rows,
            rows,
        )
        arena = Arena(device, sum(round_up(4 * n, 128) for n in words), "step", sparse=True)
        results = Arena(device, 2 * round_up(4 * rows, 128), "results", host=True)
        regions = [arena.take(4 * n) for n in words] + [results.take(4 * rows) for _ in range(2)]
        return StepBuffers(limits, *regions, arena=arena, results=results)
