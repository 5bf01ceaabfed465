"""Packs of programs: made by ptxas, found by kernel and static values, refused when damaged."""

from __future__ import annotations

import shutil

import pytest

from exosuit.errors import CompileFailed, KernelError
from exosuit.kernel import In, Out, ProgramCache, Target, compile_kernel, f32, group, kernel, lane
from exosuit.kernel import packs as packs_module
from exosuit.kernel.assembler import Assembler
from exosuit.kernel.packs import Pack, PackedPrograms, Wanted, make_pack
from exosuit.program import Program
from exosuit.silicon.nvidia.cubin import read_cubin

pytestmark = pytest.mark.skipif(shutil.which("ptxas") is None, reason="no ptxas")


@kernel(group_size=64)
def doubled(x: In[f32], out: Out[f32], *, factor: float = 2.0) -> None:
    place = group() * 64 + lane()
    out[place] = x[place] * factor


TARGET = Target.named("sm_90")
WANTED = [Wanted.of(doubled, {"factor": factor}) for factor in (2.0, 3.0, 2.0)]


@pytest.fixture(scope="module")
def content():
    return make_pack(WANTED, TARGET, Assembler())


def test_a_pack_has_each_program_once(content):
    pack = Pack(content)
    assert (pack.target, len(pack), pack.is_current) == ("sm_90", 2, True)
    program = pack.find(WANTED[1])
    assert program is not None
    text = compile_kernel(doubled, TARGET, factor=3.0)
    assert (program.parameters, program.group_size) == (text.parameters, text.group_size)
    cubin = read_cubin(program.code)
    assert (cubin.sm, list(cubin.kernels)) == (90, ["doubled"])
    assert pack.find(Wanted.of(doubled, {"factor": 5.0})) is None


def test_a_cache_with_a_pack_gives_machine_code(content, tmp_path):
    store = PackedPrograms(tmp_path, Pack(content))
    packed = compile_kernel(doubled, TARGET, store, factor=2.0)
    assert packed.code.startswith(b"\x7fELF")
    assert not list(tmp_path.iterdir())
    assert compile_kernel(doubled, TARGET, store, factor=4.0).code.lstrip().startswith(b"//")
    plain = compile_kernel(doubled, TARGET, ProgramCache(tmp_path), factor=2.0)
    assert plain.code.lstrip().startswith(b"//")


def test_another_version_finds_nothing(content, monkeypatch):
    monkeypatch.setattr(packs_module, "sources_hash", lambda: "other")
    assert Pack(content).find(WANTED[0]) is None


@pytest.mark.parametrize("place", [0, 20, 60, -1])
def test_damage_is_noticed(content, place):
    damaged = bytearray(content)
    damaged[place] ^= 0x40
    with pytest.raises(KernelError, match="pack of programs cannot be read"):
        Pack(bytes(damaged))


def test_ptxas_is_quoted():
    broken = Program("broken", "sm_90", "broken", b".version 8.8\n.nonsense", (), 32, 0)
    with pytest.raises(CompileFailed, match="ptxas refuses broken") as told:
        Assembler().cubin(broken)
    assert "ptxas" in told.value.cause or "error" in told.value.cause
