"""The whole language on every target: each word compiles, or is refused by the capability table.

A gap in the table shows here as "the compiler died", because GPU code is made in a child process;
CPU targets are sent there too, so that an abort of LLVM fails one test instead of ending the run.
"""

from __future__ import annotations

import itertools
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exosuit.errors import CompileFailed, NotOnTarget
from exosuit.kernel import (
    In,
    InOut,
    Kernel,
    Out,
    Pointer,
    Scalar,
    Target,
    Value,
    absolute,
    apply_sign,
    async_commit,
    async_copy,
    async_wait,
    atomic_add,
    atomic_compare_exchange,
    atomic_exchange,
    atomic_max,
    atomic_min,
    barrier,
    bf16,
    compile_kernel,
    constant,
    copysign,
    dot4,
    each,
    exp,
    f16,
    f32,
    f64,
    floor,
    fma,
    group_max,
    group_min,
    group_sum,
    i8,
    i16,
    i32,
    i64,
    join,
    kernel,
    lane,
    lookup16,
    maximum,
    minimum,
    mma,
    mma_tile,
    pair_dot,
    pair_dot_bytes,
    prefetch,
    reciprocal,
    rint,
    rsqrt,
    select,
    shared,
    shuffle_xor,
    sigmoid,
    sincos,
    sqrt,
    tanh,
    target,
    u8,
    u16,
    u32,
    u64,
    wave,
    wave_lane,
    wave_reduce,
    zeros,
)
from exosuit.kernel.target import CAPABILITIES
from exosuit.kernel.worker import Worker

INTEGERS = [i8, i16, i32, i64, u8, u16, u32, u64]
FLOATS = [f16, bf16, f32, f64]
_places = itertools.count()
Chapter = Callable[[Pointer[Any], Pointer[Any]], None]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def _keep(out: Pointer[Any], x: Value) -> None:
    """Store whatever came out at a place of its own, so that nothing is optimised away."""
    x = x if x.dtype.bits > 1 else x.to(u8)
    out.at(64 * next(_places)).view(x.dtype).store(x, 0)


def _integers(x: Pointer[Any], out: Pointer[Any]) -> None:
    for dtype in INTEGERS:
        for lanes in (1, 4):
            a, b = x.view(dtype).load(0, lanes), x.view(dtype).load(8, lanes)
            for value in (a + b, a - b, a * b, a // b, a % b, a & b, a | b, a ^ b, a << b, a >> b,
                          ~a, -a, minimum(a, b), maximum(a, b), a.reduce("add"), a.reduce("max"),
                          a.reduce("min"), a < b, a.eq(b), select(a < b, a, b)):  # fmt: skip
                _keep(out, value)
        _keep(out, absolute(x.view(dtype).load(0, 2)))


def _floats(x: Pointer[Any], out: Pointer[Any]) -> None:
    for dtype in FLOATS:
        for lanes in (1, 4):
            a, b = x.view(dtype).load(0, lanes), x.view(dtype).load(8, lanes)
            for value in (a + b, a - b, a * b, a / b, -a, minimum(a, b), maximum(a, b), absolute(a),
                          floor(a), rint(a), sqrt(a), copysign(a, b), a.reduce("add"),
                          a.reduce("max"), a < b, a.ne(b), select(a < b, a, b)):  # fmt: skip
                _keep(out, value)
    for dtype in (f32, f64):
        a = x.view(dtype).load(0, 2)
        _keep(out, fma(a, a, a))


def _conversions(x: Pointer[Any], out: Pointer[Any]) -> None:
    for source in (*INTEGERS, *FLOATS):
        for to in (*INTEGERS, *FLOATS):
            for lanes in (1, 2):
                _keep(out, x.view(source).load(0, lanes).to(to))


def _mathematics(x: Pointer[Any], out: Pointer[Any]) -> None:
    for lanes in (1, 2):
        a = x.view(f32).load(0, lanes)
        for value in (exp(a), rsqrt(a), reciprocal(a), sigmoid(a), tanh(a), *sincos(a)):
            _keep(out, value)


