"""The software kernel driver is as strict as the real one: each mistake has its status or errno."""

from __future__ import annotations

import ctypes
import errno
import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.softcard.node_cards import open_route

from exosuit.datasheet import Struct
from exosuit.driver.nvidia.kernel_driver import KernelDriverRoute
from exosuit.silicon.nvidia import ioctl, rm, rm_controls, uvm
from exosuit.silicon.nvidia.branches import BRANCHES
from exosuit.silicon.nvidia.channel import Usermode
from exosuit.silicon.nvidia.classes import CopyClass, GpfifoClass, ObjectClass, UsermodeClass
from exosuit.silicon.nvidia.ioctl import Escape, request_of
from exosuit.silicon.nvidia.rm import Status
from exosuit.softcard.nvidia.kernel_driver.driver import ModelOptions, SoftKernelDriver
from exosuit.units import MiB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel driver is Linux's")

DOORBELL = Usermode.NOTIFY_CHANNEL_PENDING.description.offset


@pytest.fixture
def model() -> SoftKernelDriver:
    return SoftKernelDriver(ModelOptions(vram=64 * MiB, cards=("gb202",), strict=False))


@pytest.fixture
def route(model: SoftKernelDriver) -> Iterator[KernelDriverRoute]:
    opened = open_route(model)
    assert model.notes == []
    yield opened
    opened.stop()


def escape(model: SoftKernelDriver, fd: int, number: Escape, record: Struct) -> Any:
    """The record as it comes back."""
    data = bytearray(bytes(record))
    model.ioctl(fd, request_of(number, len(data)), data)
    return type(record)(data)


def call(model: SoftKernelDriver, fd: int, record: uvm.UvmCall) -> int:
    """The status of a call of unified memory."""
    data = bytearray(bytes(record))
    model.ioctl(fd, record.REQUEST, data)
    return type(record)(data).status  # type: ignore[attr-defined]


def allocate(route: KernelDriverRoute, parent: int, class_id: int, params: Struct | None) -> int:
    """The status of an allocation with these parameters."""
    held = bytearray(bytes(params) if params is not None else b"")
    address = ctypes.addressof((ctypes.c_char * len(held)).from_buffer(held)) if held else 0
    client = route.client
    record = ioctl.RmAlloc.make(
        root=client.client, parent=parent, class_id=class_id, params=address, params_size=len(held)
    )
    return client.escape(Escape.RM_ALLOC, record).status


def errno_of(model: SoftKernelDriver, fd: int, request: int, record: bytearray) -> int | None:
    with pytest.raises(OSError, match=r"\w") as caught:
        model.ioctl(fd, request, record)
    return caught.value.errno


# Requests ----------------------------------------------------------------------------------------


def test_requests_that_are_none(model: SoftKernelDriver):
    fd = model.open("/dev/nvidiactl")
    alloc = request_of(Escape.RM_ALLOC, ioctl.RmAlloc.SIZE)
    assert errno_of(model, fd, request_of(Escape.RM_ALLOC, 40), bytearray(40)) == errno.EINVAL
    assert errno_of(model, fd, request_of(Escape.RM_CONTROL, 48), bytearray(48)) == errno.EINVAL
    assert errno_of(model, fd, request_of(0x77, 32), bytearray(32)) == errno.EINVAL  # type: ignore[arg-type]
    assert errno_of(model, fd, alloc.replace(magic=ord("G")), bytearray(32)) == errno.ENOTTY
    assert errno_of(model, fd, alloc, bytearray(8)) == errno.EFAULT
    assert errno_of(model, fd + 1, alloc, bytearray(32)) == errno.EBADF
    card = model.open("/dev/nvidia0")
    assert errno_of(model, card, alloc, bytearray(32)) == errno.EINVAL
    space = model.open("/dev/nvidia-uvm")
    assert errno_of(model, space, 12345, bytearray(32)) == errno.EINVAL
    for path in ("/dev/nvidia1", "/dev/nvidia", "/dev/null"):
        with pytest.raises(FileNotFoundError):
            model.open(path)


def test_the_size_of_a_record_is_the_branchs(model: SoftKernelDriver):
    fd = model.open("/dev/nvidiactl")
    older = ioctl.RmMapMemoryDmaOf570
    request = request_of(Escape.RM_MAP_MEMORY_DMA, older.SIZE)
    assert errno_of(model, fd, request, bytearray(older.SIZE)) == errno.EINVAL
    old = SoftKernelDriver(ModelOptions(version="570.144", vram=MiB, strict=False))
    fd = old.open("/dev/nvidiactl")
    assert escape(old, fd, Escape.RM_MAP_MEMORY_DMA, older.make()).status == Status.INVALID_CLIENT


