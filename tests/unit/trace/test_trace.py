"""Tapes: what is written is what is read, shown in words, replayed exactly, compared by step."""

import base64
import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.pci_function import generic_copy

from exosuit.errors import CorruptFile, LinkLost
from exosuit.link.function import PciFunction
from exosuit.silicon import generic
from exosuit.silicon.pci import Command
from exosuit.softcard.card import Options
from exosuit.softcard.direct import DirectLink
from exosuit.softcard.faults import FaultSchedule
from exosuit.softcard.generic import GenericCard
from exosuit.trace.again import play
from exosuit.trace.decode import Decoder
from exosuit.trace.diff import diff
from exosuit.trace.recorder import Recorder
from exosuit.trace.replay import Replay, TapeDiverged
from exosuit.trace.tape import Kind, Tape
from exosuit.units import MiB


def clock():
    now = 0

    def tick() -> int:
        nonlocal now
        now += 1_000_000
        return now

    return tick


def card(**options: object) -> DirectLink:
    return DirectLink(GenericCard(Options(**{"vram": 16 * MiB, **options})))  # type: ignore[arg-type]


def work(link: PciFunction, scratch: int = 7, polls: int = 5) -> None:
    """A small driver: configuration, registers, a copy by the card."""
    link.write_config(4, Command(memory_space=True, bus_master=True), 2)
    bar = link.bar(0)
    bar.write32(0x1000, scratch)
    for _ in range(polls):
        bar.read32(0x00C)
    source, target = link.allocate_dma(4096), link.allocate_dma(4096)
    source.write(0, bytes(range(100)))
    generic_copy(link, source, target, 100)
    assert target.read(0, 100) == bytes(range(100))


def record(path: Path, scratch: int = 7, polls: int = 5, **options: object) -> Tape:
    with Recorder(card(**options), path, clock()) as link:
        link.step("first")
        work(link, scratch, polls)
        link.step("second")
        link.bar(0).read32(0)
    return Tape.load(path)


def test_a_tape_tells_a_story(tmp_path: Path):
    lines = list(Decoder(record(tmp_path / "t")).lines())
    texts = [line.text for line in lines]
    assert lines[0].step == "first"
    assert lines[-1].step == "second"
    assert "W config+004  command = 0006  memory_space=1 bus_master=1" in texts
    assert "W BAR0+1000  SCRATCH[0] = 00000007" in texts
    assert "R BAR0+c  STATUS = 00000000   x5 over 4 ms" in texts
    assert "W BAR0+10  CONTROL = 00000001  enable=1" in texts
    assert "W BAR4+0  doorbell, write pointer 0x58  COPY · COPY · FENCE" in texts
    assert "R BAR0+0  IDENTITY = 314f5845" in texts


def test_what_nobody_described_is_shown_in_hexadecimal(tmp_path: Path):
    tape = record(tmp_path / "t")
    tape.chip = "10de:2684"
    assert "W BAR0+1000  00000007" in [line.text for line in Decoder(tape).lines()]


def test_the_file_is_small_and_says_nothing_private(tmp_path: Path):
    with Recorder(card(), tmp_path / "t", clock()) as link:
        window = link.bar(2)
        for at in range(100):
            window.write(at * 65536, b"same page" * 1000)
        link.bar(0)
        for _ in range(10_000):
            link.bar(0).read32(0)
    text = (tmp_path / "t").read_text()
    assert text.count('"page"') == 1
    assert str(tmp_path) not in text
    header = json.loads(text.splitlines()[0])
    assert header == {
        "tape": 1, "chip": "1234:e505", "link": "soft", "program": header["program"],
    }  # fmt: skip


def test_strict_replay_demands_the_same_accesses(tmp_path: Path):
    tape = record(tmp_path / "t")
    replay = Replay(tape)
    work(replay)
    replay.bar(0).read32(0)
    assert replay.is_finished
    other = Replay(tape)
    with pytest.raises(TapeDiverged) as caught:
        work(other, scratch=8)
    fields = caught.value.fields
    assert fields["recorded"] == "W BAR0+1000  SCRATCH[0] = 00000007"
    assert fields["done"] == "W BAR0+1000  SCRATCH[0] = 00000008"
    assert fields["step"] == "first"
    assert len(fields["before"]) <= 5
    assert len(fields["after"]) == 5
    assert str(caught.value).count("\n") == 2


def test_strict_replay_ends_where_the_tape_ends(tmp_path: Path):
    replay = Replay(record(tmp_path / "t"))
    work(replay)
    bar = replay.bar(0)
    bar.read32(0)
    with pytest.raises(TapeDiverged, match="the end of the tape"):
        bar.read32(0)


