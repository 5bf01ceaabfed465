"""What kernels must not say: each mistake is told with the line it is on."""

from __future__ import annotations

import pytest

from exosuit.errors import CompileFailed, NotOnTarget, UsageError
from exosuit.kernel import (
    In,
    Out,
    Target,
    atomic_add,
    atomic_max,
    dot4,
    exp,
    f64,
    group,
    i16,
    i32,
    i64,
    kernel,
    lookup16,
    loop,
    masked,
    maximum,
    pair_dot,
    shuffle_xor,
    u8,
    when,
)


def _breaks(x, out):
    for i in loop(4):
        out[i] = i
        break


def _returns(x, out):
    for i in loop(4):
        with when(i > 2):
            return


def _masked_store(x, out):
    with masked(x.load(0, 4) > 0):
        out[x.load(0, 8)] = 1


MISTAKES = {
    "break": (_breaks, "a loop left in the middle", 1),
    "return": (_returns, "a loop left in the middle", 1),
    "when of a vector": (lambda x, out: when(x.load(0, 4) > 0).__enter__(), "when", 0),
    "dot4 of words": (lambda x, out: dot4(x.load(0, 8), x.load(0, 8), x.load(0, 2)), "dot4", 0),
    "short table": (lambda x, out: lookup16([1, 2], x.load(0, 16).view(u8)), "lookup16", 0),
    "exp of integers": (lambda x, out: exp(x[0]), "exp of i32", 0),
    "exp of f64": (lambda x, out: exp(x[0].to(f64)), "exp of f64", 0),
    "atomic on In": (lambda x, out: atomic_add(x, 0, 1), "read-only", 0),
    "atomic of a type": (lambda x, out: atomic_max(out, 0, x[0].to(i64)), "atomic_max", 0),
    "shuffle past the vector": (lambda x, out: shuffle_xor(x.load(0, 8), 8), "by 8", 0),
    "mask of other lanes": (_masked_store, "8 lanes of memory under a mask of 4", 2),
    "fraction": (lambda x, out: maximum(x[0], 0.5), "0.5 as i32", 0),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_name_the_line(mistake):
    function, told, offset = MISTAKES[mistake]
    function.__annotations__ = {"x": In[i32], "out": Out[i32]}
    with pytest.raises(CompileFailed, match=told) as refused:
        kernel(function).trace(Target.host())
    line = function.__code__.co_firstlineno + offset
    assert refused.value.fields["place"].endswith(f"test_mistakes.py:{line}")


def test_a_parameter_without_a_type():
    def untyped(x) -> None: ...

    with pytest.raises(CompileFailed, match="parameter 'x' has no type"):
        kernel(untyped).trace(Target.host())


def test_words_outside_of_a_kernel():
    with pytest.raises(CompileFailed, match="outside of a kernel"):
        group()


def test_workgroups_of_a_gpu_are_whole_waves():
    for size in (0, 16, 48, 2048):

        @kernel(group_size=size)
        def empty() -> None: ...

        with pytest.raises(CompileFailed, match=f"a workgroup of {size} lanes"):
            empty.trace(Target.named("gfx1100"))


def test_unknown_targets_and_levels():
    with pytest.raises(UsageError, match="no target 'gfx900'") as refused:
        Target.named("gfx900")
    assert "gfx1100" in refused.value.cause
    with pytest.raises(UsageError, match="no 'sse2'"):
        Target.host("sse2")


def test_x86_words_are_refused_elsewhere():
    def pairs(x, out):
        pair_dot(x.load(0, 8).view(i16), x.load(0, 8).view(i16))

    pairs.__annotations__ = {"x": In[i32], "out": Out[i32]}
    with pytest.raises(NotOnTarget, match="pair_dot does not exist on sm_90"):
        kernel(pairs).trace(Target.named("sm_90"))
