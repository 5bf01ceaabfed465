"""Records of the resource manager against what a C compiler and another driver say of them.

The sizes were printed by gcc from the headers of NVIDIA/open-gpu-kernel-modules at five tags; the
places of the slots are those of tinygrad's tables, generated from the headers of three branches.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from exosuit.datasheet import Struct
from exosuit.silicon.nvidia import ioctl, rm, uvm
from exosuit.silicon.nvidia import rm_controls as controls
from exosuit.silicon.nvidia.branches import BRANCHES, branch_of

VENDOR: dict[type[Struct], str] = {
    ioctl.RmFree: "NVOS00_PARAMETERS",
    ioctl.RmAlloc: "NVOS21_PARAMETERS",
    ioctl.RmAllocWide: "NVOS64_PARAMETERS",
    ioctl.RmControl: "NVOS54_PARAMETERS",
    ioctl.RmUnmapMemory: "NVOS34_PARAMETERS",
    ioctl.RmUnmapMemoryDma: "NVOS47_PARAMETERS",
    ioctl.CardInfo: "nv_ioctl_card_info_t",
    ioctl.RegisterFd: "nv_ioctl_register_fd_t",
    rm.DeviceParams: "NV0080_ALLOC_PARAMETERS",
    rm.SubdeviceParams: "NV2080_ALLOC_PARAMETERS",
    rm.VirtualMemoryParams: "NV_MEMORY_VIRTUAL_ALLOCATION_PARAMS",
    rm.ChannelGroupParams: "NV_CHANNEL_GROUP_ALLOCATION_PARAMETERS",
    rm.ContextShareParams: "NV_CTXSHARE_ALLOCATION_PARAMETERS",
    rm.MemoryParams: "NV_MEMORY_ALLOCATION_PARAMS",
    rm.DebuggerParams: "NV83DE_ALLOC_PARAMETERS",
    rm.ClientParams: "NV0000_ALLOC_PARAMETERS",
    controls.BuildVersion: "NV0000_CTRL_SYSTEM_GET_BUILD_VERSION_V2_PARAMS",
    controls.GpuIdInfo: "NV0000_CTRL_GPU_GET_ID_INFO_V2_PARAMS",
    controls.ClassList: "NV0080_CTRL_GPU_GET_CLASSLIST_PARAMS",
    controls.GpuUuid: "NV2080_CTRL_GPU_GET_GID_INFO_PARAMS",
    controls.GrInfo: "NV2080_CTRL_GR_GET_INFO_PARAMS",
    controls.InfoEntry: "NV2080_CTRL_GR_INFO",
    controls.FlushGpuCache: "NV2080_CTRL_FB_FLUSH_GPU_CACHE_PARAMS",
    controls.PerfBoost: "NV2080_CTRL_PERF_BOOST_PARAMS",
    controls.WorkSubmitToken: "NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN_PARAMS",
    controls.BindChannel: "NVA06F_CTRL_BIND_PARAMS",
    controls.SmError: "NV83DE_SM_ERROR_STATE_REGISTERS",
    controls.SmErrors: "NV83DE_CTRL_DEBUG_READ_ALL_SM_ERROR_STATES_PARAMS",
    controls.MmuFaults: "NV83DE_CTRL_DEBUG_READ_MMU_FAULT_INFO_PARAMS",
    uvm.Initialize: "UVM_INITIALIZE_PARAMS",
    uvm.MmInitialize: "UVM_MM_INITIALIZE_PARAMS",
    uvm.RegisterGpu: "UVM_REGISTER_GPU_PARAMS",
    uvm.UnregisterGpu: "UVM_UNREGISTER_GPU_PARAMS",
    uvm.RegisterGpuVaSpace: "UVM_REGISTER_GPU_VASPACE_PARAMS",
    uvm.UnregisterGpuVaSpace: "UVM_UNREGISTER_GPU_VASPACE_PARAMS",
    uvm.RegisterChannel: "UVM_REGISTER_CHANNEL_PARAMS",
    uvm.CreateExternalRange: "UVM_CREATE_EXTERNAL_RANGE_PARAMS",
    uvm.MapExternalAllocation: "UVM_MAP_EXTERNAL_ALLOCATION_PARAMS",
    uvm.GpuMapping: "UvmGpuMappingAttributes",
    uvm.UnmapExternal: "UVM_UNMAP_EXTERNAL_PARAMS",
    uvm.EnablePeerAccess: "UVM_ENABLE_PEER_ACCESS_PARAMS",
}
"""Records that are the same in every branch."""

BY_BRANCH: dict[str, str] = {
    "channel": "NV_CHANNELGPFIFO_ALLOCATION_PARAMETERS",
    "va_space": "NV_VASPACE_ALLOCATION_PARAMETERS",
    "map_dma": "NVOS46_PARAMETERS",
    "class_list": "NV0080_CTRL_GPU_GET_CLASSLIST_V2_PARAMS",
    "gpu_name": "NV2080_CTRL_GPU_GET_NAME_STRING_PARAMS",
    "sm_order": "NV2080_CTRL_GR_GET_GLOBAL_SM_ORDER_PARAMS",
    "fb_info": "NV2080_CTRL_FB_GET_INFO_V2_PARAMS",
    "schedule": "NVA06C_CTRL_GPFIFO_SCHEDULE_PARAMS",
    "schedule_channel": "NVA06F_CTRL_GPFIFO_SCHEDULE_PARAMS",
    "uvm_free": "UVM_FREE_PARAMS",
    "uvm_unregister_channel": "UVM_UNREGISTER_CHANNEL_PARAMS",
}

COMPILED = {  # branch: sizes in the order of BY_BRANCH, by gcc; of 610 by tinygrad
    570: (368, 48, 56, 404, 132, 6168, 460, 2, 2, 24, 28),
    575: (368, 48, 56, 404, 132, 7192, 460, 3, 3, 24, 28),
    580: (368, 56, 64, 804, 132, 9240, 1028, 3, 3, 24, 28),
    590: (368, 56, 64, 804, 132, 9240, 1028, 3, 3, 16, 12),
    595: (368, 56, 64, 804, 68, 9240, 1028, 3, 3, 16, 12),
    610: (376, 56, 64, 804, 68, 9240, 1028, 3, 3, 16, 12),
}


def layout(module: Any, name: str) -> tuple[int, set[int]]:
    """Size of the vendor's record, and where its fields begin."""
    kind = getattr(module, name, None) or getattr(module, f"struct_{name}")
    return ctypes.sizeof(kind), {getattr(kind, f[0]).offset for f in kind._real_fields_}


