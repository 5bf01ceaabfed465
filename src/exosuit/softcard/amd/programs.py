"""What runs a card's programs: the translator of its machine code, made when first needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from exosuit.softcard.amd.isa.shaders import Cost, Dispatch, ShaderFault, Shaders
from exosuit.softcard.amd.tlb import Tlb

TRANSLATED = ("gfx1100", "gfx1101", "gfx1102")


class Translated:
    """Programs of one card.

    cache    folder that keeps translated code between processes, or None
    threads  host threads that run workgroups; 0 for one per processor
    fails    whether the next program is to stop at an instruction that is none
    """

    def __init__(
        self,
        target: str,
        tlb: Tlb,
        cache: Path | None,
        threads: int,
        fails: Callable[[], bool],
    ) -> None:
        self._target = target
        self._tlb = tlb
        self._cache = cache
        self._threads = threads or os.cpu_count() or 1
        self._fails = fails
        self._shaders: Shaders | None = None

    def run(self, dispatch: Dispatch) -> Cost:
        """Run a dispatch to its end. Raises ShaderFault, for every one on a card without a
        translator.
        """
        if self._target not in TRANSLATED:
            reason = f"there is no translator for {self._target}"
            raise ShaderFault("unsupported dispatch", reason, dispatch.entry)
        if self._fails():
            raise ShaderFault("illegal instruction", "by the schedule of faults", dispatch.entry)
        if self._shaders is None:
            self._shaders = Shaders(self._target, self._tlb, self._cache, self._threads)
        return self._shaders.run(dispatch)
