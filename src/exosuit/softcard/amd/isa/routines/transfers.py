"""Loads and stores between vector registers and memory, of the card and of a workgroup.

Addresses lie in the state, one per lane. Where all lanes are on and their places follow each other
in memory, one wide access serves them; else each lane goes its own way. Every access to the card's
memory goes through its TLB; a piece of data that lies in two pages is moved byte by byte. Outside
of a workgroup's memory loads give 0 and stores are lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from exosuit.softcard.amd.isa import state
from exosuit.softcard.amd.isa.routines.writing import Routine, each_lane
from exosuit.softcard.translation.ir import WAVE, Function, Lanes

PAGE = 4096
READ, WRITE = 1, 2

SHARED = f"""
@zeros = internal constant [16 x i8] zeroinitializer, align 16

define internal i64 @miss(ptr %state, i64 %address, i32 %access) noinline nounwind {{
  %place = getelementptr i8, ptr %state, i64 {state.TLB_MISS}
  %walk = load ptr, ptr %place, align 8
  %entry = call i64 %walk(i64 %address, i32 %access)
  ret i64 %entry
}}

define internal i64 @translate(ptr %state, i64 %address, i32 %access) noinline nounwind {{
  %base.place = getelementptr i8, ptr %state, i64 {state.TLB_BASE}
  %base = load i64, ptr %base.place, align 8
  %pages.place = getelementptr i8, ptr %state, i64 {state.TLB_PAGES}
  %pages = load i64, ptr %pages.place, align 8
  %entries.place = getelementptr i8, ptr %state, i64 {state.TLB_ENTRIES}
  %entries = load ptr, ptr %entries.place, align 8
  %offset = sub i64 %address, %base
  %page = lshr i64 %offset, 12
  %inside = icmp ult i64 %page, %pages
  br i1 %inside, label %look, label %walk
look:
  %place = getelementptr i64, ptr %entries, i64 %page
  %cached = load i64, ptr %place, align 8
  %wanted = zext i32 %access to i64
  %allowed = and i64 %cached, %wanted
  %hit = icmp eq i64 %allowed, %wanted
  br i1 %hit, label %found, label %walk
walk:
  %walked = call i64 @miss(ptr %state, i64 %address, i32 %access)
  br label %found
found:
  %entry = phi i64 [ %cached, %look ], [ %walked, %walk ]
  %frame = and i64 %entry, -{PAGE}
  %within = and i64 %address, {PAGE - 1}
  %host = or i64 %frame, %within
  ret i64 %host
}}

