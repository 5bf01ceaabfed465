"""Which shape of matrix product suits how many tokens on which target.

A recording asks for a `Product` for a matrix and a number of tokens, prepares activations as it
says, and launches it. The choices, with their reasons, are all here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from exosuit.kernel import Kernel, Target
from exosuit.ops.activations import Prologue, arrange, quantise
from exosuit.ops.attention import splits_for
from exosuit.ops.formats import Format
from exosuit.ops.gpu.activations import arrange_gpu, quantise_gpu
from exosuit.ops.gpu.attention import WAVES
from exosuit.ops.gpu.matmul import matmul_experts_gpu, matmul_gpu
from exosuit.ops.gpu.matmul_float import (
    matmul_experts_float_gpu,
    matmul_float_gpu,
    padded_columns,
)
from exosuit.ops.gpu.matmul_tiles import WAVES as TILE_WAVES
from exosuit.ops.gpu.matmul_tiles import matmul_experts_tiles, matmul_tiles
from exosuit.ops.matmul import Tile, matmul, matmul_experts
from exosuit.ops.matmul_float import FloatFormat, matmul_experts_float, matmul_float
from exosuit.ops.packing import AnyFormat
from exosuit.ops.programs import Programs
from exosuit.program import Program
from exosuit.units import round_up

MOST_TILE = 16
"""Tokens of the largest tile of any target: outputs have room for whole tiles."""

# For one token at the AVX2 level, whose cores may be old or new. Blocks of 32 are asked for just
# ahead, as data that is read once: on Zen 3 20 GB/s where there are 15 without, on Zen 4 up to a
# tenth slower. Larger blocks are asked for whole and far ahead, into the second cache: near, or
# past the caches, costs Zen 4 a fifth (Q4_K) to more than a third (Q6_K), far gains 20 % (Q6_K,
# Q5_K) or nothing. With several tokens a block takes so long that the hardware loses track: asked
# for far ahead, Zen 4 multiplies 8 of them up to 1.9 times as fast (Q6_K by 8192 columns: 116
# billion a second and core, not 61), 64 of them by a twentieth to a seventh.
_FETCH_NEAR_BYTES = 2304
_FETCH_FAR_BYTES = 9216


@dataclass(frozen=True)
class Product:
    """A kernel for `tile.tokens` tokens at a time.

    interleave  tokens of a tile of the prepared activations
    spread      0 where a workgroup takes `tile.groups` panels and walks over all tiles; else a
                workgroup has one tile, and so many waves with `tile.groups` panels each
    """

    kernel: Kernel
    tile: Tile
    interleave: int
    spread: int = 0

    def groups(self, panels: int, tiles: int) -> int:
        """Workgroups of a launch."""
        if self.spread:
            return tiles * -(-panels // (self.tile.groups * self.spread))
        return panels // self.tile.groups


@dataclass(frozen=True)
class Prepared:
    """How activations are made ready: a program and what it writes, by name and bytes."""

    program: Program
    outputs: tuple[tuple[str, int], ...]


class Products(ABC):
    """The choices of one target. Use by one thread, as `programs`."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs

    @abstractmethod
    def product(self, tokens: int, format: AnyFormat, gated: bool) -> Product:
        """For so many tokens; `gated` where the epilogue wants two panels at a time."""

    @abstractmethod
    def expert_product(self, tile: int, format: AnyFormat, gated: bool) -> Product:
        """Where each tile has its own matrix."""

    @abstractmethod
    def expert_tile(self, tokens: int) -> int:
        """Rows of a tile of one expert, for a step of so many tokens."""

    @abstractmethod
    def prepared(
        self,
        columns: int,
        format: AnyFormat,
        interleave: int,
        lines: int,
        prologue: Prologue,
        choices: int,
    ) -> Prepared | None:
        """What turns f32[lines, columns] into a product's activations; None for nothing to do."""


class CpuProducts(Products):
    """What registers hold of a tile; how far ahead to ask for weights."""

    def product(self, tokens: int, format: AnyFormat, gated: bool) -> Product:
        size = self.expert_tile(tokens)
        kernel = matmul_float if isinstance(format, FloatFormat) else matmul
        return Product(kernel, self._tile(size, format, 2 if gated else 1), size)

    def expert_product(self, tile: int, format: AnyFormat, gated: bool) -> Product:
        is_float = isinstance(format, FloatFormat)
        kernel, groups = matmul_experts_float if is_float else matmul_experts, 2 if gated else 1
        shape = Tile(tile, groups) if is_float else self._tile(tile, format, groups)
        return Product(kernel, shape, tile)

    def expert_tile(self, tokens: int) -> int:
        """What registers hold, without much padding."""
        if tokens == 1:
            return 1
        return 4 if tokens <= 4 else 8

    def _tile(self, size: int, format: AnyFormat, groups: int) -> Tile:
        target = self.programs.target
        if isinstance(format, FloatFormat) and size == 1:
            return Tile(size, max(groups, format.turns))
        if isinstance(format, FloatFormat) or target.family != "x86":
            return Tile(size, groups)
        if target.has("avx512") and size == 1:
            return Tile(size, groups, format.fetch_ahead_bytes, keep=True)
        if format.has_sub_scales or size > 1:
            return Tile(size, groups, _FETCH_FAR_BYTES, keep=True)
        return Tile(size, groups, _FETCH_NEAR_BYTES)

    def prepared(
        self,
        columns: int,
        format: AnyFormat,
        interleave: int,
        lines: int,
        prologue: Prologue,
        choices: int,
    ) -> Prepared | None:
        padded = round_up(lines, 8)
        if isinstance(format, FloatFormat):
            if interleave == 1 and prologue.rms_epsilon is None and not choices:
                return None
            program = self.programs.get(
                arrange, columns=columns, stride=columns, tokens=interleave, prologue=prologue,
                choices=choices,
            )  # fmt: skip
            return Prepared(program, ((f"arranged {columns}", 4 * columns * padded),))
        program = self.programs.get(
            quantise, columns=columns, stride=columns, block=format.block, sub=format.sub,
            tokens=interleave, prologue=prologue, choices=choices, scaled_sums=format.scaled_sums,
        )  # fmt: skip
        sum_bytes = 4 if format.scaled_sums else 2
        return Prepared(program, _quantised(columns, format, padded, sum_bytes))


