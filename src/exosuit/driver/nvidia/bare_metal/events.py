"""What firmware tells unasked while work runs: errors as users know them from NVIDIA's Xids.

Sources: open-gpu-kernel-modules 570.144 `g_rpc-structures.h`, `nverror.h`; NVIDIA's Xid catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from exosuit.driver.faults import Named
from exosuit.driver.nvidia.faults import page_fault, stopped
from exosuit.driver.nvidia.objects import Errors
from exosuit.errors import CardHung, ExosuitError, LinkLost
from exosuit.silicon.nvidia.exceptions import Xid
from exosuit.silicon.nvidia.rm_controls import AccessType, FaultType, MmuFault
from exosuit.silicon.nvidia.rpc import ErrorLog, Event, RcTriggered

_ADDRESS = re.compile(r"faulted @ 0x([0-9a-f]+)_([0-9a-f]+)", re.IGNORECASE)
_ACCESS = re.compile(r"ACCESS_TYPE_\w*?(READ|WRITE|ATOMIC|PREFETCH)")


@dataclass(frozen=True)
class Report:
    """One thing that went wrong.

    address, fault  of a page fault; None where it is none, or is not told
    """

    xid: int
    text: str
    address: int | None = None
    fault: int | None = None

    def __str__(self) -> str:
        return f"Xid {self.xid}: {self.text}" if self.text else f"Xid {self.xid}"


def read_report(function: int, payload: bytes) -> Report | None:
    """The error in an event, or None where it tells of none."""
    if function == Event.OS_ERROR_LOG and len(payload) >= 12:
        record = ErrorLog(payload.ljust(ErrorLog.SIZE, b"\0"))
        text = payload[12:].split(b"\0")[0].decode("utf-8", "replace")[:400]
        found = _ADDRESS.search(text)
        address = int(found[1] + found[2].rjust(8, "0"), 16) if found else None
        return Report(record.xid, text, address)
    if function == Event.RC_TRIGGERED:
        record = RcTriggered(payload.ljust(RcTriggered.SIZE, b"\0"))
        address = record.fault_address_low | record.fault_address_high << 32
        if record.xid != Xid.MMU_FAULT or not address:
            return Report(record.xid, f"channel {record.channel} was stopped")
        return Report(record.xid, "", address, record.fault_type)
    if function == Event.MMU_FAULT_QUEUED:
        return Report(Xid.MMU_FAULT, "")
    return None


def explain(
    reports: Sequence[Report], errors: Errors | None, buffers: Sequence[Named]
) -> ExosuitError:
    """The reports in three lines.

    errors  what the debugger says, or None where it could not be asked
    """
    texts = tuple(str(report) for report in reports)
    error = _explain(reports, errors, buffers)
    error.fields["reports"] = texts
    return error


def _explain(
    reports: Sequence[Report], errors: Errors | None, buffers: Sequence[Named]
) -> ExosuitError:
    # A page fault first, wherever it is told: the rest follows from it.
    report = next((r for r in reports if r.address is not None), reports[0])
    if errors is not None and errors.faults:
        return page_fault(errors.faults[0], buffers, Xid.MMU_FAULT)
    if report.address is not None:
        access = _ACCESS.search(report.text)
        fault = MmuFault.make(
            address=report.address,
            fault_type=FaultType.PTE if report.fault is None else report.fault,
            access_type=AccessType[access[1]] if access else AccessType.READ,
        )
        return page_fault(fault, buffers, report.xid)
    if errors is not None and errors.stopped:
        return stopped(*errors.stopped[0], count=len(errors.stopped), xid=report.xid)
    if report.xid == Xid.GPU_HAS_FALLEN_OFF_THE_BUS:
        return LinkLost(
            f"the card fell off the bus ({report})",
            cause="the cable moved, the enclosure lost power, or its link was retrained",
            next="reconnect it and switch the enclosure off and on, then  exosuit doctor",
            xid=report.xid,
        )
    return CardHung(
        f"the card's firmware stopped a channel ({report})",
        cause=_CAUSES.get(report.xid, "a queue was given what it cannot do, or an engine failed"),
        next="run it again, the card is reset first; if it stays:  exosuit doctor --report FILE",
        xid=report.xid,
    )


_CAUSES: dict[int, str] = {
    Xid.GRAPHICS_EXCEPTION: "a kernel was compiled wrongly or for another chip: an illegal"
    " instruction or a misaligned access",
    Xid.PUSHBUFFER: "the queue's own data was damaged on its way to the card",
    Xid.CLASS_ERROR: "the queue was given a method that its class does not have",
    Xid.GSP_RPC_TIMEOUT: "its firmware hangs",
    Xid.GSP_ERROR: "its firmware crashed",
    Xid.MMU_FAULT: "a program used an address where nothing is mapped; which one was not told",
}
