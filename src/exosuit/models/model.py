"""A language model on a device: weights, cache, and a recording for each size of step.

`Model.open` reads a file; `recording(tokens, rows)` gives the prepared graph for a step of up to
that many tokens, made when it is first needed. What a step computes is said in `StepBuffers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from exosuit.driver.device import Device, Replay
from exosuit.errors import UnsupportedModel
from exosuit.graph import Arena, Graph
from exosuit.models.config import Config
from exosuit.models.decoder import Architecture, CacheKind
from exosuit.models.encoder import ENCODERS
from exosuit.models.gemma3 import Gemma3
from exosuit.models.gguf import GgufFile
from exosuit.models.llama import Llama
from exosuit.models.matrices import WeightLoader
from exosuit.models.phi3 import Phi3
from exosuit.models.qwen2 import Qwen2
from exosuit.models.qwen3 import Qwen3
from exosuit.models.qwen3moe import Qwen3Moe
from exosuit.models.recording import LayerCache, Recording
from exosuit.models.step import StepBuffers, StepLimits
from exosuit.ops.cache import PAGE
from exosuit.ops.products import attention_tile
from exosuit.ops.programs import Programs
from exosuit.units import round_up

ARCHITECTURES: dict[str, type[Architecture]] = {
    "gemma3": Gemma3,
    "llama": Llama,
    "phi3": Phi3,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "qwen3moe": Qwen3Moe,
}


@dataclass(frozen=True)
class Limits:
    """How much a model is opened for.

    context      positions of one sequence
    sequences    sequences at a time
    step_tokens  most tokens of one step; longer prompts come in chunks
    pages        pages of the cache, for all sequences together
    rows         most rows of logits of one step
    """

    context: int
    sequences: int = 1
    step_tokens: int = 512
    pages: int = 0
    rows: int = 0

    def resolved(self) -> Limits:
        """With the pages and rows that all sequences may need."""
        pages = self.pages or self.sequences * -(-self.context // PAGE)
        rows = self.rows or self.sequences
        return Limits(self.context, self.sequences, self.step_tokens, pages, rows)


@dataclass
class LoadReport:
    """What opening took and held; seconds and bytes."""

    load_s: float = 0.0
    weight_bytes: int = 0
    cache_bytes: int = 0
    workspace_bytes: int = 0
    notes: list[str] = field(default_factory=list[str])


class Model:
    """Weights and cache of one model on one device. Use by one thread."""

    def __init__(
        self,
        config: Config,
        architecture: Architecture,
        device: Device,
        programs: Programs,
        limits: Limits,
        report: LoadReport,
        loader: WeightLoader,
    ) -> None:
        self.config = config
        self.device = device
        self.limits = limits
        self.report = report
        self._architecture = architecture
        self._programs = programs
        self._loader = loader
        self._recordings: dict[tuple[int, int, bool, bool], Replay] = {}
        self._caches, self._cache_arena = self._allocate_cache()
        most = round_up(limits.step_tokens, 16)  # steps are rounded up to few sizes
        steps = StepLimits(most, limits.sequences, -(-limits.context // PAGE), limits.rows)
        self.step = StepBuffers.allocate(device, steps, config.vocabulary)
        measured = Arena.measuring()
        self._record(most, limits.rows, False, measured)
        self._record(1, 1, True, measured)  # a decode of one sequence is split, for more threads
        self._workspace = Arena(device, measured.most_bytes + 4096, "workspace", sparse=True)
        report.cache_bytes = self._cache_arena.buffer.size_bytes
        report.workspace_bytes = self._workspace.buffer.size_bytes

    @staticmethod
    def open(
        file: GgufFile,
        device: Device,
        programs: Programs,
        limits: Limits,
        cache_kind: CacheKind = "f16",
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Model:
        """Load the file's weights; UnsupportedModel, CorruptFile or DoesNotFit in words."""
        start = time.perf_counter()
        compiled = programs.compile_seconds
        config = Config.read(file)
        kind = ARCHITECTURES.get(config.architecture)
        if config.architecture in ENCODERS:
            raise UnsupportedModel(
                f"{file.path.name} makes embeddings and writes no text",
                cause=f"its architecture is {config.architecture!r}",
                next="exosuit serve, and ask it at /v1/embeddings or /api/embed",
                architecture=config.architecture,
            )
        if kind is None:
            raise UnsupportedModel(
                f"{file.path.name} is of the architecture {config.architecture!r}",
                cause=f"exosuit knows {', '.join(sorted(ARCHITECTURES))}",
                next="choose another model: exosuit models",
                architecture=config.architecture,
            )
        loader = WeightLoader(file, device, programs, progress)
        architecture = kind(config, loader, cache_kind, limits.context)
        loader.finish()
        report = LoadReport(
            load_s=time.perf_counter() - start - (programs.compile_seconds - compiled),
            weight_bytes=loader.buffer_bytes,
            notes=loader.notes,
        )
        return Model(config, architecture, device, programs, limits.resolved(), report, loader)

    def recording(self, tokens: int, rows: int, continues: bool, masked: bool = False) -> Replay:
        """The prepared graph of a step of `tokens` tokens and `rows` wanted rows.

        It ends with sampling the wanted rows; if it `continues`, row i is that of token i, and
        what was sampled is the next step's token i. If it is `masked`, only tokens that
        `StepBuffers.masks` allows are sampled.
        """
        replay = self._recordings.get((tokens, rows, continues, masked))
        if replay is None:
            graph = self._record(tokens, rows, continues, self._workspace, masked)
            replay = graph.prepare(self.device)
            self._recordings[tokens, rows, continues, masked] = replay
        return replay

    def record(self, tokens: int, rows: int, continues: bool) -> Graph:
        """The graph of a step, for those who look at its launches; `recording` has it prepared."""
        return self._record(tokens, rows, continues, self._workspace)

    def attention_tile(self, tokens: int) -> int:
        """Most tokens of one of a step's attention tiles."""
        return attention_tile(tokens, self._architecture.heads.repeat, self._programs.target)

    def close(self) -> None:
        for replay in self._recordings.values():
            replay.close()
        self._recordings.clear()
        for arena in (self._workspace, self._cache_arena, self.step):
            arena.close()
        self._loader.close()

    def _record(
        self, tokens: int, rows: int, continues: bool, workspace: Arena, masked: bool = False
    ) -> Graph:
        r = Recording(
            self._programs,
            self.step,
            workspace,
            tokens,
            rows,
            self.config.width,
            self.device.parallel_groups,
        )
        self._architecture.record(r, self._caches)
        r.sample(self.config.vocabulary, continues, masked)
        return r.close()

    def _allocate_cache(self) -> tuple[list[LayerCache], Arena]:
        cache = self._architecture.heads.cache
        page, scale_page = cache.page_bytes, cache.scale_page_bytes
        pages = self.limits.pages
        sizes = (pages * page, pages * page, pages * scale_page, pages * scale_page)
        total = self.config.layers * sum(round_up(size, 128) for size in sizes)
        arena = Arena(self.device, total, "kv cache", sparse=True)
        layers = [
            LayerCache(*(arena.take(size) for size in sizes)) for _ in range(self.config.layers)
        ]
        return layers, arena
