"""Descriptions against outside facts: the kernel's headers, as tinygrad generated them into Python.

Both sides of our tests share `silicon.pci` and `link.vfio`; a slip there would pass all of them.
"""

import ctypes
from typing import Any

import pytest

from exosuit.link import vfio, wire
from exosuit.silicon import pci

regs: Any = pytest.importorskip("tinygrad.runtime.autogen.pci")
kernel: Any = pytest.importorskip("tinygrad.runtime.autogen.vfio")
system: Any = pytest.importorskip("tinygrad.runtime.support.system")


@pytest.mark.parametrize(
    ("slot", "name"),
    [
        ("vendor_id", "PCI_VENDOR_ID"), ("device_id", "PCI_DEVICE_ID"), ("command", "PCI_COMMAND"),
        ("status", "PCI_STATUS"), ("revision_id", "PCI_CLASS_REVISION"),
        ("header_type", "PCI_HEADER_TYPE"), ("bars", "PCI_BASE_ADDRESS_0"),
        ("subsystem_vendor_id", "PCI_SUBSYSTEM_VENDOR_ID"), ("subsystem_id", "PCI_SUBSYSTEM_ID"),
        ("rom_bar", "PCI_ROM_ADDRESS"), ("capabilities", "PCI_CAPABILITY_LIST"),
        ("interrupt_line", "PCI_INTERRUPT_LINE"), ("interrupt_pin", "PCI_INTERRUPT_PIN"),
    ],
)  # fmt: skip
def test_the_header(slot: str, name: str):
    assert pci.ConfigHeader.SLOTS[slot].offset == getattr(regs, name)


@pytest.mark.parametrize(
    ("word", "field", "name"),
    [
        (pci.Command, "io_space", "PCI_COMMAND_IO"),
        (pci.Command, "memory_space", "PCI_COMMAND_MEMORY"),
        (pci.Command, "bus_master", "PCI_COMMAND_MASTER"),
        (pci.Command, "parity_response", "PCI_COMMAND_PARITY"),
        (pci.Command, "serr_enable", "PCI_COMMAND_SERR"),
        (pci.Command, "interrupt_disable", "PCI_COMMAND_INTX_DISABLE"),
        (pci.Status, "capabilities_list", "PCI_STATUS_CAP_LIST"),
        (pci.Status, "interrupt", "PCI_STATUS_INTERRUPT"),
        (pci.Status, "master_abort", "PCI_STATUS_REC_MASTER_ABORT"),
        (pci.MemoryBar, "prefetchable", "PCI_BASE_ADDRESS_MEM_PREFETCH"),
        (pci.MsiControl, "enable", "PCI_MSI_FLAGS_ENABLE"),
        (pci.MsiControl, "multiple_capable", "PCI_MSI_FLAGS_QMASK"),
        (pci.MsiControl, "multiple_enable", "PCI_MSI_FLAGS_QSIZE"),
        (pci.MsiControl, "address_64", "PCI_MSI_FLAGS_64BIT"),
        (pci.PowerControl, "state", "PCI_PM_CTRL_STATE_MASK"),
        (pci.PowerControl, "no_soft_reset", "PCI_PM_CTRL_NO_SOFT_RESET"),
        (pci.PcieFlags, "version", "PCI_EXP_FLAGS_VERS"),
        (pci.PcieFlags, "port_type", "PCI_EXP_FLAGS_TYPE"),
        (pci.PcieFlags, "slot", "PCI_EXP_FLAGS_SLOT"),
        (pci.DeviceControl, "relaxed_ordering", "PCI_EXP_DEVCTL_RELAX_EN"),
        (pci.DeviceControl, "max_payload", "PCI_EXP_DEVCTL_PAYLOAD"),
        (pci.DeviceControl, "max_read_request", "PCI_EXP_DEVCTL_READRQ"),
        (pci.DeviceControl, "function_reset", "PCI_EXP_DEVCTL_BCR_FLR"),
        (pci.LinkCapabilities, "max_speed", "PCI_EXP_LNKCAP_SLS"),
        (pci.LinkCapabilities, "max_width", "PCI_EXP_LNKCAP_MLW"),
        (pci.LinkCapabilities, "aspm", "PCI_EXP_LNKCAP_ASPMS"),
        (pci.LinkControl, "aspm", "PCI_EXP_LNKCTL_ASPMC"),
        (pci.LinkControl, "retrain", "PCI_EXP_LNKCTL_RL"),
        (pci.LinkStatus, "speed", "PCI_EXP_LNKSTA_CLS"),
        (pci.LinkStatus, "width", "PCI_EXP_LNKSTA_NLW"),
        (pci.LinkStatus, "training", "PCI_EXP_LNKSTA_LT"),
        (pci.LinkStatus, "active", "PCI_EXP_LNKSTA_DLLLA"),
        (pci.RebarControl, "bar", "PCI_REBAR_CTRL_BAR_IDX"),
        (pci.RebarControl, "count", "PCI_REBAR_CTRL_NBAR_MASK"),
    ],
)  # fmt: skip
def test_fields(word: type, field: str, name: str):
    assert word.FIELDS[field].mask == getattr(regs, name)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("struct", "slot", "name"),
    [
        (pci.PcieCapability, "flags", "PCI_EXP_FLAGS"),
        (pci.PcieCapability, "device_capabilities", "PCI_EXP_DEVCAP"),
        (pci.PcieCapability, "device_control", "PCI_EXP_DEVCTL"),
        (pci.PcieCapability, "link_capabilities", "PCI_EXP_LNKCAP"),
        (pci.PcieCapability, "link_control", "PCI_EXP_LNKCTL"),
        (pci.PcieCapability, "link_status", "PCI_EXP_LNKSTA"),
        (pci.PcieCapability, "link_control_2", "PCI_EXP_LNKCTL2"),
        (pci.Msi, "control", "PCI_MSI_FLAGS"),
        (pci.Msi, "address_low", "PCI_MSI_ADDRESS_LO"),
        (pci.Msi, "message", "PCI_MSI_DATA_64"),
        (pci.PowerManagement, "control", "PCI_PM_CTRL"),
        (pci.ResizableBar, "sizes", "PCI_REBAR_CAP"),
        (pci.ResizableBar, "control", "PCI_REBAR_CTRL"),
    ],
)  # fmt: skip
def test_capabilities(struct: type, slot: str, name: str):
    assert struct.SLOTS[slot].offset == getattr(regs, name)  # type: ignore[attr-defined]


