"""Controls of the resource manager: what its objects are asked and told, as both routes send it.

Each is a record that names its command; the answer comes back in the same record. A number `0x2080
02 0a` reads: class of the object, interface, message.

Sources: NVIDIA/open-gpu-kernel-modules `src/common/sdk/nvidia/inc/ctrl/` at the tags named in `rm`;
sizes printed by a C compiler from those headers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from exosuit.datasheet import Struct, Word, array, bits, data, embed, flag, i32, u8, u16, u32, u64


class Control(Struct):
    """Parameters of one command."""

    COMMAND: ClassVar[int] = 0


class BuildVersion(Control):
    """NV0000_CTRL_CMD_SYSTEM_GET_BUILD_VERSION_V2, on the client."""

    COMMAND = 0x0000013E
    SIZE = 1032
    driver_version = data(256, "text, NUL ended: `580.142`")
    version = data(256)
    branch = data(256)
    title = data(256)
    changelist = u32()
    official_changelist = u32()


class GpuIdInfo(Control):
    """NV0000_CTRL_CMD_GPU_GET_ID_INFO_V2, on the client: from the id to the instance."""

    COMMAND = 0x00000205
    SIZE = 32
    gpu_id = u32("asked")
    gpu_flags = u32()
    device_instance = u32()
    subdevice_instance = u32()
    sli_status = u32()
    board_id = u32()
    gpu_instance = u32()
    numa_id = i32()


class ClassList(Control):
    """NV0080_CTRL_CMD_GPU_GET_CLASSLIST, on the device; asked first with no list for the count."""

    COMMAND = 0x00800201
    SIZE = 16
    count = u32()
    address = u64("of `count` u32 in the caller's memory", at=8)


class ClassListV2Of570(Control):
    """NV0080_CTRL_CMD_GPU_GET_CLASSLIST_V2 to branch 575, on the device: the list in the record."""

    COMMAND = 0x00800292
    SIZE = 404
    count = u32()
    classes = array(u32(), 100)


class ClassListV2(Control):
    """From branch 580 on."""

    COMMAND = 0x00800292
    SIZE = 804
    count = u32()
    classes = array(u32(), 200)


class GpuName(Control):
    """NV2080_CTRL_CMD_GPU_GET_NAME_STRING to branch 590, on the subdevice."""

    COMMAND = 0x20800110
    SIZE = 132
    flags = u32("0 for ASCII")
    text = data(64, "NUL ended; in Unicode it would take 128")


class GpuNameOf595(GpuName):
    """From branch 595 on there is no Unicode."""

    SIZE = 68


class GidFlags(Word):
    """NV2080_GPU_CMD_GPU_GET_GID_FLAGS."""

    is_binary = flag(1)


class GpuUuid(Control):
    """NV2080_CTRL_CMD_GPU_GET_GID_INFO, on the subdevice: what UVM knows the GPU by."""

    COMMAND = 0x2080014A
    SIZE = 268
    index = u32()
    flags = u32("`GidFlags`")
    length = u32("16 for a binary one")
    uuid = data(16)


class GrInfoIndex(IntEnum):
    """NV2080_CTRL_GR_INFO_INDEX. Litter values are the architecture's maxima, not this card's."""

    SM_VERSION = 0x0C
    MAX_WARPS_PER_SM = 0x0D
    LITTER_NUM_GPCS = 0x14
    LITTER_NUM_TPC_PER_GPC = 0x17
    LITTER_NUM_SM_PER_TPC = 0x20


class InfoEntry(Struct):
    """One question and its answer."""

    SIZE = 8
    index = u32()
    value = u32()


class GrRoute(Struct):
    """NV2080_CTRL_GR_ROUTE_INFO."""

    SIZE = 16
    flags = u32()
    route = u64(at=8)


class GrInfo(Control):
    """NV2080_CTRL_CMD_GR_GET_INFO, on the subdevice."""

    COMMAND = 0x20801201
    SIZE = 32
    count = u32()
    address = u64("of `count` `InfoEntry` in the caller's memory", at=8)
    route = embed(GrRoute)


class SmOrder(Control):
    """NV2080_CTRL_CMD_GR_GET_GLOBAL_SM_ORDER, on the subdevice: the SMs that this card has."""

    COMMAND = 0x2080121B
    SIZE = 9240
    sm_count = u16(at=9216)
    tpc_count = u16()
    route = embed(GrRoute, at=9224)


class SmOrderOf575(Control):
    """Branch 575: seven numbers per SM."""

    COMMAND = 0x2080121B
    SIZE = 7192
    sm_count = u16(at=7168)
    tpc_count = u16()
    route = embed(GrRoute, at=7176)


class SmOrderOf570(Control):
    """Branch 570: six numbers per SM."""

    COMMAND = 0x2080121B
    SIZE = 6168
    sm_count = u16(at=6144)
    tpc_count = u16()
    route = embed(GrRoute, at=6152)


class FbInfoIndex(IntEnum):
    """NV2080_CTRL_FB_INFO_INDEX; sizes in KiB."""

    TOTAL_RAM_SIZE = 0x08
    HEAP_SIZE = 0x09
    HEAP_FREE = 0x16
    USABLE_RAM_SIZE = 0x20


class FbInfoOf570(Control):
    """NV2080_CTRL_CMD_FB_GET_INFO_V2 to branch 575, on the subdevice."""

    COMMAND = 0x20801303
    SIZE = 460
    count = u32()
    entries = array(embed(InfoEntry), 57)


class FbInfo(Control):
    """From branch 580 on."""

    COMMAND = 0x20801303
    SIZE = 1028
    count = u32()
    entries = array(embed(InfoEntry), 128)


class FlushFlags(Word):
    """NV2080_CTRL_FB_FLUSH_GPU_CACHE_FLAGS."""

    aperture = bits(1, 0, "0 local memory, 1 system, 2 peer")
    write_back = flag(2)
    invalidate = flag(3)
    full_cache = flag(4)
    fb_flush = flag(5)


class FlushGpuCache(Control):
    """NV2080_CTRL_CMD_FB_FLUSH_GPU_CACHE, on the subdevice."""

    COMMAND = 0x2080130E
    SIZE = 4024
    address_count = u32(at=0xFA0)
    address_alignment = u32()
    block_bytes = u64()
    flags = u32("`FlushFlags`")


class BoostFlags(Word):
    """NV2080_CTRL_PERF_BOOST_FLAGS."""

    command = bits(1, 0, "2 is BOOST_TO_MAX")
    cuda = flag(4)
    asynchronous = flag(5)
    high_priority = flag(6)


class PerfBoost(Control):
    """NV2080_CTRL_CMD_PERF_BOOST, on the subdevice: full clocks at once."""

    COMMAND = 0x2080200A
    SIZE = 8
    flags = u32("`BoostFlags`")
    duration = u32("seconds; all ones is for as long as the client lives")


class WorkSubmitToken(Control):
    """NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN, on a channel: what rings its doorbell."""

    COMMAND = 0xC36F0108
    SIZE = 4
    token = u32()


class ScheduleOf570(Control):
    """NVA06C_CTRL_CMD_GPFIFO_SCHEDULE of branch 570, on a channel group."""

    COMMAND = 0xA06C0101
    SIZE = 2
    enable = u8()
    skip_submit = u8()


class Schedule(ScheduleOf570):
    """From branch 575 on."""

    SIZE = 3
    skip_enable = u8()


class ScheduleChannelOf570(Control):
    """NVA06F_CTRL_CMD_GPFIFO_SCHEDULE of branch 570: a channel without a group."""

    COMMAND = 0xA06F0103
    SIZE = 2
    enable = u8()
    skip_submit = u8()


class ScheduleChannel(ScheduleChannelOf570):
    """From branch 575 on."""

    SIZE = 3
    skip_enable = u8()


class BindChannel(Control):
    """NVA06F_CTRL_CMD_BIND: the engine of a channel without a group."""

    COMMAND = 0xA06F0104
    SIZE = 4
    engine_type = u32()


class SmError(Struct):
    """NV83DE_SM_ERROR_STATE_REGISTERS: what one SM reports."""

    SIZE = 48
    global_esr = u32()
    warp_esr = u32()
    warp_pc32 = u32()
    global_report_mask = u32()
    warp_report_mask = u32()
    esr_address = u64(at=0x18)
    warp_pc = u64()
    cga_esr = u32()
    cga_report_mask = u32()


class MmuFaultInfo(Struct):
    """NV83DE_MMU_FAULT_INFO: whether there was one; `MmuFaults` tells where."""

    SIZE = 8
    valid = u8()
    info = u32(at=4)


class SmErrors(Control):
    """NV83DE_CTRL_CMD_DEBUG_READ_ALL_SM_ERROR_STATES, on a debugger."""

    COMMAND = 0x83DE030C
    SIZE = 4824
    LARGEST: ClassVar[int] = 100
    channel = u32("handle of the channel that is asked about")
    sm_count = u32("how many are wanted, `LARGEST` at most")
    errors = array(embed(SmError), 100)
    mmu_fault_info = u32("deprecated")
    mmu_fault = embed(MmuFaultInfo)
    first_sm = u32()


class FaultType(IntEnum):
    """NV_PFAULT_FAULT_TYPE: why a translation failed."""

    PDE = 0x0
    PDE_SIZE = 0x1
    PTE = 0x2
    VA_LIMIT_VIOLATION = 0x3
    UNBOUND_INST_BLOCK = 0x4
    PRIV_VIOLATION = 0x5
    RO_VIOLATION = 0x6
    WO_VIOLATION = 0x7
    PITCH_MASK_VIOLATION = 0x8
    WORK_CREATION = 0x9
    UNSUPPORTED_APERTURE = 0xA
    COMPRESSION_FAILURE = 0xB
    UNSUPPORTED_KIND = 0xC
    REGION_VIOLATION = 0xD
    POISONED = 0xE
    ATOMIC_VIOLATION = 0xF


class AccessType(IntEnum):
    """NV_PFAULT_ACCESS_TYPE: of virtual accesses, and of physical ones from 8 on."""

    READ = 0x0
    WRITE = 0x1
    ATOMIC = 0x2
    PREFETCH = 0x3
    ATOMIC_WEAK = 0x4
    PHYSICAL_READ = 0x8
    PHYSICAL_WRITE = 0x9
    PHYSICAL_ATOMIC = 0xA
    PHYSICAL_PREFETCH = 0xB


class MmuFault(Struct):
    """NV83DE_CTRL_DEBUG_READ_MMU_FAULT_INFO_ENTRY."""

    SIZE = 16
    address = u64()
    fault_type = u32("`FaultType`")
    access_type = u32("`AccessType`")


class MmuFaults(Control):
    """NV83DE_CTRL_CMD_DEBUG_READ_MMU_FAULT_INFO, on a debugger: the latest faults of a context."""

    COMMAND = 0x83DE0328
    SIZE = 72
    LARGEST: ClassVar[int] = 4
    faults = array(embed(MmuFault), 4)
    count = u32()