def test_both_forms_of_an_allocation(model: SoftKernelDriver):
    fd = model.open("/dev/nvidiactl")
    for kind in (ioctl.RmAlloc, ioctl.RmAllocWide):
        made = escape(model, fd, Escape.RM_ALLOC, kind.make(class_id=ObjectClass.ROOT_CLIENT))
        assert made.status == Status.OK
        assert made.new in model.resources.clients


# Objects -----------------------------------------------------------------------------------------


def test_objects_that_are_not_there(model: SoftKernelDriver, route: KernelDriverRoute):
    fd, client = route.client.fd, route.client.client
    free = ioctl.RmFree
    for root, old, status in (
        (client, 0xDEAD, Status.INVALID_OBJECT_HANDLE),
        (0xBEEF, client, Status.INVALID_CLIENT),
    ):
        assert escape(model, fd, Escape.RM_FREE, free.make(root=root, old=old)).status == status
    memory = route.take(4096, "x")
    route.give(memory)
    twice = free.make(root=client, old=memory.owner.handle)  # type: ignore[attr-defined]
    assert escape(model, fd, Escape.RM_FREE, twice).status == Status.INVALID_OBJECT_HANDLE
    control = ioctl.RmControl.make(client=client, object=client, command=0x1234)
    assert escape(model, fd, Escape.RM_CONTROL, control).status == Status.NOT_SUPPORTED
    version = rm_controls.BuildVersion
    control = ioctl.RmControl.make(
        client=client, object=client, command=version.COMMAND, params=8, params_size=version.SIZE
    )
    assert escape(model, fd, Escape.RM_CONTROL, control).status == Status.INVALID_POINTER
    control.params_size = 12
    assert escape(model, fd, Escape.RM_CONTROL, control).status == Status.INVALID_POINTER
    control.params = ctypes.addressof(ctypes.create_string_buffer(64))
    assert escape(model, fd, Escape.RM_CONTROL, control).status == Status.INVALID_PARAM_STRUCT


def test_parents_sizes_and_what_parameters_name(route: KernelDriverRoute):
    device, subdevice = route.gpu.objects.device, route.gpu.objects.subdevice
    group = route._group.group
    va_space = BRANCHES[580].va_space
    channel = BRANCHES[580].channel
    share = rm.ContextShareParams
    for parent, class_id, params, status in (
        (device, 0x1234, None, Status.INVALID_CLASS),
        (device, GpfifoClass.BLACKWELL_B, channel.make(), Status.INVALID_OBJECT_PARENT),
        (subdevice, ObjectClass.VA_SPACE, va_space.make(), Status.INVALID_OBJECT_PARENT),
        (device, ObjectClass.VA_SPACE, BRANCHES[570].va_space.make(), Status.INVALID_PARAM_STRUCT),
        (device, ObjectClass.VA_SPACE, va_space.make(), Status.NOT_SUPPORTED),
        (group, ObjectClass.CONTEXT_SHARE, share.make(va_space=7), Status.INVALID_OBJECT_HANDLE),
        (group, ObjectClass.CONTEXT_SHARE, None, Status.INVALID_PARAM_STRUCT),
        (group, GpfifoClass.BLACKWELL_B, channel.make(), Status.INVALID_OBJECT_HANDLE),
        (group, CopyClass.BLACKWELL_B, None, Status.INVALID_OBJECT_PARENT),
        (route.client.client, ObjectClass.DEVICE, rm.DeviceParams.make(device_id=4),
         Status.INVALID_DEVICE),
        (device, ObjectClass.SUBDEVICE, rm.SubdeviceParams.make(subdevice_id=1),
         Status.INVALID_ARGUMENT),
        (subdevice, UsermodeClass.BLACKWELL_A, rm.UsermodeParams.make(), Status.OK),
        (device, ObjectClass.CHANNEL_GROUP, rm.ChannelGroupParams.make(engine_type=0x13),
         Status.INVALID_ARGUMENT),
    ):  # fmt: skip
        assert allocate(route, parent, class_id, params) == status, (hex(class_id), status.name)


