"""What the kernel driver's resource manager makes and answers: classes and controls of one branch.

The tree itself is `softcard.nvidia.resources`. Here stand the sizes of one branch's records, which
object a parameter must name, and what each object is behind its handle.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from exosuit.silicon.nvidia import rm
from exosuit.silicon.nvidia import rm_controls as controls
from exosuit.silicon.nvidia.branches import Branch
from exosuit.silicon.nvidia.channel import Userd
from exosuit.silicon.nvidia.classes import (
    ComputeClass,
    CopyClass,
    Engine,
    GpfifoClass,
    ObjectClass,
    UsermodeClass,
)
from exosuit.silicon.nvidia.rm import Location, Status
from exosuit.silicon.nvidia.rm_controls import FbInfoIndex, GrInfoIndex
from exosuit.softcard.nvidia.executor.channel import ChannelSetup
from exosuit.softcard.nvidia.kernel_driver.backing import PAGE, Backing, CallerMemory, Pool
from exosuit.softcard.nvidia.kernel_driver.card import ChannelState, ModelCard
from exosuit.softcard.nvidia.kernel_driver.space import GpuSpace
from exosuit.softcard.nvidia.resources import CLIENT, Resource, Resources, RmError
from exosuit.units import KiB

MEMORY_CLASSES = (
    ObjectClass.MEMORY_LOCAL, ObjectClass.MEMORY_SYSTEM, ObjectClass.MEMORY_OS_DESCRIPTOR,
)  # fmt: skip
PINNED = struct.Struct("<QQ")
"""Parameters of pinned memory, as `escapes` hands them on: address and size."""
_NO_PARAMETERS = (0,)
_MOST_ENTRIES = 1 << 20


@dataclass(eq=False)
class VaSpaceState:
    """A VA space: `space` once unified memory has taken it over."""

    card: ModelCard
    space: GpuSpace | None = None


@dataclass(eq=False)
class UserdBlock:
    """A channel's control block in a backing."""

    backing: Backing
    offset: int

    def read32(self, offset: int) -> int:
        return self._word(offset).value

    def write32(self, offset: int, value: int) -> None:
        self._word(offset).value = value

    def _word(self, offset: int) -> ctypes.c_uint32:
        return ctypes.c_uint32.from_address(self.backing.host + self.offset + offset)


