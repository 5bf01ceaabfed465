"""Objects, address spaces and channels of a booted card: what is refused, what stops a channel."""

from __future__ import annotations

import pytest
from tests.unit.softcard.nvidia.host import (
    FREE,
    FREE_VA,
    INTERNAL,
    RING_VA,
    USER,
    Host,
)

from exosuit.silicon.nvidia import rpc
from exosuit.silicon.nvidia.classes import ObjectClass
from exosuit.silicon.nvidia.exceptions import Xid
from exosuit.silicon.nvidia.gsp_controls import (
    BufferId,
    DeviceInfoTable,
    EngineInfo,
    GspControl,
    StaticGrInfo,
)
from exosuit.silicon.nvidia.paging import PAGE, Invalidate
from exosuit.silicon.nvidia.rm import DebuggerParams, Status
from exosuit.silicon.nvidia.rm_controls import GrInfoIndex, MmuFaults, SmErrors
from exosuit.softcard.faults import FaultKind
from exosuit.softcard.nvidia.mmu import Place
from exosuit.units import MiB

SEMAPHORE = FREE_VA + 0x8000
"""What the tests' pushbuffers write; mapped, with the pushbuffer, at FREE + 16 MiB."""
RELEASE = 0x0010_0001
"""A 32-bit release that waits for idle."""


def release(address: int, value: int) -> list[int]:
    """SEM_ADDR_LO to SEM_EXECUTE on subchannel 0."""
    head = 1 << 29 | 5 << 16 | 0x5C >> 2
    return [head, address & 0xFFFF_FFFF, address >> 32, value, 0, RELEASE]


@pytest.fixture(params=["gb202", "ga102"])
def host(request: pytest.FixtureRequest) -> Host:
    made = Host(request.param)
    made.boot()
    return made


@pytest.fixture
def ready(host: Host) -> Host:
    """A scheduled channel whose space maps 64 KiB at FREE_VA."""
    host.make_golden()
    host.make_user()
    host.schedule()
    host.map(host.root, FREE_VA, FREE + 16 * MiB, 0x10000)
    host.invalidate()
    assert host.card.notes == []
    return host


def word(host: Host, at: int = SEMAPHORE) -> int:
    return host.bar1.read32(FREE + 16 * MiB + at - FREE_VA)


def test_a_channel_writes_a_semaphore(ready: Host) -> None:
    ready.push(release(SEMAPHORE, 77))
    assert word(ready) == 77
    assert ready.bar1.read32(ready.userd + 0x88) == 1
    assert ready.card.notes == []


def test_answers_of_controls(ready: Host) -> None:
    command, params = GspControl.FIFO_GET_DEVICE_INFO_TABLE, bytes(DeviceInfoTable.SIZE)
    status, answer = ready.control(USER, ready.subdevice, command, params)
    table = DeviceInfoTable(answer)
    engines = {
        table.entries[n].engine_data[EngineInfo.RM_ENGINE_TYPE]: table.entries[n].engine_data[
            EngineInfo.RUNLIST
        ]
        for n in range(table.count)
    }
    assert status == 0
    assert engines[1] == engines[9] == 0
    command, params = GspControl.STATIC_KGR_GET_INFO, bytes(StaticGrInfo.SIZE)
    _, answer = ready.control(USER, ready.subdevice, command, params)
    values = StaticGrInfo(answer).engines[0].values
    assert values[GrInfoIndex.SM_VERSION].value == ready.card.product.shape.sm_version


def test_statuses_of_mistakes(host: Host) -> None:
    host.make_device(USER)
    kind = host.card.product.gpfifo[-1]
    params = host.channel_params(RING_VA)
    assert host.allocate(USER, host.device, kind, params)[1] == Status.INVALID_STATE  # no root
    root = host.new_root()
    assert host.set_root(root, entries=512) == Status.INVALID_ARGUMENT
    assert host.set_root(root, flags=rpc.PageDirectoryFlags()) == Status.INVALID_FLAGS
    assert host.set_root(host.card.protected.start) == Status.INVALID_ADDRESS
    assert host.set_root(root) == Status.OK
    channel, status = host.allocate(USER, host.device, kind, params)
    assert status == 0
    compute = host.card.product.compute
    assert host.allocate(USER, channel, compute)[1] == Status.INVALID_STATE  # no golden context
    for wrong in ({"gpfifo_entries": 33}, {"engine_type": 77}):
        params = host.channel_params(RING_VA, **wrong)
        assert host.allocate(USER, host.device, kind, params)[1] == Status.INVALID_ARGUMENT
    params = host.channel_params(RING_VA)
    params.instance_memory.base = host.card.protected.start
    assert host.allocate(USER, host.device, kind, params)[1] == Status.INVALID_ADDRESS
    assert host.allocate(USER, host.device, 0x1234)[1] == Status.INVALID_CLASS
    assert host.control(USER, channel, 0x1234, b"")[0] == Status.NOT_SUPPORTED
    assert host.promote(USER, channel, frozenset({BufferId.MAIN}), root, size=16) == 0x1F
    assert host.promote(USER, channel, frozenset({BufferId.MAIN}), root, virtual=0x123000) == 0x1E


