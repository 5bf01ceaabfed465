"""Instructions in which lanes meet: shuffles, votes, sums over a warp, barriers within it.

All lanes of the member mask must run the instruction together, else the warp ends with the fault
"diverged": a card would wait for the others, which here have gone another way.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.softcard.nvidia.ptx import state
from exosuit.softcard.nvidia.ptx.parse import Instruction
from exosuit.softcard.nvidia.ptx.state import WARP
from exosuit.softcard.nvidia.ptx.types import type_of, unsupported
from exosuit.softcard.nvidia.ptx.warp import Warp, number


def together(warp: Warp, members: str) -> None:
    """Fault unless every lane that `members` names is here."""
    mask = (
        warp.integer(members, 32).lane(0)
        if members.startswith("%")
        else warp.ir.constant("i32", number(members))
    )
    here = warp.active
    # The mask may be written as -1 in a group that does not fill its last warp.
    alive = warp.load("i32", state.ALIVE)
    warp.fault(state.DIVERGED, (mask & alive & ~here).ne(0))


def _shuffle(warp: Warp, made: Instruction) -> None:
    """shfl.sync d|p, a, b, c, members: c is the clamp, and in bits 8 to 12 the segment mask."""
    to, source, by, bounds, members = made.operands
    together(warp, members)
    value, mode = warp.integer(source, 32), made.parts[2]
    to, _, flag = to.partition("|")
    if mode == "bfly" and not by.startswith("%") and number(bounds) == WARP - 1 and not flag:
        distance = number(by) % WARP
        return warp.write(to, value.shuffle([k ^ distance for k in range(WARP)]))
    ir, lane = warp.ir, warp.ir.lane_numbers()
    amount, limits = warp.integer(by, 32) & 31, warp.integer(bounds, 32)
    segment, clamp = (limits >> 8) & 31, limits & 31
    lowest = lane & segment
    highest = lowest | (clamp & ~segment)
    if mode == "up":
        source_lane = lane - amount
        inside = source_lane.compare("sge", highest)
    else:
        source_lane = {
            "down": lambda: lane + amount,
            "bfly": lambda: lane ^ amount,
            "idx": lambda: lowest | (amount & ~segment),
        }[mode]()
        inside = source_lane.compare("sle", highest)
    source_lane = inside.select(source_lane, lane) & 31
    place = warp.scratch()
    ir.store(value, place, 64)
    moved = value
    for k in range(WARP):
        index = source_lane.lane(k)
        text = ir.assign(f"getelementptr i32, ptr {place}, {index.typed}")
        one = ir.load("i32", 1, text, 4)
        moved = ir.value("i32", WARP, f"insertelement {moved.typed}, {one.typed}, i64 {k}")
    warp.write(to, moved)
    if flag:
        warp.write(flag, inside)
    return None


_IDENTITY = {
    ("add", "s"): 0, ("add", "u"): 0, ("and", "b"): -1, ("or", "b"): 0, ("xor", "b"): 0,
    ("min", "s"): 0x7FFF_FFFF, ("max", "s"): -0x8000_0000, ("min", "u"): -1, ("max", "u"): 0,
}  # fmt: skip


def _reduce(warp: Warp, made: Instruction) -> None:
    """redux.sync: one result for all members. Only lanes that are on take part."""
    to, source, members = made.operands
    together(warp, members)
    kind, operation = type_of(made.parts[-1]), made.parts[2]
    if (operation, kind.letter) not in _IDENTITY:
        raise unsupported(warp)
    neutral = _IDENTITY[operation, kind.letter]
    on = warp.active.view("i1", WARP)
    value = on.select(warp.integer(source, 32), neutral)
    letter = kind.letter if operation in ("min", "max") else ""
    total = warp.ir.value(
        "i32", 1, f"call i32 @llvm.vector.reduce.{letter}{operation}.v{WARP}i32({value.typed})"
    )
    name = f"llvm.vector.reduce.{letter}{operation}.v{WARP}i32"
    warp.ir.declarations[name] = f"declare i32 @{name}(<{WARP} x i32>)"
    warp.write(to, total.splat(WARP))


def _vote(warp: Warp, made: Instruction) -> None:
    to, source, members = made.operands
    together(warp, members)
    truth = warp.predicate(source).view("i32", 1) & warp.active
    if made.has("ballot"):
        return warp.write(to, truth.splat(WARP))
    if made.has("any"):
        answer = truth.ne(0)
    elif made.has("all"):
        answer = truth.eq(warp.active)
    elif made.has("uni"):
        answer = truth.eq(0) | truth.eq(warp.active)
    else:
        raise unsupported(warp)
    return warp.write(to, answer.splat(WARP))


def _active_mask(warp: Warp, made: Instruction) -> None:
    warp.write(made.operands[0], warp.active.splat(WARP))


def _warp_barrier(warp: Warp, made: Instruction) -> None:
    """Lanes of a warp run in lockstep, so what they wrote is there once they are together."""
    together(warp, made.operands[0])


HANDLERS: dict[str, Callable[[Warp, Instruction], None]] = {
    "shfl": _shuffle, "redux": _reduce, "vote": _vote, "activemask": _active_mask,
    "bar": _warp_barrier,
}  # fmt: skip
