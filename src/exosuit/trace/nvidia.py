"""NVIDIA cards on a tape: registers by name, windows, doorbells, the FSP's messages, queues.

What lies in memory is told by `nvidia_memory`. Rings and pushbuffers lie at virtual addresses,
which a tape does not explain; so each is known by itself when it is written, and a doorbell says
which entries were written since the last one.
"""

from __future__ import annotations

from exosuit.silicon.nvidia import boot, falcon, fsp, gsp, paging
from exosuit.silicon.nvidia.boot import BUS_KINDS
from exosuit.silicon.nvidia.channel import USERMODE_OFFSET, Userd, Usermode, WorkSubmitToken
from exosuit.silicon.nvidia.chips import Chip, Start, find_chip
from exosuit.silicon.nvidia.classes import ComputeClass
from exosuit.silicon.nvidia.push import GpEntry
from exosuit.silicon.nvidia.qmd import layout
from exosuit.silicon.pci import ALL_ONES
from exosuit.trace import nvidia_memory
from exosuit.trace.registers import RegisterNames
from exosuit.trace.tape import READS, WRITES, Kind, Record, data_of
from exosuit.units import human_bytes

_REGISTERS, _VRAM = f"BAR{boot.REGISTER_BAR}", f"BAR{boot.VRAM_BAR}"
_DOORBELL = USERMODE_OFFSET + Usermode.REGISTERS["NOTIFY_CHANNEL_PENDING"].offset
_GP_PUT = Userd.SLOTS["gp_put"].offset
_WINDOWS = (
    ("VBIOS", boot.VBIOS_AT, boot.VBIOS_BYTES),
    ("PRAMIN", boot.PRAMIN_AT, boot.PRAMIN_BYTES),
)
_COMPUTE = {
    "sm_80": ComputeClass.AMPERE_A,
    "sm_86": ComputeClass.AMPERE_B,
    "sm_89": ComputeClass.ADA_A,
    "sm_90": ComputeClass.HOPPER_A,
    "sm_100": ComputeClass.BLACKWELL_A,
    "sm_103": ComputeClass.BLACKWELL_A,
    "sm_120": ComputeClass.BLACKWELL_B,
    "sm_121": ComputeClass.BLACKWELL_B,
}


class NvidiaChip:
    """Explains accesses to one chip."""

    def __init__(self, chip: Chip) -> None:
        self._names = RegisterNames(
            (BUS_KINDS[chip.architecture], 0, ""),
            (falcon.Falcon, falcon.GSP, "GSP_"),
            (falcon.Falcon, falcon.SEC2, "SEC2_"),
            (paging.MmuInvalidate, paging.MmuInvalidate.BASE, "MMU_INVALIDATE_"),
            (Usermode, USERMODE_OFFSET, ""),
            *([(fsp.Fsp, 0, "FSP_")] if chip.start is Start.FSP else []),
        )
        self._qmd = layout(_COMPUTE[chip.sm])
        self._pages = paging.FORMATS[chip.mmu]
        self._window = 0
        self._message = bytearray()
        self._sent = ""
        self._entries: list[GpEntry] = []
        self._rung: list[GpEntry] = []
        self._queues: dict[str, int] = {}

    def remember(self, record: Record) -> None:
        """Keep what the window shows, what the FSP is sent, which entries await their doorbell."""
        if record.kind not in WRITES:
            return
        data = data_of(record)
        if record.region == _REGISTERS:
            if record.width == 4:
                self._note_register(record.offset, int.from_bytes(data, "little"))
            return
        self._entries += nvidia_memory.gpfifo_entries(data)
        head = nvidia_memory.queue_header(data)
        if head is not None:
            self._queues[record.region] = record.offset

    def explain(self, record: Record) -> str:
        data = data_of(record)
        if record.region == _REGISTERS:
            return self._explain_register(record, data)
        if record.region != _VRAM and not record.region.startswith("dma"):
            return ""
        named = self._queue_word(record, data) or self._bytes(data)
        is_word = record.width == 4 and record.kind in WRITES
        if not named and is_word and self._entries and record.offset % Userd.SIZE == _GP_PUT:
            return f"USERD gp_put = {int.from_bytes(data, 'little')}"
        return named

    def _bytes(self, data: bytes) -> str:
        return nvidia_memory.explain(data, self._qmd, self._pages)

    def _note_register(self, offset: int, value: int) -> None:
        name = self._names.name(offset)
        if name == "BAR0_WINDOW":
            self._window = boot.Window(value).base << 16
        elif name.startswith("FSP_EMEMC"):
            self._message.clear()
        elif name.startswith("FSP_EMEMD"):
            self._message += value.to_bytes(4, "little")
        elif name == "FSP_QUEUE_TAIL[0]":
            self._sent = nvidia_memory.fsp_message(bytes(self._message))
        elif offset == _DOORBELL:
            self._rung, self._entries = self._entries, []

    def _explain_register(self, record: Record, data: bytes) -> str:
        for title, start, size in _WINDOWS:
            if start <= record.offset < start + size:
                return self._explain_window(title, record.offset - start, data)
        if record.width > 8:
            return ""
        value = int.from_bytes(data, "little")
        if record.offset == _DOORBELL and record.kind is Kind.WRITE:
            return self._doorbell(value)
        named = self._names.explain(record.offset, value, record.width)
        if record.kind not in READS or record.width != 4:
            return f"{named}  {self._sent}".rstrip() if "FSP_QUEUE_HEAD" in named else named
        name = named or f"{value:08x}"
        if value == ALL_ONES:
            return f"{name.split('  ')[0]}  nobody answers"
        if boot.is_refused(value):
            return f"{name.split('  ')[0]}  refused by the card's privileged ring"
        if self._names.name(record.offset) == "BOOT_42":
            chip = find_chip(value)
            return f"{named}  {chip.name if chip else 'a chip that nobody knows'}"
        return named

    def _explain_window(self, title: str, offset: int, data: bytes) -> str:
        where = f"{title}+{offset:x}"
        if title == "PRAMIN":
            where = f"VRAM+{self._window + offset:x}"
            if told := self._bytes(data):
                return f"{where}  {told}"
        if len(data) <= 8:
            return f"{where} = {int.from_bytes(data, 'little'):0{2 * len(data)}x}"
        return f"{where}  {human_bytes(len(data))}"

    def _doorbell(self, value: int) -> str:
        token = WorkSubmitToken(value)
        told = f"doorbell, channel {token.channel} of runlist {token.runlist}"
        told += f": {nvidia_memory.tell_entries(self._rung)}" if self._rung else ""
        return told

    def _queue_word(self, record: Record, data: bytes) -> str:
        """A pointer of the message queues, whose place the header of the first one gave away."""
        base = self._queues.get(record.region)
        if base is None or record.width != 4:
            return ""
        write_pointer = gsp.QueueHeader.SLOTS["write_pointer"].offset
        names = {
            base + write_pointer: "command queue write pointer",
            base + gsp.READ_POINTER: "status queue read pointer",
            base + gsp.QUEUE_BYTES + write_pointer: "status queue write pointer",
            base + gsp.QUEUE_BYTES + gsp.READ_POINTER: "command queue read pointer",
            base + gsp.QUEUE_BYTES + gsp.QueueHeader.SLOTS["entry_offset"].offset:
                "status queue entry offset",
        }  # fmt: skip
        name = names.get(record.offset, "")
        return f"{name} = {int.from_bytes(data, 'little')}" if name else ""
