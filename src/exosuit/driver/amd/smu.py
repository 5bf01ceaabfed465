"""The SMU: power and clocks, by messages, and the reset of the whole card.

Sources: Linux `smu_cmn.c`, `smu_v13_0.c`, `smu_v13_0_0_ppt.c`, `smu_v14_0.c`.
"""

from __future__ import annotations

from exosuit.clock import Clock, wait_until
from exosuit.driver.amd import layout
from exosuit.driver.amd.host_data import HostData
from exosuit.driver.amd.registers import Registers
from exosuit.errors import BootFailed
from exosuit.silicon.amd.discovery import HardwareId
from exosuit.silicon.amd.smu import (
    COUNT_LEVELS,
    ClockArgument,
    DebugMessage,
    LevelAnswer,
    Message,
    Response,
)
from exosuit.silicon.amd.smu import Clock as ClockId
from exosuit.units import VramAddress

_DEBUG_RESET = frozenset({(13, 0, 10), (14, 0, 2), (14, 0, 3)})
"""Versions whose mode1 reset is a debug message; the others have one of their own."""
_MOST_LEVELS = 32
"""No clock has so many; a card that says so is not believed."""


class Smu:
    """MP1 of one card."""

    def __init__(self, registers: Registers, clock: Clock) -> None:
        self._registers = registers
        self._smu = registers.smu
        self._clock = clock

    @property
    def answers(self) -> bool:
        """Whether its firmware runs, which it does once somebody has booted the card."""
        return self._send(Message.TEST_MESSAGE, 0, 0.1) == Response.OK

    def start(self, memory: HostData) -> None:
        """Tell it where its tables go, and let it manage power."""
        address = memory.mc(VramAddress(layout.SMU_TABLE))
        self.ask(Message.SET_DRIVER_DRAM_ADDR_HIGH, address >> 32)
        self.ask(Message.SET_DRIVER_DRAM_ADDR_LOW, address & 0xFFFF_FFFF)
        self.ask(Message.ENABLE_ALL_SMU_FEATURES, 0)

    def raise_clocks(self) -> None:
        """Let every clock go as high as it can, and no lower than its highest level."""
        for clock in (ClockId.UCLK, ClockId.FCLK, ClockId.SOCCLK, ClockId.GFXCLK):
            count = self._levels(clock)
            if count:
                self._hold(clock, self._level(clock, count - 1))

    def lower_clocks(self) -> None:
        """Let every clock fall to its lowest level, for an idle card."""
        for clock in (ClockId.UCLK, ClockId.FCLK, ClockId.SOCCLK, ClockId.GFXCLK):
            if self._levels(clock):
                self._hold(clock, self._level(clock, 0))

    def mode1_reset(self) -> bool:
        """Reset the whole card but its PCIe end; whether the SMU took the message."""
        version = self._registers.discovery.version(HardwareId.MP1)
        if version not in _DEBUG_RESET and self._send(Message.MODE1_RESET, 0, 0.5) == Response.OK:
            return True
        self._smu.C2PMSG_54.write(Response.BUSY)
        self._smu.C2PMSG_53.write(0)
        self._smu.C2PMSG_75.write(DebugMessage.MODE1_RESET)
        # The mailbox may go down with everything else before it can answer.
        return wait_until(lambda: self._smu.C2PMSG_54.read() == Response.OK, self._clock, 0.5, 1e-3)

    def ask(self, message: Message, argument: int, timeout_s: float = 5.0) -> int:
        """Send a message; its answer. Raises BootFailed with the reason that the SMU gives."""
        response = self._send(message, argument, timeout_s)
        if response == Response.OK:
            return int(self._smu.C2PMSG_82.read())
        self._registers.check_alive()
        known = {int(member): member.name for member in Response}
        shown = known.get(response, hex(response))
        raise BootFailed(
            f"the card's SMU answers {shown} to {message.name}"
            if response
            else f"the card's SMU does not answer to {message.name}",
            cause="its firmware hangs, or is of a release that does not suit the card",
            next="switch the enclosure off and on, then  exosuit doctor",
            message=message.name,
            response=response,
        )

    def _send(self, message: Message, argument: int, timeout_s: float) -> int:
        self._smu.C2PMSG_90.write(Response.BUSY)
        self._smu.C2PMSG_82.write(argument)
        self._smu.C2PMSG_66.write(message)
        seen = [0]

        def answered() -> bool:
            seen[0] = int(self._smu.C2PMSG_90.read())
            return seen[0] != Response.BUSY

        wait_until(answered, self._clock, timeout_s, 1e-4)
        return seen[0]

    def _levels(self, clock: ClockId) -> int:
        argument = ClockArgument(clock=clock, value=COUNT_LEVELS)
        count = LevelAnswer(self.ask(Message.GET_DPM_FREQ_BY_INDEX, argument)).value
        return count if count <= _MOST_LEVELS else 0

    def _level(self, clock: ClockId, index: int) -> int:
        argument = ClockArgument(clock=clock, value=index)
        return LevelAnswer(self.ask(Message.GET_DPM_FREQ_BY_INDEX, argument)).value & 0xFFFF

    def _hold(self, clock: ClockId, mhz: int) -> None:
        # Boards without a display refuse a minimum for some clocks; the maximum is what counts.
        self._send(Message.SET_SOFT_MIN_BY_FREQ, ClockArgument(clock=clock, value=mhz), 0.02)
        self.ask(Message.SET_SOFT_MAX_BY_FREQ, ClockArgument(clock=clock, value=mhz))
