"""What a channel reads: GPFIFO entries, method headers, and the methods of the host engine.

A GPFIFO entry names a run of dwords, the pushbuffer. In it headers alternate with data: a header
says which method of which subchannel is written, and how the address goes on. Methods are described
as registers are, at their byte addresses; those below 0x100 are the host engine's own on every
subchannel.

Source: NVIDIA/open-gpu-doc `classes/host/clc56f.h` (AMPERE_CHANNEL_GPFIFO_A); Hopper's and
Blackwell's classes have the methods used here at the same places, with wider semaphore addresses.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

from exosuit.datasheet import Block, Word, at, bits, flag
from exosuit.datasheet.registers import SingleField

ENTRY_BYTES = 8
MOST_DWORDS = 1 << 21
"""Of one entry; the length has 21 bits."""
HOST, COMPUTE, COPY = 0, 1, 4
"""Subchannels: any would do, these are the customary ones."""
FIRST_ENGINE_METHOD = 0x100


class GpEntry(Word):
    """One GPFIFO entry. With a length of 0 it is a control entry, `address` an opcode."""

    WIDTH = 64
    fetch = flag(0, "conditional")
    get = bits(39, 2, "address of the first dword >> 2")
    level = flag(41, "subroutine: what everybody sets")
    length = bits(62, 42, "in dwords")
    sync = flag(63, "wait until earlier entries have been executed before fetching")


def entry(address: int, size_bytes: int) -> GpEntry:
    """The entry that runs `size_bytes` of pushbuffer at `address`, which is below 2^40."""
    return GpEntry(get=address >> 2, level=True, length=size_bytes // 4)


class Opcode(IntEnum):
    """How a packet's addresses go on."""

    NOP = 0
    INCREMENT = 1
    CONSTANT = 3
    IMMEDIATE = 4
    INCREMENT_ONCE = 5
    END = 7


class MethodHeader(Word):
    """A header of 0 is a NOP."""

    method = bits(11, 0, "byte address >> 2")
    subchannel = bits(15, 13)
    count = bits(28, 16, "of dwords that follow, or the data itself")
    opcode = bits(31, 29, kind=Opcode)


class SetObject(Word):
    class_id = bits(15, 0)
    engine_id = bits(20, 16)


class SemaphoreOperation(IntEnum):
    ACQUIRE = 0
    RELEASE = 1
    ACQ_STRICT_GEQ = 2
    ACQ_CIRC_GEQ = 3
    ACQ_AND = 4
    ACQ_NOR = 5
    REDUCTION = 6


class SemaphoreReduction(IntEnum):
    IMIN = 0
    IMAX = 1
    IXOR = 2
    IAND = 3
    IOR = 4
    IADD = 5
    INC = 6
    DEC = 7


class SemExecute(Word):
    """The method that acts; the four before it only say on what."""

    operation = bits(2, 0, kind=SemaphoreOperation)
    acquire_switch_tsg = flag(12, "let other channels of the group run while waiting")
    release_wfi = flag(20, "only once the engine of the channel is idle")
    payload_size = flag(24, "64 bits")
    release_timestamp = flag(25, "sixteen bytes: the payload, then the time in ns")
    reduction = bits(30, 27, kind=SemaphoreReduction)
    reduction_format = flag(31, "unsigned")


class SemAddrLo(Word):
    offset = bits(31, 2)


class SemAddrHi(Word):
    offset = bits(24, 0, "8 bits before Hopper")


class Wfi(Word):
    scope = flag(0, "all, not only what the channel has started")


class MemOpD(Word):
    tlb_invalidate_pdb_addr_hi = bits(26, 0)
    operation = bits(31, 27)


class Host(Block):
    """Methods of the host engine."""

    SIZE = FIRST_ENGINE_METHOD
    SET_OBJECT = at(0x00, SetObject)
    NOP = at(0x08, Word)
    NON_STALL_INTERRUPT = at(0x20, Word)
    MEM_OP_A = at(0x28, Word)
    MEM_OP_B = at(0x2C, Word)
    MEM_OP_C = at(0x30, Word)
    MEM_OP_D = at(0x34, MemOpD)
    SET_REFERENCE = at(0x50, Word)
    SEM_ADDR_LO = at(0x5C, SemAddrLo)
    SEM_ADDR_HI = at(0x60, SemAddrHi)
    SEM_PAYLOAD_LO = at(0x64, Word)
    SEM_PAYLOAD_HI = at(0x68, Word)
    SEM_EXECUTE = at(0x6C, SemExecute)
    WFI = at(0x78, Wfi)
    YIELD = at(0x80, Word)
    CLEAR_FAULTED = at(0x84, Word)


class MethodWrite(NamedTuple):
    """One dword for one method."""

    subchannel: int
    method: int
    value: int


def methods(subchannel: int, first: SingleField[Any], *values: int) -> bytes:
    """A packet that writes consecutive methods from `first` on, one dword each."""
    header = MethodHeader(
        opcode=Opcode.INCREMENT,
        count=len(values),
        subchannel=subchannel,
        method=first.description.offset >> 2,
    )
    return struct.pack(f"<{1 + len(values)}I", header, *values)


def wide(value: int) -> tuple[int, int]:
    """A number for a pair of methods that take the upper half first (`..._A` and `..._B`)."""
    return value >> 32, value & 0xFFFF_FFFF


class Malformed(ValueError):
    """A pushbuffer that no channel accepts; `offset` in bytes."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"{reason} at byte {offset:#x} of the pushbuffer")
        self.offset = offset


def read_methods(data: bytes | bytearray | memoryview) -> Iterator[MethodWrite]:
    """What a pushbuffer writes, in order. Raises Malformed at what is none."""
    dwords = memoryview(data).cast("B").cast("I")
    place = 0
    while place < len(dwords):
        header = MethodHeader(dwords[place])
        here, place = place, place + 1
        method, subchannel, count = 4 * header.method, header.subchannel, header.count
        match header.opcode:
            case Opcode.NOP if header == 0:
                continue
            case Opcode.IMMEDIATE:
                yield MethodWrite(subchannel, method, count)
                continue
            case Opcode.INCREMENT:
                most = count
            case Opcode.CONSTANT:
                most = 0
            case Opcode.INCREMENT_ONCE:
                most = 1
            case Opcode.END:
                return
            case _:
                raise Malformed(4 * here, f"the header {int(header):#010x}")
        if place + count > len(dwords):
            raise Malformed(4 * here, f"a packet of {count} dwords runs over the end")
        for k in range(count):
            yield MethodWrite(subchannel, method + 4 * min(k, most), dwords[place + k])
        place += count
