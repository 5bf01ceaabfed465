"""What semaphores compare and compute; the numbers have no sign unless an operation says so."""

from __future__ import annotations

from exosuit.silicon.nvidia.push import SemaphoreOperation, SemaphoreReduction, SemExecute

ACQUIRES = (
    SemaphoreOperation.ACQUIRE,
    SemaphoreOperation.ACQ_STRICT_GEQ,
    SemaphoreOperation.ACQ_CIRC_GEQ,
    SemaphoreOperation.ACQ_AND,
    SemaphoreOperation.ACQ_NOR,
)
REDUCTIONS = (
    SemaphoreReduction.IMIN,
    SemaphoreReduction.IMAX,
    SemaphoreReduction.IXOR,
    SemaphoreReduction.IAND,
    SemaphoreReduction.IOR,
    SemaphoreReduction.IADD,
)


def holds(operation: int, found: int, payload: int, width: int) -> bool:
    """Whether one of the ACQUIRES may go on, with `found` in memory; `width` in bits."""
    mask = (1 << width) - 1
    match operation:
        case SemaphoreOperation.ACQUIRE:
            return found == payload
        case SemaphoreOperation.ACQ_STRICT_GEQ:
            return found >= payload
        case SemaphoreOperation.ACQ_CIRC_GEQ:
            return (found - payload & mask) < 1 << (width - 1)
        case SemaphoreOperation.ACQ_AND:
            return found & payload != 0
        case _:
            return (found | payload) != mask


def reduced(execute: SemExecute, found: int, payload: int) -> int:
    """What one of the REDUCTIONS leaves in memory."""
    width = 64 if execute.payload_size else 32
    if not execute.reduction_format:
        found, payload = _signed(found, width), _signed(payload, width)
    match execute.reduction:
        case SemaphoreReduction.IMIN:
            made = min(found, payload)
        case SemaphoreReduction.IMAX:
            made = max(found, payload)
        case SemaphoreReduction.IXOR:
            made = found ^ payload
        case SemaphoreReduction.IAND:
            made = found & payload
        case SemaphoreReduction.IOR:
            made = found | payload
        case _:
            made = found + payload
    return made & ((1 << width) - 1)


def _signed(value: int, width: int) -> int:
    return value - (1 << width) if value >> (width - 1) else value
