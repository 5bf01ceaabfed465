"""Configuration space of a software card: header, capability chains, sizing of BARs, ReBAR.

Every bit has a write mask, as in hardware; what is not writable stays. A BAR answers the sizing
probe (all ones written, size mask read back), and its size follows the resizable-BAR control.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.silicon import pci
from exosuit.silicon.pci import ALL_ONES, CONFIG_SIZE, Command, ConfigHeader, RebarControl
from exosuit.units import MiB

PM_AT, MSI_AT, EXPRESS_AT = 0x50, 0x60, 0x70
REBAR_AT = 0x200


@dataclass(frozen=True, slots=True)
class BarShape:
    """One BAR as it powers on.

    sizes  what it may be resized to, in bytes; empty for a fixed one
    """

    size: int
    address: int
    is_64: bool = False
    prefetchable: bool = False
    sizes: tuple[int, ...] = ()


class ConfigSpace:
    """4,096 bytes that answer as a PCI function does."""

    def __init__(
        self,
        *,
        vendor: int,
        device: int,
        class_code: int,
        bars: dict[int, BarShape],
        subsystem: tuple[int, int] = (0, 0),
        revision: int = 0,
        link_speed: int = 4,
        link_width: int = 16,
    ) -> None:
        self.shapes = bars
        self._sizes = {index: shape.size for index, shape in bars.items()}
        self._data = bytearray(CONFIG_SIZE)
        self._mask = bytearray(CONFIG_SIZE)
        self._describe(vendor, device, class_code, subsystem, revision)
        self._chain(link_speed, link_width)
        self._power_on = bytes(self._data)

    @property
    def command(self) -> Command:
        return Command(int.from_bytes(self._data[4:6], "little"))

    def size(self, bar: int) -> int:
        """Current size of a BAR in bytes."""
        return self._sizes[bar]

    def address(self, bar: int) -> int:
        """Where the host placed a BAR; 0 after a reset that nobody repaired."""
        shape = self.shapes[bar]
        low = self.read(0x10 + 4 * bar, 4) & ~0xF
        return low | (self.read(0x14 + 4 * bar, 4) << 32 if shape.is_64 else 0)

    def read(self, offset: int, size: int) -> int:
        """`size` bytes, 1, 2 or 4; ones outside."""
        if offset < 0 or offset + size > CONFIG_SIZE:
            return ALL_ONES >> (32 - 8 * size)
        return int.from_bytes(self._data[offset : offset + size], "little")

    def write(self, offset: int, value: int, size: int) -> None:
        """Write through the mask. Function-level reset is the card's business, not done here."""
        if offset < 0 or offset + size > CONFIG_SIZE:
            return
        for index in range(size):
            mask = self._mask[offset + index]
            new = value >> 8 * index & mask
            self._data[offset + index] = self._data[offset + index] & ~mask | new
        if REBAR_AT <= offset < REBAR_AT + 0x40:
            self._resize()

    def put(self, offset: int, value: int, size: int) -> None:
        """Store what the function itself has to say, whoever may write there."""
        self._data[offset : offset + size] = value.to_bytes(size, "little")

    def reset(self, *, restore: bool) -> None:
        """As after a function reset; `restore` puts BARs with their sizes and command back, as an
        operating system would.
        """
        kept = {bar: self.address(bar) for bar in self.shapes}
        sizes = dict(self._sizes)
        command = self.command
        self._data[:] = self._power_on
        self._sizes = {index: shape.size for index, shape in self.shapes.items()}
        for bar, shape in self.shapes.items():
            self._mask_bar(bar)
            self._place(bar, kept[bar] if restore else 0, shape.is_64)
            if restore:
                self.resize(bar, sizes[bar])
        memory_on = restore and command.memory_space
        self._data[4:6] = Command(memory_space=memory_on).encode()

    def resize(self, bar: int, size: int) -> bool:
        """Resize as an operating system would: control register, then a fresh address."""
        resizable = [index for index, shape in self.shapes.items() if shape.sizes]
        if bar not in resizable or size not in self.shapes[bar].sizes:
            return False
        control = REBAR_AT + 8 * (resizable.index(bar) + 1)
        value = RebarControl(self.read(control, 4)).replace(size=(size // MiB).bit_length() - 1)
        self.write(control, value, 4)
        return True

    def _describe(
        self, vendor: int, device: int, class_code: int, subsystem: tuple[int, int], revision: int
    ) -> None:
        header = ConfigHeader(self._data)
        header.vendor_id, header.device_id = vendor, device
        header.status = pci.Status(capabilities_list=True)
        header.command = Command(memory_space=True)  # the host assigned the BARs; DMA is off
        header.revision_id = revision
        header.class_code = pci.ClassCode(class_code)
        header.subsystem_vendor_id, header.subsystem_id = subsystem
        header.capabilities = PM_AT
        header.interrupt_pin = 1
        writable = Command(
            io_space=True,
            memory_space=True,
            bus_master=True,
            parity_response=True,
            serr_enable=True,
            interrupt_disable=True,
        )
        self._mask[4:6] = writable.encode()
        self._mask[0x0C] = self._mask[0x3C] = 0xFF
        for bar, shape in self.shapes.items():
            self._place(bar, shape.address, shape.is_64)
            self._mask_bar(bar)

    def _place(self, bar: int, address: int, is_64: bool) -> None:
        shape = self.shapes[bar]
        kind = pci.BarType.BITS_64 if is_64 else pci.BarType.BITS_32
        low = pci.MemoryBar(address & 0xFFFF_FFF0, kind=kind, prefetchable=shape.prefetchable)
        at = 0x10 + 4 * bar
        self._data[at : at + 4] = low.encode()
        if is_64:
            self._data[at + 4 : at + 8] = (address >> 32).to_bytes(4, "little")

    def _mask_bar(self, bar: int) -> None:
        """Address bits below the size are wired to zero: that is how software finds the size."""
        at = 0x10 + 4 * bar
        mask = -self._sizes[bar] & 0xFFFF_FFFF_FFFF_FFFF
        self._mask[at : at + 4] = (mask & 0xFFFF_FFF0).to_bytes(4, "little")
        if self.shapes[bar].is_64:
            self._mask[at + 4 : at + 8] = (mask >> 32).to_bytes(4, "little")

    def _chain(self, speed: int, width: int) -> None:
        power = pci.PowerManagement(self._data, PM_AT)
        power.header = pci.CapabilityHeader(id=pci.CapabilityId.POWER_MANAGEMENT, following=MSI_AT)
        power.capabilities = 3
        power.control = pci.PowerControl(no_soft_reset=True)
        self._mask[PM_AT + 4] = 0x03
        msi = pci.Msi(self._data, MSI_AT)
        msi.header = pci.CapabilityHeader(id=pci.CapabilityId.MSI, following=EXPRESS_AT)
        msi.control = pci.MsiControl(address_64=True)
        self._mask[MSI_AT + 2] = 0x71
        self._mask[MSI_AT + 4 : MSI_AT + 14] = b"\xfc" + b"\xff" * 9
        express = pci.PcieCapability(self._data, EXPRESS_AT)
        express.header = pci.CapabilityHeader(id=pci.CapabilityId.PCI_EXPRESS)
        express.flags = pci.PcieFlags(version=2, port_type=1)
        express.device_capabilities = 1 << 28
        express.device_control = pci.DeviceControl(max_payload=1, max_read_request=2)
        express.link_capabilities = pci.LinkCapabilities(max_speed=4, max_width=16, aspm=3)
        express.link_control = pci.LinkControl(aspm=3)
        express.link_status = pci.LinkStatus(speed=speed, width=width, active=True)
        self._mask[EXPRESS_AT + 8 : EXPRESS_AT + 10] = b"\xff\x7f"
        self._mask[EXPRESS_AT + 0x10 : EXPRESS_AT + 0x12] = b"\xd3\x0f"
        resizable = [bar for bar, shape in self.shapes.items() if shape.sizes]
        first = pci.ExtendedHeader(
            id=pci.ExtendedId.ADVANCED_ERRORS, version=2, following=REBAR_AT if resizable else 0
        )
        self._data[0x100:0x104] = first.encode()
        if resizable:
            head = pci.ExtendedHeader(id=pci.ExtendedId.RESIZABLE_BAR, version=1)
            self._data[REBAR_AT : REBAR_AT + 4] = head.encode()
        for entry, bar in enumerate(resizable):
            at = REBAR_AT + 8 * entry
            offered = sum(size // MiB for size in self.shapes[bar].sizes) << 4
            self._data[at + 4 : at + 8] = (offered & 0xFFFF_FFFF).to_bytes(4, "little")
            control = RebarControl(
                bar=bar,
                count=len(resizable) if entry == 0 else 0,
                size=(self._sizes[bar] // MiB).bit_length() - 1,
            )
            self._data[at + 8 : at + 12] = control.encode()
            self._mask[at + 9] = 0x3F

    def _resize(self) -> None:
        """Follow the resizable-BAR controls; a size that is not offered is not taken."""
        resizable = [bar for bar, shape in self.shapes.items() if shape.sizes]
        for entry, bar in enumerate(resizable):
            control = RebarControl(self.read(REBAR_AT + 8 * entry + 8, 4))
            size = MiB << control.size
            if size in self.shapes[bar].sizes and size != self._sizes[bar]:
                self._sizes[bar] = size
                self._mask_bar(bar)
                self._place(bar, self.address(bar) & -size, self.shapes[bar].is_64)
