"""What channels stand in: instance blocks, rings, and the graphics engine's context buffers.

Through the kernel driver all of this is its business; on a bare card the host lends the memory and
tells the firmware where it is. The first channel of all builds the golden context, of which the
graphics engine makes every other one, in an address space that the firmware shares; only then do
channels of users work.

Sources: open-gpu-kernel-modules 570.144 `kernel_graphics.c`, `kernel_graphics_context.c`,
`kernel_channel.c`; numbers as tinygrad's hardware-proven boot sends them (`nv/ip.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from exosuit.datasheet import Struct
from exosuit.driver.memory import Allocation, Memory
from exosuit.driver.nvidia.bare_metal import layout
from exosuit.driver.nvidia.bare_metal.rpc import FirmwareClient
from exosuit.driver.nvidia.bare_metal.vm import AddressSpace
from exosuit.driver.nvidia.bare_metal.vram import Vram
from exosuit.driver.nvidia.objects import Classes, DeviceObjects, make_device
from exosuit.driver.ranges import Ranges
from exosuit.silicon.nvidia.classes import Engine, ObjectClass
from exosuit.silicon.nvidia.gsp_controls import (
    BufferId,
    ContextBuffersInfo,
    ContextProperty,
    CopyReservedPdes,
    DeviceInfoTable,
    EngineInfo,
    GspControl,
    PromoteContext,
    PromotedBuffer,
    ReservedLevel,
)
from exosuit.silicon.nvidia.paging import PAGE, Format, TableAperture
from exosuit.silicon.nvidia.rm import ChannelParams, MemoryDescription, VaSpaceParams570
from exosuit.units import GpuAddress, KiB, MiB, VramAddress, round_up

S = TypeVar("S", bound=Struct)

INTERNAL_CLIENT = 0xC1E0_0004
"""Handle of the client that owns the golden context."""
_LOCAL = 2
"""`MemoryDescription.address_space` of VRAM."""
_RAMFC_BYTES, _METHOD_BYTES, _USERD_BYTES = 0x200, 0x5000, 0x400
_GOLDEN_ENTRIES, _GOLDEN_CHANNEL = 32, 3
_GOLDEN_FLAGS, _GOLDEN_INTERNAL_FLAGS = 0x20_0320, 0x1A
"""A channel with a number of our choice that the firmware itself owns; as tinygrad sends them."""
_RESERVED_SHIFT = 29
"""Tables down to those whose entries cover the whole reserved range are shared."""
_SHARED_LEVELS = 3
_MAIN_EXTRA = 256 * KiB
_ATTRIBUTE_ALIGNMENT = 2 * MiB
_VRAM_ATTRIBUTE = 4


@dataclass(frozen=True)
class _Kind:
    """How a context buffer is promoted: by which addresses, and for which channels."""

    physical: bool
    virtual: bool
    golden: bool = True
    user: bool = False


_BUFFERS = {
    BufferId.MAIN: _Kind(physical=True, virtual=True, user=True),
    BufferId.PM: _Kind(physical=True, virtual=True, golden=False, user=True),
    BufferId.PATCH: _Kind(physical=True, virtual=True, user=True),
    BufferId.BUNDLE_CB: _Kind(physical=False, virtual=True),
    BufferId.PAGE_POOL: _Kind(physical=False, virtual=True),
    BufferId.ATTRIBUTE_CB: _Kind(physical=False, virtual=True),
    BufferId.RTV_CB: _Kind(physical=False, virtual=True),
    BufferId.FECS_EVENT: _Kind(physical=True, virtual=True),
    BufferId.PRIV_ACCESS_MAP: _Kind(physical=True, virtual=False),
    BufferId.UNRESTRICTED_MAP: _Kind(physical=True, virtual=True),
}
_PROPERTIES = {
    BufferId.MAIN: ContextProperty.GRAPHICS,
    BufferId.PM: ContextProperty.PATCH,
    BufferId.PATCH: ContextProperty.PATCH,
    BufferId.BUNDLE_CB: ContextProperty.BUNDLE_CB,
    BufferId.PAGE_POOL: ContextProperty.PAGE_POOL,
    BufferId.ATTRIBUTE_CB: ContextProperty.ATTRIBUTE_CB,
    BufferId.RTV_CB: ContextProperty.RTV_CB,
    BufferId.FECS_EVENT: ContextProperty.FECS_EVENT,
    BufferId.PRIV_ACCESS_MAP: ContextProperty.PRIV_ACCESS_MAP,
    BufferId.UNRESTRICTED_MAP: ContextProperty.PRIV_ACCESS_MAP,
}


class Window:
    """Memory that the host writes by itself, in the window, at fixed virtual addresses."""

    def __init__(self, vram: Vram, space: AddressSpace) -> None:
        self._vram = vram
        self._free = Ranges(layout.TABLES_BYTES, layout.HOST_WRITTEN)
        start = VramAddress(layout.TABLES_BYTES)
        space.map(GpuAddress(layout.WINDOW_VA), [(start, layout.WINDOW_BYTES)], system=False)

    def take(self, size: int) -> VramAddress:
        """Whole pages, with whatever was in them."""
        address = self._free.take(round_up(size, PAGE), PAGE)
        assert address is not None, "the window is too small for its rings"
        return VramAddress(address)

    def take_cleared(self, size: int) -> VramAddress:
        """Whole pages of zeros."""
        address = self.take(size)
        self._vram.write(address, bytes(round_up(size, PAGE)))
        return address

    @staticmethod
    def virtual(address: VramAddress) -> GpuAddress:
        return GpuAddress(layout.WINDOW_VA + address - layout.TABLES_BYTES)


@dataclass(frozen=True)
class ChannelMemory:
    """What one channel stands in."""

    ring: VramAddress
    userd: VramAddress
    instance: VramAddress
    methods: VramAddress

    def describe(self, params: ChannelParams) -> None:
        """Tell the firmware where all of it is."""
        params.assign(
            instance_memory=_local(self.instance, PAGE),
            ramfc_memory=_local(self.instance, _RAMFC_BYTES),
            method_buffer=_local(self.methods, _METHOD_BYTES),
            userd=_local(self.userd, _USERD_BYTES),
        )


def take_channel(window: Window, ring_bytes: int) -> ChannelMemory:
    """Memory of one more channel. Of its ring, only what was written will ever be read."""
    return ChannelMemory(
        ring=window.take(ring_bytes),
        userd=window.take_cleared(_USERD_BYTES),
        instance=window.take_cleared(PAGE),
        methods=window.take_cleared(_METHOD_BYTES),
    )


class Contexts:
    """The golden context, and from it those of users' channels.

    runlists  by engine, once the golden context is made
    """

    def __init__(
        self, client: FirmwareClient, space: AddressSpace, memory: Memory, window: Window
    ) -> None:
        self._rm = client
        self._space = space
        self._memory = memory
        self._window = window
        self._sizes: dict[BufferId, int] = {}
        self.runlists: dict[int, int] = {}

    def make_golden(self, format: Format, classes: Classes) -> None:
        """Let the firmware build the context that all others begin as."""
        objects = make_device(self._rm)
        params = bytes(VaSpaceParams570.make())
        va_space, _ = self._rm.allocate(objects.device, ObjectClass.VA_SPACE, params)
        self._read_runlists(objects)
        self._share_tables(va_space, format)
        channel = self._make_channel(objects, va_space, classes.gpfifo)
        self._read_sizes(objects)
        golden = [buffer for buffer, kind in _BUFFERS.items() if kind.golden]
        taken = self._take(golden, "golden")
        entries = [_promoted(b, taken[b], physical=_BUFFERS[b].physical,
                             virtual=_BUFFERS[b].virtual) for b in golden]  # fmt: skip
        self._space.flush()
        promote(self._rm, objects.subdevice, self._rm.client, channel, entries)
        self._rm.allocate(channel, classes.compute)
        self._rm.allocate(channel, classes.copy)

    def add_user(self, rm: FirmwareClient, objects: DeviceObjects, channel: int) -> None:
        """Give a channel with a compute object its own context: where it is, then its addresses."""
        user = [buffer for buffer, kind in _BUFFERS.items() if kind.user]
        taken = self._take(user, "context")
        self._space.flush()
        for physical in (True, False):
            entries = [
                _promoted(buffer, taken[buffer], physical=physical, virtual=not physical)
                for buffer in user
            ]
            promote(rm, objects.subdevice, rm.client, channel, entries)

    def _read_runlists(self, objects: DeviceObjects) -> None:
        table = self._ask(objects.subdevice, GspControl.FIFO_GET_DEVICE_INFO_TABLE, DeviceInfoTable)
        for entry in list(table.entries)[: table.count]:
            engine = entry.engine_data[EngineInfo.RM_ENGINE_TYPE]
            self.runlists[engine] = entry.engine_data[EngineInfo.RUNLIST]

    def _share_tables(self, va_space: int, format: Format) -> None:
        """Hand the upper tables over the firmware's part of the address space to the firmware."""
        tables = self._space.path(GpuAddress(layout.RESERVED_VA), _RESERVED_SHIFT)
        self._space.flush()
        levels = [
            ReservedLevel.make(
                address=table.address,
                size=format.root * 8 if level == 0 else PAGE,
                aperture=TableAperture.VIDEO,
                page_shift=format.shifts[level],
            )
            for level, table in enumerate(tables)
        ]
        params = CopyReservedPdes.make(
            page_size=layout.RESERVED_VA_BYTES,
            first=layout.RESERVED_VA,
            last=layout.RESERVED_VA + layout.RESERVED_VA_BYTES - 1,
            level_count=_SHARED_LEVELS,
            levels=levels,
        )
        command = GspControl.VASPACE_COPY_SERVER_RESERVED_PDES
        self._rm.control(va_space, command, bytes(params))

    def _make_channel(self, objects: DeviceObjects, va_space: int, gpfifo_class: int) -> int:
        memory = take_channel(self._window, 8 * _GOLDEN_ENTRIES)
        params = ChannelParams.make(
            gpfifo_offset=self._window.virtual(memory.ring),
            gpfifo_entries=_GOLDEN_ENTRIES,
            engine_type=Engine.GRAPHICS,
            channel_id=_GOLDEN_CHANNEL,
            va_space=va_space,
            flags=_GOLDEN_FLAGS,
            internal_flags=_GOLDEN_INTERNAL_FLAGS,
        )
        memory.describe(params)
        return self._rm.allocate(objects.device, gpfifo_class, bytes(params))[0]

    def _read_sizes(self, objects: DeviceObjects) -> None:
        command = GspControl.STATIC_KGR_GET_CONTEXT_BUFFERS_INFO
        info = self._ask(objects.subdevice, command, ContextBuffersInfo)
        told = info.engines[0].buffers
        for buffer, property in _PROPERTIES.items():
            size, alignment = told[property].size, told[property].alignment
            if buffer is BufferId.MAIN:
                size += _MAIN_EXTRA
            if buffer is BufferId.ATTRIBUTE_CB:
                alignment = _ATTRIBUTE_ALIGNMENT
            self._sizes[buffer] = round_up(size, max(alignment, PAGE))

    def _take(self, buffers: list[BufferId], what: str) -> dict[BufferId, Allocation]:
        """Memory for context buffers, each in one piece."""
        found: dict[BufferId, Allocation] = {}
        for buffer in buffers:
            taken = self._memory.take(self._sizes[buffer], f"{what} {buffer.name.lower()}")
            assert len(taken.pieces) == 1, "memory is in pieces before anything was given back"
            found[buffer] = taken
        return found

    def _ask(self, handle: int, command: GspControl, kind: type[S]) -> S:
        return kind(bytearray(self._rm.control(handle, command, bytes(kind.make()))))


def promote(
    rm: FirmwareClient, subdevice: int, client: int, channel: int, entries: list[PromotedBuffer]
) -> None:
    """Tell the firmware where context buffers of a channel are."""
    params = PromoteContext.make(
        engine=Engine.GRAPHICS, client=client, channel_client=client, channel=channel,
        count=len(entries), entries=entries,
    )  # fmt: skip
    rm.control(subdevice, GspControl.GPU_PROMOTE_CTX, bytes(params))


def _promoted(
    buffer: BufferId, memory: Allocation, *, physical: bool, virtual: bool
) -> PromotedBuffer:
    entry = PromotedBuffer.make(buffer_id=buffer)
    if virtual:
        entry.virtual = memory.address
    if physical:
        entry.assign(
            physical=memory.pieces[0].start, size=memory.size, attributes=_VRAM_ATTRIBUTE,
            initialize=1, not_mapped=not virtual,
        )  # fmt: skip
    return entry


def _local(address: VramAddress, size: int) -> MemoryDescription:
    return MemoryDescription.make(base=address, size=size, address_space=_LOCAL)
