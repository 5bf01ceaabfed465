"""What a model needs: bytes of weights, of KV cache for a context, of workspace; layer by layer.

Two ways lead here: a GGUF header, whose tensors say it all, or a shape and a storage mix. Both
become a `Footprint`: the embedding, the layers, the output, each with what it stores and what one
token reads of it. Placement and speed work on this value and know nothing of files.

`size_of` says what a tensor takes: as in the file (`stored_bytes`), or as exosuit places it
(`placing.placed_bytes`). The KV cache is f16, in pages of 64 tokens; every layer keeps the whole
context, also one whose sliding window then reads only the end of it. Recurrent layers keep a state
of fixed size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from exosuit.advise.mixes import stored_as
from exosuit.advise.shapes import Linear, ModelShape, TensorShape, tensors
from exosuit.errors import CorruptFile, UnsupportedModel
from exosuit.ops.quants import StorageType
from exosuit.units import MiB, round_up

PAGE = 64
"""Tokens in one page of the KV cache."""
CHUNK = 512
"""Tokens of a prompt that are worked on together."""
KV_BYTES = 2
"""f16."""


@dataclass(slots=True)
class LayerNeed:
    """One layer. `read_bytes` is what a token reads of `weight_bytes`: of experts, only its own."""

    weight_bytes: int = 0
    read_bytes: float = 0
    active_parameters: float = 0
    is_mixture: bool = False
    kv_bytes_per_token: int = 0
    window: int = 0
    state_bytes: int = 0

    def kv_tokens(self, context: int) -> int:
        """How many tokens' keys and values this layer keeps."""
        return round_up(context, PAGE) if self.kv_bytes_per_token else 0

    def kv_bytes(self, context: int) -> int:
        return self.kv_tokens(context) * self.kv_bytes_per_token + self.state_bytes

    def kv_read(self, filled: int) -> int:
        """Bytes of cache that one token reads when `filled` tokens are behind it."""
        seen = min(filled, self.window) if self.window else filled
        return seen * self.kv_bytes_per_token + self.state_bytes


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one model needs, wherever it goes."""

    name: str
    architecture: str
    mix: str
    layers: tuple[LayerNeed, ...]
    embedding_bytes: int
    output_bytes: int
    tied: bool
    width: int
    vocabulary: int
    context_limit: int
    parameters: int
    row_floats: int
    notes: tuple[str, ...] = field(default=())

    @property
    def weight_bytes(self) -> int:
        """Every weight, as stored."""
        return self.embedding_bytes + self.output_bytes + self.layer_bytes

    @property
    def layer_bytes(self) -> int:
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def head_read_bytes(self) -> int:
        """What one token reads of the output matrix, which a tied model keeps as its embedding."""
        return self.output_bytes + (self.embedding_bytes if self.tied else 0)

    @property
    def read_bytes(self) -> float:
        """What one generated token reads of the weights."""
        return sum(layer.read_bytes for layer in self.layers) + self.head_read_bytes

    @property
    def active_parameters(self) -> float:
        """Parameters that one prompt token is multiplied with, output matrix aside."""
        return sum(layer.active_parameters for layer in self.layers)

    @property
    def is_mixture(self) -> bool:
        return any(layer.is_mixture for layer in self.layers)

    def kv_bytes(self, context: int) -> int:
        return sum(layer.kv_bytes(context) for layer in self.layers)

    def kv_read(self, filled: int) -> int:
        return sum(layer.kv_read(filled) for layer in self.layers)

    def workspace_bytes(self) -> int:
        """Activations of one prompt chunk, the logits of one token, and a spare MiB, at most.

        `row_floats` is what one token takes at the widest step, every array counted twice; tests
        hold it to what the engine's recordings really take.
        """
        return 4 * (CHUNK * self.row_floats + 4 * self.vocabulary) + MiB


def row_floats(width: int, ffn: int, qkv: int, experts_used: int, expert_ffn: int) -> int:
    """f32 values that one token of a chunk takes in the workspace, at most."""
    return 6 * width + 2 * ffn + 2 * qkv + experts_used * (width + 2 * expert_ffn)


class FileTensor(Protocol):
    """What is needed of a tensor in a GGUF header; `models.gguf` provides it."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def type(self) -> StorageType: ...


SizeOf = Callable[[tuple[int, ...], StorageType], int]
"""Bytes of a tensor of this shape (row length last) and type."""


def stored_bytes(shape: tuple[int, ...], kind: StorageType) -> int:
    """What the tensor takes in a file."""
    return _count(shape) // kind.block * kind.block_bytes


