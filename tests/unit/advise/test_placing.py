"""A plan's bytes against what the engine really takes when it loads the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

from exosuit.advise.footprint import from_header
from exosuit.advise.placing import caveats, placed_by
from exosuit.driver.cpu import CpuDevice
from exosuit.kernel.target import Target
from exosuit.models.gguf import GgufFile
from exosuit.models.matrices import WeightLoader
from exosuit.models.model import Limits, Model
from exosuit.ops.packing import CpuPacking, GpuPacking
from exosuit.ops.programs import Programs
from exosuit.ops.quants import StorageType
from exosuit.units import MiB

CONTEXT = 1000
ON_HOST, ON_CARDS = placed_by(CpuPacking()), placed_by(GpuPacking())


FILES = (
    "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
    "stories260k/stories260K-q8_0.gguf",
)


@pytest.mark.parametrize("name", FILES)
def test_a_plan_is_what_loading_takes(shared: Path, name: str) -> None:
    target = Target.host()
    with GgufFile.open(shared / "models" / name) as file:
        device = CpuDevice(target.name)
        need = from_header(name, file.metadata, file.tensors, ON_HOST)
        context = min(CONTEXT, need.context_limit)
        model = Model.open(file, device, Programs(target, None), Limits(context))
        report = model.report
        model.close()
        device.close()
    assert (
        report.weight_bytes - need.weight_bytes == MiB
    )  # the arena's spare, in the workspace here
    assert report.cache_bytes == need.kv_bytes(context)
    assert report.workspace_bytes <= need.workspace_bytes()
    assert need.workspace_bytes() - MiB < 3 * report.workspace_bytes


@pytest.mark.parametrize("target", ["gfx1100", "sm_80"])
@pytest.mark.parametrize("name", FILES)
def test_a_plan_for_a_card_is_what_its_loader_reserves(
    shared: Path, name: str, target: str
) -> None:
    """Nothing is packed here, so any device may lend the memory."""
    device = CpuDevice(Target.host().name)
    with GgufFile.open(shared / "models" / name) as file:
        need = from_header(name, file.metadata, file.tensors, ON_CARDS)
        loader = WeightLoader(file, device, Programs(Target.named(target), None))
        assert loader.buffer_bytes - need.weight_bytes == MiB
        loader.close()
    device.close()


def test_what_has_no_kernel_is_held_wider() -> None:
    shape = (4096, 4096)
    assert ON_HOST(shape, StorageType.IQ2_XXS) == ON_HOST(shape, StorageType.Q8_0)
    assert ON_HOST((100,), StorageType.F16) == 512


def test_a_card_packs_more_rows_together_and_pads_floats() -> None:
    assert ON_HOST((41, 64), StorageType.Q8_0) == (48 + 16) * 68
    assert ON_CARDS((41, 64), StorageType.Q8_0) == (64 + 64) * 68
    assert ON_CARDS((32, 100), StorageType.F16) == (32 + 64) * 104 * 2


def test_what_cannot_be_run_is_said() -> None:
    assert caveats("llama", [StorageType.Q4_K, StorageType.F32]) == []
    assert "mamba" in caveats("mamba", [])[0]
    assert "IQ2_XXS" in caveats("llama", [StorageType.IQ2_XXS])[0]
