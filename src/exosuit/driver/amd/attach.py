"""The first look at a card: what it is, what state it is in, and its reset.

Nothing here depends on which card it is beyond its PCI class: the discovery table decides. A card
may have been left by anybody in any state; what tells is whether its secure OS runs, and two
scratch registers that survive everything but a reset.

Sources: Linux `amdgpu_device.c`, `amdgpu_discovery.c`, `soc21.c`, `psp_v13_0.c`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from exosuit.clock import Clock, wait_until
from exosuit.driver.amd import layout
from exosuit.driver.amd.host_data import HostData
from exosuit.driver.amd.psp import Psp
from exosuit.driver.amd.registers import EarlyRegisters, Registers
from exosuit.driver.amd.smu import Smu
from exosuit.driver.boot import poll
from exosuit.driver.config_space import ConfigSpace
from exosuit.errors import BootFailed, UnsupportedCard
from exosuit.link.function import Bar, PciFunction
from exosuit.silicon import pci
from exosuit.silicon.amd.discovery import (
    BYTES_BELOW_TOP,
    SIZE_BYTES,
    BinaryHeader,
    Discovery,
    HardwareId,
    read_discovery,
)
from exosuit.silicon.amd.nbio import DOORBELL_BAR, MEMORY_BAR, REGISTER_BAR, MemoryIndex
from exosuit.silicon.amd.psp import ControlCommand
from exosuit.units import MiB

_FIRMWARE_READY = 4 * 0x16061
"""MP0's C2PMSG_33, at the same place on every chip: whether the card has started by itself."""
_MP0_SETTLE_S = {13: 0.5, 14: 1.0}
"""How long a mode1 reset takes, by the PSP's major version."""
_RUNNING_FLAG, _MAGIC = 6, 7
"""Scratch registers: whether a driver runs (1) or has ended well (0), and which one booted it."""


class State(Enum):
    """In which state a card was found."""

    COLD = "cold"
    """Nobody has booted it since its power came on."""
    WARM = "warm"
    """This driver booted it, and ended well: its firmware runs, nothing is queued."""
    UNKNOWN = "unknown"
    """Another driver booted it, or one did not end: it must be reset."""


@dataclass(frozen=True)
class Bars:
    """The three BARs of a card."""

    memory: Bar
    doorbells: Bar
    registers: Bar


def map_bars(link: PciFunction) -> Bars:
    """The BARs, that of local memory as large as it gets."""
    link.resize_bar(MEMORY_BAR)
    return Bars(link.bar(MEMORY_BAR), link.bar(DOORBELL_BAR), link.bar(REGISTER_BAR))


def discover(link: PciFunction, bars: Bars, clock: Clock) -> tuple[int, Discovery]:
    """Bytes of local memory, and what the card says of itself.

    Raises LinkLost if it reads ones, BootFailed if it has not started, UnsupportedCard.
    """
    early = EarlyRegisters(link, bars.registers)
    early.check_alive()
    poll(
        lambda: early.bus.read32(_FIRMWARE_READY),
        lambda seen: bool(seen >> 31) and seen != pci.ALL_ONES,
        clock, 10.0, "its own start-up (C2PMSG_33)", early.check_alive, 1e-3,
    )  # fmt: skip
    vram = poll(
        lambda: int(early.nbio.RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE.read()),
        lambda seen: seen != pci.ALL_ONES,
        clock, 1.0, "the size of its memory", early.check_alive, 1e-3,
    ) * MiB  # fmt: skip
    if vram == 0:
        raise BootFailed(
            "the card says that it has no memory",
            cause="its start-up has not finished, or failed",
            next="switch the enclosure off and on, then  exosuit doctor",
        )
    try:
        return vram, read_discovery(_read_table(early, bars, vram))
    except UnsupportedCard:
        early.check_alive()  # a card that goes away reads as nonsense, too
        return vram, read_discovery(_read_table(early, bars, vram))