def from_shape(model: ModelShape, mix: str, size_of: SizeOf = stored_bytes) -> Footprint:
    """The footprint of a well-known model in one storage mix."""
    listed = list(tensors(model))
    kinds = stored_as(model, listed, mix)
    share = model.experts_used / model.experts if model.experts else 1.0
    layers = [LayerNeed() for _ in range(model.layers)]
    sized = [(t.name, t.shape, size_of(t.shape, k)) for t, k in zip(listed, kinds, strict=True)]
    ends = _collect(sized, layers, share)
    per_token = 2 * model.kv_heads * model.head_dim * KV_BYTES
    for index, layer in enumerate(layers):
        if model.is_linear(index):
            assert model.linear is not None
            layer.state_bytes = model.linear.state_bytes
        else:
            layer.kv_bytes_per_token = per_token
            layer.window = 0 if model.is_full(index) else model.window
    return Footprint(
        name=model.name,
        architecture=model.architecture,
        mix=mix,
        layers=tuple(layers),
        embedding_bytes=ends.get("token_embd", 0),
        output_bytes=sum(size for name, size in ends.items() if name != "token_embd"),
        tied=model.tied,
        width=model.width,
        vocabulary=model.vocabulary,
        context_limit=model.context,
        parameters=sum(t.count for t in listed),
        row_floats=row_floats(
            model.width,
            max(model.ffn, model.shared_ffn),
            (model.heads + 2 * model.kv_heads) * model.head_dim,
            model.experts_used,
            model.expert_ffn,
        ),
        notes=(f"shape of {model.source}; {mix} as llama.cpp's quantiser mixes it",),
    )


def from_header(
    name: str,
    metadata: Mapping[str, Any],
    file_tensors: Mapping[str, FileTensor],
    size_of: SizeOf = stored_bytes,
) -> Footprint:
    """The footprint of a GGUF file, from its metadata and the list of its tensors.

    Raises CorruptFile if the header lacks what every language model has, UnsupportedModel if the
    file holds no layers at all (a vocabulary, an adapter, a vision projector).
    """
    header = _Header(name, metadata)
    count = header.number("block_count")
    if not any(tensor.startswith("blk.") for tensor in file_tensors) or count < 1:
        raise UnsupportedModel(
            f"{name} holds no layers of a language model",
            cause="it may be a vocabulary, an adapter or a vision projector",
            next="exosuit show " + name,
        )
    if count > len(file_tensors):
        raise CorruptFile(
            f"{name} claims {count} layers, but holds {len(file_tensors)} tensors",
            cause="its header is damaged",
            next="exosuit pull NAME   (fetches the file again)",
            key="block_count",
        )
    layers = [LayerNeed() for _ in range(count)]
    experts, used = header.number("expert_count", 0), header.number("expert_used_count", 0)
    share = used / experts if experts and used else 1.0
    sized = ((key, tuple(t.shape), size_of(t.shape, t.type)) for key, t in file_tensors.items())
    ends = _collect(sized, layers, share)
    notes = header.attention(layers, file_tensors)
    return Footprint(
        name=name,
        architecture=header.architecture,
        mix=_mix_of(metadata),
        layers=tuple(layers),
        embedding_bytes=ends.get("token_embd", 0),
        output_bytes=sum(size for key, size in ends.items() if key != "token_embd"),
        tied="output.weight" not in file_tensors,
        width=header.number("embedding_length"),
        vocabulary=header.vocabulary(file_tensors),
        context_limit=header.number("context_length", 0),
        parameters=sum(_count(t.shape) for t in file_tensors.values()),
        row_floats=row_floats(
            header.number("embedding_length"),
            header.number("feed_forward_length", 0),
            header.qkv_width(),
            used,
            header.number("expert_feed_forward_length", 0),
        ),
        notes=("read from the file's header", *notes),
    )


def _collect(
    listed: Iterable[tuple[str, tuple[int, ...], int]], layers: list[LayerNeed], share: float
) -> dict[str, int]:
    """Add every tensor to its layer; what belongs to none comes back as stem to bytes."""
    ends: dict[str, int] = {}
    for name, shape, size in listed:
        found = re.match(r"blk\.(\d+)\.", name)
        if found is None or int(found[1]) >= len(layers):
            stem = name.split(".")[0]
            ends[stem] = ends.get(stem, 0) + size
            continue
        layer = layers[int(found[1])]
        part = share if "_exps" in name else 1.0
        layer.weight_bytes += size
        layer.read_bytes += size * part
        layer.active_parameters += _count(shape) * part if len(shape) > 1 else 0
        layer.is_mixture = layer.is_mixture or "_exps" in name
    return ends


