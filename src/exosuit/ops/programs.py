"""Programs of one target, compiled when first asked for and kept."""

from __future__ import annotations

import time
from typing import Any

from exosuit.kernel import Kernel, ProgramCache, Target, compile_kernel
from exosuit.ops.variants import variant
from exosuit.program import Program


class Programs:
    """What recordings get their programs from. Use by one thread.

    compile_seconds  time spent so far on compiling and on reading the cache
    """

    def __init__(self, target: Target, cache: ProgramCache | None) -> None:
        self.target = target
        self.compile_seconds = 0.0
        self._cache = cache
        self._known: dict[tuple[Any, ...], Program] = {}

    def get(self, kernel: Kernel, **static: Any) -> Program:
        """The program of `kernel`, or of its variant for this target."""
        kernel = variant(kernel, self.target)
        key = (kernel, *sorted(static.items()))
        program = self._known.get(key)
        if program is None:
            start = time.perf_counter()
            program = compile_kernel(kernel, self.target, self._cache, **static)
            self.compile_seconds += time.perf_counter() - start
            self._known[key] = program
        return program
