"""The registers of one card: BAR 0, its blocks, and whether anybody answers there.

Registers that read all ones may mean a card that is gone, or one whose function forgot its
addresses; a value of 0xbadfXXXX is the privileged ring's refusal. `check_alive` tells which.
"""

from __future__ import annotations

from exosuit.datasheet import Array
from exosuit.errors import BootFailed, LinkLost
from exosuit.link.function import Bar, PciFunction
from exosuit.silicon.nvidia import boot, falcon
from exosuit.silicon.nvidia.boot import BUS_KINDS, Bus, FuseVersion
from exosuit.silicon.nvidia.chips import Chip
from exosuit.silicon.nvidia.fsp import Fsp
from exosuit.silicon.nvidia.paging import MmuInvalidate
from exosuit.silicon.pci import ALL_ONES


class EarlyRegisters:
    """What can be read before it is known which chip this is."""

    def __init__(self, link: PciFunction, bar: Bar) -> None:
        self.link = link
        self.bar = bar
        self.bus = Bus(bar)

    def check_alive(self) -> None:
        """Raise LinkLost if the card reads ones where it never does."""
        if self.bus.BOOT_0.read() != ALL_ONES:
            return
        identity = self.link.read_config(0, 4)
        if identity == ALL_ONES:
            what, cause = "has gone", "the cable moved, the enclosure lost power, or it crashed"
        else:
            what = "answers on the bus, but its registers read 0xffffffff"
            cause = "it sleeps, has no address on the bus any more, or its link was retrained"
        raise LinkLost(
            f"the card {self.link.name} {what}",
            cause=cause,
            next="reconnect it and switch the enclosure off and on, then  exosuit doctor",
            identity=identity,
        )


class Registers(EarlyRegisters):
    """The blocks of one card."""

    def __init__(self, link: PciFunction, bar: Bar, chip: Chip) -> None:
        super().__init__(link, bar)
        self.chip = chip
        self.board = BUS_KINDS[chip.architecture](bar)
        self.gsp = falcon.Falcon(bar, falcon.GSP)
        self.sec2 = falcon.Falcon(bar, falcon.SEC2)
        self.fsp = Fsp(bar)
        self.mmu = MmuInvalidate(bar, MmuInvalidate.BASE)

    @property
    def wpr2_is_up(self) -> bool:
        """Whether a firmware has been started since the last reset."""
        return self.bus.WPR2_ADDR_HI.read().address != 0

    def read_vbios(self) -> bytes:
        """The VBIOS, in one large read."""
        return self.bar.read(boot.VBIOS_AT, boot.VBIOS_BYTES)


def fuse_version(registers: Registers, fuses: Array[FuseVersion], ucode_id: int) -> int:
    """Which release of a signed program the card still takes, by the program's id."""
    if not 1 <= ucode_id <= len(fuses):
        return 0
    found = fuses[ucode_id - 1].read()
    if found == ALL_ONES:
        registers.check_alive()
        raise BootFailed(
            "the card does not tell which release of its firmware its fuses take",
            cause="a read was not answered: its link is bad, or it sleeps",
            next="reconnect the enclosure, then  exosuit doctor",
        )
    return FuseVersion(check_answer(found, "what its fuses take")).version


def check_answer(value: int, what: str) -> int:
    """`value`, unless the card refused to tell it."""
    if boot.is_refused(value):
        raise BootFailed(
            f"the card refuses to tell {what} (reads {value:#010x})",
            cause="its own firmware never ran: it had no power, or another program holds it",
            next="switch the enclosure off and on, then  exosuit doctor",
            value=value,
        )
    return value
