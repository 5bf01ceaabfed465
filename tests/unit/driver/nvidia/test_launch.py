"""Launches that an SM cannot hold, programs that cannot be loaded, bank 0 against ptxas."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.check_device import fill
from tests.softcard.flat_nvidia import assemble

from exosuit.driver.device import Buffer, Launch
from exosuit.driver.nvidia.launch import bank, check, shared_configs
from exosuit.driver.nvidia.loader import Loaded, loaded, read
from exosuit.errors import KernelError
from exosuit.kernel import Target, compile_kernel
from exosuit.kernel.assembler import Assembler, find_ptxas
from exosuit.program import Program
from exosuit.silicon.nvidia.bank import bank0
from exosuit.silicon.nvidia.cubin import Relocation
from exosuit.units import GpuAddress


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_kernel(fill, Target.named("sm_86"))


def placed(program: Program, sm: int = 86, **changes: int) -> Loaded:
    kernel = read(replace(program, target=f"sm_{sm}"), sm, assemble)
    return loaded(replace(kernel, **changes), sm, GpuAddress(0x13_0000_0000))


def launch(program: Program, groups: int = 1, lanes: int = 32) -> Launch:
    cells = Buffer("cells", 0x14_0000_0000, 64).region()
    return Launch(replace(program, group_size=lanes), groups, (cells, 7), False)


def test_what_an_sm_holds(program: Program):
    check(launch(program, lanes=1024), placed(program, registers=64), 86)
    check(launch(program, (1 << 31) - 1), placed(program), 86)
    check(launch(program), placed(program, shared_bytes=99 << 10), 86)
    check(launch(program), placed(program, 90, shared_bytes=228 << 10), 90)


@pytest.mark.parametrize(
    ("groups", "lanes", "changes", "words"),
    [
        (1, 0, {}, "0 lanes"),
        (1, 1025, {}, "1025 lanes"),
        (1, 1024, {"registers": 65}, "65 registers"),
        (1, 288, {"registers": 255}, "255 registers"),
        (1 << 31, 32, {}, "2147483648 workgroups"),
        (1, 32, {"shared_bytes": (99 << 10) + 1}, "workgroup memory"),
    ],
)
def test_what_an_sm_does_not_hold(
    groups: int, lanes: int, changes: dict[str, int], words: str, program: Program
):
    with pytest.raises(KernelError, match=words) as caught:
        check(launch(program, groups, lanes), placed(program, **changes), 86)
    assert caught.value.cause
    assert caught.value.next
    assert caught.value.fields["program"] == program.name


def test_shared_memory_counts_the_systems_part(program: Program):
    """Up to sm_89 the driver adds it; from sm_90 on it is counted in, where there is any."""
    assert placed(program).shared_bytes == 0x400
    assert placed(program, shared_bytes=100).shared_bytes == 0x480
    assert placed(program, 90).shared_bytes == 0x400
    assert placed(program, 90, shared_bytes=0x400 + 100).shared_bytes == 0x480
    assert placed(program, 120, shared_bytes=0x400).shared_bytes == 0x400


def test_scratch_is_asked_for_only_where_there_is_a_stack(program: Program):
    assert placed(program).local_bytes == 0
    assert placed(program, stack_bytes=8).local_bytes == 0x260
    assert placed(program, stack_bytes=0x20).local_bytes == 0x260
    assert placed(program, stack_bytes=0x21).local_bytes == 0x280


def test_how_an_sm_is_divided():
    """Least for one group, wanted for as many as warps and slots allow, most there is."""
    assert shared_configs(0x400, 1024, 86) == (8, 8, 100)
    assert shared_configs(0x400, 32, 86) == (8, 16, 100)
    assert shared_configs(20 << 10, 256, 86) == (32, 100, 100)
    assert shared_configs(100 << 10, 32, 86) == (100, 100, 100)
    assert shared_configs(33 << 10, 128, 90) == (64, 228, 228)


def test_programs_that_are_not_for_this_card(program: Program):
    def read_as(target: str, sm: int) -> None:
        read(replace(program, target=target), sm, assemble)

    read_as("sm_80", 86)  # a lower minor of the same major runs
    for target, sm in (("sm_89", 86), ("sm_86", 90), ("sm_120", 100), ("sm_90", 120)):
        with pytest.raises(KernelError, match="cannot be loaded") as caught:
            read_as(target, sm)
        assert f"sm_{sm}" in caught.value.what


def test_programs_that_would_be_launched_wrongly(program: Program, monkeypatch):
    cubin = assemble(program)
    with pytest.raises(KernelError, match="holds only fill"):
        read(replace(program, code=cubin, entry="other"), 86, assemble)
    with pytest.raises(KernelError, match="16 bytes of arguments for 1 parameters"):
        read(replace(program, parameters=program.parameters[:1]), 86, assemble)
    with pytest.raises(KernelError, match="cannot be read"):
        read(replace(program, code=cubin[:100]), 86, assemble)
    kernel = read(program, 86, assemble)
    needy = replace(kernel, relocations=(Relocation(".text.fill", 8, 2, "table", 0),))

    class Needy:
        sm = 86
        kernels = {"fill": needy}  # noqa: RUF012

    monkeypatch.setattr("exosuit.driver.nvidia.loader.read_cubin", lambda code: Needy)
    with pytest.raises(KernelError, match="addresses of table"):
        read(program, 86, assemble)


@pytest.mark.skipif(find_ptxas() is None, reason="no ptxas")
@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_what_ptxas_makes_is_taken(target: str):
    """A cubin as code passes through as it is; registers and places come out of it."""
    made = compile_kernel(fill, Target.named(target))
    cubin = Assembler().cubin(made)

    def refuse(_: Program) -> bytes:
        raise AssertionError("it is a cubin already")

    sm = int(target.removeprefix("sm_"))
    kernel = read(replace(made, code=cubin), sm, refuse)
    assert kernel.code in cubin
    assert 0 < kernel.registers < 32
    assert kernel == read(made, sm, Assembler().cubin)
    words = bank(launch(made), sm)
    assert len(words) == kernel.constants


HEAD = ".version 8.8\n.target {target}\n.address_size 64\n"
PROBE = """
.visible .entry probe_{slot}(.param .u64 out) {{
  .local .align 16 .b8 depot[64];
  .reg .b32 %r<12>; .reg .b64 %a<6>;
  ld.param.u64 %a1, [out];
  mov.u32 %r1, {special};
  st.global.u32 [%a1], %r1;
  mov.u64 %a2, depot;
  cvta.local.u64 %a3, %a2;
  st.global.u64 [%a1+8], %a3;
  st.local.u32 [depot], %r1;
  ret;
}}
"""
SPECIALS = {
    "%ntid.x": "block_x", "%ntid.y": "block_y", "%ntid.z": "block_z",
    "%nctaid.x": "grid_x", "%nctaid.y": "grid_y", "%nctaid.z": "grid_z",
}  # fmt: skip


def nvdisasm() -> Path | None:
    found = shutil.which("nvdisasm")
    if found:
        return Path(found)
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in Path(folder).glob("*/bin/nvdisasm"):
            return file
    return None


def constants_read(target: str, folder: Path) -> dict[str, set[int]]:
    """Offsets in bank 0 from which the machine code of each probe loads."""
    source, cubin = folder / "probe.ptx", folder / "probe.cubin"
    probes = [PROBE.format(slot=slot, special=name) for name, slot in SPECIALS.items()]
    source.write_text(HEAD.format(target=target) + "".join(probes))
    subprocess.run([find_ptxas(), f"-arch={target}", source, "-o", cubin], check=True)
    text = subprocess.run([nvdisasm(), cubin], capture_output=True, text=True, check=True).stdout
    found: dict[str, set[int]] = {}
    for part in text.split(".section\t.text.probe_")[1:]:
        slot = re.match(r"\w+", part)
        assert slot is not None
        places = re.findall(r"c\[0x0\]\[(0x[0-9a-f]+|U?RZ)\]", part)
        found[slot[0]] = {0 if place.endswith("RZ") else int(place, 16) for place in places}
    assert found.keys() == set(SPECIALS.values())
    return found


@pytest.mark.skipif(find_ptxas() is None or nvdisasm() is None, reason="no ptxas or nvdisasm")
@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_bank_0_is_where_ptxas_looks(target: str, tmp_path: Path):
    """Each special register, the arguments and the stack: from the disassembly of probes."""
    kind = bank0(int(target.removeprefix("sm_")))
    for slot, found in constants_read(target, tmp_path).items():
        assert kind.SLOTS[slot].offset in found, (slot, {hex(place) for place in found})
        others = {kind.SLOTS[s].offset for s in SPECIALS.values()} - {kind.SLOTS[slot].offset}
        assert not found & others
        assert kind.ARGUMENTS in found
        assert kind.SLOTS["stack_pointer"].offset in found
        assert kind.SLOTS["local_window"].offset in found
        assert kind.SLOTS["memory_descriptor"].offset in found
