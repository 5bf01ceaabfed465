"""AMD cards on a tape: registers by name, through windows too; doorbells; commands; packets.

Rings lie at virtual addresses, which a tape does not explain; so packets are known by themselves:
written bytes that come apart into packets to the last dword are shown as such.
"""

from __future__ import annotations

from exosuit.datasheet import UnknownPacket
from exosuit.silicon.amd import pm4, sdma
from exosuit.silicon.amd.chips import Chip, describe, placed_blocks
from exosuit.silicon.amd.firmware import PieceType
from exosuit.silicon.amd.nbio import DOORBELL_BAR, HDP_FLUSH_OFFSET, MEMORY_BAR, REGISTER_BAR
from exosuit.silicon.amd.psp import Command, CommandId, LoadIpFirmware, LoadToc, SetupTmr
from exosuit.trace.registers import RegisterNames
from exosuit.trace.tape import Kind, Record, data_of

_WINDOWS = {
    "BIF_BX_PF0_RSMU_DATA": "BIF_BX_PF0_RSMU_INDEX",
    "BIF_BX0_PCIE_DATA2": "BIF_BX0_PCIE_INDEX2",
}
SHOWN_PACKETS = 12
LEAST_PACKET_BYTES = 8
MOST_PACKET_BYTES = 1 << 20
_FIRST_OF_COPIES = (sdma.Opcode.POLL_REGMEM, sdma.Opcode.COPY_LINEAR, sdma.Opcode.FENCE)
_COMPUTE_SLOTS = range(3, 11)
_SDMA_SLOT = 0x100


class AmdChip:
    """Explains accesses to one product."""

    def __init__(self, chip: Chip) -> None:
        self._names = RegisterNames(*placed_blocks(describe(chip)))
        self._written: dict[str, int] = {}
        self._flush_offset = HDP_FLUSH_OFFSET

    def remember(self, record: Record) -> None:
        """Keep what the index registers of windows hold."""
        if record.kind is not Kind.WRITE or record.region != f"BAR{REGISTER_BAR}":
            return
        name = self._names.name(record.offset)
        if name and record.width == 4:
            self._written[name] = int.from_bytes(data_of(record), "little")
            if name == "BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL":
                self._flush_offset = self._written[name]

    def explain(self, record: Record) -> str:
        if record.region == f"BAR{MEMORY_BAR}" or record.region.startswith("dma"):
            data = data_of(record)
            if record.width == Command.SIZE and (command := _psp_command(data)):
                return command
            return _packets(data) if record.kind in (Kind.WRITE, Kind.DMA_WRITE) else ""
        if record.width > 8:
            return ""
        value = int.from_bytes(data_of(record), "little")
        if record.region == f"BAR{DOORBELL_BAR}" and record.width == 8:
            return _doorbell(record.offset // 8, value)
        if record.region != f"BAR{REGISTER_BAR}":
            return ""
        if record.offset == self._flush_offset:
            return "HDP flush"
        return self._register(record.offset, value, record.width)

    def _register(self, offset: int, value: int, width: int) -> str:
        name = self._names.name(offset)
        if name in _WINDOWS:
            at = self._written.get(_WINDOWS[name], 0)
            behind = self._names.explain(at, value, width) or f"{at:x} = {value:08x}"
            return f"{name} -> {behind}"
        if name == "BIF_BX0_MM_DATA":
            low = self._written.get("BIF_BX0_MM_INDEX", 0) & 0x7FFF_FFFF
            at = low | self._written.get("BIF_BX0_MM_INDEX_HI", 0) << 31
            return f"{name} -> memory+{at:x} = {value:08x}"
        return self._names.explain(offset, value, width)


def _doorbell(slot: int, value: int) -> str:
    if slot in _COMPUTE_SLOTS:
        return f"doorbell {slot} (compute), write pointer {value:#x} dwords"
    if slot == _SDMA_SLOT:
        return f"doorbell {slot:#x} (SDMA0), write pointer {value:#x} bytes"
    return f"doorbell {slot:#x}, {value:#x}"


def _packets(data: bytes) -> str:
    """Names of the packets that these bytes are, or nothing."""
    if len(data) % 4 or not LEAST_PACKET_BYTES <= len(data) <= MOST_PACKET_BYTES:
        return ""
    header = pm4.Header.decode(data)
    if header.type == 3 and header.opcode in pm4.Pm4.FAMILY:
        kind, found = "PM4", list(pm4.Pm4.parse(data))
    elif sdma.Header.decode(data).op in _FIRST_OF_COPIES:
        kind, found = "SDMA", list(sdma.Sdma.parse(data))
        if not isinstance(found[-1], (sdma.Fence, sdma.Trap)):
            return ""
    else:
        return ""
    if any(isinstance(packet, UnknownPacket) for packet in found):
        return ""
    names = [type(packet).__name__ for packet in found]
    more = f" and {len(names) - SHOWN_PACKETS} more" if len(names) > SHOWN_PACKETS else ""
    return f"{kind}  " + " · ".join(names[:SHOWN_PACKETS]) + more


def _psp_command(data: bytes) -> str:
    command = Command(data)
    try:
        kind = CommandId(command.command_id)
    except ValueError:
        return ""
    words = f"PSP {kind.name}"
    match kind:
        case CommandId.LOAD_IP_FW:
            load = LoadIpFirmware(command.arguments)
            try:
                words += f"  {PieceType(load.firmware_type).name}"
            except ValueError:
                words += f"  type {load.firmware_type}"
            words += f", {load.firmware_size:#x} bytes"
        case CommandId.LOAD_TOC:
            words += f"  {LoadToc(command.arguments).toc_size:#x} bytes"
        case CommandId.SETUP_TMR:
            words += f"  {SetupTmr(command.arguments).buffer_size:#x} bytes"
        case _:
            pass
    return f"{words}  status={command.status:#x}"
