"""Why a channel was stopped, as the kernel driver can be asked: in words, with the nearest buffer.

Three sources, from the cheapest. The notifier is a record in the host's memory, written when the
driver stops a channel, with the number that its log calls Xid. The debugger object knows the
addresses of failed translations, and what the SMs report of the warps that they stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

from exosuit.driver.faults import Named, nearest
from exosuit.driver.nvidia.objects import Errors
from exosuit.errors import CardHung, ExosuitError, LinkLost, PageFault
from exosuit.silicon.nvidia.exceptions import WarpError, Xid
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


def explain(xid: int, errors: Errors | None, buffers: Sequence[Named]) -> ExosuitError:
    """What went wrong.

    xid     what a notifier says
    errors  what the debugger says, or None where it could not be asked
    """
    if xid == Xid.GPU_HAS_FALLEN_OFF_THE_BUS:
        return LinkLost(
            "the card has fallen off the bus (Xid 79)",
            cause="its cable or power failed, or it overheated",
            next="check cable and power, then  exosuit list",
            xid=xid,
        )
    if errors is not None and errors.faults:
        return page_fault(errors.faults[0], buffers, xid)
    if errors is not None and errors.stopped:
        return stopped(*errors.stopped[0], count=len(errors.stopped), xid=xid)
    return _by_number(xid)


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


def _by_number(xid: int) -> CardHung:
    known = {
        int(Xid.GRAPHICS_EXCEPTION): "a program or its launch failed",
        int(Xid.MMU_FAULT): "an access to memory that is not mapped",
        int(Xid.PUSHBUFFER): "a pushbuffer that the card cannot read",
        int(Xid.RESET_CHANNEL_VERIFICATION): "the channel was reset",
        int(Xid.PREEMPTIVE_REMOVAL): "it was removed beside another that failed",
        int(Xid.CLASS_ERROR): "a method or value that its class does not take",
    }
    what = known.get(xid, "the kernel's log says more")
    return CardHung(
        f"NVIDIA's kernel driver stopped a channel: {what} (Xid {xid})",
        cause="the card was given something that it cannot execute, or it failed",
        next="sudo dmesg | grep Xid   then run it again",
        xid=xid,
    )
