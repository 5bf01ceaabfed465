"""Machine code made by hand, for tests: one function per shape of instruction."""

from __future__ import annotations

from typing import Any

from exosuit.silicon.amd.isa import encodings as e
from exosuit.silicon.amd.isa.opcodes import opcode, opcodes
from exosuit.silicon.amd.isa.operands import LITERAL, NULL, VECTOR

V = VECTOR
END = e.Sopp.make(op=opcode("SOPP", "s_endpgm")).encode()
BARRIER = e.Sopp.make(op=opcode("SOPP", "s_barrier")).encode()


def sop1(name: str, sdst: int, source: int, literal: int | None = None) -> bytes:
    word = e.Sop1.make(op=opcode("SOP1", name), sdst=sdst, ssrc0=source)
    return word.encode() + _literal(literal)


def sop2(name: str, sdst: int, a: int, b: int, literal: int | None = None) -> bytes:
    word = e.Sop2.make(op=opcode("SOP2", name), sdst=sdst, ssrc0=a, ssrc1=b)
    return word.encode() + _literal(literal)


def sopc(name: str, a: int, b: int) -> bytes:
    return e.Sopc.make(op=opcode("SOPC", name), ssrc0=a, ssrc1=b).encode()


def sopk(name: str, sdst: int, value: int) -> bytes:
    return e.Sopk.make(op=opcode("SOPK", name), sdst=sdst, simm16=value & 0xFFFF).encode()


def sopp(name: str, value: int = 0) -> bytes:
    return e.Sopp.make(op=opcode("SOPP", name), simm16=value & 0xFFFF).encode()


def move(sdst: int, value: int) -> bytes:
    """A number into a scalar register."""
    return sop1("s_mov_b32", sdst, LITERAL, value & 0xFFFFFFFF)


def vop(table: str, name: str, vdst: int, sources: list[int], **fields: Any) -> bytes:
    """VOP1, VOP2, VOPC, VOP3 or VOP3P, sources as operand codes, `literal` where one is used."""
    literal = fields.pop("literal", None)
    dpp = fields.pop("dpp", None)
    op = opcode(table, name)
    if table == "VOP1":
        word: Any = e.Vop1.make(op=op, vdst=vdst, src0=sources[0])
    elif table in ("VOP2", "VOPC"):
        assert sources[1] >= V
        kind = e.Vop2 if table == "VOP2" else e.Vopc
        places = {"vdst": vdst} if table == "VOP2" else {}
        word = kind.make(op=op, src0=sources[0], vsrc1=sources[1] - V, **places)
    else:
        kind = e.Vop3p if table == "VOP3P" else e.Vop3Sd if "sdst" in fields else e.Vop3
        named = {f"src{k}": code for k, code in enumerate(sources)}
        word = kind.make(op=op, vdst=vdst, **named, **fields)
    return word.encode() + (b"" if dpp is None else dpp.encode()) + _literal(literal)


def load(vdst: int, address: int, base: int, size: str = "b32", offset: int = 0) -> bytes:
    """global_load from a pair of scalar registers plus a vector register."""
    return e.Flat.make(
        op=opcode("GLOBAL", f"global_load_{size}"), seg=2, saddr=base, addr=address, vdst=vdst,
        offset=offset & 0x1FFF,
    ).encode()  # fmt: skip


def store(data: int, address: int, base: int, size: str = "b32", offset: int = 0) -> bytes:
    return e.Flat.make(
        op=opcode("GLOBAL", f"global_store_{size}"), seg=2, saddr=base, addr=address, data=data,
        offset=offset & 0x1FFF,
    ).encode()  # fmt: skip


def atomic(name: str, vdst: int, address: int, base: int, data: int, glc: bool = True) -> bytes:
    return e.Flat.make(
        op=opcode("GLOBAL", f"global_atomic_{name}"), seg=2, saddr=base, addr=address, data=data,
        vdst=vdst, glc=glc,
    ).encode()  # fmt: skip


def ds(name: str, vdst: int = 0, addr: int = 0, data0: int = 0, data1: int = 0,
       offset0: int = 0, offset1: int = 0) -> bytes:  # fmt: skip
    return e.Ds.make(
        op=opcode("DS", name), vdst=vdst, addr=addr, data0=data0, data1=data1, offset0=offset0,
        offset1=offset1,
    ).encode()  # fmt: skip


def scratch(name: str, vdst: int = 0, data: int = 0, offset: int = 0, addr: int | None = None,
            saddr: int = NULL) -> bytes:  # fmt: skip
    return e.Flat.make(
        op=opcode("SCRATCH", f"scratch_{name}"), seg=1, saddr=saddr, addr=addr or 0, data=data,
        vdst=vdst, sve=addr is not None, offset=offset & 0x1FFF,
    ).encode()  # fmt: skip


def scalar_load(count: int, sdst: int, base: int, offset: int = 0) -> bytes:
    return e.Smem.make(
        op=opcode("SMEM", f"s_load_b{32 * count}"), sdata=sdst, sbase=base // 2,
        offset=offset & 0x1FFFFF, soffset=NULL,
    ).encode()  # fmt: skip


def tables_with(name: str) -> list[str]:
    """The vector encodings that have an operation."""
    return [
        table
        for table in ("VOP1", "VOP2", "VOPC", "VOP3", "VOP3P")
        if name in opcodes()[table].values()
    ]


def _literal(value: int | None) -> bytes:
    return b"" if value is None else (value & 0xFFFFFFFF).to_bytes(4, "little")
