"""A card of this Linux computer through vfio: with an IOMMU, without root; or without one, as root.

With an IOMMU the kernel maps exactly the memory that the card may touch, at bus addresses that we
choose. Without ("no-IOMMU" mode) vfio only hands over BARs and configuration, and bus addresses are
physical, as with `sysfs`.

Source: Linux include/uapi/linux/vfio.h (structures and request numbers), Documentation/driver-api/
vfio.rst; request numbers are `_IO(';', 100 + n)`, that is 0x3B64 + n.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from enum import IntEnum
from pathlib import Path
from typing import Self

from exosuit.datasheet import Struct, i32, u32, u64
from exosuit.errors import ExosuitError, HelperMissing, LinkError, LinkLost, PermissionNeeded
from exosuit.link.find import SYSFS, read_bars
from exosuit.link.function import PAGE, Closing, Counters, Segment, check_config, join
from exosuit.link.lock import CardLock
from exosuit.link.mapped import MappedBar, MappedMemory
from exosuit.link.sysfs import PREFETCH, denied, locked_pages, physical_pages, refuse_bound
from exosuit.units import BusAddress, round_up

CONTAINER = Path("/dev/vfio/vfio")
FIRST_IOVA = 0x1000_0000
"""Bus addresses that we give out start here, clear of the interrupt window at 0xFEE00000."""
INTERRUPT_WINDOW = (0xFEE0_0000, 0xFEF0_0000)
CONFIG_REGION = 7


class Request(IntEnum):
    """ioctl numbers."""

    GET_API_VERSION = 0x3B64
    CHECK_EXTENSION = 0x3B65
    SET_IOMMU = 0x3B66
    GROUP_GET_STATUS = 0x3B67
    GROUP_SET_CONTAINER = 0x3B68
    GROUP_GET_DEVICE_FD = 0x3B6A
    DEVICE_GET_REGION_INFO = 0x3B6C
    DEVICE_RESET = 0x3B6F
    MAP_DMA = 0x3B71
    UNMAP_DMA = 0x3B72


class Iommu(IntEnum):
    """Kinds of a container."""

    TYPE1 = 1
    TYPE1_V2 = 3
    NONE = 8


class GroupStatus(Struct):
    size = u32()
    flags = u32("bit 0: every function of the group is free or ours")


class RegionInfo(Struct):
    size = u32()
    flags = u32()
    index = u32()
    capabilities = u32()
    length = u64()
    offset = u64("where it lies in the device's file")


class MapDma(Struct):
    size = u32()
    flags = u32("bit 0 the card may read, bit 1 it may write")
    address = u64("of this process")
    iova = u64("on the bus")
    length = u64()


class UnmapDma(Struct):
    size = u32()
    flags = u32()
    iova = u64()
    length = u64()


class Descriptor(Struct):
    number = i32()


class VfioLink(Closing):
    """One function bound to vfio-pci; owns its group, its mappings and the lock."""

    def __init__(
        self, name: str, folder: Path, files: list[int], kind: Iommu, lock: CardLock | None
    ) -> None:
        self.name = name
        self.counters = Counters()
        self.iommu = kind
        self._folder = folder
        self._files = files
        self._container, _, self._device = files
        self._lock = lock
        self._next_iova = FIRST_IOVA
        self._bars: dict[int, MappedBar] = {}
        self._maps: list[mmap.mmap] = []
        self._config_at = self._region(CONFIG_REGION).offset

    @classmethod
    def open(cls, address: str, *, locks: Path | None = None, devices: Path = SYSFS) -> Self:
        """Take the function at `address`, which must be bound to vfio-pci.

        Raises LinkError, CardBusy, HelperMissing if vfio is not loaded, PermissionNeeded if the
        function or a neighbour in its IOMMU group has another driver, or rights are missing.
        """
        folder = devices / address
        name = f"pci:{address}"
        if not folder.exists():
            raise LinkError(
                f"there is no PCI function {address}",
                cause="it was unplugged, or the name is mistyped",
                next="exosuit list",
                address=address,
            )
        lock = CardLock.acquire(name, locks) if locks else None
        files: list[int] = []
        try:
            refuse_bound(folder)
            if (folder / "driver").resolve().name != "vfio-pci":
                raise HelperMissing(
                    f"{address} is not bound to vfio-pci",
                    cause="no driver has it" if CONTAINER.exists() else "vfio is not loaded",
                    next=f"as root (gives the card to vfio):  modprobe vfio-pci; echo vfio-pci >"
                    f" {folder}/driver_override; echo {address} > /sys/bus/pci/drivers_probe",
                    address=address,
                )
            kind = _open_files(folder, files)
            return cls(name, folder, files, kind, lock)
        except ExosuitError:
            for file in files:
                os.close(file)
            if lock:
                lock.close()
            raise

    def read_config(self, offset: int, size: int) -> int:
        check_config(offset, size)
        self.counters.round_trips += 1
        data = os.pread(self._open_device(), size, self._config_at + offset)
        return int.from_bytes(data.ljust(size, b"\xff"), "little")

    def write_config(self, offset: int, value: int, size: int) -> None:
        check_config(offset, size)
        self.counters.round_trips += 1
        os.pwrite(self._open_device(), value.to_bytes(size, "little"), self._config_at + offset)

    def bar(self, index: int) -> MappedBar:
        if index not in self._bars:
            self._bars[index] = self._map_bar(index)
        return self._bars[index]

    def resize_bar(self, index: int) -> int:
        """The resizable-BAR capability is hidden by vfio: the size stays. Resize before binding."""
        return self.bar(index).size

    def allocate_dma(self, size: int, *, contiguous: bool = False) -> MappedMemory:
        """Locked memory that the card may read and write; contiguous on the bus by the IOMMU."""
        self.counters.round_trips += 1
        self._open_device()
        has_iommu = self.iommu is not Iommu.NONE
        view, release = locked_pages(
            size, contiguous=contiguous and not has_iommu, locked=not has_iommu
        )
        if not has_iommu:
            return MappedMemory(view[:size], join(physical_pages(view)), release)
        length = round_up(len(view), PAGE)
        iova = self._choose_iova(length)
        start = ctypes.addressof(ctypes.c_char.from_buffer(view))
        request = MapDma.make(size=MapDma.SIZE, flags=3, address=start, iova=iova, length=length)
        self._control(self._container, Request.MAP_DMA, request, "memory cannot be mapped")

        def free() -> None:
            if self._files:
                undo = UnmapDma.make(size=UnmapDma.SIZE, iova=iova, length=length)
                self._control(self._container, Request.UNMAP_DMA, undo, "memory stays mapped")
            release()

        return MappedMemory(view[:size], [Segment(BusAddress(iova), length)], free)

    def reset(self) -> None:
        self._open_device()
        self._control(self._device, Request.DEVICE_RESET, None, "the function cannot be reset")

    def close(self) -> None:
        """Unmap everything, give the group back, release the lock; idempotent."""
        for bar in self._bars.values():
            bar.release()
        self._bars.clear()
        while self._maps:
            self._maps.pop().close()
        while self._files:
            os.close(self._files.pop())
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _open_device(self) -> int:
        if not self._files:
            raise LinkLost(
                f"{self.name} is closed", cause="it was closed", next="open the card again"
            )
        return self._device

    def _choose_iova(self, length: int) -> int:
        low, high = INTERRUPT_WINDOW
        if self._next_iova < high and self._next_iova + length > low:
            self._next_iova = high
        chosen = self._next_iova
        self._next_iova += length
        return chosen

    def _region(self, index: int) -> RegionInfo:
        info = RegionInfo.make(size=RegionInfo.SIZE, index=index)
        self._control(self._device, Request.DEVICE_GET_REGION_INFO, info, "vfio hides a region")
        return info

    def _map_bar(self, index: int) -> MappedBar:
        device = self._open_device()
        region = self._region(index) if 0 <= index < 6 else RegionInfo.make()
        if region.length == 0:
            raise LinkError(
                f"{self.name} has no BAR {index}, or it was given no address",
                cause="the BIOS or the kernel found no room for it",
                next="exosuit doctor",
                bar=index,
            )
        try:
            mapped = mmap.mmap(device, region.length, offset=region.offset)
        except (OSError, ValueError) as error:
            raise denied(CONTAINER, error) from error
        self._maps.append(mapped)
        address, _, flags = read_bars(self._folder).get(index, (0, 0, 0))
        return MappedBar(
            index,
            address,
            memoryview(mapped),
            self.counters,
            prefetchable=bool(flags & PREFETCH),
        )

    def _control(self, file: int, request: Request, argument: Struct | None, what: str) -> None:
        try:
            if argument is None:
                fcntl.ioctl(file, request)
            else:
                fcntl.ioctl(file, request, argument.memory)
        except OSError as error:
            raise LinkError(
                f"{self.name}: {what}",
                cause=f"{request.name}: {error}"
                + (" (see  ulimit -l)" if error.errno == errno.ENOMEM else ""),
                next="exosuit doctor",
                request=request.name,
            ) from error


def _open_files(folder: Path, files: list[int]) -> Iommu:
    """Open container, group and device into `files`; gives the kind of container."""
    link = folder / "iommu_group"
    if not link.exists():
        raise HelperMissing(
            f"{folder.name} is in no IOMMU group",
            cause="there is no IOMMU, and vfio's mode without one is off",
            next="switch the IOMMU on (intel_iommu=on), or as root (the card may then touch all"
            " memory):  echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
        )
    group = link.resolve().name
    bare = Path(f"/dev/vfio/noiommu-{group}")
    path = bare if bare.exists() else Path(f"/dev/vfio/{group}")
    for file in (CONTAINER, path):
        try:
            files.append(os.open(file, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise _denied_group(file, error) from error
    container, group_file = files
    status = GroupStatus.make(size=GroupStatus.SIZE)
    fcntl.ioctl(group_file, Request.GROUP_GET_STATUS, status.memory)
    if not status.flags & 1:
        neighbours = sorted(p.name for p in (link / "devices").iterdir() if p.name != folder.name)
        raise PermissionNeeded(
            f"{folder.name} shares its IOMMU group {group} with {', '.join(neighbours)}",
            cause="the group is handed out whole, and another driver has a part of it",
            next="bind the others to vfio-pci too, or put the card into another slot",
            neighbours=neighbours,
        )
    kind = Iommu.NONE if path == bare else Iommu.TYPE1_V2
    number = Descriptor.make(number=container)
    try:
        fcntl.ioctl(group_file, Request.GROUP_SET_CONTAINER, number.memory)
        fcntl.ioctl(container, Request.SET_IOMMU, kind)
        name = bytearray(folder.name.encode() + b"\0")
        files.append(fcntl.ioctl(group_file, Request.GROUP_GET_DEVICE_FD, name))
    except OSError as error:
        raise LinkError(
            f"vfio does not hand {folder.name} over",
            cause=f"{error} (mode {kind.name})",
            next="exosuit doctor",
        ) from error
    return kind


def _denied_group(path: Path, error: OSError) -> ExosuitError:
    if error.errno == errno.EBUSY:
        return LinkError(
            f"{path} is in use",
            cause="another program, a virtual machine perhaps, has the card",
            next=f"fuser -v {path}",
        )
    return denied(path, error)