def test_memory_that_cannot_be(route: KernelDriverRoute):
    device, kind = route.gpu.objects.device, rm.MemoryParams
    flags = rm.MemoryFlags(map_not_required=True)
    local = rm.MemoryAttributes(location=rm.Location.VRAM)
    for params, status in (
        (kind.make(size=4096, flags=flags, attributes=local), Status.OK),
        (kind.make(size=4095, flags=flags, attributes=local), Status.INVALID_ARGUMENT),
        (kind.make(size=0, flags=flags, attributes=local), Status.INVALID_ARGUMENT),
        (kind.make(size=4096, attributes=local), Status.NOT_SUPPORTED),
        (kind.make(size=1 << 40, flags=flags, attributes=local), Status.NO_MEMORY),
        (
            kind.make(
                size=4096, flags=flags, attributes=rm.MemoryAttributes(location=rm.Location.PCI)
            ),
            Status.INVALID_ARGUMENT,
        ),
    ):
        assert allocate(route, device, ObjectClass.MEMORY_LOCAL, params) == status


def test_pages_that_cannot_be_pinned(model: SoftKernelDriver, route: KernelDriverRoute):
    kind = ioctl.RmAllocMemory
    good = {
        "root": route.client.client, "parent": route.gpu.objects.device, "new": 0x77,
        "class_id": ObjectClass.MEMORY_OS_DESCRIPTOR, "pages": 0x1000, "limit": 4095, "fd": -1,
        "flags": ioctl.PinFlags(mapping=1, coherency=1, physicality=1),
    }  # fmt: skip
    fd = route.gpu.fd
    for changed, status in (
        ({}, Status.INVALID_ADDRESS),
        ({"pages": 0x1001}, Status.INVALID_ADDRESS),
        ({"new": 0}, Status.INVALID_OBJECT_NEW),
        ({"class_id": ObjectClass.MEMORY_LOCAL}, Status.NOT_SUPPORTED),
        ({"flags": ioctl.PinFlags(mapping=1, coherency=2)}, Status.INVALID_FLAGS),
        ({"flags": ioctl.PinFlags(coherency=1)}, Status.INVALID_FLAGS),
    ):
        record = kind.make(**{**good, **changed})
        assert escape(model, fd, Escape.RM_ALLOC_MEMORY, record).status == status
    other = model.open("/dev/nvidia0")
    record = kind.make(**good)
    assert escape(model, other, Escape.RM_ALLOC_MEMORY, record).status == Status.INVALID_ARGUMENT


# Files and mappings ------------------------------------------------------------------------------


def test_files_show_one_thing_that_was_prepared(model: SoftKernelDriver, route: KernelDriverRoute):
    client = route.client
    memory = route.take(8192, "shown")
    record = ioctl.RmMapMemory.make(
        client=client.client, device=route.gpu.objects.device, length=8192,
        memory_handle=route._memory.handle_of(memory),
    )  # fmt: skip
    fd = model.open("/dev/nvidia0")
    with pytest.raises(OSError, match="nothing was prepared"):
        model.map(fd, 4096)
    record.fd = fd
    for change, status in (
        ({}, Status.INVALID_ARGUMENT),  # not registered yet
        ({"fd": client.fd}, Status.INVALID_ARGUMENT),  # not the card's node
        ({"fd": 5}, Status.INVALID_ARGUMENT),
        ({"device": 5}, Status.INVALID_OBJECT_HANDLE),
    ):
        wrong = type(record)(bytearray(bytes(record)))
        wrong.assign(**change)
        assert escape(model, client.fd, Escape.RM_MAP_MEMORY, wrong).status == status
    register = ioctl.RegisterFd.make(control_fd=client.fd)
    escape(model, fd, Escape.REGISTER_FD, register)
    request = request_of(Escape.REGISTER_FD, register.SIZE)
    assert errno_of(model, fd, request, bytearray(bytes(register))) == errno.EINVAL
    too_long = type(record)(bytearray(bytes(record)))
    too_long.length = 12288
    made = escape(model, client.fd, Escape.RM_MAP_MEMORY, too_long)
    assert made.status == Status.INVALID_LIMIT
    assert escape(model, client.fd, Escape.RM_MAP_MEMORY, record).status == Status.OK
    assert escape(model, client.fd, Escape.RM_MAP_MEMORY, record).status == Status.STATE_IN_USE
    mapping = model.map(fd, 8192)
    mapping.write(4096, b"through the file")
    for size in (4096, 12288):
        with pytest.raises(OSError, match="not as long"):
            model.map(fd, size)
    assert route._space is not None
    model.close(fd)


# Unified memory ----------------------------------------------------------------------------------


