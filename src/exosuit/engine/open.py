"""From a model file and a device to an engine that is ready: the one place that puts them together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exosuit.driver.device import Device
from exosuit.engine.engine import Engine
from exosuit.engine.runner import DeviceRunner
from exosuit.kernel import ProgramCache, Target
from exosuit.models.chat import ChatTemplate
from exosuit.models.decoder import CacheKind
from exosuit.models.gguf import GgufFile
from exosuit.models.model import LoadReport, Model
from exosuit.models.model import Limits as ModelLimits
from exosuit.models.tokenizer import Tokenizer
from exosuit.ops.programs import Programs

DEFAULT_CONTEXT = 4096
"""Positions of a session that asks for nothing else, if the model has as many."""


@dataclass(frozen=True)
class Timings:
    """Seconds: reading and packing the file; compiling, or reading what was compiled before."""

    load_s: float
    compile_s: float


@dataclass(frozen=True)
class LoadedModel:
    """A model that answers. Close it when done; that frees the device's memory.

    template  None if the file has no chat template
    """

    path: Path
    file: GgufFile
    device: Device
    runner: DeviceRunner
    engine: Engine
    tokenizer: Tokenizer
    template: ChatTemplate | None
    report: LoadReport
    timings: Timings

    @property
    def name(self) -> str:
        """What the file calls the model."""
        return self.file.get("general.name", str) or self.path.stem

    def close(self) -> None:
        self.runner.close()
        self.file.close()


def open_runner(
    path: Path,
    device: Device,
    cache: Path | None,
    *,
    context: int | None = None,
    sequences: int = 1,
    rows: int = 0,
    cache_kind: CacheKind = "f16",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[GgufFile, DeviceRunner, Timings]:
    """The model without its tokenizer, for measuring and scoring; see `open_model`."""
    start = time.perf_counter()
    programs = Programs(Target.named(device.target), ProgramCache(cache) if cache else None)
    file = GgufFile.open(path)
    try:
        longest = file.get(f"{file.require('general.architecture', str)}.context_length", int, 2048)
        limits = ModelLimits(
            context=max(1, min(context or DEFAULT_CONTEXT, longest)), sequences=sequences, rows=rows
        )
        model = Model.open(file, device, programs, limits, cache_kind, progress)
    except BaseException:
        file.close()
        raise
    compiled = programs.compile_seconds
    timings = Timings(time.perf_counter() - start - compiled, compiled)
    return file, DeviceRunner(model), timings


def open_model(
    path: Path,
    device: Device,
    cache: Path | None,
    *,
    context: int | None = None,
    sequences: int = 1,
    cache_kind: CacheKind = "f16",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LoadedModel:
    """Load `path` onto `device`.

    cache      folder of compiled kernels; None keeps nothing
    context    positions of one sequence; at most what the model was trained for
    sequences  how many may be worked on at a time
    progress   called with bytes loaded and bytes in all
    Raises the ModelErrors of the file, and DoesNotFit.
    """
    file, runner, timings = open_runner(
        path, device, cache, context=context, sequences=sequences, cache_kind=cache_kind,
        progress=progress,
    )  # fmt: skip
    try:
        tokenizer = Tokenizer.from_metadata(file.metadata)
        template = None
        if file.get("tokenizer.chat_template", str):
            template = ChatTemplate.from_metadata(file.metadata, tokenizer)
    except BaseException:
        runner.close()
        file.close()
        raise
    return LoadedModel(
        path, file, device, runner, Engine(runner, tokenizer), tokenizer, template,
        runner.model.report, timings,
    )  # fmt: skip
