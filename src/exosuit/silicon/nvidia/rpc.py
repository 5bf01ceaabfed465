"""Messages to and from GSP firmware: queue elements, RPC records, the payload of each function.

A message is one RPC record behind an element header; a longer one goes on in CONTINUATION_RECORD
messages. An answer is the same record with its result filled in. What nobody asked for is an event.
Structures are those of firmware 570.144.

Sources: OGKM 570.144 `src/nvidia/inc/kernel/gpu/gsp/message_queue_priv.h`, `src/nvidia/inc/kernel/
vgpu/rpc_headers.h`, `rpc_global_enums.h`, `src/nvidia/generated/g_rpc-structures.h`,
`inc/kernel/gpu/gsp/gsp_static_config.h` (GspSystemInfo), `gsp_fw_heap.h`. Sizes and offsets checked
against tinygrad's tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from exosuit.datasheet import Struct, Word, array, bits, data, embed, u8, u16, u32, u64, word
from exosuit.silicon.nvidia.gsp import ELEMENT_BYTES


class Element(Struct):
    """GSP_MSG_QUEUE_ELEMENT: stands before the RPC record of each message."""

    SIZE = 0x30
    auth_tag = data(16, "confidential computing only")
    additional_data = data(16)
    checksum = u32("`checksum` of the whole message with this field 0")
    sequence = u32("counts the messages of one queue")
    count = u32("elements that the message takes")
    padding = u32()


MOST_ELEMENTS = 16
SIGNATURE = int.from_bytes(b"VRPC", "little")
VERSION = 3 << 24
PENDING = 0xFFFF_FFFF
"""Result of a record that has not been answered."""


class Record(Struct):
    """rpc_message_header_v03_00."""

    SIZE = 0x20
    version = u32()
    signature = u32()
    length = u32("bytes of this header and its payload")
    function = u32("`Function` or `Event`")
    result = u32("a status code")
    private_result = u32()
    sequence = u32()
    spare = u32()


MOST_PAYLOAD = MOST_ELEMENTS * ELEMENT_BYTES - Element.SIZE - Record.SIZE
"""Bytes of payload in one message."""


def elements(length: int) -> int:
    """Elements that a record of `length` bytes takes, its element header included."""
    return -(-(Element.SIZE + length) // ELEMENT_BYTES)


def checksum(message: bytes | bytearray | memoryview) -> int:
    """XOR of all quadwords of a message, its halves folded; the message is padded with zeros."""
    folded = 0
    padded = bytes(message) + bytes(-len(message) % 8)
    for value in memoryview(padded).cast("Q"):
        folded ^= value
    return folded >> 32 ^ folded & 0xFFFF_FFFF


class Function(IntEnum):
    """NV_VGPU_MSG_FUNCTION_*: what is asked for."""

    ALLOC_MEMORY = 4
    FREE = 10
    UNLOADING_GUEST_DRIVER = 47
    SET_PAGE_DIRECTORY = 54
    GET_GSP_STATIC_INFO = 65
    UPDATE_BAR_PDE = 70
    CONTINUATION_RECORD = 71
    GSP_SET_SYSTEM_INFO = 72
    SET_REGISTRY = 73
    GSP_RM_CONTROL = 76
    GSP_RM_ALLOC = 103


UNANSWERED = frozenset({Function.GSP_SET_SYSTEM_INFO, Function.SET_REGISTRY})
"""Sent before the firmware runs; it takes them without a word."""


class Event(IntEnum):
    """NV_VGPU_MSG_EVENT_*: what the firmware tells unasked."""

    GSP_INIT_DONE = 0x1001
    GSP_RUN_CPU_SEQUENCER = 0x1002
    POST_EVENT = 0x1003
    RC_TRIGGERED = 0x1004
    MMU_FAULT_QUEUED = 0x1005
    OS_ERROR_LOG = 0x1006
    UCODE_LIBOS_PRINT = 0x100C
    PERF_BRIDGELESS_INFO_UPDATE = 0x100F
    GSP_LOCKDOWN_NOTICE = 0x101C
    GSP_POST_NOCAT_RECORD = 0x1020
    RECOVERY_ACTION = 0x1022


class Alloc(Struct):
    """rpc_gsp_rm_alloc_v03_00; the class's parameters follow."""

    SIZE = 0x20
    client = u32()
    parent = u32()
    handle = u32("the caller's choice")
    class_id = u32()
    status = u32()
    parameters_size = u32()
    flags = u32()
    reserved = u32()


class Control(Struct):
    """rpc_gsp_rm_control_v03_00; the command's parameters follow."""

    SIZE = 0x18
    client = u32()
    handle = u32()
    command = u32()
    status = u32()
    parameters_size = u32()
    flags = u32()


class Free(Struct):
    """rpc_free_v03_00: NVOS00_PARAMETERS."""

    SIZE = 0x10
    root = u32()
    parent = u32()
    handle = u32()
    status = u32()


class PteDescriptor(Word):
    """How a list of pages is given."""

    WIDTH = 64
    indirection = bits(1, 0)
    length = bits(31, 16)


class AllocMemory(Struct):
    """rpc_alloc_memory_v13_01; page numbers of 8 bytes each follow."""

    SIZE = 0x38
    client = u32()
    device = u32()
    handle = u32()
    class_id = u32()
    flags = u32()
    pte_adjust = u32()
    format = u32()
    length = u64(at=0x20)
    page_count = u32()
    descriptor = word(PteDescriptor, at=0x30)


