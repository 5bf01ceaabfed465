"""Stand-ins for cubins beside what ptxas makes of the same text."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import asdict

import pytest
from tests.unit.silicon.nvidia.test_cubin import cuobjdump, made

from exosuit.silicon.nvidia.bank import bank0
from exosuit.silicon.nvidia.cubin import read_cubin
from exosuit.softcard.nvidia.image import (
    MARK,
    STAND_IN_REGISTERS,
    find_program,
    stand_in,
)
from exosuit.softcard.nvidia.ptx.faults import PtxFault

HEAD = ".version 8.8\n.target sm_80\n.address_size 64\n"
SMALL = (
    HEAD + ".visible .entry small(.param .u64 a, .param .u32 b, .param .u64 c)\n"
    "{\n.local .align 16 .b8 depot[96];\n.reg .b64 %rd<2>;\nret;\n}\n"
)
ONLY_PTXAS_KNOWS = ("code", "registers")


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="no ptxas")
@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_90", "sm_120"])
def test_a_loader_sees_the_same_as_in_a_cubin(target):
    program, content = made(target)
    real, ours = read_cubin(content), read_cubin(stand_in(program.code, program.entry, target))
    assert (ours.sm, ours.abi) == (real.sm, real.abi)
    (a,), (b,) = real.kernels.values(), ours.kernels.values()
    a, b = asdict(a), asdict(b)
    for name in ONLY_PTXAS_KNOWS:
        del a[name], b[name]
    assert a == b


@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_90", "sm_120"])
def test_nvidias_tool_reads_it(target, tmp_path):
    tool = cuobjdump()
    if tool is None:
        pytest.skip("no cuobjdump")
    file = tmp_path / "small.cubin"
    file.write_bytes(stand_in(SMALL.encode(), "small", target))
    told = subprocess.run(
        [tool, "-res-usage", file], capture_output=True, text=True, check=True
    ).stdout
    numbers = {name: int(value) for name, value in re.findall(r"([A-Z]+)(?:\[0\])?:(\d+)", told)}
    assert numbers["REG"] == STAND_IN_REGISTERS
    assert numbers["STACK"] == 96
    assert numbers["SHARED"] == 0
    assert numbers["CONSTANT"] == bank0(int(target[3:])).ARGUMENTS + 24


def test_the_code_is_the_text():
    kernel = read_cubin(stand_in(SMALL.encode() + b"\0", "small", "sm_86")).kernels["small"]
    assert find_program(kernel.code) == (SMALL, "small")
    assert len(kernel.code) % 128 == 0
    assert kernel.parameters == ((0, 8), (8, 8), (16, 8))  # the second one with what fills it up


def test_what_is_no_program():
    with pytest.raises(PtxFault, match="no kernel other"):
        stand_in(SMALL.encode(), "other", "sm_86")
    for code in (b"", bytes(64), b"\x42\x79" * 64):
        with pytest.raises(PtxFault, match="machine code"):
            find_program(code)
    with pytest.raises(PtxFault, match="damaged"):
        find_program(MARK + b"small\n.version\xff")
