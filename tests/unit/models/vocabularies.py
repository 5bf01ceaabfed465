"""Metadata of the reference vocabularies, read once, and small vocabularies made by hand."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from exosuit.models.gguf_header import GgufHeader

NAMES = ("bert-bge", "falcon", "gpt-2", "llama-bpe", "mpt", "phi-3", "qwen2", "qwen35")


@cache
def metadata(path: Path) -> dict[str, Any]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        data = file.read(16 << 20)
    return dict(GgufHeader.parse(data).metadata)


def reference(shared: Path, name: str) -> dict[str, Any]:
    return metadata(shared / f"models/vocabs/ggml-vocab-{name}.gguf.gz")


def smollm2(shared: Path) -> dict[str, Any]:
    return metadata(shared / "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf")


def stories(shared: Path) -> dict[str, Any]:
    return metadata(shared / "models/stories260k/stories260K-f16.gguf")


def vectors(shared: Path, name: str) -> list[tuple[str, list[int]]]:
    """Texts of llama.cpp's test vectors and the ids it gives them."""
    stem = shared / f"models/vocabs/ggml-vocab-{name}.gguf"
    texts = Path(f"{stem}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{stem}.out").read_text().split("\n")[: len(texts)]
    return [
        (text, [int(id) for id in line.split()]) for text, line in zip(texts, lines, strict=True)
    ]


def golden(shared: Path, folder: str) -> list[dict[str, Any]]:
    runs = json.loads((shared / "models" / folder / "golden.json").read_text())["runs"]
    return runs if isinstance(runs, list) else [run for file in runs.values() for run in file]


def small_sentencepiece(**changes: Any) -> dict[str, Any]:
    """<unk> <s> </s>, 256 byte tokens, and a few scored pieces."""
    pieces = {"▁": -1, "a": -2, "b": -3, "ab": -4, "▁ab": -5, "ba": -6, "abab": -7, "<eot>": 0}
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(pieces) - 1), 4]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array([0.0] * 259 + list(pieces.values()), np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    } | changes


def small_bytelevel(**changes: Any) -> dict[str, Any]:
    """Three control tokens, the 256 letters of byte-level BPE, one merge."""
    from exosuit.models.tokenizer.bytelevel import LETTERS

    tokens = ["<|end|>", "<|im_start|>", "<|im_end|>", *LETTERS, "ab"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([3, 3, 3] + [1] * 257, np.int32),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 2,
    } | changes