define internal void @bytes(ptr %state, i64 %address, ptr %buffer, i64 %size, i32 %access)
    noinline nounwind {{
entry:
  br label %more
more:
  %k = phi i64 [ 0, %entry ], [ %k.next, %moved ]
  %at = add i64 %address, %k
  %host = call i64 @translate(ptr %state, i64 %at, i32 %access)
  %far = inttoptr i64 %host to ptr
  %near = getelementptr i8, ptr %buffer, i64 %k
  %reading = icmp eq i32 %access, {READ}
  %from = select i1 %reading, ptr %far, ptr %near
  %to = select i1 %reading, ptr %near, ptr %far
  %byte = load i8, ptr %from, align 1
  store i8 %byte, ptr %to, align 1
  br label %moved
moved:
  %k.next = add i64 %k, 1
  %again = icmp ult i64 %k.next, %size
  br i1 %again, label %more, label %done
done:
  ret void
}}
"""


@dataclass(frozen=True)
class Shape:
    """What one lane moves: `count` elements of `kind`, as the register or a half of it."""

    kind: str
    count: int = 1
    signed: bool = False
    half: str = ""

    @property
    def size(self) -> int:
        return int(self.kind[1:]) // 8 * self.count


_LOADS = {
    "u8": Shape("i8"), "i8": Shape("i8", signed=True), "u16": Shape("i16"),
    "i16": Shape("i16", signed=True), "b32": Shape("i32"), "b64": Shape("i32", 2),
    "b96": Shape("i32", 3), "b128": Shape("i32", 4), "d16_u8": Shape("i8", half="low"),
    "d16_i8": Shape("i8", signed=True, half="low"), "d16_b16": Shape("i16", half="low"),
    "d16_hi_u8": Shape("i8", half="high"), "d16_hi_i8": Shape("i8", signed=True, half="high"),
    "d16_hi_b16": Shape("i16", half="high"),
}  # fmt: skip
_STORES = {
    "b8": Shape("i8"), "b16": Shape("i16"), "b32": Shape("i32"), "b64": Shape("i32", 2),
    "b96": Shape("i32", 3), "b128": Shape("i32", 4), "d16_hi_b8": Shape("i8", half="high"),
    "d16_hi_b16": Shape("i16", half="high"),
}  # fmt: skip


def routines() -> Iterator[Routine]:
    for space in ("global", "local"):
        for name, shape in _LOADS.items():
            yield _transfer(f"{space}_load_{name}", space, shape, READ)
        for name, shape in _STORES.items():
            yield _transfer(f"{space}_store_{name}", space, shape, WRITE)
    for count in (1, 2, 4, 8, 16):
        yield _load_scalars(count)


class Space:
    """How an address becomes a host pointer, in one routine."""

    def __init__(self, function: Function, kind: str, access: int) -> None:
        self.ir = function
        self.kind = kind
        self.access = access
        if kind == "global":
            self.base = self._fact("i64", state.TLB_BASE)
            self.limit = self._fact("i64", state.TLB_PAGES)
            self.memory = self._fact("ptr", state.TLB_ENTRIES)
        else:
            self.limit = self._fact("i64", state.LOCAL_BYTES)
            self.memory = self._fact("ptr", state.LOCAL)

    def _fact(self, kind: str, offset: int) -> Lanes:
        place = self.ir.address("%state", offset)
        return Lanes(self.ir, kind, 1, self.ir.assign(f"load {kind}, ptr {place}, align 8"))

    def one(self, address: Lanes, size: int, buffer: str) -> tuple[str, Lanes | None]:
        """The place of one lane's data, and whether it is `buffer`, standing in for two pages."""
        if self.kind == "local":
            return self._local(address, size, buffer), None
        if size == 1:
            return self.place(address), None
        ir, tag = self.ir, self.ir.name()
        whole, torn, done = f"{tag}.whole", f"{tag}.torn", f"{tag}.done"
        crosses = (address & (PAGE - 1)).compare("ugt", PAGE - size)
        ir.branch(crosses, torn, whole)
        ir.label(torn)
        if self.access == READ:
            ir.emit(
                f"call void @bytes(ptr %state, {address.typed}, ptr {buffer}, i64 {size}, "
                f"i32 {READ})"
            )
        ir.jump(done)
        ir.label(whole)
        direct = self.place(address)
        last = f"{tag}.last"
        ir.jump(last)
        ir.label(last)
        ir.jump(done)
        ir.label(done)
        pointer = ir.assign(f"phi ptr [ {buffer}, %{torn} ], [ {direct}, %{last} ]")
        return pointer, crosses

    def place(self, address: Lanes) -> str:
        """The place of an access within one page of the card's memory."""
        return self._pointer(self._translate(address))

    def _pointer(self, host: Lanes) -> str:
        return self.ir.assign(f"inttoptr {host.typed} to ptr")

    def _local(self, address: Lanes, size: int, buffer: str) -> str:
        inside = (address + size).compare("ule", self.limit)
        place = self.ir.address(self.memory.text, address)
        outside = "@zeros" if self.access == READ else buffer
        return self.ir.assign(f"select i1 {inside.text}, ptr {place}, ptr {outside}")

    def _translate(self, address: Lanes) -> Lanes:
        """The host address, i64, of an access within one page."""
        ir, tag = self.ir, self.ir.name()
        look, walk, found = f"{tag}.look", f"{tag}.walk", f"{tag}.found"
        page = (address - self.base) >> 12
        ir.branch(page.ult(self.limit), look, walk)
        ir.label(look)
        place = ir.assign(f"getelementptr i64, ptr {self.memory.text}, {page.typed}")
        cached = ir.load("i64", 1, place, 8)
        ir.branch((cached & self.access).eq(self.access), found, walk)
        ir.label(walk)
        walked = ir.value(
            "i64", 1, f"call i64 @miss(ptr %state, {address.typed}, i32 {self.access})"
        )
        ir.jump(found)
        ir.label(found)
        entry = ir.phi("i64", 1, (cached, look), (walked, walk))
        return (entry & -PAGE) | (address & (PAGE - 1))

    def run(self, first: Lanes, size: int, otherwise: str) -> str:
        """The place of `size` bytes in a row; jumps to `otherwise` if that is not one place."""
        ir, tag = self.ir, self.ir.name()
        if self.kind == "local":
            inside = (first + size).compare("ule", self.limit)
            ir.branch(inside, f"{tag}.inside", otherwise)
            ir.label(f"{tag}.inside")
            return ir.address(self.memory.text, first)
        page, last = (first - self.base) >> 12, (first + (size - 1) - self.base) >> 12
        ir.branch(last.ult(self.limit), f"{tag}.look", otherwise)
        ir.label(f"{tag}.look")
        entries = [
            ir.load(
                "i64", 1,
                ir.assign(f"getelementptr i64, ptr {self.memory.text}, {number.typed}"), 8,
            )
            for number in (page, last)
        ]  # fmt: skip
        follows = entries[1].eq(entries[0] + ((last - page) << 12))
        ir.branch(follows & (entries[0] & self.access).eq(self.access), f"{tag}.one", otherwise)
        ir.label(f"{tag}.one")
        return self._pointer((entries[0] & -PAGE) + (first & (PAGE - 1)))


