"""`/dev/nvidia-uvm`: address spaces of a process, ranges in them, and what is mapped there.

Source of the statuses: OGKM 580.142 `kernel-open/nvidia-uvm/` (`uvm_va_space.c`,
`uvm_map_external.c`, `uvm_user_channel.c`, `uvm_va_range.c`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from exosuit.silicon.nvidia import uvm
from exosuit.silicon.nvidia.branches import Branch
from exosuit.silicon.nvidia.classes import GpfifoClass, ObjectClass
from exosuit.silicon.nvidia.rm import Status
from exosuit.softcard.nvidia.kernel_driver.backing import PAGE, Backing
from exosuit.softcard.nvidia.kernel_driver.card import ChannelState, ModelCard
from exosuit.softcard.nvidia.kernel_driver.objects import MEMORY_CLASSES, VaSpaceState
from exosuit.softcard.nvidia.kernel_driver.space import GpuSpace, Mapped
from exosuit.softcard.nvidia.resources import Resources, RmError


@dataclass
class UvmFile:
    """One open of the node: an address space once it is initialised.

    gpus     registered, by uuid; with a space once a VA space was
    ranges   external ones, base to length
    channels ranges of registered channels, (client, handle) to (base, length)
    """

    is_initialized: bool = False
    gpus: dict[bytes, GpuSpace | None] = field(default_factory=dict[bytes, "GpuSpace | None"])
    ranges: dict[int, int] = field(default_factory=dict[int, int])
    channels: dict[tuple[int, int], tuple[int, int]] = field(
        default_factory=dict[tuple[int, int], tuple[int, int]]
    )


class Uvm:
    """Answers the calls.

    open_files   finds the file of a descriptor, or None
    is_control   whether a descriptor is a control file
    """

    def __init__(
        self,
        resources: Resources,
        branch: Branch,
        cards: Sequence[ModelCard],
        open_file: Callable[[int], UvmFile | None],
        is_control: Callable[[int], bool],
        refuse: Callable[[str], None],
    ) -> None:
        self._resources = resources
        self._cards = {card.uuid: card for card in cards}
        self._open_file = open_file
        self._is_control = is_control
        self._refuse = refuse
        self.mm_status = Status.OK
        """What UVM_MM_INITIALIZE answers: some kernels refuse it."""
        self._calls: dict[int, tuple[type[uvm.UvmCall], Callable[[UvmFile, memoryview], None]]] = {
            kind.REQUEST: (kind, handler)
            for kind, handler in (
                (uvm.Initialize, self._initialize),
                (uvm.MmInitialize, self._mm_initialize),
                (uvm.RegisterGpu, self._register_gpu),
                (uvm.UnregisterGpu, self._unregister_gpu),
                (uvm.RegisterGpuVaSpace, self._register_va_space),
                (uvm.RegisterChannel, self._register_channel),
                (branch.uvm_unregister_channel, self._unregister_channel),
                (uvm.CreateExternalRange, self._create_range),
                (uvm.MapExternalAllocation, self._map),
                (branch.uvm_free, self._free),
            )
        }

    def call(self, file: UvmFile, request: int, record: bytearray) -> None:
        """One ioctl. Raises OSError for a request that there is not."""
        known = self._calls.get(request)
        if known is None:
            raise OSError(22, f"UVM has no call {request:#x} here")
        kind, handler = known
        if len(record) < kind.SIZE:
            raise OSError(14, "the record ends too early")
        view = memoryview(record)
        try:
            if not file.is_initialized and kind not in (uvm.Initialize, uvm.MmInitialize):
                raise RmError(Status.ILLEGAL_ACTION, "the file is not initialised")
            handler(file, view)
            status = Status.OK
        except RmError as error:
            status = error.status
            if status != self.mm_status or kind is not uvm.MmInitialize:
                self._refuse(f"UVM {kind.__name__}: {error}")
        made = kind(view)
        kind.SLOTS["status"].write(made.memory, kind.SLOTS["status"].offset, status)

    def close(self, file: UvmFile) -> None:
        """The file is closed: its address space ends."""
        for space in file.gpus.values():
            if space is not None:
                for gone in space.unmap(0, 1 << 64):
                    gone.backing.let_go()
        for client, handle in file.channels:
            self._set_registered(client, handle, False)
        file.gpus.clear()
        file.ranges.clear()
        file.channels.clear()

    # The file and the GPUs.

    def _initialize(self, file: UvmFile, view: memoryview) -> None:
        if uvm.Initialize(view).flags:
            raise RmError(Status.INVALID_ARGUMENT, "flags that are not known")
        if file.is_initialized:
            raise RmError(Status.INVALID_STATE, "initialised twice")
        file.is_initialized = True

    def _mm_initialize(self, file: UvmFile, view: memoryview) -> None:
        other = self._open_file(uvm.MmInitialize(view).uvm_fd)
        if other is None or other is file:
            raise RmError(Status.INVALID_ARGUMENT, "no other file of UVM")
        if not other.is_initialized:
            raise RmError(Status.ILLEGAL_ACTION, "the other file is not initialised")
        if self.mm_status:
            raise RmError(self.mm_status, "this kernel does not tie spaces to processes")

    def _register_gpu(self, file: UvmFile, view: memoryview) -> None:
        uuid = uvm.RegisterGpu(view).uuid
        if uuid not in self._cards:
            raise RmError(Status.GPU_UUID_NOT_FOUND, uuid.hex())
        if uuid in file.gpus:
            raise RmError(Status.INVALID_DEVICE, "registered twice")
        file.gpus[uuid] = None

    def _unregister_gpu(self, file: UvmFile, view: memoryview) -> None:
        uuid = uvm.UnregisterGpu(view).uuid
        if uuid not in file.gpus:
            raise RmError(Status.INVALID_DEVICE, "not registered")
        del file.gpus[uuid]

    def _register_va_space(self, file: UvmFile, view: memoryview) -> None:
        call = uvm.RegisterGpuVaSpace(view)
        if call.uuid not in file.gpus or file.gpus[call.uuid] is not None:
            raise RmError(Status.INVALID_DEVICE, "not registered, or with a VA space already")
        self._check_control(call.control_fd)
        found = self._resources.find(call.client, call.va_space, ObjectClass.VA_SPACE)
        state: VaSpaceState = found.state
        if state.card is not self._cards[call.uuid]:
            raise RmError(Status.INVALID_DEVICE, "a VA space of another card")
        state.space = file.gpus[call.uuid] = GpuSpace()

    # Channels.

    def _register_channel(self, file: UvmFile, view: memoryview) -> None:
        call = uvm.RegisterChannel(view)
        self._space(file, call.uuid)
        self._check_control(call.control_fd)
        found = self._resources.find(call.client, call.channel, *GpfifoClass)
        if not any(child.class_id for child in found.children.values()):
            raise RmError(Status.INVALID_CHANNEL, "a channel without an engine's object")
        key = call.client, call.channel
        if key in file.channels:
            raise RmError(Status.INVALID_CHANNEL, "registered twice")
        self._check_range(file, call.base, call.length)
        file.channels[key] = call.base, call.length
        self._set_registered(*key, True)

    def _unregister_channel(self, file: UvmFile, view: memoryview) -> None:
        call = self._calls[uvm.UnregisterChannel.REQUEST][0](view)
        assert isinstance(call, uvm.UnregisterChannel | uvm.UnregisterChannelOf570)
        key = call.client, call.channel
        if key not in file.channels:
            raise RmError(Status.INVALID_CHANNEL, "not registered")
        del file.channels[key]
        self._set_registered(*key, False)

    def _set_registered(self, client: int, handle: int, is_registered: bool) -> None:
        for found in self._resources.of_class(*GpfifoClass):
            if found.handle == handle and found.client.handle == client:
                state: ChannelState = found.state
                state.is_registered = is_registered

    # Ranges.

    def _create_range(self, file: UvmFile, view: memoryview) -> None:
        call = uvm.CreateExternalRange(view)
        self._check_range(file, call.base, call.length)
        file.ranges[call.base] = call.length

    def _map(self, file: UvmFile, view: memoryview) -> None:
        call = uvm.MapExternalAllocation(view)
        if call.base % PAGE or call.length % PAGE or not call.length:
            raise RmError(Status.INVALID_ADDRESS, f"{call.length} bytes at {call.base:#x}")
        if not 0 < call.mapping_count <= len(call.mappings):
            raise RmError(Status.INVALID_ARGUMENT, f"{call.mapping_count} GPUs")
        if not any(
            base <= call.base and call.base + call.length <= base + length
            for base, length in file.ranges.items()
        ):
            raise RmError(Status.INVALID_ADDRESS, f"no range holds {call.base:#x}")
        self._check_control(call.control_fd)
        found = self._resources.find(call.client, call.memory_handle, *MEMORY_CLASSES)
        backing: Backing = found.state
        if call.offset % PAGE or call.offset + call.length > backing.size:
            raise RmError(Status.INVALID_OFFSET, f"{call.length} of {backing.size} bytes")
        for index in range(call.mapping_count):
            how = call.mappings[index]
            space = self._space(file, how.uuid)
            for gone in space.unmap(call.base, call.length):
                gone.backing.let_go()
            writable = how.mapping_type != uvm.MappingType.READ_ONLY
            space.map(Mapped(call.base, call.length, backing.hold(), call.offset, writable))

    def _free(self, file: UvmFile, view: memoryview) -> None:
        call = self._calls[uvm.Free.REQUEST][0](view)
        assert isinstance(call, uvm.Free | uvm.FreeOf570)
        length = file.ranges.get(call.base)
        if length is None:
            raise RmError(Status.INVALID_ADDRESS, f"no range begins at {call.base:#x}")
        if isinstance(call, uvm.FreeOf570) and call.length != length:
            raise RmError(Status.INVALID_ADDRESS, f"a range of {length} bytes, not {call.length}")
        del file.ranges[call.base]
        for space in file.gpus.values():
            if space is not None:
                for gone in space.unmap(call.base, length):
                    gone.backing.let_go()

    def _space(self, file: UvmFile, uuid: bytes) -> GpuSpace:
        space = file.gpus.get(uuid)
        if space is None:
            raise RmError(Status.INVALID_DEVICE, "a GPU without a VA space here")
        return space

    def _check_control(self, fd: int) -> None:
        if not self._is_control(fd):
            raise RmError(Status.INVALID_ARGUMENT, f"{fd} is no control file")

    def _check_range(self, file: UvmFile, base: int, length: int) -> None:
        if base % PAGE or length % PAGE or not length or not base or base + length > 1 << 49:
            raise RmError(Status.INVALID_ADDRESS, f"{length:#x} bytes at {base:#x}")
        for start, size in (*file.ranges.items(), *file.channels.values()):
            if start < base + length and base < start + size:
                raise RmError(Status.UVM_ADDRESS_IN_USE, f"{base:#x} lies in another range")
