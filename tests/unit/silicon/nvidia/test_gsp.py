"""What GSP firmware is given and told, against the tables that a hardware-proven driver uses."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinygrad.runtime.autogen import nv, nv_570

from exosuit.datasheet import Struct
from exosuit.silicon.nvidia import gsp, gsp_controls, rpc

SAME: dict[type[Struct], tuple[Any, dict[str, str]]] = {
    gsp.WprMeta: (
        nv.GspFwWprMeta,
        {
            "radix3_address": "sysmemAddrOfRadix3Elf",
            "radix3_size": "sizeOfRadix3Elf",
            "bootloader_address": "sysmemAddrOfBootloader",
            "bootloader_manifest_offset": "bootloaderManifestOffset",
            "signature_address": "sysmemAddrOfSignature",
            "signature_size": "sizeOfSignature",
            "reserved_start": "gspFwRsvdStart",
            "non_wpr_heap_size": "nonWprHeapSize",
            "wpr_start": "gspFwWprStart",
            "heap_offset": "gspFwHeapOffset",
            "heap_size": "gspFwHeapSize",
            "image_offset": "gspFwOffset",
            "boot_binary_offset": "bootBinOffset",
            "frts_offset": "frtsOffset",
            "frts_size": "frtsSize",
            "wpr_end": "gspFwWprEnd",
            "fb_size": "fbSize",
            "vga_workspace_size": "vgaWorkspaceSize",
            "boot_count": "bootCount",
            "crash_queue_address": "sysmemAddrOfCrashReportQueue",
            "crash_queue_size": "sizeOfCrashReportQueue",
            "vf_partition_count": "gspFwHeapVfPartitionCount",
            "flags": "flags",
            "pmu_reserved_size": "pmuReservedSize",
            "verified": "verified",
        },
    ),
    gsp.LibosRegion: (
        nv.LibosMemoryRegionInitArgument,
        {"id": "id8", "address": "pa", "size": "size", "kind": "kind", "place": "loc"},
    ),
    gsp.GspArguments: (
        nv.GSP_ARGUMENTS_CACHED,
        {
            "queues": "messageQueueInitArguments",
            "old_level": "srInitArguments",
            "gpu_instance": "gpuInstance",
            "dmem_stack": "bDmemStack",
            "profiler_address": "profilerArgs",
        },
    ),
    gsp.QueueArguments: (
        nv.MESSAGE_QUEUE_INIT_ARGUMENTS,
        {
            "shared_address": "sharedMemPhysAddr",
            "page_count": "pageTableEntryCount",
            "command_offset": "cmdQueueOffset",
            "status_offset": "statQueueOffset",
        },
    ),
    gsp.QueueHeader: (
        nv.msgqTxHeader,
        {
            "version": "version",
            "size": "size",
            "element_size": "msgSize",
            "element_count": "msgCount",
            "write_pointer": "writePtr",
            "flags": "flags",
            "read_offset": "rxHdrOff",
            "entry_offset": "entryOff",
        },
    ),
    gsp.FmcBootParameters: (
        nv.GSP_FMC_BOOT_PARAMS,
        {
            "init": "initParams",
            "boot": "bootGspRmParams",
            "rm": "gspRmParams",
            "spdm": "gspSpdmParams",
        },
    ),
    gsp.FmcBootRm: (
        nv.GSP_ACR_BOOT_GSP_RM_PARAMS,
        {
            "target": "target",
            "meta_size": "gspRmDescSize",
            "meta_address": "gspRmDescOffset",
            "carveout_offset": "wprCarveoutOffset",
            "carveout_size": "wprCarveoutSize",
            "is_rm_boot": "bIsGspRmBoot",
        },
    ),
    gsp.FmcRm: (nv.GSP_RM_PARAMS, {"target": "target", "arguments_address": "bootArgsOffset"}),
    gsp.FmcSpdm: (
        nv.GSP_SPDM_PARAMS,
        {"payload_address": "payloadBufferOffset", "payload_size": "payloadBufferSize"},
    ),
    gsp.RiscvDescriptor: (
        nv.RM_RISCV_UCODE_DESC,
        {
            "app_version": "appVersion",
            "manifest_offset": "manifestOffset",
            "monitor_data_offset": "monitorDataOffset",
            "monitor_code_offset": "monitorCodeOffset",
        },
    ),
    rpc.Element: (
        nv.GSP_MSG_QUEUE_ELEMENT,
        {"checksum": "checkSum", "sequence": "seqNum", "count": "elemCount"},
    ),
    rpc.Record: (
        nv.rpc_message_header_v,
        {
            "version": "header_version",
            "signature": "signature",
            "length": "length",
            "function": "function",
            "result": "rpc_result",
            "private_result": "rpc_result_private",
            "sequence": "sequence",
        },
    ),
    rpc.Alloc: (
        nv.rpc_gsp_rm_alloc_v,
        {
            "client": "hClient",
            "parent": "hParent",
            "handle": "hObject",
            "class_id": "hClass",
            "status": "status",
            "parameters_size": "paramsSize",
            "flags": "flags",
        },
    ),
    rpc.Control: (
        nv.rpc_gsp_rm_control_v,
        {
            "client": "hClient",
            "handle": "hObject",
            "command": "cmd",
            "status": "status",
            "parameters_size": "paramsSize",
            "flags": "flags",
        },
    ),
    rpc.AllocMemory: (
        nv.rpc_alloc_memory_v,
        {
            "handle": "hMemory",
            "class_id": "hClass",
            "flags": "flags",
            "format": "format",
            "length": "length",
            "page_count": "pageCount",
            "descriptor": "pteDesc",
        },
    ),
    rpc.Unloading: (
        nv.rpc_unloading_guest_driver_v,
        {"in_transition": "bInPMTransition", "entering_gc6": "bGc6Entering", "level": "newLevel"},
    ),
    rpc.SetPageDirectory: (
        nv.rpc_set_page_directory_v,
        {"client": "hClient", "device": "hDevice", "pasid": "pasid", "address": "params"},
    ),
    rpc.SystemInfo: (
        nv.GspSystemInfo,
        {
            "registers_address": "gpuPhysAddr",
            "memory_address": "gpuPhysFbAddr",
            "instance_address": "gpuPhysInstAddr",
            "bus_device_function": "nvDomainBusDeviceFunc",
            "max_user_va": "maxUserVa",
            "config_mirror_base": "pciConfigMirrorBase",
            "config_mirror_size": "pciConfigMirrorSize",
            "pci_device": "PCIDeviceID",
            "pci_subsystem": "PCISubDeviceID",
            "pci_revision": "PCIRevisionID",
            "behind_bridge": "bGpuBehindBridge",
            "flr_supported": "bFlrSupported",
            "upstream_valid": "upstreamAddressValid",
            "hypervisor": "hypervisorType",
            "is_passthrough": "bIsPassthru",
            "host_page_bytes": "hostPageSize",
        },
    ),
    rpc.RegistryEntry: (
        nv.PACKED_REGISTRY_ENTRY,
        {"name_offset": "nameOffset", "type": "type", "value": "data", "length": "length"},
    ),
    rpc.RunSequencer: (
        nv.rpc_run_cpu_sequencer_v17_00,
        {"size_dwords": "bufferSizeDWord", "command_dwords": "cmdIndex", "saved": "regSaveArea"},
    ),
    rpc.ErrorLog: (
        nv.rpc_os_error_log_v17_00,
        {"xid": "exceptType", "runlist": "runlistId", "channel": "chid", "text": "errString"},
    ),
    rpc.RcTriggered: (
        nv.rpc_rc_triggered_v17_02,
        {
            "engine": "nv2080EngineType",
            "channel": "chid",
            "xid": "exceptType",
            "fault_address_low": "mmuFaultAddrLo",
            "fault_type": "mmuFaultType",
            "callback_needed": "bCallbackNeeded",
            "journal_size": "rcJournalBufferSize",
        },
    ),
    rpc.PostEvent: (
        nv.rpc_post_event_v17_00,
        {"client": "hClient", "event": "hEvent", "status": "status", "data_size": "eventDataSize"},
    ),
    gsp_controls.DeviceInfoTable: (
        nv_570.NV2080_CTRL_FIFO_GET_DEVICE_INFO_TABLE_PARAMS,
        {"base_index": "baseIndex", "count": "numEntries", "more": "bMore", "entries": "entries"},
    ),
    gsp_controls.DeviceEntry: (
        nv_570.NV2080_CTRL_FIFO_DEVICE_ENTRY,
        {"engine_data": "engineData", "pbdma_count": "numPbdmas", "name": "engineName"},
    ),
    gsp_controls.CopyReservedPdes: (
        nv_570.struct_NV90F1_CTRL_VASPACE_COPY_SERVER_RESERVED_PDES_PARAMS,
        {
            "page_size": "pageSize",
            "first": "virtAddrLo",
            "last": "virtAddrHi",
            "level_count": "numLevelsToCopy",
            "levels": "levels",
        },
    ),
    gsp_controls.ReservedLevel: (
        nv_570.struct_NV90F1_CTRL_VASPACE_COPY_SERVER_RESERVED_PDES_PARAMS_level,
        {
            "address": "physAddress",
            "size": "size",
            "aperture": "aperture",
            "page_shift": "pageShift",
        },
    ),
    gsp_controls.ContextBuffersInfo: (
        nv_570.NV2080_CTRL_INTERNAL_STATIC_KGR_GET_CONTEXT_BUFFERS_INFO_PARAMS,
        {"engines": "engineContextBuffersInfo"},
    ),
    gsp_controls.PromoteContext: (
        nv_570.NV2080_CTRL_GPU_PROMOTE_CTX_PARAMS,
        {
            "engine": "engineType",
            "client": "hClient",
            "channel_id": "ChID",
            "channel_client": "hChanClient",
            "channel": "hObject",
            "virtual": "virtAddress",
            "size": "size",
            "count": "entryCount",
            "entries": "promoteEntry",
        },
    ),
    gsp_controls.PromotedBuffer: (
        nv_570.NV2080_CTRL_GPU_PROMOTE_CTX_BUFFER_ENTRY,
        {
            "physical": "gpuPhysAddr",
            "virtual": "gpuVirtAddr",
            "size": "size",
            "attributes": "physAttr",
            "buffer_id": "bufferId",
            "initialize": "bInitialize",
            "not_mapped": "bNonmapped",
        },
    ),
    gsp_controls.StaticGrInfo: (
        nv_570.NV2080_CTRL_INTERNAL_STATIC_GR_GET_INFO_PARAMS,
        {"engines": "engineInfo"},
    ),
}


@pytest.mark.parametrize("ours", SAME, ids=lambda kind: kind.__name__)
def test_structures_are_those_of_the_other_driver(ours: type[Struct]):
    theirs, names = SAME[ours]
    assert ctypes.sizeof(theirs) == ours.SIZE
    for slot, field in names.items():
        theirs_field: Any = getattr(theirs, field)
        assert ours.SLOTS[slot].offset == theirs_field.offset, slot


def test_numbers_are_those_of_the_other_driver():
    for function in rpc.Function:
        assert getattr(nv, f"NV_VGPU_MSG_FUNCTION_{function.name}") == function
    for event in rpc.Event:
        assert getattr(nv, f"NV_VGPU_MSG_EVENT_{event.name}") == event
    for control in gsp_controls.GspControl:
        names = [n for n in vars(nv_570) if n.endswith(f"_{control.name}") and "_CTRL_CMD_" in n]
        assert [getattr(nv_570, name) for name in names] == [control], names
    assert nv.GSP_FW_WPR_META_MAGIC == gsp.WPR_MAGIC
    assert nv.NV_VGPU_MSG_SIGNATURE_VALID == rpc.SIGNATURE
    for prop in gsp_controls.ContextProperty:
        name = {"PAGE_POOL": "PAGEPOOL_GLOBAL", "RTV_CB": "RTV_CB_GLOBAL"}.get(prop.name, prop.name)
        name = name.replace("GFXP_CONTROL", "GFXP_CTRL_BLK")
        start = "NV0080_CTRL_FIFO_GET_ENGINE_CONTEXT_PROPERTIES_ENGINE_ID_GRAPHICS"
        stop = "" if prop.name == "GRAPHICS" else f"_{name}"
        assert getattr(nv_570, start + stop) == prop


@given(st.binary(max_size=200))
def test_a_message_with_its_checksum_sums_up_to_nothing(payload: bytes):
    message = bytearray(rpc.Header.SIZE) + payload
    rpc.Element(message).checksum = rpc.checksum(message)
    assert rpc.checksum(message) == 0


def test_the_registry_is_read_as_it_was_packed():
    table = rpc.pack_registry({"RMForcePcieConfigSave": 1, "RMSecBusResetEnable": 0x8000_02AA})
    assert rpc.unpack_registry(table) == {
        "RMForcePcieConfigSave": 1,
        "RMSecBusResetEnable": 0x8000_02AA,
    }
    assert rpc.RegistryTable(table).size == len(table)
    with pytest.raises(ValueError, match="registry"):
        rpc.unpack_registry(b"\xff" * 8)


def test_names_of_regions_are_numbers():
    assert gsp.libos_id("RMARGS") == int.from_bytes(b"RMARGS", "big")
