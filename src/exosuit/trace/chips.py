"""What the tracer knows of each chip: the names of its registers, and the rings behind doorbells.

One entry per kind of chip in `CHIPS`; a chip that is not there is shown in hexadecimal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from exosuit.datasheet import UnknownPacket
from exosuit.silicon import generic, pci_ids
from exosuit.silicon.amd.chips import CHIPS as AMD_CHIPS
from exosuit.silicon.nvidia.chips import CHIPS as NVIDIA_CHIPS
from exosuit.trace.amd import AmdChip
from exosuit.trace.nvidia import NvidiaChip
from exosuit.trace.registers import RegisterNames
from exosuit.trace.tape import Kind, Record, data_of

MEMORY_LIMIT = 256 << 20
"""So many bytes of DMA memory are kept to explain what a ring holds."""
SHOWN_PACKETS = 8


class ChipMap(Protocol):
    """Explains accesses to the BARs of one kind of chip."""

    def remember(self, record: Record) -> None:
        """Take note of a record, in order; called once for each."""
        ...

    def explain(self, record: Record) -> str:
        """An access in words, or nothing if no description covers it."""
        ...


class UnknownChip:
    """A chip that nobody described."""

    def remember(self, record: Record) -> None:
        pass

    def explain(self, record: Record) -> str:
        return ""


class GenericChip:
    """The generic card: its registers, and the descriptors behind its doorbell."""

    def __init__(self) -> None:
        self._registers = RegisterNames((generic.Registers, 0, ""))
        self._memory: dict[str, bytearray] = {}
        self._places: dict[str, list[tuple[int, int, int]]] = {}
        self._ring_base = 0
        self._ring_size = 0
        self._read_to = 0
        self._packets = ""

    def remember(self, record: Record) -> None:
        match record.kind, record.region:
            case Kind.ALLOCATE, region if isinstance(record.value, bytes):
                self._allocate(region, record.width, record.value)
            case Kind.DMA_WRITE, region if region in self._memory:
                end = record.offset + record.width
                self._memory[region][record.offset : end] = data_of(record)
            case Kind.WRITE, "BAR0":
                self._note_register(record)
            case Kind.WRITE, "BAR4" if record.width == 8 and record.offset == 0:
                self._packets = self._walk(int.from_bytes(data_of(record), "little"))
            case _:
                pass

    def explain(self, record: Record) -> str:
        if record.width > 8:
            return ""
        value = int.from_bytes(data_of(record), "little")
        if record.region == "BAR0":
            return self._registers.explain(record.offset, value, record.width)
        if record.region == "BAR4" and record.offset == 0:
            shown, self._packets = self._packets, ""
            return f"doorbell, write pointer {value:#x}  {shown}".rstrip()
        return ""

    def _allocate(self, region: str, size: int, pairs: bytes) -> None:
        if size + sum(map(len, self._memory.values())) > MEMORY_LIMIT:
            return
        self._memory[region] = bytearray(size)
        offset = 0
        places: list[tuple[int, int, int]] = []
        for at in range(0, len(pairs) - 15, 16):
            address = int.from_bytes(pairs[at : at + 8], "little")
            length = int.from_bytes(pairs[at + 8 : at + 16], "little")
            places.append((address, length, offset))
            offset += length
        self._places[region] = places

    def _note_register(self, record: Record) -> None:
        value = int.from_bytes(data_of(record), "little") if record.width <= 8 else 0
        base = generic.Registers.REGISTERS["RING_BASE"].offset
        if record.offset == base:
            self._ring_base = self._ring_base & ~0xFFFF_FFFF | value & 0xFFFF_FFFF
            if record.width == 8:
                self._ring_base = value
        elif record.offset == base + 4:
            self._ring_base = self._ring_base & 0xFFFF_FFFF | value << 32
        elif record.offset == generic.Registers.REGISTERS["RING_SIZE"].offset:
            self._ring_size, self._read_to = value, 0

    def _walk(self, pointer: int) -> str:
        """The descriptors between the last doorbell and this one."""
        begin, self._read_to = self._read_to, pointer
        size = self._ring_size
        if size == 0 or not 0 < pointer - begin <= size:
            return ""
        offset = begin % size
        first = self._bytes(self._ring_base + offset, min(pointer - begin, size - offset))
        second = self._bytes(self._ring_base, pointer - begin - len(first))
        names: list[str] = []
        for packet in generic.Descriptor.parse(first + second):
            if isinstance(packet, UnknownPacket):
                names.append(repr(packet))
            else:
                names.append(type(packet).__name__.upper())
        more = f" and {len(names) - SHOWN_PACKETS} more" if len(names) > SHOWN_PACKETS else ""
        return " · ".join(names[:SHOWN_PACKETS]) + more

    def _bytes(self, address: int, size: int) -> bytes:
        for region, places in self._places.items():
            for start, length, offset in places:
                if start <= address < start + length:
                    at = offset + address - start
                    return bytes(
                        self._memory[region][at : at + min(size, start + length - address)]
                    )
        return b""


CHIPS: dict[tuple[int, int], Callable[[], ChipMap]] = {
    (generic.VENDOR_ID, generic.DEVICE_ID): GenericChip,
}


def chip_map(vendor: int, device: int) -> ChipMap:
    """The map of a chip, or one that knows nothing."""
    if vendor == pci_ids.AMD:
        target = pci_ids.identify(vendor, device).target
        chip = next((chip for chip in AMD_CHIPS if device == chip.device_id), None)
        chip = chip or next((chip for chip in AMD_CHIPS if target == chip.target), None)
        return AmdChip(chip) if chip else UnknownChip()
    if vendor == pci_ids.NVIDIA:
        target = pci_ids.identify(vendor, device).target
        product = next((chip for chip in NVIDIA_CHIPS if target == chip.sm), None)
        return NvidiaChip(product) if product else UnknownChip()
    return CHIPS.get((vendor, device), UnknownChip)()
