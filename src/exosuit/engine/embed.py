"""Texts to vectors: the embedding models' counterpart of `engine.open` and the engine.

An embedding has no steps to schedule: inputs of any number go through the encoder in batches that
fill its step, and come back in their order, each of length 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exosuit.driver.device import Device
from exosuit.engine.programs import programs_for
from exosuit.engine.runner import Timings
from exosuit.errors import ContextFull, RequestError
from exosuit.models.encoder import ENCODERS, Encoder
from exosuit.models.gguf import GgufFile
from exosuit.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class EmbeddingModel:
    """A model that makes vectors. Use by one thread; close it when done."""

    path: Path
    file: GgufFile
    device: Device
    encoder: Encoder
    tokenizer: Tokenizer
    timings: Timings

    @property
    def name(self) -> str:
        """What the file calls the model."""
        return self.file.get("general.name", str) or self.path.stem

    @property
    def context(self) -> int:
        """Most tokens of an input, with those that the tokenizer puts around it."""
        return self.encoder.context

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return self.encoder.width

    def embed(self, inputs: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Vectors [inputs, width] of length 1, pooled as the model says.

        inputs  token ids, with the tokenizer's own around each (`Tokenizer.encode` adds them)
        Raises ContextFull for an input that is longer than the context, RequestError for an empty
        one and for an id outside the vocabulary; then nothing is computed.
        """
        for number, tokens in enumerate(inputs):
            self._check(number, tokens)
        if not inputs:
            return np.zeros((0, self.width), np.float32)
        vectors = np.concatenate([self.encoder.encode(batch) for batch in self._batches(inputs)])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.maximum(lengths, 1e-30)).astype(np.float32)

    def close(self) -> None:
        self.encoder.close()
        self.file.close()

    def _batches(self, inputs: Sequence[Sequence[int]]) -> Iterator[Sequence[Sequence[int]]]:
        """Neighbours that fill a step together."""
        start = total = 0
        for end, tokens in enumerate(inputs):
            if end > start and (
                total + len(tokens) > self.encoder.step_tokens
                or end - start == self.encoder.step_texts
            ):
                yield inputs[start:end]
                start, total = end, 0
            total += len(tokens)
        yield inputs[start:]

    def _check(self, number: int, tokens: Sequence[int]) -> None:
        if len(tokens) > self.context:
            raise ContextFull(
                f"input {number} has {len(tokens)} tokens; {self.name} takes {self.context}",
                cause="an input is embedded as a whole",
                next="cut it into pieces",
                input=number,
                tokens=len(tokens),
                context=self.context,
            )
        known = self.tokenizer.vocabulary_size
        if not tokens or not all(0 <= token < known for token in tokens):
            raise RequestError(
                f"input {number} is empty or has a token that {self.name} does not know",
                cause=f"token ids are 0 to {known - 1}",
                next="send text, or ids made with this model's tokenizer",
                input=number,
            )


def is_embedding_model(file: GgufFile) -> bool:
    """Whether `open_embedding_model` is the one to open it, rather than `open_model`."""
    return file.get("general.architecture", str, "") in ENCODERS


def open_embedding_model(
    path: Path,
    device: Device,
    cache: Path | None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EmbeddingModel:
    """Load `path` onto `device`; arguments and errors are those of `engine.open.open_model`."""
    start = time.perf_counter()
    programs = programs_for(device, cache)
    file = GgufFile.open(path)
    try:
        tokenizer = Tokenizer.from_metadata(file.metadata)
        encoder = Encoder.open(file, device, programs, progress)
    except BaseException:
        file.close()
        raise
    compiled = programs.compile_seconds
    timings = Timings(time.perf_counter() - start - compiled, compiled)
    return EmbeddingModel(path, file, device, encoder, tokenizer, timings)
