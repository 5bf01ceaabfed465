"""What a model file says about its shape, read once and checked.

Every number is held to what a model can be: a file may say anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from exosuit.errors import CorruptFile, UnsupportedModel
from exosuit.models.gguf import GgufFile, Value
from exosuit.ops.rotary import RopeOptions

# Far beyond every model there is, and small enough that products of them stay numbers.
_MOST_LAYERS = 1 << 12
_MOST_HEADS = 1 << 12
_MOST_WIDTH = 1 << 24
_MOST_CONTEXT = 1 << 27


@dataclass(frozen=True)
class Keys:
    """The metadata of one architecture: `qwen3moe.expert_count` is "expert_count".

    A default of None means that the key must be there. A list with one entry for each layer counts
    as its entry where all are alike. Both readers raise CorruptFile for what is no number within
    the bounds, and UnsupportedModel where layers differ.
    """

    file: str
    architecture: str
    values: Mapping[str, Value]

    def whole(self, key: str, default: int | None, least: int, most: int) -> int:
        value = self._value(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._unusable(key, value, f"a whole number from {least} to {most}")
        return value

    def real(self, key: str, default: float | None, least: float, most: float) -> float:
        value = self._value(key, default)
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and least <= value <= most
        ):
            return float(value)  # a NaN is in no interval
        raise self._unusable(key, value, f"a number from {least:g} to {most:g}")

    def word(self, key: str, default: str) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self._unusable(key, value, "a word")
        return value

    def _value(self, key: str, default: Value | None) -> Value | None:
        value = self.values.get(f"{self.architecture}.{key}", default)
        if isinstance(value, np.ndarray) and value.size:
            first = value[0].item()
            if (value == first).all():
                return first
            raise UnsupportedModel(
                f"{self.file} gives a different {key} to each layer",
                cause="exosuit's layers all have one shape",
                next="choose another model: exosuit models",
                key=key,
            )
        return value

    def _unusable(self, key: str, value: object, wanted: str) -> CorruptFile:
        found = "is missing" if value is None else f"is {str(value)[:40]!r}"
        return CorruptFile(
            f"{self.file}: {self.architecture}.{key} {found}",
            cause=f"it must be {wanted}",
            next="download the model again: exosuit pull",
            key=key,
        )


@dataclass(frozen=True)
class Config:
    """Sizes of a decoder-only transformer, in the terms of GGUF's metadata.

    head_dim          dimensions of an attention head (keys and values alike)
    rope_dims         of them that are turned by position
    original_context  what the model was first trained for, before its rotation was stretched
    keys              the rest, for what only one architecture has
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
    original_context: int
    norm_epsilon: float
    rope_base: float
    rope_dims: int
    keys: Keys = field(repr=False)

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.kv_heads * self.head_dim

    @staticmethod
    def read(file: GgufFile) -> Config:
        """CorruptFile for missing or absurd values, UnsupportedModel for what no kernel does."""
        name = file.path.name
        keys = Keys(name, file.require("general.architecture", str), file.metadata)
        width = keys.whole("embedding_length", None, 1, _MOST_WIDTH)
        heads = keys.whole("attention.head_count", None, 1, _MOST_HEADS)
        kv_heads = keys.whole("attention.head_count_kv", heads, 1, _MOST_HEADS)
        if heads % kv_heads:
            raise CorruptFile(
                f"{name}: {heads} query heads for {kv_heads} key heads",
                cause="the first must be a multiple of the second",
                next="download the model again: exosuit pull",
            )
        head_dim = keys.whole("attention.key_length", width // heads, 1, _MOST_HEADS)
        if keys.whole("attention.value_length", head_dim, 1, _MOST_HEADS) != head_dim:
            raise UnsupportedModel(
                f"{name} has keys and values of different sizes",
                cause="exosuit's attention takes one head size",
                next="choose another model: exosuit models",
            )
        rope_dims = keys.whole("rope.dimension_count", head_dim, 1, head_dim)
        if rope_dims % 8:
            raise UnsupportedModel(
                f"{name} turns {rope_dims} dimensions of a head",
                cause="exosuit's rotation takes multiples of 8",
                next="choose another model: exosuit models",
            )
        context = keys.whole("context_length", 2048, 1, _MOST_CONTEXT)
        return Config(
            architecture=keys.architecture,
            layers=keys.whole("block_count", None, 1, _MOST_LAYERS),
            width=width,
            feed_forward=keys.whole("feed_forward_length", width, 1, _MOST_WIDTH),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocabulary=_vocabulary(file),
            context=context,
            original_context=keys.whole(
                "rope.scaling.original_context_length", context, 1, _MOST_CONTEXT
            ),
            norm_epsilon=keys.real("attention.layer_norm_rms_epsilon", 1e-5, 0.0, 1.0),
            rope_base=keys.real("rope.freq_base", 10000.0, 1.0, 1e12),
            rope_dims=rope_dims,
            keys=keys,
        )

    def rope(self) -> RopeOptions:
        """The rotation, with the scaling that the file asks for.

        longrope's scaling is in tensors, which the architecture reads.
        """
        keys = self.keys
        kind = keys.word("rope.scaling.type", "linear")  # as llama.cpp reads a file without
        older = keys.real("rope.scale_linear", 1.0, 1e-6, 1e6)
        factor = keys.real("rope.scaling.factor", older, 1e-6, 1e6)
        magnitude = keys.real("rope.scaling.attn_factor", 1.0, 1e-6, 1e6)
        plain = RopeOptions(self.rope_base, self.rope_dims, magnitude=magnitude)
        match kind:
            case "none" | "longrope":
                return plain
            case "linear":
                return replace(plain, scaling="linear", factor=factor)
            case "yarn":
                return replace(
                    plain, scaling="yarn", factor=factor, original_context=self.original_context,
                    beta_fast=keys.real("rope.scaling.yarn_beta_fast", 32.0, 1e-6, 1e6),
                    beta_slow=keys.real("rope.scaling.yarn_beta_slow", 1.0, 1e-6, 1e6),
                )  # fmt: skip
            case _:
                raise UnsupportedModel(
                    f"{keys.file} stretches its rotation by {kind[:40]!r}",
                    cause="exosuit knows none, linear, yarn and longrope",
                    next="choose another model: exosuit models",
                )


def _vocabulary(file: GgufFile) -> int:
    """Rows of the embedding; as many as the tokenizer has tokens, where the file has one."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CorruptFile(
            f"{file.path.name} has no token embedding",
            cause="it holds a vocabulary only, or the first tensor is missing",
            next="exosuit show " + str(file.path),
        )
    rows = embedding.shape[0]
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) != rows:
        raise CorruptFile(
            f"{file.path.name} embeds {rows} tokens, and its tokenizer has {len(tokens)}",
            cause="the file was put together from parts of different models",
            next="download the model again: exosuit pull",
        )
    return rows
