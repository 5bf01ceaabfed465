"""Our reader of cubins against NVIDIA's own, for every target of a pack; damaged files."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from exosuit.errors import KernelError
from exosuit.kernel import Target, compile_kernel
from exosuit.kernel.assembler import Assembler
from exosuit.kernel.packs import TARGETS
from exosuit.ops.attention_tile import Attention
from exosuit.ops.cache import CacheFormat
from exosuit.ops.gpu.attention import attention_gpu
from exosuit.silicon.nvidia.cubin import ABI_13, SHARED_RESERVED, read_cubin

pytestmark = pytest.mark.skipif(shutil.which("ptxas") is None, reason="no ptxas")


def cuobjdump() -> Path | None:
    found = shutil.which("cuobjdump")
    if found:
        return Path(found)
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in Path(folder).glob("*/bin/cuobjdump"):
            return file
    return None


def made(target):
    shape = Attention(CacheFormat("f16", 2, 64), 4, 1)
    program = compile_kernel(attention_gpu, Target.named(target), shape=shape)
    return program, Assembler().cubin(program)


@pytest.mark.parametrize("target", TARGETS)
def test_as_nvidia_reads_it(target, tmp_path):
    tool = cuobjdump()
    if tool is None:
        pytest.skip("no cuobjdump")
    program, content = made(target)
    cubin = read_cubin(content)
    found = cubin.kernels[program.entry]
    file = tmp_path / "kernel.cubin"
    file.write_bytes(content)
    told = subprocess.run(
        [tool, "-res-usage", file], capture_output=True, text=True, check=True
    ).stdout
    numbers = {name: int(value) for name, value in re.findall(r"([A-Z]+)(?:\[0\])?:(\d+)", told)}
    assert found.registers == numbers["REG"]
    assert found.stack_bytes == numbers["STACK"]
    assert found.shared_bytes == numbers["SHARED"]
    assert found.constants == numbers["CONSTANT"]
    assert (cubin.sm, cubin.abi) == (int(target.removeprefix("sm_")), ABI_13)
    reserved = SHARED_RESERVED if cubin.sm >= 90 else 0
    assert found.shared_bytes == program.shared_bytes + reserved
    assert found.parameters == tuple((8 * k, 8) for k in range(len(program.parameters)))
    assert found.arguments == (
        found.constants - 8 * len(found.parameters),
        8 * len(found.parameters),
    )
    assert found.barriers == 1
    assert not found.relocations
    assert len(found.code) % 128 == 0


@pytest.mark.parametrize("cut", [0, 10, 63, 100, 2000, -1000])
def test_files_that_end_early(cut):
    _, content = made("sm_80")
    with pytest.raises(KernelError, match="a cubin cannot be read"):
        read_cubin(content[:cut])


def test_files_of_another_machine():
    _, content = made("sm_80")
    with pytest.raises(KernelError) as told:
        read_cubin(content[:18] + (62).to_bytes(2, "little") + content[20:])
    assert "machine 62" in told.value.cause
