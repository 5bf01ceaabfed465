"""What GSP firmware makes of its clients' requests: devices, address spaces, channels, contexts.

The tree itself is `resources`; here is what its objects are on a bare card. The host lends the
memory for everything, so the firmware checks where it is. The first channel, in the space whose
upper tables the firmware was given, makes the golden context, of which every other one is a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from exosuit.silicon.nvidia.classes import Engine, ObjectClass
from exosuit.silicon.nvidia.gsp_controls import (
    BufferId,
    ContextProperty,
)
from exosuit.silicon.nvidia.paging import PAGE, Format
from exosuit.silicon.nvidia.rm import (
    ChannelGroupParams,
    ChannelParams,
    ClientParams,
    ContextShareParams,
    DebuggerParams,
    DeviceParams,
    MemoryDescription,
    Status,
    SubdeviceParams,
    UsermodeParams,
    VaSpaceParams570,
    VirtualMemoryParams,
)
from exosuit.softcard.nvidia.executor.channel import ChannelSetup, ControlBlock
from exosuit.softcard.nvidia.executor.faults import Fault
from exosuit.softcard.nvidia.executor.runlist import Executor
from exosuit.softcard.nvidia.products import Product
from exosuit.softcard.nvidia.resources import CLIENT, Resource, Resources, RmError
from exosuit.softcard.nvidia.tlb import AddressSpace
from exosuit.softcard.registers import Refuse
from exosuit.units import KiB, MiB

CONTEXT_BYTES = {
    ContextProperty.GRAPHICS: 1536 * KiB,
    ContextProperty.PATCH: 64 * KiB,
    ContextProperty.BUNDLE_CB: 128 * KiB,
    ContextProperty.PAGE_POOL: 256 * KiB,
    ContextProperty.ATTRIBUTE_CB: 4 * MiB,
    ContextProperty.RTV_CB: 128 * KiB,
    ContextProperty.GFXP_POOL: 512 * KiB,
    ContextProperty.GFXP_CONTROL: 64 * KiB,
    ContextProperty.FECS_EVENT: 256 * KiB,
    ContextProperty.PRIV_ACCESS_MAP: 512 * KiB,
}
"""Sizes that are told; `assumed`, of the order of real ones."""
PROPERTY_OF = {
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
GOLDEN_BUFFERS = frozenset(PROPERTY_OF) - {BufferId.PM}
USER_BUFFERS = frozenset({BufferId.MAIN, BufferId.PM, BufferId.PATCH})
"""What must be promoted before a context can be loaded."""
ENGINES = {
    Engine.GRAPHICS: 0,
    Engine.COPY0: 0,
    Engine.COPY0 + 1: 0,
    Engine.COPY0 + 2: 1,
    Engine.COPY0 + 3: 2,
    Engine.COPY0 + 4: 3,
}
"""Runlist by engine: two copy engines belong to the graphics engine's."""
_FIXED_CHANNEL = 1 << 21
"""Channel flag: the caller chose the number. `assumed` from what tinygrad sends."""
_FIRST_CHANNEL = 4
_FB_MEMORY, _SYSTEM_MEMORY = 2, 1
_METHOD_BUFFER = 0x5000


@dataclass
class SpaceState:
    """An address space: empty until it has a page directory."""

    space: AddressSpace | None = None
    is_servers: bool = False


@dataclass
class ChannelState:
    """One channel.

    promoted   physical addresses of context buffers, 0 where only a virtual one is known
    fault      what stopped it
    """

    number: int
    runlist: int
    group: int
    is_golden: bool
    space: AddressSpace
    setup: ChannelSetup
    physical: dict[int, int] = field(default_factory=dict[int, int])
    virtual: dict[int, int] = field(default_factory=dict[int, int])
    fault: Fault | None = None

    def why_no_context(self) -> str:
        """Why the graphics engine cannot load its context; "" if it can."""
        missing = [b.name for b in sorted(USER_BUFFERS) if b not in self.physical]
        missing += [b.name for b in sorted(USER_BUFFERS) if b not in self.virtual]
        return f"context buffers {', '.join(missing)} are not promoted" if missing else ""


