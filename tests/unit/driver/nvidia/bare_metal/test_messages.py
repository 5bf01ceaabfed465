"""Queues, calls, lists of register accesses, and what the firmware tells unasked."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exosuit.clock import ManualClock
from exosuit.driver.faults import Named
from exosuit.driver.nvidia.bare_metal.events import Report, explain, read_report
from exosuit.driver.nvidia.bare_metal.host_memory import Queues
from exosuit.driver.nvidia.bare_metal.queues import MessageQueues
from exosuit.driver.nvidia.bare_metal.rpc import FirmwareRpc
from exosuit.driver.nvidia.bare_metal.sequencer import CpuSequencer
from exosuit.errors import BootFailed, CardHung, LinkLost, PageFault
from exosuit.silicon.nvidia.gsp import QUEUE_BYTES, QueueHeader
from exosuit.silicon.nvidia.rpc import (
    ErrorLog,
    Event,
    Function,
    RcTriggered,
    RunSequencer,
)

COMMAND, STATUS = 0x1000, 0x1000 + QUEUE_BYTES


class Memory:
    """DMA memory that is a bytearray."""

    def __init__(self) -> None:
        self.bytes = bytearray(0x1000 + 2 * QUEUE_BYTES)

    def read(self, offset: int, size: int) -> bytes:
        assert offset % 4 == size % 4 == 0
        return bytes(self.bytes[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        assert offset % 4 == len(data) % 4 == 0
        self.bytes[offset : offset + len(data)] = data

    def read32(self, offset: int) -> int:
        return int.from_bytes(self.read(offset, 4), "little")

    def write32(self, offset: int, value: int) -> None:
        self.write(offset, value.to_bytes(4, "little"))


class Firmware:
    """The other side, written from the header files alone: 63 elements of 4 KiB, XOR folded."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.put_at = self.taken_to = 0
        memory.write(STATUS, struct.pack("<8I", 0, QUEUE_BYTES, 0x1000, 63, 0, 1, 0x20, 0x1000))

    def take(self) -> tuple[int, bytes] | None:
        written = self.memory.read32(COMMAND + 0x10)
        if written == self.taken_to:
            return None
        ring = self.memory.bytes[COMMAND + 0x1000 : COMMAND + QUEUE_BYTES]
        ring = ring[self.taken_to * 0x1000 :] + ring[: self.taken_to * 0x1000]
        count, length, function = (
            struct.unpack_from("<I", ring, at)[0] for at in (0x28, 0x38, 0x3C)
        )
        whole = ring[: 0x30 + length]
        folded = 0
        for (value,) in struct.iter_unpack("<Q", whole + bytes(-len(whole) % 8)):
            folded ^= value
        assert folded >> 32 == folded & 0xFFFF_FFFF
        assert count == -(-(0x30 + length) // 0x1000)
        self.taken_to = (self.taken_to + count) % 63
        self.memory.write32(STATUS + 0x20, self.taken_to)
        return function, bytes(whole[0x50:])

    def put(self, function: int, payload: bytes = b"", result: int = 0, spoil: int = 0) -> None:
        record = struct.pack(
            "<8I", 3 << 24, 0x43505256, 0x20 + len(payload), function, result, result, 0, 0
        )
        count = -(-(0x50 + len(payload)) // 0x1000)
        whole = bytearray(0x20) + struct.pack("<4I", 0, 0, count, 0) + record + payload
        folded = 0
        for (value,) in struct.iter_unpack("<Q", bytes(whole) + bytes(-len(whole) % 8)):
            folded ^= value
        struct.pack_into("<I", whole, 0x20, folded >> 32 ^ folded & 0xFFFF_FFFF ^ spoil)
        whole += bytes(-len(whole) % 0x1000)
        for index in range(count):
            at = STATUS + 0x1000 + (self.put_at + index) % 63 * 0x1000
            self.memory.bytes[at : at + 0x1000] = whole[index * 0x1000 : (index + 1) * 0x1000]
        self.put_at = (self.put_at + count) % 63
        self.memory.write32(STATUS + 0x10, self.put_at)


def make() -> tuple[MessageQueues, Firmware]:
    memory = Memory()
    queues = MessageQueues(Queues(memory, COMMAND, STATUS, 129), lambda: None)
    return queues, Firmware(memory)


def test_the_host_says_how_its_queue_is_laid_out():
    queues, firmware = make()
    header = QueueHeader(firmware.memory.bytes, COMMAND)
    assert (header.element_size, header.element_count) == (0x1000, 63)
    assert queues.is_ready
    queues.check_layout()
    firmware.memory.write32(STATUS + 0xC, 64)
    with pytest.raises(BootFailed, match="64 elements"):
        queues.check_layout()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=20))