def test_a_golden_context_needs_its_buffers(host: Host) -> None:
    host.make_golden()
    assert host.card.objects.golden
    freed = rpc.Free.make(root=INTERNAL, handle=INTERNAL)
    assert rpc.Free(host.call(rpc.Function.FREE, bytes(freed))).status == 0
    assert not host.card.executor.channels


@pytest.mark.parametrize(
    ("wrong", "noted"), [(5 << 16, "runlist"), (1 << 30, "bit 30"), (9, "no such channel")]
)
def test_doorbells_are_heard_with_the_right_token_only(ready: Host, wrong: int, noted: str) -> None:
    ready.token ^= wrong
    ready.push(release(SEMAPHORE, 1))
    assert noted in ready.card.notes[-1]
    assert word(ready) == 0


def test_an_unscheduled_channel_and_one_without_context_do_nothing(host: Host) -> None:
    host.make_golden()
    host.make_user()
    host.ring_doorbell(host.token)
    assert "not scheduled" in host.card.notes[-1]
    product = host.card.product
    params = host.channel_params(RING_VA)
    host.channel, _ = host.allocate(USER, host.device, product.gpfifo[-1], params)
    host.allocate(USER, host.channel, product.compute)
    host.schedule()
    host.ring_doorbell(host.token + 1)
    assert "MAIN, PM, PATCH" in host.card.notes[-1]


# Translations.


def test_translations_stay_until_they_are_invalidated(ready: Host) -> None:
    ready.push(release(SEMAPHORE, 1))
    ready.unmap(ready.root, FREE_VA + 0x8000)
    ready.bar1.write32(ready.userd + 0x8C, 0)
    space = ready.card.objects.channels[4].space
    assert space.read(SEMAPHORE, 4) == b"\1\0\0\0"
    ready.invalidate()
    with pytest.raises(Exception, match="nothing is mapped"):
        space.read(SEMAPHORE, 4)
    ready.map(ready.root, FREE_VA + 0x8000, FREE)
    with pytest.raises(Exception, match="came after"):
        space.read(SEMAPHORE, 4)
    assert "TLB" in ready.card.notes[-1]
    ready.mmu.INVALIDATE.write(Invalidate(all_va=True, trigger=True))  # of another root
    with pytest.raises(Exception, match="came after"):
        space.read(SEMAPHORE, 4)
    ready.mmu.PDB.write(address=ready.root >> 12)
    ready.mmu.INVALIDATE.write(Invalidate(all_va=True, trigger=True))
    assert len(space.read(SEMAPHORE, 4)) == 4


def test_host_memory_is_reached_in_its_pieces(ready: Host) -> None:
    memory = ready.link.allocate_dma(64 << 10)
    assert len(memory.segments) > 1
    at = FREE_VA + MiB
    for segment in memory.segments:
        ready.map(ready.root, at, int(segment.address), segment.size, system=True)
        at += segment.size
    ready.invalidate()
    space = ready.card.objects.channels[4].space
    data = bytes(range(256)) * 200
    space.write(FREE_VA + MiB + 100, data)
    assert memory.read(100, len(data) & ~3) == data[: len(data) & ~3]
    assert space.host_bytes(FREE_VA + MiB, 64 << 10) == 64 << 10
    assert any(window.start == FREE_VA + MiB for window in space.windows())
    memory.free()
    with pytest.raises(Exception, match="where nothing is mapped"):
        space.read(FREE_VA + MiB, 4)
    assert ready.card.bus.panics
    assert ready.card.left_alive


def test_large_pages(ready: Host) -> None:
    """2 MiB at once, in an entry above the last level."""
    level = ready.format.last - 1
    virtual, physical = 0x1_4000_0000, FREE + 64 * MiB
    at = ready.table(ready.root, virtual, level)
    place = at + 16 * ready.format.index(virtual, level)
    ready.bar1.write64(place, int(ready.format.page(physical)))
    ready.invalidate()
    space = ready.card.objects.channels[4].space
    space.write(virtual + MiB, b"here")
    assert ready.bar1.read(physical + MiB, 4) == b"here"


def test_big_and_small_pages_side_by_side(ready: Host) -> None:
    """64 KiB pages hide what the table of small pages says of the same addresses."""
    level = ready.format.last - 1
    virtual, physical, table = 0x1_8000_0000, FREE + 64 * MiB, ready.lend(PAGE)
    ready.map(ready.root, virtual + 0xF000, FREE, 0x3000)
    at = ready.table(ready.root, virtual, level) + 16 * ready.format.index(virtual, level)
    entry = int.from_bytes(ready.bar1.read(at, 16), "little")
    both = ready.format.dual(entry).replace(
        big_aperture=1, big_frame=table >> (8 if ready.format.version == 3 else 10)
    )
    ready.bar1.write(at, bytes(16))
    ready.bar1.write(table, bytes(PAGE))
    ready.bar1.write64(table, int(ready.format.page(physical)))
    ready.bar1.write(at, both.encode())
    ready.invalidate()
    space = ready.card.objects.channels[4].space
    assert space.physical(virtual + 0xF000) == (Place.LOCAL, physical + 0xF000)
    assert space.physical(virtual + 0x1_0000) == (Place.LOCAL, FREE + 0x1000)
    assert space.physical(virtual + 0x1_2000) is None
    assert "under big ones" in ready.card.notes[-1]


