"""Storage mixes: what `Q4_K_M` means for each tensor of a model.

A mix is a default type with exceptions by the tensor's role and layer: the output matrix in six
bits, the attention's values and the second half of the feed-forward in more bits where it matters
most. The rules are those by which llama.cpp's quantiser writes files (src/llama-quant.cpp, read at
007dbbf3); published file sizes are what the tests hold them to. IQ mixes are taken as made with an
importance matrix, the others as made without.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto

from exosuit.advise.catalogue import plain
from exosuit.advise.shapes import ModelShape, TensorShape
from exosuit.errors import UsageError
from exosuit.ops.quants import StorageType

DEFAULTS = {
    "F32": "F32",
    "F16": "F16",
    "BF16": "BF16",
    "Q8_0": "Q8_0",
    "Q6_K": "Q6_K",
    "Q5_K_M": "Q5_K",
    "Q5_K_S": "Q5_K",
    "Q5_1": "Q5_1",
    "Q5_0": "Q5_0",
    "Q4_K_M": "Q4_K",
    "Q4_K_S": "Q4_K",
    "Q4_1": "Q4_1",
    "Q4_0": "Q4_0",
    "IQ4_NL": "IQ4_NL",
    "IQ4_XS": "IQ4_XS",
    "MXFP4": "MXFP4",
    "Q3_K_L": "Q3_K",
    "Q3_K_M": "Q3_K",
    "Q3_K_S": "Q3_K",
    "IQ3_M": "IQ3_S",
    "IQ3_S": "IQ3_S",
    "IQ3_XXS": "IQ3_XXS",
    "Q2_K": "Q2_K",
    "IQ2_M": "IQ2_S",
    "IQ2_S": "IQ2_XS",
    "IQ2_XS": "IQ2_XS",
    "IQ2_XXS": "IQ2_XXS",
}
"""Every mix that is known here, best first, with the type that most of its tensors have."""

LADDER = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "Q2_K", "IQ2_XS")
"""What is offered when a model does not fit, best first."""

TYPES = {kind.label: kind for kind in StorageType}
TWO_BITS = {"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"}
FALLBACK = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ2_XXS": "IQ4_NL",
    "IQ2_XS": "IQ4_NL",
    "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
}
"""What a 256-wide type becomes in rows that 256 does not divide."""


class Role(Enum):
    EMBEDDING = auto()
    OUTPUT = auto()
    QUERY = auto()
    KEY = auto()
    VALUE = auto()
    FUSED_QKV = auto()
    ATTENTION_OUTPUT = auto()
    DOWN = auto()
    OTHER = auto()


def find_mix(text: str) -> str:
    """`q4_k_m` or `Q4KM` as `Q4_K_M`; UsageError if no such mix is known."""
    known = {plain(name): name for name in DEFAULTS}
    if plain(text) in known:
        return known[plain(text)]
    raise UsageError(
        f"no storage mix is called {text!r}",
        cause=f"known are {', '.join(DEFAULTS)}",
        next="exosuit plan llama-3.1-8b:Q4_K_M",
        asked=text,
    )


def stored_as(model: ModelShape, tensors: Iterable[TensorShape], mix: str) -> list[StorageType]:
    """The type of each tensor in a file of this mix, in order of `tensors`."""
    return _Rules(model, mix).types(list(tensors))


def bytes_of(tensor: TensorShape, kind: StorageType) -> int:
    """What the tensor takes in this type."""
    return tensor.count // kind.block * kind.block_bytes


class _Rules:
    """The walk over one model's tensors; counts layers as the quantiser does."""

    def __init__(self, model: ModelShape, mix: str) -> None:
        self.model = model
        self.mix = mix
        self.grouped = model.heads // model.kv_heads  # query heads per KV head
        self.eight_experts = model.experts == 8
        self.is_70b = model.layers == 80 and model.architecture in {"llama", "qwen2"}

    def types(self, tensors: list[TensorShape]) -> list[StorageType]:
        roles = [_role(tensor.name) for tensor in tensors]
        values = sum(role is Role.VALUE for role in roles)
        value = 0
        found: list[StorageType] = []
        for tensor, role in zip(tensors, roles, strict=True):
            found.append(TYPES[self._type(tensor, role, value, values)])
            value += role is Role.VALUE
        return found

    def _type(self, tensor: TensorShape, role: Role, value: int, values: int) -> str:
        if not _is_packed(tensor):
            return "F32"
        default = DEFAULTS[self.mix]
        if default in {"F32", "F16", "BF16"}:
            return default
        chosen = self._choose(tensor, role, value, values, default)
        return _fit(chosen, tensor.shape[-1])

    def _choose(
        self, tensor: TensorShape, role: Role, value: int, values: int, default: str
    ) -> str:
        mix, layers = self.mix, self.model.layers
        layer = _layer(tensor.name)
        if role is Role.OUTPUT or (role is Role.EMBEDDING and self.model.tied):
            return self._output(tensor, default)
        if mix == "MXFP4":
            return "MXFP4" if len(tensor.shape) == 3 else "Q8_0"
        if role is Role.EMBEDDING:
            few = {"IQ2_XXS": "Q2_K", "IQ2_XS": "Q2_K"}
            some = {"IQ2_S": "IQ3_S", "IQ2_M": "IQ3_S", "IQ3_XXS": "IQ3_S"}
            return (few | some).get(mix, default)
        if mix in TWO_BITS:
            return self._two_bits(role, layer, default)
        if role is Role.VALUE:
            return self._value(value, values, default)
        if role in {Role.KEY, Role.QUERY}:
            if role is Role.KEY and self.eight_experts:
                return "Q8_0"
            return "IQ2_S" if mix == "IQ3_XXS" else default
        if role is Role.DOWN:
            return self._down(layer, layers, default)
        if role is Role.ATTENTION_OUTPUT:
            return self._attention_output(default)
        if role is Role.FUSED_QKV:
            fused = {"Q3_K_M": "Q4_K", "Q3_K_L": "Q4_K", "IQ3_M": "Q4_K"}
            return (fused | {"Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}).get(mix, default)
        return default

    def _output(self, tensor: TensorShape, default: str) -> str:
        if self.mix == "MXFP4" or tensor.shape[-1] % TYPES[default].block:
            return "Q8_0"
        if self.mix in TWO_BITS or self.mix == "IQ3_XXS":
            return "Q5_K"
        return default if default == "Q8_0" else "Q6_K"

    def _two_bits(self, role: Role, layer: int, default: str) -> str:
        more = "IQ3_S" if self.mix in {"IQ2_S", "IQ2_M"} else "Q2_K"
        if role is Role.VALUE:
            return "Q4_K" if self.grouped >= 4 or self.model.experts >= 4 else more
        if role is Role.KEY and self.eight_experts:
            return "Q4_K"
        if role is Role.DOWN:
            return more if layer < self.model.layers // 8 else default
        if role is Role.ATTENTION_OUTPUT:
            if self.eight_experts:
                return "Q5_K"
            return "IQ3_S" if more == "IQ3_S" else default
        return default

    def _value(self, value: int, values: int, default: str) -> str:
        mix, many = self.mix, self.grouped >= 4
        chosen = default
        if mix == "Q2_K":
            chosen = "Q4_K" if many else "Q3_K"
        elif mix in {"IQ3_XXS", "IQ3_S"}:
            chosen = "Q4_K" if many else default
        elif mix == "IQ3_M":
            chosen = "Q4_K"
        elif mix == "Q3_K_M":
            chosen = "Q5_K" if value < 2 else "Q4_K"
        elif mix == "Q3_K_L" or (mix in {"IQ4_NL", "IQ4_XS"} and many):
            chosen = "Q5_K"
        elif mix in {"Q4_K_M", "Q5_K_M"} and _matters(value, values):
            chosen = "Q6_K"
        elif mix == "Q4_K_S" and value < 4:
            chosen = "Q5_K"
        if self.is_70b and chosen in {"Q3_K", "Q4_K"}:
            chosen = "Q5_K"
        return "Q8_0" if self.eight_experts else chosen

    def _down(self, layer: int, layers: int, default: str) -> str:
        first = layer < layers // 8
        match self.mix:
            case "Q2_K":
                return "Q3_K"
            case "Q3_K_M":
                return "Q5_K" if layer < layers // 16 else "Q4_K"
            case "Q3_K_L":
                return "Q5_K"
            case "Q4_K_M" | "Q5_K_M" if _matters(layer, layers):
                return "Q6_K"
            case "Q4_K_S" if first:
                return "Q5_K"
            case "IQ3_M" if first or (self.eight_experts and _matters(layer, layers)):
                return "Q4_K"
            case _:
                return default

    def _attention_output(self, default: str) -> str:
        if self.eight_experts:
            lifted = {"Q2_K", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M"}
            return "Q5_K" if self.mix in lifted | {"IQ3_S", "IQ3_M", "IQ4_XS"} else default
        lifted_to = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}
        return (lifted_to | {"IQ3_M": "Q4_K"}).get(self.mix, default)


def _matters(layer: int, layers: int) -> bool:
    """The layers that get more bits: the first and last eighth, and every third between."""
    first = layers // 8
    return layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2


def _is_packed(tensor: TensorShape) -> bool:
    """Whether the quantiser touches this tensor at all; the others stay F32."""
    kept = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d")
    return (
        len(tensor.shape) > 1
        and tensor.name.endswith(".weight")
        and not any(part in tensor.name for part in kept)
    )


def _fit(kind: str, columns: int) -> str:
    if columns % TYPES[kind].block == 0:
        return kind
    fallback = FALLBACK.get(kind, "F16")
    return fallback if columns % TYPES[fallback].block == 0 else "F16"


def _layer(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _role(name: str) -> Role:
    roles = {
        "token_embd.": Role.EMBEDDING,
        "attn_qkv.weight": Role.FUSED_QKV,
        "attn_q.weight": Role.QUERY,
        "attn_k.weight": Role.KEY,
        "attn_v.weight": Role.VALUE,
        "attn_output.weight": Role.ATTENTION_OUTPUT,
        "ffn_down": Role.DOWN,
    }
    if name == "output.weight":
        return Role.OUTPUT
    return next((role for part, role in roles.items() if part in name), Role.OTHER)
