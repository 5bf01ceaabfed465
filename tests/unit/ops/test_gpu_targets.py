"""Every typical launch compiles for every kind of GPU, and its registers suffice."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from exosuit.driver.amd.loader import load
from exosuit.kernel import Target, compile_kernel
from exosuit.ops.gpu.typical import typical_launches

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["gfx1100", "gfx1101", "gfx1102", "gfx1201"])
def test_amd(name: str) -> None:
    target = Target.named(name)
    for launch in typical_launches(target):
        program = compile_kernel(launch.kernel, target, **launch.static)
        descriptor = load(program.code, program.entry, name).descriptor
        assert descriptor.group_segment_bytes <= 65536, launch.label
        if name == "gfx1100":
            assert descriptor.private_segment_bytes == 0, f"{launch.label} spills"


@pytest.mark.parametrize("name", ["sm_80", "sm_120"])
def test_nvidia(name: str, tmp_path) -> None:
    ptxas = shutil.which("ptxas")
    if ptxas is None:
        pytest.skip("no ptxas")
    target = Target.named(name)
    for launch in typical_launches(target):
        program = compile_kernel(launch.kernel, target, **launch.static)
        file = tmp_path / "kernel.ptx"
        file.write_bytes(program.code)
        told = subprocess.run(
            [ptxas, f"-arch={name}", str(file), "-o", str(tmp_path / "kernel.cubin")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert told.returncode == 0, f"{launch.label}: {told.stderr[:2000]}"
