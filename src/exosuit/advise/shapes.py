"""The tensors of a well-known model, from its shape alone, named as a GGUF file would name them.

`data/models.toml` holds the shapes with their sources. What is built here is only names, sizes and
layers: enough for an exact memory plan, not enough to run. Names follow the GGUF naming scheme, so
that a shape and a file are measured by the same code (`footprint`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

from exosuit.advise.catalogue import find, rows


@dataclass(frozen=True, slots=True)
class TensorShape:
    """A tensor by name and size; NumPy order, the row length last."""

    name: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Linear:
    """Recurrent layers (gated delta net): heads, sizes, and the width of the convolution."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    @property
    def qkv_width(self) -> int:
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    @property
    def state_bytes(self) -> int:
        """The f32 state that one layer keeps for one sequence, whatever the context."""
        state = self.value_heads * self.key_dim * self.value_dim
        return 4 * (state + (self.kernel - 1) * self.qkv_width)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """One row of `data/models.toml`; see there for what each field means."""

    name: str
    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    tied: bool
    context: int
    parameters_b: float
    source: str
    aliases: tuple[str, ...] = ()
    parameters_published: bool = True
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    expert_bias: bool = False
    fused: bool = False
    experts: int = 0
    experts_used: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    window: int = 0
    full_every: int = 1
    linear: Linear | None = None

    def is_full(self, layer: int) -> bool:
        """Whether this layer attends to the whole context."""
        return (layer + 1) % self.full_every == 0

    def is_linear(self, layer: int) -> bool:
        """Whether this layer keeps a recurrent state instead of a KV cache."""
        return self.linear is not None and not self.is_full(layer)


@cache
def models() -> tuple[ModelShape, ...]:
    return tuple(_model(row) for row in rows("models.toml", "model"))


def _model(row: dict[str, Any]) -> ModelShape:
    linear = row.pop("linear", None)
    aliases = tuple(row.pop("aliases", ()))
    return ModelShape(**row, aliases=aliases, linear=Linear(**linear) if linear else None)


def find_model(text: str) -> ModelShape:
    """The model that a person means by `text`; UsageError with the nearest names if none."""
    return find(text, models(), "model", "exosuit plan --models")


def tensors(model: ModelShape) -> Iterator[TensorShape]:
    """Every tensor of the model in file order: embedding, layers, output."""
    width = model.width
    yield TensorShape("token_embd.weight", (model.vocabulary, width))
    for layer in range(model.layers):
        for name, *shape in _layer(model, layer):
            yield TensorShape(f"blk.{layer}.{name}", tuple(shape))
    yield TensorShape("output_norm.weight", (width,))
    if not model.tied:
        yield TensorShape("output.weight", (model.vocabulary, width))


Entry = tuple[str, int] | tuple[str, int, int] | tuple[str, int, int, int]


def _layer(model: ModelShape, layer: int) -> Iterator[Entry]:
    width = model.width
    yield "attn_norm.weight", width
    yield from _linear(model, layer) if model.is_linear(layer) else _attention(model)
    yield "ffn_norm.weight", width
    if model.post_norms:
        yield "post_attention_norm.weight", width
        yield "post_ffw_norm.weight", width
    yield from _experts(model) if model.experts else _dense(model)


def _attention(model: ModelShape) -> Iterator[Entry]:
    width, kv = model.width, model.kv_heads * model.head_dim
    attended = model.heads * model.head_dim
    asked = 2 * attended if model.linear else attended  # hybrids gate their attention's output
    if model.fused:
        yield "attn_qkv.weight", asked + 2 * kv, width
    else:
        for name, rows_ in (("q", asked), ("k", kv), ("v", kv)):
            yield f"attn_{name}.weight", rows_, width
            if model.qkv_bias:
                yield f"attn_{name}.bias", rows_
    if model.qk_norm:
        yield "attn_q_norm.weight", model.head_dim
        yield "attn_k_norm.weight", model.head_dim
    yield "attn_output.weight", width, attended
    if model.expert_bias:
        yield "attn_output.bias", width
        yield "attn_sinks.weight", model.heads


def _linear(model: ModelShape, layer: int) -> Iterator[Entry]:
    linear = model.linear
    assert linear is not None, f"layer {layer} is not recurrent"
    values = linear.value_heads * linear.value_dim
    yield "attn_qkv.weight", linear.qkv_width, model.width
    yield "attn_gate.weight", values, model.width
    yield "ssm_conv1d.weight", linear.qkv_width, linear.kernel
    yield "ssm_alpha.weight", linear.value_heads, model.width
    yield "ssm_beta.weight", linear.value_heads, model.width
    yield "ssm_a", linear.value_heads
    yield "ssm_dt.bias", linear.value_heads
    yield "ssm_norm.weight", linear.value_dim
    yield "ssm_out.weight", model.width, values


def _dense(model: ModelShape) -> Iterator[Entry]:
    if model.fused:
        yield "ffn_up.weight", 2 * model.ffn, model.width
    else:
        yield "ffn_gate.weight", model.ffn, model.width
        yield "ffn_up.weight", model.ffn, model.width
    yield "ffn_down.weight", model.width, model.ffn


def _experts(model: ModelShape) -> Iterator[Entry]:
    n, width, inner = model.experts, model.width, model.expert_ffn
    yield "ffn_gate_inp.weight", n, width
    yield "ffn_gate_exps.weight", n, inner, width
    yield "ffn_up_exps.weight", n, inner, width
    yield "ffn_down_exps.weight", n, width, inner
    if model.expert_bias:
        yield "ffn_gate_inp.bias", n
        yield "ffn_gate_exps.bias", n, inner
        yield "ffn_up_exps.bias", n, inner
        yield "ffn_down_exps.bias", n, width
    if model.shared_ffn:
        yield "ffn_gate_shexp.weight", model.shared_ffn, width
        yield "ffn_up_shexp.weight", model.shared_ffn, width
        yield "ffn_down_shexp.weight", width, model.shared_ffn