def test_records_of_any_size_cross_both_queues(sizes: list[int]):
    queues, firmware = make()
    for index, size in enumerate(sizes):
        payload = bytes([index + 1]) * size
        queues.send(Function.GSP_RM_CONTROL, payload)
        assert firmware.take() == (76, payload)
        firmware.put(76, payload)
        found = queues.receive()
        assert found is not None
        assert (found.function, found.result, found.payload) == (76, 0, payload)
        assert queues.receive() is None


def test_a_full_queue_has_no_room():
    queues, firmware = make()
    sent = 0
    while queues.has_room(16):
        queues.send(Function.FREE, bytes(4000))
        sent += 1
    assert sent == 62 - 15  # one element always stays empty
    firmware.take()
    assert queues.has_room(16)


@pytest.mark.parametrize("spoil", [1, 0x8000_0000])
def test_a_damaged_record_is_told(spoil: int):
    queues, firmware = make()
    firmware.put(76, b"answer", spoil=spoil)
    with pytest.raises(CardHung, match="damaged"):
        queues.receive()


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=0x50, max_size=0x50), st.integers(0, 1 << 32 - 1))
def test_any_record_is_read_or_refused(head: bytes, pointer: int):
    queues, firmware = make()
    firmware.memory.write(STATUS + 0x1000, head)
    firmware.memory.write32(STATUS + 0x10, pointer)
    with contextlib.suppress(CardHung):  # and nothing else
        queues.receive()


def make_rpc(run=lambda payload: None, alive=lambda: None):
    queues, firmware = make()
    told = {"chip": "GA102", "logs": {}}
    return FirmwareRpc(queues, ManualClock(), run, lambda: told, alive), firmware


def test_events_come_before_answers():
    ran: list[bytes] = []
    rpc, firmware = make_rpc(ran.append)
    firmware.put(Event.GSP_RUN_CPU_SEQUENCER, b"list")
    firmware.put(Event.OS_ERROR_LOG, bytes(ErrorLog.make(xid=13, text=b"bad")))
    firmware.put(Event.GSP_POST_NOCAT_RECORD, b"anything")
    firmware.put(Function.FREE, b"done")
    assert rpc.call(Function.FREE, b"", "it") == b"done"
    assert ran == [b"list"]
    assert rpc.take_reports() == [Report(13, "bad")]
    assert rpc.take_reports() == []


def test_a_call_that_is_refused_and_one_that_is_not_answered():
    rpc, firmware = make_rpc()
    firmware.put(Function.FREE, result=0x57)
    with pytest.raises(CardHung, match="OBJECT_NOT_FOUND") as caught:
        rpc.call(Function.FREE, b"", "the freeing")
    assert caught.value.fields["status"] == 0x57
    assert caught.value.fields["chip"] == "GA102"
    firmware.put(Event.OS_ERROR_LOG, bytes(ErrorLog.make(xid=120, text=b"GSP crashed")))
    with pytest.raises(CardHung, match="10 s") as caught:
        rpc.call(Function.GSP_RM_ALLOC, b"", "an object")
    assert caught.value.fields["function"] == 103
    assert caught.value.cause == "Xid 120: GSP crashed"


def test_a_card_that_goes_away_ends_a_wait_at_once():
    def gone() -> None:
        raise LinkLost("it has gone", cause="the cable", next="reconnect it")

    rpc, _ = make_rpc(alive=gone)
    with pytest.raises(LinkLost) as caught:
        rpc.call(Function.GSP_RM_ALLOC, b"", "an object")
    assert caught.value.what == "it has gone"