class _Header:
    """Typed access to the metadata of one file."""

    def __init__(self, name: str, metadata: Mapping[str, Any]) -> None:
        self.name = name
        self.metadata = metadata
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise self._missing("general.architecture")
        self.architecture = architecture

    def _missing(self, key: str) -> CorruptFile:
        return CorruptFile(
            f"{self.name} does not say its {key}",
            cause="every language model's header has this key; the file is damaged or of a kind"
            " that cannot be planned",
            next=f"exosuit show {self.name}",
            key=key,
        )

    def values(self, key: str) -> list[int]:
        """The value of `architecture.key` as a list, one entry where the file has one for all."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        try:
            if isinstance(value, (int, float)):
                return [int(value)]
            if value is None or isinstance(value, (str, bytes)):
                return []
            return [int(entry) for entry in value]
        except (TypeError, ValueError, OverflowError):
            return []

    def number(self, key: str, default: int | None = None) -> int:
        found = self.values(key)
        if not found:
            if default is None:
                raise self._missing(f"{self.architecture}.{key}")
            return default
        return max(0, min(max(found), 1 << 40))

    def per_layer(self, key: str, count: int, default: int | None = None) -> list[int]:
        found = self.values(key) or ([] if default is None else [default])
        if not found:
            raise self._missing(f"{self.architecture}.{key}")
        return [max(0, found[min(layer, len(found) - 1)]) for layer in range(count)]

    def vocabulary(self, file_tensors: Mapping[str, FileTensor]) -> int:
        table = file_tensors.get("token_embd.weight")
        if table is None or len(table.shape) != 2:
            raise self._missing("token_embd.weight")
        return table.shape[0]

    def qkv_width(self) -> int:
        """Values of the queries, keys and values of one token."""
        heads = max(self.number("attention.head_count"), 1)
        kv_heads = self.number("attention.head_count_kv", heads)
        head_dim = self.number("attention.key_length", self.number("embedding_length") // heads)
        return (heads + 2 * kv_heads) * head_dim

    def attention(
        self, layers: list[LayerNeed], file_tensors: Mapping[str, FileTensor]
    ) -> tuple[str, ...]:
        """Fill in each layer's cache; says what had to be assumed."""
        count = len(layers)
        heads = max(self.number("attention.head_count"), 1)
        kv_heads = self.per_layer("attention.head_count_kv", count, heads)
        usual = self.number("embedding_length") // heads
        key_dim = self.number("attention.key_length", usual)
        value_dim = self.number("attention.value_length", usual)
        window, every, notes = self._window()
        linear = self._linear()
        for index, layer in enumerate(layers):
            if linear is not None and f"blk.{index}.ssm_conv1d.weight" in file_tensors:
                layer.state_bytes = linear.state_bytes
                continue
            layer.kv_bytes_per_token = kv_heads[index] * (key_dim + value_dim) * KV_BYTES
            layer.window = window if (index + 1) % every else 0
        return notes

    def _window(self) -> tuple[int, int, tuple[str, ...]]:
        """Window, every how many layers one sees everything, and what was assumed."""
        window = self.number("attention.sliding_window", 0)
        pattern = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "llama4": 4, "cohere2": 4}
        if not window:
            return 0, 1, ()
        if self.architecture in pattern:
            return window, pattern[self.architecture], ()
        return 0, 1, (f"sliding windows of {self.architecture} are planned as full attention",)

    def _linear(self) -> Linear | None:
        inner, state = self.number("ssm.inner_size", 0), self.number("ssm.state_size", 0)
        groups, heads = self.number("ssm.group_count", 0), self.number("ssm.time_step_rank", 0)
        if not (inner and state and groups and heads):
            return None
        kernel = self.number("ssm.conv_kernel", 4)
        return Linear(groups, heads, state, inner // heads, kernel)


_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 23: "IQ3_XXS", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 32: "BF16", 38: "MXFP4",
}  # fmt: skip
"""`general.file_type`: the numbers of llama.cpp's `llama_ftype`."""


def _mix_of(metadata: Mapping[str, Any]) -> str:
    number = metadata.get("general.file_type")
    return _FILE_TYPES.get(number, "") if isinstance(number, int) else ""


def _count(shape: tuple[int, ...]) -> int:
    return TensorShape("", tuple(shape)).count
