"""What the card reports when something goes wrong, in three lines that a person can use.

A page fault names the nearest buffer; a shader's error says what kind; a hang says what the queue
and the engines were doing.
"""

from __future__ import annotations

from collections.abc import Sequence

from exosuit.driver.amd.registers import Registers
from exosuit.driver.faults import Named, nearest
from exosuit.errors import CardHung, ExosuitError, PageFault
from exosuit.silicon.amd.hub import FaultStatus
from exosuit.silicon.amd.ih import (
    Client,
    Entry,
    FaultContext1,
    Source,
    SqContext0,
    SqContext1,
    SqEncoding,
    SqError,
)
from exosuit.units import human_seconds

_QUIET = frozenset(
    {Source.CP_END_OF_PIPE, Source.SDMA_TRAP, Source.SDMA_FENCE, Source.SDMA_CONTEXT_EMPTY}
)
"""Reports of success."""
_FAULTING = frozenset({Source.PAGE_FAULT, Source.SDMA_PAGE_FAULT, Source.SDMA_VM_HOLE})
_REPORTERS = frozenset({Client.GFX, Client.GRBM_CP, Client.VMC})


def explain_reports(
    reports: Sequence[Entry],
    fault: tuple[FaultStatus, int] | None,
    buffers: Sequence[Named],
) -> ExosuitError | None:
    """The first report that is an error, explained; None where there is none.

    fault  status and address of the graphics hub's fault registers, where they have been read
    """
    if fault is not None:
        return page_fault(fault[1], buffers, fault[0])
    for report in reports:
        header = report.header
        if header.client not in _REPORTERS or header.source in _QUIET:
            continue
        if header.source in _FAULTING:
            high = FaultContext1(report.context1 & 0xF).address_high
            return page_fault(report.context0 << 12 | high << 44, buffers, None)
        if header.source == Source.SQ_MESSAGE:
            problem = _shader_error(report)
            if problem is not None:
                return problem
            continue
        known = {int(source): source.name for source in Source}
        name = known.get(int(header.source), f"source {int(header.source)}")
        return CardHung(
            f"the card reports {name}",
            cause="a queue was given something that it cannot execute, or an engine failed",
            next="run it again; if it stays:  exosuit doctor --report FILE",
            report=name,
        )
    return None


def page_fault(address: int, buffers: Sequence[Named], status: FaultStatus | None) -> PageFault:
    """An access to `address`, in words, with the nearest buffer."""
    kind = "accessed"
    who = ""
    if status is not None:
        kind = "wrote to" if status.rw else "read from"
        client = status.cid
        who = f" ({getattr(client, 'name', client)})"
    where = nearest(address, buffers)
    return PageFault(
        f"a program on the card {kind} {address:#x}, where nothing is mapped{who}",
        cause=f"{where}; the kernel computed an address outside its buffers",
        next="report it with the model and the prompt; the next run starts the card afresh",
        address=address,
        write=None if status is None else bool(status.rw),
        nearest=where,
    )


def _shader_error(report: Entry) -> CardHung | None:
    if SqContext1(report.context1).encoding != SqEncoding.ERROR:
        return None
    error = SqContext0(report.context0).error
    known = {
        SqError.ILLEGAL_INSTRUCTION: "executed an illegal instruction",
        SqError.MEMORY_VIOLATION: "made an access that memory does not allow",
    }
    what = known.get(error, f"failed ({getattr(error, 'name', error)})")
    return CardHung(
        f"a program on the card {what}",
        cause="the kernel was compiled wrongly, for another chip, or its memory was overwritten",
        next="remove the cache of programs (exosuit doctor --settings says where) and try again",
        error=int(error),
    )


def explain_hang(registers: Registers, what: str, waited_s: float) -> CardHung:
    """A queue that does not move: what the engines were doing."""
    status = registers.gfx.GRBM_STATUS.read()
    registers.check_alive()
    busy = status.explain() or "all idle"
    running = "a kernel runs for ever" if status.spi_busy else "the queue does not move"
    return CardHung(
        f"the card did not finish {what} within {human_seconds(waited_s)}",
        cause=f"{running} (engines: {busy})",
        next="run it again, the card is reset first; if it stays:  exosuit doctor --report FILE",
        status=int(status),
        waited_s=waited_s,
    )
