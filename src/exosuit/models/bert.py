"""bert: all-MiniLM, bge, e5, gte and whatever else is a plain BERT that turns texts into vectors.

Embeddings of token, position and type are summed and normalised; then layers of attention in both
directions and a GELU feed-forward, each added to its input and normalised after (post-norm).
Source: Devlin et al. 2018; llama.cpp `src/models/bert.cpp` for the names and the form of GELU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exosuit.driver.device import Region
from exosuit.models.config import Config
from exosuit.models.decoder import load_qkv
from exosuit.models.encoder_recording import EncoderRecording, LayerNorm
from exosuit.models.matrices import Stack, WeightLoader


@dataclass(frozen=True)
class _Linear:
    stack: Stack
    bias: Region


@dataclass(frozen=True)
class _Layer:
    qkv: Stack
    qkv_bias: Region | None
    output: _Linear
    output_norm: LayerNorm
    up: _Linear
    down: _Linear
    final_norm: LayerNorm


class Bert:
    """Weights on the device, and how a step of whole texts is recorded."""

    def __init__(self, config: Config, loader: WeightLoader) -> None:
        self._config = config
        self._epsilon = config.keys.real("attention.layer_norm_epsilon", 1e-12, 0.0, 1.0)
        self._embedding = loader.matrix("token_embd.weight", config.vocabulary, config.width)
        self._places = _places(loader, config)
        self._norm = self._load_norm(loader, "token_embd_norm")
        self._layers = [self._load_layer(loader, f"blk.{i}.") for i in range(config.layers)]

    def record(self, r: EncoderRecording) -> Region:
        """From the ids of a step to f32[tokens, width] of its last layer."""
        config, x = self._config, r.x
        y = r.floats("y", config.width)
        r.embed(self._embedding)
        r.add_places(self._places, x)
        r.layer_norm(x, self._norm, y)
        for layer in self._layers:
            qkv = r.floats("qkv", 3 * config.width)
            r.linear(y, layer.qkv, qkv, bias=layer.qkv_bias)
            attended = r.attend_span(qkv, config.heads, config.head_dim, config.context)
            r.linear(attended, layer.output.stack, y, bias=layer.output.bias, accumulate=True)
            r.layer_norm(y, layer.output_norm, x)
            hidden = r.floats("hidden", config.feed_forward)
            r.linear(x, layer.up.stack, hidden, bias=layer.up.bias)
            r.activate(hidden, config.feed_forward, "gelu")
            r.linear(hidden, layer.down.stack, x, bias=layer.down.bias, accumulate=True)
            r.layer_norm(x, layer.final_norm, y)
        return y

    def _load_layer(self, loader: WeightLoader, block: str) -> _Layer:
        config = self._config
        qkv, qkv_bias = load_qkv(loader, block, config)
        return _Layer(
            qkv=qkv,
            qkv_bias=qkv_bias,
            output=_linear(loader, block + "attn_output", config.width, config.query_width),
            output_norm=self._load_norm(loader, block + "attn_output_norm"),
            up=_linear(loader, block + "ffn_up", config.feed_forward, config.width),
            down=_linear(loader, block + "ffn_down", config.width, config.feed_forward),
            final_norm=self._load_norm(loader, block + "layer_output_norm"),
        )

    def _load_norm(self, loader: WeightLoader, name: str) -> LayerNorm:
        width = self._config.width
        weight, bias = (loader.vector(f"{name}.{part}", width) for part in ("weight", "bias"))
        return LayerNorm(weight, bias, self._epsilon)


def _linear(loader: WeightLoader, name: str, rows: int, columns: int) -> _Linear:
    return _Linear(
        loader.stack([name + ".weight"], [rows], columns), loader.vector(name + ".bias", rows)
    )


def _places(loader: WeightLoader, config: Config) -> Region:
    """f32[context, width]: what a position adds to its token, with the type that every text has."""
    places = loader.table("position_embd.weight", config.context, config.width)
    if loader.has("token_types.weight"):
        places = places + loader.table("token_types.weight", None, config.width)[0]
    return loader.constant(places.astype(np.float32))
