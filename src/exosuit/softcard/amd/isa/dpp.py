"""DPP: the first operand of an instruction, taken from other lanes of the wave.

A source that lies outside of its row, or in a lane that is off, either reads as 0 or keeps the
result's lane from being written (`bound_control`). Source: AMD RDNA3 ISA guide, section 7.7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from exosuit.silicon.amd.isa.encodings import Dpp8, Dpp16
from exosuit.silicon.amd.isa.operands import VECTOR
from exosuit.softcard.amd.isa.operation import Untranslated
from exosuit.softcard.translation.ir import WAVE, Lanes

if TYPE_CHECKING:
    from exosuit.softcard.amd.isa.wave import Wave

_ROW = 16
_MIRROR, _HALF_MIRROR = 0x140, 0x141


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
        _MIRROR: lambda k: _ROW - 1 - k,
        _HALF_MIRROR: lambda k: k ^ 7,
    }
    move = moves.get(control if control & 0x1F0 == _MIRROR else control & 0x1F0)
    if move is None or control in (0x100, 0x110, 0x120):
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
