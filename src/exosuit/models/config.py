"""What a model file says about its shape, read once and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from exosuit.errors import CorruptFile, UnsupportedModel
from exosuit.models.gguf import GgufFile
from exosuit.ops.rotary import RopeOptions


@dataclass(frozen=True)
class Config:
    """Sizes of a decoder-only transformer, in the terms of GGUF's metadata.

    head_dim   dimensions of an attention head (keys and values alike)
    rope_dims  of them that are turned by position
    """

    architecture: str
    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    norm_epsilon: float
    rope_base: float
    rope_dims: int
    keys: Mapping[str, Any]

    def get(self, key: str, default: Any) -> Any:
        """An optional key of this architecture (`qwen3moe.expert_count` is "expert_count")."""
        return self.keys.get(f"{self.architecture}.{key}", default)

    def count(self, key: str, most: int) -> int:
        """A key that must be there: a whole number from 1 to `most`."""
        value = self.get(key, None)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise CorruptFile(
                f"{self.architecture}.{key} is {value!r}",
                cause=f"it must be a whole number from 1 to {most}",
                next="download the model again: exosuit pull",
                key=key,
            )
        return value

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.kv_heads * self.head_dim

    @staticmethod
    def read(file: GgufFile) -> Config:
        """CorruptFile for missing or absurd values."""
        architecture = file.require("general.architecture", str)
        name = file.path.name

        def number(key: str, kind: type[int] | type[float], default: Any = None) -> Any:
            full = f"{architecture}.{key}"
            value = file.metadata.get(full, default)
            if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
                value = value[0].item()  # a list with one entry for each layer, all alike
            if isinstance(value, np.ndarray):
                raise UnsupportedModel(
                    f"{name} gives a different {key} to each layer",
                    cause="exosuit's layers all have one shape",
                    next="choose another model: exosuit models",
                )
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise CorruptFile(
                    f"{name} has no usable {full}",
                    cause=f"it must be a number; it is {value!r}"[:200],
                    next="download the model again: exosuit pull",
                    key=full,
                )
            return kind(value)

        def size(key: str, default: Any = None, most: int = 1 << 24) -> int:
            value = number(key, int, default)
            if not 0 < value <= most:
                raise CorruptFile(
                    f"{name}: {architecture}.{key} is {value}",
                    cause=f"it must lie between 1 and {most}",
                    next="download the model again: exosuit pull",
                    key=key,
                )
            return value

        width, heads = size("embedding_length"), size("attention.head_count", most=1 << 12)
        kv_heads = size("attention.head_count_kv", heads, most=1 << 12)
        head_dim = size("attention.key_length", width // heads, most=1 << 12)
        if heads % kv_heads:
            raise CorruptFile(
                f"{name}: {heads} query heads for {kv_heads} key heads",
                cause="the first must be a multiple of the second",
                next="download the model again: exosuit pull",
            )
        if size("attention.value_length", head_dim, most=1 << 12) != head_dim:
            raise UnsupportedModel(
                f"{name} has keys and values of different sizes",
                cause="exosuit's attention takes one head size",
                next="choose another model: exosuit models",
            )
        embedding = file.tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise CorruptFile(
                f"{name} has no token embedding",
                cause="it holds a vocabulary only, or the first tensor is missing",
                next="exosuit show " + str(file.path),
            )
        return Config(
            architecture=architecture,
            layers=size("block_count", most=1 << 12),
            width=width,
            feed_forward=size("feed_forward_length", width),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocabulary=embedding.shape[0],
            context=size("context_length", 2048, most=1 << 27),
            norm_epsilon=number("attention.layer_norm_rms_epsilon", float, 1e-5),
            rope_base=number("rope.freq_base", float, 10000.0),
            rope_dims=size("rope.dimension_count", head_dim, most=head_dim),
            keys=file.metadata,
        )

    def rope(self) -> RopeOptions:
        """The rotation, with the scaling that the file asks for."""
        kind = str(self.get("rope.scaling.type", "none"))
        factor = float(self.get("rope.scaling.factor", self.get("rope.scale_linear", 1.0)))
        original = int(self.get("rope.scaling.original_context_length", self.context))
        magnitude = float(self.get("rope.scaling.attn_factor", 1.0))
        if kind == "yarn":
            return RopeOptions(
                self.rope_base, self.rope_dims, "yarn", factor, original, magnitude=magnitude,
                beta_fast=float(self.get("rope.scaling.yarn_beta_fast", 32.0)),
                beta_slow=float(self.get("rope.scaling.yarn_beta_slow", 1.0)),
            )  # fmt: skip
        if kind == "linear" or (kind == "none" and factor != 1.0):
            return RopeOptions(self.rope_base, self.rope_dims, "linear", factor)
        return RopeOptions(self.rope_base, self.rope_dims, magnitude=magnitude)
