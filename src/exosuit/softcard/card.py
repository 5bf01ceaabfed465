"""`SoftCard`: one PCI function made of Python, seen from the link.

A chip subclasses it, gives the shapes of its BARs and what answers behind them, and runs its
engines in `step`. This class does what every PCI function does: configuration, memory decode,
bus mastering, reset, faults, time. State survives a client that goes away; only its DMA memory
goes with it. One thread owns a card.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from exosuit.datasheet import RegisterBus
from exosuit.errors import CardError
from exosuit.link.function import Data
from exosuit.silicon.pci import ALL_ONES, DeviceControl
from exosuit.softcard.config import EXPRESS_AT, ConfigSpace
from exosuit.softcard.faults import FaultKind, FaultSchedule
from exosuit.softcard.host import HostFault, HostMemory
from exosuit.softcard.timing import MODELS, LinkModel, Meter

log = logging.getLogger(__name__)

NOTES_LIMIT = 1000
"""So many refused accesses are remembered; a driver that errs errs often."""


class Refused(CardError):
    """A strict card was used as no real card may be used."""


class Behind(Protocol):
    """What answers behind a BAR. `view` gives memory that may be copied to and from at once."""

    def read(self, offset: int, size: int) -> bytes: ...

    def write(self, offset: int, data: Data) -> None: ...

    def view(self, offset: int, size: int) -> memoryview | None: ...


@dataclass(frozen=True)
class Options:
    """What can be chosen about any software card.

    vram            bytes of its own memory; 0 takes the chip's default
    bar             size of the window on it at power-on; 0 takes the chip's default
    restore_config  whether the host puts BARs and command back after a reset (Linux does, macOS
                    does not)
    cache           folder in which translated programs are kept, or None
    threads         host threads that run its programs; 0 for one per processor
    """

    vram: int = 0
    bar: int = 0
    link: LinkModel = MODELS["slot"]
    faults: FaultSchedule = field(default_factory=FaultSchedule.none)
    strict: bool = False
    restore_config: bool = True
    cache: Path | None = None
    threads: int = 0


class SoftCard:
    """The PCI side of a card. Subclasses fill `behind` and override `step`, `on_reset`.

    late  engines do not look at what they are asked before the host reads something or pauses, for
          chips that can be so
    """

    name = "soft"

    def __init__(self, config: ConfigSpace, options: Options) -> None:
        self.config = config
        self.options = options
        self.host = HostMemory()
        self.meter = Meter(options.link)
        self.faults = FaultSchedule(options.faults.faults)
        self.behind: dict[int, Behind] = {}
        self.notes: list[str] = []
        self.unplugged = False
        self.hung = False
        self.silent = False
        self.waiting = False
        self.late = False
        self.transport_fault: FaultKind | None = None
        self.page_fault = False
        self.program_fault = False
        self._dma_fault = False
        self._torn = False
        self._ones = False

    # What a chip does.

    def step(self) -> bool:
        """Run the engines until they are done or blocked; whether they wait for host memory."""
        return False

    def on_reset(self) -> None:
        """Put the chip into the state after a function reset."""

    def suffer(self, kind: FaultKind) -> None:
        """A fault that only some chips have; others do not notice it."""

    def calm(self) -> None:
        """No more faults; what hangs or is silent stays so until it is reset."""
        self.faults = FaultSchedule.none()
        self.page_fault = self.program_fault = False
        self._ones = self._torn = self._dma_fault = False
        self.transport_fault = None

    @property
    def needs_power(self) -> bool:
        """Whether only the power switch helps: no reset takes the card out of its state."""
        return False

    # The bus, as the host drives it.

    def read_config(self, offset: int, size: int) -> int:
        self._access()
        self.meter.config()
        if self.unplugged:
            return ALL_ONES >> (32 - 8 * size)
        return self.config.read(offset, size)

    def write_config(self, offset: int, value: int, size: int) -> None:
        self._access()
        self.meter.config()
        if self.unplugged:
            return
        self.config.write(offset, value, size)
        control = EXPRESS_AT + 8
        if offset <= control + 1 < offset + size:
            high = value >> 8 * (control + 1 - offset) & 0xFF
            if DeviceControl(high << 8).function_reset:
                self.reset()

    def bar_size(self, bar: int) -> int:
        """Size of a BAR, 0 for one that the card does not have."""
        return self.config.size(bar) if bar in self.config.shapes else 0

    def read_bar(self, bar: int, offset: int, size: int) -> bytes | memoryview:
        """Read within a BAR; ones if nobody answers. Offsets are the caller's to check."""
        self._access()
        self.meter.read(size)
        if self._ones:
            self._ones = False
            return b"\xff" * size
        if not self._answers(bar):
            return b"\xff" * size
        view = self.behind[bar].view(offset, size)
        return self.behind[bar].read(offset, size) if view is None else view

    def write_bar(self, bar: int, offset: int, data: Data) -> None:
        """Write within a BAR, then let the engines run."""
        if not self.begin_write(bar, len(data)):
            return
        if self._torn and len(data) > 8:
            self._torn = False
            data = memoryview(data)[: len(data) // 2 & ~3]
        self.behind[bar].write(offset, data)

    def begin_write(self, bar: int, size: int) -> bool:
        """Account for a write; whether it will arrive. For servers that place bytes themselves."""
        held, self.waiting = self.waiting, self.waiting and not self.late
        self._access()
        self.waiting = self.waiting or held
        self.meter.write(size)
        return self._answers(bar)

    def direct_view(self, bar: int, offset: int, size: int) -> memoryview | None:
        """Memory behind a BAR that a server may receive into, or None."""
        return None if self._torn or bar not in self.behind else self.behind[bar].view(offset, size)

    def resize_bar(self, bar: int) -> bool:
        """Give a BAR its largest size, as an operating system would."""
        shape = self.config.shapes.get(bar)
        if self.unplugged or shape is None or not shape.sizes:
            return False
        return self.config.resize(bar, max(shape.sizes))

    def reset(self) -> None:
        """Function-level reset: the chip starts over, memory keeps its bytes as long as it can."""
        if self.unplugged:
            return
        self.hung = self.silent = False
        self.config.reset(restore=self.options.restore_config)
        self.on_reset()

    def run(self) -> None:
        """Run the engines unless they hang or the cable is out; `waiting` says if they wait."""
        self.waiting = False if self.hung or self.unplugged else self.step()

    # The bus, as the card drives it.

    def dma_read(self, address: int, size: int) -> bytes:
        """Read host memory. Raises HostFault if bus mastering is off or nothing is mapped."""
        parts = self.reach(address, size)
        self.meter.dma_read(size)
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def dma_write(self, address: int, data: Data) -> None:
        """Write host memory, posted. Raises HostFault."""
        view = memoryview(data)
        parts = self.reach(address, len(view))
        self.meter.dma_write(len(view))
        for part in parts:
            part[:] = view[: len(part)]
            view = view[len(part) :]

    @property
    def elapsed_ns(self) -> float:
        """Virtual time until everything that was submitted is done."""
        return self.meter.now_ns

    # Judgement.

    def refuse(self, what: str) -> None:
        """Note an access that hardware would not stand; strict cards raise Refused."""
        if len(self.notes) < NOTES_LIMIT:
            self.notes.append(what)
            log.info("%s: %s", self.name, what)
        if self.options.strict:
            raise Refused(
                f"the card refuses {what}",
                cause="it is strict: it stands only what its datasheet describes",
                next="compare the driver with silicon, or serve the card without --strict",
            )

    def _access(self) -> None:
        if self.waiting:  # real engines poll all the time; these do at every access
            self.run()
        for kind in self.faults.due():
            log.info("%s: fault %s at access %d", self.name, kind, self.faults.accesses)
            match kind:
                case FaultKind.UNPLUG:
                    self.unplugged = True
                case FaultKind.ONES:
                    self._ones = True
                case FaultKind.HANG:
                    self.hung = True
                case FaultKind.SILENT:
                    self.silent = True
                case FaultKind.DMA:
                    self._dma_fault = True
                case FaultKind.TORN:
                    self._torn = True
                case FaultKind.PAGE:
                    self.page_fault = True
                case FaultKind.PROGRAM:
                    self.program_fault = True
                case FaultKind.STALL | FaultKind.DROP:
                    self.transport_fault = kind
                case _:
                    self.suffer(kind)

    def _answers(self, bar: int) -> bool:
        if self.unplugged or bar not in self.behind:
            return False
        return self.config.command.memory_space and self.config.address(bar) != 0

    @property
    def has_dma_fault(self) -> bool:
        """Whether the schedule wants the next DMA access refused."""
        return self._dma_fault

    def take_dma_fault(self) -> bool:
        """Whether the host refuses this DMA access: always, or by the schedule, once."""
        due, self._dma_fault = self._dma_fault or self.unplugged, False
        return due

    def reach(self, address: int, size: int) -> list[memoryview]:
        """Host memory at a bus address, as the host lets the card at it now. Raises HostFault."""
        if self.take_dma_fault():
            raise HostFault(address, size)
        if not self.config.command.bus_master:
            self.refuse(f"DMA at {address:#x} while bus mastering is off")
            raise HostFault(address, size)
        return self.host.parts(address, size)


class RegisterBar:
    """Registers behind a BAR: aligned dwords, one by one."""

    def __init__(self, registers: RegisterBus, refuse: Callable[[str], None]) -> None:
        self._registers = registers
        self._refuse = refuse

    def view(self, offset: int, size: int) -> memoryview | None:
        return None

    def read(self, offset: int, size: int) -> bytes:
        if offset % 4 or size % 4:
            self._refuse(f"a read of {size} bytes at {offset:#x} of registers")
        first = offset & ~3
        last = offset + size + 3 & ~3
        words = [self._registers.read32(at).to_bytes(4, "little") for at in range(first, last, 4)]
        return b"".join(words)[offset - first :][:size]

    def write(self, offset: int, data: Data) -> None:
        if offset % 4 or len(data) % 4:
            self._refuse(f"a write of {len(data)} bytes at {offset:#x} of registers")
            return
        for at in range(0, len(data), 4):
            self._registers.write32(offset + at, int.from_bytes(data[at : at + 4], "little"))


class MemoryBar:
    """Plain memory behind a BAR."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def view(self, offset: int, size: int) -> memoryview | None:
        return self._memory[offset : offset + size]

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._memory[offset : offset + size])

    def write(self, offset: int, data: Data) -> None:
        self._memory[offset : offset + len(data)] = data
