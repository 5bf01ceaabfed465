"""The resource manager's objects that computing takes, made in the order that it demands.

A client holds a device with its subdevice, an address space, a group of channels that share it, and
two channels, each with the object of its engine. Through the kernel driver and through the firmware
of a bare card the tree is the same: only how a record travels differs, and that is a
`ResourceManager`.

Sources: NVIDIA/open-gpu-kernel-modules `nvos.h`, `alloc/alloc_channel.h`; the order as tinygrad's
`ops_nv.py` has proven it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from exosuit.silicon.nvidia.branches import Branch
from exosuit.silicon.nvidia.classes import (
    ComputeClass,
    CopyClass,
    Engine,
    GpfifoClass,
    ObjectClass,
    UsermodeClass,
    newest,
)
from exosuit.silicon.nvidia.rm import (
    SUBCONTEXT_ASYNC,
    ChannelGroupParams,
    ChannelParams,
    ChannelParamsOf610,
    ContextShareParams,
    DebuggerParams,
    DeviceParams,
    SubdeviceParams,
    VaSpaceFlags,
)
from exosuit.silicon.nvidia.rm_controls import (
    Control,
    MmuFault,
    MmuFaults,
    SmError,
    SmErrors,
    WorkSubmitToken,
)

VA_BASE, VA_SIZE = 0x1000, 0x1FFFF_FB00_0000
"""Addresses of a space whose page tables somebody else owns, as CUDA asks for them."""

C = TypeVar("C", bound=Control)


class ResourceManager(Protocol):
    """Who makes objects. Raises an ExosuitError that says what the status means."""

    @property
    def branch(self) -> Branch:
        """The records that it takes."""
        ...

    @property
    def client(self) -> int:
        """Handle of the client that everything here belongs to."""
        ...

    def allocate(
        self, parent: int, class_id: int, params: bytes = b"", handle: int | None = None
    ) -> tuple[int, bytes]:
        """Make an object; gives its handle, and the parameters as they were filled in."""
        ...

    def control(self, handle: int, command: int, params: bytes) -> bytes:
        """Ask an object something; gives the parameters with the answer in them."""
        ...

    def free(self, handle: int) -> None: ...


def ask(rm: ResourceManager, handle: int, question: C) -> C:
    """`question` with its answer in it."""
    return type(question)(bytearray(rm.control(handle, question.COMMAND, bytes(question))))


@dataclass(frozen=True)
class DeviceObjects:
    """Handles of a GPU's device and its only subdevice."""

    device: int
    subdevice: int


def make_device(rm: ResourceManager, instance: int = 0) -> DeviceObjects:
    """The device that is number `instance` to the driver."""
    params = DeviceParams.make(device_id=instance, client_share=rm.client)
    device, _ = rm.allocate(rm.client, ObjectClass.DEVICE, bytes(params))
    subdevice, _ = rm.allocate(device, ObjectClass.SUBDEVICE, bytes(SubdeviceParams.make()))
    return DeviceObjects(device, subdevice)


@dataclass(frozen=True)
class Classes:
    """What was chosen of a card's list."""

    usermode: int
    gpfifo: int
    compute: int
    copy: int


def choose_classes(rm: ResourceManager, device: int) -> Classes:
    """The newest of each role. Raises UnsupportedCard where the card has none that is known."""
    offered = offered_classes(rm, device)
    return Classes(
        usermode=newest(UsermodeClass, offered),
        gpfifo=newest(GpfifoClass, offered),
        compute=newest(ComputeClass, offered),
        copy=newest(CopyClass, offered),
    )


def offered_classes(rm: ResourceManager, device: int) -> tuple[int, ...]:
    """Every class on the card's list."""
    answer = ask(rm, device, rm.branch.class_list.make())
    return tuple(answer.classes)[: answer.count]


def make_va_space(rm: ResourceManager, device: int) -> int:
    """An address space that can fault, whose page tables are not the resource manager's."""
    params = rm.branch.va_space.make(
        flags=VaSpaceFlags(is_externally_owned=True, enable_page_faulting=True),
        va_base=VA_BASE,
        va_size=VA_SIZE,
    )
    return rm.allocate(device, ObjectClass.VA_SPACE, bytes(params))[0]


