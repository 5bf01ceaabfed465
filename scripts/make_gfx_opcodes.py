"""Make `src/exosuit/silicon/amd/isa/opcodes_gfx11.toml` by asking LLVM's disassembler.

    python scripts/make_gfx_opcodes.py [--llvm 19]

For every number of every opcode field an instruction is made from `encodings` with harmless
operands, assembled as data, disassembled by llvm-objdump, and the mnemonic read back. Formats whose
instructions differ in their operands are tried with several fills. Needs llvm-mc and llvm-objdump.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from exosuit.silicon.amd.isa import encodings
from exosuit.silicon.amd.isa.encodings import (
    ENCODINGS,
    SEGMENTS,
    Ds,
    Encoding,
    Flat,
    Mubuf,
    Smem,
    Vop3,
    Vop3p,
    Vopd,
)
from exosuit.silicon.amd.isa.operands import NULL, VECTOR

TABLE = Path(__file__).parent.parent / "src/exosuit/silicon/amd/isa/opcodes_gfx11.toml"
CHIP = "gfx1100"
SLOT_BYTES = 24
FILLER = 0xBF800000  # s_nop
V = VECTOR

Probe = tuple[str, int, Encoding]


def probes() -> Iterator[Probe]:
    """One instruction, or several that differ in their operands, for each possible opcode."""
    for kind in ENCODINGS:
        if kind in (Vopd, Flat, encodings.Sopp):
            continue
        for op in range(kind.FIELDS["op"].maximum + 1):
            for fields in _fills(kind):
                made = kind.make(op=op, **fields)
                if encodings.identify(made & 0xFFFFFFFF) is kind:
                    yield kind.TABLE, op, made
    for op in range(128):
        yield "SOPP", op, encodings.Sopp.make(op=op)
    for seg, table in enumerate(SEGMENTS):
        for op in range(128):
            for saddr, addr in ((NULL, 2), (NULL, 0), (4, 2)):
                for data, vdst in ((8, 16), (8, 0), (0, 16), (0, 0)):
                    yield (
                        table,
                        op,
                        Flat.make(op=op, seg=seg, saddr=saddr, addr=addr, data=data, vdst=vdst),
                    )
    pair = {"srcx0": V, "vsrcx1": 1, "srcy0": V + 2, "vsrcy1": 3, "vdstx": 4, "vdsty": 2}
    for without in ({}, {"vsrcx1": 0}, {"vsrcy1": 0}, {"vsrcx1": 0, "vsrcy1": 0}):
        for op in range(16):
            yield "VOPDX", op, Vopd.make(opx=op, opy=8, **(pair | without))
        for op in range(32):
            yield "VOPDY", op, Vopd.make(opx=8, opy=op, **(pair | without))


def _fills(kind: type[Encoding]) -> list[dict[str, int]]:
    if kind is Smem:
        return [{"sdata": 4, "sbase": 1, "soffset": NULL}, {"sbase": 1, "soffset": NULL}, {}]
    if kind is Ds:
        registers = ({"vdst": 4}, {"data0": 8}, {"data1": 16}, {"addr": 1})
        return [_picked(registers, chosen) for chosen in (15, 9, 10, 11, 14, 8, 1, 0)]
    if kind is Mubuf:
        return [{"vdata": 4, "srsrc": 2, "soffset": NULL}, {}]
    if kind is Vop3:
        return [
            {"vdst": 4, "src0": V, "src1": V + 6, "src2": V + 8},
            {"vdst": 4, "src0": V, "src1": V + 6},
            {"vdst": 4, "src0": V},
            {"vdst": 4, "src0": V, "src1": 6},
            {"vdst": 4, "src0": V, "src1": 6, "src2": 8},
            {},
        ]
    if kind is Vop3p:
        two = {"vdst": 8, "src0": V + 16, "src1": V + 32}
        return [two | {"src2": V + 40, "op_sel_hi": 7}, two | {"op_sel_hi": 3}]
    fields = {"sdst": 4, "ssrc0": 2, "ssrc1": 6, "vdst": 4, "src0": V, "vsrc1": 1, "simm16": 1}
    some = {name: value for name, value in fields.items() if name in kind.FIELDS}
    return [some, {}, {"ssrc0": 2} if "ssrc0" in kind.FIELDS else {}]


def _picked(registers: tuple[dict[str, int], ...], chosen: int) -> dict[str, int]:
    return {
        name: value
        for k, register in enumerate(registers)
        if chosen >> k & 1
        for name, value in register.items()
    }


def disassemble(made: list[Encoding], llvm: str) -> dict[int, str]:
    """The text of each instruction that LLVM knows, by its index."""
    lines = [".text"]
    for word in made:
        dwords = [word >> shift & 0xFFFFFFFF for shift in range(0, word.WIDTH, 32)]
        dwords += [FILLER] * (SLOT_BYTES // 4 - len(dwords))
        lines.append(".long " + ",".join(map(hex, dwords)))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/probe.o"
        subprocess.run(
            [f"llvm-mc-{llvm}", "-triple=amdgcn-amd-amdhsa", f"-mcpu={CHIP}", "-filetype=obj",
             "-o", path],
            input="\n".join(lines) + "\n", text=True, check=True,
        )  # fmt: skip
        shown = subprocess.run(
            [f"llvm-objdump-{llvm}", "-d", f"--mcpu={CHIP}", path],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    found: dict[int, str] = {}
    for line in shown.splitlines():
        match = re.match(r"\s+(\S.*?)\s*// ([0-9A-F]+):", line)
        if match and int(match[2], 16) % SLOT_BYTES == 0 and match[1][0] in "sbdgfvt":
            found[int(match[2], 16) // SLOT_BYTES] = match[1]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llvm", default="19", help="suffix of the tools' names")
    llvm = parser.parse_args().llvm
    asked = list(probes())
    shown = disassemble([word for _, _, word in asked], llvm)
    tables: dict[str, dict[int, str]] = {}
    for index, (table, op, _) in enumerate(asked):
        if (text := shown.get(index)) is None:
            continue
        if table == "VOPDY":
            text = text.split("::")[1].strip()
        name = re.sub(r"(_e32|_e64|_dpp)+$", "", text.split()[0])
        tables.setdefault(table, {}).setdefault(op, name)
    version = subprocess.run(
        [f"llvm-objdump-{llvm}", "--version"], capture_output=True, text=True, check=True
    ).stdout
    release = re.search(r"LLVM version (\S+)", version)
    out = [
        f"# The opcodes of {CHIP}, by encoding. Generated by scripts/make_gfx_opcodes.py",
        f"# from the answers of llvm-objdump {release[1] if release else llvm}; do not edit.",
    ]
    for table, rows in tables.items():
        out.append(f"\n[{table}]")
        out += [f'{op} = "{rows[op]}"' for op in sorted(rows)]
    TABLE.write_text("\n".join(out) + "\n", encoding="utf-8")
    print({table: len(rows) for table, rows in tables.items()})


if __name__ == "__main__":
    main()
