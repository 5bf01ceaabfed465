"""How gfx11 instructions are laid out in their one or two dwords, and how each is recognised.

Every encoding is a `Word`: code is made with it and read with it. The dwords that may follow an
instruction (a literal, a DPP control) are described here too. Which number means which operation
is in `opcodes`, what a source code means in `operands`.
"""

from __future__ import annotations

from typing import ClassVar

from exosuit.datasheet import Word, bits, flag, split

_SOURCE = "AMD RDNA3 instruction set architecture guide, chapter 15"


class Encoding(Word):
    """One instruction format.

    TABLE    its opcodes' table in `opcodes`
    PATTERN  bits (high, low) of the first dword and the value that they have in this format
    """

    SOURCE = _SOURCE
    TABLE: ClassVar[str]
    PATTERN: ClassVar[tuple[int, int, int]]

    @classmethod
    def matches(cls, dword: int) -> bool:
        """Whether an instruction that begins with `dword` has this format."""
        high, low, value = cls.PATTERN
        return (dword >> low) & ((1 << (high - low + 1)) - 1) == value

    @classmethod
    def make(cls, **fields: int) -> Encoding:
        """The instruction with these fields, its pattern filled in."""
        _, low, value = cls.PATTERN
        return cls(value << low, **fields)


class Sop2(Encoding):
    TABLE, PATTERN = "SOP2", (31, 30, 0b10)
    op = bits(29, 23)
    sdst = bits(22, 16)
    ssrc1 = bits(15, 8)
    ssrc0 = bits(7, 0)


class Sopk(Encoding):
    TABLE, PATTERN = "SOPK", (31, 28, 0b1011)
    op = bits(27, 23)
    sdst = bits(22, 16)
    simm16 = bits(15, 0)


class Sop1(Encoding):
    TABLE, PATTERN = "SOP1", (31, 23, 0b101111101)
    sdst = bits(22, 16)
    op = bits(15, 8)
    ssrc0 = bits(7, 0)


class Sopc(Encoding):
    TABLE, PATTERN = "SOPC", (31, 23, 0b101111110)
    op = bits(22, 16)
    ssrc1 = bits(15, 8)
    ssrc0 = bits(7, 0)


class Sopp(Encoding):
    TABLE, PATTERN = "SOPP", (31, 23, 0b101111111)
    op = bits(22, 16)
    simm16 = bits(15, 0)


class Smem(Encoding):
    WIDTH = 64
    TABLE, PATTERN = "SMEM", (31, 26, 0b111101)
    op = bits(25, 18)
    glc = flag(14)
    dlc = flag(13)
    sdata = bits(12, 6)
    sbase = bits(5, 0, "pair of scalar registers")
    offset = bits(52, 32, "bytes, signed")
    soffset = bits(63, 57, "scalar register added to the address")


class Vop1(Encoding):
    TABLE, PATTERN = "VOP1", (31, 25, 0b0111111)
    vdst = bits(24, 17)
    op = bits(16, 9)
    src0 = bits(8, 0)


class Vopc(Encoding):
    TABLE, PATTERN = "VOPC", (31, 25, 0b0111110)
    op = bits(24, 17)
    vsrc1 = bits(16, 9)
    src0 = bits(8, 0)


class Vop2(Encoding):
    TABLE, PATTERN = "VOP2", (31, 31, 0)
    op = bits(30, 25)
    vdst = bits(24, 17)
    vsrc1 = bits(16, 9)
    src0 = bits(8, 0)


class Vop3(Encoding):
    """Also the long form of VOPC (opcodes from 0), VOP2 (from 256) and VOP1 (from 384)."""

    WIDTH = 64
    TABLE, PATTERN = "VOP3", (31, 26, 0b110101)
    op = bits(25, 16)
    clamp = flag(15)
    op_sel = bits(14, 11, "high halves of the sources, bit 3 of the destination")
    abs = bits(10, 8)
    vdst = bits(7, 0)
    src0 = bits(40, 32)
    src1 = bits(49, 41)
    src2 = bits(58, 50)
    omod = bits(60, 59)
    neg = bits(63, 61)


class Vop3Sd(Encoding):
    """VOP3 of operations with a scalar result beside the vector one: carries, div_scale."""

    WIDTH = 64
    TABLE, PATTERN = "VOP3", (31, 26, 0b110101)
    op = bits(25, 16)
    clamp = flag(15)
    sdst = bits(14, 8)
    vdst = bits(7, 0)
    src0 = bits(40, 32)
    src1 = bits(49, 41)
    src2 = bits(58, 50)
    omod = bits(60, 59)
    neg = bits(63, 61)


