"""What the architectures share: the parts of a decoder layer, loaded and recorded.

Each architecture's own file says which parts it has and in which order they come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from exosuit.driver.device import Region
from exosuit.errors import CorruptFile
from exosuit.models.config import Config
from exosuit.models.matrices import Matrix, Stack, WeightLoader
from exosuit.models.recording import LayerCache, Norm, Recording
from exosuit.ops.cache import CacheFormat
from exosuit.ops.rotary import Heads, RopeOptions, frequencies


class Architecture(Protocol):
    """A model family: its weights on the device, and how a step of it is recorded."""

    heads: Heads

    def __init__(
        self, config: Config, loader: WeightLoader, cache_kind: CacheKind, context: int
    ) -> None: ...

    def record(self, r: Recording, caches: list[LayerCache]) -> None:
        """Record a whole step, from the ids of its tokens to the logits of its wanted rows."""
        ...


CacheKind = Literal["f16", "q8"]


@dataclass(frozen=True)
class Attention:
    """Projections of one layer's attention.

    head_norms  weights of the norms of query and key heads, where there are such
    """

    norm: Norm
    qkv: Stack
    bias: Region | None
    output: Stack
    output_bias: Region | None
    head_norms: tuple[Region, Region] | None


@dataclass(frozen=True)
class FeedForward:
    norm: Norm
    gate_up: Stack
    down: Stack


@dataclass(frozen=True)
class Rope:
    """Inverse frequencies on the device."""

    name: str
    inverse: Region
    magnitude: float
    dims: int

    def table(self, r: Recording) -> Region:
        return r.angles(self.name, self.inverse, self.magnitude, self.dims)


def load_norm(loader: WeightLoader, name: str, config: Config) -> Norm:
    return Norm(loader.vector(name + ".weight", config.width), config.norm_epsilon)


def load_attention(
    loader: WeightLoader, layer: int, config: Config, head_norms: bool = False
) -> Attention:
    """With a fused projection, and with biases, wherever the file has them."""
    block = f"blk.{layer}."
    qkv, bias = load_qkv(loader, block, config)
    norms: tuple[Region, Region] | None = None
    if head_norms:
        norms = (
            loader.vector(block + "attn_q_norm.weight", config.head_dim),
            loader.vector(block + "attn_k_norm.weight", config.head_dim),
        )
    output = block + "attn_output"
    return Attention(
        norm=load_norm(loader, block + "attn_norm", config),
        qkv=qkv,
        bias=bias,
        output=loader.stack([output + ".weight"], [config.width], config.query_width),
        output_bias=loader.vector(output + ".bias", config.width)
        if loader.has(output + ".bias")
        else None,
        head_norms=norms,
    )


def load_qkv(loader: WeightLoader, block: str, config: Config) -> tuple[Stack, Region | None]:
    """Queries, keys and values of one layer side by side, and their biases."""
    rows = [config.query_width, config.key_width, config.key_width]
    parts = [block + f"attn_{part}" for part in "qkv"]
    if loader.has(block + "attn_qkv.weight"):
        parts, rows = [block + "attn_qkv"], [sum(rows)]
    bias: Region | None = None
    if loader.has(parts[0] + ".bias"):
        biases = [loader.values(p + ".bias", n) for p, n in zip(parts, rows, strict=True)]
        bias = loader.constant(np.concatenate(biases))
    return loader.stack([part + ".weight" for part in parts], rows, config.width), bias


def load_feed_forward(loader: WeightLoader, layer: int, config: Config) -> FeedForward:
    """With gate and value in one tensor where the file has it so (phi3)."""
    block = f"blk.{layer}."
    gate, up = block + "ffn_gate.weight", block + "ffn_up.weight"
    if loader.has(gate):
        gate_up = loader.gated(gate, up, config.feed_forward, config.width)
    else:
        gate_up = loader.gated_halves(up, config.feed_forward, config.width)
    down = loader.stack([block + "ffn_down.weight"], [config.width], config.feed_forward)
    return FeedForward(load_norm(loader, block + "ffn_norm", config), gate_up, down)


def load_output(loader: WeightLoader, embedding: Matrix) -> Stack:
    """The output matrix; the embedding itself where the file ties them."""
    if loader.has("output.weight"):
        return Stack((loader.matrix("output.weight", embedding.rows, embedding.columns),))
    return Stack((embedding,))


def load_rope(
    loader: WeightLoader, name: str, options: RopeOptions, factors: str | None = None
) -> Rope:
    """`factors` names the tensor of divisors of the frequencies, one for each pair."""
    divisors: NDArray[np.float32] | None = None
    if factors is not None:
        divisors = loader.values(factors, options.dims // 2)
        if not (np.isfinite(divisors).all() and (divisors > 0).all()):
            raise CorruptFile(
                f"{loader.file.path.name}: {factors} holds values that are not positive numbers",
                cause="the file is damaged",
                next="download the model again: exosuit pull",
                tensor=factors,
            )
    inverse, magnitude = frequencies(options, divisors)
    return Rope(name, loader.constant(inverse), magnitude, options.dims)


def make_heads(
    config: Config,
    cache_kind: CacheKind,
    pairing: Literal["normal", "halves"],
    query_scale: float | None = None,
    head_norms: bool = False,
) -> Heads:
    return Heads(
        cache=CacheFormat(cache_kind, config.kv_heads, config.head_dim),
        query_heads=config.heads,
        rope_dims=config.rope_dims,
        pairing=pairing,
        query_scale=query_scale or config.head_dim**-0.5,
        norm_eps=config.norm_epsilon if head_norms else None,
    )


def record_attention(
    r: Recording,
    layer: Attention,
    heads: Heads,
    table: Region,
    cache: LayerCache,
    window: int = 0,
    softcap: float = 0.0,
) -> Region:
    """Everything before the output projection; f32[tokens, query width]."""
    qkv = r.floats("qkv", heads.query_width + 2 * heads.key_width)
    r.linear(r.x, layer.qkv, qkv, norm=layer.norm, bias=layer.bias)
    return r.attend(qkv, table, cache, heads, window, softcap, layer.head_norms)


def record_feed_forward(r: Recording, layer: FeedForward, activation: str = "silu") -> Region:
    """Everything before the down projection; f32[tokens, feed forward width]."""
    hidden = r.floats("hidden", layer.down.columns)
    r.gated(r.x, layer.gate_up, hidden, activation, norm=layer.norm)
    return hidden