def test_a_start_that_times_out_on_the_card():
    rpc, firmware = make_rpc()
    firmware.put(Event.GSP_INIT_DONE, result=0x65)
    with pytest.raises(BootFailed, match="TIMEOUT") as caught:
        rpc.wait_ready(1.0)
    assert caught.value.fields["status"] == 0x65


# The CPU sequencer ------------------------------------------------------------------------------


class Registers:
    def __init__(self) -> None:
        self.values = {0x100: 0xFF00, 0x104: 5}
        self.bar = self

    def read32(self, offset: int) -> int:
        return self.values.get(offset, 0)

    def write32(self, offset: int, value: int) -> None:
        self.values[offset] = value

    def check_alive(self) -> None: ...


def sequence(*words: int) -> bytes:
    head = RunSequencer.make(size_dwords=len(words), command_dwords=len(words))
    return bytes(head) + struct.pack(f"<{len(words)}I", *words)


def test_a_list_is_run_in_order():
    registers, clock = Registers(), ManualClock()
    runner = CpuSequencer(registers, None, None, clock, lambda: None)
    # write; modify (address, mask, value, as rmgspseq.h orders them); poll; delay; store
    runner.run(
        sequence(
            0, 0x200, 7, 1, 0x100, 0x0F0F, 0x0A0A, 2, 0x104, 0xF, 5, 10, 0, 3, 1500, 4, 0x100, 2
        )
    )  # fmt: skip
    assert registers.values[0x200] == 7
    assert registers.values[0x100] == 0xFA0A
    assert runner.saved == {2: 0xFA0A}
    assert clock.now() == pytest.approx(1.5e-3)


def test_a_poll_that_does_not_come_true_and_lists_that_are_none():
    runner = CpuSequencer(Registers(), None, None, ManualClock(), lambda: None)
    with pytest.raises(BootFailed, match="0x104") as caught:
        runner.run(sequence(2, 0x104, 0xF, 6, 10, 0x77))
    assert "0x77" in caught.value.what
    for words in ((9,), (0, 1), (0xFFFF_FFFF,)):
        with pytest.raises(BootFailed, match="damaged"):
            runner.run(sequence(*words))
    with pytest.raises(BootFailed, match="damaged"):
        runner.run(bytes(RunSequencer.make(command_dwords=100)))
    with pytest.raises(BootFailed, match="damaged"):
        runner.run(b"short")


# Reports ----------------------------------------------------------------------------------------

XID_31 = (
    b"MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted @ 0x10_40001000. Fault is of type FAULT_PDE"
    b" ACCESS_TYPE_VIRT_WRITE"
)
BUFFERS = [Named("kv.layer3", 0x10_4000_0000, 0x1000)]


def test_a_page_fault_names_the_nearest_buffer():
    log = read_report(Event.OS_ERROR_LOG, bytes(ErrorLog.make(xid=31, text=XID_31)))
    assert log is not None
    assert log.address == 0x10_4000_1000
    error = explain([Report(45, "cleanup"), log], None, BUFFERS)
    assert isinstance(error, PageFault)
    assert "wrote to 0x1040001000" in error.what
    assert "past the end of kv.layer3" in error.cause
    assert len(error.fields["reports"]) == 2


def test_a_stopped_channel_tells_its_address():
    record = RcTriggered.make(
        channel=4, xid=31, fault_address_low=0x4000_0010, fault_address_high=0x10, fault_type=2
    )
    report = read_report(Event.RC_TRIGGERED, bytes(record))
    assert report is not None
    assert isinstance(explain([report], None, BUFFERS), PageFault)


@pytest.mark.parametrize(
    ("xid", "kind", "word"),
    [(79, LinkLost, "bus"), (13, CardHung, "channel"), (120, CardHung, "channel")],
)
def test_other_numbers(xid: int, kind: type, word: str):
    error = explain([Report(xid, "text")], None, [])
    assert isinstance(error, kind)
    assert word in error.what
    assert f"Xid {xid}" in error.what


@given(st.sampled_from([*Event]), st.binary(max_size=400))
def test_any_event_is_read(event: Event, payload: bytes):
    report = read_report(event, payload)
    if report is not None:
        assert str(explain([report], None, BUFFERS)).count("\n") >= 2
