"""The resource manager: parameters of its objects and its status codes, as both routes send them.

RM is a tree of objects, each of a class, under a client. Through NVIDIA's kernel driver these
records go by ioctl, on a bare card by RPC to the firmware: the records are the same. Those that
grew from one branch of the driver to the next are subclasses here; `branches` says who has which.

Sources: NVIDIA/open-gpu-kernel-modules 570.144, 575.64.05, 580.142, 590.48.01, 595.45.04:
`src/common/sdk/nvidia/inc/{nvos.h,nvstatuscodes.h,class/,alloc/alloc_channel.h}`; sizes printed by
a C compiler from those headers.
"""

from __future__ import annotations

from enum import IntEnum

from exosuit.datasheet import Struct, Word, array, bits, data, embed, flag, u8, u16, u32, u64, word


class Status(IntEnum):
    """NV_STATUS: what every call answers with. Those that this project can meet."""

    OK = 0x00
    BUSY_RETRY = 0x03
    CARD_NOT_PRESENT = 0x05
    GPU_IS_LOST = 0x0F
    GPU_IN_FULLCHIP_RESET = 0x10
    GPU_UUID_NOT_FOUND = 0x12
    ILLEGAL_ACTION = 0x16
    IN_USE = 0x17
    INSERT_DUPLICATE_NAME = 0x19
    INSUFFICIENT_RESOURCES = 0x1A
    INSUFFICIENT_PERMISSIONS = 0x1B
    INVALID_ADDRESS = 0x1E
    INVALID_ARGUMENT = 0x1F
    INVALID_BASE = 0x20
    INVALID_CHANNEL = 0x21
    INVALID_CLASS = 0x22
    INVALID_CLIENT = 0x23
    INVALID_COMMAND = 0x24
    INVALID_DEVICE = 0x26
    INVALID_FLAGS = 0x29
    INVALID_LIMIT = 0x2E
    INVALID_OBJECT_HANDLE = 0x33
    INVALID_OBJECT_NEW = 0x34
    INVALID_OBJECT_OLD = 0x35
    INVALID_OBJECT_PARENT = 0x36
    INVALID_OFFSET = 0x37
    INVALID_PARAM_STRUCT = 0x3A
    INVALID_POINTER = 0x3D
    INVALID_REQUEST = 0x3F
    INVALID_STATE = 0x40
    NO_MEMORY = 0x51
    NOT_READY = 0x55
    NOT_SUPPORTED = 0x56
    OBJECT_NOT_FOUND = 0x57
    OPERATING_SYSTEM = 0x59
    OUT_OF_RANGE = 0x5B
    RC_ERROR = 0x60
    RESET_REQUIRED = 0x62
    STATE_IN_USE = 0x63
    TIMEOUT = 0x65
    UVM_ADDRESS_IN_USE = 0x68
    LIB_RM_VERSION_MISMATCH = 0x6A
    FATAL_ERROR = 0x71
    FABRIC_MANAGER_NOT_PRESENT = 0x7A
    NVLINK_FABRIC_NOT_READY = 0x81
    NVLINK_FABRIC_FAILURE = 0x82
    GENERIC = 0xFFFF


def status_name(status: int) -> str:
    """`NO_MEMORY (0x51)`, or the number alone where it has no name here."""
    try:
        return f"{Status(status).name} ({status:#x})"
    except ValueError:
        return f"status {status:#x}"


class ClientParams(Struct):
    """NV0000_ALLOC_PARAMETERS: a client by RPC; through the kernel driver a client takes none."""

    SIZE = 120
    client = u32()
    process_id = u32()
    process_name = data(100)
    os_pid_info = u64(at=0x70)


class DeviceParams(Struct):
    """NV0080_ALLOC_PARAMETERS."""

    SIZE = 56
    device_id = u32("instance of the GPU, from GPU_GET_ID_INFO_V2")
    client_share = u32("handle of the client")
    target_client = u32()
    target_device = u32()
    flags = u32()
    va_space_size = u64(at=0x18)
    va_start_internal = u64()
    va_limit_internal = u64()
    va_mode = u32("0: several address spaces, made by hand")


class SubdeviceParams(Struct):
    """NV2080_ALLOC_PARAMETERS."""

    SIZE = 4
    subdevice_id = u32()


class VirtualMemoryParams(Struct):
    """NV_MEMORY_VIRTUAL_ALLOCATION_PARAMS, class 0x70."""

    SIZE = 24
    offset = u64()
    limit = u64()
    va_space = u32("handle; 0 is the device's own")


class UsermodeParams(Struct):
    """NV_HOPPER_USERMODE_A_PARAMS, optional: without it the page is mapped through BAR0."""

    SIZE = 2
    bar1_mapping = u8()
    privileged = u8()


class VaSpaceFlags(Word):
    """NV_VASPACE_ALLOCATION_FLAGS."""

    is_externally_owned = flag(3, "UVM, or whoever sets the page directory, owns the page tables")
    enable_page_faulting = flag(6)


class VaSpaceParams570(Struct):
    """NV_VASPACE_ALLOCATION_PARAMETERS to branch 575, class 0x90F1."""

    SIZE = 48
    index = u32()
    flags = word(VaSpaceFlags)
    va_size = u64()
    va_start_internal = u64()
    va_limit_internal = u64()
    big_page_size = u32()
    va_base = u64(at=0x28)


class VaSpaceParams(VaSpaceParams570):
    """From branch 580 on."""

    SIZE = 56
    pasid = u32()


class ChannelGroupParams(Struct):
    """NV_CHANNEL_GROUP_ALLOCATION_PARAMETERS: a time-slice group, class 0xA06C."""

    SIZE = 20
    object_error = u32()
    object_ecc_error = u32()
    va_space = u32()
    engine_type = u32("1 is graphics and compute")
    is_calling_context_vgpu_plugin = u8()


