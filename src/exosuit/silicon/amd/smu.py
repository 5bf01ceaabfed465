"""The SMU: clocks, power and reset, asked by messages through MP1's mailboxes.

The caller clears the response, writes the argument, writes the message, and polls the response;
an answer comes back in the argument register. A second mailbox of the same shape takes debug
messages and works when nothing else does.

Sources: Linux `smu_v13_0_0_ppsmc.h`, `smu_v14_0_2_ppsmc.h`, `smu_cmn.c`, `smu_v13_0.c`,
`asic_reg/mp/mp_11_0_offset.h`.
"""

from __future__ import annotations

from enum import IntEnum

from exosuit.datasheet import Block, Word, at, bits, flag


class Response(IntEnum):
    BUSY = 0x00
    OK = 0x01
    REJECTED_BUSY = 0xFC
    REJECTED_PREREQUISITE = 0xFD
    UNKNOWN_COMMAND = 0xFE
    FAILED = 0xFF


class Message(IntEnum):
    """The same numbers on 13.0.0, 13.0.7, 13.0.10 and 14.0.2; 14 has no Mode1Reset here."""

    TEST_MESSAGE = 0x01
    GET_SMU_VERSION = 0x02
    GET_DRIVER_IF_VERSION = 0x03
    SET_ALLOWED_FEATURES_MASK_LOW = 0x04
    SET_ALLOWED_FEATURES_MASK_HIGH = 0x05
    ENABLE_ALL_SMU_FEATURES = 0x06
    DISABLE_ALL_SMU_FEATURES = 0x07
    GET_RUNNING_SMU_FEATURES_LOW = 0x0C
    GET_RUNNING_SMU_FEATURES_HIGH = 0x0D
    SET_DRIVER_DRAM_ADDR_HIGH = 0x0E
    SET_DRIVER_DRAM_ADDR_LOW = 0x0F
    TRANSFER_TABLE_SMU_TO_DRAM = 0x12
    TRANSFER_TABLE_DRAM_TO_SMU = 0x13
    USE_DEFAULT_PPTABLE = 0x14
    SET_SOFT_MIN_BY_FREQ = 0x19
    SET_SOFT_MAX_BY_FREQ = 0x1A
    SET_HARD_MIN_BY_FREQ = 0x1B
    SET_HARD_MAX_BY_FREQ = 0x1C
    GET_MIN_DPM_FREQ = 0x1D
    GET_MAX_DPM_FREQ = 0x1E
    GET_DPM_FREQ_BY_INDEX = 0x1F
    SET_WORKLOAD_MASK = 0x24
    ALLOW_GFX_OFF = 0x28
    DISALLOW_GFX_OFF = 0x29
    PREPARE_MP1_FOR_UNLOAD = 0x2E
    MODE1_RESET = 0x2F
    SET_PPT_LIMIT = 0x32
    GET_PPT_LIMIT = 0x33


class DebugMessage(IntEnum):
    MODE1_RESET = 2


class Clock(IntEnum):
    GFXCLK = 0
    SOCCLK = 1
    UCLK = 2
    FCLK = 3


class ClockArgument(Word):
    """Argument of the clock messages."""

    value = bits(15, 0, "MHz, or the index of a level")
    clock = bits(31, 16, kind=Clock)


COUNT_LEVELS = 0xFF
"""As an index of GET_DPM_FREQ_BY_INDEX: how many levels there are."""


class LevelAnswer(Word):
    """Answer to GET_DPM_FREQ_BY_INDEX."""

    value = bits(30, 0, "MHz, or the count")
    discrete = flag(31)


SMU_METRICS_TABLE = 5


class MessageWord(Word):
    message = bits(31, 0, kind=Message)


class DebugMessageWord(Word):
    message = bits(31, 0, kind=DebugMessage)


class ResponseWord(Word):
    response = bits(31, 0, kind=Response)


class Smu(Block):
    """MP1 mailboxes: 66/82/90 for messages, 75/53/54 for debug messages."""

    UNIT = 4
    C2PMSG_53 = at(0x275, Word, "debug argument")
    C2PMSG_54 = at(0x276, ResponseWord, "debug response")
    C2PMSG_66 = at(0x282, MessageWord)
    C2PMSG_75 = at(0x28B, DebugMessageWord)
    C2PMSG_82 = at(0x292, Word, "argument, and what the answer gives back")
    C2PMSG_90 = at(0x29A, ResponseWord)