def test_an_address_space_in_its_order(model: SoftKernelDriver):
    fd = model.open("/dev/nvidia-uvm")
    uuid = model.cards[0].uuid
    register = uvm.RegisterGpu.make(uuid=uuid, control_fd=-1)
    assert call(model, fd, register) == Status.ILLEGAL_ACTION
    assert call(model, fd, uvm.Initialize.make(flags=4)) == Status.INVALID_ARGUMENT
    assert call(model, fd, uvm.Initialize.make()) == Status.OK
    assert call(model, fd, uvm.Initialize.make()) == Status.INVALID_STATE
    second = model.open("/dev/nvidia-uvm")
    assert call(model, second, uvm.MmInitialize.make(uvm_fd=77)) == Status.INVALID_ARGUMENT
    assert call(model, second, uvm.MmInitialize.make(uvm_fd=fd)) == Status.OK
    space = uvm.RegisterGpuVaSpace.make(uuid=uuid, control_fd=fd)
    assert call(model, fd, space) == Status.INVALID_DEVICE
    assert call(model, fd, uvm.RegisterGpu.make(uuid=bytes(16))) == Status.GPU_UUID_NOT_FOUND
    assert call(model, fd, register) == Status.OK
    assert call(model, fd, register) == Status.INVALID_DEVICE
    assert call(model, fd, space) == Status.INVALID_ARGUMENT  # no control file
    space.control_fd = model.open("/dev/nvidiactl")
    assert call(model, fd, space) == Status.INVALID_CLIENT


def test_ranges_and_what_is_mapped_there(model: SoftKernelDriver, route: KernelDriverRoute):
    client, fd = route.client, route._space._fd
    memory = route.take(2 * MiB, "x")
    base = 0x3000_0000_0000
    create = uvm.CreateExternalRange
    assert call(model, fd, create.make(base=base + 1, length=4096)) == Status.INVALID_ADDRESS
    taken = create.make(base=memory.address + 4096, length=4096)
    assert call(model, fd, taken) == Status.UVM_ADDRESS_IN_USE
    assert call(model, fd, create.make(base=base, length=8192)) == Status.OK
    assert call(model, fd, create.make(base=base + 4096, length=8192)) == Status.UVM_ADDRESS_IN_USE
    good: dict[str, Any] = {
        "base": base, "length": 8192, "mapping_count": 1, "control_fd": client.fd,
        "client": client.client, "memory_handle": route._memory.handle_of(memory),
    }  # fmt: skip
    for change, status in (
        ({"base": base + 4096}, Status.INVALID_ADDRESS),
        ({"length": 100}, Status.INVALID_ADDRESS),
        ({"mapping_count": 0}, Status.INVALID_ARGUMENT),
        ({"mapping_count": 1000}, Status.INVALID_ARGUMENT),
        ({"control_fd": fd}, Status.INVALID_ARGUMENT),
        ({"client": 1}, Status.INVALID_CLIENT),
        ({"memory_handle": client.client}, Status.INVALID_OBJECT_HANDLE),
        ({"offset": 2 * MiB - 4096}, Status.INVALID_OFFSET),
        ({"uuid": bytes(16)}, Status.INVALID_DEVICE),
        ({}, Status.OK),
    ):
        chosen = {**good, **change}
        uuid = chosen.pop("uuid", model.cards[0].uuid)
        record = uvm.MapExternalAllocation.make(**chosen)
        record.mappings[0].uuid = uuid
        assert call(model, fd, record) == status, change
    assert call(model, fd, uvm.FreeOf570.make(base=base, length=4096)) == Status.INVALID_ADDRESS
    assert call(model, fd, uvm.FreeOf570.make(base=base, length=8192)) == Status.OK
    assert call(model, fd, uvm.FreeOf570.make(base=base, length=8192)) == Status.INVALID_ADDRESS


def test_freed_memory_stays_while_it_is_mapped(model: SoftKernelDriver, route: KernelDriverRoute):
    memory = route.take(MiB, "x")
    free = model.cards[0].memory.free_bytes
    route.client.free(route._memory.handle_of(memory))
    assert model.cards[0].memory.free_bytes == free
    route._space.unmap(memory.address, memory.reserved)
    assert model.cards[0].memory.free_bytes == free + MiB


# Channels ----------------------------------------------------------------------------------------


