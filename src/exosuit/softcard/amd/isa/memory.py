"""Memory instructions: where each lane's address comes from, and which routine moves the data.

The routines work on registers in the wave's state. Global and scratch addresses are GPU virtual
addresses, which go through the card's TLB; local ones count from the workgroup's own memory.
Scratch is swizzled: dword d of lane l lies at (32 d + l) * 4 in the wave's part.
"""

from __future__ import annotations

import re

from exosuit.silicon.amd.isa.encodings import Ds, Flat
from exosuit.silicon.amd.isa.operands import M0, NULL
from exosuit.softcard.amd.isa import cross, state
from exosuit.softcard.amd.isa.decode import Instruction
from exosuit.softcard.amd.isa.operation import Untranslated
from exosuit.softcard.amd.isa.routines import ATOMICS
from exosuit.softcard.amd.isa.scalar import IGNORED
from exosuit.softcard.amd.isa.wave import Wave
from exosuit.softcard.translation.ir import WAVE, Lanes

_LOADS = {
    "u8": "u8", "i8": "i8", "u16": "u16", "i16": "i16", "b32": "b32", "b64": "b64", "b96": "b96",
    "b128": "b128", "d16_u8": "d16_u8", "d16_i8": "d16_i8", "d16_b16": "d16_b16",
    "d16_hi_u8": "d16_hi_u8", "d16_hi_i8": "d16_hi_i8", "d16_hi_b16": "d16_hi_b16",
    "u8_d16": "d16_u8", "i8_d16": "d16_i8", "u16_d16": "d16_b16", "u8_d16_hi": "d16_hi_u8",
    "i8_d16_hi": "d16_hi_i8", "u16_d16_hi": "d16_hi_b16",
}  # fmt: skip
_STORES = {
    "b8": "b8", "b16": "b16", "b32": "b32", "b64": "b64", "b96": "b96", "b128": "b128",
    "d16_hi_b8": "d16_hi_b8", "d16_hi_b16": "d16_hi_b16", "b8_d16_hi": "d16_hi_b8",
    "b16_d16_hi": "d16_hi_b16",
}  # fmt: skip


def size_of(what: str) -> int:
    """Bytes that one lane moves, from the last number in a routine's name."""
    return int(re.findall(r"\d+", what)[-1]) // 8


def global_memory(wave: Wave, made: Instruction) -> int:
    """Translate FLAT, GLOBAL or SCRATCH; bytes moved per lane."""
    word = made.word
    assert isinstance(word, Flat)
    kind = made.table.lower()
    operation = made.name.removeprefix(f"{kind}_")
    if match := re.fullmatch(r"(load|store)_addtid_b32", operation):
        addresses = (
            wave.ir.lane_numbers(4, "i64") + (wave.scalar_pair(word.saddr) + made.literal).splat()
        )
        return _move(wave, "global", match[1], "b32", addresses, word.vdst, word.data)
    if kind == "scratch":
        return _scratch(wave, made, word, operation)
    addresses = _addresses(wave, made, word)
    if operation.startswith("atomic_"):
        return _atomic(
            wave, "global", operation.removeprefix("atomic_"), addresses, word.data, word.vdst,
            bool(word.glc),
        )  # fmt: skip
    verb, _, what = operation.partition("_")
    return _move(wave, "global", verb, what, addresses, word.vdst, word.data)


def _addresses(wave: Wave, made: Instruction, word: Flat) -> Lanes:
    if word.saddr == NULL or made.table == "FLAT":
        addresses = wave.vector_pair(word.addr)
        return addresses + made.literal if made.literal else addresses
    base = wave.scalar_pair(word.saddr) + made.literal
    return wave.vector(word.addr).to("i64") + base.splat()


def _scratch(wave: Wave, made: Instruction, word: Flat, operation: str) -> int:
    offsets = wave.ir.constant("i32", made.literal, WAVE)
    if word.sve:
        offsets = offsets + wave.vector(word.addr)
    if word.saddr != NULL:
        offsets = offsets + wave.scalar(word.saddr).splat()
    within = ((offsets >> 2) << 7) + (offsets & 3) + wave.ir.lane_numbers(4)
    base = wave.load("i64", state.SCRATCH, align=8)
    addresses = within.to("i64") + base.splat()
    verb, _, what = operation.partition("_")
    count = {"b64": 2, "b96": 3, "b128": 4}.get(what, 1)
    for k in range(count):
        _move(
            wave, "global", verb, "b32" if count > 1 else what,
            addresses + k * 4 * WAVE if k else addresses, word.vdst + k, word.data + k,
        )  # fmt: skip
    return size_of(what)


