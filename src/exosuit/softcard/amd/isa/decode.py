"""From bytes to instructions, and from instructions to basic blocks.

Code is followed from its entry along its branches, so what lies behind the end of a program (the
padding that LLVM adds, constants, another kernel) is never looked at. What cannot be decoded
becomes an instruction without a name, which is a fault only if it is reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from exosuit.silicon.amd.isa.encodings import (
    SEGMENTS,
    Dpp8,
    Dpp16,
    Ds,
    Encoding,
    Flat,
    Mubuf,
    Smem,
    Sop1,
    Sop2,
    Sopc,
    Sopk,
    Sopp,
    Vop1,
    Vop2,
    Vop3,
    Vop3p,
    Vop3Sd,
    Vopc,
    Vopd,
    identify,
)
from exosuit.silicon.amd.isa.opcodes import opcodes
from exosuit.silicon.amd.isa.operands import (
    DPP8,
    DPP8_FETCH_INACTIVE,
    DPP16,
    LITERAL,
    VCC,
    VECTOR,
)

Fetch = Callable[[int], int]
"""The dword at a byte offset from the entry."""

_WITH_SCALAR_RESULT = frozenset({
    "v_add_co_ci_u32", "v_sub_co_ci_u32", "v_subrev_co_ci_u32", "v_add_co_u32", "v_sub_co_u32",
    "v_subrev_co_u32", "v_div_scale_f32", "v_div_scale_f64", "v_mad_u64_u32", "v_mad_i64_i32",
})  # fmt: skip
_FROM_VECTOR, _TO_VECTOR = 384, 412
_SCALAR_JUMPS = frozenset({"s_setpc_b64", "s_swappc_b64", "s_rfe_b64", "s_call_b64"})
_ENDS = frozenset({"s_endpgm", "s_branch", "s_trap", "s_sethalt", ""}) | _SCALAR_JUMPS
_ILLEGAL = "v_illegal"  # how zeros read
_MOST_INSTRUCTIONS = 1 << 16
"""Longer code is taken for memory that holds none, and ends there."""
_PAUSES = frozenset({"s_barrier", "s_sleep"})


@dataclass(frozen=True, slots=True)
class Dual:
    """One half of a VOPD instruction."""

    name: str
    vdst: int
    sources: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its operands where every translation looks for them.

    address  bytes from the entry
    table    which table of opcodes its name is from
    sources  operand codes; a vector register counts from `operands.VECTOR`
    vdst     vector destination; sdst: scalar destination, also of compares
    neg, abs, op_sel, op_sel_hi, neg_hi  one bit per source
    dpp      what the dword after the instruction says, if the first source goes through DPP
    """

    address: int
    dwords: tuple[int, ...]
    table: str = ""
    name: str = ""
    word: Encoding | None = None
    sources: tuple[int, ...] = ()
    vdst: int = 0
    sdst: int = 0
    literal: int = 0
    neg: int = 0
    abs: int = 0
    op_sel: int = 0
    op_sel_hi: int = 0
    neg_hi: int = 0
    omod: int = 0
    clamp: bool = False
    dpp: Dpp16 | Dpp8 | None = None
    fetch_inactive: bool = False
    duals: tuple[Dual, ...] = ()

    @property
    def end(self) -> int:
        return self.address + 4 * len(self.dwords)

    @property
    def branch(self) -> int | None:
        """Where a branch instruction leads."""
        if self.table == "SOPP" and self.name.startswith(("s_branch", "s_cbranch")):
            return self.end + 4 * _signed(self.dwords[0] & 0xFFFF, 16)
        return None

    def __str__(self) -> str:
        shown = " ".join(f"{dword:08x}" for dword in self.dwords)
        return f"{self.name or 'unknown'} ({shown}) at +{self.address:#x}"


@dataclass(slots=True)
class Block:
    """Instructions of which only the last may branch.

    follows   the block that comes next if the last instruction does not branch; None at an end
    resumed   a wave may be put aside before this block and begin again with it
    """

    address: int
    instructions: list[Instruction] = field(default_factory=list[Instruction])
    follows: int | None = None
    resumed: bool = False


