"""What GSP firmware is given to boot: WPR meta, libos arguments, message queues, FMC parameters.

All of it lies in memory that the card reaches by bus addresses. The signed boot code reads the WPR
meta, finds the firmware image through three levels of page lists and puts it where the meta says;
the firmware then reads the libos arguments at the address in its mailboxes, and there finds the
log buffers and, as RMARGS, the place of the two message queues.

Sources: OGKM 570.144 `src/nvidia/arch/nvalloc/common/inc/gsp/gsp_fw_wpr_meta.h`,
`gsp_init_args.h`, `uproc/libos/include/libos_init_args.h`, `inc/gsp/gsp_fw_fmc.h`,
`src/common/shared/msgq/inc/msgq/msgq_priv.h`, `message_queue_cpu.c`. Sizes and offsets checked
against tinygrad's tables.
"""

from __future__ import annotations

from enum import IntEnum

from exosuit.datasheet import Struct, data, embed, u8, u32, u64

PAGE = 4096
WPR_MAGIC = 0xDC3A_AE21_371A_60B3
WPR_REVISION = 1
WPR_VERIFIED = 0xA0A0_A0A0_A0A0_A0A0
SIGNATURE_BYTES = 0x1000
RADIX_ENTRIES = PAGE // 8
"""Addresses in one page of the image's page lists."""


class WprMeta(Struct):
    """GspFwWprMeta: where the image is, and where its pieces go in local memory.

    On Hopper and Blackwell the offsets are the firmware's own business and only sizes are given.
    """

    SIZE = 256
    magic = u64()
    revision = u64()
    radix3_address = u64("bus address of the first page list")
    radix3_size = u64("bytes of the image")
    bootloader_address = u64("bus address")
    bootloader_size = u64()
    bootloader_code_offset = u64()
    bootloader_data_offset = u64()
    bootloader_manifest_offset = u64()
    signature_address = u64("bus address")
    signature_size = u64()
    reserved_start = u64("gspFwRsvdStart: offset in local memory, like all that follow")
    non_wpr_heap_offset = u64()
    non_wpr_heap_size = u64()
    wpr_start = u64()
    heap_offset = u64()
    heap_size = u64()
    image_offset = u64("gspFwOffset")
    boot_binary_offset = u64()
    frts_offset = u64()
    frts_size = u64()
    wpr_end = u64()
    fb_size = u64("bytes of local memory")
    vga_workspace_offset = u64()
    vga_workspace_size = u64()
    boot_count = u64()
    crash_queue_address = u64(at=0xE0)
    crash_queue_size = u32()
    vf_partition_count = u8(at=0xF0)
    flags = u8()
    pmu_reserved_size = u32(at=0xF4)
    verified = u64("the boot code writes WPR_VERIFIED", at=0xF8)


class RegionKind(IntEnum):
    NONE = 0
    CONTIGUOUS = 1
    RADIX3 = 2


class RegionPlace(IntEnum):
    NONE = 0
    SYSTEM = 1
    FB = 2


class LibosRegion(Struct):
    """LibosMemoryRegionInitArgument: one region that the firmware is told of."""

    SIZE = 32
    id = u64("`libos_id` of its name; 0 ends the array")
    address = u64()
    size = u64()
    kind = u8("`RegionKind`")
    place = u8("`RegionPlace`")


LOG_BYTES = 0x1_0000
LOGS = ("LOGINIT", "LOGINTR", "LOGRM", "LOGMNOC", "LOGKRNL")
ARGUMENTS = "RMARGS"
"""Names of the regions in the order in which drivers list them."""


def libos_id(name: str) -> int:
    """The name as the number that `LibosRegion.id` holds: its ASCII bytes, first the highest."""
    return int.from_bytes(name.encode("ascii"), "big")


class QueueArguments(Struct):
    """MESSAGE_QUEUE_INIT_ARGUMENTS."""

    SIZE = 32
    shared_address = u64("bus address of the page that begins the list of pages")
    page_count = u32("entries in that list, one per page of the whole block")
    command_offset = u64("of the command queue from the start of the block", at=0x10)
    status_offset = u64()


