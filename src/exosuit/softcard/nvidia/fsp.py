"""The FSP of Blackwell: one message in its EMEM, which it answers, and the GSP that it starts.

It can check no signature; it checks what the message says and whether what it points to is there
and is what it must be. Error codes are `assumed`: NVIDIA does not publish them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from exosuit.silicon.nvidia.chips import VENDOR_ID
from exosuit.silicon.nvidia.fsp import (
    COT_VERSION,
    MCTP_VENDOR,
    MESSAGE_LIMIT,
    ChainOfTrust,
    EmemPort,
    Mctp,
    Nvdm,
    NvdmType,
    Response,
    message,
)
from exosuit.silicon.nvidia.fsp import (
    Fsp as Registers,
)
from exosuit.softcard.host import HostFault
from exosuit.softcard.nvidia.bus import Bus
from exosuit.softcard.registers import Refuse, RegisterFile
from exosuit.units import MiB


class FspError(IntEnum):
    """`assumed`: what an answer says beside 0."""

    BAD_MESSAGE = 0x1
    BAD_STATE = 0x2
    BAD_FMC = 0x3
    BAD_ARGUMENTS = 0x4
    SCHEDULED = 0x3F


class Fsp:
    """NV_PFSP, channel 0.

    start       called with the bus address of the FMC's arguments and the offset of FRTS in local
                memory; gives a reason if it cannot be
    take_error  whether the schedule of faults wants this message refused
    """

    def __init__(
        self,
        registers: RegisterFile,
        memory: memoryview,
        bus: Bus,
        refuse: Refuse,
        *,
        start: Callable[[int, int, int], str],
        is_silent: Callable[[], bool],
        take_error: Callable[[], bool],
    ) -> None:
        self._registers = registers
        self._memory = memory
        self._bus = bus
        self._refuse = refuse
        self._start = start
        self._is_silent = is_silent
        self._take_error = take_error
        registers.declare(Registers)
        registers.on_write("EMEMD", self._write_word)
        registers.on_read("EMEMD", self._read_word)
        registers.on_write("QUEUE_HEAD", self._send)
        self.power_on()

    def power_on(self) -> None:
        self.emem = bytearray(MESSAGE_LIMIT)
        self.started = False

    def _port(self, index: int, *, write: bool) -> int:
        port = EmemPort(self._registers.get("EMEMC", index))
        at = port.block << 8 | port.offset << 2
        if port.increment_on_write if write else port.increment_on_read:
            following = at + 4 & 0xFFFF
            moved = port.replace(block=following >> 8, offset=following >> 2 & 0x3F)
            self._registers.put("EMEMC", moved, index)
        return at

    def _write_word(self, index: int, value: int) -> int:
        at = self._port(index, write=True)
        if at + 4 > len(self.emem):
            self._refuse(f"a write at {at:#x} of the FSP's EMEM, past its end")
        else:
            self.emem[at : at + 4] = value.to_bytes(4, "little")
        return value

    def _read_word(self, index: int, stored: int) -> int:
        at = self._port(index, write=False)
        return int.from_bytes(self.emem[at : at + 4].ljust(4, b"\0"), "little")

    def _send(self, index: int, head: int) -> int:
        if index:
            self._refuse(f"a message in queue {index} of the FSP")
            return head
        tail = self._registers.get("QUEUE_TAIL")
        if self._is_silent():
            return head
        if self._registers.get("MSGQ_HEAD") != self._registers.get("MSGQ_TAIL"):
            self._refuse("a message to the FSP before its last answer was read")
        if head or not 8 <= tail < len(self.emem) or tail % 4:
            self._refuse(f"a message to the FSP from {head:#x} to {tail:#x}")
            self._answer(0, FspError.BAD_MESSAGE)
            return head
        whole = bytes(self.emem[: tail + 4])
        self._registers.put("QUEUE_TAIL", head)  # taken: the queue is empty
        kind = Nvdm(int.from_bytes(whole[4:8], "little"))
        error, why = self._obey(whole, kind)
        if why:
            self._refuse(f"a message to the FSP: {why}")
        self._answer(kind.type, error)
        return head

    def _obey(self, whole: bytes, kind: Nvdm) -> tuple[FspError | int, str]:
        packet = Mctp(int.from_bytes(whole[:4], "little"))
        if not packet.start or not packet.end:
            return FspError.BAD_MESSAGE, "more than one packet"
        if kind.kind != MCTP_VENDOR or kind.vendor != VENDOR_ID or kind.type != NvdmType.COT:
            return FspError.BAD_MESSAGE, f"its kind is {int(kind):#x}"
        if len(whole) - 8 < ChainOfTrust.SIZE:
            return FspError.BAD_MESSAGE, f"{len(whole) - 8} bytes"
        asked = ChainOfTrust(whole, 8)
        if asked.version != COT_VERSION or asked.size != ChainOfTrust.SIZE:
            return FspError.BAD_MESSAGE, f"version {asked.version}, {asked.size} bytes"
        if self.started:
            return FspError.BAD_STATE, "the GSP has been started"
        if self._take_error():
            return FspError.SCHEDULED, ""
        if not any(asked.hash) or not any(asked.public_key) or not any(asked.signature):
            return FspError.BAD_FMC, "no hash, key or signature"
        try:
            self._bus.read(asked.fmc_address, 4096)
        except HostFault:
            return FspError.BAD_FMC, f"no FMC at {asked.fmc_address:#x}"
        frts = len(self._memory) - asked.frts_from_end - asked.frts_size
        if asked.frts_size != MiB or frts <= 0 or frts % MiB:
            return FspError.BAD_ARGUMENTS, f"FRTS of {asked.frts_size:#x} bytes at {frts:#x}"
        why = self._start(asked.boot_arguments, frts, asked.frts_size)
        if why:
            return FspError.BAD_ARGUMENTS, why
        self.started = True
        return 0, ""

    def _answer(self, command: int, error: int) -> None:
        reply = message(
            NvdmType.FSP_RESPONSE, bytes(Response.make(task=0, command=command, error=error))
        )
        self.emem[: len(reply)] = reply
        self._registers.put("MSGQ_HEAD", 0)
        self._registers.put("MSGQ_TAIL", len(reply) - 4)
