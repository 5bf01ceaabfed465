"""Small products of matrices by a warp (mma.sync), and loads of their fragments (ldmatrix).

With g = lane / 4 and t = lane % 4, registers hold of A (16 rows) rows g and g + 8, of B (8
columns) column g, of C rows g and g + 8 and columns 2t and 2t + 1; along k each register holds
neighbours that begin at t times its length, first of the lower and then of the upper half (PTX ISA
9.0, 9.7.14). Products are added one after the other in f32; a card adds several at once, cut off
at its own width. A product is a function of the module, called for each: as it takes hundreds of
instructions, programs of many would take LLVM minutes.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.softcard.nvidia.ptx.cross import together
from exosuit.softcard.nvidia.ptx.memory import fetch
from exosuit.softcard.nvidia.ptx.parse import Instruction
from exosuit.softcard.nvidia.ptx.state import WARP
from exosuit.softcard.nvidia.ptx.types import Type, type_of, unsupported
from exosuit.softcard.nvidia.ptx.warp import INTEGER, Warp, vector
from exosuit.softcard.translation.ir import Function, Lanes

_REGISTER = 4 * WARP
"""Bytes of a register of 32 bits in all lanes."""
_SHAPES = {("m16n8k16", 16), ("m16n8k8", 16), ("m16n8k32", 8), ("m16n8k16", 8)}


def _mma(warp: Warp, made: Instruction) -> None:
    to, *sources = (vector(text) for text in made.operands)
    d_type, a_type, b_type, c_type = (type_of(part) for part in made.parts[-4:])
    shape = next(part for part in made.parts if part[:1] == "m" and part[1:2].isdigit())
    known = (shape, a_type.bits) in _SHAPES and a_type.bits == b_type.bits
    if not known or d_type.bits != 32 or c_type != d_type or made.has("satfinite"):
        raise unsupported(warp)
    together(warp, "-1")
    name = f"mma_{shape}_{'_'.join(made.parts[-4:])}"
    if name not in warp.used:
        warp.used[name] = _product(warp, name, [len(x) for x in sources], made)
    places = [warp.scratch() for _ in sources]
    for place, names in zip(places, sources, strict=True):
        for k, register in enumerate(names):
            warp.ir.store(warp.integer(register, 32), warp.ir.address(place, _REGISTER * k), 64)
    warp.ir.emit(f"call void @{name}({', '.join(f'ptr {place}' for place in places)})")
    for k, register in enumerate(to):
        place = warp.ir.address(places[2], _REGISTER * k)
        warp.write(register, warp.ir.load("i32", WARP, place, 64))


def _product(warp: Warp, name: str, counts: list[int], made: Instruction) -> str:
    """`name(a, b, c)`: registers of all lanes one after the other; those of C get the result."""
    d_type, a_type, b_type, _ = (type_of(part) for part in made.parts[-4:])
    ir = Function()
    ir.lines.append(f"define internal void @{name}(ptr %a, ptr %b, ptr %c) nounwind {{")
    a, b, c = (
        [ir.load("i32", WARP, ir.address(base, _REGISTER * k), 64) for k in range(count)]
        for base, count in zip(("%a", "%b", "%c"), counts, strict=True)
    )
    rows_of, columns_of = [_elements(x, a_type) for x in a], [_elements(x, b_type) for x in b]
    total = [x.view("float") for x in c] if d_type.is_float else c
    length = len(rows_of[0])  # elements of a register
    for half in range(len(b)):
        for k in range(4 * length):
            lane, element = k // length, k % length
            rows = [
                rows_of[2 * half + upper][element].shuffle(
                    [4 * (own // 4) + lane for own in range(WARP)]
                )
                for upper in (0, 1)
            ]
            columns = [
                columns_of[half][element].shuffle(
                    [4 * (2 * (own % 4) + odd) + lane for own in range(WARP)]
                )
                for odd in (0, 1)
            ]
            for z in range(4):
                row, column = rows[z // 2], columns[z % 2]
                total[z] = row.fma(column, total[z]) if d_type.is_float else total[z] + row * column
    for k, value in enumerate(total):
        ir.store(value, ir.address("%c", _REGISTER * k), 64)
    ir.emit("ret void")
    ir.lines.append("}")
    warp.ir.declarations |= ir.declarations
    return "\n".join(ir.lines)


def _elements(register: Lanes, kind: Type) -> list[Lanes]:
    """The neighbours in a register of 32 bits, as f32 or i32."""
    count = 32 // kind.bits
    packed = register.view(INTEGER[kind.bits], WARP * count)
    found: list[Lanes] = []
    for k in range(count):
        part = packed.shuffle(range(k, packed.count, count))
        if kind.letter == "f":
            found.append(part.view("half").to("float"))
        elif kind.letter == "bf":
            found.append((part.to("i32") << 16).view("float"))
        else:
            found.append(part.to("i32", kind.signed))
    return found


def _load_matrices(warp: Warp, made: Instruction) -> None:
    """Lane 8 m + r gives the address of row r of matrix m: eight elements of 16 bits."""
    if type_of(made.parts[-1]).bits != 16 or not made.has("m8n8"):
        raise unsupported(warp)
    to, source = made.operands
    together(warp, "-1")
    addresses, transposed = warp.address(source), made.has("trans")
    for matrix, name in enumerate(vector(to)):
        if not transposed:
            rows = addresses.shuffle([8 * matrix + lane // 4 for lane in range(WARP)])
            place = rows + warp.ir.vector("i64", [4 * (lane % 4) for lane in range(WARP)])
            warp.write(name, fetch(warp, "shared", place, 4, "i32", WARP))
            continue
        word = None
        for k in (0, 1):
            rows = addresses.shuffle([8 * matrix + 2 * (lane % 4) + k for lane in range(WARP)])
            place = rows + warp.ir.vector("i64", [2 * (lane // 4) for lane in range(WARP)])
            part = fetch(warp, "shared", place, 2, "i16", WARP).to("i32") << (16 * k)
            word = part if word is None else word | part
        assert word is not None
        warp.write(name, word)


HANDLERS: dict[str, Callable[[Warp, Instruction], None]] = {
    "mma": _mma, "ldmatrix": _load_matrices,
}  # fmt: skip
