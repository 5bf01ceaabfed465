"""Small steps over rows of activations: gathering them, adding what was normalised."""

from __future__ import annotations

from exosuit.kernel import (
    In,
    InOut,
    Out,
    each,
    f32,
    fma,
    group,
    group_sum,
    i32,
    i64,
    kernel,
    rsqrt,
    target,
    variable,
    zeros,
)


@kernel
def gather_rows(x: In[f32], rows: In[i32], out: Out[f32], *, width: int) -> None:
    """`out[group] = x[rows[group]]`, f32[..., width]."""
    source = x.at(rows[group()].to(i64) * width)
    line = out.at(group().to(i64) * width)
    for i in each(width):
        line[i] = source[i]


@kernel
def add_normed(y: In[f32], weight: In[f32], x: InOut[f32], *, width: int, epsilon: float) -> None:
    """`x += rms_norm(y) * weight`, rows of f32[width]."""
    source = y.at(group().to(i64) * width)
    line = x.at(group().to(i64) * width)
    total = variable(zeros(f32, target().lanes))
    for i in each(width):
        total.value = fma(source[i], source[i], total.value)
    scale = rsqrt(group_sum(total.value) / width + epsilon)
    for i in each(width):
        line[i] = line[i] + source[i] * scale * weight[i]