def test_lenient_replay_lets_polls_vary(tmp_path: Path):
    tape = record(tmp_path / "t", polls=3)
    work(Replay(tape, strict=False), scratch=8, polls=50)
    with pytest.raises(TapeDiverged):
        Replay(tape, strict=False).bar(2)


def test_a_lost_link_is_on_the_tape(tmp_path: Path):
    class Broken(DirectLink):
        def read_config(self, offset: int, size: int) -> int:
            if offset == 8:
                raise LinkLost("the cable is out", cause="pulled", next="exosuit doctor")
            return super().read_config(offset, size)

    with Recorder(Broken(GenericCard(Options(vram=16 * MiB))), tmp_path / "t") as link:
        link.read_config(0, 4)
        with pytest.raises(LinkLost):
            link.read_config(8, 4)
    replay = Replay(Tape.load(tmp_path / "t"))
    replay.read_config(0, 4)
    with pytest.raises(LinkLost, match="the cable is out"):
        replay.read_config(8, 4)


def test_the_same_story_has_no_difference(tmp_path: Path):
    one, two = record(tmp_path / "a", polls=3), record(tmp_path / "b", polls=30)
    assert list(diff(one, two)) == []


def test_a_difference_names_its_step(tmp_path: Path):
    one, two = record(tmp_path / "a"), record(tmp_path / "b", scratch=9)
    lines = list(diff(one, two))
    assert "-W BAR0+1000  SCRATCH[0] = 00000007" in lines
    assert "+W BAR0+1000  SCRATCH[0] = 00000009" in lines
    assert any(line.startswith("--- first") for line in lines)
    assert not any("second" in line for line in lines)


def test_a_tape_is_played_again_to_a_card(tmp_path: Path):
    tape = record(tmp_path / "t")
    assert list(play(tape, card())) == []
    pulled = list(play(tape, card(faults=FaultSchedule.parse("unplug@1"))))
    assert any("IDENTITY = 314f5845   now ffffffff" in line for line in pulled)


def test_an_unfinished_tape_has_another_name(tmp_path: Path):
    link = Recorder(card(), tmp_path / "t")
    link.read_config(0, 4)
    assert not (tmp_path / "t").exists()
    link.close()
    link.close()
    assert (tmp_path / "t").exists()
    assert not list(tmp_path.glob("*.part"))


def page(data: bytes, name: str = "0" * 24) -> str:
    return json.dumps({"page": name, "data": base64.b64encode(zlib.compress(data)).decode()})


HEADER = '{"tape":1,"chip":"1234:e505","link":"soft","program":"x"}\n'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        '{"tape":2,"chip":"1234:e505","link":"","program":""}',
        '{"tape":1,"chip":"zzzz:e505","link":"","program":""}',
        HEADER + "{}",
        HEADER + '[0,"?","config",0,4,0]',
        HEADER + '[0,"c","config",0]',
        HEADER + '[0,"c","config",0,4,4294967296]',
        HEADER + '[0,"r","BAR9",0,4,0]',
        HEADER + '[0,"r","BAR0",-4,4,0]',
        HEADER + '[0,"r","BAR0",0,4,"nopage"]',
        HEADER + '[0,"c","config",0,4,0,0,0]',
        HEADER + page(b"x" * 100),
        HEADER + '{"page":"a","data":"***"}',
        HEADER + "[" * 100_000,
    ],
)
def test_what_is_no_tape(text: str, tmp_path: Path):
    (tmp_path / "t").write_text(text)
    with pytest.raises(CorruptFile, match="not a readable tape"):
        Tape.load(tmp_path / "t")


def test_a_page_that_unpacks_for_ever_is_refused(tmp_path: Path):
    (tmp_path / "t").write_text(HEADER + page(bytes(65 << 20)))
    with pytest.raises(CorruptFile) as caught:
        Tape.load(tmp_path / "t")
    assert "larger than" in caught.value.cause


@given(st.data())
def test_a_damaged_tape_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    lines = [HEADER, '[1,"r","BAR0",0,4,5]', '[2,"step","s"]', '[3,"map","BAR0",0,4096,0]']
    text = bytearray("\n".join(line.strip() for line in lines).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    (folder / "t").write_bytes(text)
    try:
        tape = Tape.load(folder / "t")
    except CorruptFile:
        return
    assert all(isinstance(line.text, str) for line in Decoder(tape).lines())
    assert {record.kind for record in tape.records} <= set(Kind)


def test_the_generic_chip_is_what_the_tape_says(tmp_path: Path):
    tape = record(tmp_path / "t")
    assert (tape.vendor, tape.device) == (generic.VENDOR_ID, generic.DEVICE_ID)