def decode(fetch: Fetch) -> dict[int, Block]:
    """The blocks reachable from offset 0, by address."""
    instructions: dict[int, Instruction] = {}
    leaders, resumed = {0}, {0}
    pending = [0]
    while pending:
        address = pending.pop()
        while address not in instructions:
            made = decode_one(fetch, address)
            if len(instructions) >= _MOST_INSTRUCTIONS:
                made = Instruction(address, made.dwords)
            instructions[address] = made
            if (target := made.branch) is not None:
                leaders |= {target, made.end}
                pending.append(target)
                if target <= address:
                    resumed.add(target)
            if made.name in _PAUSES:
                leaders.add(made.end)
                resumed.add(made.end)
            if made.name in _ENDS:
                break
            address = made.end
    blocks: dict[int, Block] = {}
    for leader in sorted(leaders & instructions.keys()):
        block = Block(leader, resumed=leader in resumed)
        address: int = leader
        while True:
            last = instructions[address]
            block.instructions.append(last)
            if last.name in _ENDS:
                break
            address = last.end
            if address in leaders:
                block.follows = address
                break
        blocks[leader] = block
    return blocks


def decode_one(fetch: Fetch, address: int) -> Instruction:
    """The instruction at `address`; one without a name if there is no such instruction."""
    first = fetch(address)
    kind = identify(first)
    if kind is None:
        return Instruction(address, (first,))
    dwords = [first]
    if kind.WIDTH == 64:
        dwords.append(fetch(address + 4))
    word = kind(sum(dword << (32 * k) for k, dword in enumerate(dwords)))
    reader = _Reader(fetch, address, dwords)
    return _READERS[kind](reader, word)


class _Reader:
    """Collects the dwords of one instruction: those of its encoding, then what follows them."""

    def __init__(self, fetch: Fetch, address: int, dwords: list[int]) -> None:
        self.fetch = fetch
        self.address = address
        self.dwords = dwords

    def more(self) -> int:
        self.dwords.append(self.fetch(self.address + 4 * len(self.dwords)))
        return self.dwords[-1]

    def literal(self, *sources: int) -> int:
        return self.more() if LITERAL in sources else 0

    def finish(self, table: str, op: int, word: Encoding, **fields: Any) -> Instruction:
        name = opcodes()[table].get(op, "")
        if name == _ILLEGAL:
            name = ""
        if table == "VOP3" and op == _TO_VECTOR:
            name = "v_mov_b16"  # LLVM 19 does not know this long form yet
        dwords = tuple(self.dwords)
        return Instruction(self.address, dwords, table, name, word, **fields)

    def vector(self, table: str, op: int, word: Encoding, **fields: Any) -> Instruction:
        """A vector instruction: its first source may be a DPP dword, any may be a literal."""
        sources: tuple[int, ...] = fields.pop("sources")
        if sources and sources[0] == DPP16:
            dpp = Dpp16(self.more())
            fields["neg"] = fields.get("neg", 0) | dpp.neg0 | dpp.neg1 << 1
            fields["abs"] = fields.get("abs", 0) | dpp.abs0 | dpp.abs1 << 1
            fields |= {"dpp": dpp, "fetch_inactive": dpp.fetch_inactive}
            sources = (VECTOR + dpp.vsrc0, *sources[1:])
        elif sources and sources[0] in (DPP8, DPP8_FETCH_INACTIVE):
            fetch_inactive = sources[0] == DPP8_FETCH_INACTIVE
            dpp = Dpp8(self.more())
            fields |= {"dpp": dpp, "fetch_inactive": fetch_inactive}
            sources = (VECTOR + dpp.vsrc0, *sources[1:])
        fields["literal"] = self.literal(*sources)
        return self.finish(table, op, word, sources=sources, **fields)


def _signed(value: int, width: int) -> int:
    return value - (1 << width) if value >> (width - 1) else value


def _sop2(r: _Reader, word: Sop2) -> Instruction:
    sources = (word.ssrc0, word.ssrc1)
    return r.finish(
        "SOP2", word.op, word, sources=sources, sdst=word.sdst, literal=r.literal(*sources)
    )


def _sop1(r: _Reader, word: Sop1) -> Instruction:
    literal = r.literal(word.ssrc0)
    return r.finish("SOP1", word.op, word, sources=(word.ssrc0,), sdst=word.sdst, literal=literal)


def _sopc(r: _Reader, word: Sopc) -> Instruction:
    sources = (word.ssrc0, word.ssrc1)
    return r.finish("SOPC", word.op, word, sources=sources, literal=r.literal(*sources))


def _sopk(r: _Reader, word: Sopk) -> Instruction:
    name = opcodes()["SOPK"].get(word.op, "")
    literal = r.more() if name == "s_setreg_imm32_b32" else _signed(word.simm16, 16)
    return r.finish("SOPK", word.op, word, sdst=word.sdst, literal=literal)


def _sopp(r: _Reader, word: Sopp) -> Instruction:
    return r.finish("SOPP", word.op, word, literal=word.simm16)


