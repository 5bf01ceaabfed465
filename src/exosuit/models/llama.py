"""llama: Llama 2 and 3, Mistral, SmolLM2, TinyLlama, the DeepSeek-R1 distills on Llama."""

from __future__ import annotations

from typing import Literal

from exosuit.models.config import Config
from exosuit.models.decoder import (
    CacheKind,
    load_attention,
    load_feed_forward,
    load_norm,
    load_output,
    load_rope,
    make_heads,
    record_attention,
    record_feed_forward,
)
from exosuit.models.matrices import WeightLoader
from exosuit.models.recording import LayerCache, Recording


class Llama:
    """Pre-norm layers, rotary embedding over neighbouring pairs, SwiGLU.

    Families that differ only in these words derive from it.
    """

    pairing: Literal["normal", "halves"] = "normal"
    head_norms = False

    def __init__(
        self, config: Config, loader: WeightLoader, cache_kind: CacheKind, context: int
    ) -> None:
        factors = "rope_freqs.weight"  # Llama 3.1 and later stretch by pair
        self.heads = make_heads(config, cache_kind, self.pairing, head_norms=self.head_norms)
        self.rope = load_rope(
            loader, "rope", config.rope(), factors if loader.has(factors) else None
        )
        self.embedding = loader.matrix("token_embd.weight", config.vocabulary, config.width)
        self.layers = [
            (
                load_attention(loader, i, config, self.head_norms),
                load_feed_forward(loader, i, config),
            )
            for i in range(config.layers)
        ]
        self.norm = load_norm(loader, "output_norm", config)
        self.output = load_output(loader, self.embedding)

    def record(self, r: Recording, caches: list[LayerCache]) -> None:
        r.embed(self.embedding)
        table = self.rope.table(r)
        for (attention, feed_forward), cache in zip(self.layers, caches, strict=True):
            attended = record_attention(r, attention, self.heads, table, cache)
            r.linear(attended, attention.output, r.x, bias=attention.output_bias, accumulate=True)
            hidden = record_feed_forward(r, feed_forward)
            r.linear(hidden, feed_forward.down, r.x, accumulate=True)
        r.logits(self.output, self.norm)
