"""Calls of `/dev/nvidia-uvm`: unified virtual memory, which owns the page tables of a client.

The request is the bare number, with no size in it; the answer stands in the record's `status`.
A GPU is known by its uuid, an address space by the file that it was registered on.

Sources: NVIDIA/open-gpu-kernel-modules `kernel-open/nvidia-uvm/{uvm_ioctl.h,uvm_linux_ioctl.h,
uvm_types.h}`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from exosuit.datasheet import Struct, array, data, embed, i32, u8, u32, u64


class MappingType(IntEnum):
    """UvmGpuMappingType."""

    DEFAULT = 0
    READ_WRITE_ATOMIC = 1
    READ_WRITE = 2
    READ_ONLY = 3


class UvmCall(Struct):
    """A record with the request that it belongs to."""

    REQUEST: ClassVar[int] = 0


class Initialize(UvmCall):
    """UVM_INITIALIZE: the file becomes an address space of this process."""

    REQUEST = 0x30000001
    SIZE = 16
    flags = u64()
    status = u32()


class Deinitialize(UvmCall):
    """UVM_DEINITIALIZE."""

    REQUEST = 0x30000002
    SIZE = 0


class MmInitialize(UvmCall):
    """UVM_MM_INITIALIZE, on a second file: ties the address space to the life of the process."""

    REQUEST = 75
    SIZE = 8
    uvm_fd = i32()
    status = u32()


class RegisterGpu(UvmCall):
    """UVM_REGISTER_GPU."""

    REQUEST = 37
    SIZE = 40
    uuid = data(16)
    numa_enabled = u8()
    numa_node = i32(at=0x14)
    control_fd = i32("-1 for none")
    client = u32()
    smc_partition = u32()
    status = u32()


class UnregisterGpu(UvmCall):
    """UVM_UNREGISTER_GPU."""

    REQUEST = 38
    SIZE = 20
    uuid = data(16)
    status = u32()


class RegisterGpuVaSpace(UvmCall):
    """UVM_REGISTER_GPU_VASPACE: UVM takes over the page tables of a VA space."""

    REQUEST = 25
    SIZE = 32
    uuid = data(16)
    control_fd = i32()
    client = u32()
    va_space = u32()
    status = u32()


class UnregisterGpuVaSpace(UvmCall):
    """UVM_UNREGISTER_GPU_VASPACE."""

    REQUEST = 26
    SIZE = 20
    uuid = data(16)
    status = u32()


class RegisterChannel(UvmCall):
    """UVM_REGISTER_CHANNEL: maps what the channel's engine keeps, in a range of addresses."""

    REQUEST = 27
    SIZE = 56
    uuid = data(16)
    control_fd = i32()
    client = u32()
    channel = u32()
    base = u64(at=0x20)
    length = u64()
    status = u32()


class UnregisterChannelOf570(UvmCall):
    """UVM_UNREGISTER_CHANNEL to branch 580."""

    REQUEST = 28
    SIZE = 28
    uuid = data(16)
    client = u32()
    channel = u32()
    status = u32()


class UnregisterChannel(UvmCall):
    """From branch 590 on."""

    REQUEST = 28
    SIZE = 12
    client = u32()
    channel = u32()
    status = u32()


class EnablePeerAccess(UvmCall):
    """UVM_ENABLE_PEER_ACCESS."""

    REQUEST = 29
    SIZE = 36
    uuid_a = data(16)
    uuid_b = data(16)
    status = u32()


class CreateExternalRange(UvmCall):
    """UVM_CREATE_EXTERNAL_RANGE: addresses that UVM will map what RM has allocated at."""

    REQUEST = 73
    SIZE = 24
    base = u64()
    length = u64()
    status = u32()


class GpuMapping(Struct):
    """UvmGpuMappingAttributes: how one GPU sees a mapping."""

    SIZE = 36
    uuid = data(16)
    mapping_type = u32("`MappingType`")
    caching_type = u32()
    format_type = u32()
    element_bits = u32()
    compression_type = u32()


class MapExternalAllocation(UvmCall):
    """UVM_MAP_EXTERNAL_ALLOCATION: what RM has allocated becomes visible at `base`."""

    REQUEST = 33
    SIZE = 9264
    base = u64()
    length = u64()
    offset = u64("in the memory")
    mappings = array(embed(GpuMapping), 256)
    mapping_count = u64()
    control_fd = i32()
    client = u32()
    memory_handle = u32()
    status = u32()


class UnmapExternal(UvmCall):
    """UVM_UNMAP_EXTERNAL."""

    REQUEST = 66
    SIZE = 40
    base = u64()
    length = u64()
    uuid = data(16)
    status = u32()


class FreeOf570(UvmCall):
    """UVM_FREE to branch 580: a range and its mappings."""

    REQUEST = 34
    SIZE = 24
    base = u64()
    length = u64()
    status = u32()


class Free(UvmCall):
    """From branch 590 on."""

    REQUEST = 34
    SIZE = 16
    base = u64()
    status = u32()
