"""Escapes: the ioctls of `/dev/nvidiactl` and `/dev/nvidiaN`, told to the tree of objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from exosuit.datasheet import Struct
from exosuit.silicon.nvidia import ioctl
from exosuit.silicon.nvidia.branches import Branch
from exosuit.silicon.nvidia.chips import VENDOR_ID
from exosuit.silicon.nvidia.classes import ObjectClass, UsermodeClass
from exosuit.silicon.nvidia.ioctl import Escape, Request
from exosuit.silicon.nvidia.rm import Status
from exosuit.softcard.nvidia.kernel_driver.backing import PAGE, Backing, CallerMemory
from exosuit.softcard.nvidia.kernel_driver.card import ModelCard
from exosuit.softcard.nvidia.kernel_driver.objects import MEMORY_CLASSES, PINNED, Objects
from exosuit.softcard.nvidia.resources import Resources, RmError

USERMODE_BYTES = 0x1_0000
_EINVAL, _ENOTTY = 22, 25
_NO_MAP = 1
_COHERENCIES = (0, 1, 5)
"""Uncached, cached, write-back: what RmAllocOsDescriptor takes."""


@dataclass(eq=False)
class ControlFile:
    """One open of `/dev/nvidiactl`. Its clients end with it.

    shows  what mmap of it will find, once RM_MAP_MEMORY has prepared it
    """

    clients: list[int] = field(default_factory=list[int])
    shows: Shows | None = None


@dataclass(eq=False)
class GpuFile:
    """One open of `/dev/nvidiaN`; `control` is the control file that it was registered with."""

    card: ModelCard
    control: ControlFile | None = None
    shows: Shows | None = None


@dataclass(frozen=True)
class Shows:
    """What a file has been prepared to show: a backing, or the usermode page of a card."""

    size: int
    offset: int
    backing: Backing | None
    page: ModelCard | None


File = ControlFile | GpuFile


class Escapes:
    """Answers the calls.

    open_file  finds the file of a descriptor, or None
    """

    def __init__(
        self,
        resources: Resources,
        objects: Objects,
        branch: Branch,
        cards: Sequence[ModelCard],
        caller: CallerMemory,
        open_file: Callable[[int], object | None],
        refuse: Callable[[str], None],
    ) -> None:
        self._resources = resources
        self._objects = objects
        self._cards = cards
        self._caller = caller
        self._open_file = open_file
        self._refuse = refuse
        self.statuses: dict[int, Status] = {}
        """Answers that are forced, by class or command: what a test wants to go wrong."""
        self._calls: dict[
            Escape, tuple[tuple[type[Struct], ...], Callable[[File, Struct], None]]
        ] = {
            Escape.REGISTER_FD: ((ioctl.RegisterFd,), self._register_fd),
            Escape.RM_ALLOC: ((ioctl.RmAlloc, ioctl.RmAllocWide), self._alloc),
            Escape.RM_CONTROL: ((ioctl.RmControl,), self._control),
            Escape.RM_FREE: ((ioctl.RmFree,), self._free),
            Escape.RM_ALLOC_MEMORY: ((ioctl.RmAllocMemory,), self._pin),
            Escape.RM_MAP_MEMORY: ((ioctl.RmMapMemory,), self._map),
            Escape.RM_UNMAP_MEMORY: ((ioctl.RmUnmapMemory,), self._unmap),
            Escape.RM_MAP_MEMORY_DMA: ((branch.map_dma,), self._map_dma),
            Escape.RM_UNMAP_MEMORY_DMA: ((ioctl.RmUnmapMemoryDma,), self._unmap_dma),
            Escape.CHECK_VERSION_STR: ((ioctl.VersionCheck,), self._check_version),
        }

    def call(self, file: File, request: int, record: bytearray) -> None:
        """One ioctl. Raises OSError where the kernel would not even look at the record."""
        asked = Request(request & 0xFFFF_FFFF)
        if asked.magic != ord("F") or asked.direction != 3:
            raise OSError(_ENOTTY, f"{request:#x} is no request of this driver")
        if asked.size > len(record):
            raise OSError(14, "the record ends too early")
        if asked.number == Escape.CARD_INFO:
            self._card_info(asked.size, record)
            return
        kinds, handler = self._calls.get(asked.number, ((), self._check_version))
        kind = next((kind for kind in kinds if asked.size == kind.SIZE), None)
        if kind is None:
            self._refuse(f"escape {int(asked.number):#x} with {asked.size} bytes")
            raise OSError(_EINVAL, f"escape {int(asked.number):#x} of {asked.size} bytes")
        view = kind(record)
        try:
            handler(file, view)
        except RmError as error:
            self._refuse(f"{asked.number.name}: {error}")
            status = kind.SLOTS.get("status")
            if status is None:
                raise OSError(_EINVAL, str(error)) from error
            status.write(view.memory, status.offset, error.status)

    def _card_info(self, size: int, record: bytearray) -> None:
        kind = ioctl.CardInfo
        if size % kind.SIZE or size // kind.SIZE < len(self._cards):
            raise OSError(_EINVAL, f"CARD_INFO of {size} bytes")
        record[:size] = bytes(size)
        for card in self._cards:
            info = kind(record, kind.SIZE * card.index)
            info.assign(
                valid=1,
                gpu_id=card.gpu_id,
                minor_number=card.index,
                fb_size=card.memory.size,
                register_size=16 << 20,
            )
            info.pci.assign(bus=card.index + 1, vendor=VENDOR_ID, device=card.product.device_id)

    def _register_fd(self, file: File, call: Struct) -> None:
        assert isinstance(call, ioctl.RegisterFd)
        control = self._open_file(call.control_fd)
        if not isinstance(file, GpuFile) or not isinstance(control, ControlFile):
            raise RmError(Status.INVALID_ARGUMENT, "a card's file is registered with a control's")
        if file.control is not None:
            raise RmError(Status.INVALID_ARGUMENT, "registered twice")
        file.control = control

    def _alloc(self, file: File, call: Struct) -> None:
        assert isinstance(call, ioctl.RmAlloc | ioctl.RmAllocWide)
        control = self._control_file(file)
        self._check_forced(call.class_id)
        if call.class_id == ObjectClass.MEMORY_OS_DESCRIPTOR:
            raise RmError(Status.NOT_SUPPORTED, "pages are pinned by RM_ALLOC_MEMORY here")
        size = call.params_size
        if call.params and not size:  # then the class says how many there are
            size = max(self._resources.sizes_of(call.class_id), default=0)
        if not call.params:
            size = 0
        params = bytearray(self._read(call.params, size))
        status, handle = self._resources.allocate(
            call.root, call.parent, call.new, call.class_id, params
        )
        call.status = status
        if status == Status.OK:
            call.new = handle
            if call.class_id == ObjectClass.ROOT_CLIENT:
                control.clients.append(handle)
            self._write(call.params, params)

    def _control(self, file: File, call: Struct) -> None:
        assert isinstance(call, ioctl.RmControl)
        self._control_file(file)
        self._check_forced(call.command)
        params = bytearray(self._read(call.params, call.params_size))
        call.status = self._resources.control(call.client, call.object, call.command, params)
        if call.status == Status.OK:
            self._write(call.params, params)

    def _free(self, file: File, call: Struct) -> None:
        assert isinstance(call, ioctl.RmFree)
        control = self._control_file(file)
        call.status = self._resources.free(call.root, call.old)
        if call.status == Status.OK and call.old in control.clients:
            control.clients.remove(call.old)

    def _pin(self, file: File, call: Struct) -> None:
        assert isinstance(call, ioctl.RmAllocMemory)
        if not isinstance(file, GpuFile) or file.control is None:
            raise RmError(Status.INVALID_ARGUMENT, "pages are pinned through a registered card")
        self._check_forced(call.class_id)
        if call.class_id != ObjectClass.MEMORY_OS_DESCRIPTOR:
            raise RmError(Status.NOT_SUPPORTED, f"class {call.class_id:#x} by RM_ALLOC_MEMORY")
        if call.flags.mapping != _NO_MAP or call.flags.coherency not in _COHERENCIES:
            raise RmError(Status.INVALID_FLAGS, f"pages are not pinned with {call.flags:#x}")
        if not call.new:
            raise RmError(Status.INVALID_OBJECT_NEW, "the caller chooses the handle")
        params = bytearray(PINNED.pack(call.pages, call.limit + 1))
        call.status, _ = self._resources.allocate(
            call.root, call.parent, call.new, call.class_id, params
        )

    def _map(self, file: File, call: Struct) -> None:
        assert isinstance(call, ioctl.RmMapMemory)
        self._control_file(file)
        target = self._open_file(call.fd)
        if not isinstance(target, ControlFile | GpuFile):
            raise RmError(Status.INVALID_ARGUMENT, f"{call.fd} is no file to map through")
        if target.shows is not None:
            raise RmError(Status.STATE_IN_USE, "a file shows one thing only")
        found = self._resources.find(call.client, call.memory_handle)
        device = self._resources.find(call.client, call.device)
        if device.class_id not in (ObjectClass.DEVICE, ObjectClass.SUBDEVICE):
            raise RmError(Status.INVALID_DEVICE, f"{call.device:#x} is no device")
        card = self._objects.card_of(found)
        if found.class_id in tuple(UsermodeClass):
            self._check_gpu_file(target, card)
            if call.offset or call.length > USERMODE_BYTES:
                raise RmError(Status.INVALID_LIMIT, f"{call.length} bytes of the usermode page")
            target.shows = Shows(call.length, 0, None, card)
            return
        if found.class_id not in MEMORY_CLASSES[:2]:
            raise RmError(Status.INVALID_OBJECT_HANDLE, f"a {found.class_id:#x} is not shown")
        backing: Backing = found.state
        if backing.is_host and not isinstance(target, ControlFile):
            raise RmError(Status.INVALID_ARGUMENT, "system memory is shown by the control node")
        if not backing.is_host:
            self._check_gpu_file(target, card)
        if call.offset % PAGE or call.length % PAGE or call.offset + call.length > backing.size:
            raise RmError(Status.INVALID_LIMIT, f"{call.length} of {backing.size} bytes")
        target.shows = Shows(call.length, call.offset, backing.hold(), None)

    def _unmap(self, file: File, call: Struct) -> None:
        assert isinstance(call, ioctl.RmUnmapMemory)
        self._control_file(file)
        self._resources.find(call.client, call.memory_handle)

    def _map_dma(self, file: File, call: Struct) -> None:
        """Into the device's own address space, which only engines use that are not modelled."""
        assert isinstance(call, ioctl.RmMapMemoryDma | ioctl.RmMapMemoryDmaOf570)
        self._control_file(file)
        self._resources.find(call.client, call.dma, ObjectClass.VIRTUAL_MEMORY)
        found = self._resources.find(call.client, call.memory_handle, *MEMORY_CLASSES)
        if call.offset + call.length > found.state.size:
            raise RmError(Status.INVALID_LIMIT, f"{call.length} of {found.state.size} bytes")
        if not call.flags.dma_offset_fixed:
            raise RmError(Status.NOT_SUPPORTED, "an address of RM's own choice")

    def _unmap_dma(self, file: File, call: Struct) -> None:
        assert isinstance(call, ioctl.RmUnmapMemoryDma)
        self._control_file(file)
        self._resources.find(call.client, call.dma, ObjectClass.VIRTUAL_MEMORY)

    def _check_version(self, file: File, call: Struct) -> None:
        assert isinstance(call, ioctl.VersionCheck)
        call.reply = 1

    def _control_file(self, file: File) -> ControlFile:
        if not isinstance(file, ControlFile):
            raise OSError(_EINVAL, "a call for the control node")
        return file

    def _check_gpu_file(self, target: File, card: ModelCard) -> None:
        if not isinstance(target, GpuFile) or target.card is not card:
            raise RmError(Status.INVALID_ARGUMENT, "shown by the node of its own card")
        if target.control is None:
            raise RmError(Status.INVALID_ARGUMENT, "the card's file was not registered")

    def _check_forced(self, number: int) -> None:
        if any(card.is_lost for card in self._cards):
            raise RmError(Status.GPU_IS_LOST, "the card is gone")
        if number in self.statuses:
            raise RmError(self.statuses[number], "as the test wants it")

    def _read(self, address: int, size: int) -> bytes:
        if not size:
            return b""
        try:
            return self._caller.read(address, size)
        except OSError as error:
            raise RmError(Status.INVALID_POINTER, f"{address:#x} of the caller") from error

    def _write(self, address: int, data: bytearray) -> None:
        if data:
            self._caller.write(address, data)
