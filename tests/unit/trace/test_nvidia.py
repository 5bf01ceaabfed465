"""Tapes of NVIDIA cards are shown by name: registers, queues, channels; nonsense stays nonsense."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from tests.softcard.nvidia_cards import SPEC, boot, make

from exosuit.silicon.nvidia import channel, compute, copy, falcon, fsp, gsp, paging, push, qmd, rpc
from exosuit.silicon.nvidia.chips import BY_NAME, Start, boot_42
from exosuit.silicon.nvidia.classes import ComputeClass
from exosuit.silicon.nvidia.gsp_controls import GspControl
from exosuit.silicon.nvidia.rm import Status
from exosuit.silicon.nvidia.rm_controls import WorkSubmitToken
from exosuit.softcard.direct import DirectLink
from exosuit.trace.chips import chip_map
from exosuit.trace.decode import Decoder
from exosuit.trace.nvidia import NvidiaChip
from exosuit.trace.recorder import Recorder
from exosuit.trace.tape import Kind, Record, Tape, value_of


class Shown:
    """Tells accesses to one chip as a decoder does."""

    def __init__(self, name: str) -> None:
        self.map = NvidiaChip(BY_NAME[name])

    def tell(self, kind: Kind, region: str, offset: int, value: int | bytes) -> str:
        data = value if isinstance(value, bytes) else value.to_bytes(4, "little")
        record = Record(0, kind, region, offset, len(data), value_of(data))
        self.map.remember(record)
        return self.map.explain(record)

    def read(self, offset: int, value: int) -> str:
        return self.tell(Kind.READ, "BAR0", offset, value)

    def write(self, offset: int, value: int) -> str:
        return self.tell(Kind.WRITE, "BAR0", offset, value)

    def store(self, data: bytes, offset: int = 0) -> str:
        return self.tell(Kind.DMA_WRITE, "dma0", offset, data)


@pytest.fixture
def ada() -> Shown:
    return Shown("AD102")


@pytest.fixture
def blackwell() -> Shown:
    return Shown("GB202")


def message(function: int, payload: bytes, result: int = rpc.PENDING, sequence: int = 7) -> bytes:
    header = rpc.Header.make()
    header.element.assign(sequence=sequence, count=1)
    header.record.assign(
        version=rpc.VERSION, signature=rpc.SIGNATURE, function=function, result=result,
        length=rpc.Record.SIZE + len(payload),
    )  # fmt: skip
    return bytes(header) + payload


def test_which_map_a_device_gets():
    for device in (0x2204, 0x2684, 0x2B85, 0x2330, 0x20B0):
        assert isinstance(chip_map(0x10DE, device), NvidiaChip)
    assert not isinstance(chip_map(0x10DE, 0x1B80), NvidiaChip)


def test_registers(ada: Shown):
    identity = boot_42(BY_NAME["AD102"])
    told = ada.read(0xA00, identity)
    assert told.startswith(f"BOOT_42 = {int(identity):08x}  ")
    assert told.endswith("AD102")
    assert ada.read(0x118234, 0xFF) == "GFW_PROGRESS = 000000ff  progress=0xff"
    assert ada.read(0x1FA828, 0) == "WPR2_ADDR_HI = 00000000"
    assert ada.read(falcon.GSP + 0x100, 0x10) == "GSP_CPUCTL = 00000010  halted=1"
    assert ada.write(falcon.SEC2 + 0x40, 0xB) == "SEC2_MAILBOX0 = 0000000b"
    assert ada.write(0xB830B0, 0x80000043).startswith("MMU_INVALIDATE_INVALIDATE = 80000043")
    assert ada.read(0x123454, 5) == ""


def test_what_dead_and_refusing_cards_read_as(ada: Shown):
    assert ada.read(0xA00, 0xFFFF_FFFF) == "BOOT_42 = ffffffff  nobody answers"
    assert ada.read(0x1183A4, 0xBADF_5108) == (
        "VRAM_MIB = badf5108  refused by the card's privileged ring"
    )
    assert ada.read(0xA00, 0x3210_0000).endswith("a chip that nobody knows")
    assert ada.read(0x123454, 0xFFFF_FFFF) == "ffffffff  nobody answers"


def test_windows(ada: Shown, blackwell: Shown):
    assert ada.write(0x1700, 0x1234) == "BAR0_WINDOW = 00001234  base=0x1234"
    assert ada.write(0x700010, 5) == "VRAM+12340010 = 00000005"
    assert ada.tell(Kind.READ, "BAR0", 0x300000, bytes(64)) == "VBIOS+0  64 B"
    assert blackwell.write(0x10FD40, 1).startswith("BAR0_WINDOW")
    assert blackwell.write(0x700000, 0) == "VRAM+10000 = 00000000"


def test_generations_have_their_own_places(ada: Shown, blackwell: Shown):
    assert blackwell.read(0xAD00BC, 0xFF).startswith("GFW_PROGRESS")
    assert ada.read(0xAD00BC, 0xFF) == ""
    assert blackwell.write(0x8F2C00, 0).startswith("FSP_QUEUE_HEAD")
    assert ada.write(0x8F2C00, 0) == ""


def test_a_message_to_the_fsp(blackwell: Shown):
    whole = fsp.message(fsp.NvdmType.COT, bytes(fsp.ChainOfTrust.SIZE))
    blackwell.write(0x8F2AC0, fsp.EmemPort(increment_on_write=True))
    for (value,) in struct.iter_unpack("<I", whole):
        blackwell.write(0x8F2AC4, value)
    blackwell.write(0x8F2C04, len(whole) - 4)
    assert (
        blackwell.write(0x8F2C00, 0)
        == f"FSP_QUEUE_HEAD[0] = 00000000  NVDM COT, {len(whole)} bytes"
    )


def test_messages_of_the_gsp(ada: Shown):
    alloc = rpc.Alloc.make(parent=0xC1, handle=0xCF01, class_id=ComputeClass.ADA_A)
    assert ada.store(message(rpc.Function.GSP_RM_ALLOC, bytes(alloc))) == (
        "RPC GSP_RM_ALLOC Compute ADA_A 0xcf01 in 0xc1  (message 7, 1 elements)"
    )
    asked = rpc.Control.make(handle=0x20, command=GspControl.GPU_PROMOTE_CTX)
    assert "GSP_RM_CONTROL GPU_PROMOTE_CTX of 0x20" in ada.store(
        message(rpc.Function.GSP_RM_CONTROL, bytes(asked))
    )
    both = rpc.Control.make(handle=0x20, command=WorkSubmitToken.COMMAND)
    answer = message(rpc.Function.GSP_RM_CONTROL, bytes(both), result=Status.TIMEOUT)
    told = ada.tell(Kind.DMA_READ, "dma0", 0x42000, answer)
    assert "WorkSubmitToken of 0x20  TIMEOUT (0x65)" in told
    registry = rpc.pack_registry({"RMForcePcieConfigSave": 1})
    assert "SET_REGISTRY RMForcePcieConfigSave=0x1" in ada.store(
        message(rpc.Function.SET_REGISTRY, registry)
    )
    log = rpc.ErrorLog.make(xid=31, text=b"MMU Fault: ENGINE GRAPHICS")
    assert "OS_ERROR_LOG Xid 31: MMU Fault: ENGINE GRAPHICS" in ada.store(
        message(rpc.Event.OS_ERROR_LOG, bytes(log), result=0)
    )
    assert "RPC function 0xabc" in ada.store(message(0xABC, b""))


@pytest.mark.parametrize("function", [*rpc.Function, *rpc.Event])
def test_records_that_end_early_are_told_as_far_as_they_go(ada: Shown, function: int):
    for size in range(0, 48, 4):
        assert ada.store(message(function, bytes(size))).startswith("RPC ")
    assert ada.store(message(function, b"")[:0x40]) == ""


def test_pointers_of_the_queues(ada: Shown):
    head = gsp.QueueHeader.make(
        size=gsp.QUEUE_BYTES, element_size=gsp.ELEMENT_BYTES, element_count=gsp.QUEUE_ELEMENTS,
        flags=1, read_offset=0x20, entry_offset=0x1000,
    )  # fmt: skip
    assert ada.store(bytes(head), 0x1000) == "message queue of 63 elements, write pointer 0"
    word = struct.Struct("<I").pack
    assert ada.store(word(3), 0x1010) == "command queue write pointer = 3"
    assert ada.store(word(2), 0x1020) == "status queue read pointer = 2"
    read = ada.tell(Kind.DMA_READ, "dma0", 0x41010, word(4))
    assert read == "status queue write pointer = 4"
    assert ada.store(word(4), 0x1014) == ""
    assert ada.tell(Kind.DMA_WRITE, "dma1", 0x1010, word(3)) == ""


def test_what_the_firmware_is_given(ada: Shown):
    meta = gsp.WprMeta.make(
        magic=gsp.WPR_MAGIC, radix3_size=0x3000, wpr_start=0x1000, wpr_end=0x9000, heap_size=0x10,
    )  # fmt: skip
    assert ada.store(bytes(meta)) == (
        "WPR meta  image 0x3000 bytes, WPR2 0x1000 to 0x9000, heap 0x10"
    )
    regions = b"".join(
        bytes(gsp.LibosRegion.make(id=gsp.libos_id(name), size=0x10000))
        for name in ("LOGINIT", "LOGRM", "RMARGS")
    )
    assert ada.store(regions.ljust(4096, b"\0")) == "libos arguments  LOGINIT LOGRM RMARGS"


def test_a_submission(ada: Shown):
    methods = push.methods(
        push.COMPUTE, compute.Compute.SET_OBJECT, ComputeClass.ADA_A
    ) + push.methods(push.COMPUTE, compute.Compute.SEND_PCAS_A, 0x20_0000 >> 8)
    methods += push.methods(push.COMPUTE, compute.Compute.SEND_SIGNALING_PCAS2_B, 9)
    methods += push.methods(push.HOST, push.Host.SEM_ADDR_LO, 0x1000, 0, 5, 0, 1)
    assert ada.store(methods) == (
        "methods  SET_OBJECT Compute ADA_A · SEND_PCAS_A QMD at 0x200000"
        " · SEND_SIGNALING_PCAS2_B · SEM_EXECUTE operation=RELEASE"
    )
    entry = push.entry(0x2_0000_0000, len(methods))
    assert ada.tell(Kind.WRITE, "BAR1", 0x1000, entry.encode()) == (
        f"GPFIFO  {len(methods) // 4} dwords at 0x200000000"
    )
    assert ada.tell(Kind.WRITE, "BAR1", 0x80_0000 + 0x8C, b"\1\0\0\0") == "USERD gp_put = 1"
    token = channel.WorkSubmitToken(channel=3, runlist=1)
    at = channel.USERMODE_OFFSET + 0x90
    told = f"doorbell, channel 3 of runlist 1: {len(methods) // 4} dwords at 0x200000000"
    assert ada.write(at, token) == told
    assert ada.write(at, token) == "doorbell, channel 3 of runlist 1"
    assert ada.tell(Kind.WRITE, "BAR1", 0x80_0000 + 0x8C, b"\1\0\0\0") == ""


def test_copies(ada: Shown):
    methods = push.methods(push.COPY, copy.Copy.OFFSET_IN_UPPER, 0, 0x1000, 0, 0x2000)
    methods += push.methods(push.COPY, copy.Copy.LINE_LENGTH_IN, 4096)
    methods += push.methods(push.COPY, copy.Copy.LAUNCH_DMA, 0x182)
    assert ada.store(methods) == "methods  LINE_LENGTH_IN · LAUNCH_DMA"


@pytest.mark.parametrize("name", ["GA102", "GH100", "GB202"])
def test_descriptors_of_every_layout(name: str):
    shown = Shown(name)
    kind = shown.map._qmd
    grid = qmd.Grid(
        program=0x7000_0000, code_bytes=0x400, groups=(64, 2, 1), lanes=(256, 1, 1), registers=32,
        barriers=1, shared_bytes=0x400, shared_configs=(8, 16, 100), local_bytes=0,
        sass_version=0x86, banks={0: qmd.Bank(0x1_0000_0000, 0x200)},
        releases=(qmd.Release(0x3_0000_0000, 9),), dependent=0x2_0000_0200,
    )  # fmt: skip
    told = shown.store(kind.encode_grid(grid))
    assert told == (
        "QMD  64x2x1 groups of 256x1x1, program at 0x70000000, 1024 bytes shared,"
        " releases 0x9 to 0x300000000, then the QMD at 0x200000200"
    )
    assert shown.store(kind.encode_grid(grid).ljust(1024, b"\0")) == told


def test_pages(ada: Shown, blackwell: Shown):
    for shown, pages in ((ada, paging.VERSION_2), (blackwell, paging.VERSION_3)):
        first = pages.page(0x12_3000)
        near = pages.pages_of(first, 128, pages.last).tobytes()
        assert shown.store(near) == "pages  128 entries, VIDEO from 0x123000, 0x1000 apart"
        host = pages.page(0x1_0000_0000, system=True)
        far = pages.pages_of(host, 16, pages.last - 1).tobytes()
        assert shown.store(far) == "pages  16 entries, COHERENT from 0x100000000, 0x200000 apart"
        assert shown.store(near[:8] * 16) == ""


@pytest.mark.parametrize("name", ["ad102", "gb202"])
def test_a_boot_in_words(name: str, tmp_path: Path):
    """Our driver's boot of a software card: no access to a register is without a name."""
    card = make(f"{name},{SPEC}")
    boot(card, Recorder(DirectLink(card), tmp_path / "tape")).close()
    lines = list(Decoder(Tape.load(tmp_path / "tape")).lines())
    unnamed = [
        line.text
        for line in lines
        if "BAR0+" in line.text and " = " not in line.text and "VBIOS" not in line.text
    ]
    assert unnamed == [line.text for line in lines if "doorbell" in line.text]
    text = "\n".join(f"{line.step}: {line.text}" for line in lines)
    for words in (
        f"chip: R BAR0+a00  BOOT_42 = {int(boot_42(BY_NAME[name.upper()])):08x}",
        "libos arguments  LOGINIT LOGINTR LOGRM LOGMNOC LOGKRNL RMARGS",
        "WPR meta  image ",
        "message queue of 63 elements",
        "RPC GSP_SET_SYSTEM_INFO",
        "RPC SET_REGISTRY RMForcePcieConfigSave=0x1",
        "RPC GSP_INIT_DONE  OK (0x0)",
        "RPC GSP_RM_ALLOC ROOT",
        "RPC GSP_RM_CONTROL GPU_PROMOTE_CTX",
        "pages  128 entries",
        "methods  SET_OBJECT Compute",
        "GPFIFO  ",
        "USERD gp_put = 1",
        "doorbell, channel ",
    ):
        assert words in text, words
    starter = "NVDM COT" if name == "gb202" else "SEC2_MAILBOX0"
    assert starter in text


def test_other_bytes_are_left_alone(ada: Shown, blackwell: Shown):
    source = random.Random(5)
    for shown in (ada, blackwell):
        for size in (4, 8, 16, 256, 384, 4096, 1 << 16):
            assert shown.store(bytes(size)) == ""
            assert shown.store(source.randbytes(size)) == ""
        weights = struct.pack("<64f", *(source.gauss(0, 1) for _ in range(64)))
        assert shown.store(weights) == ""


def test_every_chip_has_a_map():
    for chip in BY_NAME.values():
        shown = Shown(chip.name)
        assert shown.read(0xA00, boot_42(chip)).endswith(chip.name)
        assert (shown.write(0x8F2C00, 0) != "") == (chip.start is Start.FSP)
