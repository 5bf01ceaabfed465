"""The reader against PyPI gguf on real files, and against every kind of damage."""

from __future__ import annotations

import gzip
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.unit.models import gguf_builder as build
from tests.unit.models.gguf_builder import Builder, Entry, array, pair

from exosuit.errors import CorruptFile, ExosuitError, ModelNotFound, UnsupportedModel
from exosuit.models.gguf import GgufFile, GgufHeader
from exosuit.ops.quants import StorageType, dequantise

MODELS = [
    "quant-vectors.gguf",
    "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
    "stories260k/stories260K-f32.gguf",
    "stories260k/stories260K-f16.gguf",
    "stories260k/stories260K-q8_0.gguf",
    "stories260k/stories260K-q4_0.gguf",
]
VOCABULARIES = {
    "bert-bge": 30522, "falcon": 65024, "gpt-2": 50257, "llama-bpe": 128256, "mpt": 50432,
    "phi-3": 32064, "qwen2": 151936, "qwen35": 151936,
}  # fmt: skip

Write = Callable[[bytes | Builder], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: bytes | Builder) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(content.build() if isinstance(content, Builder) else content)
        return path

    return write


def assert_same_metadata(header: GgufHeader, reader: gguf.GGUFReader) -> None:
    fields = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert list(header.metadata) == list(fields)
    for key, expected in fields.items():
        found, wanted = header.metadata[key], expected.contents()
        if isinstance(found, np.ndarray):
            np.testing.assert_array_equal(found, wanted, err_msg=key)
        else:
            assert found == wanted, key


@pytest.mark.parametrize("name", MODELS)
def test_reads_what_gguf_reads(shared: Path, name: str) -> None:
    path = shared / "models" / name
    reader = gguf.GGUFReader(path)
    with GgufFile.open(path) as file:
        assert_same_metadata(file.header, reader)
        assert list(file.tensors) == [t.name for t in reader.tensors]
        assert file.alignment == reader.alignment
        assert file.header.size_bytes == reader.data_offset
        for expected in reader.tensors:
            found = file.tensors[expected.name]
            assert found.type.value == expected.tensor_type
            assert found.shape == tuple(int(n) for n in reversed(expected.shape))
            assert (found.offset, found.size_bytes) == (expected.data_offset, expected.n_bytes)
        first = reader.tensors[0]
        stored = np.ascontiguousarray(first.data).view(np.uint8)
        np.testing.assert_array_equal(file.raw(first.name).ravel(), stored.ravel())


def vocabulary(shared: Path, name: str) -> bytes:
    return gzip.decompress((shared / f"models/vocabs/ggml-vocab-{name}.gguf.gz").read_bytes())


@pytest.mark.parametrize("name", ["bert-bge", "phi-3"])  # gguf takes half a minute for the largest
def test_reads_vocabularies_as_gguf_does(shared: Path, write: Write, name: str) -> None:
    content = vocabulary(shared, name)
    assert_same_metadata(GgufHeader.parse(content), gguf.GGUFReader(write(content)))


@pytest.mark.parametrize("name", VOCABULARIES)
def test_vocabularies_have_their_tokens(shared: Path, name: str) -> None:
    header = GgufHeader.parse(vocabulary(shared, name))
    tokens = header.require("tokenizer.ggml.tokens", list)
    assert len(tokens) == len(header.require("tokenizer.ggml.token_type", np.ndarray))
    assert len(tokens) == VOCABULARIES[name]


