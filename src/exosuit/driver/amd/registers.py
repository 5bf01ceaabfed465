"""All registers of one card: BAR 5 as far as it reaches, an index and data pair beyond.

`Registers` is the bus that the register blocks stand on, and holds the blocks once discovery has
said which they are. Reading ones everywhere means that nobody answers; `check_alive` says so.
"""

from __future__ import annotations

from exosuit.errors import LinkLost
from exosuit.link.function import Bar, PciFunction
from exosuit.silicon.amd.chips import Blocks
from exosuit.silicon.amd.discovery import Discovery, HardwareId, Ip
from exosuit.silicon.amd.nbio import Nbio
from exosuit.silicon.pci import ALL_ONES

# The bases of NBIO that hold on every chip here, in bytes; what is needed before discovery.
_FIXED_NBIO = (0x0, 4 * 0x14, 4 * 0xD20)


class RegisterBus:
    """Registers by their byte address. Implements the bus of `datasheet.Block`."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._index = 4 * 0x14 + Nbio.BIF_BX_PF0_RSMU_INDEX.description.offset
        self._data = 4 * 0x14 + Nbio.BIF_BX_PF0_RSMU_DATA.description.offset

    def read32(self, offset: int) -> int:
        if offset < self._bar.size:
            return self._bar.read32(offset)
        self._bar.write32(self._index, offset)
        return self._bar.read32(self._data)

    def write32(self, offset: int, value: int) -> None:
        if offset < self._bar.size:
            self._bar.write32(offset, value)
        else:
            self._bar.write32(self._index, offset)
            self._bar.write32(self._data, value)


class EarlyRegisters:
    """What can be read before the discovery table has been: NBIO's fixed registers."""

    def __init__(self, link: PciFunction, bar: Bar) -> None:
        self.bus = RegisterBus(bar)
        self.nbio = Nbio(self.bus, _FIXED_NBIO)
        self._link = link

    def check_alive(self) -> None:
        """Raise LinkLost where the card does not answer, with what its configuration says."""
        check_alive(self._link, self.nbio)


class Registers:
    """The blocks of one card at their bases."""

    def __init__(self, link: PciFunction, bus: RegisterBus, discovery: Discovery, blocks: Blocks):
        self._link = link
        self.bus = bus
        self.discovery = discovery
        self.kinds = blocks
        self.nbio = blocks.nbio(bus, self._bases(HardwareId.NBIF))
        self.hdp = blocks.hdp(bus, self._bases(HardwareId.HDP))
        self.psp = blocks.psp(bus, self._bases(HardwareId.MP0))
        self.smu = blocks.smu(bus, self._bases(HardwareId.MP1))
        self.ih = blocks.ih(bus, self._bases(HardwareId.OSSSYS))
        self.gc_hub = blocks.gc_hub(bus, self._bases(HardwareId.GC))
        self.mm_hub = blocks.mm_hub(bus, self._bases(HardwareId.MMHUB))
        self.gfx = blocks.gfx(bus, self._bases(HardwareId.GC))
        self.hqd = blocks.hqd(bus, self._bases(HardwareId.GC))
        self.sdma = blocks.sdma(bus, self._bases(HardwareId.GC))

    @property
    def generation(self) -> int:
        """11 or 12."""
        return self.kinds.generation

    @property
    def graphics(self) -> Ip:
        return self.discovery.ip(HardwareId.GC)

    def check_alive(self) -> None:
        check_alive(self._link, self.nbio)

    def _bases(self, hardware_id: HardwareId) -> tuple[int, ...]:
        return self.discovery.ip(hardware_id).byte_bases


def check_alive(link: PciFunction, nbio: Nbio) -> None:
    """Raise LinkLost if the card reads ones where it never does."""
    if nbio.RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE.read() != ALL_ONES:
        return
    identity = link.read_config(0, 4)
    if identity == ALL_ONES:
        what, cause = "has gone", "the cable moved, the enclosure lost power, or the card crashed"
    else:
        what = "answers on the bus, but its registers read 0xffffffff"
        cause = "it sleeps, was reset without its addresses being restored, or crashed"
    raise LinkLost(
        f"the card {link.name} {what}",
        cause=cause,
        next="reconnect it and switch the enclosure off and on, then  exosuit doctor",
        identity=identity,
    )