@dataclass(frozen=True)
class GroupObjects:
    """Handles of a group of channels and of what ties it to an address space."""

    group: int
    context_share: int


def make_group(rm: ResourceManager, device: int, va_space: int) -> GroupObjects:
    """A group on the graphics engine: copies go by the copy engine that belongs to it."""
    engine = ChannelGroupParams.make(engine_type=Engine.GRAPHICS)
    group, _ = rm.allocate(device, ObjectClass.CHANNEL_GROUP, bytes(engine))
    share = ContextShareParams.make(va_space=va_space, flags=SUBCONTEXT_ASYNC)
    context_share, _ = rm.allocate(group, ObjectClass.CONTEXT_SHARE, bytes(share))
    return GroupObjects(group, context_share)


@dataclass(frozen=True)
class ChannelPlace:
    """Where a channel lives.

    ring      GPU virtual address of its `entries` GPFIFO entries
    userd     handle of the memory with its control block, and the block's offset there
    errors    handle of memory for error notifiers
    """

    ring: int
    entries: int
    userd: int
    userd_offset: int
    errors: int


def channel_params(
    branch: Branch, group: GroupObjects, place: ChannelPlace
) -> ChannelParams | ChannelParamsOf610:
    """Parameters of a channel, to which a route may add what only it knows."""
    return branch.channel.make(
        object_error=place.errors,
        object_buffer=place.userd,
        gpfifo_offset=place.ring,
        gpfifo_entries=place.entries,
        context_share=group.context_share,
        userd_memory=(place.userd,),
        userd_offset=(place.userd_offset,),
    )


@dataclass(frozen=True)
class ChannelObjects:
    """Handles of a channel and of the engine's object on it, and what rings its doorbell."""

    channel: int
    engine: int
    token: int


def make_channel(
    rm: ResourceManager, group: GroupObjects, gpfifo_class: int, engine_class: int, params: bytes
) -> ChannelObjects:
    """A channel of the group that is not scheduled yet."""
    channel, _ = rm.allocate(group.group, gpfifo_class, params)
    engine, _ = rm.allocate(channel, engine_class)
    return ChannelObjects(channel, engine, ask(rm, channel, WorkSubmitToken.make()).token)


def schedule(rm: ResourceManager, group: GroupObjects) -> None:
    """Let the channels of a group run, once all of them exist."""
    ask(rm, group.group, rm.branch.schedule.make(enable=1))


def make_debugger(rm: ResourceManager, device: int, compute: int) -> int:
    """Who is asked what a compute object's programs did wrong."""
    params = DebuggerParams.make(app_client=rm.client, compute_object=compute)
    return rm.allocate(device, ObjectClass.DEBUGGER, bytes(params))[0]


@dataclass(frozen=True)
class Errors:
    """What a debugger has seen: faults of translations, the latest first, and SMs that stopped."""

    faults: tuple[MmuFault, ...]
    stopped: tuple[tuple[int, SmError], ...]


def read_errors(
    rm: ResourceManager, debugger: int, channel: int, sm_count: int = SmErrors.LARGEST
) -> Errors:
    """What went wrong on a channel, if anything did.

    sm_count  that the card has; a call tells of `SmErrors.LARGEST`
    """
    stopped: list[tuple[int, SmError]] = []
    has_faults = False
    for first in range(0, sm_count, SmErrors.LARGEST):
        count = min(sm_count - first, SmErrors.LARGEST)
        answer = ask(rm, debugger, SmErrors.make(channel=channel, sm_count=count, first_sm=first))
        has_faults = has_faults or bool(answer.mmu_fault.valid)
        for index in range(count):
            error = answer.errors[index]
            if error.global_esr or error.warp_esr:
                stopped.append((first + index, error))
    faults: tuple[MmuFault, ...] = ()
    if has_faults:
        known = ask(rm, debugger, MmuFaults.make())
        faults = tuple(known.faults)[: known.count]
    return Errors(faults, tuple(stopped))
