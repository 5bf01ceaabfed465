"""The one generic card ever made: `silicon.generic`, in Python.

Its engine runs after each doorbell until the ring is empty, blocked at a WAIT, or stopped by a
fault.
"""

from __future__ import annotations

from exosuit.datasheet import UnknownPacket
from exosuit.link.function import Data
from exosuit.silicon import generic as chip
from exosuit.silicon.generic import Aperture, EngineControl, EngineStatus, Fault
from exosuit.softcard.card import MemoryBar, Options, RegisterBar, SoftCard
from exosuit.softcard.config import BarShape, ConfigSpace
from exosuit.softcard.host import HostFault
from exosuit.softcard.memory import sparse_memory
from exosuit.softcard.registers import RegisterFile
from exosuit.units import GiB, MiB

DEFAULT_VRAM = 1 * GiB
SMALL_BAR = 256 * MiB
STAGE = 16 * MiB
"""Copies go in pieces of this many bytes."""


class EngineFault(Exception):
    """The engine cannot go on."""

    def __init__(self, fault: Fault, address: int) -> None:
        super().__init__(f"{fault.name} at {address:#x}")
        self.fault = fault
        self.address = address


class GenericCard(SoftCard):
    """Identity registers, a scratch page, memory and a copy engine."""

    name = "soft:generic"

    def __init__(self, options: Options | None = None) -> None:
        options = options or Options()
        vram = options.vram or DEFAULT_VRAM
        window = min(options.bar or SMALL_BAR, vram)
        sizes = tuple(s for s in (SMALL_BAR << n for n in range(10)) if s <= vram)
        bars = {
            chip.REGISTER_BAR: BarShape(chip.REGISTER_BYTES, 0xA000_0000),
            chip.MEMORY_BAR: BarShape(
                window,
                0x60_0000_0000,
                is_64=True,
                prefetchable=True,
                sizes=tuple(sorted({window, *sizes})),
            ),
            chip.DOORBELL_BAR: BarShape(chip.DOORBELL_BYTES, 0xA010_0000),
        }
        config = ConfigSpace(
            vendor=chip.VENDOR_ID, device=chip.DEVICE_ID, class_code=chip.CLASS_CODE, bars=bars
        )
        super().__init__(config, options)
        self.memory = sparse_memory(vram)
        self.registers = RegisterFile(self.refuse)
        self.registers.declare(chip.Registers)
        self._at = {name: r.offset for name, r in chip.Registers.REGISTERS.items()}
        self.registers.on_read("MEMORY_SIZE", lambda _, stored: vram // MiB)
        self.registers.on_read("STATUS", lambda _, stored: self._status())
        self.registers.on_read("READ_POINTER", lambda _, stored: self._read_pointer)
        self.registers.on_read("ERROR_ADDRESS", lambda _, stored: self._error_address)
        self.registers.on_write("CONTROL", self._control)
        self.registers.on_write("ERROR", self._clear_error)
        self.behind = {
            chip.REGISTER_BAR: RegisterBar(self.registers, self.refuse),
            chip.MEMORY_BAR: MemoryBar(self.memory),
            chip.DOORBELL_BAR: Doorbell(self),
        }
        self._forget()

    def ring_doorbell(self, pointer: int) -> None:
        """The driver says how far it has written the ring."""
        self._write_pointer = pointer
        self.run()

    def step(self) -> bool:
        """Obey descriptors until none is left, one has to wait, or one cannot be obeyed."""
        self._waiting = False
        control = EngineControl(self.registers.peek(self._at["CONTROL"]))
        while (
            control.enable
            and self._fault is Fault.NONE
            and not self._waiting
            and self._read_pointer < self._write_pointer
        ):
            try:
                self._obey_next()
            except EngineFault as fault:
                self._stop(fault.fault, fault.address)
            except HostFault as fault:
                self._stop(Fault.OUTSIDE_HOST, fault.address)
        return self._waiting

    def on_reset(self) -> None:
        self.registers.reset(keep=lambda name: name == "SCRATCH")
        self._forget()

    def _forget(self) -> None:
        self._read_pointer = 0
        self._write_pointer = 0
        self._waiting = False
        self._fault = Fault.NONE
        self._error_address = 0

    def _obey_next(self) -> None:
        base = self._wide("RING_BASE")
        size = self.registers.peek(self._at["RING_SIZE"])
        if size == 0 or size & (size - 1) or self._write_pointer - self._read_pointer > size:
            raise EngineFault(Fault.RING_OVERRUN, self._write_pointer)
        offset = self._read_pointer & (size - 1)
        room = min(size - offset, self._write_pointer - self._read_pointer, 4096)
        packet = next(iter(chip.Descriptor.parse(self.dma_read(base + offset, room))))
        length = len(packet.data) if isinstance(packet, UnknownPacket) else len(bytes(packet))
        try:
            self._obey(packet)
        finally:
            if not self._waiting:
                self._read_pointer += length

    def _obey(self, packet: chip.Descriptor | UnknownPacket) -> None:
        match packet:
            case chip.Nop():
                pass
            case chip.Copy():
                header = packet.header
                source, target, left = packet.source, packet.target, packet.count
                while left:
                    piece = min(left, STAGE)
                    self._store(header.target, target, self._load(header.source, source, piece))
                    source, target, left = source + piece, target + piece, left - piece
            case chip.Fill():
                pattern = packet.value.to_bytes(4, "little")
                target, left = packet.target, packet.count
                while left:
                    piece = min(left, STAGE)
                    filling = (pattern * (piece // 4 + 1))[:piece]
                    self._store(packet.header.target, target, filling)
                    target, left = target + piece, left - piece
            case chip.Fence():
                value = packet.value.to_bytes(8, "little")
                self._store(packet.header.target, packet.target, value)
            case chip.Wait():
                have = int.from_bytes(self._load(packet.header.source, packet.source, 8), "little")
                self._waiting = have < packet.value
            case _:
                raise EngineFault(Fault.BAD_DESCRIPTOR, self._read_pointer)

    def _load(self, aperture: int, address: int, size: int) -> bytes | memoryview:
        if aperture == Aperture.HOST:
            return self.dma_read(address, size)
        self._inside(address, size)
        return self.memory[address : address + size]

    def _store(self, aperture: int, address: int, data: Data) -> None:
        if aperture == Aperture.HOST:
            self.dma_write(address, data)
            return
        self._inside(address, len(data))
        self.memory[address : address + len(data)] = data

    def _inside(self, address: int, size: int) -> None:
        if address + size > len(self.memory):
            raise EngineFault(Fault.OUTSIDE_MEMORY, address)

    def _stop(self, fault: Fault, address: int) -> None:
        self._fault = fault
        self._error_address = address
        self.registers.poke(self._at["ERROR"], chip.EngineError(fault=fault))

    def _status(self) -> int:
        return EngineStatus(
            busy=self._read_pointer < self._write_pointer,
            halted=self._fault is not Fault.NONE,
            waiting=self._waiting,
        )

    def _control(self, index: int, written: int) -> int:
        control = EngineControl(written & 0x3)
        if control.reset:
            self.registers.poke(self._at["ERROR"], 0)
            self._forget()
        self.registers.poke(self._at["CONTROL"], control.replace(reset=False))
        self.run()
        return control.replace(reset=False)

    def _clear_error(self, index: int, stored: int) -> int:
        if stored == 0:
            self._fault = Fault.NONE
            self.run()
        return stored

    def _wide(self, name: str) -> int:
        at = self._at[name]
        return self.registers.peek(at) | self.registers.peek(at + 4) << 32


class Doorbell:
    """BAR 4: a 64-bit write at 0, and nothing to read."""

    def __init__(self, card: GenericCard) -> None:
        self._card = card

    def view(self, offset: int, size: int) -> memoryview | None:
        return None

    def read(self, offset: int, size: int) -> bytes:
        self._card.refuse(f"a read of the doorbell page at {offset:#x}")
        return bytes(size)

    def write(self, offset: int, data: Data) -> None:
        if offset or len(data) != 8:
            self._card.refuse(f"a doorbell write of {len(data)} bytes at {offset:#x}")
            return
        self._card.ring_doorbell(int.from_bytes(data, "little"))
