"""`Encoder`: a model that turns whole texts into vectors, on a device.

The encoder's counterpart of `models.model`: weights, a workspace and one recording for each size of
step. It has no cache and samples nothing. What a step computes is said in `StepBuffers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exosuit.driver.device import Device, Region, Replay
from exosuit.errors import UnsupportedModel
from exosuit.graph import Arena, Graph
from exosuit.models.bert import Bert
from exosuit.models.config import Config
from exosuit.models.encoder_recording import EncoderRecording
from exosuit.models.gguf import GgufFile
from exosuit.models.matrices import WeightLoader
from exosuit.models.step import StepBuffers, StepLimits
from exosuit.ops.programs import Programs
from exosuit.units import round_up

ENCODERS: dict[str, type[Bert]] = {"bert": Bert}
"""The architectures that make vectors."""

Pooling = Literal["mean", "first", "last"]

# GGUF's `pooling_type`. A file without one, or with 0, does not pool by itself and gets the mean,
# as the sentence-transformers library does for a bare BERT.
_POOLINGS: dict[int, Pooling] = {0: "mean", 1: "mean", 2: "first", 3: "last"}

_STEP_TOKENS = 512
_STEP_TEXTS = 64
_ROUND = 16
# Scores of one token lie in a workgroup's shared memory, of which GPUs have 32 KiB and more.
_LONGEST = 4096


class Encoder:
    """Weights of one model on one device. Use by one thread.

    context  most tokens of a text
    width    dimensions of a vector
    """

    def __init__(
        self,
        config: Config,
        architecture: Bert,
        device: Device,
        programs: Programs,
        loader: WeightLoader,
        pooling: Pooling,
    ) -> None:
        self.device = device
        self.pooling: Pooling = pooling
        self.context, self.width = config.context, config.width
        self.weight_bytes = loader.buffer_bytes
        self.notes = loader.notes
        self._architecture = architecture
        self._programs = programs
        self._loader = loader
        self._recordings: dict[int, Replay] = {}
        tokens = round_up(max(_STEP_TOKENS, config.context), _ROUND)
        limits = StepLimits(tokens, sequences=_STEP_TEXTS, pages=1, rows=_STEP_TEXTS)
        self._step = StepBuffers.allocate(device, limits, vocabulary=1)  # nothing is sampled
        self._vectors = Arena(device, 4 * _STEP_TEXTS * config.width + 128, "vectors")
        self._out = self._vectors.take(4 * _STEP_TEXTS * config.width)
        measured = Arena.measuring()
        self._record(tokens, measured, self._out)
        self._workspace = Arena(device, measured.most_bytes + 4096, "workspace", sparse=True)

    @staticmethod
    def open(
        file: GgufFile,
        device: Device,
        programs: Programs,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Encoder:
        """Load the file's weights; UnsupportedModel, CorruptFile or DoesNotFit in words."""
        config = Config.read(file)
        kind = ENCODERS.get(config.architecture)
        if kind is None:
            raise UnsupportedModel(
                f"{file.path.name} is of the architecture {config.architecture!r}",
                cause=f"exosuit makes vectors with {', '.join(sorted(ENCODERS))}",
                next="exosuit pull all-minilm   (an embedding model)",
                architecture=config.architecture,
            )
        _check(config, file)
        pooling = config.keys.whole("pooling_type", 0, 0, 16)
        if pooling not in _POOLINGS:
            raise UnsupportedModel(
                f"{file.path.name} ranks texts instead of making vectors of them",
                cause=f"its pooling_type is {pooling}; exosuit pools by mean, first or last token",
                next="choose another model: exosuit models --known",
                pooling=pooling,
            )
        loader = WeightLoader(file, device, programs, progress)
        try:
            architecture = kind(config, loader)
            loader.finish()
            return Encoder(config, architecture, device, programs, loader, _POOLINGS[pooling])
        except BaseException:
            loader.close()
            raise

    @property
    def step_tokens(self) -> int:
        """Most tokens of one `encode`."""
        return self._step.limits.tokens

    @property
    def step_texts(self) -> int:
        """Most texts of one `encode`."""
        return self._step.limits.sequences

    def encode(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Pooled vectors [texts, width] of texts of 1 to `context` tokens each.

        All of them together have at most `step_tokens`.
        """
        lengths = np.array([len(text) for text in texts], np.int32)
        assert 0 < len(texts) <= self.step_texts, "as many texts as a step takes"
        assert 0 < lengths.min() <= lengths.max() <= self.context, "texts of a fitting length"
        ends = np.cumsum(lengths)
        count = int(ends[-1])
        tokens = round_up(count, _ROUND)
        ids, positions = np.zeros(tokens, np.int32), np.zeros(tokens, np.int32)
        slots = np.full(tokens, -1, np.int32)
        ids[:count] = [token for text in texts for token in text]
        positions[:count] = np.arange(count) - np.repeat(ends - lengths, lengths)
        slots[:count] = np.repeat(np.arange(len(texts)), lengths)
        spans = np.zeros((self.step_texts, 4), np.int32)
        spans[: len(texts), 0], spans[: len(texts), 1] = ends - lengths, lengths
        rows = np.zeros(self.step_texts, np.int32)
        rows[: len(texts)] = ends - 1 if self.pooling == "last" else ends - lengths
        step = self._step
        for region, values in (
            (step.ids, ids),
            (step.positions, positions),
            (step.slots, slots),
            (step.tiles, spans),
            (step.rows, rows),
        ):
            self._copy(region, values)
        self._recording(tokens).run()
        found = self._out.part(0, 4 * len(texts) * self.width)
        return self.device.copy_out(found, np.float32).reshape(len(texts), self.width)

    def close(self) -> None:
        for replay in self._recordings.values():
            replay.close()
        self._recordings.clear()
        for arena in (self._workspace, self._vectors, self._step):
            arena.close()
        self._loader.close()

    def _copy(self, region: Region, values: NDArray[Any]) -> None:
        self.device.copy_in(region, values)

    def _recording(self, tokens: int) -> Replay:
        replay = self._recordings.get(tokens)
        if replay is None:
            replay = self._record(tokens, self._workspace, self._out).prepare(self.device)
            self._recordings[tokens] = replay
        return replay

    def _record(self, tokens: int, workspace: Arena, out: Region) -> Graph:
        r = EncoderRecording(
            self._programs, self._step, workspace, tokens, 1, self.width,
            self.device.parallel_groups,
        )  # fmt: skip
        r.pool(self._architecture.record(r), self.pooling, out)
        return r.close()


def _check(config: Config, file: GgufFile) -> None:
    """UnsupportedModel for what a plain encoder does not have."""
    for wrong, found in (
        (config.kv_heads != config.heads, f"{config.kv_heads} key heads for {config.heads}"),
        (config.query_width != config.width, f"heads of {config.head_dim} dimensions"),
        (config.context > _LONGEST, f"a context of {config.context} tokens"),
        (file.get(f"{config.architecture}.attention.causal", bool, False), "causal attention"),
    ):
        if wrong:
            raise UnsupportedModel(
                f"{file.path.name} has {found}",
                cause="exosuit's encoders share keys among no heads, fill their width with heads,"
                f" read at most {_LONGEST} tokens and look in both directions",
                next="choose another model: exosuit models --known",
            )
