"""The idiom holds descriptions to themselves, and both directions agree."""

from enum import IntEnum
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exosuit.datasheet import (
    Block,
    DescriptionError,
    Packet,
    Struct,
    UnknownPacket,
    Word,
    array,
    at,
    bits,
    data,
    embed,
    f32,
    flag,
    i32,
    split,
    u8,
    u16,
    u32,
    u64,
    word,
)


class Aperture(IntEnum):
    VRAM = 0
    SYSMEM = 2


class Pte(Word):
    WIDTH = 64
    valid = flag(0)
    aperture = bits(2, 1, kind=Aperture)
    frame = bits(53, 8, "physical address >> 12")


class Scattered(Word):
    address = split((31, 24), (7, 0), doc="in two places")
    middle = bits(15, 8)


class Status(Word):
    busy = flag(31)
    code = bits(7, 0)


class Queue(Block):
    DOORBELL = at(0x40, Word, reset=7)
    STATUS = at(0x80, Status, access="ro", count=8, stride=0x10)
    COMMAND = at(0x44, Status, access="wo")
    BASE = at(0x48, Pte)


class Bus:
    def __init__(self) -> None:
        self.words: dict[int, int] = {}

    def read32(self, offset: int) -> int:
        return self.words.get(offset, 0)

    def write32(self, offset: int, value: int) -> None:
        self.words[offset] = value


class Header(Struct):
    SIZE = 32
    magic = u32()
    version = u16("where the manual puts it", at=8)
    kind = u8()
    status = word(Status, at=12)
    tail = array(u16(), 3)
    name = data(4, at=24)


class TestWord:
    def test_a_word_is_the_number_that_it_encodes(self):
        pte = Pte(valid=True, aperture=Aperture.SYSMEM, frame=0x1234)
        assert pte == 1 | 2 << 1 | 0x1234 << 8
        assert (pte.valid, pte.aperture, pte.frame) == (True, Aperture.SYSMEM, 0x1234)
        assert isinstance(pte.aperture, Aperture)
        assert Pte.decode(pte.encode()) == pte

    def test_replace_keeps_bits_that_have_no_name(self):
        word = Pte(0xF000_0000_0000_00F8 | 1)
        assert word.replace(valid=False) == 0xF000_0000_0000_00F8

    def test_split_fields(self):
        word = Scattered(address=0xABCD)
        assert word == 0xAB0000CD
        assert word.address == 0xABCD

    def test_a_value_outside_the_vendors_list_is_still_a_value(self):
        assert Pte(3 << 1).aperture == 3

    def test_misspelt_names_and_large_values_are_explained(self):
        with pytest.raises(TypeError, match="did you mean aperture"):
            Pte(apperture=1)
        with pytest.raises(ValueError, match=r"aperture is 2 bits wide, 0 to 0x3; got 0x4"):
            Pte(aperture=4)
        with pytest.raises(ValueError, match="64 bits wide"):
            Pte(1 << 64)

    def test_wrong_descriptions_are_refused_when_made(self):
        with pytest.raises(DescriptionError, match="overlaps"):
            type("Bad", (Word,), {"a": bits(3, 0), "b": flag(3)})
        with pytest.raises(DescriptionError, match="reaches bit 32 of 32"):
            type("Bad", (Word,), {"a": bits(32, 0)})
        with pytest.raises(DescriptionError, match="hide"):
            type("Bad", (Word,), {"real": bits(3, 0)})
        with pytest.raises(DescriptionError, match="high bit first"):
            type("Bad", (Word,), {"a": bits(0, 3)})

    def test_a_generation_overrides_only_what_moved(self):
        class PteLater(Pte):
            aperture = bits(57, 56, kind=Aperture)

        assert PteLater(aperture=Aperture.SYSMEM, valid=True) == 2 << 56 | 1
        assert PteLater.FIELDS.keys() == Pte.FIELDS.keys()

    def test_explain_names_enumerators(self):
        assert Pte(valid=True, aperture=2, frame=0x20).explain() == (
            "valid=1 aperture=SYSMEM frame=0x20"
        )

    @given(st.integers(0, 2**64 - 1), st.integers(0, 2**46 - 1))
    def test_fields_do_not_disturb_each_other(self, value: int, frame: int):
        changed = Pte(value).replace(frame=frame)
        assert changed.frame == frame
        assert changed.replace(frame=Pte(value).frame) == value

    @given(st.integers(0, 2**40), st.integers(0, 64), st.integers(0, 4096), st.booleans())
    def test_the_bulk_form_equals_the_scalar_form(
        self, first: int, count: int, step: int, valid: bool
    ):
        table = Pte(valid=valid, frame=first).table(count, frame=step)
        assert list(table) == [Pte(valid=valid, frame=first + i * step) for i in range(count)]

    def test_the_bulk_form_refuses_to_leave_its_field(self):
        with pytest.raises(ValueError, match="frame is 46 bits wide"):
            Pte(frame=2**46 - 2).table(3, frame=1)


