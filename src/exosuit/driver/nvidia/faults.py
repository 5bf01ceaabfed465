"""A program that failed on an NVIDIA card, in words: where it reached, and what it was stopped for.

Both routes learn the same two things: which translation failed, and what SMs report of the warps
that they stopped. Where they learn it from is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

from exosuit.driver.faults import Named, nearest
from exosuit.errors import CardHung, PageFault
from exosuit.silicon.nvidia.exceptions import WarpError
from exosuit.silicon.nvidia.rm_controls import AccessType, FaultType, MmuFault, SmError

_WRITES = frozenset({AccessType.WRITE, AccessType.PHYSICAL_WRITE})
_ATOMICS = frozenset({AccessType.ATOMIC, AccessType.ATOMIC_WEAK, AccessType.PHYSICAL_ATOMIC})

_VIOLATIONS = {
    int(FaultType.RO_VIOLATION): "which may only be read",
    int(FaultType.WO_VIOLATION): "which may only be written",
    int(FaultType.ATOMIC_VIOLATION): "where atomics are not allowed",
    int(FaultType.PRIV_VIOLATION): "which is privileged",
}
_WARP_ERRORS = {
    WarpError.STACK_ERROR: "an exception in its stack",
    WarpError.MISALIGNED_PC: "a misaligned code address",
    WarpError.ILLEGAL_INSTRUCTION: "an illegal instruction",
    WarpError.ILLEGAL_INSTRUCTION_PARAMETER: "an illegal operand of an instruction",
    WarpError.INVALID_CONSTANT_ADDRESS: "a constant that is not there",
    WarpError.OUT_OF_RANGE_REGISTER: "a register that it does not have",
    WarpError.OUT_OF_RANGE_ADDRESS: "an address outside of its window",
    WarpError.MISALIGNED_ADDRESS: "a misaligned address",
    WarpError.INVALID_ADDRESS_SPACE: "an address of the wrong kind",
}


def page_fault(fault: MmuFault, buffers: Sequence[Named], xid: int) -> PageFault:
    """A translation that failed."""
    access = fault.access_type
    kind = "wrote to" if access in _WRITES else "read from"
    if access in _ATOMICS:
        kind = "updated"
    why = _VIOLATIONS.get(fault.fault_type, "where nothing is mapped")
    where = nearest(fault.address, buffers)
    return PageFault(
        f"a program on the card {kind} {fault.address:#x}, {why}",
        cause=f"{where}; the kernel computed an address outside its buffers",
        next="report it with the model and the prompt; the next run starts the channels afresh",
        address=fault.address,
        write=access in _WRITES or access in _ATOMICS,
        nearest=where,
        xid=xid,
    )


def stopped(index: int, error: SmError, *, count: int, xid: int) -> CardHung:
    """Warps that an SM has stopped."""
    code = error.warp_esr & 0xFFFF
    named = {int(key): text for key, text in _WARP_ERRORS.items()}
    what = named.get(code, f"warp error {code:#x}")
    return CardHung(
        f"a program on the card failed on {count} SMs: {what}",
        cause=f"SM {index} stopped a warp at code address {error.warp_pc:#x}; the kernel was"
        " compiled wrongly or for another chip, or its memory was overwritten",
        next="remove the cache of programs (exosuit doctor --settings says where) and try again",
        sm=index,
        warp_esr=error.warp_esr,
        global_esr=error.global_esr,
        pc=error.warp_pc,
        xid=xid,
    )
