"""The first look at a card: which chip, how much memory, in what state; and its reset.

Which chip it is BOOT_42 says, not the PCI id. A card that anybody has booted since its last reset
has WPR2 up: its firmware's queues were in memory that is somebody else's now, so it cannot be taken
over; it is reset, and is cold then. Resets go from the mildest to asking for the power switch, each
tried once: a bus that fails to come back does not come back sooner for being asked again.

Sources: open-gpu-kernel-modules 570.144 `kernel_gsp_tu102.c`, `gpu_gh100.c`; tinygrad `nvdev.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from exosuit.clock import Clock, wait_until
from exosuit.driver.boot import poll
from exosuit.driver.config_space import ConfigSpace
from exosuit.driver.nvidia.bare_metal.policies import POLICIES, Policy
from exosuit.driver.nvidia.bare_metal.registers import EarlyRegisters, Registers, check_answer
from exosuit.errors import BootFailed, UnsupportedCard
from exosuit.link.function import Bar, PciFunction
from exosuit.silicon.nvidia.boot import (
    GFW_DONE,
    GFW_TIMEOUT_S,
    REGISTER_BAR,
    REGISTER_BYTES,
    VRAM_BAR,
    BusTuring,
    is_refused,
)
from exosuit.silicon.nvidia.chips import Architecture, Boot42, Chip, find_chip
from exosuit.silicon.pci import ALL_ONES
from exosuit.units import MiB, human_bytes

_LEAST_VRAM_MIB, _MOST_VRAM_MIB = 1024, 1 << 20


class State(Enum):
    """In which state a card was found."""

    COLD = "cold"
    """Nobody has booted it since its power came on, or since its last reset."""
    USED = "used"
    """Somebody has: it must be reset."""


@dataclass(frozen=True)
class Bars:
    """The two BARs that are used."""

    registers: Bar
    vram: Bar


def map_bars(link: PciFunction) -> Bars:
    """The BARs, that of VRAM as large as it gets. Raises BootFailed where one is not usable."""
    link.resize_bar(VRAM_BAR)
    bars = Bars(link.bar(REGISTER_BAR), link.bar(VRAM_BAR))
    for bar, least, what in (
        (bars.registers, REGISTER_BYTES, "registers"),
        (bars.vram, 64 * MiB, "memory"),
    ):
        if bar.size < least:
            raise BootFailed(
                f"BAR {bar.index} of {link.name}, the window onto its {what}, has"
                f" {human_bytes(bar.size)}",
                cause="the computer gave it no address, or too small a window: some enclosures and"
                " sleep do that",
                next="restart the computer with the enclosure switched on, then  exosuit doctor",
                bar=bar.index,
                size=bar.size,
            )
    return bars


def find_out(link: PciFunction, bars: Bars) -> Chip:
    """Which chip this is. Raises LinkLost where nobody answers, UnsupportedCard."""
    early = EarlyRegisters(link, bars.registers)
    early.check_alive()
    identity = early.bus.BOOT_42.read()
    if identity == ALL_ONES or is_refused(identity):
        early.check_alive()
    if early.bus.BOOT_1.read().vgpu:
        raise _unsupported(link, identity, "it is a virtual GPU, which its host drives")
    chip = find_chip(identity)
    if chip is None:
        raise _unsupported(link, identity, _unknown(identity))
    if chip.refused:
        raise _unsupported(link, identity, f"{chip.name} is not booted: {chip.refused}")
    return chip


def policy_of(chip: Chip) -> Policy:
    """How cards of this family are treated; every chip that is not refused has a policy."""
    return POLICIES[chip.architecture]


def _unknown(identity: Boot42) -> str:
    code = identity.architecture
    if code == Architecture.TURING.value:
        return "it is a Turing chip; what is driven begins with Ampere (RTX 30)"
    if code < Architecture.TURING.value:
        return "it is older than Turing (a GTX card or the like), which has no GSP to boot"
    return "its chip is newer than this version of exosuit, or its registers read nonsense"


def _unsupported(link: PciFunction, identity: int, cause: str) -> UnsupportedCard:
    return UnsupportedCard(
        f"the card {link.name} cannot be booted (chip id {identity:#010x})",
        cause=cause,
        next="exosuit list   (which cards are known)",
        identity=int(identity),
    )


def wait_started(registers: Registers, clock: Clock) -> None:
    """Wait for the card's own firmware, which runs after power-on and after a reset."""
    board = registers.board

    def progress() -> int:
        if isinstance(board, BusTuring) and not board.GFW_MASK.read().read_level_0:
            return 0
        return board.GFW_PROGRESS.read().progress

    poll(
        progress, lambda seen: seen == GFW_DONE, clock, GFW_TIMEOUT_S,
        "its own start-up (GFW)", registers.check_alive, 1e-2,
    )  # fmt: skip


def read_vram_bytes(registers: Registers) -> int:
    """How much memory the card has."""
    size = check_answer(registers.bus.VRAM_MIB.read(), "the size of its memory")
    if not _LEAST_VRAM_MIB // 4 <= size <= _MOST_VRAM_MIB:
        registers.check_alive()
        raise BootFailed(
            f"the card says that it has {size:#x} MiB of memory",
            cause="its start-up has not finished, or failed",
            next="switch the enclosure off and on, then  exosuit doctor",
            value=int(size),
        )
    return size * MiB


def find_state(registers: Registers) -> State:
    """In which state the card is.

    WPR2 is up from FWSEC's run, or the FMC's, until a reset; a RISC-V core that runs without it is
    a boot that somebody began.
    """
    if registers.wpr2_is_up:
        return State.USED
    status = registers.gsp.RISCV_CPUCTL.read()
    if is_refused(status):  # the core is in lockdown: an FSP boot is under way, or ended in it
        return State.COLD
    return State.USED if status.active_stat else State.COLD


def reset(
    link: PciFunction, config: ConfigSpace, registers: Registers, policy: Policy, clock: Clock
) -> None:
    """Start the card over. Raises BootFailed if it does not.

    DMA goes first: whatever the card still does must not reach memory that is ours no more.
    """
    config.let_dma(False)
    link.reset()
    clock.sleep(policy.settle_s)

    def answers() -> bool:
        return link.read_config(0, 2) not in (0xFFFF, 0x0001)

    if not wait_until(answers, clock, 30.0, 0.1):
        registers.check_alive()
    config.restore()


def check_started_over(link: PciFunction, registers: Registers) -> None:
    """Raise BootFailed if a reset left the firmware of before."""
    if find_state(registers) is State.COLD:
        return
    raise BootFailed(
        f"the card {link.name} was reset, but the firmware of before still holds its memory",
        cause="the reset did not reach it: some enclosures and hosts only pretend to reset",
        next="switch the enclosure off and on (unplugging is not enough), then try again",
        wpr2=int(registers.bus.WPR2_ADDR_HI.read()),
    )
