"""The storage types of quantised weights, and how a kernel reads them.

Every storage type is packed the same way (see `ops.blocks`): several rows of the matrix side by
side, and within a block of the type, each unit of a field (a 4-byte group of quants, a 2-byte
scale, a 1-byte sub-scale) where the rows' lanes find it. So a value holds four consecutive elements
of each of its rows, a dot with four broadcast activations leaves one row in each lane, and nothing
is ever summed across lanes. Packing permutes the file's bytes (for Q5_0 and Q5_1, its bits) and
adds none.

A `Format` says in the kernel language what is particular to a type: where its fields are, how its
quants become bytes, what scales them. The matrix kernels are composed with it, for eight rows at a
time on a CPU and for a row per lane on a GPU.
Block layouts: ggml-common.h and ggml-quants.c of llama.cpp (facts); the tests compare with ggml.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from exosuit.kernel import (
    DType,
    Pointer,
    Value,
    constant,
    f32,
    i8,
    join,
    lookup16,
    select,
    u8,
    u32,
)
from exosuit.ops.blocks import ROWS, Block, Field, Fields, PackedBlock


@dataclass(frozen=True)
class Format:
    """A quantised storage type, as kernels see it. Instances are the values in `FORMATS`.

    block        elements of a row in one block
    block_bytes  bytes of that block in the file
    fields       its fields, in the order in which they are packed
    chunk        elements that one turn of a kernel's loop takes; divides `block`
    sub          elements that share one integer scale; `block` where there is none
    bound        no quant exceeds this in magnitude
    offset       subtract this from a quant (it is stored unsigned) to get its value
    signed       quants are signed bytes and `offset` is 0
    """

    name: str
    block: int
    block_bytes: int
    fields: Fields
    chunk: int
    sub: int
    bound: int
    offset: int = 0
    signed: bool = False

    @property
    def activation_block(self) -> int:
        """Elements of an activation that share one scale."""
        return self.block

    @property
    def packed_bytes(self) -> int:
        """Bytes of one block of eight rows."""
        return self.block_bytes * ROWS

    @property
    def has_sub_scales(self) -> bool:
        return self.sub < self.block

    @property
    def has_minimum(self) -> bool:
        """Whether each (sub-)block also has a constant that is added or subtracted."""
        return False

    @property
    def scaled_sums(self) -> bool:
        """Whether a CPU's kernel takes sums of activations as f32, times their scale.

        A minimum of the whole block then costs a multiplication and an addition for each token.
        """
        return self.has_minimum and not self.has_sub_scales

    @property
    def fetch_ahead_bytes(self) -> int:
        """How far ahead to prefetch where the hardware alone loses track; 0 where it does not."""
        return 0

    def __repr__(self) -> str:
        return self.name

    def packed_block(self, pointer: Pointer[DType]) -> PackedBlock:
        """Eight rows of one block, as CPUs pack them."""
        return PackedBlock(pointer, self.fields)

    # In the kernel language ---------------------------------------------------------------

    # Rows are those of the block: eight, or one.

    def factor(self, block: Block) -> Value:
        """f32[rows]: what a row's integer sums are multiplied with."""
        return block.half(0)

    def minimum_factor(self, block: Block) -> Value:
        """f32[rows]: what the integer (or unit) minimum is multiplied with."""
        return block.half(1)

    def sub_scales(self, block: Block) -> Iterator[Value]:
        """i8[4 * rows] each: the integer scales of four sub-blocks, the rows of each in turn."""
        raise NotImplementedError(self.name)

    def sub_minima(self, block: Block) -> Iterator[Value]:
        """u8[4 * rows] each: the integer minima of four sub-blocks likewise."""
        raise NotImplementedError(self.name)

    def quants(self, block: Block, chunk: Value | int) -> Iterator[tuple[int, Value]]:
        """Groups of four elements of a chunk: (which group, their quants for all rows).

        Groups of one sub-block come together, sub-blocks in order; bytes are u8, or i8 if signed.
        """
        raise NotImplementedError(self.name)


def _nibble(x: Value, high: int) -> Value:
    return (x >> 4) if high else (x & 15)


# Blocks of 32 with one scale ------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Nibbles(Format):
    """4-bit quants; the low nibbles are elements 0 to 15, the high ones 16 to 31."""

    minimum: bool = False
    high_bits: bool = False
    table: tuple[int, ...] = ()

    @property
    def has_minimum(self) -> bool:
        return self.minimum

    def quants(self, block: Block, chunk: Value | int) -> Iterator[tuple[int, Value]]:
        quants = len(self.fields) - 1
        bits = block.word(quants - 1, 0) if self.high_bits else None
        for high in (0, 1):
            for k in range(4):
                value = _nibble(block.word(quants, k), high)
                group = 4 * high + k
                if bits is not None:
                    # Bit `group` of each byte is the fifth bit; it belongs at bit 4.
                    shifted = bits << (4 - group) if group < 4 else bits >> (group - 4)
                    value = value | (shifted & 16)
                if self.table:
                    looked_up = lookup16(list(self.table), value)
                    value = looked_up if self.signed else looked_up.view(u8)
                yield group, value