def _move(
    wave: Wave, space: str, verb: str, what: str, addresses: Lanes, to: int, data: int
) -> int:
    names = _LOADS if verb == "load" else _STORES
    if verb not in ("load", "store") or what not in names:
        raise Untranslated(wave.instruction.name)
    wave.store(addresses, state.ADDRESSES, align=64)
    wave.settle()
    wave.routine(
        f"{space}_{verb}_{names[what]}", wave.STATE,
        wave.vector_place(to if verb == "load" else data), wave.exec,
    )  # fmt: skip
    return size_of(names[what])


def _atomic(
    wave: Wave, space: str, what: str, addresses: Lanes, data: int, to: int, returns: bool
) -> int:
    if what not in ATOMICS:
        raise Untranslated(wave.instruction.name)
    wave.store(addresses, state.ADDRESSES, align=64)
    wave.settle()
    result = wave.vector_place(to) if returns else wave.place(state.BUFFER)
    wave.routine(f"{space}_{what}", wave.STATE, result, wave.vector_place(data), wave.exec)
    return size_of(what)


def local_memory(wave: Wave, made: Instruction) -> int:
    """Translate DS; bytes moved per lane."""
    word = made.word
    assert isinstance(word, Ds)
    name = made.name.removeprefix("ds_")
    offset = word.offset0 | word.offset1 << 8
    if word.gds:
        raise Untranslated(f"{made.name} of global data share")
    if made.name in IGNORED:
        return 0
    if name == "bpermute_b32":
        cross.permute_backward(wave, word.addr, word.data0, offset)
    elif name == "permute_b32":
        cross.permute_forward(wave, word.addr, word.data0, offset)
    elif name == "swizzle_b32":
        cross.swizzle(wave, word.addr, offset)
    elif match := re.fullmatch(r"(load|store)_2addr(_stride64)?_b(32|64)", name):
        return _two_places(wave, word, match[1], bool(match[2]), int(match[3]) // 8)
    elif match := re.fullmatch(r"(load|store)_addtid_b32", name):
        base = (wave.scalar(M0) & 0xFFFF) + offset
        addresses = (wave.ir.lane_numbers(4) + base.splat()).to("i64")
        return _move(wave, "local", match[1], "b32", addresses, word.vdst, word.data0)
    elif match := re.fullmatch(r"(load|store)_(\w+)", name):
        addresses = _local_addresses(wave, word.addr, offset)
        return _move(wave, "local", match[1], match[2], addresses, word.vdst, word.data0)
    else:
        return _local_atomic(wave, word, name, offset)
    return 0


def _local_addresses(wave: Wave, register: int, offset: int) -> Lanes:
    return (wave.vector(register) + offset).to("i64")


def _two_places(wave: Wave, word: Ds, verb: str, strided: bool, size: int) -> int:
    step = size * (64 if strided else 1)
    places = [
        _local_addresses(wave, word.addr, offset * step) for offset in (word.offset0, word.offset1)
    ]
    for k, addresses in enumerate(places):
        data = (word.data0, word.data1)[k]
        to = word.vdst + k * size // 4
        _move(wave, "local", verb, f"b{8 * size}", addresses, to, data)
    return 2 * size


def _local_atomic(wave: Wave, word: Ds, name: str, offset: int) -> int:
    returns = "_rtn" in name
    what = name.replace("_rtn", "").replace("storexchg", "swap")
    addresses = _local_addresses(wave, word.addr, offset)
    data = word.data0
    if what.startswith("cmpstore"):
        # New value and compared one in one run of registers, as the global form has them.
        what = what.replace("cmpstore", "cmpswap")
        size = size_of(what) // 4
        for k in range(size):
            wave.store(wave.vector(word.data0 + k), _buffer(k), align=64)
            wave.store(wave.vector(word.data1 + k), _buffer(size + k), align=64)
        if what not in ATOMICS:
            raise Untranslated(wave.instruction.name)
        wave.store(addresses, state.ADDRESSES, align=64)
        wave.settle()
        result = wave.vector_place(word.vdst) if returns else wave.place(_buffer(4))
        wave.routine(f"local_{what}", wave.STATE, result, wave.place(_buffer(0)), wave.exec)
        return size_of(what)
    return _atomic(wave, "local", what, addresses, data, word.vdst, returns)


def _buffer(row: int) -> int:
    return state.BUFFER + row * state.VECTOR_BYTES