def test_ids():
    assert pci.CapabilityId.POWER_MANAGEMENT == regs.PCI_CAP_ID_PM
    assert pci.CapabilityId.MSI == regs.PCI_CAP_ID_MSI
    assert pci.CapabilityId.PCI_EXPRESS == regs.PCI_CAP_ID_EXP
    assert pci.CapabilityId.MSI_X == regs.PCI_CAP_ID_MSIX
    assert pci.ExtendedId.RESIZABLE_BAR == regs.PCI_EXT_CAP_ID_REBAR
    assert pci.ExtendedId.ADVANCED_ERRORS == regs.PCI_EXT_CAP_ID_ERR
    assert pci.ExtendedId.SERIAL_NUMBER == regs.PCI_EXT_CAP_ID_DSN


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (vfio.GroupStatus, "struct_vfio_group_status"),
        (vfio.RegionInfo, "struct_vfio_region_info"),
        (vfio.MapDma, "struct_vfio_iommu_type1_dma_map"),
        (vfio.UnmapDma, "struct_vfio_iommu_type1_dma_unmap"),
    ],
)
def test_vfio_structures(ours: type, theirs: str):
    assert ctypes.sizeof(getattr(kernel, theirs)) == ours.SIZE  # type: ignore[attr-defined]


def test_vfio_constants():
    assert vfio.Iommu.TYPE1 == kernel.VFIO_TYPE1_IOMMU
    assert kernel.VFIO_TYPE1v2_IOMMU == vfio.Iommu.TYPE1_V2
    assert vfio.Iommu.NONE == kernel.VFIO_NOIOMMU_IOMMU
    assert vfio.CONFIG_REGION == kernel.VFIO_PCI_CONFIG_REGION_INDEX


def test_commands_of_the_wire_protocol():
    theirs = {command.name: command.value for command in system.RemoteCmd}
    assert theirs == {command.name: command.value for command in wire.Command}