@pytest.fixture(scope="module")
def vendor() -> dict[int, Any]:
    from tinygrad.runtime.autogen import nv_570, nv_580, nv_610

    return {570: nv_570, 580: nv_580, 610: nv_610}


@pytest.mark.parametrize("number", [570, 580, 610])
def test_records_lie_as_in_the_headers(vendor: dict[int, Any], number: int) -> None:
    for ours, theirs in VENDOR.items():
        size, places = layout(vendor[number], theirs)
        assert size == ours.SIZE, theirs
        assert {slot.offset for slot in ours.SLOTS.values()} <= places, theirs
    for field, theirs in BY_BRANCH.items():
        ours = getattr(BRANCHES[number], field)
        size, places = layout(vendor[number], theirs)
        assert size == ours.SIZE, theirs
        assert {slot.offset for slot in ours.SLOTS.values()} <= places, theirs


@pytest.mark.parametrize("number", list(COMPILED))
def test_sizes_are_those_of_a_compiler(number: int) -> None:
    sizes = tuple(getattr(BRANCHES[number], field).SIZE for field in BY_BRANCH)
    assert sizes == COMPILED[number]


def test_records_with_a_file_are_wrapped() -> None:
    """nv_ioctl_nvos02/33_parameters_with_fd: 48 bytes of RM's, the file at 0x30, padded to 56."""
    for kind in (ioctl.RmAllocMemory, ioctl.RmMapMemory):
        assert kind.SIZE == 56
        assert kind.SLOTS["fd"].offset == 0x30
    assert ioctl.RmAllocMemory.SLOTS["status"].offset == 0x28
    assert ioctl.RmMapMemory.SLOTS["flags"].offset == 0x2C


