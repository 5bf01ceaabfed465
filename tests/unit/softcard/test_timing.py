"""Modelled time agrees with what users measured, and faults come on schedule."""

import pytest
from tests.contract.pci_function import generic_copy

from exosuit.errors import LinkError, UsageError
from exosuit.silicon import generic
from exosuit.silicon.pci import Command
from exosuit.softcard.card import Options, Refused, SoftCard
from exosuit.softcard.chips import make_card, parse_options, parse_size, parse_spec
from exosuit.softcard.direct import DirectLink
from exosuit.softcard.faults import GENERAL, SPAN, FaultSchedule
from exosuit.softcard.generic import GenericCard
from exosuit.softcard.timing import MODELS
from exosuit.units import GiB, MiB

# users.md C2: seconds for a model of 15 GB over each link.
MEASURED_LOAD = {
    "tb3": 5.5, "tb4": 5.5, "usb4": 5.5, "tb5": 2.5, "gen1": 17.0, "slot": 0.6,
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURED_LOAD)
def test_the_modelled_load_of_15_gb(name: str):
    card = GenericCard(Options(vram=64 * MiB, link=MODELS[name]))
    window = DirectLink(card).bar(generic.MEMORY_BAR)
    chunk = bytes(16 * MiB)
    for at in range(0, 64 * MiB, len(chunk)):
        window.write(at, chunk)
    modelled = card.meter.now_ns / 1e9 * 15e9 / (64 * MiB)
    assert modelled == pytest.approx(MEASURED_LOAD[name], rel=0.10)


def test_loading_by_the_cards_own_dma_costs_the_same():
    card = GenericCard(Options(vram=64 * MiB, link=MODELS["tb4"]))
    link = DirectLink(card)
    link.write_config(4, Command(memory_space=True, bus_master=True), 2)
    size = 32 * MiB
    generic_copy(
        link,
        link.allocate_dma(size, contiguous=True),
        link.allocate_dma(size, contiguous=True),
        size,
    )
    assert card.meter.dma_bytes_read == pytest.approx(size, abs=4096)
    there_and_back = card.meter.now_ns / 1e9 * 15e9 / size
    assert there_and_back == pytest.approx(2 * MEASURED_LOAD["tb4"], rel=0.10)


def test_a_read_costs_a_round_trip_and_a_write_does_not():
    card = GenericCard(Options(vram=16 * MiB, link=MODELS["tb4"]))
    bar = DirectLink(card).bar(0)
    for _ in range(1000):
        bar.write32(0x1000, 1)
    written = card.meter.now_ns
    for _ in range(1000):
        bar.read32(0x1000)
    assert (card.meter.now_ns - written) / written > 20
    assert (card.meter.reads, card.meter.writes) == (1000, 1000)


class TestFaults:
    def test_a_seed_gives_the_same_schedule_everywhere(self):
        assert str(FaultSchedule.seeded(7)) == str(FaultSchedule.seeded(7))
        drawn = {str(FaultSchedule.seeded(seed)) for seed in range(50)}
        assert len(drawn) == 50
        kinds = {k for seed in range(200) for _, k in FaultSchedule.seeded(seed).faults}
        assert kinds == set(GENERAL)
        for seed in range(50):
            assert all(1 <= at <= SPAN for at, _ in FaultSchedule.seeded(seed).faults)

    @pytest.mark.parametrize("text", ["bang@3", "hang", "hang@", "hang@x", "+"])
    def test_what_is_no_schedule(self, text: str):
        with pytest.raises(UsageError, match="is no fault"):
            FaultSchedule.parse(text)

    @staticmethod
    def linked(faults: str) -> DirectLink:
        link = DirectLink(GenericCard(Options(vram=16 * MiB, faults=FaultSchedule.parse(faults))))
        return link

    def test_a_pulled_cable(self):
        link = self.linked("unplug@3")
        bar = link.bar(0)
        assert [bar.read32(0) for _ in range(4)] == [generic.MAGIC] * 2 + [0xFFFF_FFFF] * 2
        assert link.read_config(0, 4) == 0xFFFF_FFFF
        link.reset()
        assert bar.read32(0) == 0xFFFF_FFFF

    def test_one_read_of_ones(self):
        bar = self.linked("ones@2").bar(0)
        assert [bar.read32(0) for _ in range(3)] == [generic.MAGIC, 0xFFFF_FFFF, generic.MAGIC]

    def test_a_torn_write(self):
        bar = self.linked("torn@1").bar(generic.MEMORY_BAR)
        bar.write(0, b"\xaa" * 64)
        assert bar.read(0, 64) == b"\xaa" * 32 + bytes(32)

    def test_hung_engines_come_back_with_a_reset(self):
        link = self.linked("hang@1")
        link.write_config(4, Command(memory_space=True, bus_master=True), 2)
        source, target = link.allocate_dma(4096), link.allocate_dma(4096)
        with pytest.raises(AssertionError):
            generic_copy(link, source, target, 64)
        link.reset()
        link.write_config(4, Command(memory_space=True, bus_master=True), 2)
        generic_copy(link, source, target, 64)

    def test_a_refused_dma_stops_the_engine_with_a_reason(self):
        link = self.linked("dma@6")
        link.write_config(4, Command(memory_space=True, bus_master=True), 2)
        with pytest.raises(AssertionError):
            generic_copy(link, link.allocate_dma(64), link.allocate_dma(64), 64)
        registers = generic.Registers(link.bar(0))
        assert registers.STATUS.read().halted
        assert registers.ERROR.read().fault is generic.Fault.OUTSIDE_HOST


