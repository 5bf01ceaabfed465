"""The PCI card from power-on to answers, by hand: what it lets pass, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from tests.unit.softcard.nvidia.host import FREE, FRTS, USER, VRAM, Boot, Host

from exosuit.silicon.nvidia import gsp, rpc
from exosuit.silicon.nvidia.boot import FWSEC_STATUS, PRAMIN_AT
from exosuit.silicon.nvidia.chips import Start, find_chip
from exosuit.silicon.nvidia.rm import ClientParams
from exosuit.silicon.nvidia.vbios import DmemMapper
from exosuit.softcard.card import Refused
from exosuit.softcard.faults import FaultKind
from exosuit.softcard.nvidia.gsp import State
from exosuit.units import MiB

CHIPS = ["ga102", "ad102", "gb202"]


@pytest.fixture(params=CHIPS)
def host(request: pytest.FixtureRequest) -> Host:
    return Host(request.param)


def test_it_is_what_it_says(host: Host) -> None:
    assert find_chip(int(host.bus.BOOT_42.read())) is host.chip
    assert int(host.bus.VRAM_MIB.read()) == VRAM // MiB
    assert host.link.read_config(2, 2) == host.card.product.device_id


def test_it_boots_without_a_word_of_complaint(host: Host) -> None:
    host.boot()
    assert host.card.gsp.state is State.RUNNING
    assert int(host.bus.WPR2_ADDR_HI.read())
    assert host.card.notes == []
    assert host.meta_memory.read(0xF8, 8) == gsp.WPR_VERIFIED.to_bytes(8, "little")
    assert host.logs.read(8, 4) == b"boot"


def test_a_strict_card_boots_too(host: Host) -> None:
    strict = Host(host.card.product.name, strict=True)
    strict.boot()
    with pytest.raises(Refused):
        strict.bar0.read32(0x12_3450)


def test_a_reset_takes_everything_back(host: Host) -> None:
    host.boot()
    host.let_dma(False)
    host.card.reset()
    assert int(host.bus.WPR2_ADDR_HI.read()) == 0
    assert host.card.gsp.state is State.OFF
    again = Host(host.card.product.name)
    again.boot()


def test_a_reset_while_the_firmware_may_write_is_noted(host: Host) -> None:
    host.boot()
    host.card.reset()
    assert "while the firmware runs" in host.card.notes[-1]


Break = Callable[[Host, Boot], None]


def _meta(**changed: int) -> Break:
    return lambda host, boot: boot.meta.assign(**changed)


def _cot(**changed: int | bytes) -> Break:
    def change(host: Host, boot: Boot) -> None:
        assert boot.cot is not None
        boot.cot.assign(**changed)

    return change


def _region(index: int, **changed: int) -> Break:
    return lambda host, boot: boot.regions[index].assign(**changed)


def _header(**changed: int) -> Break:
    def change(host: Host, boot: Boot) -> None:
        memory = host.block
        header = gsp.QueueHeader(bytearray(memory.read(host.command, 32)))
        header.assign(**changed)
        memory.write(host.command, bytes(header))

    return change


ANY = [
    ("magic", _meta(magic=1), "with magic 0x1"),
    ("hole", _meta(radix3_address=0x7_0000_0000), "part of the firmware is not at"),
    ("no image", _meta(radix3_size=0), "image of 0"),
    ("no loader", _meta(bootloader_size=0), "boot "),
    ("no arguments", _region(5, id=7), "no RMARGS"),
    ("arguments elsewhere", _region(5, address=0x8_0000_0000), "nothing is at bus address"),
    ("elements", _header(element_size=512), "elements of 512 bytes"),
    ("layout", _header(entry_offset=0), "another layout"),
]


@pytest.mark.parametrize(("name", "change", "noted"), ANY, ids=[row[0] for row in ANY])
def test_signed_code_checks_what_it_is_given(
    host: Host, name: str, change: Break, noted: str
) -> None:
    made = host.prepare()
    change(host, made)
    assert host.start(made) != 0
    assert any(noted in note for note in host.card.notes), host.card.notes
    assert host.card.gsp.state is not State.RUNNING


BOOTER = [
    ("size of memory", _meta(fb_size=VRAM // 2), "local memory of"),
    ("FRTS", _meta(frts_offset=FRTS - MiB), "which was made at"),
    ("overlap", _meta(heap_size=gsp.PAGE * 100_000), "inside what lies below it"),
    ("alignment", _meta(heap_offset=0x1234), "the heap of"),
]


@pytest.mark.parametrize(("name", "change", "noted"), BOOTER, ids=[row[0] for row in BOOTER])
def test_the_booter_checks_the_regions(name: str, change: Break, noted: str) -> None:
    host = Host("ad102")
    made = host.prepare()
    change(host, made)
    assert host.start(made) == 0x0B
    assert noted in host.card.notes[-1]


FSP = [
    ("version", _cot(version=1), 1),
    ("size", _cot(size=12), 1),
    ("no key", _cot(public_key=b""), 3),
    ("FMC", _cot(fmc_address=0x8_0000_0000), 3),
    ("FRTS", _cot(frts_size=4096), 4),
]


@pytest.mark.parametrize(("name", "change", "error"), FSP, ids=[row[0] for row in FSP])
def test_the_fsp_checks_its_message(name: str, change: Break, error: int) -> None:
    host = Host()
    made = host.prepare()
    change(host, made)
    assert host.start(made) == error
    assert host.card.gsp.state is State.OFF


def test_the_fsp_starts_the_gsp_once() -> None:
    host = Host()
    host.boot()
    assert host.start(host.prepare()) == 2


def test_what_is_locked_reads_so() -> None:
    host = Host()
    assert int(host.gsp.MAILBOX0.read()) & 0xFFFF_FF00 == 0xBADF_4100
    assert host.gsp.HWCFG2.read().riscv_br_priv_lockdown
    host.gsp.MAILBOX0.write(1)
    assert "locked out" in host.card.notes[-1]


def test_fwsec_wants_its_own_code_and_signature() -> None:
    for at, noted in ((0x10, "not FWSEC"), (0x2000 + 0x800, "signature")):
        host = Host("ga102")
        image = bytearray(host.prepare().fwsec)
        image[at] ^= 1
        host.run_fwsec(bytes(image))
        assert noted in host.card.notes[-1]
        assert not host.gsp.CPUCTL.read().halted
        assert host.bus.VBIOS_SCRATCH[FWSEC_STATUS].read().frts_error
        assert int(host.bus.WPR2_ADDR_HI.read()) == 0


def test_fwsec_fails_where_its_command_lies_nowhere() -> None:
    """What a load that the host cut off leaves in DMEM."""
    host = Host("ga102")
    image = bytearray(host.prepare().fwsec)
    DmemMapper(image, 0x2000 + 0x100).assign(command_in_offset=0xFFFF_0001)
    host.run_fwsec(bytes(image))
    assert "does not lie in DMEM" in host.card.notes[-1]
    assert host.bus.VBIOS_SCRATCH[FWSEC_STATUS].read().frts_error
    assert int(host.bus.WPR2_ADDR_HI.read()) == 0


def test_transfers_need_a_reset_core_and_physical_addresses() -> None:
    host = Host("ga102")
    host.load(host.sec2, FREE, (0, 256), (0, 0))
    assert "has not been reset" in host.card.notes[-1]
    host.reset(host.sec2)
    host.sec2.DMACTL.write(require_ctx=True)
    host.sec2.DMATRFCMD.write(size=6)
    assert "a context is required" in host.card.notes[-1]


def test_a_bus_address_that_nobody_mapped_is_a_panic() -> None:
    """An offset in local memory where a bus address belongs: what takes a Mac down."""
    host = Host("ad102")
    made = host.prepare()
    made.booter_mailbox = FREE
    assert host.start(made) == 0x0B
    assert host.card.bus.panics


def test_no_dma_without_bus_mastering() -> None:
    host = Host()
    made = host.prepare()
    host.let_dma(False)
    assert host.start(made) != 0
    assert any("bus mastering is off" in note for note in host.card.notes)
    assert not host.card.bus.panics


@pytest.mark.parametrize(
    ("wrong", "noted"),
    [
        ({"checksum": 1}, "wrong checksum"),
        ({"sequence": 99}, "sequence number 99"),
        ({"signature": 1}, "signature"),
        ({"count": 9}, "9 elements"),
        ({"result": 0}, "result 0x0 already"),
    ],
)
def test_messages_are_checked(wrong: dict[str, int], noted: str) -> None:
    host = Host()
    host.boot()
    before = len(host.events)
    host.send(rpc.Function.UNLOADING_GUEST_DRIVER, bytes(8), **wrong)
    host.pump()
    assert any(noted in note for note in host.card.notes)
    assert len(host.events) == before
    assert host.card.gsp.state is State.RUNNING


def test_long_messages_come_in_pieces() -> None:
    host = Host()
    host.boot()
    payload = bytes(rpc.MOST_PAYLOAD)
    host.send(rpc.Function.GET_GSP_STATIC_INFO, payload)
    host.send(rpc.Function.CONTINUATION_RECORD, bytes(100))
    host.pump()
    assert host.card.gsp.requests[-1] == rpc.Function.GET_GSP_STATIC_INFO


def test_what_does_not_fit_into_the_status_queue_waits() -> None:
    host = Host()
    host.boot()
    for _ in range(100):
        asked = rpc.Alloc.make(client=USER, class_id=0, parameters_size=ClientParams.SIZE)
        host.send(rpc.Function.GSP_RM_ALLOC, bytes(asked) + bytes(ClientParams.SIZE))
    assert host.card.waiting or host.card.gsp.is_waiting
    before = len(host.events)
    while host.card.gsp.is_waiting:
        host.pump()
        host.card.run()
    host.pump()
    assert len(host.events) - before == 100


def test_windows(host: Host) -> None:
    host.bar1.write(0x12_3450, b"seen")
    host.bus.BAR0_WINDOW.write(base=0x10)
    assert host.bar0.read(PRAMIN_AT + 0x2_3450, 4) == b"seen"
    host.bar0.write(PRAMIN_AT, b"back")
    assert host.bar1.read(0x10_0000, 4) == b"back"
    assert host.card.notes == []
    host.bus.BAR0_WINDOW.write(base=VRAM >> 16)
    assert host.bar0.read(PRAMIN_AT, 4) == b"\xff" * 4
    host.link.bar(3).read32(0)
    assert len(host.card.notes) == 2


def test_the_firmware_takes_bar_1_until_it_is_put_back(host: Host) -> None:
    assert host.start(host.prepare()) == 0
    host.pump()
    assert host.bar1.read32(0) == 0xFFFF_FFFF
    assert "translated" in host.card.notes[-1]


def test_protected_memory_is_not_the_hosts(host: Host) -> None:
    host.boot()
    at = host.card.protected.start
    assert host.bar1.read(at - 4096, 4) == bytes(4) if at <= host.bar1.size else True
    host.bus.BAR0_WINDOW.write(base=at >> 16)
    host.bar0.write(PRAMIN_AT, b"mine")
    assert "protected" in host.card.notes[-1]


def test_unloaded_firmware_can_be_started_again(host: Host) -> None:
    host.boot()
    host.call(rpc.Function.UNLOADING_GUEST_DRIVER, bytes(rpc.Unloading.make(level=1 << 6)))
    assert host.card.gsp.state is State.UNLOADED
    if host.chip.start is Start.BOOTER:
        assert host.run_booter(0xFF | 0xFF << 32, "booter_unload") == 0
    else:
        host.gsp.ENGINE.write(reset=True)
        host.gsp.ENGINE.write(reset=False)
    assert int(host.bus.WPR2_ADDR_HI.read()) == 0
    assert host.card.notes == []


# Faults by schedule.


def test_firmware_that_crashes_leaves_its_last_words(host: Host) -> None:
    host.boot()
    host.card.suffer(FaultKind.CRASH)
    before = len(host.events)
    host.send(rpc.Function.UNLOADING_GUEST_DRIVER, bytes(8))
    host.pump()
    assert len(host.events) == before
    text = host.logs.read(gsp.LOGS.index("LOGRM") * gsp.LOG_BYTES + 8, 16)
    assert text == b"GSP-RM stopped: "
    assert not host.gsp.RISCV_CPUCTL.read().active_stat


def test_signed_code_may_fail(host: Host) -> None:
    made = host.prepare()
    host.card.suffer(FaultKind.MAILBOX)
    if host.chip.start is Start.FSP:
        assert host.start(made) == 0x3F
    else:
        host.run_fwsec(made.fwsec)
        assert host.bus.VBIOS_SCRATCH[FWSEC_STATUS].read().frts_error == 0x3F
    assert host.card.notes == []


def test_a_link_that_trains_for_ever_reads_as_ones_until_a_reset(host: Host) -> None:
    host.card.suffer(FaultKind.RETRAIN)
    assert int(host.bus.BOOT_42.read()) == 0xFFFF_FFFF
    assert host.link.read_config(0, 2) == 0x10DE
    host.card.reset()
    assert find_chip(int(host.bus.BOOT_42.read())) is host.chip


def test_firmware_trains_the_link_unless_it_is_told_not_to() -> None:
    host = Host()
    host.card.retrains = True
    with suppress(AssertionError):  # even the answer is lost
        host.start(host.prepare())
    assert int(host.bus.BOOT_42.read()) == 0xFFFF_FFFF


def test_a_poisoned_card_stays_so(host: Host) -> None:
    host.boot()
    host.card.suffer(FaultKind.POISON)
    host.let_dma(False)
    host.card.reset()
    assert int(host.bus.WPR2_ADDR_HI.read())
    assert host.start(host.prepare()) != 0


def test_silent_firmware_answers_nothing(host: Host) -> None:
    host.boot()
    host.card.silent = True
    before = len(host.events)
    host.send(rpc.Function.UNLOADING_GUEST_DRIVER, bytes(8))
    host.pump()
    assert len(host.events) == before


def test_what_lies_past_a_bar_is_told_by_the_server() -> None:
    """A posted write beyond a BAR vanishes without a word: here it is noted."""
    host = Host(bar=256 * MiB)
    assert host.bar1.size == 256 * MiB
    with pytest.raises(Exception, match="BAR 1"):
        host.bar1.write(256 * MiB, b"lost")
