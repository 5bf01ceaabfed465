"""Matrices lie on the device as `ops.pack` says, whichever way the loader put them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.peers.random_models import SMALL, write_model

from exosuit.driver.cpu import CpuDevice
from exosuit.errors import CorruptFile, UnsupportedModel
from exosuit.kernel import Target
from exosuit.models.gguf import GgufFile
from exosuit.models.matrices import Matrix, WeightLoader, format_of
from exosuit.ops.formats import FORMATS
from exosuit.ops.matmul_float import FLOAT_FORMATS, FloatFormat
from exosuit.ops.pack import pack_reference
from exosuit.ops.pack_float import pack_floats_reference
from exosuit.ops.programs import Programs
from exosuit.ops.quants import StorageType, dequantise, quantise

Bytes = NDArray[np.uint8]
Load = Callable[[Path], WeightLoader]
Models = Callable[..., Path]


@pytest.fixture(scope="module")
def device() -> Iterator[CpuDevice]:
    device = CpuDevice(Target.host().name, 1)
    yield device
    device.close()


@pytest.fixture(scope="module")
def programs() -> Programs:
    return Programs(Target.host(), None)


@pytest.fixture
def load(device: CpuDevice, programs: Programs) -> Iterator[Load]:
    loaders: list[WeightLoader] = []

    def make(path: Path) -> WeightLoader:
        loaders.append(WeightLoader(GgufFile.open(path), device, programs))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()
        loader.file.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")

    def make(name: str, **change: int) -> Path:
        path = folder / f"{name}-{sorted(change.items())}.gguf"
        return path if path.exists() else write_model(path, replace(SMALL[name], **change), "F32")

    return make


def stored(device: CpuDevice, matrix: Matrix) -> Bytes:
    """The packed bytes, one row for each panel."""
    return device.copy_out(matrix.region, np.uint8).reshape(matrix.panels, -1)


def panels(matrix: Matrix, raw: Bytes) -> Bytes:
    """What `raw` rows should lie like in the format of `matrix`, one row for each panel."""
    format = matrix.format
    size = format.bytes if isinstance(format, FloatFormat) else format.block_bytes
    packed = pack_reference(raw, format.fields, size)
    return packed.reshape(packed.shape[0], -1)


def test_a_stack_of_one_type_is_one_matrix(load: Load, models: Models, device: CpuDevice) -> None:
    loader = load(models("llama"))
    names = [f"blk.0.attn_{part}.weight" for part in "qkv"]
    (matrix,) = loader.stack(names, [256, 128, 128], 256).matrices
    assert (matrix.rows, matrix.columns, matrix.panels) == (512, 256, 64)
    expected = panels(matrix, np.concatenate([loader.file.raw(name) for name in names]))
    np.testing.assert_array_equal(stored(device, matrix), expected)


def test_floats_of_many_columns_take_turns(load: Load, models: Models, device: CpuDevice) -> None:
    loader = load(models("llama", ffn=1024))
    matrix = loader.matrix("blk.0.ffn_down.weight", 256, 1024)
    assert isinstance(matrix.format, FloatFormat)
    assert matrix.format == replace(FLOAT_FORMATS["F32"], turns=8, run=512)
    expected = pack_floats_reference(loader.file.raw("blk.0.ffn_down.weight"), matrix.format)
    np.testing.assert_array_equal(device.copy_out(matrix.region, np.uint8), expected)


@pytest.mark.parametrize("rows", [512, 100])
def test_gate_and_value_alternate_by_panels(
    rows: int, load: Load, models: Models, device: CpuDevice
) -> None:
    loader = load(models("llama", ffn=rows))
    names = ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight")
    stack = loader.gated(*names, rows, 256)
    (matrix,) = stack.matrices
    assert stack.interleaved
    found = stored(device, matrix)
    for which, name in enumerate(names):
        np.testing.assert_array_equal(found[which::2], panels(matrix, loader.file.raw(name)))


@pytest.mark.parametrize("rows", [512, 100, 97])
def test_halves_of_one_tensor_alternate_likewise(
    rows: int, load: Load, models: Models, device: CpuDevice
) -> None:
    loader = load(models("phi3", ffn=rows))
    (matrix,) = loader.gated_halves("blk.0.ffn_up.weight", rows, 256).matrices
    raw, found = loader.file.raw("blk.0.ffn_up.weight"), stored(device, matrix)
    np.testing.assert_array_equal(found[0::2], panels(matrix, raw[:rows]))
    np.testing.assert_array_equal(found[1::2], panels(matrix, raw[rows:]))


def test_what_is_packed_a_slice_at_a_time_is_whole(
    load: Load, models: Models, device: CpuDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 97 rows of 1 KiB: four slices of 24 rows and one of a single row, for each half.
    monkeypatch.setattr("exosuit.models.matrices._PACK_BYTES", 24 << 10)
    loader = load(models("phi3", ffn=97))
    (matrix,) = loader.gated_halves("blk.0.ffn_up.weight", 97, 256).matrices
    raw, found = loader.file.raw("blk.0.ffn_up.weight"), stored(device, matrix)
    np.testing.assert_array_equal(found[0::2], panels(matrix, raw[:97]))
    np.testing.assert_array_equal(found[1::2], panels(matrix, raw[97:]))


def test_experts_follow_each_other(load: Load, models: Models, device: CpuDevice) -> None:
    loader = load(models("qwen3moe"))
    names = ["blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"]
    experts = loader.experts(names, 8, 256, 256, interleaved=True)
    assert (experts.count, experts.matrix.rows, experts.matrix.panels) == (8, 512, 64)
    found = device.copy_out(experts.matrix.region, np.uint8).reshape(8, 64, -1)
    for which, name in enumerate(names):
        raw = loader.file.raw(name).reshape(8, 256, -1)
        for expert in range(8):
            expected = panels(experts.matrix, raw[expert])
            np.testing.assert_array_equal(found[expert, which::2], expected)


def test_a_type_without_a_kernel_is_expanded_and_said(
    load: Load, device: CpuDevice, shared: Path
) -> None:
    loader = load(shared / "models" / "quant-vectors.gguf")
    assert "IQ2_XXS tensors are expanded to Q8_0 at load" in loader.notes
    assert not any(note.startswith(("Q4_K ", "MXFP4 ", "F16 ")) for note in loader.notes)
    matrix = loader.matrix("iq2_xxs", 4, 1536)
    assert matrix.format is format_of(StorageType.Q8_0) is FORMATS["Q8_0"]
    values = dequantise(StorageType.IQ2_XXS, loader.file.raw("iq2_xxs"))
    expected = panels(matrix, quantise(StorageType.Q8_0, values))
    np.testing.assert_array_equal(stored(device, matrix), expected)


def test_types_that_differ_stay_apart(load: Load, shared: Path) -> None:
    loader = load(shared / "models" / "quant-vectors.gguf")
    stack = loader.stack(["q4_0", "q8_0"], [4, 4], 1536)
    assert [m.format.name for m in stack.matrices] == ["Q4_0", "Q8_0"]
    assert stack.rows == 8
    assert not loader.gated("q4_0", "q8_0", 4, 1536).interleaved


def test_a_matrix_is_loaded_once(load: Load, models: Models) -> None:
    loader = load(models("llama"))
    assert loader.matrix("output.weight", 512, 256) is loader.matrix("output.weight", 512, 256)
    with pytest.raises(CorruptFile, match=r"\[512, 256\], not \[512, 128\]"):
        loader.matrix("output.weight", 512, 128)


def test_what_was_not_used_is_told(load: Load, models: Models) -> None:
    loader = load(models("llama"))
    loader.vector("output_norm.weight", 256)
    with pytest.raises(UnsupportedModel) as caught:
        loader.finish()
    assert "output_norm.weight" not in caught.value.fields["tensors"]
    assert "output.weight" in caught.value.fields["tensors"]


def test_progress_ends_where_it_should(
    device: CpuDevice, programs: Programs, models: Models
) -> None:
    told: list[tuple[int, int]] = []
    with GgufFile.open(models("llama", n_layers=1)) as file:
        loader = WeightLoader(file, device, programs, lambda done, all: told.append((done, all)))
        for name, tensor in file.tensors.items():
            if len(tensor.shape) == 1:
                loader.vector(name, *tensor.shape)
            else:
                loader.matrix(name, *tensor.shape)
        loader.finish()
        loader.close()
    sizes = [done for done, _ in told]
    assert sizes == sorted(sizes)
    assert told[-1] == (sum(t.size_bytes for t in file.tensors.values()),) * 2
