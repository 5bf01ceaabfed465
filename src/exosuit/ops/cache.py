"""How keys and values lie in device memory: pages of 64 tokens, f16 or bytes with f16 scales.

A layer's cache is two arrays of pages. Keys are transposed, so that in a dot of one query with many
keys the lanes are tokens; values are not, so that in their weighted sum the lanes are dimensions:

    keys    [page, kv head, head_dim, 64]     key scales    [page, kv head, head_dim / group, 64]
    values  [page, kv head, 64, head_dim]     value scales  [page, kv head, 64, head_dim / group]

Position `p` of a sequence lies in row `p % 64` of page `page_table[slot, p // 64]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exosuit.errors import UnsupportedModel
from exosuit.kernel import (
    DType,
    Pointer,
    Value,
    absolute,
    constant,
    f16,
    f32,
    i8,
    i32,
    i64,
    maximum,
    minimum,
    rint,
    select,
)

PAGE = 64
"""Tokens in a page."""

LANES = 8
"""Elements of the vectors in which the cache is written and read."""

LARGEST_F16 = 65504.0


@dataclass(frozen=True)
class CacheFormat:
    """The cache of one layer.

    kind  "f16", or "q8": signed bytes, one f16 scale for each `group` dimensions of a token
    """

    kind: Literal["f16", "q8"]
    kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        if self.head_dim % LANES or not 0 < self.head_dim <= 256:
            raise UnsupportedModel(
                f"attention heads of {self.head_dim} dimensions",
                cause="exosuit's attention takes multiples of 8, up to 256",
                next="exosuit models",
                head_dim=self.head_dim,
            )

    @property
    def group(self) -> int:
        """Dimensions that share one scale."""
        return 32 if self.head_dim % 32 == 0 else self.head_dim

    @property
    def groups(self) -> int:
        return self.head_dim // self.group

    @property
    def page_bytes(self) -> int:
        """Of the keys of one page, and of its values."""
        return self.kv_heads * self.head_dim * PAGE * (2 if self.kind == "f16" else 1)

    @property
    def scale_page_bytes(self) -> int:
        """Of the key scales of one page, and of its value scales; 0 for f16."""
        return 0 if self.kind == "f16" else self.kv_heads * self.groups * PAGE * 2

    # In the kernel language ---------------------------------------------------------------

    def head(self, data: Pointer[DType], page: Value, kv_head: Value) -> Pointer[DType]:
        """The keys, or the values, of one head in one page: f16 or i8."""
        elements = self.head_dim * PAGE
        start = page.to(i64) * (self.kv_heads * elements) + kv_head.to(i64) * elements
        return data.view(f16 if self.kind == "f16" else i8).at(start)

    def head_scales(self, scales: Pointer[DType], page: Value, kv_head: Value) -> Pointer[DType]:
        elements = self.groups * PAGE
        return scales.at(page.to(i64) * (self.kv_heads * elements) + kv_head.to(i64) * elements)

    def write_key(
        self, head: Pointer[DType], scales: Pointer[DType], row: Value, key: list[Value]
    ) -> None:
        """One token's key, f32[8] each, into column `row` of the transposed page."""
        place = head.at(row)
        stored, group_scales = self._encode(key)
        for n, part in enumerate(stored):
            for lane in range(LANES):
                place.store(part[lane], (n * LANES + lane) * PAGE)
        for g, scale in enumerate(group_scales):
            scales.at(row).store(scale, g * PAGE)

    def write_value(
        self, head: Pointer[DType], scales: Pointer[DType], row: Value, value: list[Value]
    ) -> None:
        """One token's value, f32[8] each, into row `row` of the page."""
        place = head.at(row * self.head_dim)
        stored, group_scales = self._encode(value)
        for n, part in enumerate(stored):
            place.store(part, n * LANES)
        for g, scale in enumerate(group_scales):
            scales.at(row * self.groups).store(scale, g)

    def _encode(self, parts: list[Value]) -> tuple[list[Value], list[Value]]:
        """What is stored for f32[8] each, and the scales. Always finite, so that what a page held
        before can never turn a zero weight into a NaN.
        """
        if self.kind == "f16":
            return [_finite(part).to(f16) for part in parts], []
        stored: list[Value] = []
        scales: list[Value] = []
        size = self.group // LANES
        for first in range(0, len(parts), size):
            members = parts[first : first + size]
            peak = absolute(members[0])
            for part in members[1:]:
                peak = maximum(peak, absolute(part))
            largest = minimum(peak.reduce("max"), LARGEST_F16)
            scales.append((largest * (1 / 127)).to(f16))
            inverse = select(largest > 0.0, constant(f32, 127.0) / largest, 0.0)
            for part in members:
                scaled = minimum(maximum(rint(part * inverse), -127.0), 127.0)
                stored.append(scaled.to(i32).to(i8))
        return stored, scales

    def key_rows(
        self, head: Pointer[DType], scales: Pointer[DType], column: Value, first: Value, width: int
    ) -> list[list[Value]]:
        """Four dimensions from `first` on, of `8 * width` tokens from `column` on: f32[8] each."""
        place = head.at(column).at(first * PAGE)
        rows = [[place.load(j * PAGE + c * LANES, LANES) for c in range(width)] for j in range(4)]
        if self.kind == "f16":
            return [[x.to(f32) for x in row] for row in rows]
        line = scales.at(column).at(first // self.group * PAGE)
        factors = [line.load(c * LANES, LANES).to(f32) for c in range(width)]
        return [
            [x.to(i32).to(f32) * factor for x, factor in zip(row, factors, strict=True)]
            for row in rows
        ]

    def value_rows(
        self, head: Pointer[DType], scales: Pointer[DType], column: Value, first: Value, width: int
    ) -> list[list[Value]]:
        """Four tokens from `first` on, `8 * width` dimensions from `column` on: f32[8] each."""
        place = head.at(column).at(first * self.head_dim)
        rows: list[list[Value]] = []
        for j in range(4):
            row = [place.load(j * self.head_dim + c * LANES, LANES) for c in range(width)]
            if self.kind == "f16":
                rows.append([x.to(f32) for x in row])
                continue
            line = scales.at(first * self.groups)
            # `width` is a power of two and `column` a multiple of it, so that vectors which share
            # a group are known while compiling.
            group_of = [c * LANES // self.group for c in range(width)]
            start = column // self.group
            factors = {
                g: line.load(start + (j * self.groups + g)).to(f32).splat(LANES)
                for g in set(group_of)
            }
            rows.append(
                [x.to(i32).to(f32) * factors[g] for x, g in zip(row, group_of, strict=True)]
            )
        return rows

    # For the host -------------------------------------------------------------------------

    def decode_keys(self, keys: NDArray[Any], scales: NDArray[Any]) -> NDArray[np.float64]:
        """Raw pages as float64 [page, kv head, 64, head_dim]."""
        shape = (-1, self.kv_heads, self.head_dim, PAGE)
        if self.kind == "f16":
            return keys.view(np.float16).reshape(shape).astype(np.float64).swapaxes(2, 3)
        factors = scales.view(np.float16).reshape(-1, self.kv_heads, self.groups, PAGE)
        wide = np.repeat(factors.astype(np.float64), self.group, axis=2)
        return (keys.view(np.int8).reshape(shape) * wide).swapaxes(2, 3)

    def decode_values(self, values: NDArray[Any], scales: NDArray[Any]) -> NDArray[np.float64]:
        """Raw pages as float64 [page, kv head, 64, head_dim]."""
        shape = (-1, self.kv_heads, PAGE, self.head_dim)
        if self.kind == "f16":
            return values.view(np.float16).reshape(shape).astype(np.float64)
        factors = scales.view(np.float16).reshape(-1, self.kv_heads, PAGE, self.groups)
        wide = np.repeat(factors.astype(np.float64), self.group, axis=3)
        return values.view(np.int8).reshape(shape) * wide


def _finite(x: Value) -> Value:
    return minimum(maximum(x, -LARGEST_F16), LARGEST_F16)