def test_numbers(vendor: dict[int, Any]) -> None:
    n = vendor[580]
    for escape in ioctl.Escape:
        assert getattr(n, f"NV_ESC_{escape.name}") == escape
    for status in rm.Status:
        name = "NV_OK" if status is rm.Status.OK else f"NV_ERR_{status.name}"
        assert getattr(n, name) == status, name
    for index in controls.GrInfoIndex:
        assert getattr(n, f"NV2080_CTRL_GR_INFO_INDEX_{index.name}") == index
    for index in controls.FbInfoIndex:
        assert getattr(n, f"NV2080_CTRL_FB_INFO_INDEX_{index.name}") == index
    for fault in controls.FaultType:
        assert getattr(n, f"NV_PFAULT_FAULT_TYPE_{fault.name}") == fault
    commands = {
        controls.BuildVersion: n.NV0000_CTRL_CMD_SYSTEM_GET_BUILD_VERSION_V2,
        controls.GpuIdInfo: n.NV0000_CTRL_CMD_GPU_GET_ID_INFO_V2,
        controls.ClassList: n.NV0080_CTRL_CMD_GPU_GET_CLASSLIST,
        controls.ClassListV2: n.NV0080_CTRL_CMD_GPU_GET_CLASSLIST_V2,
        controls.GpuName: n.NV2080_CTRL_CMD_GPU_GET_NAME_STRING,
        controls.GpuUuid: n.NV2080_CTRL_CMD_GPU_GET_GID_INFO,
        controls.GrInfo: n.NV2080_CTRL_CMD_GR_GET_INFO,
        controls.SmOrder: n.NV2080_CTRL_CMD_GR_GET_GLOBAL_SM_ORDER,
        controls.FbInfo: n.NV2080_CTRL_CMD_FB_GET_INFO_V2,
        controls.FlushGpuCache: n.NV2080_CTRL_CMD_FB_FLUSH_GPU_CACHE,
        controls.PerfBoost: n.NV2080_CTRL_CMD_PERF_BOOST,
        controls.WorkSubmitToken: n.NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN,
        controls.Schedule: n.NVA06C_CTRL_CMD_GPFIFO_SCHEDULE,
        controls.ScheduleChannel: n.NVA06F_CTRL_CMD_GPFIFO_SCHEDULE,
        controls.BindChannel: n.NVA06F_CTRL_CMD_BIND,
        controls.SmErrors: n.NV83DE_CTRL_CMD_DEBUG_READ_ALL_SM_ERROR_STATES,
        controls.MmuFaults: n.NV83DE_CTRL_CMD_DEBUG_READ_MMU_FAULT_INFO,
    }
    assert {kind: kind.COMMAND for kind in commands} == commands
    calls = [kind for kind in vars(uvm).values() if getattr(kind, "REQUEST", 0)]
    assert {kind.REQUEST for kind in calls} == {
        n.UVM_INITIALIZE, n.UVM_DEINITIALIZE, n.UVM_MM_INITIALIZE, n.UVM_REGISTER_GPU,
        n.UVM_UNREGISTER_GPU, n.UVM_REGISTER_GPU_VASPACE, n.UVM_UNREGISTER_GPU_VASPACE,
        n.UVM_REGISTER_CHANNEL, n.UVM_UNREGISTER_CHANNEL, n.UVM_ENABLE_PEER_ACCESS,
        n.UVM_CREATE_EXTERNAL_RANGE, n.UVM_MAP_EXTERNAL_ALLOCATION, n.UVM_UNMAP_EXTERNAL,
        n.UVM_FREE,
    }  # fmt: skip


def test_a_request_carries_the_size_of_its_record() -> None:
    # As tinygrad's `nv_iowr` and the kernel's _IOWR('F', nr, size) make it.
    assert ioctl.request_of(ioctl.Escape.RM_ALLOC, 32) == 0xC020462B
    assert ioctl.request_of(ioctl.Escape.RM_CONTROL, 32) == 0xC020462A


@pytest.mark.parametrize(
    ("version", "number"),
    [("580.142", 580), ("570.86.15", 570), ("595.45.04", 595), ("535.183.01", None), ("x", None)],
)
def test_a_version_names_its_branch(version: str, number: int | None) -> None:
    branch = branch_of(version)
    assert (branch and branch.number) == number
