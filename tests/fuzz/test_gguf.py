"""Whatever happens to a GGUF file, the reader refuses it in words or reads it; nothing else."""

from __future__ import annotations

import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.models import gguf_builder as build
from tests.unit.models.gguf_builder import Builder, Entry, array, pair

from exosuit.errors import ExosuitError
from exosuit.models.gguf import GgufFile, GgufHeader
from exosuit.ops.quants import StorageType, dequantise

VALID = Builder(
    pairs=[
        pair("general.architecture", build.STRING, "llama"),
        pair("general.alignment", build.U32, 32),
        pair("llama.block_count", build.U32, 2),
        pair("split.count", build.U16, 1),
        array("tokenizer.ggml.tokens", build.STRING, ["<s>", "a", "é"]),
        array("tokenizer.ggml.scores", build.F32, [0.0, -1.0, -2.0]),
        array("flags", build.BOOL, [True, False]),
    ],
    entries=[
        Entry("q8", (32, 4), StorageType.Q8_0.value, 0),
        Entry("iq", (256,), StorageType.IQ2_XXS.value, 160),
        Entry("f16", (4, 2, 3), StorageType.F16.value, 256),
    ],
    data=bytes(range(256)) + bytes(48),
).build()
HEADER = GgufHeader.parse(VALID).size_bytes
EDGES = [0, 1, 2, 31, 33, 255, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 62, 1 << 63]

positions = st.integers(0, HEADER - 1)
flips = st.tuples(positions, st.binary(min_size=1, max_size=4))
numbers = st.sampled_from([*EDGES, *((1 << 64) - n for n in (1, 2, 8))])
counts = st.tuples(positions, numbers.map(lambda n: struct.pack("<Q", n)))
words = st.tuples(positions, numbers.map(lambda n: struct.pack("<I", n & 0xFFFFFFFF)))
mutations = st.lists(st.one_of(flips, counts, words), min_size=1, max_size=4)


def read_all(content: bytes) -> None:
    """Open and expand everything, in the way of a user who trusts the file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(content)
        with GgufFile.open(path) as file:
            for name in file.tensors:
                file.array(name)


def refused_or_read(content: bytes) -> None:
    lines = 3
    try:
        read_all(content)
    except ExosuitError as refusal:
        lines = len(str(refusal).splitlines())
    assert lines == 3


def test_the_unharmed_file_is_read() -> None:
    read_all(VALID)


@given(mutations)
@settings(max_examples=400, deadline=None)
def test_overwritten(changes: list[tuple[int, bytes]]) -> None:
    content = bytearray(VALID)
    for position, stored in changes:
        content[position : position + len(stored)] = stored
    refused_or_read(bytes(content))


@given(st.integers(0, len(VALID)), st.binary(max_size=64))
@settings(max_examples=150, deadline=None)
def test_cut_and_continued(length: int, tail: bytes) -> None:
    refused_or_read(VALID[:length] + tail)


@given(st.integers(0, HEADER), st.integers(0, HEADER))
@settings(max_examples=150, deadline=None)
def test_a_piece_left_out(first: int, second: int) -> None:
    start, end = sorted((first, second))
    refused_or_read(VALID[:start] + VALID[end:])


@given(st.binary(max_size=200))
@example(b"")
@settings(max_examples=100, deadline=None)
def test_anything_after_the_magic(content: bytes) -> None:
    refused_or_read(b"GGUF" + struct.pack("<I", 3) + content)


@given(st.sampled_from(StorageType), st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_any_bytes_expand(type: StorageType, seed: int) -> None:
    stored = np.random.default_rng(seed).integers(0, 256, 3 * type.block_bytes, np.uint8)
    assert dequantise(type, stored).shape == (3 * type.block,)