def test_channels_in_their_order(model: SoftKernelDriver, route: KernelDriverRoute):
    branch, group = BRANCHES[580], route._group
    device = route.gpu.objects.device
    empty = rm.ChannelGroupParams.make(engine_type=1)
    handle, _ = route.client.allocate(device, ObjectClass.CHANNEL_GROUP, bytes(empty))
    enable = branch.schedule.make(enable=1)
    client, command = route.client.client, enable.COMMAND
    schedule = model.resources.control(client, handle, command, bytearray(bytes(enable)))
    assert schedule == Status.INVALID_STATE
    good: dict[str, Any] = {
        "object_error": route._memory.make_notifier(), "gpfifo_offset": route._rings_at.address,
        "gpfifo_entries": 64, "context_share": group.context_share,
        "userd_memory": (route._memory.handle_of(route._rings_at),), "userd_offset": (512,),
    }  # fmt: skip
    for change, status in (
        ({"gpfifo_entries": 63}, Status.INVALID_ARGUMENT),
        ({"userd_offset": (100,)}, Status.INVALID_OFFSET),
        ({"userd_offset": (1 << 30,)}, Status.INVALID_OFFSET),
        ({"gpfifo_offset": 1 << 41}, Status.INVALID_ADDRESS),
        ({"object_error": 3}, Status.INVALID_OBJECT_HANDLE),
        ({}, Status.OK),
    ):
        params = branch.channel.make(**{**good, **change})
        assert allocate(route, group.group, GpfifoClass.BLACKWELL_B, params) == status, change


def test_a_space_that_nobody_owns_has_no_channels(route: KernelDriverRoute):
    branch, device = BRANCHES[580], route.gpu.objects.device
    flags = rm.VaSpaceFlags(is_externally_owned=True)
    params = bytes(branch.va_space.make(flags=flags))
    space, _ = route.client.allocate(device, ObjectClass.VA_SPACE, params)
    group, _ = route.client.allocate(
        device, ObjectClass.CHANNEL_GROUP, bytes(rm.ChannelGroupParams.make(engine_type=1))
    )
    share, _ = route.client.allocate(
        group, ObjectClass.CONTEXT_SHARE, bytes(rm.ContextShareParams.make(va_space=space))
    )
    channel = branch.channel.make(context_share=share)
    assert allocate(route, group, GpfifoClass.BLACKWELL_B, channel) == Status.INVALID_STATE


def test_doorbells_that_nobody_hears(model: SoftKernelDriver, route: KernelDriverRoute):
    page, token = route._usermode, route.compute.token
    assert token >> 30 == 1  # GB20x hears no other
    state = model.cards[0].channels[token & 0xFFF]

    def rung(value: int) -> str:
        model.notes.clear()
        page.write32(DOORBELL, value)
        return " ".join(model.notes)

    assert rung(token) == ""
    assert "no channel's" in rung(token & ~(1 << 30))
    assert "no channel's" in rung(token + 7)
    state.is_registered = False
    assert "UVM does not know" in rung(token)
    state.is_registered = True
    state.setup.is_enabled = False
    assert "not scheduled" in rung(token)
    state.setup.is_enabled = True
    page.write32(0x84, 1)
    assert "usermode page" in model.notes[-1]


def test_rings_are_combined_until_they_are_flushed(model: SoftKernelDriver):
    """The real driver maps the card's memory write-combined, whatever is asked for."""
    route = open_route(model)
    ring = route._rings
    ring.write(64, bytes(range(8)))
    assert route._space is not None
    space = next(iter(model._files[route._space._fd].gpus.values()))  # type: ignore[union-attr]
    assert space is not None
    at = route._rings_at.address + 64
    assert space.read(at, 8) == bytes(8)
    ring.flush()
    assert space.read(at, 8) == bytes(range(8))
    route.stop()


# Anything at all ---------------------------------------------------------------------------------


def test_noise_neither_ends_nor_spoils_it(model: SoftKernelDriver):
    chosen = random.Random(7)
    fds = [model.open(p) for p in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia-uvm") * 2]
    kinds = [
        (number, kind) for number, (kinds, _) in model.escapes._calls.items() for kind in kinds
    ]
    calls = [kind for kind in vars(uvm).values() if getattr(kind, "REQUEST", 0) and kind.SIZE]
    answered = 0
    for _ in range(3000):
        if chosen.random() < 0.5:
            number, kind = chosen.choice(kinds)
            request = request_of(number, kind.SIZE)
        else:
            kind = chosen.choice(calls)
            request = kind.REQUEST
        words = [chosen.choice([0, 1, 4096, chosen.getrandbits(32)]) for _ in range(kind.SIZE // 4)]
        record = bytearray(b"".join(word.to_bytes(4, "little") for word in words))
        record = record.ljust(kind.SIZE, b"\0")
        try:
            model.ioctl(chosen.choice(fds), request, record)
            answered += 1
        except OSError:
            continue
    assert answered > 300
    for fd in fds:
        model.close(fd)
    model.notes.clear()
    open_route(model).stop()
    assert model.notes == []
