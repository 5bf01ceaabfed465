"""Atomic operations on memory: each active lane in turn, as one operation of the host each.

The old value goes to the lane's result. Operations that the host has no instruction for compare and
exchange until nobody interfered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from exosuit.softcard.amd.isa import state
from exosuit.softcard.amd.isa.routines.transfers import READ, WRITE, Space
from exosuit.softcard.amd.isa.routines.writing import Routine, each_lane
from exosuit.softcard.translation.ir import Function, Lanes

_DIRECT = {
    "add_u": "add", "sub_u": "sub", "min_i": "min", "max_i": "max", "min_u": "umin",
    "max_u": "umax", "and_b": "and", "or_b": "or", "xor_b": "xor", "swap_b": "xchg",
    "inc_u": "uinc_wrap", "dec_u": "udec_wrap",
}  # fmt: skip


def _if_equal(old: Lanes, new: Lanes, expected: Lanes) -> Lanes:
    kind = {32: "float", 64: "double"}[old.bits]
    return old.view(kind).eq(expected.view(kind)).select(new, old)


def _lesser(old: Lanes, new: Lanes, expected: Lanes) -> Lanes:
    del expected
    kind = {32: "float", 64: "double"}[old.bits]
    return new.view(kind).compare("olt", old.view(kind)).select(new, old)


def _greater(old: Lanes, new: Lanes, expected: Lanes) -> Lanes:
    del expected
    kind = {32: "float", 64: "double"}[old.bits]
    return new.view(kind).compare("ogt", old.view(kind)).select(new, old)


def _down_to_zero(old: Lanes, new: Lanes, expected: Lanes) -> Lanes:
    del expected
    return old.call("usub.sat", new)


def _subtracted_from(old: Lanes, new: Lanes, expected: Lanes) -> Lanes:
    del expected
    return new - old


def _sum(old: Lanes, new: Lanes, expected: Lanes) -> Lanes:
    del expected
    return (old.view("float") + new.view("float")).view("i32")


_LOOPS: dict[str, tuple[int, Callable[[Lanes, Lanes, Lanes], Lanes]]] = {
    "add_f32": (32, _sum),
    "min_f32": (32, _lesser),
    "max_f32": (32, _greater),
    "min_f64": (64, _lesser),
    "max_f64": (64, _greater),
    "csub_u32": (32, _down_to_zero),
    "rsub_u32": (32, _subtracted_from),
    "rsub_u64": (64, _subtracted_from),
    "cmpswap_f32": (32, _if_equal),
    "cmpswap_f64": (64, _if_equal),
}

ATOMICS = frozenset(
    [f"{name}{bits}" for name in _DIRECT for bits in (32, 64)]
    + [f"cmpswap_b{bits}" for bits in (32, 64)]
    + list(_LOOPS)
)
"""The operations, named as in global_atomic_NAME."""


def routines() -> Iterator[Routine]:
    for space in ("global", "local"):
        for name in sorted(ATOMICS):
            yield _atomic(space, name)


def _atomic(space_kind: str, name: str) -> Routine:
    routine = Routine(f"{space_kind}_{name}", "ptr %state, ptr %result, ptr %data, i32 %exec")
    ir = routine.function
    bits = int(name[-2:])
    space = Space(ir, space_kind, READ | WRITE)
    buffer = ir.assign("alloca [16 x i8], align 16")
    with each_lane(ir, routine.argument("i32", "exec")) as lane:
        addresses = ir.address("%state", state.ADDRESSES)
        at = ir.assign(f"getelementptr i64, ptr {addresses}, {lane.typed}")
        address = ir.load("i64", 1, at, 8) & -(bits // 8)
        ir.emit(f"store i64 0, ptr {buffer}, align 16")
        place, _ = space.one(address, bits // 8, buffer)
        new = _value(ir, "%data", lane, bits, 0)
        old = _operation(ir, name, place, new, lambda: _value(ir, "%data", lane, bits, 1))
        _set_value(ir, "%result", lane, old)
    ir.emit("ret void")
    return routine


def _operation(
    ir: Function, name: str, place: str, new: Lanes, second: Callable[[], Lanes]
) -> Lanes:
    align = new.bits // 8
    if name.startswith("cmpswap_b"):
        expected = second()
        return _exchanged(ir, place, expected, new)
    if name in _LOOPS:
        return _loop(ir, name, place, new, second() if "cmpswap" in name else new)
    operation = _DIRECT[name[:-2]]
    text = f"atomicrmw {operation} ptr {place}, {new.typed} monotonic, align {align}"
    return ir.value(new.kind, 1, text)


def _exchanged(ir: Function, place: str, expected: Lanes, new: Lanes) -> Lanes:
    """What was there; `new` is there now if it was `expected`."""
    pair = ir.assign(
        f"cmpxchg ptr {place}, {expected.typed}, {new.typed} monotonic monotonic, "
        f"align {new.bits // 8}"
    )
    return ir.value(new.kind, 1, f"extractvalue {{ {new.kind}, i1 }} {pair}, 0")


def _loop(ir: Function, name: str, place: str, new: Lanes, expected: Lanes) -> Lanes:
    tag = ir.name()
    first = ir.load(new.kind, 1, place, new.bits // 8)
    ir.jump(f"{tag}.start")
    ir.label(f"{tag}.start")
    ir.jump(f"{tag}.try")
    ir.label(f"{tag}.try")
    seen = Lanes(ir, new.kind, 1, f"%{tag}.seen")
    old = ir.phi(new.kind, 1, (first, f"{tag}.start"), (seen, f"{tag}.try"))
    wanted = _LOOPS[name][1](old, new, expected)
    found = _exchanged(ir, place, old, wanted)
    ir.emit(f"%{tag}.seen = or {found.typed}, 0")
    ir.branch(found.eq(old), f"{tag}.done", f"{tag}.try")
    ir.label(f"{tag}.done")
    return old


def _value(ir: Function, registers: str, lane: Lanes, bits: int, number: int) -> Lanes:
    """Operand `number` of a lane, from one register or two."""
    step = bits // 32
    words = [
        ir.load("i32", 1, _place(ir, registers, lane, number * step + k), 4) for k in range(step)
    ]
    if step == 1:
        return words[0]
    return words[0].to("i64") | (words[1].to("i64") << 32)


def _set_value(ir: Function, registers: str, lane: Lanes, value: Lanes) -> None:
    ir.store(value.to("i32"), _place(ir, registers, lane, 0), 4)
    if value.bits == 64:
        ir.store((value >> 32).to("i32"), _place(ir, registers, lane, 1), 4)


def _place(ir: Function, registers: str, lane: Lanes, number: int) -> str:
    row = ir.address(registers, number * state.VECTOR_BYTES)
    return ir.assign(f"getelementptr i32, ptr {row}, {lane.typed}")
