"""What moves between lanes: permutations, reads and writes of single lanes. See `dpp` too."""

from __future__ import annotations

from exosuit.silicon.amd.isa.operands import VECTOR
from exosuit.softcard.amd.isa import state
from exosuit.softcard.amd.isa.operation import Untranslated
from exosuit.softcard.amd.isa.wave import Wave
from exosuit.softcard.translation.ir import WAVE

_ROW = 16


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
