"""PCI as a program sees it: the configuration header, the capability chains, class codes.

Offsets are bytes into the 4,096 bytes of configuration space of one function. Everything is read
through a callable `read(offset, size) -> int`, so a live link, a recorded dump and a software card
are walked by the same code.

Sources: PCI Local Bus 3.0 (header, MSI), PCI Express Base 5.0 chapter 7 (capabilities, link
registers, resizable BAR), PCI Bus Power Management 1.2; names follow Linux `pci_regs.h`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from exosuit.datasheet import Struct, Word, array, bits, flag, u8, u16, u32, word

ConfigRead = Callable[[int, int], int]
"""`read(offset, size) -> value`, size 1, 2 or 4."""

CONFIG_SIZE = 4096
LEGACY_SIZE = 256
ALL_ONES = 0xFFFF_FFFF
"""What a read gives when nobody answers: link down, memory decode off, card gone."""
RETRY = 0xFFFF_0001
"""What the vendor and device words read while a function is not ready after its reset (CRS)."""


class BaseClass(IntEnum):
    """The high byte of a class code."""

    DISPLAY = 0x03
    MULTIMEDIA = 0x04
    BRIDGE = 0x06
    PROCESSOR = 0x0B
    SERIAL = 0x0C
    ACCELERATOR = 0x12


class ClassCode(Word):
    """The 24-bit class code."""

    WIDTH = 24
    base = bits(23, 16)
    sub = bits(15, 8)
    interface = bits(7, 0)

    @property
    def can_be_card(self) -> bool:
        """Whether a function of this class may compute: any display class, or an accelerator.

        0x0302, the 3D controller without outputs, is one: A100, H100, A10, L4, laptop chips.
        """
        return self.base in (BaseClass.DISPLAY, BaseClass.ACCELERATOR)

    @property
    def title(self) -> str:
        known = {
            0x0300: "VGA controller",
            0x0302: "3D controller",
            0x0380: "display controller",
            0x1200: "processing accelerator",
            0x0604: "PCI bridge",
            0x0403: "audio device",
        }
        return known.get(int(self) >> 8, f"class {int(self):#08x}")


class Command(Word):
    """Offset 0x04: what the function may do on the bus."""

    WIDTH = 16
    io_space = flag(0)
    memory_space = flag(1, "answer at the addresses in the BARs")
    bus_master = flag(2, "emit reads and writes of its own (DMA)")
    parity_response = flag(6)
    serr_enable = flag(8)
    interrupt_disable = flag(10)


class Status(Word):
    """Offset 0x06."""

    WIDTH = 16
    interrupt = flag(3)
    capabilities_list = flag(4)
    master_abort = flag(13, "a read of its own was not answered")


class BarType(IntEnum):
    BITS_32 = 0
    BITS_64 = 2


class MemoryBar(Word):
    """The low dword of a base address register that decodes memory."""

    io = flag(0)
    kind = bits(2, 1, kind=BarType)
    prefetchable = flag(3)
    address = bits(31, 4)


class ConfigHeader(Struct):
    """The type 0 header, 64 bytes."""

    SIZE = 0x40
    vendor_id = u16(at=0x00)
    device_id = u16(at=0x02)
    command = word(Command, at=0x04)
    status = word(Status, at=0x06)
    revision_id = u8(at=0x08)
    class_code = word(ClassCode, at=0x09)
    cache_line_size = u8(at=0x0C)
    latency_timer = u8(at=0x0D)
    header_type = u8("bit 7: further functions", at=0x0E)
    bars = array(u32(), 6, at=0x10)
    subsystem_vendor_id = u16(at=0x2C)
    subsystem_id = u16(at=0x2E)
    rom_bar = u32(at=0x30)
    capabilities = u8("offset of the first capability", at=0x34)
    interrupt_line = u8(at=0x3C)
    interrupt_pin = u8(at=0x3D)


class CapabilityId(IntEnum):
    POWER_MANAGEMENT = 0x01
    MSI = 0x05
    VENDOR = 0x09
    PCI_EXPRESS = 0x10
    MSI_X = 0x11


class ExtendedId(IntEnum):
    ADVANCED_ERRORS = 0x01
    SERIAL_NUMBER = 0x03
    RESIZABLE_BAR = 0x15


class CapabilityHeader(Word):
    """First word of every capability below 0x100."""

    WIDTH = 16
    id = bits(7, 0)
    following = bits(15, 8, "offset of the next one, 0 at the end")


class ExtendedHeader(Word):
    """First dword of every capability from 0x100 on."""

    id = bits(15, 0)
    version = bits(19, 16)
    following = bits(31, 20)


class PowerControl(Word):
    """Power management control and status, capability + 4."""

    WIDTH = 16
    state = bits(1, 0, "0 is D0, awake; 3 is D3hot")
    no_soft_reset = flag(3)


class PowerManagement(Struct):
    SIZE = 8
    header = word(CapabilityHeader)
    capabilities = u16()
    control = word(PowerControl)


class MsiControl(Word):
    WIDTH = 16
    enable = flag(0)
    multiple_capable = bits(3, 1)
    multiple_enable = bits(6, 4)
    address_64 = flag(7)


class Msi(Struct):
    """Message-signalled interrupts, 64-bit form."""

    SIZE = 14
    header = word(CapabilityHeader)
    control = word(MsiControl)
    address_low = u32()
    address_high = u32()
    message = u16()


class PcieFlags(Word):
    WIDTH = 16
    version = bits(3, 0)
    port_type = bits(7, 4, "0 endpoint, 1 legacy endpoint, 4 root port, 5 upstream, 6 downstream")
    slot = flag(8)


class DeviceControl(Word):
    WIDTH = 16
    relaxed_ordering = flag(4)
    max_payload = bits(7, 5, "128 << n bytes")
    max_read_request = bits(14, 12, "128 << n bytes")
    function_reset = flag(15, "start a function-level reset; reads as 0")


class LinkCapabilities(Word):
    max_speed = bits(3, 0, "index into LINK_SPEEDS")
    max_width = bits(9, 4)
    aspm = bits(11, 10)


class LinkControl(Word):
    WIDTH = 16
    aspm = bits(1, 0, "power saving states allowed: bit 0 L0s, bit 1 L1")
    retrain = flag(5)


class LinkStatus(Word):
    WIDTH = 16
    speed = bits(3, 0, "index into LINK_SPEEDS")
    width = bits(9, 4)
    training = flag(11)
    active = flag(13)


class PcieCapability(Struct):
    """The PCI Express capability of an endpoint, version 2."""

    SIZE = 0x3C
    header = word(CapabilityHeader)
    flags = word(PcieFlags)
    device_capabilities = u32("bit 28: function-level reset")
    device_control = word(DeviceControl)
    device_status = u16()
    link_capabilities = word(LinkCapabilities)
    link_control = word(LinkControl)
    link_status = word(LinkStatus)
    link_control_2 = u16("bits 3:0 target speed", at=0x30)


class RebarControl(Word):
    """Resizable BAR control, capability + 8 for the first BAR."""

    bar = bits(2, 0)
    count = bits(7, 5, "how many BARs can be resized; first entry only")
    size = bits(13, 8, "2^n MiB")


class ResizableBar(Struct):
    """One resizable BAR; a second would follow 8 bytes on."""

    SIZE = 12
    header = word(ExtendedHeader)
    sizes = u32("bit 4 + n: 2^n MiB is offered")
    control = word(RebarControl)


LINK_SPEEDS = {1: 2.5, 2: 5.0, 3: 8.0, 4: 16.0, 5: 32.0, 6: 64.0}
"""Transfers per second and lane, in GT/s."""


def link_bytes_per_second(speed: int, width: int) -> float:
    """What the wires carry in one direction: line rate less line code, before headers."""
    code = 0.8 if speed <= 2 else 128 / 130
    return LINK_SPEEDS[speed] * 1e9 * code * width / 8


@dataclass(frozen=True, slots=True)
class Capability:
    """One capability: its id and where it lies."""

    id: int
    offset: int


def capabilities(read: ConfigRead) -> Iterator[Capability]:
    """Walk the chain below 0x100; ends at the end, at a loop, or at an offset out of range."""
    if not Status(read(0x06, 2)).capabilities_list:
        return
    seen: set[int] = set()
    offset = read(0x34, 1) & 0xFC
    while 0x40 <= offset < LEGACY_SIZE and offset not in seen:
        seen.add(offset)
        header = CapabilityHeader(read(offset, 2))
        if header.id == 0xFF:
            return
        yield Capability(header.id, offset)
        offset = header.following & 0xFC


def extended_capabilities(read: ConfigRead) -> Iterator[Capability]:
    """Walk the chain from 0x100; ends at the end, at a loop, or where nothing answers."""
    seen: set[int] = set()
    offset = LEGACY_SIZE
    while LEGACY_SIZE <= offset <= CONFIG_SIZE - 4 and offset not in seen:
        seen.add(offset)
        header = ExtendedHeader(read(offset, 4))
        if header in (0, ALL_ONES):
            return
        yield Capability(header.id, offset)
        offset = header.following & 0xFFC


def find_capability(read: ConfigRead, id: CapabilityId) -> int | None:
    """Offset of the first capability with this id."""
    return next((c.offset for c in capabilities(read) if c.id == id), None)


def find_extended(read: ConfigRead, id: ExtendedId) -> int | None:
    """Offset of the first extended capability with this id."""
    return next((c.offset for c in extended_capabilities(read) if c.id == id), None)


@dataclass(frozen=True, slots=True)
class Link:
    """What the function's own PCI Express port says of its link.

    Behind a Thunderbolt tunnel this is the wire inside the box, not the cable: x16 here says
    nothing of the tunnel.
    """

    speed: int
    width: int
    max_speed: int
    max_width: int

    @property
    def title(self) -> str:
        rate = LINK_SPEEDS.get(self.speed)
        return f"{rate:g} GT/s x{self.width}" if rate and self.width else "link down"


def read_link(read: ConfigRead) -> Link | None:
    """The link registers, or None where there is no PCI Express capability."""
    offset = find_capability(read, CapabilityId.PCI_EXPRESS)
    if offset is None:
        return None
    status = LinkStatus(read(offset + 0x12, 2))
    able = LinkCapabilities(read(offset + 0x0C, 4))
    return Link(status.speed, status.width, able.max_speed, able.max_width)


def rebar_sizes(read: ConfigRead, bar: int = 0) -> list[int]:
    """Sizes in bytes that a BAR can be resized to, ascending; empty where it cannot."""
    offset = find_extended(read, ExtendedId.RESIZABLE_BAR)
    if offset is None:
        return []
    count = RebarControl(read(offset + 8, 4)).count or 1
    for entry in range(min(count, 6)):
        at = offset + 8 * entry
        if RebarControl(read(at + 8, 4)).bar == bar:
            offered = read(at + 4, 4) >> 4
            return [1 << (20 + n) for n in range(28) if offered >> n & 1]
    return []