def _smem(r: _Reader, word: Smem) -> Instruction:
    return r.finish("SMEM", word.op, word, sdst=word.sdata, literal=_signed(word.offset, 21))


def _vop1(r: _Reader, word: Vop1) -> Instruction:
    return r.vector("VOP1", word.op, word, sources=(word.src0,), vdst=word.vdst, sdst=word.vdst)


def _vop2(r: _Reader, word: Vop2) -> Instruction:
    name = opcodes()["VOP2"].get(word.op, "")
    sources = (word.src0, VECTOR + word.vsrc1)
    if name.startswith("v_fmaak"):
        sources = (*sources, LITERAL)
    elif name.startswith("v_fmamk"):
        sources = (sources[0], LITERAL, sources[1])
    elif name.startswith(("v_cndmask", "v_add_co_ci", "v_sub_co_ci", "v_subrev_co_ci")):
        sources = (*sources, VCC)
    return r.vector("VOP2", word.op, word, sources=sources, vdst=word.vdst, sdst=VCC)


def _vopc(r: _Reader, word: Vopc) -> Instruction:
    return r.vector("VOPC", word.op, word, sources=(word.src0, VECTOR + word.vsrc1), sdst=VCC)


def _vop3(r: _Reader, word: Vop3) -> Instruction:
    sources = (word.src0, word.src1, word.src2)
    fields: dict[str, Any] = {
        "sources": sources, "vdst": word.vdst, "neg": word.neg, "omod": word.omod,
        "clamp": word.clamp,
    }  # fmt: skip
    name = opcodes()["VOP3"].get(word.op, "")
    if name in _WITH_SCALAR_RESULT:
        return r.vector("VOP3", word.op, word, sdst=Vop3Sd(word).sdst, **fields)
    return r.vector(
        "VOP3", word.op, word, sdst=word.vdst, abs=word.abs, op_sel=word.op_sel, **fields
    )


def _vop3p(r: _Reader, word: Vop3p) -> Instruction:
    return r.vector(
        "VOP3P", word.op, word, sources=(word.src0, word.src1, word.src2), vdst=word.vdst,
        neg=word.neg, neg_hi=word.neg_hi, op_sel=word.op_sel, op_sel_hi=word.op_sel_hi,
        clamp=word.clamp,
    )  # fmt: skip


def _vopd(r: _Reader, word: Vopd) -> Instruction:
    tables = opcodes()
    x = _dual(tables["VOPDX"].get(word.opx, ""), word.vdstx, word.srcx0, word.vsrcx1)
    vdsty = word.vdsty << 1 | (word.vdstx & 1 ^ 1)
    y = _dual(tables["VOPDY"].get(word.opy, ""), vdsty, word.srcy0, word.vsrcy1)
    literal = r.literal(*x.sources, *y.sources)
    name = f"{x.name} :: {y.name}" if x.name and y.name else ""
    dwords = tuple(r.dwords)
    return Instruction(r.address, dwords, "VOPD", name, word, literal=literal, duals=(x, y))


def _dual(name: str, vdst: int, src0: int, vsrc1: int) -> Dual:
    sources = (src0, VECTOR + vsrc1)
    if name.endswith("fmaak_f32"):
        sources = (*sources, LITERAL)
    elif name.endswith("fmamk_f32"):
        sources = (sources[0], LITERAL, sources[1])
    elif name.endswith("cndmask_b32"):
        sources = (*sources, VCC)
    elif name.endswith("mov_b32"):
        sources = (src0,)
    return Dual(name.replace("v_dual_", "v_"), vdst, sources)


def _ds(r: _Reader, word: Ds) -> Instruction:
    return r.finish("DS", word.op, word, vdst=word.vdst)


def _flat(r: _Reader, word: Flat) -> Instruction:
    if word.seg >= len(SEGMENTS):
        return Instruction(r.address, tuple(r.dwords))
    return r.finish(
        SEGMENTS[word.seg], word.op, word, vdst=word.vdst, literal=_signed(word.offset, 13)
    )


def _mubuf(r: _Reader, word: Mubuf) -> Instruction:
    return r.finish("MUBUF", word.op, word, vdst=word.vdata)


_READERS: dict[type[Encoding], Callable[[_Reader, Any], Instruction]] = {
    Sop2: _sop2, Sop1: _sop1, Sopc: _sopc, Sopk: _sopk, Sopp: _sopp, Smem: _smem, Vop1: _vop1,
    Vop2: _vop2, Vopc: _vopc, Vop3: _vop3, Vop3p: _vop3p, Vopd: _vopd, Ds: _ds, Flat: _flat,
    Mubuf: _mubuf,
}  # fmt: skip
