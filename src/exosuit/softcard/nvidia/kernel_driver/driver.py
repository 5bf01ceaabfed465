"""`SoftKernelDriver`: device nodes that open, take ioctls and map, with software cards behind.

Implements `link.nodes.DeviceNodes`. A strict driver raises at what a real one would merely answer
with a status, so that tests of our own driver end at its first mistake; what is refused is noted in
either case.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exosuit.link.function import Data
from exosuit.link.nodes import Mapping
from exosuit.silicon.nvidia.branches import branch_of
from exosuit.softcard.card import Refused
from exosuit.softcard.nvidia.kernel_driver.backing import CallerMemory, Pool
from exosuit.softcard.nvidia.kernel_driver.card import ModelCard
from exosuit.softcard.nvidia.kernel_driver.escapes import (
    ControlFile,
    Escapes,
    GpuFile,
    Shows,
)
from exosuit.softcard.nvidia.kernel_driver.objects import Objects
from exosuit.softcard.nvidia.kernel_driver.products import OLDER_CLASSES, PRODUCTS
from exosuit.softcard.nvidia.kernel_driver.uvm import Uvm, UvmFile
from exosuit.softcard.nvidia.products import Product
from exosuit.softcard.nvidia.resources import Resources
from exosuit.units import GiB

_FIRST_FD = 1 << 20
"""Descriptors that are like none of this process's real ones."""
_NOTES = 1000
_ENOENT, _EIO, _ENXIO, _EBADF, _EINVAL = 2, 5, 6, 9, 22


@dataclass(frozen=True)
class ModelOptions:
    """What can be chosen about the driver and its cards.

    version  of the driver
    cards    names of products
    vram     bytes of each card's memory
    classes  in place of what the first card lists, or None
    strict   raise at what is refused
    late     engines keep no order that nobody asked for, and work when somebody looks
    cache    folder in which translated programs are kept, or None
    threads  host threads that run programs; 0 for one per processor
    """

    version: str = "580.142"
    cards: tuple[str, ...] = ("gh100",)
    vram: int = 2 * GiB
    classes: tuple[int, ...] | None = None
    strict: bool = True
    late: bool = False
    cache: Path | None = None
    threads: int = 0


class SoftKernelDriver:
    """The nodes. `notes` holds what was refused; `open_errors` makes nodes fail to open."""

    def __init__(self, options: ModelOptions | None = None) -> None:
        self.options = options = options or ModelOptions()
        self.notes: list[str] = []
        self.open_errors: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        """How often each node was opened, called and mapped."""
        self._files: dict[int, ControlFile | GpuFile | UvmFile] = {}
        self._next_fd = _FIRST_FD
        self._caller = CallerMemory()
        self._system = Pool("kernel memory", GiB, is_host=True)
        self.cards = [self._card(index, name) for index, name in enumerate(options.cards)]
        # What answers needs a table; a driver without one tells its version by that of the newest.
        branch = branch_of(options.version) or branch_of("595.45")
        assert branch is not None
        self.resources = Resources(self.refuse)
        objects = Objects(
            self.resources, branch, options.version, self.cards, self._system, self._caller
        )
        self.escapes = Escapes(
            self.resources, objects, branch, self.cards, self._caller, self._files.get, self.refuse
        )
        self.uvm = Uvm(
            self.resources, branch, self.cards, self._uvm_file, self._is_control, self.refuse
        )

    def refuse(self, what: str) -> None:
        """Note what a driver should not do; raise it where the model is strict."""
        if len(self.notes) < _NOTES:
            self.notes.append(what)
        if self.options.strict:
            raise Refused(
                f"the software kernel driver refuses {what}",
                cause="it is strict: the real one would answer with a status, or the card hang",
                next="compare the driver with silicon",
            )

    # DeviceNodes.

    def open(self, path: str) -> int:
        self._count("open")
        if path in self.open_errors:
            raise OSError(self.open_errors[path], path)
        file = self._file(path)
        if isinstance(file, GpuFile) and file.card.is_lost:
            raise OSError(_EIO, path)
        self._next_fd += 1
        self._files[self._next_fd] = file
        return self._next_fd

    def ioctl(self, fd: int, request: int, record: bytearray) -> None:
        self._count("ioctl")
        for card in self.cards:
            card.run()
        file = self._open(fd)
        if isinstance(file, UvmFile):
            self.uvm.call(file, request, record)
        else:
            self.escapes.call(file, request, record)

    def map(self, fd: int, size: int) -> Mapping:
        self._count("map")
        shows = self.shown_by(fd)
        if size != shows.size:
            raise OSError(_ENXIO, "not as long as what was prepared")
        if shows.page is not None:
            return _UsermodePage(shows.page, size)
        return _Words(shows, size)

    def close(self, fd: int) -> None:
        self._count("close")
        file = self._open(fd)
        del self._files[fd]
        if isinstance(file, UvmFile):
            self.uvm.close(file)
            return
        if file.shows is not None and file.shows.backing is not None:
            file.shows.backing.let_go()
        if isinstance(file, ControlFile):
            for client in tuple(file.clients):
                if client in self.resources.clients:
                    self.resources.free(client, client)

    # For those who map by themselves.

    def shown_by(self, fd: int) -> Shows:
        """What RM_MAP_MEMORY has prepared a file to show. Raises OSError as mmap does."""
        file = self._open(fd)
        shows = None if isinstance(file, UvmFile) else file.shows
        if shows is None:
            raise OSError(_EINVAL, "nothing was prepared to be mapped")
        return shows

    @property
    def open_files(self) -> int:
        return len(self._files)

    def lose(self, index: int = 0) -> None:
        """Card `index` falls off the bus."""
        self.cards[index].is_lost = True

    def _card(self, index: int, name: str) -> ModelCard:
        product, options = PRODUCTS[name], self.options
        offers = options.classes if options.classes and index == 0 else _classes_of(product)
        return ModelCard(
            product, index, options.vram, offers, self.refuse,
            cache=options.cache, threads=options.threads, late=options.late,
        )  # fmt: skip

    def _file(self, path: str) -> ControlFile | GpuFile | UvmFile:
        if path == "/dev/nvidiactl":
            return ControlFile()
        if path == "/dev/nvidia-uvm":
            return UvmFile()
        found = re.fullmatch(r"/dev/nvidia(\d+)", path)
        if found is None or int(found[1]) >= len(self.cards):
            raise OSError(_ENOENT, path)
        return GpuFile(self.cards[int(found[1])])

    def _open(self, fd: int) -> ControlFile | GpuFile | UvmFile:
        file = self._files.get(fd)
        if file is None:
            raise OSError(_EBADF, f"{fd} is not open")
        return file

    def _uvm_file(self, fd: int) -> UvmFile | None:
        file = self._files.get(fd)
        return file if isinstance(file, UvmFile) else None

    def _is_control(self, fd: int) -> bool:
        return isinstance(self._files.get(fd), ControlFile)

    def _count(self, what: str) -> None:
        self.calls[what] = self.calls.get(what, 0) + 1