def test_large_pages_are_aligned(ready: Host) -> None:
    level = ready.format.last - 1
    virtual = 0x1_C000_0000
    at = ready.table(ready.root, virtual, level) + 16 * ready.format.index(virtual, level)
    ready.bar1.write64(at, int(ready.format.page(FREE + 4096)))
    ready.invalidate()
    space = ready.card.objects.channels[4].space
    assert space.physical(virtual) == (Place.LOCAL, FREE)
    assert "not aligned" in ready.card.notes[-1]


def test_pages_may_be_read_only(ready: Host) -> None:
    at = ready.entry(ready.root, FREE_VA)
    ready.bar1.write64(at, int(ready.format.page(FREE, writable=False)))
    ready.invalidate()
    space = ready.card.objects.channels[4].space
    space.read(FREE_VA, 4)
    with pytest.raises(Exception, match="read-only"):
        space.write(FREE_VA, b"no")


def test_tables_that_cannot_be_are_noted(ready: Host) -> None:
    level = ready.format.last
    at = ready.table(ready.root, FREE_VA, level)
    ready.bar1.write64(at, int(ready.format.page(1 << 36)))
    ready.bar1.write64(at + 8, int(ready.format.page(FREE).replace(aperture=1)))
    ready.bar1.write64(at + 16, int(ready.format.page(FREE).replace(kind=3)))
    ready.invalidate()
    ready.card.objects.channels[4].space.read(RING_VA, 4)
    text = " ".join(ready.card.notes)
    assert "past the end of local memory" in text
    assert "peer's memory" in text
    assert "kind 0x3" in text


# What stops a channel.


def test_a_page_fault_is_told_in_events_and_to_the_debugger(ready: Host) -> None:
    wild = 0x7_7700_0000
    handle = ready.card.objects.resources.find(USER, ready.channel)
    (compute,) = handle.children
    params = DebuggerParams.make(app_client=USER, compute_object=compute)
    debugger, status = ready.allocate(USER, ready.device, ObjectClass.DEBUGGER, params)
    assert status == 0
    before = len(ready.events)
    ready.push(release(wild, 1))
    ready.pump()
    kinds = [function for function, _ in ready.events[before:]]
    assert kinds == [
        rpc.Event.MMU_FAULT_QUEUED, rpc.Event.OS_ERROR_LOG, rpc.Event.RC_TRIGGERED
    ]  # fmt: skip
    told = rpc.ErrorLog(ready.events[before + 1][1])
    assert told.xid == Xid.MMU_FAULT
    assert f"{wild:#x}".encode() in told.text
    stopped = rpc.RcTriggered(ready.events[before + 2][1])
    assert stopped.fault_address_low | stopped.fault_address_high << 32 == wild
    asked = SmErrors.make(channel=ready.channel, sm_count=1)
    _, answer = ready.control(USER, debugger, SmErrors.COMMAND, bytes(asked))
    assert SmErrors(answer).mmu_fault.valid
    _, answer = ready.control(USER, debugger, MmuFaults.COMMAND, bytes(MmuFaults.SIZE))
    assert MmuFaults(answer).count == 1
    assert MmuFaults(answer).faults[0].address == wild
    ready.push(release(SEMAPHORE, 5))
    assert word(ready) == 0  # it has stopped


def test_the_schedule_can_take_a_page_and_host_memory_away(ready: Host) -> None:
    ready.card.page_fault = True
    ready.push(release(SEMAPHORE, 1))
    ready.pump()
    assert ready.events[-1][0] == rpc.Event.RC_TRIGGERED
    assert not ready.card.bus.panics


def test_a_refused_dma_is_a_fault_and_no_panic(ready: Host) -> None:
    memory, at = ready.dma(bytes(PAGE))
    ready.map(ready.root, FREE_VA + 2 * MiB, at, system=True)
    ready.invalidate()
    ready.card._dma_fault = True
    ready.push(release(FREE_VA + 2 * MiB, 1))
    ready.pump()
    assert memory.read32(0) == 0
    assert ready.events[-1][0] == rpc.Event.RC_TRIGGERED
    assert not ready.card.bus.panics


def test_a_hung_card_does_nothing_until_a_reset(ready: Host) -> None:
    ready.card.faults.faults.append((ready.card.faults.accesses + 1, FaultKind.HANG))
    ready.push(release(SEMAPHORE, 1))
    assert word(ready) == 0


def test_a_late_card_does_nothing_before_somebody_looks(ready: Host) -> None:
    ready.card.late = True
    ready.push(release(SEMAPHORE, 3))
    assert ready.card.memory[FREE + 16 * MiB + 0x8000] == 0
    ready.bar0.read32(0)
    assert word(ready) == 3
