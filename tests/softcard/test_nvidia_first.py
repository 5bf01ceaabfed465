"""The script for the first real card: what it does where all works, and that ptxas takes it all."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from benchmarks import nvidia_first

from exosuit.kernel.assembler import Assembler, find_ptxas

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel driver is Linux's")

STEPS = """version card classes facts doorbell clocks addresses group compute copy schedule
hello copy empty bank add scratch large chain fault"""


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["gh100", "gb202"])
def test_every_step_on_the_model(chip: str, capsys: pytest.CaptureFixture[str]):
    assert nvidia_first.main(["--software", chip, "--fault"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told if line[:1].islower() and ":" not in line[:7]] == (
        STEPS.split()
    )
    assert any("where nothing is mapped" in line for line in told)


def test_it_stops_at_what_fails(capsys: pytest.CaptureFixture[str]):
    assert nvidia_first.main(["--software", "gh100", "--gpfifo", "c46f"]) == 1
    told = capsys.readouterr().out
    assert "INVALID_CLASS" in told or "the software kernel driver refuses" in told
    assert "look at: " in told
    assert "hello" not in told


@pytest.mark.skipif(find_ptxas() is None, reason="there is no ptxas here")
@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_ptxas_takes_its_programs(target: str):
    device = SimpleNamespace(target=target)
    first = nvidia_first
    for name, parameters, body in (
        ("empty", 0, ""), ("bank", 1, first.BANK), ("add", 3, first.ADD),
        ("scratch", 1, first.SCRATCH), ("grow", 1, first.GROW),
    ):  # fmt: skip
        made = first.program(device, name, parameters, body, 128)
        assert Assembler().cubin(made).startswith(b"\x7fELF")