class Objects:
    """The tree of one boot.

    make_space  an address space below a root
    userd       the control block of a channel in memory
    is_free     whether a range of local memory is nobody's but the host's
    """

    def __init__(
        self,
        product: Product,
        format: Format,
        executor: Executor,
        refuse: Refuse,
        *,
        make_space: Callable[[int], AddressSpace],
        userd: Callable[[MemoryDescription], ControlBlock],
        is_free: Callable[[int, int], bool],
    ) -> None:
        self.resources = Resources(refuse)
        self.golden = False
        self.channels: dict[int, ChannelState] = {}
        self._product = product
        self._format = format
        self._executor = executor
        self._refuse = refuse
        self._make_space = make_space
        self._userd = userd
        self._is_free = is_free
        self._add_classes()

    def clear(self) -> None:
        """As after a reset."""
        self.resources.clear()
        self.channels.clear()
        self.golden = False

    def set_page_directory(self, client: int, handle: int, root: int, entries: int) -> None:
        """Give an address space the host's own tables. Raises RmError."""
        found = self.resources.find(client, handle, ObjectClass.VA_SPACE)
        if entries != self._format.root:
            raise RmError(Status.INVALID_ARGUMENT, f"a root of {entries} entries")
        self.check_local(root, self._format.root * 8, "a page directory")
        state: SpaceState = found.state
        if state.space is None:
            state.space = self._make_space(root)
        elif state.space.root != root:
            state.space.root = root
            state.space.invalidate()

    def add_memory_list(self, client: int, device: int, handle: int, class_id: int) -> Status:
        """An object for pages of the host; its status."""
        status, _ = self.resources.allocate(client, device, handle, class_id, bytearray())
        return status

    # Classes.

    def _add_classes(self) -> None:
        add, product = self.resources.add_class, self._product
        device, subdevice = ObjectClass.DEVICE, ObjectClass.SUBDEVICE
        for root in (ObjectClass.ROOT, ObjectClass.ROOT_CLIENT):
            add(root, "a client", (CLIENT,), (0, ClientParams.SIZE))
        roots = (ObjectClass.ROOT, ObjectClass.ROOT_CLIENT)
        add(device, "a device", roots, (DeviceParams.SIZE,))
        add(subdevice, "a subdevice", (device,), (SubdeviceParams.SIZE,))
        add(ObjectClass.VIRTUAL_MEMORY, "virtual memory", (device,), (VirtualMemoryParams.SIZE,))
        add(
            ObjectClass.VA_SPACE, "an address space", (device,), (VaSpaceParams570.SIZE,),
            self._space_created,
        )  # fmt: skip
        add(ObjectClass.MEMORY_LIST_SYSTEM, "host pages", (device,), (0,))
        add(
            ObjectClass.CHANNEL_GROUP, "a channel group", (device,), (ChannelGroupParams.SIZE,),
            self._group_created,
        )  # fmt: skip
        group = ObjectClass.CHANNEL_GROUP
        add(
            ObjectClass.CONTEXT_SHARE, "a context share", (group,), (ContextShareParams.SIZE,),
            self._share_created,
        )  # fmt: skip
        for gpfifo in product.gpfifo:
            add(
                gpfifo, "a channel", (device, group), (ChannelParams.SIZE,),
                self._channel_created, self._channel_freed,
            )  # fmt: skip
        for engine in (product.compute, *product.copies):
            add(engine, "an engine", product.gpfifo, (0,), self._engine_created)
        for usermode in product.usermode:
            add(usermode, "the usermode page", (subdevice,), (0, UsermodeParams.SIZE))
        add(
            ObjectClass.DEBUGGER, "a debugger", (device,), (DebuggerParams.SIZE,),
            self._debugger_created,
        )  # fmt: skip

    def _space_created(self, made: Resource, params: bytearray) -> None:
        made.state = SpaceState()

    def _group_created(self, made: Resource, params: bytearray) -> None:
        engine = ChannelGroupParams(params).engine_type
        if engine not in ENGINES:
            raise RmError(Status.INVALID_ARGUMENT, f"a group on engine {engine}")
        made.state = engine

    def _share_created(self, made: Resource, params: bytearray) -> None:
        handle = ContextShareParams(params).va_space
        assert made.parent is not None
        made.state = self._space(made.parent, handle)

    def _space(self, near: Resource, handle: int) -> SpaceState:
        found = self.resources.find(near.client.handle, handle, ObjectClass.VA_SPACE)
        state: SpaceState = found.state
        return state

    def _channel_created(self, made: Resource, params: bytearray) -> None:
        asked = ChannelParams(params)
        assert made.parent is not None
        parent = made.parent
        in_group = parent.class_id == ObjectClass.CHANNEL_GROUP
        engine = parent.state if in_group else asked.engine_type
        if engine not in ENGINES:
            raise RmError(Status.INVALID_ARGUMENT, f"a channel on engine {engine}")
        if asked.context_share:
            share = self.resources.find(
                made.client.handle, asked.context_share, ObjectClass.CONTEXT_SHARE
            )
            if share.parent is not parent:
                raise RmError(Status.INVALID_OBJECT_PARENT, "a context share of another group")
            state: SpaceState = share.state
        else:
            state = self._space(made, asked.va_space)
        if state.space is None:
            raise RmError(Status.INVALID_STATE, "its address space has no page directory")
        entries = asked.gpfifo_entries
        if entries < 2 or entries & (entries - 1) or asked.gpfifo_offset % 8:
            raise RmError(
                Status.INVALID_ARGUMENT, f"a ring of {entries} entries at {asked.gpfifo_offset:#x}"
            )
        self._check_memories(asked)
        number = self._number(asked)
        setup = ChannelSetup(
            number, parent.handle if in_group else made.handle, asked.gpfifo_offset, entries,
            self._userd(asked.userd), state.space, made.class_id,
        )  # fmt: skip
        made.state = ChannelState(
            number, ENGINES[engine], setup.group, state.is_servers, state.space, setup
        )
        self.channels[number] = made.state
        self._executor.add(setup)
        asked.channel_id = number

    def _check_memories(self, asked: ChannelParams) -> None:
        for name, memory, size in (
            ("an instance block", asked.instance_memory, PAGE),
            ("a RAMFC", asked.ramfc_memory, 0x200),
            ("a method buffer", asked.method_buffer, _METHOD_BUFFER),
        ):
            if memory.address_space != _FB_MEMORY or memory.size < size:
                raise RmError(Status.INVALID_ARGUMENT, f"{name} of {memory.size:#x} bytes")
            if memory.base % 0x200:
                raise RmError(Status.INVALID_ADDRESS, f"{name} at {memory.base:#x}")
            self.check_local(memory.base, memory.size, name)
        if asked.userd.address_space == _FB_MEMORY:
            self.check_local(asked.userd.base, 0x200, "USERD")
        elif asked.userd.address_space != _SYSTEM_MEMORY:
            raise RmError(Status.INVALID_ARGUMENT, "USERD is in no memory")

    def check_local(self, base: int, size: int, name: str) -> None:
        if not self._is_free(base, size):
            raise RmError(
                Status.INVALID_ADDRESS,
                f"{name} at {base:#x}, outside local memory or in what is protected",
            )

    def _number(self, asked: ChannelParams) -> int:
        if asked.flags & _FIXED_CHANNEL:
            number = asked.channel_id
            if number in self.channels or number >= 1 << 11:
                raise RmError(Status.IN_USE, f"channel {number}")
            return number
        number = _FIRST_CHANNEL
        while number in self.channels:
            number += 1
        return number

    def _channel_freed(self, gone: Resource) -> None:
        state: ChannelState = gone.state
        self._executor.remove(state.number)
        self.channels.pop(state.number, None)

    def _engine_created(self, made: Resource, params: bytearray) -> None:
        assert made.parent is not None
        state: ChannelState = made.parent.state
        if made.class_id == self._product.compute:
            if state.is_golden:
                missing = [b.name for b in sorted(GOLDEN_BUFFERS) if not self._has(state, b)]
                if missing:
                    raise RmError(
                        Status.INVALID_STATE, f"a golden context without {', '.join(missing)}"
                    )
                self.golden = True
            elif not self.golden:
                raise RmError(Status.INVALID_STATE, "there is no golden context to copy")
        state.setup.classes.add(made.class_id)

    @staticmethod
    def _has(state: ChannelState, buffer: BufferId) -> bool:
        return buffer in state.physical or buffer in state.virtual

    def _debugger_created(self, made: Resource, params: bytearray) -> None:
        asked = DebuggerParams(params)
        found = self.resources.find(asked.app_client, asked.compute_object, self._product.compute)
        assert found.parent is not None
        made.state = found.parent.state