@dataclass(frozen=True, repr=False)
class MicroscalingFloat4(Nibbles):
    """MXFP4: 4-bit floats by table, in halves; the scale is a power of two, its exponent a byte."""

    def factor(self, block: Block) -> Value:
        exponent = block.byte(0).to(u32)
        # 2**(e - 128), that is half of 2**(e - 127) because the table holds doubled values; for
        # e of 0 and 1 the result is a denormal of f32, whose bits are written out.
        normal = (exponent - 1) << 23
        denormal = constant(u32, 0x00200000, block.rows) << exponent
        return select(exponent < 2, denormal, normal).view(f32)


@dataclass(frozen=True, repr=False)
class Bytes(Format):
    """Q8_0: signed bytes."""

    def quants(self, block: Block, chunk: Value | int) -> Iterator[tuple[int, Value]]:
        for group in range(8):
            yield group, block.word(1, group).view(i8)


# Blocks of 256 with integer scales of sub-blocks ----------------------------------------------


@dataclass(frozen=True, repr=False)
class KNibbles(Format):
    """Q4_K and Q5_K: sub-blocks of 32; 6-bit scales and minima share twelve bytes."""

    high_bits: bool = False

    @property
    def has_minimum(self) -> bool:
        return True

    def sub_scales(self, block: Block) -> Iterator[Value]:
        first, _, rest = self._scale_bytes(block)
        yield (first & 63).view(i8)
        yield ((rest & 15) | ((first >> 6) << 4)).view(i8)

    def sub_minima(self, block: Block) -> Iterator[Value]:
        _, first, rest = self._scale_bytes(block)
        yield first & 63
        yield (rest >> 4) | ((first >> 6) << 4)

    def _scale_bytes(self, block: Block) -> tuple[Value, Value, Value]:
        return block.four(2, 0), block.four(2, 1), block.four(2, 2)

    def quants(self, block: Block, chunk: Value | int) -> Iterator[tuple[int, Value]]:
        quants, field = block.skip(chunk * 8), len(self.fields) - 1
        for high in (0, 1):
            for k in range(8):
                value = _nibble(quants.word(field, k), high)
                if self.high_bits:
                    bits = block.word(3, k).view(u32)
                    value = value | (((bits >> (chunk * 2 + high)).view(u8) & 1) << 4)
                yield 8 * high + k, value


@dataclass(frozen=True, repr=False)
class Q6K(Format):
    """Q6_K: sub-blocks of 16 with signed 8-bit scales; 4 low and 2 high bits apart."""

    @property
    def fetch_ahead_bytes(self) -> int:
        # Measured on Zen 4, one thread: 21 GB/s without, 29 with; nearer is worse than none.
        return 9216

    def sub_scales(self, block: Block) -> Iterator[Value]:
        for four in range(4):
            yield block.four(1, four).view(i8)

    def quants(self, block: Block, chunk: Value | int) -> Iterator[tuple[int, Value]]:
        # Low and high bits of a half lie together: memory is then read in one direction.
        half = block.skip(chunk * 24)
        for part in range(4):
            for k in range(8):
                value = _nibble(half.word(2, k + 8 * (part & 1)), part >> 1)
                bits = half.word(3, k)
                shifted = bits << (4 - 2 * part) if part < 2 else bits >> (2 * part - 4)
                yield 8 * part + k, value | (shifted & 0x30)


@dataclass(frozen=True, repr=False)
class Q2K(Format):
    """Q2_K: sub-blocks of 16 with a 4-bit scale and a 4-bit minimum in one byte."""

    @property
    def has_minimum(self) -> bool:
        return True

    def sub_scales(self, block: Block) -> Iterator[Value]:
        for four in range(4):
            yield (block.four(2, four) & 15).view(i8)

    def sub_minima(self, block: Block) -> Iterator[Value]:
        for four in range(4):
            yield block.four(2, four) >> 4

    def quants(self, block: Block, chunk: Value | int) -> Iterator[tuple[int, Value]]:
        quants = block.skip(chunk * 8)
        for part in range(4):
            for k in range(8):
                yield 8 * part + k, (quants.word(3, k) >> (2 * part)) & 3