class GspArguments(Struct):
    """GSP_ARGUMENTS_CACHED: what RMARGS holds."""

    SIZE = 0x48
    queues = embed(QueueArguments)
    old_level = u32("suspend and resume")
    resume_flags = u32()
    in_transition = u8()
    gpu_instance = u32(at=0x2C)
    dmem_stack = u8(at=0x30)
    profiler_address = u64(at=0x38)
    profiler_size = u64()


QUEUE_BYTES = 0x4_0000
ELEMENT_BYTES = 0x1000
QUEUE_ELEMENTS = QUEUE_BYTES // ELEMENT_BYTES - 1
"""The first page of a queue holds its headers."""


class QueueHeader(Struct):
    """msgqTxHeader: kept by the writer of a queue, at its start.

    Behind it lies the read pointer of the *other* queue, since who writes one reads the other.
    """

    SIZE = 32
    version = u32()
    size = u32("bytes of the queue, headers included")
    element_size = u32()
    element_count = u32()
    write_pointer = u32("next element to be written")
    flags = u32("1: the peer's read pointer is behind its own header")
    read_offset = u32("of the read pointer that the writer of this queue keeps")
    entry_offset = u32("of the elements; 0 until the queue is ready")


READ_POINTER = 0x20
"""Offset of the read pointer in a queue's first page: msgqRxHeader."""


class FmcInit(Struct):
    SIZE = 8
    regkeys = u32()


class FmcTarget(IntEnum):
    """GSP_DMA_TARGET."""

    LOCAL = 0
    COHERENT = 1
    NON_COHERENT = 2


class FmcBootRm(Struct):
    """GSP_ACR_BOOT_GSP_RM_PARAMS: where the WPR meta lies."""

    SIZE = 0x20
    target = u32("`FmcTarget`")
    meta_size = u32()
    meta_address = u64()
    carveout_offset = u64()
    carveout_size = u32()
    is_rm_boot = u8()


class FmcRm(Struct):
    """GSP_RM_PARAMS: where the libos arguments lie."""

    SIZE = 0x10
    target = u32()
    arguments_address = u64(at=8)


class FmcSpdm(Struct):
    SIZE = 0x18
    target = u32()
    payload_address = u64(at=8)
    payload_size = u32()


class FmcBootParameters(Struct):
    """GSP_FMC_BOOT_PARAMS: what the FSP's message points to, on Hopper and Blackwell."""

    SIZE = 0x50
    init = embed(FmcInit)
    boot = embed(FmcBootRm)
    rm = embed(FmcRm)
    spdm = embed(FmcSpdm)


class RiscvDescriptor(Struct):
    """RM_RISCV_UCODE_DESC: header of the bootloader file."""

    SIZE = 0x54
    version = u32()
    bootloader_offset = u32()
    bootloader_size = u32()
    parameters_offset = u32()
    parameters_size = u32()
    elf_offset = u32()
    elf_size = u32()
    app_version = u32("written to the falcon's OS register")
    manifest_offset = u32()
    manifest_size = u32()
    monitor_data_offset = u32()
    monitor_data_size = u32()
    monitor_code_offset = u32()
    monitor_code_size = u32()
    monitor_enabled = u32()
    rest = data(24)


class Sequencer(IntEnum):
    """Commands that firmware has the host run: GSP_SEQ_BUF_OPCODE."""

    REG_WRITE = 0
    REG_MODIFY = 1
    REG_POLL = 2
    DELAY_US = 3
    REG_STORE = 4
    CORE_RESET = 5
    CORE_START = 6
    CORE_WAIT_FOR_HALT = 7
    CORE_RESUME = 8


SEQUENCER_ARGUMENTS = {
    Sequencer.REG_WRITE: 2,
    Sequencer.REG_MODIFY: 3,
    Sequencer.REG_POLL: 5,
    Sequencer.DELAY_US: 1,
    Sequencer.REG_STORE: 2,
    Sequencer.CORE_RESET: 0,
    Sequencer.CORE_START: 0,
    Sequencer.CORE_WAIT_FOR_HALT: 0,
    Sequencer.CORE_RESUME: 0,
}
"""Dwords behind each command: (address, value), (address, mask, value), (address, mask, value,
timeout, error), (microseconds), (address, slot). Source: OGKM `rmgspseq.h`."""
