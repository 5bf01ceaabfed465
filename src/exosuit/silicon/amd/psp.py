"""The PSP: mailbox registers, boot loader commands, and the ring of commands to its firmware.

First the boot loader in ROM takes signed pieces one by one through C2PMSG_35/36, the last of them
the secure OS; then commands go by a ring in local memory. Addresses are MC addresses.

Sources: Linux `psp_v13_0.c`, `psp_v14_0.c`, `amdgpu_psp.c`, `psp_gfx_if.h`, `asic_reg/mp/
mp_13_0_0_*.h`, `mp_14_0_2_*.h`.
"""

from __future__ import annotations

from enum import IntEnum

from exosuit.datasheet import Block, Struct, Word, array, at, bits, data, flag, u8, u16, u32, word

STAGING_ALIGNMENT = 1 << 20
RING_FRAME_DWORDS = 0x10


class BootloaderCommand(IntEnum):
    """Written to C2PMSG_35: which piece lies at the address in C2PMSG_36."""

    LOAD_SYSDRV = 0x1_0000
    LOAD_SOSDRV = 0x2_0000
    LOAD_KEY_DATABASE = 0x8_0000
    LOAD_SOCDRV = 0xB_0000
    LOAD_DBGDRV = 0xC_0000
    LOAD_INTFDRV = 0xD_0000
    LOAD_RASDRV = 0xE_0000
    LOAD_IPKEYMGRDRV = 0xF_0000
    LOAD_SPL = 0x1000_0000


class BootloaderStatus(Word):
    """C2PMSG_35 as read."""

    error = bits(7, 0)
    ready = flag(31)


class ControlCommand(IntEnum):
    """Written to C2PMSG_64, with the ring type for the creation of a ring."""

    CREATE_RING_UM = 0x1_0000
    CREATE_RING_KM = 0x2_0000
    DESTROY_RINGS = 0x3_0000
    MODE1_RESET = 0x7_0000


class ControlStatus(Word):
    """C2PMSG_64 as read."""

    status = bits(15, 0)
    command = bits(30, 16)
    ready = flag(31)


class FirmwareReady(Word):
    """C2PMSG_33: whether the card's own firmware has finished its start."""

    ready = flag(31)


class Psp(Block):
    """MP0 mailbox: MP0_SMN_C2PMSG_n on RDNA3, MPASP_SMN_C2PMSG_n on RDNA4, at the same places."""

    UNIT = 4
    C2PMSG_33 = at(0x61, FirmwareReady, access="ro")
    C2PMSG_35 = at(0x63, Word, "boot loader: command, then `BootloaderStatus`")
    C2PMSG_36 = at(0x64, Word, "boot loader: MC address >> 20")
    C2PMSG_58 = at(0x7A, Word, "version of the secure OS", access="ro")
    C2PMSG_64 = at(0x80, Word, "ring control: command, then `ControlStatus`")
    C2PMSG_67 = at(0x83, Word, "write pointer of the ring, in dwords")
    C2PMSG_69 = at(0x85, Word, "ring address, low")
    C2PMSG_70 = at(0x86, Word, "ring address, high")
    C2PMSG_71 = at(0x87, Word, "ring size in bytes")
    C2PMSG_81 = at(0x91, Word, "not 0 once the secure OS runs", access="ro")


class RingFrame(Struct):
    """One command in the ring."""

    SIZE = 64
    command_low = u32("MC address of the command buffer")
    command_high = u32()
    command_size = u32()
    fence_low = u32("where `fence_value` is written when the command is done")
    fence_high = u32()
    fence_value = u32()
    sid_low = u32()
    sid_high = u32()
    vmid = u8()
    frame_type = u8()
    reserved1 = u16()
    reserved2 = array(u32(), 7)


class CommandId(IntEnum):
    SETUP_TMR = 0x05
    LOAD_IP_FW = 0x06
    DESTROY_TMR = 0x07
    LOAD_TOC = 0x20
    AUTOLOAD_RLC = 0x21
    SRIOV_SPATIAL_PART = 0x27


class CommandStatus(IntEnum):
    OK = 0
    UNKNOWN_COMMAND = 0x100
    BAD_PARAMETERS = 0xFFFF_0006
    NOT_SUPPORTED = 0xFFFF_000A


class TmrFlags(Word):
    sriov_enabled = flag(0)
    virt_phy_addr = flag(1)


class Command(Struct):
    """psp_gfx_cmd_resp, the command buffer: what is asked, and in the same place the answer.

    Each command lays its own arguments over the 784 bytes from 0x1C.
    """

    SIZE = 1024
    buffer_size = u32()
    version = u32()
    command_id = u32()
    response_low = u32()
    response_high = u32()
    response_offset = u32()
    response_size = u32()
    arguments = data(784, at=0x1C)
    status = u32(at=0x360)
    session_id = u32()
    firmware_low = u32()
    firmware_high = u32()
    tmr_size = u32("answer to LOAD_TOC")


class SetupTmr(Struct):
    """Arguments of SETUP_TMR: where the PSP keeps what it has verified."""

    buffer_low = u32("MC address")
    buffer_high = u32()
    buffer_size = u32()
    flags = word(TmrFlags)
    system_low = u32("offset in local memory")
    system_high = u32()


class LoadIpFirmware(Struct):
    """Arguments of LOAD_IP_FW."""

    firmware_low = u32("MC address")
    firmware_high = u32()
    firmware_size = u32()
    firmware_type = u32("GFX_FW_TYPE_*")


class LoadToc(Struct):
    """Arguments of LOAD_TOC."""

    toc_low = u32("MC address")
    toc_high = u32()
    toc_size = u32()
