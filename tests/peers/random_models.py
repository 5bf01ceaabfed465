"""Small model files with random weights, for every architecture and storage type.

    path = write_model(folder / "tiny.gguf", SMALL["gemma3"], "Q4_K")
    exact = write_model(folder / "exact.gguf", SMALL["gemma3"], "Q4_K", expanded=True)

`expanded` stores the very numbers that the packed file stands for as F32: run by the peer, it says
what the packed file should answer before anybody rounds activations to eight bits.

Weights depend on the seed and the tensor's name alone, so the same model in two storage types
differs by quantisation only. They are scaled so that a wrong engine shows: attention is peaked, so
positions, windows and rotations matter; blocks outweigh the embedding, so a model does not merely
repeat its last token; norm weights, biases and rotation factors stray from their neutral values;
and the final norm spreads the logits, so the greedy choice mostly has a gap. Packing is ggml's own
(`ggml_quantize_chunk` of the installed peer); the container is written by the PyPI package gguf.

Files are streamed. Large ones draw their layers from one pool of random rows per width, which a
tensor enters at its own offset, and their vocabularies by all cores: made in seconds, and no two
tensors begin alike.
"""

from __future__ import annotations

import ctypes
import math
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Storage
from tests.peers.random_blocks import random_blocks

from exosuit.advise.peers.llamacpp import LlamaCpp

STORAGE_TYPES = (
    *("F32", "F16", "BF16"),
    *("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"),
)
"""What all matrices of a model can be stored as; `Q4_K_M` is a mix, see `_storage`."""


@dataclass(frozen=True)
class Shape:
    """The hyperparameters of one architecture's smallest honest model."""

    arch: str
    n_layers: int = 2
    width: int = 256
    ffn: int = 512
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 64
    vocab: int = 512
    context: int = 2048
    tied: bool = False
    rope_base: float = 10000.0
    eps: float = 1e-5
    llama3_rope: bool = False
    """Store the `rope_freqs` of Llama 3.1, with the change of scale inside the first 256 tokens."""
    longrope: bool = False
    """Store long and short rotation factors; the long ones count beyond 256 tokens of context."""
    sliding_window: int = 0
    n_experts: int = 0
    n_experts_used: int = 0

    @property
    def bias(self) -> bool:
        return self.arch == "qwen2"

    @property
    def head_norms(self) -> bool:
        return self.arch in ("qwen3", "qwen3moe", "gemma3")


SMALL = {
    "llama": Shape("llama"),
    "llama3": Shape("llama", tied=True, rope_base=500000.0, llama3_rope=True, vocab=1024),
    "llama-hd128": Shape("llama", n_heads=2, n_kv_heads=1, head_dim=128),
    "qwen2": Shape("qwen2", tied=True, rope_base=1e6, eps=1e-6),
    "qwen3": Shape("qwen3", head_dim=128, rope_base=1e6, eps=1e-6),
    "qwen3moe": Shape("qwen3moe", ffn=256, rope_base=1e6, eps=1e-6, n_experts=8, n_experts_used=2),
    "gemma3": Shape(
        "gemma3", n_layers=6, tied=True, rope_base=1e6, eps=1e-6, n_kv_heads=1, sliding_window=64
    ),
    "phi3": Shape("phi3"),
    "phi3-longrope": Shape("phi3", longrope=True),
}
"""Layers 0 to 4 of gemma3 slide, as the format's default pattern of six says; layer 5 sees all."""

