"""The cache of programs, and the child process in which GPU code is made."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from exosuit.errors import CompileFailed
from exosuit.kernel import (
    In,
    Kernel,
    Out,
    ProgramCache,
    Target,
    Trace,
    compile_kernel,
    f32,
    group,
    kernel,
)
from exosuit.kernel.worker import Worker
from exosuit.program import Program

HOST = Target.host()


@kernel
def scale(x: In[f32], out: Out[f32], *, factor: float) -> None:
    out[group()] = x[group()] * factor


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are traced from now on."""
    seen: list[str] = []
    trace = Kernel.trace

    def counted(self: Kernel, *arguments: object, **static: object) -> Trace:
        seen.append(self.name)
        return trace(self, *arguments, **static)

    monkeypatch.setattr(Kernel, "trace", counted)
    return seen


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


# The cache ------------------------------------------------------------------------------------


def test_a_hit_traces_nothing(tmp_path, traces):
    first = compile_kernel(scale, HOST, ProgramCache(tmp_path), factor=2.0)
    second = compile_kernel(scale, HOST, ProgramCache(tmp_path), factor=2.0)
    assert traces == ["scale"]
    assert first == second
    assert len(files(tmp_path)) == 1


def test_without_a_store_each_call_compiles(traces):
    for _ in range(2):
        compile_kernel(scale, HOST, factor=2.0)
    assert traces == ["scale", "scale"]


def test_statics_targets_and_levels_are_told_apart(tmp_path, traces):
    store = ProgramCache(tmp_path)
    programs = [
        compile_kernel(scale, HOST, store, factor=2.0),
        compile_kernel(scale, HOST, store, factor=3.0),
        compile_kernel(scale, Target.named("gfx1100"), store, factor=2.0),
        compile_kernel(scale, Target.named("gfx1101"), store, factor=2.0),
        compile_kernel(scale, Target.named("aarch64-neon"), store, factor=2.0),
    ]
    assert len({program.code for program in programs}) == 5
    assert len(traces) == len(files(tmp_path)) == 5


def _module(path: Path, factor: str) -> ModuleType:
    """A module with one kernel, whose source is not exosuit's."""
    path.write_text(
        "from exosuit.kernel import In, Out, f32, group, kernel\n"
        "@kernel\n"
        "def own(x: In[f32], out: Out[f32]) -> None:\n"
        f"    out[group()] = x[group()] * {factor}\n"
    )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_a_changed_source_is_compiled_again(tmp_path, traces, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    store = ProgramCache(tmp_path / "cache")
    codes = []
    for name, factor in (("own_one", "2.0"), ("own_two", "3.0"), ("own_one", "2.0")):
        module = _module(tmp_path / f"{name}.py", factor)
        codes.append(compile_kernel(module.own, HOST, store).code)
        monkeypatch.delitem(sys.modules, name)
    assert codes[0] == codes[2] != codes[1]
    assert traces == ["own", "own"]


@pytest.mark.parametrize(
    "damage", [b"", b"\x80", b"not a pickle", b"\x80\x04N.", b"\x80\x04\x95\xff\xff\xff\xff"]
)
def test_a_damaged_file_is_a_miss_and_is_replaced(tmp_path, traces, damage):
    store = ProgramCache(tmp_path)
    program = compile_kernel(scale, HOST, store, factor=2.0)
    (file,) = files(tmp_path)
    file.write_bytes(damage)
    assert compile_kernel(scale, HOST, store, factor=2.0) == program
    assert compile_kernel(scale, HOST, store, factor=2.0) == program
    assert traces == ["scale", "scale"]


def test_a_half_of_any_length_is_a_miss(tmp_path):
    store = ProgramCache(tmp_path)
    compile_kernel(scale, HOST, store, factor=2.0)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        file.write_bytes(whole[:length])
        assert store.load(file.name) is None


def test_bytes_changed_anywhere_never_raise(tmp_path):
    store = ProgramCache(tmp_path)
    compile_kernel(scale, HOST, store, factor=2.0)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 200)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
        assert store.load(file.name) is None


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = ProgramCache(tmp_path / "file" / "cache")
    assert isinstance(compile_kernel(scale, HOST, store, factor=2.0), Program)