class GpuProducts(Products):
    """Few tokens share one pass over the weights, a lane for each row; many of them, of quantised
    weights, take the matrix units, and of floats turns.
    """

    def product(self, tokens: int, format: AnyFormat, gated: bool) -> Product:
        groups = 2 if gated else 1
        if isinstance(format, FloatFormat):
            size = min(_power_of_two(tokens), 8)
            return Product(matmul_float_gpu, Tile(size, groups), size)
        # Of more than 8 tokens the dots of two panels do not fit into the registers.
        if tokens > (8 if gated else MOST_TILE) and self._has_unit(format):
            # Registers hold the sums of 32 tokens for a panel, and of 16 for two.
            size = 32 if tokens % 32 == 0 and not gated else 16
            return Product(matmul_tiles, Tile(size, groups), 1, TILE_WAVES)
        size = min(_power_of_two(tokens), MOST_TILE)
        return Product(matmul_gpu, Tile(size, groups), size)

    def expert_product(self, tile: int, format: AnyFormat, gated: bool) -> Product:
        groups = 2 if gated else 1
        if isinstance(format, FloatFormat):
            return Product(matmul_experts_float_gpu, Tile(tile, groups), tile)
        if tile == MOST_TILE and self._has_unit(format):
            return Product(matmul_experts_tiles, Tile(tile, groups), 1, TILE_WAVES)
        return Product(matmul_experts_gpu, Tile(tile, groups), tile)

    def _has_unit(self, format: Format) -> bool:
        """Whether the matrix unit's sums stay within a sub-block; NVIDIA's have 32 elements."""
        return format.sub % (16 if self.programs.target.family == "amdgpu" else 32) == 0

    def expert_tile(self, tokens: int) -> int:
        """Of few tokens hardly two meet at an expert; of a prompt's a whole tile does."""
        if tokens == 1:
            return 1
        return 4 if tokens <= MOST_TILE else MOST_TILE

    def prepared(
        self,
        columns: int,
        format: AnyFormat,
        interleave: int,
        lines: int,
        prologue: Prologue,
        choices: int,
    ) -> Prepared | None:
        rows = round_up(lines, MOST_TILE)
        if isinstance(format, FloatFormat):
            padded = padded_columns(columns, format)
            as_it_is = interleave == 1 and padded == columns and not choices
            if as_it_is and prologue.rms_epsilon is None:
                return None
            program = self.programs.get(
                arrange_gpu, columns=columns, padded=padded, stride=columns, tokens=interleave,
                prologue=prologue, choices=choices,
            )  # fmt: skip
            return Prepared(program, ((f"arranged {padded}", 4 * padded * rows),))
        program = self.programs.get(
            quantise_gpu, columns=columns, stride=columns, block=format.block, sub=format.sub,
            tokens=interleave, prologue=prologue, choices=choices, float_sums=format.has_minimum,
        )  # fmt: skip
        return Prepared(program, _quantised(columns, format, rows, 4))


def _power_of_two(number: int) -> int:
    """The least that is not below."""
    return 1 << (number - 1).bit_length()


def _quantised(
    columns: int, format: Format, lines: int, sum_bytes: int
) -> tuple[tuple[str, int], ...]:
    """The three regions of quantised activations; formats that read them alike share them."""
    name = f"{columns} by {format.block} and {format.sub}"
    if sum_bytes == 4 and format.has_minimum:
        name += ", float sums"
    return (
        ("quants " + name, columns * lines),
        ("scales " + name, 4 * (columns // format.block) * lines),
        ("sums " + name, sum_bytes * (columns // format.sub) * lines),
    )


def products_for(programs: Programs) -> Products:
    return GpuProducts(programs) if programs.target.is_gpu else CpuProducts(programs)


def attention_tile(tokens: int, repeat: int, target: Target) -> int:
    """Tokens of an attention tile: rows that share each page, as many as caches or waves like.

    repeat  query heads for each kv head, rows of a token
    """
    if tokens == 1:
        return 1
    return max(1, min(tokens, (16 if target.is_gpu else 32) // repeat))


MOST_SPLITS = 16


def attention_splits(
    tokens: int, groups: int, pages: int, parallel_groups: int, target: Target
) -> int:
    """Among how many workgroups the pages of a tile are split.

    groups  workgroups without a split    pages  most pages of a sequence
    Only a decode step of one sequence has too few workgroups.
    """
    if tokens > 1:
        return 1
    if target.is_gpu:
        # Each workgroup deals pages to its waves as well; a wave without pages is of no use. Powers
        # of two are few, so that programs made ahead of time suit every card and every context.
        useful = max(1, min(parallel_groups // groups, -(-pages // WAVES)))
        return min(1 << (useful - 1).bit_length(), MOST_SPLITS)
    return splits_for(groups, 1, parallel_groups)
