"""Calls of `/dev/nvidiactl` and `/dev/nvidiaN`: the escapes of NVIDIA's kernel driver for Linux.

A request is numbered `3 << 30 | size << 16 | 'F' << 8 | number`, the size of its record included,
and the driver refuses any other size. The call itself answers 0; what happened to it stands in the
record's `status`.

Sources: NVIDIA/open-gpu-kernel-modules `src/nvidia/arch/nvalloc/unix/include/` (`nv-ioctl.h`,
`nv_escape.h`, `nv-unix-nvos-params-wrappers.h`), `kernel-open/common/inc/nv-ioctl-numbers.h`,
`nvos.h`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from exosuit.datasheet import Struct, Word, bits, data, embed, flag, i32, u8, u16, u32, u64, word

CARDS_LISTED = 32
"""NV_MAX_DEVICES: how many `CardInfo` the driver fills at most."""


class Escape(IntEnum):
    """The number of a call."""

    RM_ALLOC_MEMORY = 0x27
    RM_FREE = 0x29
    RM_CONTROL = 0x2A
    RM_ALLOC = 0x2B
    RM_MAP_MEMORY = 0x4E
    RM_UNMAP_MEMORY = 0x4F
    RM_MAP_MEMORY_DMA = 0x57
    RM_UNMAP_MEMORY_DMA = 0x58
    CARD_INFO = 200
    REGISTER_FD = 201
    CHECK_VERSION_STR = 210
    SYS_PARAMS = 214


class Request(Word):
    """The number that ioctl is given."""

    number = bits(7, 0, kind=Escape)
    magic = bits(15, 8, "'F'")
    size = bits(29, 16, "of the record, in bytes")
    direction = bits(31, 30, "3: read and written")


def request_of(escape: Escape, size: int) -> Request:
    """The request for a record of `size` bytes."""
    return Request(number=escape, magic=ord("F"), size=size, direction=3)


class PciInfo(Struct):
    SIZE = 12
    domain = u32()
    bus = u8()
    slot = u8()
    function = u8()
    vendor = u16(at=8)
    device = u16()


class CardInfo(Struct):
    """nv_ioctl_card_info_t: one card that the driver has; CARD_INFO takes an array of them."""

    SIZE = 72
    valid = u8()
    pci = embed(PciInfo, at=4)
    gpu_id = u32()
    interrupt_line = u16()
    register_address = u64(at=0x18)
    register_size = u64()
    fb_address = u64()
    fb_size = u64("of the aperture in bytes")
    minor_number = u32("N of /dev/nvidiaN")
    device_name = data(10)


class RegisterFd(Struct):
    """nv_ioctl_register_fd_t, on /dev/nvidiaN: whose client may use it."""

    SIZE = 4
    control_fd = i32()


class RmFree(Struct):
    """NVOS00_PARAMETERS."""

    SIZE = 16
    root = u32()
    parent = u32()
    old = u32()
    status = u32()


class RmAlloc(Struct):
    """NVOS21_PARAMETERS."""

    SIZE = 32
    root = u32()
    parent = u32()
    new = u32("0: the driver picks a handle and answers with it")
    class_id = u32()
    params = u64("address of the parameters of the class")
    params_size = u32()
    status = u32()


class RmAllocWide(Struct):
    """NVOS64_PARAMETERS: the same with rights; the driver tells them apart by size."""

    SIZE = 48
    root = u32()
    parent = u32()
    new = u32()
    class_id = u32()
    params = u64()
    rights_requested = u64()
    params_size = u32()
    flags = u32()
    status = u32()


class RmControl(Struct):
    """NVOS54_PARAMETERS."""

    SIZE = 32
    client = u32()
    object = u32()
    command = u32()
    flags = u32()
    params = u64("address of the parameters of the command")
    params_size = u32()
    status = u32()


class PinFlags(Word):
    """NVOS02_FLAGS."""

    physicality = bits(7, 4, "1 is NONCONTIGUOUS")
    coherency = bits(15, 12, "1 is CACHED")
    mapping = bits(31, 30, "1 is NO_MAP")


class RmAllocMemory(Struct):
    """nv_ioctl_nvos02_parameters_with_fd, on /dev/nvidiaN: pins pages of the host."""

    SIZE = 56
    root = u32()
    parent = u32()
    new = u32("chosen by the caller")
    class_id = u32()
    flags = word(PinFlags)
    pages = u64("address of the pages in the caller", at=0x18)
    limit = u64("size - 1")
    status = u32()
    fd = i32("-1 for none", at=0x30)


class CachingType(IntEnum):
    """NVOS33_FLAGS_CACHING_TYPE."""

    CACHED = 0
    UNCACHED = 1
    WRITE_COMBINED = 2
    WRITE_BACK = 5
    DEFAULT = 6


class MapFlags(Word):
    """NVOS33_FLAGS."""

    caching_type = bits(25, 23, kind=CachingType)


class RmMapMemory(Struct):
    """nv_ioctl_nvos33_parameters_with_fd: lets the next mmap of `fd` show this memory."""

    SIZE = 56
    client = u32()
    device = u32()
    memory_handle = u32()
    offset = u64(at=0x10)
    length = u64()
    linear_address = u64()
    status = u32()
    flags = word(MapFlags)
    fd = i32(at=0x30)


class RmUnmapMemory(Struct):
    """NVOS34_PARAMETERS."""

    SIZE = 32
    client = u32()
    device = u32()
    memory_handle = u32()
    linear_address = u64(at=0x10)
    status = u32()
    flags = u32()


class MapDmaFlags(Word):
    """NVOS46_FLAGS."""

    cache_snoop = flag(4)
    page_size = bits(11, 8, "1 is 4 KiB")
    dma_offset_fixed = flag(15)


class RmMapMemoryDmaOf570(Struct):
    """NVOS46_PARAMETERS to branch 575."""

    SIZE = 56
    client = u32()
    device = u32()
    dma = u32("handle of the virtual memory object")
    memory_handle = u32()
    offset = u64()
    length = u64()
    flags = word(MapDmaFlags)
    dma_offset = u64(at=0x28)
    status = u32()


class RmMapMemoryDma(Struct):
    """From branch 580 on."""

    SIZE = 64
    client = u32()
    device = u32()
    dma = u32()
    memory_handle = u32()
    offset = u64()
    length = u64()
    flags = word(MapDmaFlags)
    flags2 = u32()
    kind_override = u32()
    dma_offset = u64(at=0x30)
    status = u32()


class RmUnmapMemoryDma(Struct):
    """NVOS47_PARAMETERS."""

    SIZE = 48
    client = u32()
    device = u32()
    dma = u32()
    memory_handle = u32()
    flags = u32()
    dma_offset = u64(at=0x18)
    size = u64()
    status = u32()


class VersionCheck(Struct):
    """nv_ioctl_rm_api_version_t."""

    SIZE = 72
    COMMAND_QUERY: ClassVar[int] = ord("2")
    command = u32()
    reply = u32("1: recognised")
    version = data(64, "text, NUL ended")


class SystemParams(Struct):
    """nv_ioctl_sys_params_t."""

    SIZE = 8
    memory_block_size = u64()
