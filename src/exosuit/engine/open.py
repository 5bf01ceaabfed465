"""From a model file and a device to an engine that is ready: the one place that joins them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exosuit.driver.device import Device
from exosuit.engine.engine import Engine
from exosuit.engine.runner import DeviceRunner, Timings, open_runner
from exosuit.models.chat import ChatTemplate
from exosuit.models.decoder import CacheKind
from exosuit.models.gguf import GgufFile
from exosuit.models.model import LoadReport
from exosuit.models.tokenizer import Tokenizer


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


def open_model(
    path: Path,
    device: Device,
    cache: Path | None,
    *,
    context: int | None = None,
    sequences: int = 1,
    pages: int = 0,
    cache_kind: CacheKind = "f16",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LoadedModel:
    """Load `path` onto `device`.

    cache      folder of compiled kernels; None keeps nothing
    context    positions of one sequence; at most what the model was trained for
    sequences  how many may be worked on at a time
    pages      of the cache, for all of them together; 0 for as many as they may need
    progress   called with bytes loaded and bytes in all
    Raises the ModelErrors of the file, and DoesNotFit.
    """
    file, runner, timings = open_runner(
        path, device, cache, context=context, sequences=sequences, pages=pages,
        cache_kind=cache_kind, progress=progress,
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
