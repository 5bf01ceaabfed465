"""gfx11 encodings and opcodes against llvm-objdump, instruction by instruction."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exosuit.silicon.amd.isa import encodings as e
from exosuit.silicon.amd.isa.opcodes import opcode, opcodes
from exosuit.silicon.amd.isa.operands import (
    FLOATS,
    INTEGERS,
    LITERAL,
    VECTOR,
    inline_float_bits,
    inline_integer,
)
from exosuit.softcard.amd.isa.decode import Instruction, decode_one

LLVM = "19"
SLOT_BYTES = 24
FILLER = 0xBF800000
ROOT = Path(__file__).parents[5]


def disassemble(made: list[bytes], folder: Path) -> list[str | None]:
    """LLVM's text of each instruction, None where it knows none."""
    for tool in ("llvm-mc", "llvm-objdump"):
        if shutil.which(f"{tool}-{LLVM}") is None:
            pytest.skip(f"{tool}-{LLVM} is not installed (apt package llvm-{LLVM})")
    lines = [".text"]
    for code in made:
        padded = code + FILLER.to_bytes(4, "little") * ((SLOT_BYTES - len(code)) // 4)
        words = [int.from_bytes(padded[k : k + 4], "little") for k in range(0, SLOT_BYTES, 4)]
        lines.append(".long " + ",".join(map(hex, words)))
    path = folder / "probe.o"
    subprocess.run(
        [f"llvm-mc-{LLVM}", "-triple=amdgcn-amd-amdhsa", "-mcpu=gfx1100", "-filetype=obj", "-o",
         path],
        input="\n".join([*lines, ""]), text=True, check=True,
    )  # fmt: skip
    shown = subprocess.run(
        [f"llvm-objdump-{LLVM}", "-d", "--mcpu=gfx1100", path], capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    found: dict[int, str] = {}
    for line in shown.splitlines():
        match = re.match(r"\s+(\S.*?)\s*// ([0-9A-F]+): ((?:[0-9A-F]{8} ?)+)", line)
        if match and int(match[2], 16) % SLOT_BYTES == 0 and match[1][0] in "sbdgfvt":
            found[int(match[2], 16) // SLOT_BYTES] = f"{len(match[3].split())} {match[1]}"
    return [found.get(k) for k in range(len(made))]


def decoded(code: bytes) -> Instruction:
    padded = code + FILLER.to_bytes(4, "little") * 6
    return decode_one(lambda at: int.from_bytes(padded[at : at + 4], "little"), 0)


def plain(name: str) -> str:
    return re.sub(r"(_e32|_e64|_dpp)+$", "", name)


# Every row -------------------------------------------------------------------------------------


def test_every_opcode_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    from make_gfx_opcodes import probes

    asked = [(table, op, bytes(word.encode())) for table, op, word in probes()]
    shown = disassemble([code for _, _, code in asked], tmp_path)
    tables = opcodes()
    seen: dict[str, set[int]] = {}
    for (table, op, code), text in zip(asked, shown, strict=True):
        if text is None:
            continue
        count, name = text.split()[:2]
        if table == "VOPDY":
            name = text.split("::")[1].split()[0]
        made = decoded(code)
        assert tables[table][op] == plain(name), (table, op)
        assert len(made.dwords) == int(count), (text, made)
        if table.startswith("VOPD"):
            half = made.duals[table == "VOPDY"]
            assert half.name == plain(name).replace("v_dual_", "v_")
        else:
            assert made.name == plain(name).replace("v_illegal", "")
        seen.setdefault(table, set()).add(op)
    assert {table: set(rows) for table, rows in tables.items()} == seen
    assert sum(len(rows) for rows in tables.values()) > 1300


@pytest.mark.parametrize("table", sorted(opcodes()))
def test_names_have_one_number(table):
    for number, name in opcodes()[table].items():
        assert opcode(table, name) == number


# Operands --------------------------------------------------------------------------------------

_SPECIAL = {106: "vcc_lo", 107: "vcc_hi", 124: "null", 125: "m0", 126: "exec_lo", 127: "exec_hi"}
_INLINE = {
    240: "0.5", 241: "-0.5", 242: "1.0", 243: "-1.0", 244: "2.0", 245: "-2.0", 246: "4.0",
    247: "-4.0", 248: "0.15915494",
}  # fmt: skip


def shown_operand(code: int, literal: int = 0) -> str:
    if code >= VECTOR:
        return f"v{code - VECTOR}"
    if code in INTEGERS:
        return str(inline_integer(code))
    if code in FLOATS:
        return _INLINE[code]
    if code == LITERAL:
        return hex(literal)
    return _SPECIAL.get(code, f"s{code}")


def texts(random_: random.Random) -> list[tuple[bytes, str]]:
    """Instructions with drawn operands, and how our decoder understands them."""
    scalars = [*range(100), 106, 107, 125, 126, *range(128, 209), *range(240, 249)]
    vectors = [*scalars, *range(256, 512), *range(256, 512)]

    def literal(code: int) -> bytes:
        return random_.getrandbits(32).to_bytes(4, "little") if code == LITERAL else b""

    made: list[tuple[bytes, str]] = []
    for _ in range(40):
        a, b = random_.choice([*scalars, LITERAL]), random_.choice(scalars)
        code = e.Sop2.make(
            op=opcode("SOP2", "s_add_u32"), sdst=random_.randrange(100), ssrc0=a, ssrc1=b
        ).encode() + literal(a)
        x = decoded(code)
        ends = ", ".join(shown_operand(s, x.literal) for s in x.sources)
        made.append((code, f"s_add_u32 {shown_operand(x.sdst)}, {ends}"))

        code = e.Vop2.make(
            op=opcode("VOP2", "v_add_f32"), vdst=random_.randrange(256),
            vsrc1=random_.randrange(256), src0=(a := random_.choice([*vectors, LITERAL])),
        ).encode() + literal(a)  # fmt: skip
        x = decoded(code)
        ends = ", ".join(shown_operand(s, x.literal) for s in x.sources)
        made.append((code, f"v_add_f32_e32 v{x.vdst}, {ends}"))

        sources = {f"src{k}": random_.randrange(256, 512) for k in range(3)}
        code = e.Vop3.make(
            op=opcode("VOP3", "v_fma_f32"), vdst=random_.randrange(256), neg=random_.randrange(8),
            abs=random_.randrange(8), clamp=random_.random() < 0.5, omod=random_.randrange(4),
            **sources,
        ).encode()  # fmt: skip
        x = decoded(code)
        shown: list[str] = []
        for k, source in enumerate(x.sources):
            text = shown_operand(source)
            text = f"|{text}|" if x.abs >> k & 1 else text
            shown.append(f"-{text}" if x.neg >> k & 1 else text)
        tail = (" clamp" if x.clamp else "") + ("", " mul:2", " mul:4", " div:2")[x.omod]
        made.append((code, f"v_fma_f32 v{x.vdst}, {', '.join(shown)}{tail}"))

        code = e.Vop3p.make(
            op=opcode("VOP3P", "v_pk_fma_f16"), vdst=random_.randrange(256),
            op_sel=random_.randrange(8), op_sel_hi=random_.randrange(8), neg=random_.randrange(8),
            neg_hi=random_.randrange(8), **sources,
        ).encode()  # fmt: skip
        x = decoded(code)
        text = f"v_pk_fma_f16 v{x.vdst}, {', '.join(shown_operand(s) for s in x.sources)}"
        for name, value, usual in (("op_sel", x.op_sel, 0), ("op_sel_hi", x.op_sel_hi, 7),
                                   ("neg_lo", x.neg, 0), ("neg_hi", x.neg_hi, 0)):  # fmt: skip
            if value != usual:
                text += f" {name}:[{','.join(str(value >> k & 1) for k in range(3))}]"
        made.append((code, text))

        code = e.Flat.make(
            op=opcode("GLOBAL", "global_load_b32"), seg=2, saddr=2 * random_.randrange(50),
            addr=random_.randrange(256), vdst=random_.randrange(256),
            offset=random_.getrandbits(13),
        ).encode()  # fmt: skip
        x = decoded(code)
        assert isinstance(x.word, e.Flat)
        base = x.word.saddr
        offset = f" offset:{x.literal}" if x.literal else ""
        made.append((
            code, f"global_load_b32 v{x.vdst}, v{x.word.addr}, s[{base}:{base + 1}]{offset}"
        ))  # fmt: skip

        code = e.Vopd.make(
            opx=opcode("VOPDX", "v_dual_mul_f32"), opy=opcode("VOPDY", "v_dual_add_f32"),
            srcx0=256 + 4 * random_.randrange(60), vsrcx1=4 * random_.randrange(60),
            srcy0=257 + 4 * random_.randrange(60), vsrcy1=4 * random_.randrange(60) + 1,
            vdstx=random_.randrange(256), vdsty=random_.randrange(128),
        ).encode()  # fmt: skip
        x = decoded(code)
        halves = [
            f"{'v_dual_' + h.name[2:]} v{h.vdst}, {', '.join(shown_operand(s) for s in h.sources)}"
            for h in x.duals
        ]
        made.append((code, " :: ".join(halves)))
    return made


def test_operands_are_where_llvm_sees_them(tmp_path):
    made = texts(random.Random(3))
    shown = disassemble([code for code, _ in made], tmp_path)
    for (code, ours), theirs in zip(made, shown, strict=True):
        assert theirs is not None, (code.hex(), ours)
        assert theirs.split(" ", 1)[1] == ours


def test_dpp_and_its_modifiers(tmp_path):
    dpp = e.Dpp16(vsrc0=5, control=0x164, bound_control=True, bank_mask=15, row_mask=15, neg0=1)
    first = e.Vop2.make(op=opcode("VOP2", "v_add_f32"), vdst=1, vsrc1=2, src0=250)
    eight = e.Dpp8(vsrc0=7, lanes=0o01234567)
    second = e.Vop1.make(op=opcode("VOP1", "v_mov_b32"), vdst=1, src0=233)
    shown = disassemble([first.encode() + dpp.encode(), second.encode() + eight.encode()], tmp_path)
    assert shown[0] is not None
    assert shown[0].endswith("-v5, v2 row_xmask:4 row_mask:0xf bank_mask:0xf bound_ctrl:1")
    assert shown[1] is not None
    assert "dpp8:[7,6,5,4,3,2,1,0]" in shown[1]
    made = decoded(second.encode() + eight.encode())
    assert made.sources == (VECTOR + 7,)
    assert made.end == 8


def test_inline_constants():
    assert [inline_integer(code) for code in (128, 192, 193, 208)] == [0, 64, -1, -16]
    assert inline_float_bits(242, 32) == 0x3F800000
    assert inline_float_bits(241, 16) == 0xB800
    assert inline_float_bits(248, 64) == 0x3FC45F306DC9C882


@pytest.mark.parametrize("dword", [0x00000000 | 0b111011 << 26, 0b111100 << 26, 0xFFFFFFFF])
def test_what_is_no_compute_instruction(dword):
    assert e.identify(dword) is None
    assert decoded(dword.to_bytes(4, "little")).name == ""