class TestStruct:
    def test_a_view_is_live(self):
        memory = bytearray(40)
        one, two = Header(memory, 8), Header(memory, 8)
        one.magic = 0xCAFE
        one.status = Status(busy=True)
        one.tail[2] = 9
        assert two.magic == 0xCAFE
        assert two.status.busy
        assert list(two.tail) == [0, 0, 9]
        assert memory[8:10] == b"\xfe\xca"

    def test_slots_lie_where_they_were_put(self):
        offsets = {name: slot.offset for name, slot in Header.SLOTS.items()}
        assert offsets == {
            "magic": 0, "version": 8, "kind": 10, "status": 12, "tail": 16, "name": 24,
        }  # fmt: skip

    def test_wrong_descriptions_are_refused_when_made(self):
        with pytest.raises(DescriptionError, match="overlaps"):
            type("Bad", (Struct,), {"a": u32(), "b": u32(at=2)})
        with pytest.raises(DescriptionError, match="slots need 8"):
            type("Bad", (Struct,), {"SIZE": 6, "a": u32(), "b": u32()})
        with pytest.raises(DescriptionError, match="hide"):
            type("Bad", (Struct,), {"explain": u32()})

    def test_misspelt_slots_and_short_buffers(self):
        with pytest.raises(TypeError, match="did you mean version"):
            Header.make(verison=1)
        with pytest.raises(AttributeError, match="did you mean magic"):
            Header(bytearray(32)).magik = 1
        with pytest.raises(ValueError, match="needs 32 bytes; 31 are there"):
            Header(bytes(31))
        with pytest.raises(ValueError, match="does not fit"):
            Header.make(kind=256)

    def test_structures_nest(self):
        class Outer(Struct):
            before = i32()
            inner = embed(Header)
            scale = f32()
            wide = u64()

        outer = Outer.make(before=-1, scale=0.5)
        outer.inner.version = 3
        assert Outer.SIZE == 48
        assert bytes(outer)[12:14] == b"\x03\0"
        assert (outer.before, outer.scale) == (-1, 0.5)


class TestBlock:
    def test_registers_are_read_and_written_at_their_base(self):
        bus = Bus()
        queue = Queue(bus, 0x1000)
        queue.COMMAND.write(busy=True, code=5)
        bus.words[0x1090] = 0x80000003
        assert bus.words[0x1044] == 0x80000005
        assert queue.STATUS[1].read().busy
        assert queue.STATUS[1].name == "STATUS[1]"
        queue.BASE.write(Pte(frame=1 << 40))
        assert (bus.words[0x1048], bus.words[0x104C]) == (0, 1 << 16)
        assert queue.BASE.read().frame == 1 << 40

    def test_update_preserves_what_it_does_not_name(self):
        bus = Bus()
        bus.words[0x40] = 0xFF00
        Queue(bus).DOORBELL.update()
        assert bus.words[0x40] == 0xFF00

    def test_access_is_data(self):
        queue = Queue(Bus())
        with pytest.raises(TypeError, match="cannot be written"):
            queue.STATUS[0].write(1)
        with pytest.raises(TypeError, match="cannot be read"):
            queue.COMMAND.read()
        assert Queue.REGISTERS["DOORBELL"].reset == 7

    def test_units_and_segments(self):
        class Hub(Block):
            UNIT = 4
            LOW = at(0x10, Word)
            HIGH = at(0x10, Word, segment=1)

        assert Hub(Bus(), [0x1000, 0x8000]).HIGH.offset == 0x8040

    def test_overlapping_registers_are_refused(self):
        with pytest.raises(DescriptionError, match="overlaps"):
            type("Bad", (Block,), {"A": at(0, Pte), "B": at(4, Word)})
        with pytest.raises(DescriptionError, match="entries overlap"):
            type("Bad", (Block,), {"A": at(0, Pte, count=2, stride=4)})


class Toy(Packet):
    """A family whose header is opcode, then size in bytes."""

    opcode = u8()
    length = u8()

    @classmethod
    def measure(cls, stream: memoryview) -> tuple[int, int] | None:
        return (stream[0], stream[1]) if len(stream) >= 2 else None

    def stamp(self, size: int) -> None:
        self.assign(opcode=self.OPCODE, length=size)


class Wait(Toy):
    OPCODE: ClassVar[int | None] = 0x3C
    value = u32(at=2)


class TestPacket:
    def test_a_stream_is_split_into_what_was_built(self):
        stream = bytes(Wait.build(value=7)) + bytes(Wait.build(b"xyz", value=8))
        first, second = Toy.parse(stream)
        assert isinstance(first, Wait)
        assert isinstance(second, Wait)
        assert (first.value, second.value, bytes(second.rest)) == (7, 8, b"xyz")

    def test_the_unknown_and_the_cut_off_are_shown_not_raised(self):
        assert list(Toy.parse(b"\x99\x03z" + b"\x3c\x30abc")) == [
            UnknownPacket(0x99, b"\x99\x03z"),
            UnknownPacket(None, b"\x3c\x30abc"),
        ]

    def test_opcodes_are_unique_in_a_family(self):
        with pytest.raises(DescriptionError, match="share opcode 0x3c"):
            type("Other", (Toy,), {"OPCODE": 0x3C})

    @given(st.binary(max_size=200))
    def test_parsing_never_fails_and_loses_nothing(self, stream: bytes):
        assert (
            b"".join(
                p.data if isinstance(p, UnknownPacket) else bytes(p) for p in Toy.parse(stream)
            )
            == stream
        )
