"""The FSP of Hopper and Blackwell: how it is spoken to, and the message that starts the GSP.

The FSP checks and runs the FMC on the GSP; the host only hands over addresses. A message is put
into its EMEM by a port that counts up by itself, and announced by queue registers; the answer comes
back the same way. Packets carry an MCTP word, an NVDM word and a payload.

Sources: open-gpu-kernel-modules 570.144 `dev_fsp_pri.h` (gh100), `kern_fsp_gh100.c`,
`fsp_mctp_format.h`, `fsp_nvdm_format.h`, `gspifpub.h`; nouveau `fsp/gh100.c`.
"""

from __future__ import annotations

from enum import IntEnum

from exosuit.datasheet import Block, Struct, Word, at, bits, data, flag, u16, u32, u64

MESSAGE_LIMIT = 1024
"""Bytes of the FSP's channel: the longest message."""
HASH_BYTES, KEY_BYTES, SIGNATURE_BYTES = 48, 384, 384


class EmemPort(Word):
    """NV_PFSP_EMEMC."""

    offset = bits(7, 2)
    block = bits(15, 8)
    increment_on_write = flag(24)
    increment_on_read = flag(25)


class Fsp(Block):
    """NV_PFSP, at 0x8F0000 in BAR0; offsets are from the start of BAR0."""

    SOURCE = "gh100 dev_fsp_pri.h"
    COMMON_SCRATCH_2 = at(0x8F_0320, Word, count=4, stride=4)
    COMMON_SCRATCH_3 = at(0x8F_0330, Word, count=4, stride=4)
    EMEMC = at(0x8F_2AC0, EmemPort, count=8, stride=8)
    EMEMD = at(0x8F_2AC4, Word, count=8, stride=8)
    QUEUE_HEAD = at(0x8F_2C00, Word, "offset of the message; writing it sends", count=8, stride=8)
    QUEUE_TAIL = at(0x8F_2C04, Word, "offset of its last dword", count=8, stride=8)
    MSGQ_HEAD = at(0x8F_2C80, Word, "offset of the answer", count=8, stride=8)
    MSGQ_TAIL = at(0x8F_2C84, Word, "offset of its last dword; equal when read", count=8, stride=8)


class Mctp(Word):
    """The first dword of a packet."""

    tag = bits(2, 0)
    destination = bits(15, 8)
    source = bits(23, 16)
    sequence = bits(29, 28)
    end = flag(30)
    start = flag(31)


class Nvdm(Word):
    """The second dword of a message."""

    kind = bits(6, 0, "0x7e: PCI vendor-defined")
    vendor = bits(23, 8)
    type = bits(31, 24, "NvdmType")


MCTP_VENDOR = 0x7E


class NvdmType(IntEnum):
    COT = 0x14
    """Chain of trust: start the GSP."""
    FSP_RESPONSE = 0x15


class ChainOfTrust(Struct):
    """NVDM_PAYLOAD_COT, packed: what starts the GSP."""

    SIZE = 0x35C
    version = u16("1 on GH100, 2 on Blackwell")
    size = u16()
    fmc_address = u64("bus address of the FMC's image")
    frts_host_address = u64()
    frts_host_size = u32()
    frts_from_end = u64("distance of FRTS from the end of VRAM")
    frts_size = u32()
    hash = data(HASH_BYTES, "SHA-384 of the FMC")
    public_key = data(KEY_BYTES)
    signature = data(SIGNATURE_BYTES)
    boot_arguments = u64("bus address of `gsp.FmcBootParameters`")


COT_VERSION = 2


class Response(Struct):
    """The payload of an answer of type FSP_RESPONSE, behind MCTP and NVDM words."""

    SIZE = 12
    task = u32()
    command = u32("NvdmType of what is answered")
    error = u32("0: done")


def message(type: NvdmType, payload: bytes) -> bytes:
    """One message of one packet, padded to dwords."""
    head = Mctp(start=True, end=True).encode()
    head += Nvdm(kind=MCTP_VENDOR, vendor=0x10DE, type=type).encode()
    whole = head + payload
    return whole + bytes(-len(whole) % 4)
