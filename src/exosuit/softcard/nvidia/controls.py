"""The controls that GSP firmware answers: what it tells of the chip, and what it takes of the host.

Beside the tree of `objects`: runlists, sizes of contexts and their promotion, tokens and schedules,
what the debugger reads.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.silicon.nvidia.classes import Engine, ObjectClass
from exosuit.silicon.nvidia.gsp_controls import (
    BufferId,
    ContextBuffersInfo,
    CopyReservedPdes,
    DeviceInfoTable,
    EngineInfo,
    GspControl,
    PromoteContext,
    StaticGrInfo,
)
from exosuit.silicon.nvidia.paging import PAGE, Format
from exosuit.silicon.nvidia.rm import Status
from exosuit.silicon.nvidia.rm_controls import (
    AccessType,
    BindChannel,
    ClassListV2Of570,
    FaultType,
    FbInfoIndex,
    FbInfoOf570,
    GpuName,
    GrInfoIndex,
    MmuFaults,
    PerfBoost,
    ScheduleChannelOf570,
    ScheduleOf570,
    SmErrors,
    SmOrderOf570,
    WorkSubmitToken,
)
from exosuit.softcard.nvidia.executor.faults import MmuFault, WarpFault
from exosuit.softcard.nvidia.mmu import Place
from exosuit.softcard.nvidia.objects import (
    CONTEXT_BYTES,
    ENGINES,
    PROPERTY_OF,
    ChannelState,
    Objects,
    SpaceState,
)
from exosuit.softcard.nvidia.products import Product
from exosuit.softcard.nvidia.resources import Resource, RmError
from exosuit.softcard.nvidia.tlb import AddressSpace
from exosuit.units import KiB


class Controls:
    """Registers its answers with the tree of `objects`.

    make_space  an address space below a root
    """

    def __init__(
        self,
        product: Product,
        vram: int,
        format: Format,
        objects: Objects,
        make_space: Callable[[int], AddressSpace],
    ) -> None:
        self._product = product
        self._vram = vram
        self._format = format
        self._objects = objects
        self._resources = objects.resources
        self._make_space = make_space
        self._add_controls()

    def _add_controls(self) -> None:
        subdevice, channels = (ObjectClass.SUBDEVICE,), self._product.gpfifo
        debugger = (ObjectClass.DEBUGGER,)
        for command, name, classes, size, handler in (
            (GspControl.FIFO_GET_DEVICE_INFO_TABLE, "FIFO_GET_DEVICE_INFO_TABLE", subdevice,
             DeviceInfoTable.SIZE, self._device_info),
            (GspControl.GPU_PROMOTE_CTX, "GPU_PROMOTE_CTX", subdevice, PromoteContext.SIZE,
             self._promote),
            (GspControl.STATIC_KGR_GET_INFO, "STATIC_KGR_GET_INFO", subdevice, StaticGrInfo.SIZE,
             self._gr_info),
            (GspControl.STATIC_KGR_GET_CONTEXT_BUFFERS_INFO, "GET_CONTEXT_BUFFERS_INFO", subdevice,
             ContextBuffersInfo.SIZE, self._context_sizes),
            (GspControl.BUS_FLUSH_WITH_SYSMEMBAR, "BUS_FLUSH_WITH_SYSMEMBAR", subdevice, 0,
             _nothing),
            (GspControl.VASPACE_COPY_SERVER_RESERVED_PDES, "COPY_SERVER_RESERVED_PDES",
             (ObjectClass.VA_SPACE,), CopyReservedPdes.SIZE, self._reserve),
            (PerfBoost.COMMAND, "PERF_BOOST", subdevice, PerfBoost.SIZE, _nothing),
            (GpuName.COMMAND, "GET_NAME_STRING", subdevice, GpuName.SIZE, self._name),
            (SmOrderOf570.COMMAND, "GET_GLOBAL_SM_ORDER", subdevice, SmOrderOf570.SIZE,
             self._sm_order),
            (FbInfoOf570.COMMAND, "FB_GET_INFO", subdevice, FbInfoOf570.SIZE, self._fb_info),
            (ClassListV2Of570.COMMAND, "GET_CLASSLIST", (ObjectClass.DEVICE,),
             ClassListV2Of570.SIZE, self._classes),
            (WorkSubmitToken.COMMAND, "GET_WORK_SUBMIT_TOKEN", channels, WorkSubmitToken.SIZE,
             self._token),
            (ScheduleOf570.COMMAND, "GPFIFO_SCHEDULE", (ObjectClass.CHANNEL_GROUP,),
             ScheduleOf570.SIZE, self._schedule_group),
            (ScheduleChannelOf570.COMMAND, "GPFIFO_SCHEDULE", channels,
             ScheduleChannelOf570.SIZE, self._schedule_channel),
            (BindChannel.COMMAND, "BIND", channels, BindChannel.SIZE, self._bind),
            (SmErrors.COMMAND, "READ_ALL_SM_ERROR_STATES", debugger, SmErrors.SIZE,
             self._sm_errors),
            (MmuFaults.COMMAND, "READ_MMU_FAULT_INFO", debugger, MmuFaults.SIZE, self._mmu_faults),
        ):  # fmt: skip
            self._resources.add_control(command, name, classes, (size,), handler)

    def _device_info(self, on: Resource, params: bytearray) -> None:
        table = DeviceInfoTable(params)
        if table.base_index:
            raise RmError(Status.INVALID_ARGUMENT, f"engines from {table.base_index} on")
        table.count = len(ENGINES)
        for index, (engine, runlist) in enumerate(ENGINES.items()):
            entry = table.entries[index]
            entry.engine_data[EngineInfo.RM_ENGINE_TYPE] = engine
            entry.engine_data[EngineInfo.RUNLIST] = runlist
            entry.pbdma_count = 1
            copy = engine - Engine.COPY0
            entry.name = b"graphics" if engine == Engine.GRAPHICS else b"copy%d" % copy

    def _promote(self, on: Resource, params: bytearray) -> None:
        asked = PromoteContext(params)
        if not 1 <= asked.count <= 16:
            raise RmError(Status.INVALID_ARGUMENT, f"{asked.count} buffers")
        found = self._resources.find(asked.channel_client, asked.channel, *self._product.gpfifo)
        state: ChannelState = found.state
        for index in range(asked.count):
            entry = asked.entries[index]
            kind = PROPERTY_OF.get(BufferId(entry.buffer_id)) if entry.buffer_id <= 12 else None
            if kind is None:
                raise RmError(Status.INVALID_ARGUMENT, f"context buffer {entry.buffer_id}")
            name = f"the context's {BufferId(entry.buffer_id).name}"
            if entry.initialize:
                if entry.size < CONTEXT_BYTES[kind]:
                    raise RmError(Status.INVALID_ARGUMENT, f"{name} of {entry.size:#x} bytes")
                self._objects.check_local(entry.physical, entry.size, name)
                state.physical[entry.buffer_id] = entry.physical
            if entry.virtual:
                self._check_virtual(state, entry.buffer_id, entry.virtual, name)
                state.virtual[entry.buffer_id] = entry.virtual

    def _check_virtual(self, state: ChannelState, buffer: int, address: int, name: str) -> None:
        place = state.space.physical(address)
        if place is None:
            raise RmError(Status.INVALID_ADDRESS, f"{name} at {address:#x}, which is not mapped")
        known = state.physical.get(buffer)
        if known is not None and place != (Place.LOCAL, known):
            raise RmError(
                Status.INVALID_ADDRESS, f"{name} at {address:#x}, which maps {place[1]:#x}"
            )

    def _gr_info(self, on: Resource, params: bytearray) -> None:
        shape = self._product.shape
        known = {
            GrInfoIndex.SM_VERSION: shape.sm_version,
            GrInfoIndex.MAX_WARPS_PER_SM: shape.limits.warps,
            GrInfoIndex.LITTER_NUM_GPCS: shape.gpcs,
            GrInfoIndex.LITTER_NUM_TPC_PER_GPC: shape.tpcs_per_gpc,
            GrInfoIndex.LITTER_NUM_SM_PER_TPC: shape.sms_per_tpc,
        }
        values = StaticGrInfo(params).engines[0].values
        for index in range(len(values)):
            values[index].index = index
        for index, value in known.items():
            values[index].value = value

    def _context_sizes(self, on: Resource, params: bytearray) -> None:
        buffers = ContextBuffersInfo(params).engines[0].buffers
        for kind, size in CONTEXT_BYTES.items():
            buffers[kind].assign(size=size, alignment=PAGE)

    def _reserve(self, on: Resource, params: bytearray) -> None:
        """The firmware takes the upper tables of its part of a space; there they must be."""
        asked, format = CopyReservedPdes(params), self._format
        if asked.level_count != 3 or not asked.first < asked.last < format.reach:
            raise RmError(Status.INVALID_ARGUMENT, f"{asked.level_count} levels to copy")
        for index in range(asked.level_count):
            level = asked.levels[index]
            if level.page_shift != format.shifts[index] or level.aperture != 1:
                raise RmError(Status.INVALID_ARGUMENT, f"level {index} of shift {level.page_shift}")
            self._objects.check_local(level.address, level.size, f"the table of level {index}")
        state: SpaceState = on.state
        state.space = self._make_space(asked.levels[0].address)
        state.is_servers = True

    def _name(self, on: Resource, params: bytearray) -> None:
        GpuName(params).text = f"NVIDIA {self._product.title}".encode()

    def _sm_order(self, on: Resource, params: bytearray) -> None:
        shape = self._product.shape
        SmOrderOf570(params).assign(
            sm_count=shape.sm_count, tpc_count=shape.sm_count // shape.sms_per_tpc
        )

    def _fb_info(self, on: Resource, params: bytearray) -> None:
        asked = FbInfoOf570(params)
        if asked.count > 57:
            raise RmError(Status.INVALID_ARGUMENT, f"{asked.count} questions")
        for index in range(asked.count):
            entry = asked.entries[index]
            if entry.index in (FbInfoIndex.TOTAL_RAM_SIZE, FbInfoIndex.USABLE_RAM_SIZE):
                entry.value = self._vram // KiB

    def _classes(self, on: Resource, params: bytearray) -> None:
        offered = self._resources.class_ids
        answer = ClassListV2Of570(params)
        answer.assign(count=len(offered), classes=offered)

    def _token(self, on: Resource, params: bytearray) -> None:
        """The channel's number only: runlist and enable bits are the host's to add."""
        state: ChannelState = on.state
        WorkSubmitToken(params).token = state.number

    def _schedule_group(self, on: Resource, params: bytearray) -> None:
        enable = bool(ScheduleOf570(params).enable)
        for child in on.children.values():
            if isinstance(child.state, ChannelState):
                child.state.setup.is_enabled = enable

    def _schedule_channel(self, on: Resource, params: bytearray) -> None:
        state: ChannelState = on.state
        if on.parent is not None and on.parent.class_id == ObjectClass.CHANNEL_GROUP:
            raise RmError(Status.INVALID_STATE, "a channel of a group is scheduled with it")
        state.setup.is_enabled = bool(ScheduleChannelOf570(params).enable)

    def _bind(self, on: Resource, params: bytearray) -> None:
        engine = BindChannel(params).engine_type
        if engine not in ENGINES:
            raise RmError(Status.INVALID_ARGUMENT, f"a channel bound to engine {engine}")

    def _sm_errors(self, on: Resource, params: bytearray) -> None:
        asked = SmErrors(params)
        self._resources.find(on.client.handle, asked.channel, *self._product.gpfifo)
        state: ChannelState = on.state
        match state.fault:
            case MmuFault():
                asked.mmu_fault.valid = 1
            case WarpFault(error=error, address=address):
                asked.errors[0].assign(global_esr=4, warp_esr=error, esr_address=address)
            case _:
                pass

    def _mmu_faults(self, on: Resource, params: bytearray) -> None:
        state: ChannelState = on.state
        if isinstance(state.fault, MmuFault):
            answer = MmuFaults(params)
            answer.count = 1
            answer.faults[0].assign(
                address=state.fault.address,
                fault_type=FaultType.PTE,
                access_type=AccessType.WRITE if state.fault.write else AccessType.READ,
            )


def _nothing(on: Resource, params: bytearray) -> None:
    """Answered, and without effect here."""
