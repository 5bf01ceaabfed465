"""`DeviceRunner`: a model on a device, run step by step.

Turns runs of tokens into the facts of a step (`models.step`), replays the recording of its size,
and reads what was sampled. Where a step only continues the last one (each sequence feeds in the
token that was just sampled for it), the facts are on the device already and nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exosuit.driver.device import Device, Region
from exosuit.engine.batch import Run, Sampled, Sampling
from exosuit.engine.programs import programs_for
from exosuit.errors import RequestError
from exosuit.models.decoder import CacheKind
from exosuit.models.gguf import GgufFile
from exosuit.models.model import Limits, Model
from exosuit.ops.masking import mask_words
from exosuit.ops.sampling import SAMPLER, sampler_row, top_log_probabilities

DEFAULT_CONTEXT = 4096
"""Positions of a session that asks for nothing else, if the model has as many."""


@dataclass
class _Slot:
    """What penalties look at: the sequence's tokens, and those noted in the device's counts."""

    history: list[int] = field(default_factory=list[int])
    noted: list[int] = field(default_factory=list[int])


class DeviceRunner:
    """Implements `engine.batch.Runner`. Use by one thread; owns the model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._slots = [_Slot() for _ in range(self.max_sequences)]
        self._next: tuple[tuple[int, int, int, tuple[int, ...]], ...] = ()
        self._samplers: tuple[tuple[int, Sampling], ...] = ()
        step = model.step
        self._pages = np.zeros((step.limits.sequences, step.limits.pages), np.int32)

    @property
    def max_sequences(self) -> int:
        return self.model.limits.sequences

    @property
    def max_step_tokens(self) -> int:
        return self.model.limits.step_tokens

    @property
    def pages(self) -> int:
        return self.model.limits.pages

    @property
    def context(self) -> int:
        return self.model.limits.context

    @property
    def vocabulary(self) -> int:
        return self.model.config.vocabulary

    def run(self, runs: Sequence[Run]) -> list[Sampled | None]:
        wanted = [(i, run.sample) for i, run in enumerate(runs) if run.sample is not None]
        for run in runs:
            history = self._slots[run.slot].history
            del history[run.start :]
            history.extend(run.tokens)
        tokens, rows = self._write_step(runs, [i for i, _ in wanted])
        self._write_samplers([(runs[i], sampling) for i, sampling in wanted])
        self._next = ()  # an interruption from here on leaves facts that nobody knows
        continues = len(wanted) == len(runs) == sum(len(run.tokens) for run in runs)
        masked = self._write_masks([runs[i].mask for i, _ in wanted], rows)
        self.model.recording(tokens, rows, continues, masked).run()
        return self._read(runs, wanted, continues)

    def forget(self, slot: int, tokens: Sequence[int] = ()) -> None:
        self._note(slot, [])
        self._slots[slot] = _Slot(history=list(tokens))

    def score(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each of the tokens, f32[tokens, vocabulary], as one new sequence in slot 0.

        For tests and perplexities; takes the first pages and as many rows as there are tokens.
        """
        limits = self.model.step.limits
        pages = tuple(range(limits.pages))
        parts: list[NDArray[np.float32]] = []
        size = min(limits.rows, self.max_step_tokens)
        for start in range(0, len(tokens), size):
            chunk = tuple(tokens[start : start + size])
            run = Run(0, chunk, start, pages[: -(-(start + len(chunk)) // 64)], None)
            count, rows = self._write_step([run], list(range(len(chunk))), each_token=True)
            self._write_samplers([])
            self.model.recording(count, rows, continues=False).run()
            parts.append(self._logits(rows)[: len(chunk)])
        self._next = ()
        return np.concatenate(parts)

    def close(self) -> None:
        self.model.close()

    # Writing ------------------------------------------------------------------------------

    def _write_step(
        self, runs: Sequence[Run], wanted: list[int], each_token: bool = False
    ) -> tuple[int, int]:
        """The facts of a step; returns the size of the recording that computes it.

        wanted      indices of the runs whose last token's logits are wanted
        each_token  there is one run, and `wanted` are its tokens
        """
        count = sum(len(run.tokens) for run in runs)
        tokens, rows = step_size(count), row_count(len(wanted), self.model.step.limits.rows)
        expected = tuple((run.slot, run.start, run.tokens[0], run.pages) for run in runs)
        if count == len(runs) == len(wanted) and expected == self._next:
            return tokens, rows
        self._next = ()
        ids, positions = np.zeros(tokens, np.int32), np.zeros(tokens, np.int32)
        slots = np.full(tokens, -1, np.int32)
        tiles = np.zeros((tokens + self.max_sequences, 4), np.int32)
        tile_tokens, tile, first = self.model.attention_tile(tokens), 0, 0
        lasts: list[int] = []
        for run in runs:
            size = len(run.tokens)
            here = slice(first, first + size)
            ids[here] = run.tokens
            positions[here] = np.arange(run.start, run.start + size)
            slots[here] = run.slot
            self._pages[run.slot, : len(run.pages)] = run.pages
            for start in range(0, size, tile_tokens):
                tiles[tile] = (first + start, min(tile_tokens, size - start), run.slot, 0)
                tile += 1
            first += size
            lasts.append(first - 1)
        chosen = np.zeros(rows, np.int32)
        chosen[: len(wanted)] = wanted if each_token else [lasts[i] for i in wanted]
        step = self.model.step
        self._copy(step.ids, ids)
        self._copy(step.positions, positions)
        self._copy(step.slots, slots)
        self._copy(step.tiles, tiles)
        self._copy(step.page_table, self._pages)
        self._copy(step.rows, chosen)
        self._copy(step.draws, positions[chosen])
        return tokens, rows

    def _write_samplers(self, wanted: list[tuple[Run, Sampling]]) -> None:
        for run, sampling in wanted:
            self._note(run.slot, self._penalised_tokens(run.slot, sampling))
        now = tuple((run.slot, sampling) for run, sampling in wanted)
        if now == self._samplers and now:
            return
        self._samplers = now
        step = self.model.step
        rows, biases = step.limits.rows, step.limits.biases
        records = np.zeros(rows, SAMPLER)
        records["slot"] = -1
        tokens, values = np.full((rows, biases), -1, np.int32), np.zeros((rows, biases), np.float32)
        for row, (run, sampling) in enumerate(wanted):
            records[row] = sampler_row(
                slot=run.slot,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                min_p=sampling.min_p,
                repetition=sampling.repetition_penalty,
                presence=sampling.presence_penalty,
                frequency=sampling.frequency_penalty,
                seed=sampling.seed,
            )
            if len(sampling.logit_bias) > biases:
                raise RequestError(
                    f"{len(sampling.logit_bias)} logits are biased",
                    cause=f"a request may bias {biases}",
                    next="bias fewer tokens",
                )
            for k, (token, bias) in enumerate(sorted(sampling.logit_bias.items())):
                tokens[row, k], values[row, k] = token, bias
        self._copy(step.samplers, records)
        self._copy(step.bias_tokens, tokens)
        self._copy(step.bias_values, values)

    def _write_masks(self, masks: list[NDArray[np.uint32] | None], rows: int) -> bool:
        """The masks of the wanted rows, where any has one; says whether any has."""
        if all(mask is None for mask in masks):
            return False
        words = np.full((rows, mask_words(self.vocabulary)), 0xFFFF_FFFF, np.uint32)
        for row, mask in enumerate(masks):
            if mask is not None:
                words[row] = mask
        self._copy(self.model.step.masks, words)
        return True

    def _penalised_tokens(self, slot: int, sampling: Sampling) -> list[int]:
        """The tokens that the penalties count; none if there are no penalties."""
        active = (
            sampling.repetition_penalty != 1.0
            or sampling.presence_penalty != 0.0
            or sampling.frequency_penalty != 0.0
        )
        return self._slots[slot].history[-sampling.last_n :] if active else []

    def _note(self, slot: int, tokens: list[int]) -> None:
        """Make the device's counts of a slot those of `tokens`."""
        state = self._slots[slot]
        if tokens == state.noted:
            return
        state.noted = list(tokens)
        counts = np.bincount(tokens, minlength=self.vocabulary).astype(np.uint16)
        size = 2 * self.vocabulary
        self._copy(self.model.step.counts.part(slot * size, size), counts)

    def _copy(self, region: Region, values: NDArray[Any]) -> None:
        self.model.device.copy_in(region, values)

    # Reading ------------------------------------------------------------------------------

    def _read(
        self, runs: Sequence[Run], wanted: list[tuple[int, Sampling]], continues: bool
    ) -> list[Sampled | None]:
        step, size = self.model.step, 4 * len(wanted)
        tokens = self._result(step.tokens.part(0, size), np.int32)
        log_probabilities = self._result(step.log_probabilities.part(0, size), np.float32)
        found: list[Sampled | None] = [None] * len(runs)
        for row, (i, sampling) in enumerate(wanted):
            top = self._top(row, sampling.top_logprobs) if sampling.top_logprobs else ()
            found[i] = Sampled(int(tokens[row]), float(log_probabilities[row]), top)
        if continues:
            self._next = tuple(
                (run.slot, run.start + 1, int(token), run.pages)
                for run, token in zip(runs, tokens, strict=True)
            )
        return found

    def _result(self, region: Region, dtype: DTypeLike) -> NDArray[Any]:
        """What a step has written, from the host's own memory where the device puts it there."""
        view = self.model.device.host_view(region, dtype)
        return self.model.device.copy_out(region, dtype) if view is None else view.copy()

    def _top(self, row: int, count: int) -> tuple[tuple[int, float], ...]:
        size = 4 * self.vocabulary
        region = self.model.step.logits.part(row * size, size)
        found = top_log_probabilities(self.model.device.copy_out(region, np.float32), count)
        pairs = zip(*(values.tolist() for values in found), strict=True)
        return tuple((token, value) for token, value in pairs if value != float("-inf"))

    def _logits(self, rows: int) -> NDArray[np.float32]:
        region = self.model.step.logits.part(0, 4 * rows * self.vocabulary)
        return self.model.device.copy_out(region, np.float32).reshape(rows, -1)


def step_size(tokens: int) -> int:
    """The size of recording that a step of so many tokens uses: few sizes, little padding."""
    if tokens <= 8:
        return 1 << (tokens - 1).bit_length()
    return -(-tokens // 16) * 16


def row_count(wanted: int, most: int) -> int:
    """Rows of the recording likewise; there is always one."""
    return min(step_size(max(wanted, 1)), most)


@dataclass(frozen=True)
class Timings:
    """Seconds: reading and packing the file; compiling, or reading what was compiled before."""

    load_s: float
    compile_s: float


def open_runner(
    path: Path,
    device: Device,
    cache: Path | None,
    *,
    context: int | None = None,
    sequences: int = 1,
    rows: int = 0,
    pages: int = 0,
    cache_kind: CacheKind = "f16",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[GgufFile, DeviceRunner, Timings]:
    """The model without its tokenizer, for measuring and scoring; see `open_model`."""
    start = time.perf_counter()
    programs = programs_for(device, cache)
    file = GgufFile.open(path)
    try:
        longest = file.get(f"{file.require('general.architecture', str)}.context_length", int, 2048)
        limits = Limits(
            context=max(1, min(context or DEFAULT_CONTEXT, longest)),
            sequences=sequences,
            rows=rows,
            pages=pages,
        )
        model = Model.open(file, device, programs, limits, cache_kind, progress)
    except BaseException:
        file.close()
        raise
    compiled = programs.compile_seconds
    timings = Timings(time.perf_counter() - start - compiled, compiled)
    return file, DeviceRunner(model), timings