def test_a_static_value_must_say_what_it_is(tmp_path):
    with pytest.raises(CompileFailed, match="no telling repr"):
        compile_kernel(scale, HOST, ProgramCache(tmp_path), factor=object())


# The child ------------------------------------------------------------------------------------

BAD = {  # IR that LLVM's back ends abort on: instructions the chip does not have
    "gfx1100": "declare <8 x float> @llvm.amdgcn.wmma.f32.16x16x16.fp8.fp8.v8f32.v2i32"
    "(<2 x i32>, <2 x i32>, <8 x float>)\n"
    "define amdgpu_kernel void @bad(ptr addrspace(1) %p, <2 x i32> %a) {\n"
    "  %r = call <8 x float> @llvm.amdgcn.wmma.f32.16x16x16.fp8.fp8.v8f32.v2i32"
    "(<2 x i32> %a, <2 x i32> %a, <8 x float> zeroinitializer)\n"
    "  store <8 x float> %r, ptr addrspace(1) %p\n  ret void\n}\n",
    "sm_80": "declare void @llvm.nvvm.prefetch.global.L2(ptr addrspace(1))\n"
    "define ptx_kernel void @bad(ptr addrspace(1) %p) {\n"
    "  call void @llvm.nvvm.prefetch.global.L2(ptr addrspace(1) %p)\n  ret void\n}\n",
}


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


@pytest.mark.parametrize("chip", BAD)
def test_an_abort_of_llvm_is_an_error_with_the_kernels_name(worker, chip):
    target = Target.named(chip)
    with pytest.raises(CompileFailed, match=f"the compiler of {chip} died of kernel 'bad'") as died:
        worker.generate("bad", BAD[chip], target)
    assert died.value.cause.startswith("LLVM ERROR: Cannot select")
    # The next one gets a new child.
    assert worker.generate("scale", scale.trace(target, factor=2.0).ir, target)


def test_ir_that_llvm_refuses_is_an_error(worker):
    for chip in ("gfx1100", "sm_90"):
        with pytest.raises(CompileFailed, match=f"LLVM refuses the IR of a kernel for {chip}"):
            worker.generate("bad", "define void @f() { nonsense }", Target.named(chip))


def test_a_child_that_is_killed_is_replaced(worker):
    target = Target.named("gfx1100")
    ir = scale.trace(target, factor=2.0).ir
    code = worker.generate("scale", ir, target)
    os.kill(worker._child.pid, 9)
    worker._child.wait()
    assert worker.generate("scale", ir, target) == code


def test_an_interrupted_request_does_not_answer_the_next(worker, monkeypatch):
    target = Target.named("gfx1100")
    first, second = (scale.trace(target, factor=factor).ir for factor in (2.0, 3.0))
    expected = worker.generate("scale", second, target)
    with monkeypatch.context() as patch:
        patch.setattr("exosuit.kernel.worker._receive", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            worker.generate("scale", first, target)
    assert worker.generate("scale", second, target) == expected


def _interrupt(stream: object) -> None:
    raise KeyboardInterrupt


def test_threads_take_turns(worker):
    jobs = {name: scale.trace(Target.named(name), factor=2.0).ir for name in ("gfx1100", "sm_80")}
    alone = {name: worker.generate(name, ir, Target.named(name)) for name, ir in jobs.items()}
    found: list[tuple[str, bytes]] = []

    def run(name: str) -> None:
        for _ in range(5):
            found.append((name, worker.generate(name, jobs[name], Target.named(name))))

    threads = [threading.Thread(target=run, args=(name,)) for name in jobs for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(code == alone[name] for name, code in found)
