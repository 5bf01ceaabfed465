"""Programs are compiled once, kept, and found again on disk."""

from __future__ import annotations

import pytest

from exosuit.kernel import ProgramCache, Target
from exosuit.ops import programs as module
from exosuit.ops.programs import Programs
from exosuit.ops.rows import add_normed, gather_rows


@pytest.fixture
def compiled(monkeypatch):
    """The names of kernels, as they are compiled (or looked for on disk)."""
    names: list[str] = []
    original = module.compile_kernel

    def compile_kernel(kernel, target, cache, **static):
        names.append(kernel.name)
        return original(kernel, target, cache, **static)

    monkeypatch.setattr(module, "compile_kernel", compile_kernel)
    return names


def test_compiled_when_first_asked_for(compiled):
    programs = Programs(Target.host(), None)
    assert programs.compile_seconds == 0
    first = programs.get(gather_rows, width=8)
    spent = programs.compile_seconds
    assert spent > 0
    assert programs.get(gather_rows, width=8) is first
    assert programs.compile_seconds == spent
    assert compiled == ["gather_rows"]
    assert first.target == Target.host().name


def test_kernels_and_static_values_tell_programs_apart(compiled):
    programs = Programs(Target.host(), None)
    first = programs.get(add_normed, width=8, epsilon=1e-5)
    assert programs.get(add_normed, epsilon=1e-5, width=8) is first
    assert programs.get(add_normed, width=8, epsilon=1e-6) is not first
    assert programs.get(gather_rows, width=8) is not first
    assert len(compiled) == 3


def test_found_on_disk_by_the_next_process(tmp_path, monkeypatch):
    cache = ProgramCache(tmp_path)
    made = Programs(Target.host(), cache).get(gather_rows, width=8)
    assert len(list(tmp_path.iterdir())) == 1

    def emit(*_: object, **__: object) -> bytes:
        raise NotImplementedError("compiled")

    monkeypatch.setattr("exosuit.kernel.compile.emit", emit)
    assert Programs(Target.host(), ProgramCache(tmp_path)).get(gather_rows, width=8) == made
    with pytest.raises(NotImplementedError, match="compiled"):
        Programs(Target.host(), cache).get(gather_rows, width=9)


def test_a_missing_static_value_is_the_recordings_mistake():
    with pytest.raises(TypeError, match="width"):
        Programs(Target.host(), None).get(gather_rows)
