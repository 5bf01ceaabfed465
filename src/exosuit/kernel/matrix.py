"""Tiles of the matrix units: their shape, and which lane of the wave holds which elements.

`mma_tile(dtype)` gives the tile of the target. A kernel loads its operands and stores its result
through it and so needs to know neither chip's layout:

    tile = mma_tile(f16)
    c = tile.zeros()
    a, b = tile.load_a(left, pitch), tile.load_b(right, pitch)
    c = mma(a, b, c)
    for row, column, value in tile.elements(c): ...

A is m rows of k; B is n rows of k too (each column of the mathematical B is contiguous). Sources of
the layouts stand with each family's lowering. Checked in emulation only, not on hardware.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from exosuit.kernel.memory import Pointer
from exosuit.kernel.types import DType, DTypeClass
from exosuit.kernel.value import Value, constant, join


@dataclass(frozen=True)
class Piece:
    """`count` neighbouring elements, from `k` on, of one row of an operand."""

    row: Value
    k: Value
    count: int


@dataclass(frozen=True)
class MatrixTile(ABC):
    """One operation of a matrix unit: C (m x n, f32 or i32) += A (m x k) times B (k x n).

    lane  the number of this lane within its wave, i32
    """

    dtype: DTypeClass
    accumulator: DTypeClass
    m: int
    n: int
    k: int
    lane: Value

    @property
    def copies(self) -> int:
        """In how many lanes of the wave each element of A and of B stands."""
        return 1

    @abstractmethod
    def a_pieces(self) -> list[Piece]:
        """What this lane holds of A, in the order of its fragment."""

    @abstractmethod
    def b_pieces(self) -> list[Piece]:
        """The same of B; a piece's row is B's column."""

    @abstractmethod
    def c_places(self) -> list[tuple[Value, Value]]:
        """Row and column of each element of C that this lane holds."""

    def zeros(self) -> Value:
        """An accumulator to start from."""
        return constant(self.accumulator, 0, self.m * self.n // 32)

    def load_a(self, pointer: Pointer[DType], pitch: Value | int) -> Value:
        """The wave's fragment of the m x k matrix at `pointer`, `pitch` elements from row to row.

        Rows start at multiples of 16 bytes.
        """
        return self._load(self.a_pieces(), pointer, pitch)

    def load_b(self, pointer: Pointer[DType], pitch: Value | int) -> Value:
        """The wave's fragment of B, whose n columns of k lie `pitch` elements apart."""
        return self._load(self.b_pieces(), pointer, pitch)

    def elements(self, c: Value) -> Iterator[tuple[Value, Value, Value]]:
        """Row, column and value of each element of an accumulator that this lane holds."""
        for number, (row, column) in enumerate(self.c_places()):
            yield row, column, c[number]

    def _load(self, pieces: list[Piece], pointer: Pointer[DType], pitch: Value | int) -> Value:
        size = self.dtype.bits // 8
        return join(*(
            pointer.load(piece.row * pitch + piece.k, piece.count, min(16, piece.count * size))
            for piece in pieces
        ))  # fmt: skip