class ContextShareParams(Struct):
    """NV_CTXSHARE_ALLOCATION_PARAMETERS: which address space a channel uses, class 0x9067."""

    SIZE = 12
    va_space = u32()
    flags = u32("1 is SUBCONTEXT_ASYNC")
    subcontext_id = u32()


SUBCONTEXT_ASYNC = 1


class MemoryDescription(Struct):
    """NV_MEMORY_DESC_PARAMS."""

    SIZE = 24
    base = u64()
    size = u64()
    address_space = u32()
    cache_attribute = u32()


class ChannelParams(Struct):
    """NV_CHANNEL_ALLOC_PARAMS, for every GPFIFO class, to branch 595."""

    SIZE = 368
    object_error = u32("handle of memory for error notifiers")
    object_buffer = u32()
    gpfifo_offset = u64("GPU virtual address of the ring")
    gpfifo_entries = u32()
    flags = u32()
    context_share = u32()
    va_space = u32()
    userd_memory = array(u32(), 8, "handles; the first is used")
    userd_offset = array(u64(), 8, "of the control block in that memory, in bytes")
    engine_type = u32()
    channel_id = u32()
    subdevice_id = u32()
    object_ecc_error = u32()
    instance_memory = embed(MemoryDescription)
    userd = embed(MemoryDescription)
    ramfc_memory = embed(MemoryDescription)
    method_buffer = embed(MemoryDescription)
    physical_channel_group = u32()
    internal_flags = u32()
    error_notifier = embed(MemoryDescription)
    ecc_error_notifier = embed(MemoryDescription)
    process_id = u32()
    subprocess_id = u32()
    encrypt_iv = array(u32(), 3)
    decrypt_iv = array(u32(), 3)
    hmac_nonce = array(u32(), 8)
    tpc_config_id = u32()


class ChannelParamsOf610(Struct):
    """From branch 610 on: a handle more before the control block's. What a driver sets."""

    SIZE = 376
    object_error = u32()
    object_buffer = u32()
    gpfifo_offset = u64()
    gpfifo_entries = u32()
    flags = u32()
    context_share = u32()
    va_space = u32()
    handle_va_space = u32()
    userd_memory = array(u32(), 8)
    userd_offset = array(u64(), 8, at=0x48)
    engine_type = u32()
    channel_id = u32()
    subdevice_id = u32()
    object_ecc_error = u32()


class DebuggerParams(Struct):
    """NV83DE_ALLOC_PARAMETERS: who reads the errors of a compute object."""

    SIZE = 12
    debugger_client = u32("obsolete")
    app_client = u32()
    compute_object = u32()


class MemoryType(IntEnum):
    """NVOS32_TYPE."""

    IMAGE = 0
    NOTIFIER = 13


class MemoryFlags(Word):
    """NVOS32_ALLOC_FLAGS."""

    ignore_bank_placement = flag(0)
    alignment_force = flag(8)
    memory_handle_provided = flag(14)
    map_not_required = flag(15)
    persistent_vidmem = flag(16)


class PageSize(IntEnum):
    """NVOS32_ATTR_PAGE_SIZE."""

    DEFAULT = 0
    SMALL = 1
    BIG = 2
    HUGE = 3


class Location(IntEnum):
    """NVOS32_ATTR_LOCATION."""

    VRAM = 0
    PCI = 1


class Physicality(IntEnum):
    """NVOS32_ATTR_PHYSICALITY."""

    DEFAULT = 0
    NONCONTIGUOUS = 1
    CONTIGUOUS = 2
    ALLOW_NONCONTIGUOUS = 3


class Coherency(IntEnum):
    """NVOS32_ATTR_COHERENCY."""

    UNCACHED = 0
    CACHED = 1
    WRITE_COMBINE = 2
    WRITE_BACK = 5


class MemoryAttributes(Word):
    """NVOS32_ATTR."""

    page_size = bits(24, 23, kind=PageSize)
    location = bits(26, 25, kind=Location)
    physicality = bits(28, 27, kind=Physicality)
    coherency = bits(31, 29, kind=Coherency)


class MemoryAttributes2(Word):
    """NVOS32_ATTR2."""

    zbc = bits(1, 0, "1 is PREFER_NO_ZBC")
    gpu_cacheable = bits(3, 2, "1 yes, 2 no")
    page_size_huge = bits(21, 20, "1 is 2 MiB")


class MemoryParams(Struct):
    """NV_MEMORY_ALLOCATION_PARAMS: local memory (class 0x40) or the kernel's own (0x3E)."""

    SIZE = 128
    owner = u32()
    kind = u32("`MemoryType`")
    flags = word(MemoryFlags)
    width = u32()
    height = u32()
    pitch = u32()
    attributes = word(MemoryAttributes)
    attributes2 = word(MemoryAttributes2)
    format = u32()
    compression_coverage = u32()
    zcull_coverage = u32()
    range_low = u64(at=0x30)
    range_high = u64()
    size = u64()
    alignment = u64()
    offset = u64()
    limit = u64()
    address = u64()
    ctag_offset = u32()
    va_space = u32()
    internal_flags = u32()
    tag = u32()
    numa_node = u32()


class Notification(Struct):
    """NvNotification: what the driver writes when it has stopped a channel, all ones as status.

    Source: `nvgputypes.h`; `kernel_rc_notification.c` fills `info32` with the error's number.
    """

    SIZE = 16
    time_ns = u64()
    info32 = u32("`exceptions.Xid`")
    info16 = u16("engine")
    status = u16("0xffff once it is written")
