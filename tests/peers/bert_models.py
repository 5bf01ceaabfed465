"""BERT files to test with: small ones of random weights, and a real one made from its safetensors.

    path = write_bert(folder / "tiny.gguf", BertShape(), "F16")
    path = convert_bert(folder / "minilm.gguf", weights, vocabulary)

Random weights are scaled so that attention is peaked and layers outweigh the embedding: an encoder
that mixes up texts, forgets positions or normalises in the wrong place gives other vectors.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Storage
from tests.peers.random_models import pack

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?"
_WORDS = ("the", "river", "runs", "to", "sea", "card", "##ing", "##er", "un", "##able")
TINY_VOCABULARY = (*SPECIAL, *_LETTERS, *(f"##{c}" for c in _LETTERS), *_WORDS)
"""As the original vocabularies spell it: a word's first piece bare, the others with ##."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class BertShape:
    layers: int = 2
    width: int = 64
    heads: int = 4
    ffn: int = 128
    context: int = 64
    eps: float = 1e-12
    pooling: int = 1  # mean; 2 takes the first token, 3 the last

    def tensors(self, vocabulary: int, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor of a model, float32, in the order of a file."""

        def draw(name: str, *shape: int, deviation: float, mean: float = 0.0) -> np.ndarray:
            generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
            return (generator.normal(size=shape) * deviation + mean).astype(np.float32)

        def matrix(name: str, rows: int, columns: int, gain: float) -> tuple[str, np.ndarray]:
            return name, draw(name, rows, columns, deviation=gain / math.sqrt(columns))

        def norm(name: str, mean: float = 1.0) -> Iterator[tuple[str, np.ndarray]]:
            for part, middle in (("weight", mean), ("bias", 0.0)):
                full = f"{name}.{part}"
                yield full, draw(full, self.width, deviation=0.2, mean=middle)

        yield matrix("token_embd.weight", vocabulary, self.width, gain=8.0)
        yield matrix("position_embd.weight", self.context, self.width, gain=4.0)
        yield matrix("token_types.weight", 2, self.width, gain=4.0)
        yield from norm("token_embd_norm")
        for layer in range(self.layers):
            at = f"blk.{layer}."
            for name, rows, columns, gain in (
                ("attn_q", self.width, self.width, 2.0),
                ("attn_k", self.width, self.width, 2.0),
                ("attn_v", self.width, self.width, 1.0),
                ("attn_output", self.width, self.width, 1.5),
                ("ffn_up", self.ffn, self.width, 1.5),
                ("ffn_down", self.width, self.ffn, 1.5),
            ):
                yield matrix(f"{at}{name}.weight", rows, columns, gain)
                yield f"{at}{name}.bias", draw(f"{at}{name}.bias", rows, deviation=0.3)
            yield from norm(at + "attn_output_norm")
            yield from norm(at + "layer_output_norm")


def write_bert(
    path: Path,
    shape: BertShape,
    storage: str = "F32",
    changed: Mapping[str, np.ndarray | None] = {},
) -> Path:
    """A file of random weights with `TINY_VOCABULARY`; `changed` replaces tensors, None drops."""
    tensors = dict(shape.tensors(len(TINY_VOCABULARY))) | dict(changed)
    kept = {name: values for name, values in tensors.items() if values is not None}
    return _write(path, shape, TINY_VOCABULARY, kept, Storage[storage])


def convert_bert(path: Path, weights: Path, vocabulary: list[str], storage: str = "F16") -> Path:
    """A Hugging Face BERT (model.safetensors, with config.json beside it) as GGUF."""
    config = json.loads((weights.parent / "config.json").read_text())
    shape = BertShape(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        ffn=config["intermediate_size"],
        context=config["max_position_embeddings"],
        eps=config["layer_norm_eps"],
    )
    theirs = read_safetensors(weights)
    ours: dict[str, np.ndarray] = {}
    for name, place in _theirs(shape.layers):
        for part in ("weight", "bias"):
            if (found := theirs.get(f"{place}.{part}")) is not None:
                ours[f"{name}.{part}"] = found.astype(np.float32)
    return _write(path, shape, tuple(vocabulary), ours, Storage[storage])


def _theirs(layers: int) -> Iterator[tuple[str, str]]:
    """GGUF's name and Hugging Face's of everything in the file, without .weight and .bias."""
    yield "token_embd", "embeddings.word_embeddings"
    yield "position_embd", "embeddings.position_embeddings"
    yield "token_types", "embeddings.token_type_embeddings"
    yield "token_embd_norm", "embeddings.LayerNorm"
    for layer in range(layers):
        at, place = f"blk.{layer}.", f"encoder.layer.{layer}."
        yield at + "attn_q", place + "attention.self.query"
        yield at + "attn_k", place + "attention.self.key"
        yield at + "attn_v", place + "attention.self.value"
        yield at + "attn_output", place + "attention.output.dense"
        yield at + "attn_output_norm", place + "attention.output.LayerNorm"
        yield at + "ffn_up", place + "intermediate.dense"
        yield at + "ffn_down", place + "output.dense"
        yield at + "layer_output_norm", place + "output.LayerNorm"


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Every float tensor of a file: eight bytes of length, a JSON table, then the numbers."""
    raw = path.read_bytes()
    (size,) = struct.unpack_from("<Q", raw)
    table = json.loads(raw[8 : 8 + size])
    kinds = {"F32": np.float32, "F16": np.float16}
    return {
        name: np.frombuffer(raw[8 + size :][slice(*entry["data_offsets"])], kinds[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in table.items()
        if name != "__metadata__" and entry["dtype"] in kinds
    }  # fmt: skip


_AS_F32 = ("position_embd.weight", "token_types.weight")  # as converters leave them


def _write(
    path: Path, shape: BertShape, vocabulary: tuple[str, ...], tensors: Arrays, storage: Storage
) -> Path:
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("a BERT for tests")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_eps(shape.eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType(shape.pooling))
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list([_spelled(token) for token in vocabulary])
    is_special = {token for token in vocabulary if token.startswith("[") and len(token) > 1}
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in is_special else gguf.TokenType.NORMAL for t in vocabulary]
    )
    places = {token: vocabulary.index(token) for token in SPECIAL}
    writer.add_bos_token_id(places["[CLS]"])
    writer.add_unk_token_id(places["[UNK]"])
    writer.add_sep_token_id(places["[SEP]"])
    writer.add_pad_token_id(places["[PAD]"])
    writer.add_mask_token_id(places["[MASK]"])
    for name, values in tensors.items():
        if storage is Storage.F32 or values.ndim == 1 or name in _AS_F32:
            writer.add_tensor(name, values)
        else:
            packed = np.frombuffer(pack(values, storage), np.uint8).reshape(len(values), -1)
            writer.add_tensor(name, packed, raw_dtype=storage)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _spelled(token: str) -> str:
    """GGUF spells the first piece of a word with ▁ and the others bare."""
    if token.startswith("[") and token.endswith("]") and len(token) > 2:
        return token
    return token[2:] if token.startswith("##") else "▁" + token