def _workgroup(x: Pointer[Any], out: Pointer[Any]) -> None:
    for dtype in (i8, u8, f16, bf16, i32, u32, f32, i64, f64):
        memory = shared(dtype, 64)
        for i in each(32):
            memory[i] = x.view(dtype)[i]
        barrier()
        for i in each(32):
            v = memory[i]
            for mask in (1, 7, 16, 31) if target().is_gpu else (1, 7):
                _keep(out, shuffle_xor(v, mask))
            for value in (group_sum(v), group_max(v), group_min(v), wave_reduce("add", v),
                          wave_reduce("max", v), wave_reduce("min", v)):  # fmt: skip
                _keep(out, value)
    _keep(out, lane() + wave() + wave_lane())
    prefetch(x, 64)
    prefetch(x, 128, keep=False)
    _keep(out, x.view(i32).load(0, 4, align=16, streaming=True))


def _atomics(x: Pointer[Any], out: Pointer[Any]) -> None:
    for dtype in (i32, u32, i64, u64, f32, f64):
        places = [out.view(dtype)]
        if target().is_gpu:
            places.append(shared(dtype, 4))
        for place in places:
            for word in (atomic_add, atomic_max, atomic_min, atomic_exchange):
                _keep(out, word(place, 1, x.view(dtype)[0]))
            if dtype.kind != "float":
                a = x.view(dtype)[0]
                _keep(out, atomic_compare_exchange(place, 1, a, a + 1))


def _dots(x: Pointer[Any], out: Pointer[Any]) -> None:
    for a_type in (u8, i8):
        for b_type in (u8, i8):
            for lanes in (1, 2, 4, 8, 16):
                a, b = x.view(a_type).load(0, 4 * lanes), x.view(b_type).load(64, 4 * lanes)
                _keep(out, dot4(a, b, zeros(i32, lanes)))
    for lanes in (16, 32, 64) if not target().is_gpu else (1, 2, 4, 8, 16):
        _keep(out, lookup16(list(range(-8, 8)), x.view(u8).load(0, lanes)))


CHAPTERS: dict[str, Chapter] = {
    "integers": _integers, "floats": _floats, "conversions": _conversions,
    "mathematics": _mathematics, "workgroup": _workgroup, "atomics": _atomics, "dots": _dots,
}  # fmt: skip

# Representatives of what back ends distinguish; the portable kernels go through all chips.
CHIPS = [
    "x86-64-avx2", "x86-64-avx512", "x86-64-avx512vnni", "aarch64-neon", "aarch64-dotprod",
    "aarch64-i8mm", "gfx1100", "gfx1201", "sm_80", "sm_90", "sm_110", "sm_121",
]  # fmt: skip


def _chapter(function: Chapter, group_size: int = 128) -> Kernel:
    def chapter(x, out):
        function(x, out)

    chapter.__annotations__ = {"x": In[u8], "out": InOut[u8]}
    return kernel(group_size=group_size)(chapter)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_word_compiles(worker, chip, chapter):
    chip = Target.named(chip)
    trace = _chapter(CHAPTERS[chapter]).trace(chip)
    text = worker.generate(chapter, trace.ir, chip, assembly=True).decode()
    # Objects are complete in themselves: no library is called.
    calls = [
        line.strip() for line in text.splitlines() if re.match(r"\s+(callq?|bl|s_swappc)\b", line)
    ]
    assert not calls
    assert ".extern" not in text


# Words behind a capability --------------------------------------------------------------------


def _mma_any(x: Pointer[Any], out: Pointer[Any]) -> None:
    for dtype in (f16, bf16, i8, u8):
        tile = mma_tile(dtype)
        a, b = tile.load_a(x.view(dtype), tile.k), tile.load_b(x.view(dtype), tile.k)
        _keep(out, mma(a, b, tile.zeros()))
    tile = mma_tile(i8)
    a, b = tile.load_a(x.view(i8), tile.k), tile.load_b(x.view(u8), tile.k)
    for pair in ((a, b), (b.view(u8), a.view(i8))) if a.lanes == b.lanes else ((a, b),):
        _keep(out, mma(*pair, tile.zeros()))


