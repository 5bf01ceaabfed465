"""The likeliest token, spread over all threads: for steps in which every sequence is greedy."""

from __future__ import annotations

from exosuit.kernel import (
    DType,
    In,
    InOut,
    Out,
    Pointer,
    Value,
    constant,
    each,
    f32,
    group,
    group_max,
    group_min,
    i32,
    i64,
    kernel,
    leader,
    minimum,
    select,
    target,
    variable,
    zeros,
)


@kernel
def argmax_parts(
    logits: In[f32], values: Out[f32], tokens: Out[i32], *, vocabulary: int, parts: int
) -> None:
    """The likeliest token of each part of each row; ties to the lowest. `R * parts` groups.

    logits f32[R, vocabulary]    values f32[R, parts]    tokens i32[R, parts]
    """
    size = -(-vocabulary // parts)
    row, part = group() // parts, group() % parts
    first = part * size
    line = logits.at(row.to(i64) * vocabulary)
    best, which = best_of(line.at(first), minimum(vocabulary - first, size))
    values[group()] = best
    tokens[group()] = which + first


@kernel(group_size=32)
def argmax(
    values: In[f32],
    parts_tokens: In[i32],
    ids: Out[i32],
    positions: InOut[i32],
    tokens: Out[i32],
    *,
    parts: int,
) -> None:
    """Join the parts: `ids[row] = tokens[row] = token`, `positions[row] += 1`. R groups.

    values, parts_tokens  of `argmax_parts`, [R, parts]
    """
    row = group()
    _, part = best_of(values.at(row * parts), parts)
    token = parts_tokens[row * parts + part]
    with leader():
        ids[row] = token
        tokens[row] = token
        positions[row] = positions[row] + 1


def best_of(line: Pointer[DType], count: Value | int) -> tuple[Value, Value]:
    """The largest of `count` numbers and the first place where it stands, in every lane."""
    lanes = target().lanes
    best = variable(constant(f32, float("-inf"), lanes))
    where = variable(zeros(i32, lanes))
    for i in each(count):
        value = line[i]
        better = value > best.value
        where.value = select(better, i, where.value)
        best.value = select(better, value, best.value)
    top = group_max(best.value)
    # Lanes that never saw anything above minus infinity stand at 0, which is then right.
    return top, group_min(select(best.value.eq(top), where.value, 2**31 - 1))
