"""What moves between lanes: DPP, lane permutations, reads and writes of single lanes.

A DPP source that lies outside of its row, or in a lane that is off, either reads as 0 or keeps the
result's lane from being written (`bound_control`). Source: AMD RDNA3 ISA guide, section 7.7.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.silicon.amd.isa.encodings import Dpp8, Dpp16
from exosuit.silicon.amd.isa.operands import VECTOR
from exosuit.softcard.amd.isa import state
from exosuit.softcard.amd.isa.ir import WAVE, Lanes
from exosuit.softcard.amd.isa.wave import Untranslated, Wave

_ROW = 16


def source_lanes(dpp: Dpp16 | Dpp8) -> list[int | None]:
    """For each lane the lane it reads, None where that lies outside of its row."""
    if isinstance(dpp, Dpp8):
        return [lane & ~7 | dpp.lanes >> 3 * (lane & 7) & 7 for lane in range(WAVE)]
    control = dpp.control
    amount = control & 15
    if control < 0x100:
        return [lane & ~3 | control >> 2 * (lane & 3) & 3 for lane in range(WAVE)]
    moves: dict[int, Callable[[int], int]] = {
        0x100: lambda k: k + amount,
        0x110: lambda k: k - amount,
        0x120: lambda k: (k - amount) % _ROW,
        0x150: lambda k: amount,
        0x160: lambda k: k ^ amount,
    }
    if control == 0x140:
        move: Callable[[int], int] = lambda k: _ROW - 1 - k  # noqa: E731
    elif control == 0x141:
        move = lambda k: k ^ 7  # noqa: E731
    elif control & 0x1F0 in moves:
        move = moves[control & 0x1F0]
    else:
        raise Untranslated(f"DPP control {control:#x}")
    found: list[int | None] = []
    for lane in range(WAVE):
        k = move(lane % _ROW)
        found.append(lane // _ROW * _ROW + k if 0 <= k < _ROW else None)
    return found


def _is_bound(wave: Wave) -> bool:
    dpp = wave.instruction.dpp
    return isinstance(dpp, Dpp8) or (dpp is not None and dpp.bound_control)


def through_dpp(wave: Wave, value: Lanes) -> Lanes:
    """The first operand as its lanes receive it; 0 where there is no source."""
    dpp = wave.instruction.dpp
    assert dpp is not None
    if wave.instruction.fetch_inactive:
        value = _with_inactive(wave, value)
    elif wave.exec.number != -1:
        value = wave.active.select(value, 0)
    lanes = [WAVE if lane is None else lane for lane in source_lanes(dpp)]
    return value.shuffle(lanes, value.like(0))


def _with_inactive(wave: Wave, value: Lanes) -> Lanes:
    code = wave.instruction.sources[0]
    if code < VECTOR or value.bits != 32:
        raise Untranslated("DPP that fetches inactive lanes of other than 32 bits")
    return wave.merged(code - VECTOR)


def written_lanes(wave: Wave) -> Lanes | None:
    """The lanes that a DPP instruction writes, as i1; None for all."""
    dpp = wave.instruction.dpp
    assert dpp is not None
    lanes = source_lanes(dpp)
    allowed = [True] * WAVE
    if isinstance(dpp, Dpp16):
        allowed = [
            bool(dpp.row_mask >> lane // _ROW & 1 and dpp.bank_mask >> lane % _ROW // 4 & 1)
            for lane in range(WAVE)
        ]
    if _is_bound(wave):
        return None if all(allowed) else wave.ir.vector("i1", allowed)
    has_source = wave.ir.vector(
        "i1", [ok and lane is not None for ok, lane in zip(allowed, lanes, strict=True)]
    )
    if wave.instruction.fetch_inactive:
        return has_source
    indices = [0 if lane is None else lane for lane in lanes]
    return has_source & wave.active.shuffle(indices)


def read_lane(wave: Wave) -> None:
    """v_readlane_b32: any lane, active or not."""
    lane = wave.operand(1, "scalar") & (WAVE - 1)
    code = wave.instruction.sources[0]
    if code < VECTOR:
        raise Untranslated("v_readlane_b32 of a scalar")
    wave.merged(code - VECTOR)
    place = wave.ir.address(wave.vector_place(code - VECTOR), (lane << 2).to("i64"))
    wave.set_scalar(wave.instruction.sdst, wave.ir.load("i32", 1, place, 4))


def read_first_lane(wave: Wave) -> None:
    """v_readfirstlane_b32: the first active lane, or lane 0 if none is."""
    code = wave.instruction.sources[0]
    if code < VECTOR:
        wave.set_scalar(wave.instruction.sdst, wave.operand(0, "scalar"))
        return
    if wave.exec.number == -1:
        value = wave.vector(code - VECTOR).lane(0)
    else:
        wave.merged(code - VECTOR)
        first = wave.ir.intrinsic("i32", "llvm.cttz.i32", wave.exec, "i1 false") & (WAVE - 1)
        place = wave.ir.address(wave.vector_place(code - VECTOR), (first << 2).to("i64"))
        value = wave.ir.load("i32", 1, place, 4)
    wave.set_scalar(wave.instruction.sdst, value)


def write_lane(wave: Wave) -> None:
    """v_writelane_b32: one lane, active or not."""
    value, lane = wave.operand(0, "scalar"), wave.operand(1, "scalar") & (WAVE - 1)
    number = wave.instruction.vdst
    wave.settle()
    place = wave.ir.address(wave.vector_place(number), (lane << 2).to("i64"))
    wave.ir.store(value, place, 4)


def permute_rows(wave: Wave, exchange: bool) -> None:
    """v_permlane16 and v_permlanex16: each lane names a lane of its row, or of the other one."""
    made = wave.instruction
    fetch_inactive, bound = made.op_sel & 1, made.op_sel >> 1 & 1
    code = made.sources[0]
    if code < VECTOR:
        raise Untranslated(f"{made.name} of a scalar")
    low, high = wave.operand(1, "scalar"), wave.operand(2, "scalar")
    if low.number is not None and high.number is not None:
        selectors = (low.number & 0xFFFFFFFF) | (high.number & 0xFFFFFFFF) << 32
        lanes = [
            (lane ^ (_ROW if exchange else 0)) & ~15 | selectors >> 4 * (lane & 15) & 15
            for lane in range(WAVE)
        ]
        source = wave.merged(code - VECTOR) if fetch_inactive else wave.vector(code - VECTOR)
        if not fetch_inactive and wave.exec.number != -1:
            source = wave.active.select(source, 0)
        value = source.shuffle(lanes)
        where = None
        if not fetch_inactive and not bound and wave.exec.number != -1:
            where = wave.active.shuffle(lanes)
        wave.set_vector(made.vdst, value, where)
        return
    wave.settle()
    flags = wave.ir.constant("i32", fetch_inactive | bound << 1 | exchange << 2)
    wave.routine(
        "permute_rows", wave.vector_place(made.vdst), wave.vector_place(code - VECTOR), low, high,
        wave.exec, flags,
    )  # fmt: skip


def swap(wave: Wave) -> None:
    """v_swap_b32: two registers change places."""
    made = wave.instruction
    other = made.sources[0] - VECTOR
    first, second = wave.vector(made.vdst), wave.vector(other)
    wave.set_vector(made.vdst, second)
    wave.set_vector(other, first)


def move_relative(wave: Wave, source: bool, destination: bool) -> None:
    """v_movrels, v_movreld, v_movrelsd: register numbers move by M0."""
    made = wave.instruction
    if made.sources[0] < VECTOR and source:
        raise Untranslated(f"{made.name} of a scalar")
    moved = (wave.scalar(state.M0) & (state.VECTOR_COUNT - 1)) * state.VECTOR_BYTES
    if not source:
        value = wave.operand(0, "i32")
        wave.settle()
    else:
        wave.settle()
        place = wave.ir.address(wave.vector_place(made.sources[0] - VECTOR), moved.to("i64"))
        value = wave.ir.load("i32", WAVE, place, 64)
    if not destination:
        wave.set_vector(made.vdst, value)
        return
    place = wave.ir.address(wave.vector_place(made.vdst), moved.to("i64"))
    old = wave.ir.load("i32", WAVE, place, 64)
    wave.ir.store(wave.active.select(value, old), place, 64)


def permute_backward(wave: Wave, address: int, data: int, offset: int) -> None:
    """ds_bpermute_b32: each lane reads the lane that its address names; 0 from lanes off."""
    _permute(wave, "permute_backward", address, data, offset)


def permute_forward(wave: Wave, address: int, data: int, offset: int) -> None:
    """ds_permute_b32: each lane sends to the lane that its address names."""
    _permute(wave, "permute_forward", address, data, offset)


def _permute(wave: Wave, name: str, address: int, data: int, offset: int) -> None:
    lanes = ((wave.vector(address) + offset) >> 2) & (WAVE - 1)
    wave.store(lanes, state.BUFFER, align=64)
    wave.settle()
    made = wave.instruction
    wave.routine(
        name, wave.vector_place(made.vdst), wave.vector_place(data), wave.place(state.BUFFER),
        wave.exec,
    )  # fmt: skip


def swizzle(wave: Wave, data: int, offset: int) -> None:
    """ds_swizzle_b32: a fixed permutation within 32 or 4 lanes; 0 from lanes off."""
    value = wave.vector(data)
    if wave.exec.number != -1:
        value = wave.active.select(value, 0)
    wave.set_vector(wave.instruction.vdst, value.shuffle(swizzle_lanes(offset)))


def swizzle_lanes(offset: int) -> list[int]:
    """The lane that each lane reads. Source: AMD RDNA3 ISA guide, DS_SWIZZLE_B32."""
    if offset >= 0xE000:
        mask = offset & 31
        shift = mask.bit_count()
        lanes: list[int] = []
        for lane in range(WAVE):
            reversed_lane = int(f"{lane:05b}"[::-1], 2)
            lanes.append(reversed_lane >> shift | lane & mask)
        return lanes
    if offset >= 0xC000:
        rotate, mask = offset >> 5 & 31, offset & 31
        step = -rotate if offset >> 10 & 1 else rotate
        return [lane & mask | (lane + step) & ~mask & 31 for lane in range(WAVE)]
    if offset & 0x8000:
        return [lane & ~3 | offset >> 2 * (lane & 3) & 3 for lane in range(WAVE)]
    keep, join, flip = offset & 31, offset >> 5 & 31, offset >> 10 & 31
    return [((lane & keep) | join) ^ flip for lane in range(WAVE)]