class TestStrict:
    @staticmethod
    def strict() -> DirectLink:
        return DirectLink(GenericCard(Options(vram=16 * MiB, strict=True)))

    def test_undeclared_registers_and_forbidden_access(self):
        bar = self.strict().bar(0)
        for access in (
            lambda: bar.read32(0x800),
            lambda: bar.write32(0x800, 1),
            lambda: bar.write32(0, 1),
        ):
            with pytest.raises(Refused):
                access()

    def test_dma_before_bus_mastering(self):
        link = self.strict()
        source, target = link.allocate_dma(64), link.allocate_dma(64)
        with pytest.raises(Refused, match="bus mastering is off"):
            generic_copy(link, source, target, 64)

    def test_a_lenient_card_notes_the_same(self):
        card = GenericCard(Options(vram=16 * MiB))
        bar = DirectLink(card).bar(0)
        bar.write32(0x800, 7)
        assert bar.read32(0x800) == 7
        assert len(card.notes) == 2


class TestGenericEngine:
    @staticmethod
    def run(*packets: generic.Descriptor) -> DirectLink:
        link = DirectLink(GenericCard(Options(vram=16 * MiB)))
        link.write_config(4, Command(memory_space=True, bus_master=True), 2)
        ring = link.allocate_dma(4096, contiguous=True)
        work = b"".join(map(bytes, packets))
        ring.write(0, work)
        registers = generic.Registers(link.bar(0))
        registers.RING_BASE.write(ring.bus_address())
        registers.RING_SIZE.write(4096)
        registers.CONTROL.write(enable=True)
        link.bar(4).write64(0, len(work))
        return link

    def test_fill_and_copy_within_the_card(self):
        link = self.run(
            generic.Fill.build(value=0xABCD1234, target=0x100, count=10),
            generic.Nop.build(bytes(4)),
            generic.Copy.build(source=0x100, target=0x200, count=10),
        )
        assert link.bar(2).read(0x200, 12) == bytes.fromhex("3412cdab3412cdab3412") + bytes(2)

    def test_a_copy_outside_memory_halts_and_can_be_passed(self):
        link = self.run(
            generic.Copy.build(source=0, target=16 * MiB - 4, count=8),
            generic.Fill.build(value=1, target=0, count=4),
        )
        registers = generic.Registers(link.bar(0))
        assert registers.ERROR.read().fault is generic.Fault.OUTSIDE_MEMORY
        assert registers.ERROR_ADDRESS.read() == 16 * MiB - 4
        assert link.bar(2).read32(0) == 0
        registers.ERROR.write(0xFF)
        assert not registers.STATUS.read().halted
        assert link.bar(2).read32(0) == 1

    def test_an_unknown_descriptor(self):
        bad = generic.Nop.build()
        bad.header = bad.header.replace(opcode=0x77)
        link = self.run(bad)
        assert generic.Registers(link.bar(0)).ERROR.read().fault is generic.Fault.BAD_DESCRIPTOR

    def test_a_wait_is_met_by_the_host(self):
        link = DirectLink(GenericCard(Options(vram=16 * MiB)))
        link.write_config(4, Command(memory_space=True, bus_master=True), 2)
        flag = link.allocate_dma(4096, contiguous=True)
        wait = generic.Wait.build(source=flag.bus_address(), value=5)
        wait.header = wait.header.replace(source=generic.Aperture.HOST)
        fence = generic.Fence.build(target=flag.bus_address(8), value=9)
        fence.header = fence.header.replace(target=generic.Aperture.HOST)
        ring = link.allocate_dma(4096, contiguous=True)
        work = bytes(wait) + bytes(fence)
        ring.write(0, work)
        registers = generic.Registers(link.bar(0))
        registers.RING_BASE.write(ring.bus_address())
        registers.RING_SIZE.write(4096)
        registers.CONTROL.write(enable=True)
        link.bar(4).write64(0, len(work))
        assert registers.STATUS.read().waiting
        assert flag.read32(8) == 0
        flag.write64(0, 5)
        assert flag.read32(8) == 9


def made(text: str) -> SoftCard:
    chip, chosen = parse_spec(text)
    return make_card(chip, parse_options(chosen))


class TestSpecs:
    def test_a_whole_spec(self):
        chip, chosen = parse_spec("generic,vram=2G,bar=256M,link=tb5,faults=7,strict")
        options = parse_options(chosen)
        assert (chip, options.vram, options.bar) == ("generic", 2 * GiB, 256 * MiB)
        assert options.link.name == "tb5"
        assert options.strict
        assert make_card(chip, options).bar_size(2) == 256 * MiB

    @pytest.mark.parametrize(
        "text",
        [
            "gneric", "generic,colour=red", "generic,vram=", "generic,vram=2T", "generic,vram=0M",
            "generic,bar=300M", "generic,link=tb9", "generic,faults=x", "generic,vram=99999G",
        ],
    )  # fmt: skip
    def test_what_is_none(self, text: str):
        with pytest.raises(UsageError):
            made(text)

    def test_sizes(self):
        assert parse_size("512M") == parse_size("512MiB") == 512 * MiB

    def test_memory_is_sparse(self):
        card = GenericCard(Options(vram=64 * GiB))
        bar = DirectLink(card).bar(2)
        bar.write32(bar.size - 4, 7)
        assert bar.read32(bar.size - 4) == 7
        card.memory[63 * GiB] = 1

    def test_dma_memory_is_bounded(self):
        with pytest.raises(LinkError, match="too much"):
            DirectLink(GenericCard(Options(vram=16 * MiB))).allocate_dma(1 << 50)
