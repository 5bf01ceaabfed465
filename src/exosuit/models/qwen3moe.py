"""qwen3moe: Qwen 3 with a mixture of experts in every layer."""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.models.config import Config
from exosuit.models.decoder import (
    Attention,
    CacheKind,
    load_attention,
    load_norm,
    load_output,
    load_rope,
    make_heads,
    record_attention,
)
from exosuit.models.matrices import Experts, Stack, WeightLoader
from exosuit.models.recording import LayerCache, Norm, Recording


@dataclass(frozen=True)
class _Mixture:
    norm: Norm
    router: Stack
    gate_up: Experts
    down: Experts


class Qwen3Moe:
    """Qwen 3's attention; each token visits its best experts, weighted to sum to 1."""

    def __init__(
        self, config: Config, loader: WeightLoader, cache_kind: CacheKind, context: int
    ) -> None:
        self.heads = make_heads(config, cache_kind, "halves", head_norms=True)
        experts = config.keys.whole("expert_count", None, 1, 1 << 12)
        self.chosen = config.keys.whole("expert_used_count", None, 1, min(experts, 16))
        share = config.feed_forward // self.chosen  # llama.cpp's default
        rows = config.keys.whole("expert_feed_forward_length", share, 1, 1 << 24)
        self.rope = load_rope(loader, "rope", config.rope())
        self.embedding = loader.matrix("token_embd.weight", config.vocabulary, config.width)
        self.layers: list[tuple[Attention, _Mixture]] = []
        for i in range(config.layers):
            block = f"blk.{i}.ffn_"
            mixture = _Mixture(
                load_norm(loader, block + "norm", config),
                loader.stack([block + "gate_inp.weight"], [experts], config.width),
                loader.experts(
                    [block + "gate_exps.weight", block + "up_exps.weight"],
                    experts,
                    rows,
                    config.width,
                    interleaved=True,
                ),
                loader.experts([block + "down_exps.weight"], experts, config.width, rows),
            )
            attention = load_attention(loader, i, config, head_norms=True)
            self.layers.append((attention, mixture))
        self.norm = load_norm(loader, "output_norm", config)
        self.output = load_output(loader, self.embedding)

    def record(self, r: Recording, caches: list[LayerCache]) -> None:
        r.embed(self.embedding)
        table = self.rope.table(r)
        for (attention, mixture), cache in zip(self.layers, caches, strict=True):
            attended = record_attention(r, attention, self.heads, table, cache)
            r.linear(attended, attention.output, r.x, accumulate=True)
            r.mixture(r.x, mixture.router, mixture.gate_up, mixture.down, self.chosen, mixture.norm)
        r.logits(self.output, self.norm)