class Vop3p(Encoding):
    WIDTH = 64
    TABLE, PATTERN = "VOP3P", (31, 24, 0b11001100)
    op = bits(22, 16)
    clamp = flag(15)
    op_sel = bits(13, 11, "high halves for the low result")
    neg_hi = bits(10, 8)
    vdst = bits(7, 0)
    src0 = bits(40, 32)
    src1 = bits(49, 41)
    src2 = bits(58, 50)
    op_sel_hi = split((14, 14), (60, 59), doc="high halves for the high result")
    neg = bits(63, 61)


class Vopd(Encoding):
    """Two operations at once; both read before either writes.

    Y's destination has the bit that is not here: the inverse of X's lowest.
    """

    WIDTH = 64
    TABLE, PATTERN = "VOPD", (31, 26, 0b110010)
    opx = bits(25, 22)
    opy = bits(21, 17)
    vsrcx1 = bits(16, 9)
    srcx0 = bits(8, 0)
    srcy0 = bits(40, 32)
    vsrcy1 = bits(48, 41)
    vdsty = bits(55, 49, "without its lowest bit")
    vdstx = bits(63, 56)


class Ds(Encoding):
    WIDTH = 64
    TABLE, PATTERN = "DS", (31, 26, 0b110110)
    op = bits(25, 18)
    gds = flag(17)
    offset1 = bits(15, 8)
    offset0 = bits(7, 0)
    addr = bits(39, 32)
    data0 = bits(47, 40)
    data1 = bits(55, 48)
    vdst = bits(63, 56)


class Flat(Encoding):
    """FLAT, SCRATCH and GLOBAL; `seg` says which."""

    WIDTH = 64
    TABLE, PATTERN = "FLAT", (31, 26, 0b110111)
    op = bits(24, 18)
    seg = bits(17, 16, "0 flat, 1 scratch, 2 global")
    slc = flag(15)
    glc = flag(14)
    dlc = flag(13)
    offset = bits(12, 0, "bytes, signed")
    addr = bits(39, 32)
    data = bits(47, 40)
    saddr = bits(54, 48)
    sve = flag(55, "scratch: the address register takes part")
    vdst = bits(63, 56)


class Mubuf(Encoding):
    WIDTH = 64
    TABLE, PATTERN = "MUBUF", (31, 26, 0b111000)
    op = bits(25, 18)
    glc = flag(14)
    dlc = flag(13)
    slc = flag(12)
    offset = bits(11, 0)
    vaddr = bits(39, 32)
    vdata = bits(47, 40)
    srsrc = bits(52, 48)
    tfe = flag(53)
    offen = flag(54)
    idxen = flag(55)
    soffset = bits(63, 56)


ENCODINGS: tuple[type[Encoding], ...] = (
    Sopp, Sopc, Sop1, Sopk, Sop2, Vop1, Vopc, Vop2, Smem, Vop3, Vop3p, Vopd, Ds, Flat, Mubuf,
)  # fmt: skip
"""In the order in which a first dword is tried; what none of them takes is no compute code."""

SEGMENTS = ("FLAT", "SCRATCH", "GLOBAL")
"""Tables of the FLAT encoding, by `seg`."""


class Dpp16(Word):
    """The dword that follows an instruction whose first source is `operands.DPP16`."""

    SOURCE = _SOURCE
    vsrc0 = bits(7, 0)
    control = bits(16, 8)
    fetch_inactive = flag(18, "lanes that are off are read too")
    bound_control = flag(19, "a lane without a source reads 0, else it keeps its result")
    neg0 = flag(20)
    abs0 = flag(21)
    neg1 = flag(22)
    abs1 = flag(23)
    bank_mask = bits(27, 24, "of each row's four quads, those that write")
    row_mask = bits(31, 28, "of the rows of 16 lanes, those that write")


class Dpp8(Word):
    """The dword that follows an instruction whose first source is `operands.DPP8`."""

    SOURCE = _SOURCE
    vsrc0 = bits(7, 0)
    lanes = bits(31, 8, "for each lane of eight, the lane it reads; three bits each")


def identify(dword: int) -> type[Encoding] | None:
    """The format of an instruction that begins with `dword`."""
    return next((kind for kind in ENCODINGS if kind.matches(dword)), None)
