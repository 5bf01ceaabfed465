"""Controls that only GSP firmware is asked: what a kernel driver does for its clients itself.

The host sets channels up and lends the memory for contexts, so it asks the firmware for runlists
and sizes and promotes the buffers. Controls of both routes are in `rm_controls`.

Sources: OGKM 570.144 `src/common/sdk/nvidia/inc/ctrl/ctrl2080/ctrl2080internal.h`,
`ctrl2080fifo.h`, `ctrl2080gpu.h`, `ctrl90f1.h`, `ctrl0080/ctrl0080fifo.h`, `kernel_fifo.h`
(ENGINE_INFO_TYPE). Sizes and offsets checked against tinygrad's tables.
"""

from __future__ import annotations

from enum import IntEnum

from exosuit.datasheet import Struct, array, data, embed, u8, u16, u32, u64


class GspControl(IntEnum):
    FIFO_GET_DEVICE_INFO_TABLE = 0x2080_1112
    GPU_PROMOTE_CTX = 0x2080_012B
    STATIC_KGR_GET_INFO = 0x2080_0A2A
    STATIC_KGR_GET_CONTEXT_BUFFERS_INFO = 0x2080_0A32
    BUS_FLUSH_WITH_SYSMEMBAR = 0x2080_0A70
    VASPACE_COPY_SERVER_RESERVED_PDES = 0x90F1_0106


class EngineInfo(IntEnum):
    """Indices into `DeviceEntry.engine_data`."""

    ENG_DESC = 0
    FIFO_TAG = 1
    RM_ENGINE_TYPE = 2
    RUNLIST = 3


class DeviceEntry(Struct):
    """NV2080_CTRL_FIFO_DEVICE_ENTRY: one engine."""

    SIZE = 0x64
    engine_data = array(u32(), 16)
    pbdma_ids = array(u32(), 2)
    pbdma_fault_ids = array(u32(), 2)
    pbdma_count = u32()
    name = data(16)


class DeviceInfoTable(Struct):
    """NV2080_CTRL_FIFO_GET_DEVICE_INFO_TABLE_PARAMS."""

    SIZE = 0xC8C
    base_index = u32("multiple of 32 that is asked for")
    count = u32()
    more = u8()
    entries = array(embed(DeviceEntry), 32, at=0xC)


class ReservedLevel(Struct):
    """One table of the path to the firmware's part of an address space."""

    SIZE = 24
    address = u64("in local memory")
    size = u64()
    aperture = u32("1 local memory")
    page_shift = u8("what one entry covers")


class CopyReservedPdes(Struct):
    """NV90F1_CTRL_VASPACE_COPY_SERVER_RESERVED_PDES_PARAMS: the part that the firmware may fill."""

    SIZE = 0xB8
    subdevice = u32()
    subdevice_id = u32()
    page_size = u64()
    first = u64("virtual address")
    last = u64("virtual address of the last byte")
    level_count = u32()
    levels = array(embed(ReservedLevel), 6, at=0x28)


class ContextBuffer(Struct):
    SIZE = 8
    size = u32()
    alignment = u32()


class ContextProperty(IntEnum):
    """NV0080_CTRL_FIFO_GET_ENGINE_CONTEXT_PROPERTIES_ENGINE_ID: indices into the table of sizes."""

    GRAPHICS = 0x00
    PATCH = 0x10
    BUNDLE_CB = 0x11
    PAGE_POOL = 0x12
    ATTRIBUTE_CB = 0x13
    RTV_CB = 0x14
    GFXP_POOL = 0x15
    GFXP_CONTROL = 0x16
    FECS_EVENT = 0x17
    PRIV_ACCESS_MAP = 0x18


class EngineContextBuffers(Struct):
    """NV2080_CTRL_INTERNAL_STATIC_GR_CONTEXT_BUFFERS_INFO: sizes by `ContextProperty`."""

    SIZE = 0xD0
    buffers = array(embed(ContextBuffer), 26)


class ContextBuffersInfo(Struct):
    """NV2080_CTRL_INTERNAL_STATIC_GR_GET_CONTEXT_BUFFERS_INFO_PARAMS."""

    SIZE = 0x680
    engines = array(embed(EngineContextBuffers), 8)


class BufferId(IntEnum):
    """NV2080_CTRL_GPU_PROMOTE_CTX_BUFFER_ID: what a promoted buffer is for."""

    MAIN = 0
    PM = 1
    PATCH = 2
    BUNDLE_CB = 3
    PAGE_POOL = 4
    ATTRIBUTE_CB = 5
    RTV_CB = 6
    GFXP_POOL = 7
    GFXP_CONTROL = 8
    FECS_EVENT = 9
    PRIV_ACCESS_MAP = 10
    UNRESTRICTED_MAP = 11
    GLOBAL_MAP = 12


class PromotedBuffer(Struct):
    """NV2080_CTRL_GPU_PROMOTE_CTX_BUFFER_ENTRY; an address that is not given is 0."""

    SIZE = 0x20
    physical = u64("in local memory")
    virtual = u64()
    size = u64("given with the physical address")
    attributes = u32("4 with the physical address")
    buffer_id = u16("`BufferId`")
    initialize = u8()
    not_mapped = u8("there is no virtual address yet")


class PromoteContext(Struct):
    """NV2080_CTRL_GPU_PROMOTE_CTX_PARAMS: up to 16 buffers for the context of one channel."""

    SIZE = 0x230
    engine = u32("NV2080_ENGINE_TYPE_*")
    client = u32()
    channel_id = u32()
    channel_client = u32()
    channel = u32("handle")
    virtual_memory = u32()
    virtual = u64()
    size = u64()
    count = u32()
    entries = array(embed(PromotedBuffer), 16, at=0x30)


class GrInfo(Struct):
    SIZE = 8
    index = u32()
    value = u32()


class EngineGrInfo(Struct):
    """What GR_GET_INFO answers, by index: NV2080_CTRL_GR_INFO_INDEX_*."""

    SIZE = 0x1D0
    values = array(embed(GrInfo), 58)


class StaticGrInfo(Struct):
    """NV2080_CTRL_INTERNAL_STATIC_GR_GET_INFO_PARAMS, firmware 570."""

    SIZE = 0xE80
    engines = array(embed(EngineGrInfo), 8)