def find_state(registers: Registers, psp: Psp) -> State:
    """In which state the card is."""
    mark = layout.Running(registers.gfx.SCRATCH_REG[_MAGIC].read())
    flag = registers.gfx.SCRATCH_REG[_RUNNING_FLAG].read()
    ours = mark.magic == layout.MAGIC and mark.layout == layout.LAYOUT
    if not psp.os_runs:
        # Our mark on a card whose secure OS does not run: somebody ended in the middle of a boot.
        return State.UNKNOWN if ours else State.COLD
    if ours and flag == 0 and registers.gc_hub.VM_L2_PROTECTION_FAULT_STATUS.read() == 0:
        return State.WARM
    return State.UNKNOWN


def boot_bytes(registers: Registers) -> int:
    """How much of local memory the boot objects take on a card that is warm."""
    return layout.Running(registers.gfx.SCRATCH_REG[_MAGIC].read()).boot_mib * MiB


def mark_booting(registers: Registers, boot_size: int) -> None:
    """From here on the card is not as its power-on left it."""
    registers.gfx.SCRATCH_REG[_MAGIC].write(layout.running(boot_size))
    registers.gfx.SCRATCH_REG[_RUNNING_FLAG].write(1)


def mark_running(registers: Registers, boot_size: int) -> None:
    """The card is up, and used."""
    registers.gfx.SCRATCH_REG[_MAGIC].write(layout.running(boot_size))
    registers.gfx.SCRATCH_REG[_RUNNING_FLAG].write(1)


def mark_ended(registers: Registers, well: bool) -> None:
    """Nobody uses the card; `well` if the next one may go on without a reset."""
    registers.gfx.SCRATCH_REG[_RUNNING_FLAG].write(0 if well else 1)


class Reset:
    """The ways to start a card over, from the mildest that works to the last."""

    def __init__(
        self,
        link: PciFunction,
        config: ConfigSpace,
        registers: Registers,
        memory: HostData,
        clock: Clock,
    ) -> None:
        self._link = link
        self._config = config
        self._registers = registers
        self._clock = clock
        self._psp = Psp(registers, memory, clock)
        self._smu = Smu(registers, clock)

    def run(self) -> None:
        """Reset the card. Raises BootFailed if nothing makes it start over.

        DMA goes first: whatever the card still does must not reach memory that is ours no more.
        """
        self._config.let_dma(False)
        if self._psp.os_runs:
            if self._smu.answers and self._smu.mode1_reset() and self._has_started_over():
                return
            self._registers.psp.C2PMSG_64.write(ControlCommand.MODE1_RESET)
            if self._has_started_over():
                return
        self._link.reset()
        if self._has_started_over():
            return
        self._registers.check_alive()
        raise BootFailed(
            f"the card {self._link.name} cannot be reset",
            cause="another program left it in a state that neither its own firmware nor the bus"
            " can end",
            next="switch the enclosure off and on, then try again",
        )

    def _has_started_over(self) -> bool:
        version = self._registers.discovery.version(HardwareId.MP0)
        self._clock.sleep(_MP0_SETTLE_S.get(version[0], 1.0))
        self._config.restore()

        def fresh() -> bool:
            ready = self._registers.psp.C2PMSG_35.read()
            return ready != pci.ALL_ONES and bool(ready >> 31) and not self._psp.os_runs

        return wait_until(fresh, self._clock, 3.0, 1e-2)


def _read_table(early: EarlyRegisters, bars: Bars, vram: int) -> bytes:
    """The discovery table, in one read where the window shows it."""
    at = vram - BYTES_BELOW_TOP
    if at + SIZE_BYTES <= bars.memory.size:
        return bars.memory.read(at, SIZE_BYTES)
    header = _read_indirectly(early, at, BinaryHeader.SIZE)
    size = min(max(BinaryHeader(header).binary_size, BinaryHeader.SIZE), SIZE_BYTES)
    rest = _read_indirectly(early, at + len(header), -(-(size - len(header)) // 4) * 4)
    return header + rest


def _read_indirectly(early: EarlyRegisters, address: int, size: int) -> bytes:
    """Local memory beyond the window, a dword at a time."""
    nbio = early.nbio
    nbio.BIF_BX0_MM_INDEX_HI.write(address >> 31)
    words: list[bytes] = []
    for at in range(address, address + size, 4):
        nbio.BIF_BX0_MM_INDEX.write(MemoryIndex(address=at & 0x7FFF_FFFF, enable=True))
        words.append(nbio.BIF_BX0_MM_DATA.read().encode())
    return b"".join(words)
