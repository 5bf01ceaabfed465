"""A plan's bytes against what the engine really takes when it loads the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

from exosuit.advise.footprint import from_header
from exosuit.advise.placing import caveats, placed_bytes
from exosuit.driver.cpu import CpuDevice
from exosuit.kernel.target import Target
from exosuit.models.gguf import GgufFile
from exosuit.models.model import Limits, Model
from exosuit.ops.programs import Programs
from exosuit.ops.quants import StorageType
from exosuit.units import MiB

CONTEXT = 1000


FILES = (
    "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
    "stories260k/stories260K-q8_0.gguf",
)


@pytest.mark.parametrize("name", FILES)
def test_a_plan_is_what_loading_takes(shared: Path, name: str) -> None:
    target = Target.host()
    with GgufFile.open(shared / "models" / name) as file:
        device = CpuDevice(target.name)
        need = from_header(name, file.metadata, file.tensors, placed_bytes)
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


def test_what_has_no_kernel_is_held_wider() -> None:
    shape = (4096, 4096)
    assert placed_bytes(shape, StorageType.IQ2_XXS) == placed_bytes(shape, StorageType.Q8_0)
    assert placed_bytes((100,), StorageType.F16) == 512


def test_what_cannot_be_run_is_said() -> None:
    assert caveats("llama", [StorageType.Q4_K, StorageType.F32]) == []
    assert "mamba" in caveats("mamba", [])[0]
    assert "IQ2_XXS" in caveats("llama", [StorageType.IQ2_XXS])[0]