def _transfer(name: str, space_kind: str, shape: Shape, access: int) -> Routine:
    routine = Routine(name, "ptr %state, ptr %registers, i32 %exec")
    ir = routine.function
    space = Space(ir, space_kind, access)
    buffer = ir.assign("alloca [16 x i8], align 16")
    mask = routine.argument("i32", "exec")
    ir.branch(mask.eq(-1), "all", "each")
    ir.label("all")
    addresses = ir.load("i64", WAVE, ir.address("%state", state.ADDRESSES), 64)
    first = addresses.lane(0)
    expected = first.splat() + ir.lane_numbers(shape.size, "i64")
    follow = addresses.eq(expected).view("i32", 1).eq(-1)
    ir.branch(follow, "row", "each")
    ir.label("row")
    place = space.run(first, shape.size * WAVE, "each")
    (_load_row if access == READ else _store_row)(ir, shape, place)
    ir.emit("ret void")
    ir.label("each")
    with each_lane(ir, mask) as lane:
        at = ir.assign(f"getelementptr i64, ptr {ir.address('%state', state.ADDRESSES)}, "
                       f"{lane.typed}")  # fmt: skip
        address = ir.load("i64", 1, at, 8)
        pointer, torn = space.one(address, shape.size, buffer)
        register = ir.assign(f"getelementptr i32, ptr %registers, {lane.typed}")
        (_load_lane if access == READ else _store_lane)(ir, shape, pointer, register)
        if torn is not None and access == WRITE:
            _spread(ir, torn, address, buffer, shape.size)
    ir.emit("ret void")
    return routine


def _spread(ir: Function, torn: Lanes, address: Lanes, buffer: str, size: int) -> None:
    tag = ir.name()
    ir.branch(torn, f"{tag}.spread", f"{tag}.whole")
    ir.label(f"{tag}.spread")
    ir.emit(f"call void @bytes(ptr %state, {address.typed}, ptr {buffer}, i64 {size}, i32 {WRITE})")
    ir.jump(f"{tag}.whole")
    ir.label(f"{tag}.whole")


def _widened(shape: Shape, value: Lanes, old: Lanes) -> Lanes:
    """A loaded element as the register's new i32; `old` is what it held."""
    if shape.half == "":
        return value.to("i32", shape.signed)
    part = value.to("i16", shape.signed).to("i32")
    if shape.half == "low":
        return (old & 0xFFFF0000) | part
    return (old & 0xFFFF) | (part << 16)


def _narrowed(shape: Shape, value: Lanes) -> Lanes:
    """What a register's i32 stores."""
    return ((value >> 16) if shape.half == "high" else value).to(shape.kind)


def _register(ir: Function, number: int, base: str = "%registers") -> str:
    return ir.address(base, number * state.VECTOR_BYTES)


def _load_row(ir: Function, shape: Shape, place: str) -> None:
    found = ir.load(shape.kind, WAVE * shape.count, place, 1)
    for k in range(shape.count):
        part = found
        if shape.count > 1:
            part = found.shuffle(range(k, WAVE * shape.count, shape.count))
        to = _register(ir, k)
        old = ir.load("i32", WAVE, to, 64)
        ir.store(_widened(shape, part, old), to, 64)


def _store_row(ir: Function, shape: Shape, place: str) -> None:
    parts = [
        _narrowed(shape, ir.load("i32", WAVE, _register(ir, k), 64)) for k in range(shape.count)
    ]
    width = WAVE
    while len(parts) & (len(parts) - 1):
        parts.append(parts[-1])
    total = len(parts)
    while len(parts) > 1:
        parts = [
            a.shuffle(range(2 * width), b) for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
        width *= 2
    row = parts[0]
    if total > 1:
        row = row.shuffle([k * WAVE + lane for lane in range(WAVE) for k in range(shape.count)])
    ir.store(row, place, 1)


def _load_lane(ir: Function, shape: Shape, pointer: str, register: str) -> None:
    for k in range(shape.count):
        value = ir.load(shape.kind, 1, ir.address(pointer, 4 * k), 1)
        to = _register(ir, k, register)
        old = ir.load("i32", 1, to, 4) if shape.half else value
        ir.store(_widened(shape, value, old), to, 4)


def _store_lane(ir: Function, shape: Shape, pointer: str, register: str) -> None:
    for k in range(shape.count):
        value = ir.load("i32", 1, _register(ir, k, register), 4)
        ir.store(_narrowed(shape, value), ir.address(pointer, 4 * k), 1)


def _load_scalars(count: int) -> Routine:
    """`count` dwords at a dword-aligned address into consecutive scalar registers."""
    routine = Routine(f"load_scalars_{count}", "ptr %state, ptr %to, i64 %address")
    ir = routine.function
    address = routine.argument("i64", "address")
    space = Space(ir, "global", READ)
    torn = (address & (PAGE - 1)).compare("ugt", PAGE - 4 * count)
    ir.branch(torn, "torn", "whole")
    ir.label("whole")
    place = space.place(address)
    ir.store(ir.load("i32", count, place, 4), "%to", 4)
    ir.emit("ret void")
    ir.label("torn")
    ir.emit(f"call void @bytes(ptr %state, {address.typed}, ptr %to, i64 {4 * count}, i32 {READ})")
    ir.emit("ret void")
    return routine