def _copies(x: Pointer[Any], out: Pointer[Any]) -> None:
    memory = shared(u8, 1024)
    for size in (4, 8, 16):
        async_copy(memory, lane() * 16, x, lane() * 16, size)
        async_commit()
    async_wait(1)
    async_wait()
    barrier()
    _keep(out, memory.load(lane() * 16, 16, align=16))


WORDS: dict[str, list[Chapter]] = {
    "mma": [_mma_any, lambda x, out: mma_tile(f16) and None],
    "async_copy": [_copies, lambda x, out: async_commit(), lambda x, out: async_wait()],
    "pair_dot": [
        lambda x, out: _keep(out, pair_dot(x.view(i16).load(0, 16), x.view(i16).load(0, 16))),
        lambda x, out: _keep(out, pair_dot_bytes(x.load(0, 32), x.view(i8).load(0, 32))),
        lambda x, out: _keep(out, apply_sign(x.view(i8).load(0, 32), x.view(i8).load(0, 32))),
    ],
    "f16": [lambda x, out: _keep(out, fma(*[x.view(f16).load(0, 4)] * 3))],
}
# The others choose between ways to lower a word that exists everywhere.
QUIET = {"wmma_gfx11", "wmma_gfx12", "dot4_fast", "vnni", "i8mm", "avx512"}


def test_every_capability_is_tested_here():
    assert set(CAPABILITIES) == set(WORDS) | QUIET
    for name in Target.names():
        assert Target.named(name).capabilities <= set(CAPABILITIES)


@pytest.mark.parametrize("capability", WORDS)
def test_capability_or_refusal(worker, any_target, capability):
    chip = Target.named(any_target)
    for number, function in enumerate(WORDS[capability]):
        word = _chapter(function)
        if chip.has(capability):
            worker.generate(f"{capability}.{number}", word.trace(chip).ir, chip)
            continue
        with pytest.raises(NotOnTarget, match=f"does not exist on {any_target}") as refused:
            word.trace(chip)
        fields = refused.value.fields
        assert fields["capability"] == capability
        assert re.search(r"test_words\.py:\d+$", fields["place"])
        assert refused.value.what.startswith(fields["place"])
        assert refused.value.next == f"exosuit kernels --target {any_target}"