class Objects:
    """Teaches a tree the classes and controls of one branch."""

    def __init__(
        self,
        resources: Resources,
        branch: Branch,
        version: str,
        cards: Sequence[ModelCard],
        system: Pool,
        caller: CallerMemory,
    ) -> None:
        self._resources = resources
        self._branch = branch
        self._version = version
        self._cards = cards
        self._system = system
        self._caller = caller
        self._add_classes()
        self._add_controls()

    def card_of(self, found: Resource) -> ModelCard:
        """The card that an object is about."""
        return found.above(ObjectClass.DEVICE).state

    def _add_classes(self) -> None:
        add, branch = self._resources.add_class, self._branch
        device, subdevice = ObjectClass.DEVICE, ObjectClass.SUBDEVICE
        add(ObjectClass.ROOT_CLIENT, "client", [CLIENT], [0, 4])
        add(device, "device", [ObjectClass.ROOT_CLIENT], [rm.DeviceParams.SIZE], self._device)
        add(subdevice, "subdevice", [device], [rm.SubdeviceParams.SIZE], self._subdevice)
        add(ObjectClass.VIRTUAL_MEMORY, "virtual memory", [device], [rm.VirtualMemoryParams.SIZE])
        add(ObjectClass.VA_SPACE, "VA space", [device], [branch.va_space.SIZE], self._va_space)
        for class_id in (ObjectClass.MEMORY_LOCAL, ObjectClass.MEMORY_SYSTEM):
            add(class_id, "memory", [device], [rm.MemoryParams.SIZE], self._memory, self._let_go)
        add(
            ObjectClass.MEMORY_OS_DESCRIPTOR, "pinned memory", [device], [PINNED.size],
            self._pinned, self._let_go,
        )  # fmt: skip
        group = ObjectClass.CHANNEL_GROUP
        add(group, "channel group", [device], [rm.ChannelGroupParams.SIZE], self._group)
        add(
            ObjectClass.CONTEXT_SHARE, "context share", [group], [rm.ContextShareParams.SIZE],
            self._share,
        )  # fmt: skip
        add(ObjectClass.DEBUGGER, "debugger", [device], [rm.DebuggerParams.SIZE], self._debugger)
        for card in self._cards:
            for class_id in card.offers:
                self._add_offered(class_id)

    def _add_offered(self, class_id: int) -> None:
        add = self._resources.add_class
        if class_id in tuple(UsermodeClass):
            sizes = [0, rm.UsermodeParams.SIZE]
            add(class_id, "usermode page", [ObjectClass.SUBDEVICE], sizes, self._offered)
        elif class_id in tuple(GpfifoClass):
            add(
                class_id, "channel", [ObjectClass.CHANNEL_GROUP], [self._branch.channel.SIZE],
                self._channel, self._end_channel,
            )  # fmt: skip
        elif class_id in (*ComputeClass, *CopyClass):
            add(class_id, "engine object", tuple(GpfifoClass), _NO_PARAMETERS, self._engine)

    def _offered(self, made: Resource, params: bytearray) -> None:
        del params
        if made.class_id not in self.card_of(made).offers:
            raise RmError(Status.INVALID_CLASS, f"{made.class_id:#x} is on another card's list")

    # Classes.

    def _device(self, made: Resource, params: bytearray) -> None:
        given = rm.DeviceParams(params)
        if given.device_id >= len(self._cards):
            raise RmError(Status.INVALID_DEVICE, f"there is no device {given.device_id}")
        made.state = self._cards[given.device_id]

    def _subdevice(self, made: Resource, params: bytearray) -> None:
        del made
        if rm.SubdeviceParams(params).subdevice_id:
            raise RmError(Status.INVALID_ARGUMENT, "a device has one subdevice")

    def _va_space(self, made: Resource, params: bytearray) -> None:
        given = self._branch.va_space(params)
        if not given.flags.is_externally_owned:
            raise RmError(Status.NOT_SUPPORTED, "a VA space that is not externally owned")
        made.state = VaSpaceState(self.card_of(made))

    def _memory(self, made: Resource, params: bytearray) -> None:
        given = rm.MemoryParams(params)
        is_local = made.class_id == ObjectClass.MEMORY_LOCAL
        if is_local != (given.attributes.location == Location.VRAM):
            raise RmError(Status.INVALID_ARGUMENT, "a location that is not its class's")
        if not given.size or given.size % PAGE or given.alignment & (given.alignment - 1):
            raise RmError(Status.INVALID_ARGUMENT, f"{given.size} bytes by {given.alignment}")
        if not given.flags.map_not_required:
            raise RmError(Status.NOT_SUPPORTED, "memory that RM is to map by itself")
        pool = self.card_of(made).memory if is_local else self._system
        backing = pool.take(given.size, given.alignment)
        if backing is None:
            raise RmError(Status.NO_MEMORY, f"{given.size} bytes of {pool.free_bytes}")
        given.offset, given.limit = backing.start, given.size - 1
        made.state = backing

    def _pinned(self, made: Resource, params: bytearray) -> None:
        address, size = PINNED.unpack(params)
        if address % PAGE or size % PAGE or not size:
            raise RmError(Status.INVALID_ADDRESS, f"{size} bytes at {address:#x} to be pinned")
        for at in (address, address + size - 1):
            try:
                self._caller.read(at, 1)
            except OSError as error:
                raise RmError(Status.INVALID_ADDRESS, f"{at:#x} is not mapped") from error
        made.state = Backing(None, 0, size, address, True)

    def _let_go(self, freed: Resource) -> None:
        freed.state.let_go()

    def _group(self, made: Resource, params: bytearray) -> None:
        engine = rm.ChannelGroupParams(params).engine_type
        if engine != Engine.GRAPHICS:
            raise RmError(Status.INVALID_ARGUMENT, f"engine {engine:#x}, which is not modelled")

    def _share(self, made: Resource, params: bytearray) -> None:
        given = rm.ContextShareParams(params)
        made.state = self._of(made, given.va_space, ObjectClass.VA_SPACE).state

    def _channel(self, made: Resource, params: bytearray) -> None:
        self._offered(made, params)
        given = self._branch.channel(params)
        card, group = self.card_of(made), made.above(ObjectClass.CHANNEL_GROUP)
        share = self._of(made, given.context_share, ObjectClass.CONTEXT_SHARE)
        if share.parent is not group:
            raise RmError(Status.INVALID_OBJECT_PARENT, "a context share of another group")
        space: GpuSpace | None = share.state.space
        if space is None:
            raise RmError(Status.INVALID_STATE, "UVM does not own the VA space yet")
        errors = self._of(made, given.object_error, *MEMORY_CLASSES).state
        userd = self._of(made, given.userd_memory[0], ObjectClass.MEMORY_LOCAL).state
        at, entries = given.userd_offset[0], given.gpfifo_entries
        if at % Userd.SIZE or at + Userd.SIZE > userd.size:
            raise RmError(Status.INVALID_OFFSET, f"USERD at {at:#x} of {userd.size} bytes")
        if not 2 <= entries <= _MOST_ENTRIES or entries & (entries - 1):
            raise RmError(Status.INVALID_ARGUMENT, f"a ring of {entries} entries")
        if given.gpfifo_offset % 8 or given.gpfifo_offset >> 40:
            raise RmError(Status.INVALID_ADDRESS, f"a ring at {given.gpfifo_offset:#x}")

        def setup(number: int) -> ChannelSetup:
            return ChannelSetup(
                number, group.handle, given.gpfifo_offset, entries, UserdBlock(userd, at), space,
                made.class_id,
            )  # fmt: skip

        made.state = card.add_channel(setup, errors)

    def _end_channel(self, freed: Resource) -> None:
        self.card_of(freed).remove_channel(freed.state.setup.number)

    def _engine(self, made: Resource, params: bytearray) -> None:
        self._offered(made, params)
        channel: ChannelState = made.above(*GpfifoClass).state
        channel.setup.classes.add(made.class_id)

    def _debugger(self, made: Resource, params: bytearray) -> None:
        given = rm.DebuggerParams(params)
        if given.app_client != made.client.handle:
            raise RmError(Status.INVALID_CLIENT, "a debugger of another client")
        self._of(made, given.compute_object, *ComputeClass)

    def _of(self, made: Resource, handle: int, *class_ids: int) -> Resource:
        """An object that a parameter names."""
        return self._resources.find(made.client.handle, handle, *class_ids)

    # Controls.

    def _add_controls(self) -> None:
        branch = self._branch
        client, device, subdevice = (
            ObjectClass.ROOT_CLIENT, ObjectClass.DEVICE, ObjectClass.SUBDEVICE,
        )  # fmt: skip
        for kind, classes, handler in (
            (controls.BuildVersion, [client], self._build_version),
            (controls.GpuIdInfo, [client], self._id_info),
            (controls.ClassList, [device], self._class_list),
            (branch.class_list, [device], self._class_list_v2),
            (branch.gpu_name, [subdevice], self._name),
            (controls.GpuUuid, [subdevice], self._uuid),
            (controls.GrInfo, [subdevice], self._gr_info),
            (branch.sm_order, [subdevice], self._sm_order),
            (branch.fb_info, [subdevice], self._fb_info),
            (controls.PerfBoost, [subdevice], self._nothing),
            (controls.FlushGpuCache, [subdevice], self._nothing),
            (controls.WorkSubmitToken, tuple(GpfifoClass), self._token),
            (branch.schedule, [ObjectClass.CHANNEL_GROUP], self._schedule),
            (controls.SmErrors, [ObjectClass.DEBUGGER], self._sm_errors),
            (controls.MmuFaults, [ObjectClass.DEBUGGER], self._mmu_faults),
        ):
            self._resources.add_control(kind.COMMAND, kind.__name__, classes, [kind.SIZE], handler)

    def _build_version(self, found: Resource, params: bytearray) -> None:
        controls.BuildVersion(params).assign(
            driver_version=self._version.encode(), title=b"NVIDIA UNIX Open Kernel Module"
        )

    def _id_info(self, found: Resource, params: bytearray) -> None:
        answer = controls.GpuIdInfo(params)
        card = next((card for card in self._cards if card.gpu_id == answer.gpu_id), None)
        if card is None:
            raise RmError(Status.INVALID_ARGUMENT, f"there is no GPU {answer.gpu_id:#x}")
        answer.assign(device_instance=card.index, gpu_instance=card.index)

    def _class_list(self, found: Resource, params: bytearray) -> None:
        answer, offers = controls.ClassList(params), self._listed(found)
        if answer.count == 0:
            answer.count = len(offers)
            return
        if answer.count < len(offers):
            raise RmError(Status.INVALID_ARGUMENT, f"room for {answer.count} of {len(offers)}")
        answer.count = len(offers)
        self._to_caller(answer.address, struct.pack(f"<{len(offers)}I", *offers))

    def _class_list_v2(self, found: Resource, params: bytearray) -> None:
        offers = self._listed(found)
        self._branch.class_list(params).assign(count=len(offers), classes=offers)

    def _listed(self, found: Resource) -> tuple[int, ...]:
        generic = (
            ObjectClass.CONTEXT_SHARE, ObjectClass.VA_SPACE, ObjectClass.CHANNEL_GROUP,
            ObjectClass.VIRTUAL_MEMORY, ObjectClass.MEMORY_LOCAL,
        )  # fmt: skip
        return tuple(sorted({*generic, *self.card_of(found).offers}))

    def _name(self, found: Resource, params: bytearray) -> None:
        answer = self._branch.gpu_name(params)
        if answer.flags:
            raise RmError(Status.NOT_SUPPORTED, "a name in Unicode")
        title = self.card_of(found).product.title
        answer.text = (title if title.startswith("NVIDIA") else f"NVIDIA {title}").encode()

    def _uuid(self, found: Resource, params: bytearray) -> None:
        answer = controls.GpuUuid(params)
        if not controls.GidFlags(answer.flags).is_binary:
            raise RmError(Status.NOT_SUPPORTED, "a uuid as text")
        answer.assign(length=16, uuid=self.card_of(found).uuid)

    def _gr_info(self, found: Resource, params: bytearray) -> None:
        asked = controls.GrInfo(params)
        shape = self.card_of(found).product.shape
        known = {
            GrInfoIndex.SM_VERSION: shape.sm_version,
            GrInfoIndex.MAX_WARPS_PER_SM: shape.limits.warps,
            GrInfoIndex.LITTER_NUM_GPCS: shape.gpcs,
            GrInfoIndex.LITTER_NUM_TPC_PER_GPC: shape.tpcs_per_gpc,
            GrInfoIndex.LITTER_NUM_SM_PER_TPC: shape.sms_per_tpc,
        }
        size = controls.InfoEntry.SIZE
        data = bytearray(self._from_caller(asked.address, asked.count * size))
        for at in range(0, len(data), size):
            entry = controls.InfoEntry(data, at)
            if entry.index not in known:
                raise RmError(Status.INVALID_ARGUMENT, f"GR info {entry.index:#x}")
            entry.value = known[GrInfoIndex(entry.index)]
        self._to_caller(asked.address, bytes(data))

    def _sm_order(self, found: Resource, params: bytearray) -> None:
        shape = self.card_of(found).product.shape
        self._branch.sm_order(params).assign(
            sm_count=shape.sm_count, tpc_count=-(-shape.sm_count // shape.sms_per_tpc)
        )

    def _fb_info(self, found: Resource, params: bytearray) -> None:
        memory, answer = self.card_of(found).memory, self._branch.fb_info(params)
        known = {
            FbInfoIndex.TOTAL_RAM_SIZE: memory.size,
            FbInfoIndex.USABLE_RAM_SIZE: memory.size,
            FbInfoIndex.HEAP_SIZE: memory.size,
            FbInfoIndex.HEAP_FREE: memory.free_bytes,
        }
        if answer.count > len(answer.entries):
            raise RmError(Status.INVALID_ARGUMENT, f"{answer.count} entries")
        for index in range(answer.count):
            entry = answer.entries[index]
            if entry.index not in known:
                raise RmError(Status.INVALID_ARGUMENT, f"FB info {entry.index:#x}")
            entry.value = known[FbInfoIndex(entry.index)] // KiB

    def _nothing(self, found: Resource, params: bytearray) -> None:
        """Clocks and caches that software does not have."""

    def _token(self, found: Resource, params: bytearray) -> None:
        state: ChannelState = found.state
        answer = controls.WorkSubmitToken(params)
        answer.token = self.card_of(found).token(state.setup.number)

    def _schedule(self, found: Resource, params: bytearray) -> None:
        asked = self._branch.schedule(params)
        channels = [c.state for c in found.children.values() if isinstance(c.state, ChannelState)]
        if not channels:
            raise RmError(Status.INVALID_STATE, "a group without channels is scheduled")
        for state in channels:
            state.setup.is_enabled = bool(asked.enable)

    def _sm_errors(self, found: Resource, params: bytearray) -> None:
        asked, reports = controls.SmErrors(params), self.card_of(found).reports
        self._of(found, asked.channel, *GpfifoClass)
        if asked.sm_count > asked.LARGEST:
            raise RmError(Status.INVALID_ARGUMENT, f"{asked.sm_count} SMs at once")
        for index, error in reports.errors.items():
            if asked.first_sm <= index < asked.first_sm + asked.sm_count:
                asked.errors[index - asked.first_sm] = error
        asked.mmu_fault = controls.MmuFaultInfo.make(valid=bool(reports.faults))

    def _mmu_faults(self, found: Resource, params: bytearray) -> None:
        latest = self.card_of(found).reports.faults[::-1][: controls.MmuFaults.LARGEST]
        controls.MmuFaults(params).assign(faults=latest, count=len(latest))

    def _from_caller(self, address: int, size: int) -> bytes:
        try:
            return self._caller.read(address, size)
        except OSError as error:
            raise RmError(Status.INVALID_POINTER, f"{address:#x} of the caller") from error

    def _to_caller(self, address: int, data: bytes) -> None:
        try:
            self._caller.write(address, data)
        except OSError as error:
            raise RmError(Status.INVALID_POINTER, f"{address:#x} of the caller") from error