LARGE = {
    "0.35b": Shape("llama", 24, 1024, 2816, 16, 8, 64, 32000),
    "1b": Shape("llama", 22, 2048, 5632, 32, 4, 64, 32000),
    "llama-3.2-1b": Shape(
        "llama", 16, 2048, 8192, 32, 8, 64, 128256, 8192, True, 500000.0, 1e-5, llama3_rope=True
    ),
    "llama-3.1-8b": Shape(
        "llama", 32, 4096, 14336, 32, 8, 128, 128256, 8192, False, 500000.0, 1e-5, llama3_rope=True
    ),
    "llama-3.3-70b": Shape(
        "llama", 80, 8192, 28672, 64, 8, 128, 128256, 8192, False, 500000.0, 1e-5, llama3_rope=True
    ),
    "qwen3-30b-a3b": Shape(
        "qwen3moe", 48, 2048, 768, 32, 4, 128, 151936, 8192, rope_base=1e6, eps=1e-6,
        n_experts=128, n_experts_used=8,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor: NumPy shape (columns last) and the distribution of its values."""

    name: str
    shape: tuple[int, ...]
    mean: float = 0.0
    deviation: float = 0.0
    values: np.ndarray | None = None

    @property
    def is_matrix(self) -> bool:
        """Whether it is stored packed; vectors and the router of a mixture stay F32."""
        return len(self.shape) > 1 and "ffn_gate_inp" not in self.name

    @property
    def is_vocabulary(self) -> bool:
        return self.name in ("token_embd.weight", "output.weight")


def write_model(
    path: Path,
    shape: Shape,
    storage: str = "F16",
    seed: int = 0,
    expanded: bool = False,
    drawn: bool = False,
) -> Path:
    """Write a GGUF file whose matrices are stored as `storage`; `path` again, for chaining.

    With `expanded`, matrices are packed as `storage`, unpacked again and stored as F32. With
    `drawn`, their blocks are random (see `random_blocks`): quicker, and nobody is needed to pack.
    """
    writer = gguf.GGUFWriter(path, shape.arch)
    _add_hyperparameters(writer, shape)
    _add_vocabulary(writer, shape.vocab)
    plan = [(tensor, _storage(storage, tensor, shape)) for tensor in tensors(shape)]
    for tensor, kind in plan:
        rows, columns = _rows_columns(tensor)
        kind = Storage.F32 if expanded else kind
        size = rows * _row_size(columns, kind)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float16), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (file,) = writer.fout or ()
    for tensor, kind in plan:
        writer.write_padding(file, file.tell())
        for packed in _packed(tensor, kind, shape, seed, drawn):
            file.write(unpack(packed, kind, tensor.shape[-1]) if expanded else packed)
    writer.write_padding(file, file.tell())
    writer.close()
    return path


def tensors(shape: Shape) -> Iterator[Tensor]:
    """Every tensor of a model, in file order."""
    width, gemma = shape.width, shape.arch == "gemma3"
    yield _matrix("token_embd", shape.vocab, width)
    yield _norm("output_norm", width, 4.0)  # logits spread by about 4
    if not shape.tied:
        yield _matrix("output", shape.vocab, width)
    if shape.llama3_rope:
        factors = _llama3_factors(shape)
        yield Tensor("rope_freqs.weight", factors.shape, values=factors)
    if shape.longrope:
        steps = np.linspace(0, 1, shape.head_dim // 2, dtype=np.float32)
        yield Tensor("rope_factors_long.weight", steps.shape, values=1 + 7 * steps)
        yield Tensor("rope_factors_short.weight", steps.shape, values=1 + 0.5 * steps)
    for layer in range(shape.n_layers):
        at = f"blk.{layer}."
        yield _norm(at + "attn_norm", width)
        yield from _attention(shape, at)
        if gemma:
            yield _norm(at + "post_attention_norm", width, 5.0)
        yield _norm(at + "ffn_norm", width)
        yield from _feed_forward(shape, at)
        if gemma:
            yield _norm(at + "post_ffw_norm", width, 5.0)


def _attention(shape: Shape, at: str) -> Iterator[Tensor]:
    width, head_dim = shape.width, shape.head_dim
    q_rows, kv_rows = shape.n_heads * head_dim, shape.n_kv_heads * head_dim
    if shape.arch == "phi3":
        yield _matrix(at + "attn_qkv", q_rows + 2 * kv_rows, width, gain=1.7)
    else:
        yield _matrix(at + "attn_q", q_rows, width, gain=2.0)
        yield _matrix(at + "attn_k", kv_rows, width, gain=1.5)
        yield _matrix(at + "attn_v", kv_rows, width)
    if shape.bias:
        for name, rows in (("attn_q", q_rows), ("attn_k", kv_rows), ("attn_v", kv_rows)):
            yield Tensor(f"{at}{name}.bias", (rows,), deviation=0.25)
    if shape.head_norms:
        yield _norm(at + "attn_q_norm", head_dim, 1.4)
        yield _norm(at + "attn_k_norm", head_dim, 1.4)
    yield _matrix(at + "attn_output", width, q_rows, gain=1.5)


def _feed_forward(shape: Shape, at: str) -> Iterator[Tensor]:
    width, ffn, experts = shape.width, shape.ffn, shape.n_experts
    if experts:
        yield _matrix(at + "ffn_gate_inp", experts, width, gain=6.0)  # few ties between experts
        yield _matrix(at + "ffn_gate_exps", experts, ffn, width)
        yield _matrix(at + "ffn_up_exps", experts, ffn, width)
        yield _matrix(at + "ffn_down_exps", experts, width, ffn, gain=2.0)
    elif shape.arch == "phi3":
        yield _matrix(at + "ffn_up", 2 * ffn, width)
        yield _matrix(at + "ffn_down", width, ffn, gain=2.0)
    else:
        yield _matrix(at + "ffn_gate", ffn, width)
        yield _matrix(at + "ffn_up", ffn, width)
        yield _matrix(at + "ffn_down", width, ffn, gain=2.0)


def _matrix(name: str, *shape: int, gain: float = 1.0) -> Tensor:
    """A matrix that turns a vector of unit mean square into one of mean square `gain` squared."""
    return Tensor(name + ".weight", shape, deviation=gain / math.sqrt(shape[-1]))


def _norm(name: str, width: int, mean: float = 1.0) -> Tensor:
    return Tensor(name + ".weight", (width,), mean=mean, deviation=0.1 * mean)


def _llama3_factors(shape: Shape) -> np.ndarray:
    """What each rotation's frequency is divided by, [head_dim / 2] float32.

    Source: the rope scaling of Llama 3.1 (its published config: factor 8, low 1, high 4), with an
    original context of 256 in place of 8192 so that short prompts can tell.
    """
    factor, low, high, original = 8.0, 1.0, 4.0, 256
    exponents = np.arange(0, shape.head_dim, 2) / shape.head_dim
    wavelength = 2 * math.pi * shape.rope_base**exponents
    smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
    return (1 / (smooth + (1 - smooth) / factor)).astype(np.float32)


def _storage(name: str, tensor: Tensor, shape: Shape) -> Storage:
    """How one tensor is stored.

    `Q4_K_M` follows llama.cpp's mix: the output matrix, and in the first and last eighth of the
    layers and every third between them also `attn_v` and `ffn_down`, are Q6_K; a fused `attn_qkv`
    is Q5_K.
    """
    if not tensor.is_matrix:
        return Storage.F32
    if name != "Q4_K_M":
        return Storage[name]
    if tensor.is_vocabulary:
        is_output = shape.tied or tensor.name == "output.weight"
        return Storage.Q6_K if is_output else Storage.Q4_K
    if "attn_qkv" in tensor.name:
        return Storage.Q5_K
    layer, eighth = int(tensor.name.split(".")[1]), shape.n_layers // 8
    better = layer < eighth or layer >= 7 * shape.n_layers // 8 or (layer - eighth) % 3 == 2
    wants = "attn_v" in tensor.name or "ffn_down" in tensor.name
    return Storage.Q6_K if better and wants else Storage.Q4_K


# --- values ---------------------------------------------------------------------------------------

POOL_ROWS = 2048
"""Rows in the pool that large layer matrices share; smaller ones have rows of their own."""


def _packed(tensor: Tensor, kind: Storage, shape: Shape, seed: int, drawn: bool) -> Iterator[bytes]:
    """The tensor's bytes as stored, in pieces of at most `POOL_ROWS` rows."""
    rows, columns = _rows_columns(tensor)
    is_small = shape.width < 1024 and rows <= POOL_ROWS
    if is_small or tensor.is_vocabulary or not tensor.is_matrix:

        def piece(start: int) -> bytes:
            key = [seed, zlib.crc32(tensor.name.encode()), *([start] if start else [])]
            count, generator = min(POOL_ROWS, rows - start), np.random.default_rng(key)
            if drawn and tensor.is_matrix:
                return random_blocks(generator, kind, count, columns, tensor.deviation)
            return pack(_draw(generator, tensor, count, columns), kind)

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            yield from threads.map(piece, range(0, rows, POOL_ROWS))
    else:
        size = _row_size(columns, kind)
        pool = _pool(columns, kind, tensor.deviation, seed, drawn)
        first = zlib.crc32(tensor.name.encode()) % POOL_ROWS
        for start in range(first, first + rows, POOL_ROWS):
            turned = pool[start % POOL_ROWS * size :] + pool[: start % POOL_ROWS * size]
            yield turned[: min(POOL_ROWS, first + rows - start) * size]


def _draw(generator: np.random.Generator, tensor: Tensor, rows: int, columns: int) -> np.ndarray:
    if tensor.values is not None:
        return tensor.values.astype(np.float32).reshape(rows, columns)
    values = generator.standard_normal((rows, columns), dtype=np.float32)
    values *= tensor.deviation
    values += tensor.mean
    return values


@cache
def _pool(columns: int, kind: Storage, deviation: float, seed: int, drawn: bool) -> bytes:
    generator = np.random.default_rng([seed, columns])
    if drawn:
        return random_blocks(generator, kind, POOL_ROWS, columns, deviation)
    values = generator.standard_normal((POOL_ROWS, columns), dtype=np.float32)
    return pack(values * np.float32(deviation), kind)


def pack(values: np.ndarray, kind: Storage) -> bytes:
    """Rows of float32 as ggml stores them; columns a multiple of the type's block."""
    if kind is Storage.F32:
        return values.tobytes()
    peer = LlamaCpp.find()
    assert peer is not None, "packing needs xllamacpp (the `test` extra)"
    values = np.ascontiguousarray(values, dtype=np.float32)
    rows, columns = values.shape
    packed = ctypes.create_string_buffer(rows * _row_size(columns, kind))
    quantize = peer.library.ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    quantize.argtypes += [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    written = quantize(int(kind), values.ctypes.data, packed, 0, rows, columns, None)
    assert written == len(packed), f"{kind.name}: ggml wrote {written} of {len(packed)} bytes"
    return packed.raw


def unpack(packed: bytes, kind: Storage, columns: int) -> np.ndarray:
    """The numbers that packed rows stand for, [rows, columns] float32."""
    rows = np.frombuffer(packed, np.uint8).reshape(-1, _row_size(columns, kind))
    if kind is Storage.F32:
        return rows.view(np.float32)
    if kind is Storage.F16:
        return rows.view(np.float16).astype(np.float32)
    return gguf.quants.dequantize(rows, kind)


def _rows_columns(tensor: Tensor) -> tuple[int, int]:
    return math.prod(tensor.shape[:-1]), tensor.shape[-1]


def _row_size(columns: int, kind: Storage) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    assert columns % block == 0, f"{kind.name} cannot store rows of {columns}"
    return columns // block * size


# --- metadata -------------------------------------------------------------------------------------


def _add_hyperparameters(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name("random weights")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocab)
    if shape.arch in ("llama", "phi3"):
        writer.add_rope_dimension_count(shape.head_dim)
    if shape.sliding_window:
        writer.add_sliding_window(shape.sliding_window)
    if shape.longrope:
        writer.add_rope_scaling_orig_ctx_len(256)
        writer.add_rope_scaling_attn_factors(1.19)
    if shape.n_experts:
        writer.add_expert_count(shape.n_experts)
        writer.add_expert_used_count(shape.n_experts_used)
        writer.add_expert_feed_forward_length(shape.ffn)


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """A byte-level BPE: two control tokens, 256 bytes, pairs and triples of letters, fillers."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    room = size - 258
    pairs = [(a, b) for a in letters for b in letters][:room]
    triples = [(a + b, c) for a, b in pairs for c in letters][: max(room - len(pairs), 0)]
    merges = pairs + triples
    fillers = [f"[unused{n}]" for n in range(room - len(merges))]
    tokens = ["<|start|>", "<|end|>", *_byte_letters(), *(a + b for a, b in merges), *fillers]
    normal, control, unused = (int(t) for t in _TOKEN_TYPES)
    types = [control] * 2 + [normal] * (256 + len(merges)) + [unused] * len(fillers)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{a} {b}" for a, b in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)


_TOKEN_TYPES = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.UNUSED)


def _byte_letters() -> list[str]:
    """The character that stands for each byte in GPT-2's vocabularies (Radford et al. 2019).

    Printable Latin-1 stands for itself; the rest takes code points from 256 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