class Unloading(Struct):
    """rpc_unloading_guest_driver_v1F_07."""

    SIZE = 8
    in_transition = u8()
    entering_gc6 = u8()
    level = u32("`FAST_UNLOAD` or 0", at=4)


FAST_UNLOAD = 1 << 6


class PageDirectoryFlags(Word):
    """NV0080_CTRL_DMA_SET_PAGE_DIRECTORY_FLAGS."""

    aperture = bits(1, 0, "0 local memory, 1 coherent, 2 non-coherent")
    preserve_pdes = bits(2, 2)
    all_channels = bits(3, 3)
    ignore_channel_busy = bits(4, 4)
    extend_va_space = bits(5, 5)


class SetPageDirectory(Struct):
    """rpc_set_page_directory_v1E_05."""

    SIZE = 0x30
    client = u32()
    device = u32()
    pasid = u32("`NO_PASID`")
    address = u64("of the root table", at=0x10)
    entries = u32("of the root table")
    flags = word(PageDirectoryFlags)
    va_space = u32()
    channel = u32()
    subdevice = u32()
    inner_pasid = u32()


NO_PASID = 0xFFFF_FFFF


class SystemInfo(Struct):
    """GspSystemInfo: what the firmware is told of the host."""

    SIZE = 0x3A0
    registers_address = u64("bus address of BAR 0")
    memory_address = u64("bus address of BAR 1")
    instance_address = u64("bus address of BAR 3")
    io_address = u64()
    bus_device_function = u64()
    max_user_va = u64(at=0x48)
    config_mirror_base = u32()
    config_mirror_size = u32()
    pci_device = u32("vendor in the low half")
    pci_subsystem = u32()
    pci_revision = u32()
    behind_bridge = u8(at=0x7C)
    flr_supported = u8()
    upstream_valid = u8(at=0x89)
    hypervisor = u32(at=0x344)
    is_passthrough = u8()
    host_page_bytes = u64(at=0x398)


class RegistryTable(Struct):
    """PACKED_REGISTRY_TABLE; its entries follow, then their names."""

    SIZE = 8
    size = u32("bytes in all")
    count = u32()


class RegistryEntry(Struct):
    """PACKED_REGISTRY_ENTRY."""

    SIZE = 16
    name_offset = u32("of the name, NUL ended, from the start of the table")
    type = u8("`RegistryType`")
    value = u32("the number, or the offset of longer data", at=8)
    length = u32()


class RegistryType(IntEnum):
    DWORD = 1
    BINARY = 2
    STRING = 3


def pack_registry(values: Mapping[str, int]) -> bytes:
    """The table of numbers by name that SET_REGISTRY carries."""
    names = [name.encode("ascii") + b"\0" for name in values]
    offset = RegistryTable.SIZE + RegistryEntry.SIZE * len(names)
    entries = b""
    for name, value in zip(names, values.values(), strict=True):
        entry = RegistryEntry.make(
            name_offset=offset, type=RegistryType.DWORD, value=value, length=4
        )
        entries += bytes(entry)
        offset += len(name)
    return bytes(RegistryTable.make(size=offset, count=len(names))) + entries + b"".join(names)


def unpack_registry(table: bytes) -> dict[str, int]:
    """Numbers by name; entries of other types are left out. Raises ValueError."""
    head = RegistryTable(table)
    if head.size > len(table) or head.count > len(table) // RegistryEntry.SIZE:
        raise ValueError(f"a registry of {head.count} entries in {len(table)} bytes")
    found: dict[str, int] = {}
    for index in range(head.count):
        entry = RegistryEntry(table, RegistryTable.SIZE + index * RegistryEntry.SIZE)
        end = table.find(b"\0", entry.name_offset)
        if end < 0 or entry.name_offset >= len(table):
            raise ValueError(f"entry {index} has its name outside the registry")
        if entry.type == RegistryType.DWORD:
            found[table[entry.name_offset : end].decode("ascii", "replace")] = entry.value
    return found


class RunSequencer(Struct):
    """rpc_run_cpu_sequencer_v17_00; the commands follow, see `gsp.Sequencer`."""

    SIZE = 0x28
    size_dwords = u32()
    command_dwords = u32()
    saved = array(u32(), 8)


class ErrorLog(Struct):
    """rpc_os_error_log_v17_00: what a kernel driver prints as an Xid."""

    SIZE = 0x10C
    xid = u32("`exceptions.Xid`")
    runlist = u32()
    channel = u32()
    text = data(256, "NUL ended")


class RcTriggered(Struct):
    """rpc_rc_triggered_v17_02: a channel was stopped; a journal may follow."""

    SIZE = 0x30
    engine = u32("NV2080_ENGINE_TYPE_*")
    channel = u32()
    gfid = u32()
    level = u32()
    xid = u32()
    scope = u32()
    partition = u16()
    fault_address_low = u32(at=0x1C)
    fault_address_high = u32()
    fault_type = u32("`rm_controls.FaultType`")
    callback_needed = u8()
    journal_size = u32(at=0x2C)


class PostEvent(Struct):
    """rpc_post_event_v17_00; data may follow."""

    SIZE = 0x20
    client = u32()
    event = u32()
    index = u32()
    value = u32()
    info16 = u16()
    status = u32(at=0x14)
    data_size = u32()
    notify_list = u8()


class Header(Struct):
    """Element header and record as they lie in a queue."""

    SIZE = Element.SIZE + Record.SIZE
    element = embed(Element)
    record = embed(Record)
