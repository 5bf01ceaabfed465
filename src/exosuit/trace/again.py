"""Do again to a card what a tape tells, and say where it answers otherwise.

Addresses of DMA memory differ from session to session, so the memory is allocated anew, and values
that hold a recorded bus address are the caller's risk: a tape of a boot is replayed into the driver
(`Replay`), not into a card. Polls are made once.
"""

from __future__ import annotations

from collections.abc import Iterator

from exosuit.errors import LinkError, LinkLost
from exosuit.link.function import DmaMemory, PciFunction
from exosuit.trace.decode import Decoder
from exosuit.trace.tape import Kind, Record, Tape, data_of, value_of


def play(tape: Tape, link: PciFunction) -> Iterator[str]:
    """Make every access of `tape` on `link`; yields a line for each answer that differs.

    Raises LinkLost if the link is lost meanwhile.
    """
    decoder = Decoder(tape)
    memory: dict[str, DmaMemory] = {}
    for record in tape.records:
        told = decoder.follow(record)
        try:
            answer = _make(link, memory, record)
        except LinkLost:
            raise
        except LinkError as refusal:
            yield f"{told.strip()}   now refused: {refusal.what}"
            continue
        if answer is not None and answer != record.value:
            got = answer.hex() if isinstance(answer, bytes) else f"{answer:x}"
            yield f"{told.strip()}   now {got[:64]}"


def _make(link: PciFunction, memory: dict[str, DmaMemory], record: Record) -> int | bytes | None:
    """One access; gives what was read or, for windows, their size if the tape has another."""
    index = int(record.region[3:]) if record.region.startswith("BAR") else 0
    match record.kind:
        case Kind.CONFIG_READ:
            return link.read_config(record.offset, record.width)
        case Kind.CONFIG_WRITE:
            value = int.from_bytes(data_of(record), "little")
            link.write_config(record.offset, value, record.width)
        case Kind.READ:
            return value_of(link.bar(index).read(record.offset, record.width))
        case Kind.WRITE if record.width == 8:
            link.bar(index).write64(record.offset, int.from_bytes(data_of(record), "little"))
        case Kind.WRITE:
            link.bar(index).write(record.offset, data_of(record))
        case Kind.MAP:
            link.bar(index)
        case Kind.RESIZE:
            return link.resize_bar(index)
        case Kind.ALLOCATE:
            memory[record.region] = link.allocate_dma(record.width, contiguous=bool(record.offset))
        case Kind.DMA_READ if record.region in memory:
            return value_of(memory[record.region].read(record.offset, record.width))
        case Kind.DMA_WRITE if record.region in memory:
            memory[record.region].write(record.offset, data_of(record))
        case Kind.FREE if record.region in memory:
            memory.pop(record.region).free()
        case Kind.RESET:
            link.reset()
        case _:
            pass
    return None
