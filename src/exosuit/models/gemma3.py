"""gemma3: sliding windows between global layers, norms before and after, GELU."""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.models.config import Config
from exosuit.models.decoder import (
    Attention,
    CacheKind,
    FeedForward,
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
from exosuit.models.recording import LayerCache, Norm, Recording
from exosuit.ops.rotary import RopeOptions

# Every sixth layer looks at everything, with the model's own rotation; the others look at a window
# and keep the rotation of earlier Gemmas.
_GLOBAL_EVERY = 6
_LOCAL_ROPE_BASE = 10000.0
# The 27B model scales queries by its nominal head size instead of the real one.
_LAYERS_OF_27B = 62


@dataclass(frozen=True)
class _Layer:
    attention: Attention
    attention_after: Norm
    feed_forward: FeedForward
    feed_forward_after: Norm
    is_global: bool


class Gemma3:
    """The text part of Gemma 3."""

    def __init__(
        self, config: Config, loader: WeightLoader, cache_kind: CacheKind, context: int
    ) -> None:
        nominal = (
            config.width // config.heads if config.layers == _LAYERS_OF_27B else config.head_dim
        )
        self.heads = make_heads(
            config, cache_kind, "halves", query_scale=nominal**-0.5, head_norms=True
        )
        self.window = config.keys.whole("attention.sliding_window", 0, 0, 1 << 27)
        self.softcap = config.keys.real("final_logit_softcapping", 0.0, 0.0, 1e6)
        self.factor = config.width**0.5
        self.rope = load_rope(loader, "global", config.rope())
        local = config.keys.real("rope.freq_base_swa", _LOCAL_ROPE_BASE, 1.0, 1e12)
        self.local_rope = load_rope(loader, "local", RopeOptions(local, config.rope_dims))
        self.embedding = loader.matrix("token_embd.weight", config.vocabulary, config.width)
        self.layers = [
            _Layer(
                load_attention(loader, i, config, head_norms=True),
                load_norm(loader, f"blk.{i}.post_attention_norm", config),
                load_feed_forward(loader, i, config),
                load_norm(loader, f"blk.{i}.post_ffw_norm", config),
                is_global=i % _GLOBAL_EVERY == _GLOBAL_EVERY - 1,
            )
            for i in range(config.layers)
        ]
        self.norm = load_norm(loader, "output_norm", config)
        self.output = load_output(loader, self.embedding)

    def record(self, r: Recording, caches: list[LayerCache]) -> None:
        r.embed(self.embedding, self.factor)
        table, local_table = self.rope.table(r), self.local_rope.table(r)
        delta = r.floats("delta", r.width)
        for layer, cache in zip(self.layers, caches, strict=True):
            attended = record_attention(
                r, layer.attention, self.heads,
                table if layer.is_global else local_table, cache,
                window=0 if layer.is_global else self.window,
            )  # fmt: skip
            r.linear(attended, layer.attention.output, delta)
            r.add_normed(delta, layer.attention_after)
            hidden = record_feed_forward(r, layer.feed_forward, "gelu")
            r.linear(hidden, layer.feed_forward.down, delta)
            r.add_normed(delta, layer.feed_forward_after)
        r.logits(self.output, self.norm, self.softcap)