def test_values_of_every_kind(write: Write) -> None:
    writer = gguf.GGUFWriter(write(b""), "llama")
    writer.add_uint8("u8", 255)
    writer.add_int8("i8", -128)
    writer.add_uint16("u16", 65535)
    writer.add_int16("i16", -32768)
    writer.add_uint32("u32", 1 << 31)
    writer.add_int32("i32", -(1 << 31))
    writer.add_uint64("u64", 1 << 63)
    writer.add_int64("i64", -(1 << 63))
    writer.add_float32("f32", 0.25)
    writer.add_float64("f64", 1e300)
    writer.add_bool("yes", True)
    writer.add_string("text", "naïve ✓")
    writer.add_array("integers", [1, -2, 3])
    writer.add_array("floats", [0.5, 1.5])
    writer.add_array("truths", [True, False])
    writer.add_array("texts", ["a", "", "ü"])
    writer.add_tensor("t", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("t3", np.arange(24, dtype=np.float16).reshape(2, 3, 4))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    path = Path(str(writer.path))
    writer.close()
    with GgufFile.open(path) as file:
        plain = {k: v for k, v in file.metadata.items() if not isinstance(v, np.ndarray)}
        assert plain == {
            "general.architecture": "llama", "u8": 255, "i8": -128, "u16": 65535, "i16": -32768,
            "u32": 1 << 31, "i32": -(1 << 31), "u64": 1 << 63, "i64": -(1 << 63), "f32": 0.25,
            "f64": 1e300, "yes": True, "text": "naïve ✓", "texts": ["a", "", "ü"],
        }  # fmt: skip
        assert type(file.metadata["u8"]) is int
        assert type(file.metadata["yes"]) is bool
        assert file.require("integers", np.ndarray).tolist() == [1, -2, 3]
        assert file.require("floats", np.ndarray).tolist() == [0.5, 1.5]
        assert file.require("truths", np.ndarray).tolist() == [True, False]
        assert file.tensors["t3"].shape == (2, 3, 4)
        assert file.raw("t3").shape == (6, 8)
        np.testing.assert_array_equal(file.array("t"), np.arange(6.0).reshape(2, 3))
        np.testing.assert_array_equal(file.array("t3"), np.arange(24.0).reshape(2, 3, 4))


@pytest.mark.parametrize("kind", [build.U32, build.STRING, build.BOOL])
def test_empty_lists(write: Write, kind: int) -> None:
    file = GgufFile.open(write(Builder(pairs=[array("none", kind, [])])))
    assert len(file.require("none", list if kind == build.STRING else np.ndarray)) == 0


def test_version_2_and_another_alignment(write: Write) -> None:
    pairs = [pair("general.alignment", build.U32, 128)]
    with GgufFile.open(write(Builder(version=2, pairs=pairs, alignment=128))) as file:
        assert (file.version, file.alignment) == (2, 128)
        assert file.tensors["weight"].offset == 128
        assert file.raw("weight").tobytes() == bytes(range(136))


def test_raw_is_a_view_and_array_a_copy(shared: Path) -> None:
    file = GgufFile.open(shared / "models/stories260k/stories260K-q8_0.gguf")
    raw = file.raw("blk.0.attn_q.weight")
    assert raw.shape == (64, 68)
    assert not raw.flags.owndata
    assert not raw.flags.writeable
    expected = dequantise(StorageType.Q8_0, raw)
    np.testing.assert_array_equal(file.array("blk.0.attn_q.weight"), expected)
    file.close()
    file.close()
    assert raw[0, 0] == raw.copy()[0, 0], "a view keeps its map"
    assert file.metadata["general.architecture"] == "llama"
    with pytest.raises(ValueError, match="closed"):
        file.raw("blk.0.attn_q.weight")


def test_an_unknown_tensor_is_named(write: Write) -> None:
    with GgufFile.open(write(Builder())) as file, pytest.raises(CorruptFile) as caught:
        file.array("blk.7.attn_q.weight")
    assert caught.value.fields["tensor"] == "blk.7.attn_q.weight"


def test_require_and_get(write: Write) -> None:
    pairs = [pair("n", build.U32, 7), pair("x", build.F32, 0.5), pair("b", build.BOOL, True)]
    file = GgufFile.open(write(Builder(pairs=pairs)))
    assert file.require("n", int) == 7
    assert file.require("n", float) == 7.0
    assert type(file.require("n", float)) is float
    assert file.get("missing", int) is None
    assert file.get("missing", int, 3) == 3
    assert file.get("x", float, 1.0) == 0.5
    assert file.require("b", bool) is True
    for key, kind in [("missing", int), ("x", int), ("n", str), ("b", int), ("n", bool)]:
        with pytest.raises(CorruptFile) as caught:
            file.require(key, kind)
        assert caught.value.fields["key"] == key
    with pytest.raises(CorruptFile, match="wrong type"):
        file.get("x", str, "")


def test_header_needs_no_data_and_says_when_it_is_cut() -> None:
    builder = Builder()
    header = GgufHeader.parse(builder.header(), "model")
    assert header.tensors["weight"].size_bytes == 136
    with pytest.raises(CorruptFile, match="middle of its tensors"):
        header.check_extent(header.size_bytes + 135)
    header.check_extent(header.size_bytes + 136)
    for length in range(4, len(builder.header())):
        with pytest.raises(CorruptFile) as caught:
            GgufHeader.parse(builder.header()[:length])
        assert caught.value.fields["truncated"]


def test_every_truncation_is_refused(write: Write) -> None:
    whole = Builder(
        pairs=[array("tokens", build.STRING, ["a", "bc"]), array("n", build.F32, [1.0, 2.0])]
    ).build()
    GgufFile.open(write(whole)).close()
    for length in range(len(whole)):
        with pytest.raises(CorruptFile):
            GgufFile.open(write(whole[:length]))


HUGE = (1 << 64) - 1
TENSOR_128 = Entry("second", offset=128)
DAMAGE: dict[str, tuple[Builder, type[ExosuitError], str]] = {
    "magic": (Builder(magic=b"GGML"), CorruptFile, "GGML"),
    "version 1": (Builder(version=1), UnsupportedModel, "version 1"),
    "version 4": (Builder(version=4), UnsupportedModel, "version 4"),
    "big-endian": (Builder(version=3 << 24), UnsupportedModel, "big-endian"),
    "tensor count": (Builder(tensor_count=HUGE), CorruptFile, "cannot fit"),
    "too many tensors": (Builder(tensor_count=2), CorruptFile, ""),
    "key count": (Builder(pair_count=1 << 40), CorruptFile, "cannot fit"),
    "no key": (Builder(pairs=[pair("", build.U8, 0)]), CorruptFile, "0 bytes"),
    "long key": (Builder(pairs=[pair("k" * 65536, build.U8, 0)]), CorruptFile, "65536 bytes"),
    "bytes in key": (Builder(pairs=[pair(b"a\xff", build.U8, 0)]), CorruptFile, "UTF-8"),
    "newline in key": (Builder(pairs=[pair("a\nb", build.U8, 0)]), CorruptFile, "printable"),
    "same key": (Builder(pairs=[pair("k", build.U8, 0)] * 2), CorruptFile, "twice"),
    "kind": (Builder(pairs=[build.text("k") + struct.pack("<I", 13)]), CorruptFile, "type 13"),
    "truth": (
        Builder(pairs=[build.text("k") + struct.pack("<IB", build.BOOL, 2)]),
        CorruptFile,
        "truth",
    ),
    "string length": (
        Builder(pairs=[build.text("k") + struct.pack("<IQ", build.STRING, HUGE)]),
        CorruptFile,
        "",
    ),
    "list length": (
        Builder(pairs=[build.text("k") + struct.pack("<IIQ", build.ARRAY, build.U64, HUGE)]),
        CorruptFile,
        "",
    ),
    "list of strings": (
        Builder(pairs=[build.text("k") + struct.pack("<IIQ", build.ARRAY, build.STRING, HUGE)]),
        CorruptFile,
        "cannot fit",
    ),
    "list of lists": (
        Builder(pairs=[build.text("k") + struct.pack("<IIQ", build.ARRAY, build.ARRAY, 1)]),
        UnsupportedModel,
        "list of lists",
    ),
    "list of what": (
        Builder(pairs=[build.text("k") + struct.pack("<IIQ", build.ARRAY, 99, 1)]),
        CorruptFile,
        "type 99",
    ),
    "alignment 0": (
        Builder(pairs=[pair("general.alignment", build.U32, 0)]), CorruptFile, "power of two"
    ),
    "alignment 48": (
        Builder(pairs=[pair("general.alignment", build.U32, 48)]), CorruptFile, "power of two"
    ),
    "alignment text": (
        Builder(pairs=[pair("general.alignment", build.STRING, "32")]), CorruptFile, "power of two"
    ),
    "alignment 2^31": (
        Builder(pairs=[pair("general.alignment", build.U32, 1 << 31)]), CorruptFile, "would end"
    ),
    "no dimensions": (Builder(entries=[Entry(shape=())]), CorruptFile, "0 dimensions"),
    "dimensions": (Builder(entries=[Entry(shape=(32,) * 5)]), CorruptFile, "5 dimensions"),
    "empty": (Builder(entries=[Entry(shape=(32, 0))]), CorruptFile, "nothing in it"),
    "huge": (Builder(entries=[Entry(shape=(1 << 63,) * 4)]), CorruptFile, "would end"),
    "half a block": (Builder(entries=[Entry(shape=(33, 4))]), CorruptFile, "blocks of 32"),
    "type": (Builder(entries=[Entry(kind=4)]), UnsupportedModel, "type 4"),
    "offset": (Builder(entries=[Entry(offset=1 << 50)]), CorruptFile, "would end"),
    "misaligned": (Builder(entries=[Entry(offset=8)]), CorruptFile, "multiple of 32"),
    "overlap": (Builder(entries=[Entry(), TENSOR_128], data=bytes(300)), CorruptFile, "overlap"),
    "same tensor": (Builder(entries=[Entry(), Entry(offset=160)]), CorruptFile, "two tensors"),
    "bytes in name": (Builder(entries=[Entry(name=b"\xc3")]), CorruptFile, "UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_explained(write: Write, damage: str) -> None:
    builder, error, cause = DAMAGE[damage]
    with pytest.raises(error) as caught:
        GgufFile.open(write(builder))
    assert cause in caught.value.cause
    assert len(str(caught.value).splitlines()) == 3
    assert "model.gguf" in caught.value.what


def test_strings_of_any_bytes_are_kept(write: Write) -> None:
    tokens = [b"fine", b"\xff\xfe", b"half \xe2\x82", b"a\0b"]
    pairs = [array("tokens", build.STRING, tokens), pair("name", build.STRING, b"\x80")]
    file = GgufFile.open(write(Builder(pairs=pairs)))
    strings = file.require("tokens", list)
    assert [s.encode("utf-8", "surrogateescape") for s in strings] == tokens
    assert file.require("name", str).encode("utf-8", "surrogateescape") == b"\x80"


def test_a_large_vocabulary_is_read_quickly() -> None:
    count = 262_144
    words = b"".join(build.text(f"word{n}") for n in range(count))
    tokens = build.text("tokens") + struct.pack("<IIQ", build.ARRAY, build.STRING, count) + words
    scores = build.text("scores") + struct.pack("<IIQ", build.ARRAY, build.F32, count)
    content = Builder(pairs=[tokens, scores + bytes(4 * count)]).header()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        header = GgufHeader.parse(content)
        best = min(best, time.perf_counter() - start)
    assert header.require("tokens", list)[-1] == "word262143"
    assert len(header.require("scores", np.ndarray)) == count
    assert best < 0.3  # 0.07 s on an idle core


@pytest.mark.parametrize("where", ["nowhere", "folder", "pipe", "empty"])
def test_what_is_no_file(tmp_path: Path, where: str) -> None:
    path = tmp_path / where
    if where == "folder":
        path.mkdir()
    elif where == "pipe":
        os.mkfifo(path)
    elif where == "empty":
        path.touch()
    with pytest.raises(CorruptFile if where == "empty" else ModelNotFound) as caught:
        GgufFile.open(path)
    assert where in caught.value.what


def split_part(number: int, count: int, total: int, name: str | None = None) -> bytes:
    pairs = [
        pair("split.no", build.U16, number),
        pair("split.count", build.U16, count),
        pair("split.tensors.count", build.I32, total),
    ]
    if number == 0:
        pairs.insert(0, pair("general.architecture", build.STRING, "llama"))
    entry = Entry(name or f"tensor{number}", (8,), StorageType.F32.value)
    data = np.full(8, number, np.float32).tobytes()
    return Builder(pairs=pairs, entries=[entry], data=data).build()


def write_split(folder: Path, *parts: bytes) -> list[Path]:
    count = len(parts)
    paths = [folder / f"m-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1)]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part)
    return paths


def test_any_part_of_a_split_model_opens_all(tmp_path: Path) -> None:
    paths = write_split(tmp_path, *(split_part(n, 3, 3) for n in range(3)))
    for path in paths:
        with GgufFile.open(path) as file:
            assert file.path == paths[0]
            assert file.paths == paths
            assert file.require("general.architecture", str) == "llama"
            assert list(file.tensors) == ["tensor0", "tensor1", "tensor2"]
            assert [file.array(f"tensor{n}").tolist() for n in range(3)] == [
                [n] * 8 for n in range(3)
            ]


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    paths = write_split(tmp_path, *(split_part(n, 3, 3) for n in range(3)))
    paths[1].unlink()
    with pytest.raises(ModelNotFound, match=r"m-00002-of-00003\.gguf is missing"):
        GgufFile.open(paths[2])


def test_a_renamed_part_is_told_its_name(tmp_path: Path) -> None:
    (tmp_path / "renamed.gguf").write_bytes(split_part(1, 3, 3))
    with pytest.raises(ModelNotFound) as caught:
        GgufFile.open(tmp_path / "renamed.gguf")
    assert "NAME-00002-of-00003.gguf" in caught.value.next


@pytest.mark.parametrize(
    ("second", "cause"),
    [
        (split_part(0, 2, 2), "another part"),
        (split_part(1, 3, 2), "another part"),
        (split_part(1, 2, 2, name="tensor0"), "more than one part"),
        (Builder(entries=[]).build(), "another part"),
    ],
)
def test_parts_that_do_not_belong_together(tmp_path: Path, second: bytes, cause: str) -> None:
    paths = write_split(tmp_path, split_part(0, 2, 2), second)
    with pytest.raises(CorruptFile) as caught:
        GgufFile.open(paths[0])
    assert cause in caught.value.cause


def test_tensors_are_counted_over_all_parts(tmp_path: Path) -> None:
    paths = write_split(tmp_path, split_part(0, 2, 5), split_part(1, 2, 5))
    with pytest.raises(CorruptFile) as caught:
        GgufFile.open(paths[0])
    assert caught.value.cause == "the parts hold 2 tensors, the model has 5"
