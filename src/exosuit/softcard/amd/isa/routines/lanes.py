"""Permutations of lanes whose pattern is known only when they run, and of bytes."""

from __future__ import annotations

from collections.abc import Iterator

from exosuit.softcard.amd.isa.routines.writing import Routine, each_lane
from exosuit.softcard.translation.ir import WAVE, Function, Lanes


def routines() -> Iterator[Routine]:
    yield _permute_rows()
    yield _permute_backward()
    yield _permute_forward()
    yield _permute_bytes()


def _element(ir: Function, base: str, lane: Lanes) -> str:
    return ir.assign(f"getelementptr i32, ptr {base}, {lane.typed}")


def _is_on(routine: Routine, lane: Lanes) -> Lanes:
    return ((routine.argument("i32", "exec").to("i64") >> lane) & 1).to("i1")


def _copied(ir: Function, source: str) -> str:
    """A register's lanes in a place of their own, since the result may be the same register."""
    place = ir.assign(f"alloca [{WAVE} x i32], align 64")
    ir.store(ir.load("i32", WAVE, source, 64), place, 64)
    return place


def _permute_rows() -> Routine:
    """flags: 1 lanes that are off are read, 2 they read as 0, 4 from the other row."""
    routine = Routine(
        "permute_rows", "ptr %to, ptr %from, i32 %low, i32 %high, i32 %exec, i32 %flags"
    )
    ir = routine.function
    copy = _copied(ir, "%from")
    low, high = (routine.argument("i32", name).to("i64") for name in ("low", "high"))
    selectors = low | (high << 32)
    flags = routine.argument("i32", "flags").to("i64")
    with each_lane(ir, routine.argument("i32", "exec")) as lane:
        within = (selectors >> ((lane & 15) << 2)) & 15
        source = ((lane ^ ((flags & 4) << 2)) & 16) | within
        present = _is_on(routine, source) | (flags & 1).to("i1")
        value = present.select(ir.load("i32", 1, _element(ir, copy, source), 4), 0)
        place = _element(ir, "%to", lane)
        kept = ~present & (flags & 2).eq(0)
        ir.store(kept.select(ir.load("i32", 1, place, 4), value), place, 4)
    ir.emit("ret void")
    return routine


def _permute_backward() -> Routine:
    routine = Routine("permute_backward", "ptr %to, ptr %from, ptr %lanes, i32 %exec")
    ir = routine.function
    copy = _copied(ir, "%from")
    with each_lane(ir, routine.argument("i32", "exec")) as lane:
        source = ir.load("i32", 1, _element(ir, "%lanes", lane), 4).to("i64")
        value = ir.load("i32", 1, _element(ir, copy, source), 4)
        ir.store(_is_on(routine, source).select(value, 0), _element(ir, "%to", lane), 4)
    ir.emit("ret void")
    return routine


def _permute_forward() -> Routine:
    """Where several lanes send to one, the last of them counts; nobody's is 0."""
    routine = Routine("permute_forward", "ptr %to, ptr %from, ptr %lanes, i32 %exec")
    ir = routine.function
    sent = ir.assign(f"alloca [{WAVE} x i32], align 64")
    ir.store(ir.constant("i32", 0, WAVE), sent, 64)
    mask = routine.argument("i32", "exec")
    with each_lane(ir, mask) as lane:
        target = ir.load("i32", 1, _element(ir, "%lanes", lane), 4).to("i64")
        value = ir.load("i32", 1, _element(ir, "%from", lane), 4)
        ir.store(value, _element(ir, sent, target), 4)
    with each_lane(ir, mask) as lane:
        ir.store(ir.load("i32", 1, _element(ir, sent, lane), 4), _element(ir, "%to", lane), 4)
    ir.emit("ret void")
    return routine


def _permute_bytes() -> Routine:
    """v_perm_b32. Selector bytes 0 to 7 pick a byte of `b`, then of `a`; above lie constants:
    8 to 11 the sign of a byte as all its bits, 12 zeros, all others ones.
    """
    vector = f"<{WAVE} x i32>"
    routine = Routine(
        "permute_bytes", f"{vector} %a, {vector} %b, {vector} %selector", result=vector
    )
    ir = routine.function
    a, b, selector = (routine.argument("i32", name, WAVE) for name in ("a", "b", "selector"))
    total = a.like(0)
    for shift in (0, 8, 16, 24):
        chosen = selector >> shift
        word = (chosen & 4).ne(0).select(a, b)
        total = total | ((word >> ((chosen & 3) << 3)) & 255) << shift
    plain = (selector & 0xF8F8F8F8).eq(0).view("i32", 1).eq(-1)
    ir.branch(plain, "plain", "constants")
    ir.label("plain")
    ir.emit(f"ret {total.typed}")
    ir.label("constants")
    for shift in (0, 8, 16, 24):
        chosen = (selector >> shift) & 255
        word = (chosen & 2).ne(0).select(a, b)
        sign = (word << ((chosen & 1) ^ 1) * 16).ashr(31) & 255
        constant = chosen.compare("ugt", 11).select(chosen.eq(12).select(a.like(0), 255), sign)
        used = chosen.compare("ugt", 7)
        total = used.select((total & ~(255 << shift)) | (constant << shift), total)
    ir.emit(f"ret {total.typed}")
    return routine