@dataclass(frozen=True, repr=False)
class Q3K(Format):
    """Q3_K: sub-blocks of 16 with 6-bit signed scales; the third bit of a quant lies apart."""

    def sub_scales(self, block: Block) -> Iterator[Value]:
        high = block.four(1, 2)
        for four in range(4):
            low = _nibble(block.four(1, four & 1), four >> 1)
            yield ((low | (((high >> (2 * four)) & 3) << 4)) - 32).view(i8)

    def quants(self, block: Block, chunk: Value | int) -> Iterator[tuple[int, Value]]:
        quants = block.skip(chunk * 8)
        for part in range(4):
            for k in range(8):
                value = (quants.word(3, k) >> (2 * part)) & 3
                bits = block.word(2, k).view(u32)
                third = (bits >> (chunk * 4 + part)).view(u8) & 1
                yield 8 * part + k, value | (third << 2)


@dataclass(frozen=True, repr=False)
class Iq4Xs(Format):
    """IQ4_XS: quants by table, sub-blocks of 32 with 6-bit signed scales in two places."""

    table: tuple[int, ...] = ()

    def sub_scales(self, block: Block) -> Iterator[Value]:
        for four in (0, 1):
            scales: list[Value] = []
            for sub in range(4 * four, 4 * four + 4):
                nibble = _nibble(block.byte(2, sub // 2), sub % 2)
                two = (block.byte(1, four) >> (2 * (sub % 4))) & 3
                scales.append((nibble | (two << 4)) - 32)
            yield join(*scales).view(i8)

    def quants(self, block: Block, chunk: Value | int) -> Iterator[tuple[int, Value]]:
        quants = block.skip(chunk * 4)
        for high in (0, 1):
            for k in range(4):
                index = _nibble(quants.word(3, k), high)
                yield 4 * high + k, lookup16(list(self.table), index)


_IQ4_TABLE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# Doubled, so that halves are whole; and shifted by 12, so that bytes are unsigned.
_MXFP4_TABLE = tuple(12 + v for v in (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12))

# fmt: off
_D = Field(0, 2, 2)
FORMATS: dict[str, Format] = {f.name: f for f in (
    Nibbles("Q4_0", 32, 18, (_D, Field(2, 16, 4)), 32, 32, bound=15, offset=8),
    Nibbles("Q4_1", 32, 20, (_D, Field(2, 2, 2), Field(4, 16, 4)), 32, 32, bound=15,
            minimum=True),
    Nibbles("Q5_0", 32, 22, (_D, Field(2, 4, 4, spread=True), Field(6, 16, 4)), 32, 32, bound=31,
            offset=16, high_bits=True),
    Nibbles("Q5_1", 32, 24, (_D, Field(2, 2, 2), Field(4, 4, 4, spread=True), Field(8, 16, 4)),
            32, 32, bound=31, minimum=True, high_bits=True),
    Bytes("Q8_0", 32, 34, (_D, Field(2, 32, 4)), 32, 32, bound=128, signed=True),
    Nibbles("IQ4_NL", 32, 18, (_D, Field(2, 16, 4)), 32, 32, bound=127, signed=True,
            table=_IQ4_TABLE),
    MicroscalingFloat4("MXFP4", 32, 17, (Field(0, 1, 1), Field(1, 16, 4)), 32, 32, bound=24,
                       offset=12, table=_MXFP4_TABLE),
    Q2K("Q2_K", 256, 84, (Field(80, 2, 2), Field(82, 2, 2), Field(0, 16, 1), Field(16, 64, 4)),
        128, 16, bound=3),
    Q3K("Q3_K", 256, 110, (Field(108, 2, 2), Field(96, 12, 1), Field(0, 32, 4), Field(32, 64, 4)),
        128, 16, bound=7, offset=4),
    KNibbles("Q4_K", 256, 144, (_D, Field(2, 2, 2), Field(4, 12, 1), Field(16, 128, 4)),
             64, 32, bound=15),
    KNibbles("Q5_K", 256, 176,
             (_D, Field(2, 2, 2), Field(4, 12, 1), Field(16, 32, 4), Field(48, 128, 4)),
             64, 32, bound=31, high_bits=True),
    Q6K("Q6_K", 256, 210, (Field(208, 2, 2), Field(192, 16, 1), Field(0, 64, 4),
                           Field(128, 32, 4), Field(64, 64, 4), Field(160, 32, 4)),
        128, 16, bound=63, offset=32),
    Iq4Xs("IQ4_XS", 256, 136, (_D, Field(2, 2, 1), Field(4, 4, 1), Field(8, 128, 4)),
          32, 32, bound=127, signed=True, table=_IQ4_TABLE),
)}
# fmt: on
"""The storage types that run as they are stored, by ggml's name."""
