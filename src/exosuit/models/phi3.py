"""phi3: Phi 3, 3.5 and 4; fused projections, and longrope's two sets of factors."""

from __future__ import annotations

from dataclasses import replace

from exosuit.models.config import Config
from exosuit.models.decoder import CacheKind, load_rope
from exosuit.models.llama import Llama
from exosuit.models.matrices import WeightLoader


class Phi3(Llama):
    """As Llama with pairs as halves.

    longrope has factors for sequences within the original context and others beyond it. The cache
    holds turned keys, so one set serves a whole session: it is chosen by the session's context.
    """

    pairing = "halves"

    def __init__(
        self, config: Config, loader: WeightLoader, cache_kind: CacheKind, context: int
    ) -> None:
        super().__init__(config, loader, cache_kind, context)
        long, short = "rope_factors_long.weight", "rope_factors_short.weight"
        if loader.has(long) or loader.has(short):
            options = replace(config.rope(), scaling="none")
            ropes = {name: load_rope(loader, "rope", options, name) for name in (long, short)}
            self.rope = ropes[long if context > config.original_context else short]