def _classes_of(product: Product) -> Sequence[int]:
    return (
        *OLDER_CLASSES, *product.usermode, *product.gpfifo, product.compute, *product.copies,
    )  # fmt: skip


class _Words:
    """A mapping of memory. The card's is write-combined: what is written stays here until `flush`,
    and goes in the opposite order.
    """

    def __init__(self, shows: Shows, size: int) -> None:
        assert shows.backing is not None
        self.size = size
        self._host = shows.backing.host + shows.offset
        self._is_combined = not shows.backing.is_host
        self._held: list[tuple[int, bytes]] = []

    def read32(self, offset: int) -> int:
        self.flush()
        return int.from_bytes(ctypes.string_at(self._place(offset, 4), 4), "little")

    def write32(self, offset: int, value: int) -> None:
        self.write(offset, value.to_bytes(4, "little"))

    def write(self, offset: int, data: Data) -> None:
        self._place(offset, len(data))
        self._held.append((offset, bytes(data)))
        if not self._is_combined:
            self.flush()

    def flush(self) -> None:
        latest: dict[int, bytes] = {}
        for start, data in self._held:
            for at in range(0, len(data), 4):
                latest[start + at] = data[at : at + 4]
        self._held.clear()
        for offset, word in reversed(latest.items()):
            ctypes.memmove(self._host + offset, word, len(word))

    def close(self) -> None:
        """The backing goes with the file."""

    def _place(self, offset: int, size: int) -> int:
        assert offset % 4 == 0, "a word that is not aligned"
        assert 0 <= offset <= self.size - size, "a word outside of the mapping"
        return self._host + offset


class _UsermodePage:
    """A mapping of registers that act."""

    def __init__(self, card: ModelCard, size: int) -> None:
        self.size = size
        self._card = card

    def read32(self, offset: int) -> int:
        return 0xFFFF_FFFF if self._card.is_lost else self._card.read_page(offset)

    def write32(self, offset: int, value: int) -> None:
        self._card.write_page(offset, value)

    def write(self, offset: int, data: Data) -> None:
        for at in range(0, len(data), 4):
            self.write32(offset + at, int.from_bytes(data[at : at + 4], "little"))

    def flush(self) -> None: ...

    def close(self) -> None: ...
