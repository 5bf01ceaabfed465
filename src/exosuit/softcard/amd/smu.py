"""The SMU: answers messages in both mailboxes once its firmware is loaded; resets the card."""

from __future__ import annotations

from collections.abc import Callable

from exosuit.silicon.amd.chips import Chip
from exosuit.silicon.amd.discovery import HardwareId
from exosuit.silicon.amd.smu import (
    COUNT_LEVELS,
    SMU_METRICS_TABLE,
    Clock,
    ClockArgument,
    DebugMessage,
    LevelAnswer,
    Message,
    Response,
)
from exosuit.softcard.amd.memory import LocalMemory
from exosuit.softcard.registers import Refuse, RegisterFile

VERSION = 0x004E_5500
INTERFACE_VERSION = 0x3D
METRICS_BYTES = 0x200
DEFAULT_POWER_W = 327
MODE1_BY_MESSAGE = frozenset({(13, 0, 0), (13, 0, 7)})
"""Versions that take Mode1Reset in the ordinary mailbox too."""


class Smu:
    """MP1.

    mode1_reset  called for either message that asks for it; the mailbox answers after it
    """

    def __init__(
        self,
        registers: RegisterFile,
        memory: LocalMemory,
        chip: Chip,
        refuse: Refuse,
        *,
        is_silent: Callable[[], bool],
        mode1_reset: Callable[[], None],
    ) -> None:
        self._registers = registers
        self._memory = memory
        self._chip = chip
        self._refuse = refuse
        self._is_silent = is_silent
        self._mode1_reset = mode1_reset
        registers.on_write("MP1_C2PMSG_66", self._message)
        registers.on_write("MP1_C2PMSG_75", self._debug_message)
        self.power_on()

    def power_on(self) -> None:
        self.is_loaded = False
        self.features_on = False
        self.table = 0
        self.power_limit_w = DEFAULT_POWER_W
        self.soft_min_mhz: dict[Clock, int] = {}
        self.soft_max_mhz: dict[Clock, int] = {}

    def load(self) -> None:
        """Its firmware is there: from now on it answers."""
        self.is_loaded = True

    def mhz(self, clock: Clock) -> int:
        """What a clock runs at: the highest level that the limits allow."""
        levels = self._chip.clock_levels_mhz[clock]
        limit = self.soft_max_mhz.get(clock, levels[-1])
        return max([level for level in levels if level <= limit], default=levels[0])

    def _message(self, index: int, number: int) -> int:
        if self._is_silent() or not self.is_loaded:
            return number
        if self._registers.get("MP1_C2PMSG_90") != Response.BUSY:
            self._refuse(f"SMU message {number:#x} with the last response still standing")
        try:
            message = Message(number)
        except ValueError:
            self._refuse(f"SMU message {number:#x}")
            self._registers.put("MP1_C2PMSG_90", Response.UNKNOWN_COMMAND)
            return number
        if message is Message.MODE1_RESET:
            if self._chip.versions[HardwareId.MP1] not in MODE1_BY_MESSAGE:
                self._registers.put("MP1_C2PMSG_90", Response.UNKNOWN_COMMAND)
                return number
            self._mode1_reset()
            self._registers.put("MP1_C2PMSG_90", Response.OK)
            return 0
        response, answer = self._obey(message, self._registers.get("MP1_C2PMSG_82"))
        if response is Response.OK:
            self._registers.put("MP1_C2PMSG_82", answer)
        self._registers.put("MP1_C2PMSG_90", response)
        return number

    def _debug_message(self, index: int, number: int) -> int:
        if self._is_silent() or not self.is_loaded:
            return number
        if number != DebugMessage.MODE1_RESET:
            self._refuse(f"SMU debug message {number:#x}")
            self._registers.put("MP1_C2PMSG_54", Response.UNKNOWN_COMMAND)
            return number
        self._mode1_reset()
        self._registers.put("MP1_C2PMSG_54", Response.OK)
        return 0

    def _obey(self, message: Message, argument: int) -> tuple[Response, int]:
        match message:
            case Message.TEST_MESSAGE:
                return Response.OK, argument + 1 & 0xFFFF_FFFF
            case Message.GET_SMU_VERSION:
                return Response.OK, VERSION
            case Message.GET_DRIVER_IF_VERSION:
                return Response.OK, INTERFACE_VERSION
            case Message.ENABLE_ALL_SMU_FEATURES | Message.DISABLE_ALL_SMU_FEATURES:
                self.features_on = message is Message.ENABLE_ALL_SMU_FEATURES
                return Response.OK, 0
            case Message.GET_RUNNING_SMU_FEATURES_LOW | Message.GET_RUNNING_SMU_FEATURES_HIGH:
                return Response.OK, 0xFFFF_FFFF if self.features_on else 0
            case Message.SET_DRIVER_DRAM_ADDR_HIGH:
                self.table = self.table & 0xFFFF_FFFF | argument << 32
                return Response.OK, 0
            case Message.SET_DRIVER_DRAM_ADDR_LOW:
                self.table = self.table & ~0xFFFF_FFFF | argument
                return Response.OK, 0
            case Message.TRANSFER_TABLE_SMU_TO_DRAM:
                return self._write_table(argument), 0
            case Message.GET_DPM_FREQ_BY_INDEX:
                return self._level(ClockArgument(argument))
            case Message.GET_MIN_DPM_FREQ | Message.GET_MAX_DPM_FREQ:
                clock = ClockArgument(argument).clock
                if clock not in self._chip.clock_levels_mhz:
                    return Response.FAILED, 0
                levels = self._chip.clock_levels_mhz[clock]
                return Response.OK, levels[-1 if message is Message.GET_MAX_DPM_FREQ else 0]
            case Message.SET_SOFT_MIN_BY_FREQ | Message.SET_HARD_MIN_BY_FREQ:
                return self._limit(self.soft_min_mhz, ClockArgument(argument)), 0
            case Message.SET_SOFT_MAX_BY_FREQ | Message.SET_HARD_MAX_BY_FREQ:
                return self._limit(self.soft_max_mhz, ClockArgument(argument)), 0
            case Message.SET_PPT_LIMIT:
                self.power_limit_w = argument & 0xFFFF
                return Response.OK, 0
            case Message.GET_PPT_LIMIT:
                return Response.OK, self.power_limit_w
            case Message.ALLOW_GFX_OFF:
                self._refuse("ALLOW_GFX_OFF: registers of a block without power cannot be read")
                return Response.OK, 0
            case _:
                return Response.OK, 0

    def _level(self, argument: ClockArgument) -> tuple[Response, int]:
        levels = self._chip.clock_levels_mhz.get(argument.clock)
        if levels is None:
            return Response.FAILED, 0
        if argument.value == COUNT_LEVELS:
            return Response.OK, LevelAnswer(value=len(levels))
        if argument.value >= len(levels):
            return Response.FAILED, 0
        return Response.OK, LevelAnswer(value=levels[argument.value])

    def _limit(self, limits: dict[Clock, int], argument: ClockArgument) -> Response:
        if argument.clock not in self._chip.clock_levels_mhz:
            return Response.FAILED
        limits[argument.clock] = argument.value
        return Response.OK

    def _write_table(self, table: int) -> Response:
        place = self._memory.at_mc(self.table, METRICS_BYTES)
        if table != SMU_METRICS_TABLE or place is None:
            self._refuse(f"table {table} to {self.table:#x}")
            return Response.FAILED
        place[:] = bytes(METRICS_BYTES)  # its fields are not described
        return Response.OK
