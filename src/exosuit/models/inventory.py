"""Which programs a model file needs on a target, found by recording its steps on no device at all.

A `HollowDevice` has addresses but no memory, so weights are laid out and packed without being read:
a file whose tensors are one hole will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exosuit.driver.device import Buffer, Launch, Region
from exosuit.kernel import Kernel, Target
from exosuit.kernel.packs import Wanted
from exosuit.models.decoder import CacheKind
from exosuit.models.gguf import GgufFile
from exosuit.models.model import Limits, Model
from exosuit.ops.programs import Programs
from exosuit.ops.variants import variant
from exosuit.program import Program

STEPS = (1, 2, 4, 8, 16, 48, 512)
"""Tokens of the steps that are recorded: decoding, few sequences, prompts of odd and even tiles."""


class HollowDevice:
    """Implements `Device`; computes nothing and remembers nothing."""

    name = "hollow"

    def __init__(self, target: str, parallel_groups: int) -> None:
        self.target = target
        self.parallel_groups = parallel_groups
        self.memory_bytes = 1 << 46
        self._next = 1 << 20

    def allocate(
        self, size_bytes: int, name: str, sparse: bool = False, host: bool = False
    ) -> Buffer:
        del sparse, host
        buffer = Buffer(name, self._next, size_bytes)
        self._next += -(-size_bytes // 256) * 256
        return buffer

    def free(self, buffer: Buffer) -> None:
        """Nothing is held."""

    def host_view(self, region: Region, dtype: DTypeLike) -> NDArray[Any] | None:
        del region, dtype

    def copy_in(self, region: Region, data: NDArray[Any]) -> None:
        """Nothing is kept."""

    def copy_out(self, region: Region, dtype: DTypeLike) -> NDArray[Any]:
        return np.zeros(region.size_bytes, np.uint8).view(dtype)

    def import_host(self, data: NDArray[np.uint8], name: str) -> Buffer:
        return self.allocate(data.nbytes, name)

    def prepare(self, launches: Sequence[Launch]) -> HollowReplay:
        del launches
        return HollowReplay()

    def close(self) -> None:
        """Nothing is open."""


class HollowReplay:
    def run(self) -> None:
        """Nothing is computed."""

    def close(self) -> None:
        """Nothing is held."""


class _Noted(Programs):
    """Notes what is asked for and compiles nothing."""

    def __init__(self, target: Target) -> None:
        super().__init__(target, None)
        self.wanted: dict[str, Wanted] = {}

    def get(self, kernel: Kernel, **static: Any) -> Program:
        kernel = variant(kernel, self.target)
        wanted = Wanted.of(kernel, static)
        self.wanted[wanted.key] = wanted
        return Program(
            kernel.name, self.target.name, kernel.name, b"", kernel.parameters, kernel.group_size, 0
        )


def programs_of(
    path: Path,
    target: Target,
    parallel_groups: Sequence[int],
    context: int = 4096,
    cache_kinds: Sequence[CacheKind] = ("f16",),
    steps: Sequence[int] = STEPS,
) -> list[Wanted]:
    """What the language model in a GGUF file needs, from packing its weights to sampling.

    parallel_groups  of the cards that it is for: attention is split by it

    Raises what `Model.open` does.
    """
    noted = _Noted(target)
    file = GgufFile.open(path)
    try:
        for groups in parallel_groups:
            for kind in cache_kinds:
                limits = Limits(context=context, sequences=max(1, *(n for n in steps if n <= 16)))
                model = Model.open(file, HollowDevice(target.name, groups), noted, limits, kind)
                for tokens in steps:
                    rows = tokens if tokens <= limits.sequences else 1
                    for continues in (False, True) if rows == tokens else (False,):
                        model.recording(tokens, rows, continues)
                model.recording(1, 1, continues=True, masked=True)
                model.close()
    finally:
        file.close()
    return list(noted.wanted.values())