def _accepted_by_ptxas(ptx: bytes, chip: str, folder: Path) -> None:
    ptxas = shutil.which("ptxas")
    if ptxas is None:
        pytest.skip("no ptxas")
    file = folder / "kernel.ptx"
    file.write_bytes(ptx)
    told = subprocess.run(
        [ptxas, f"-arch={chip}", "-O1", str(file), "-o", str(folder / "kernel.cubin")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("chip", ["sm_80", "sm_121"])
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_ptxas_accepts_every_word(chip, chapter, tmp_path):
    program = compile_kernel(_chapter(CHAPTERS[chapter]), Target.named(chip))
    _accepted_by_ptxas(program.code, chip, tmp_path)


@pytest.mark.parametrize("function", [_mma_any, _copies], ids=["mma", "copies"])
def test_ptxas_accepts_words_behind_capabilities(nvidia, function, tmp_path):
    program = compile_kernel(_chapter(function), Target.named(nvidia))
    _accepted_by_ptxas(program.code, nvidia, tmp_path)


# Instructions ---------------------------------------------------------------------------------


def _lines(chapter: Chapter, name: str, assembly: Callable[..., str]) -> str:
    return assembly(_chapter(chapter), name)


def test_arm_uses_its_dots_and_tables(assembly):
    found = {
        level: _lines(_dots, f"aarch64-{level}", assembly) for level in ("neon", "dotprod", "i8mm")
    }
    assert all("tbl" in text for text in found.values())
    for word, levels in (
        ("sdot", ["dotprod", "i8mm"]),
        ("udot", ["dotprod", "i8mm"]),
        ("usdot", ["i8mm"]),
    ):
        for level, text in found.items():
            assert bool(re.search(rf"\t{word}\t", text)) == (level in levels), (word, level)


def test_x86_uses_what_the_level_has(assembly):
    texts = {
        level: _lines(_dots, f"x86-64-{level}", assembly)
        for level in ("avx2", "avx512", "avx512vnni")
    }
    assert "vpdpbusd" in texts["avx512vnni"]
    assert "vpdpbusd" not in texts["avx512"]
    assert "zmm" in texts["avx512"]
    assert "zmm" not in texts["avx2"]
    assert all("vpmaddwd" in text and "vpshufb" in text for text in texts.values())


def test_amd_dots_signs_and_tables(amd, assembly):
    text = _lines(_dots, amd, assembly)
    for flags in ("", " neg_lo:[1,0,0]", " neg_lo:[0,1,0]", " neg_lo:[1,1,0]"):
        assert re.search(rf"v_dot4_i32_iu8 [^\n]*\]?{re.escape(flags)}\n", text), flags
    assert "v_perm_b32" in text


def test_nvidia_dots_signs_and_tables(nvidia, assembly):
    text = _lines(_dots, nvidia, assembly)
    for signs in ("s32.s32", "s32.u32", "u32.s32", "u32.u32"):
        assert f"dp4a.{signs}" in text
    assert "prmt.b32" in text


def test_amd_barriers(assembly):
    assert "s_barrier\n" in _lines(_workgroup, "gfx1100", assembly)
    newer = _lines(_workgroup, "gfx1200", assembly)
    assert "s_barrier_signal -1" in newer
    assert "s_barrier_wait" in newer
    for text in (_lines(_workgroup, "gfx1100", assembly), newer):
        assert "gl0_inv" not in text
        assert "global_inv" not in text


def test_one_wave_needs_no_barrier(assembly):
    def one_wave(x: In[f32], out: Out[f32]) -> None:
        out[lane()] = group_sum(x[lane()])

    for chip, barrier_word in (("gfx1100", "s_barrier"), ("sm_80", "bar.sync")):
        assert barrier_word not in assembly(kernel(group_size=32)(one_wave), chip)
        assert barrier_word in assembly(kernel(group_size=64)(one_wave), chip)


@pytest.mark.parametrize("size", [32, 96, 1024])
def test_group_reductions_of_any_number_of_waves(gpu, assembly, size):
    def total(x: In[f32], out: Out[f32]) -> None:
        out[lane()] = group_sum(x[lane()]) + group_max(x[lane()])

    assert assembly(kernel(group_size=size)(total), gpu)


def test_nvidia_reduces_words_in_one_instruction(nvidia, assembly):
    def total(x: In[i32], y: In[u32], out: Out[i32]) -> None:
        out[0] = wave_reduce("add", x[lane()]) + wave_reduce("max", x[lane()])
        out[1] = wave_reduce("min", y[lane()]).view(i32)

    text = assembly(kernel(group_size=32)(total), nvidia)
    for word in ("redux.sync.add.s32", "redux.sync.max.s32", "redux.sync.min.u32"):
        assert word in text


def test_amd_atomics_are_native(amd, assembly):
    text = _lines(_atomics, amd, assembly)
    for word in ("global_atomic_add_f32", "global_atomic_add_u32", "global_atomic_add_u64",
                 "global_atomic_max_i32", "global_atomic_min_u32", "global_atomic_cmpswap_b32",
                 "global_atomic_swap_b32", "ds_add"):  # fmt: skip
        assert word in text


def test_nvidia_copies_in_the_background(nvidia, assembly):
    text = _lines(_copies, nvidia, assembly)
    for word in ("cp.async.ca.shared.global", "cp.async.cg.shared.global", "cp.async.commit_group",
                 "cp.async.wait_group"):  # fmt: skip
        assert word in text


def test_streaming_loads_say_so(assembly):
    def stream(x: In[f32], out: Out[f32]) -> None:
        out.store(x.load(lane() * 4, 4, align=16, streaming=True), lane() * 4, align=16)

    assert re.search(r"global_load_b128 .* slc", assembly(kernel(stream), "gfx1100"))
    assert re.search(r"global_load_b128 .* th:TH_LOAD_NT", assembly(kernel(stream), "gfx1201"))


# The descriptor -------------------------------------------------------------------------------


def _section(elf: bytes, wanted: str) -> bytes:
    """A section of an ELF64 file by name."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count, names_at = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + k * size) for k in range(count)]
    names = headers[names_at][4]
    for name, _, _, _, offset, length in headers:
        if elf[names + name : elf.index(b"\0", names + name)].decode() == wanted:
            return elf[offset : offset + length]
    raise AssertionError(f"no section {wanted}")


def test_amd_descriptor_keeps_its_promises(amd):
    """What the loader relies on: no scratch, kernarg pointer and wave32 only, stated memory."""

    @kernel(group_size=96)
    def described(x: In[f32], n: Scalar[i32], out: Out[f32]) -> None:
        memory = shared(f32, 96)
        memory[lane()] = x[lane()] + n.to(f32)
        barrier()
        out[lane()] = group_sum(memory[lane() ^ 1])

    program = compile_kernel(described, Target.named(amd))
    descriptor = _section(program.code, ".rodata")[:64]
    shared_bytes, scratch, kernarg = struct.unpack_from("<III", descriptor)
    (properties,) = struct.unpack_from("<H", descriptor, 56)
    assert (scratch, kernarg, properties) == (0, 24, 0x408)
    assert shared_bytes <= program.shared_bytes <= shared_bytes + 16
    machine = program.code[48]
    assert machine == {"gfx1100": 0x41, "gfx1101": 0x46, "gfx1102": 0x47, "gfx1200": 0x48,
                       "gfx1201": 0x4E}[amd]  # fmt: skip


# Numbers in slots -----------------------------------------------------------------------------


def test_numbers_take_eight_bytes_each(assembly):
    """Every argument is eight bytes wide, so that drivers fill one kind of block."""

    def scalars(out: Out[f32], a: Scalar[i32], b: Scalar[f32], c: Scalar[u64]) -> None:
        out[0] = a.to(f32) * b + c.to(f32) + constant(f32, 1)

    text = assembly(kernel(scalars), "gfx1100")
    assert re.findall(r"\.offset: +(\d+)", text) == ["0", "8", "16", "24"]
    assert assembly(kernel(scalars), "sm_80").count(".param .u64") == 4


def test_a_number_of_an_odd_type_is_refused():
    def odd(out: Out[f32], a: Scalar[f16]) -> None:
        out[0] = a.to(f32)

    with pytest.raises(CompileFailed, match=r"Scalar\[f16\]"):
        kernel(odd).trace(Target.named("sm_80"))


def test_fragments_are_checked():
    def wrong(x: Pointer[Any], out: Pointer[Any]) -> None:
        mma(x.view(f16).load(0, 2), x.view(f16).load(0, 2), zeros(f32, 8))

    with pytest.raises(CompileFailed, match="mma of f16x2"):
        _chapter(wrong).trace(Target.named("gfx1201"))
    with pytest.raises(CompileFailed, match="mma_tile of f64"):
        _chapter(lambda x, out: mma_tile(f64) and None).trace(Target.named("sm_90"))
    with pytest.raises(CompileFailed, match="async_copy of 3"):
        _chapter(lambda x, out: async_copy(shared(u8, 64), 0, x, 0, 3)).trace(Target.named("sm_90"))
    with pytest.raises(CompileFailed, match="shuffle_xor by 32"):
        _chapter(lambda x, out: _keep(out, shuffle_xor(join(x[0], x[1]), 32))).trace(
            Target.named("sm_90")
        )
