"""A card of this Linux computer through sysfs: no kernel module, but root or a share of its rights.

BARs and configuration are files that are mapped and read; DMA memory is locked memory of this
process whose physical pages `/proc/self/pagemap` tells. That is right only while the IOMMU is off
or passes the function through; where it translates, `vfio` is the way.

Sources: Linux Documentation/PCI/sysfs-pci.rst, admin-guide/mm/pagemap.rst (entry bits: 54:0 frame,
63 present).
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
from pathlib import Path
from typing import Self

from exosuit.errors import ExosuitError, HelperMissing, LinkError, LinkLost, PermissionNeeded
from exosuit.link.find import SYSFS, read_bars
from exosuit.link.function import PAGE, Closing, Counters, Segment, check_config, join
from exosuit.link.lock import CardLock, busy
from exosuit.link.mapped import MappedBar, MappedMemory
from exosuit.silicon.pci import Command
from exosuit.units import BusAddress, MiB, round_up

PREFETCH = 0x2000
"""IORESOURCE_PREFETCH in the flags of a `resource` line."""
HUGE_PAGE = 2 * MiB
_MAP_LOCKED, _MAP_HUGETLB = 0x2000, 0x40000
_PRESENT, _FRAME = 1 << 63, (1 << 55) - 1
PASSING = frozenset({"identity", ""})
"""IOMMU domain types in which a bus address is a physical address."""


class SysfsLink(Closing):
    """One function under `/sys/bus/pci/devices`; owns its mappings and the lock."""

    def __init__(self, name: str, folder: Path, config: int, lock: CardLock | None) -> None:
        self.name = name
        self.counters = Counters()
        self._folder = folder
        self._config: int | None = config
        self._lock = lock
        self._bars: dict[int, MappedBar] = {}
        self._maps: list[mmap.mmap] = []
        self._has_lent_memory = False

    @classmethod
    def open(cls, address: str, *, locks: Path | None = None, devices: Path = SYSFS) -> Self:
        """Take the function at `address`, such as `0000:05:00.0`, and switch it on.

        Raises LinkError if it is not there, CardBusy if another process of ours has it,
        PermissionNeeded if a kernel driver has it or rights are missing.
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
        try:
            refuse_bound(folder)
            enable = folder / "enable"
            if enable.exists():
                write_file(enable, "1", f"{address} cannot be switched on")
            try:
                config = os.open(folder / "config", os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                raise denied(folder / "config", error) from error
            try:  # locks lie in a folder of each user; this one holds between users
                fcntl.flock(config, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(config)
                raise busy(name, None) from error
            return cls(name, folder, config, lock)
        except ExosuitError:
            if lock:
                lock.close()
            raise

    def read_config(self, offset: int, size: int) -> int:
        check_config(offset, size)
        self.counters.round_trips += 1
        data = os.pread(self._open_config(), size, offset)
        if len(data) < size:
            raise LinkError(
                f"configuration space ends before {offset:#x}",
                cause="without CAP_SYS_ADMIN only the first 64 bytes are shown",
                next="run it as root, or  exosuit doctor",
                offset=offset,
            )
        return int.from_bytes(data, "little")

    def write_config(self, offset: int, value: int, size: int) -> None:
        check_config(offset, size)
        self.counters.round_trips += 1
        try:
            os.pwrite(self._open_config(), value.to_bytes(size, "little"), offset)
        except OSError as error:
            raise denied(self._folder / "config", error) from error

    def bar(self, index: int) -> MappedBar:
        if index not in self._bars:
            self._bars[index] = self._map_bar(index)
        return self._bars[index]

    def resize_bar(self, index: int) -> int:
        """Ask the kernel for the largest size that the card and the bus have; gives the size."""
        resize = self._folder / f"resource{index}_resize"
        if resize.exists():
            self._release_bars()
            offered = int(resize.read_text(encoding="ascii"), 16)
            for power in reversed(range(offered.bit_length())):
                if not offered >> power & 1:
                    continue
                try:
                    resize.write_text(str(power), encoding="ascii")
                    break
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise denied(resize, error) from error
        return self.bar(index).size

    def allocate_dma(self, size: int, *, contiguous: bool = False) -> MappedMemory:
        """Locked pages of this process, with their physical addresses."""
        self.counters.round_trips += 1
        refuse_translation(self._folder)
        self._has_lent_memory = True
        view, close = locked_pages(size, contiguous=contiguous)
        try:
            segments = join(physical_pages(view))
            if contiguous and len(segments) > 1:
                raise LinkError(
                    f"{size} bytes of memory are not contiguous",
                    cause="this computer's memory is in pieces",
                    next="reserve huge pages:  sysctl vm.nr_hugepages=64   (takes 128 MiB)",
                    size=size,
                )
        except ExosuitError:
            close()
            raise
        return MappedMemory(view[:size], segments, close)

    def reset(self) -> None:
        self._release_bars()
        write_file(self._folder / "reset", "1", "the function cannot be reset")

    def close(self) -> None:
        """Stop the card's DMA if it has any of our memory, unmap, release the lock; idempotent.

        Nothing but the bus master bit keeps a card from writing to pages that are somebody else's
        by then.
        """
        if self._config is not None:
            if self._has_lent_memory:
                self._stop_dma(self._config)
            self._release_bars()
            os.close(self._config)
            self._config = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @staticmethod
    def _stop_dma(config: int) -> None:
        with contextlib.suppress(OSError):  # a card that is gone emits nothing
            command = Command.decode(os.pread(config, 2, 4))
            os.pwrite(config, command.replace(bus_master=False).encode(), 4)

    def _open_config(self) -> int:
        if self._config is None:
            raise LinkLost(
                f"{self.name} is closed", cause="it was closed", next="open the card again"
            )
        return self._config

    def _map_bar(self, index: int) -> MappedBar:
        self._open_config()
        found = read_bars(self._folder).get(index)
        if found is None:
            raise LinkError(
                f"{self.name} has no BAR {index}, or it was given no address",
                cause="the BIOS or the kernel found no room for it",
                next="exosuit doctor",
                bar=index,
            )
        address, size, flags = found
        path = self._folder / f"resource{index}"
        try:
            file = os.open(path, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
            try:
                mapped = mmap.mmap(file, size)
            finally:
                os.close(file)
        except (OSError, ValueError) as error:
            raise denied(path, error) from error
        self._maps.append(mapped)
        prefetchable = bool(flags & PREFETCH)
        return MappedBar(
            index, address, memoryview(mapped), self.counters, prefetchable=prefetchable
        )

    def _release_bars(self) -> None:
        for bar in self._bars.values():
            bar.release()
        self._bars.clear()
        while self._maps:
            self._maps.pop().close()


def refuse_bound(folder: Path) -> None:
    """Refuse a function that a kernel driver has, naming the driver."""
    driver = folder / "driver"
    if driver.exists() and driver.resolve().name != "vfio-pci":
        bound = driver.resolve().name
        raise PermissionNeeded(
            f"{folder.name} belongs to the kernel driver {bound}",
            cause=f"{bound} took it when it was found; two drivers would break each other",
            next=f"unbind it (as root; its screens go dark):  echo {folder.name} >"
            f" {folder}/driver/unbind",
            driver=bound,
        )


def refuse_translation(folder: Path) -> None:
    """Refuse physical addresses where the IOMMU would translate them."""
    kind = folder / "iommu_group" / "type"
    try:
        domain = kind.read_text(encoding="ascii").strip()
    except OSError:
        return  # no IOMMU
    if domain not in PASSING:
        raise LinkError(
            f"the IOMMU translates what {folder.name} emits (domain {domain})",
            cause="through sysfs a card needs physical addresses",
            next=f"use vfio:  exosuit run --device pci:{folder.name}   after   modprobe vfio-pci",
            domain=domain,
        )


def denied(path: Path, error: Exception) -> ExosuitError:
    """What a refused file means."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EPERM, errno.EACCES):
        if is_locked_down():
            return PermissionNeeded(
                f"{path} may not be opened",
                cause="the kernel is locked down (Secure Boot): it lets nobody touch BARs",
                next="use vfio, which lockdown allows:  exosuit doctor",
                path=str(path),
            )
        return PermissionNeeded(
            f"{path} may not be opened",
            cause="BARs and configuration belong to root",
            next=f"ls -l {path}   then run it as root, or let a udev rule give you the file",
            path=str(path),
        )
    if number in (errno.ENODEV, errno.ENXIO, errno.EIO):
        return LinkLost(f"{path} does not answer", cause=str(error), next="exosuit doctor")
    return LinkError(f"{path} cannot be used", cause=str(error), next="exosuit doctor")


def is_locked_down(file: Path = Path("/sys/kernel/security/lockdown")) -> bool:
    """Whether the kernel's lockdown is on; it shows the mode in brackets."""
    try:
        return "[none]" not in file.read_text(encoding="ascii")
    except OSError:
        return False


def write_file(path: Path, text: str, what: str) -> None:
    """Write to a control file of the kernel. Raises PermissionNeeded, HelperMissing, LinkError."""
    try:
        path.write_text(text, encoding="ascii")
    except FileNotFoundError as error:
        raise HelperMissing(
            what, cause=f"this kernel has no {path}", next="exosuit doctor", path=str(path)
        ) from error
    except OSError as error:
        raise denied(path, error) from error


def locked_pages(size: int, *, contiguous: bool, locked: bool = True) -> tuple[memoryview, _Close]:
    """Zeroed pages that stay where they are, and what frees them.

    locked  pin them here; not needed where the kernel pins what it maps for a card
    """
    huge = contiguous and size > PAGE
    length = round_up(max(size, 1), HUGE_PAGE if huge else PAGE)
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    flags |= _MAP_LOCKED if locked else 0
    try:
        mapped = mmap.mmap(-1, length, flags=flags | (_MAP_HUGETLB if huge else 0))
    except OSError as error:
        raise LinkError(
            f"{length} bytes of locked memory cannot be had",
            cause="no huge pages are reserved" if huge else f"{error} (see  ulimit -l)",
            next="sysctl vm.nr_hugepages=64   (as root; takes 128 MiB)" if huge else "ulimit -l",
            size=length,
        ) from error
    return memoryview(mapped), _Close(mapped)


class _Close:
    """Frees a mapping once nobody looks at it any more."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped: mmap.mmap | None = mapped

    def __call__(self) -> None:
        self._mapped = None  # views may be alive: the last of them unmaps


def physical_pages(view: memoryview) -> list[Segment]:
    """The physical page of every page of `view`, in order. Raises PermissionNeeded."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(view))
    entries = array.array("Q")
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(start // mmap.PAGESIZE * 8)
        entries.frombytes(pagemap.read(len(view) // mmap.PAGESIZE * 8))
    segments: list[Segment] = []
    for entry in entries:
        if not entry & _PRESENT or not entry & _FRAME:
            raise PermissionNeeded(
                "the physical addresses of memory are hidden",
                cause="/proc/self/pagemap shows them to root (CAP_SYS_ADMIN) only",
                next="run it as root, or use vfio with an IOMMU:  exosuit doctor",
            )
        address = (entry & _FRAME) * mmap.PAGESIZE
        segments.append(Segment(BusAddress(address), mmap.PAGESIZE))
    return segments
