"""Why a channel was stopped, as the kernel driver can be asked: in words, with the nearest buffer.

Three sources, from the cheapest. The notifier is a record in the host's memory, written when the
driver stops a channel, with the number that its log calls Xid. The debugger object knows the
addresses of failed translations, and what the SMs report of the warps that they stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

from exosuit.driver.faults import Named
from exosuit.driver.nvidia.faults import page_fault, stopped
from exosuit.driver.nvidia.objects import Errors
from exosuit.errors import CardHung, ExosuitError, LinkLost
from exosuit.silicon.nvidia.exceptions import Xid


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
