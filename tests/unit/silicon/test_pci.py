"""The header and the chains are walked as the specifications lay them out, and never for ever."""

from hypothesis import given
from hypothesis import strategies as st

from exosuit.silicon import pci


class Dump:
    """Configuration space as bytes, as `lspci -xxxx` would give it."""

    def __init__(self, data: bytes) -> None:
        self.data = data.ljust(pci.CONFIG_SIZE, b"\0")

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.data[offset : offset + size], "little")


def test_the_layout_is_that_of_the_specification():
    # Offsets from Linux include/uapi/linux/pci_regs.h.
    header = {name: slot.offset for name, slot in pci.ConfigHeader.SLOTS.items()}
    assert header == {
        "vendor_id": 0, "device_id": 2, "command": 4, "status": 6, "revision_id": 8,
        "class_code": 9, "cache_line_size": 0xC, "latency_timer": 0xD, "header_type": 0xE,
        "bars": 0x10, "subsystem_vendor_id": 0x2C, "subsystem_id": 0x2E, "rom_bar": 0x30,
        "capabilities": 0x34, "interrupt_line": 0x3C, "interrupt_pin": 0x3D,
    }  # fmt: skip
    express = {name: slot.offset for name, slot in pci.PcieCapability.SLOTS.items()}
    assert express["device_control"] == 8
    assert express["link_capabilities"] == 0xC
    assert express["link_control"] == 0x10
    assert express["link_status"] == 0x12
    assert express["link_control_2"] == 0x30
    assert pci.Msi.SLOTS["message"].offset == 0xC
    assert pci.PowerManagement.SLOTS["control"].offset == 4
    assert pci.Command(memory_space=True, bus_master=True) == 6
    assert pci.DeviceControl(function_reset=True) == 0x8000
    assert pci.RebarControl(bar=0, count=1, size=8) == 0x820
    assert pci.ClassCode(0x030200).title == "3D controller"


def healthy() -> bytearray:
    config = bytearray(pci.CONFIG_SIZE)
    header = pci.ConfigHeader(config)
    header.vendor_id, header.device_id = 0x1002, 0x744C
    header.status = pci.Status(capabilities_list=True)
    header.class_code = pci.ClassCode(0x030000)
    header.capabilities = 0x48
    config[0x48:0x4A] = pci.CapabilityHeader(id=pci.CapabilityId.VENDOR, following=0x64).encode()
    express = pci.PcieCapability(config, 0x64)
    express.header = pci.CapabilityHeader(id=pci.CapabilityId.PCI_EXPRESS)
    express.link_status = pci.LinkStatus(speed=3, width=4)
    express.link_capabilities = pci.LinkCapabilities(max_speed=4, max_width=16)
    config[0x100:0x104] = pci.ExtendedHeader(id=1, version=2, following=0x200).encode()
    rebar = pci.ResizableBar(config, 0x200)
    rebar.header = pci.ExtendedHeader(id=pci.ExtendedId.RESIZABLE_BAR, version=1)
    rebar.sizes = (1 << 12) | (1 << 19)
    rebar.control = pci.RebarControl(bar=0, count=1, size=8)
    return config


def test_capabilities_are_found():
    read = Dump(bytes(healthy())).read
    assert [(c.id, c.offset) for c in pci.capabilities(read)] == [(9, 0x48), (0x10, 0x64)]
    assert [(c.id, c.offset) for c in pci.extended_capabilities(read)] == [
        (1, 0x100),
        (0x15, 0x200),
    ]
    link = pci.read_link(read)
    assert link is not None
    assert link.title == "8 GT/s x4"
    assert pci.rebar_sizes(read) == [256 << 20, 32 << 30]
    assert pci.rebar_sizes(read, bar=2) == []


def test_a_dead_link_has_no_capabilities():
    read = Dump(b"\xff" * pci.CONFIG_SIZE).read
    assert list(pci.extended_capabilities(read)) == []
    assert list(pci.capabilities(read)) == []
    assert pci.read_link(read) is None


def test_a_chain_that_bites_its_tail_ends():
    config = healthy()
    config[0x64:0x66] = pci.CapabilityHeader(id=0x10, following=0x48).encode()
    config[0x200:0x204] = pci.ExtendedHeader(id=0x15, following=0x100).encode()
    assert len(list(pci.capabilities(Dump(bytes(config)).read))) == 2
    assert len(list(pci.extended_capabilities(Dump(bytes(config)).read))) == 2


@given(st.binary(max_size=1024))
def test_any_bytes_are_walked_in_bounded_time(config: bytes):
    read = Dump(config).read
    assert len(list(pci.capabilities(read))) <= 48
    assert len(list(pci.extended_capabilities(read))) <= 960
    pci.read_link(read)
    pci.rebar_sizes(read)


def test_link_rates():
    assert round(pci.link_bytes_per_second(4, 16) / 1e9, 1) == 31.5
    assert pci.link_bytes_per_second(1, 4) == 1e9
