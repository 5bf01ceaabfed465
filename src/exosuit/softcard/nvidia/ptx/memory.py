"""Loads, stores, atomics and copies: of every lane its own address.

Global addresses are the card's, found in the windows that the model was given; shared ones are
offsets into the group's shared memory; local ones into what each lane has for itself. Loads of
constant arguments (`ld.param`) are the same for all lanes. Copies in the background are done at
once, so a wait that was forgotten is not noticed here. Generic addresses are not translated.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.softcard.nvidia.ptx import routines, state
from exosuit.softcard.nvidia.ptx.parse import Instruction
from exosuit.softcard.nvidia.ptx.state import WARP
from exosuit.softcard.nvidia.ptx.types import Type, type_of, unsupported
from exosuit.softcard.nvidia.ptx.warp import FLOAT, INTEGER, Warp, vector
from exosuit.softcard.translation.ir import Lanes


def _space(warp: Warp, made: Instruction) -> str:
    for space in ("global", "shared", "local"):
        if any(part.split("::")[0] == space for part in made.parts):
            return space
    raise unsupported(warp)


def _kept_line(warp: Warp) -> None:
    warp.store(warp.ir.constant("i32", warp.instruction.line), state.LINE)


def _in_memory(warp: Warp, value: Lanes) -> str:
    """A scratch place of the function that holds `value`."""
    place = warp.scratch()
    warp.ir.store(value, place, 64)
    return place


def _call(
    warp: Warp, name: str, text: str, addresses: Lanes, values: str, *more: str, moved: int = 0
) -> None:
    """moved: bytes of global memory that each active lane asks for."""
    warp.used[name] = text
    _kept_line(warp)
    if moved:
        lanes = warp.active.call("ctpop").to("i64")
        warp.store(warp.load("i64", state.MOVED, align=8) + lanes * moved, state.MOVED, 8)
    places = warp.scratch()
    warp.ir.store(addresses, places, 64)
    extra = "".join(f", ptr {place}" for place in more)
    mask = warp.active
    warp.ir.emit(f"call void @{name}(ptr %state, ptr {places}, ptr {values}, {mask.typed}{extra})")


def _moved(space: str, size: int) -> int:
    return size if space == "global" else 0


def fetch(warp: Warp, space: str, addresses: Lanes, size: int, kind: str, count: int) -> Lanes:
    """From each lane's address `size` bytes, as a vector of `count` elements."""
    values = warp.scratch()
    warp.ir.store(warp.ir.constant("i8", 0, WARP * size), values, 64)
    name, text = f"gather_{space}_{size}", routines.gather(space, size)
    _call(warp, name, text, addresses, values, moved=_moved(space, size))
    return warp.ir.load(kind, count, values, 64)


def _load(warp: Warp, made: Instruction) -> None:
    kind = type_of(made.parts[-1])
    to, source = made.operands
    if made.has("param"):
        return _load_parameter(warp, to, source, kind)
    space, names = _space(warp, made), vector(to)
    addresses = _addresses(warp, space, source)
    count = len(names)
    element = INTEGER[kind.bits]
    size = count * kind.bits // 8
    if size == 32:  # sm_100 and later load eight words at once, aligned to 32 bytes
        warp.fault(state.ALIGNMENT, _crooked(warp, addresses, 32))
        halves = [
            fetch(warp, space, addresses + part, 16, element, WARP * count // 2) for part in (0, 16)
        ]
        parts = [
            half.shuffle(range(k, half.count, count // 2))
            for half in halves for k in range(count // 2)
        ]  # fmt: skip
    else:
        loaded = fetch(warp, space, addresses, size, element, WARP * count)
        parts = [loaded.shuffle(range(k, loaded.count, count)) for k in range(count)]
    for name, part in zip(names, parts, strict=True):
        if name == "_":
            continue
        width = INTEGER[warp.entry.bits(name)]
        warp.write(name, part.to(width, kind.signed))
    return None


def _crooked(warp: Warp, addresses: Lanes, size: int) -> Lanes:
    wrong = (addresses & (size - 1)).ne(0).view("i32", 1) & warp.active
    return wrong.ne(0)


def _load_parameter(warp: Warp, to: str, source: str, kind: Type) -> None:
    name, _, offset = source.strip("[] ").partition("+")
    base = warp.load("ptr", state.PARAMETERS, align=8).text
    place = warp.entry.parameters[name] + int(offset or 0)
    element = INTEGER[kind.bits]
    for k, register in enumerate(vector(to)):
        address = warp.ir.address(base, place + k * kind.bits // 8)
        value = warp.ir.load(element, 1, address, kind.bits // 8)
        warp.write(register, value.to(INTEGER[warp.entry.bits(register)], kind.signed).splat(WARP))


def _addresses(warp: Warp, space: str, source: str) -> Lanes:
    """Of local memory each lane has its own piece, one behind the other."""
    addresses = warp.address(source)
    if space != "local":
        return addresses
    return addresses + warp.ir.lane_numbers(warp.layout.local, "i64")


def _store(warp: Warp, made: Instruction) -> None:
    kind = type_of(made.parts[-1])
    to, source = made.operands
    space, names = _space(warp, made), vector(source)
    addresses = _addresses(warp, space, to)
    parts = [warp.integer(name, kind.bits) for name in names]
    size = len(parts) * kind.bits // 8
    if size == 32:
        warp.fault(state.ALIGNMENT, _crooked(warp, addresses, 32))
        middle = len(parts) // 2
        _put(warp, space, addresses, parts[:middle])
        _put(warp, space, addresses + 16, parts[middle:])
    else:
        _put(warp, space, addresses, parts)


def _put(warp: Warp, space: str, addresses: Lanes, parts: list[Lanes]) -> None:
    """Store one element of each part behind the other."""
    size = len(parts) * parts[0].bits // 8
    joined = parts
    while len(joined) > 1:  # pairs of neighbours, so that every shuffle has two sources
        half = len(joined) // 2
        joined = [_interleaved(joined[k], joined[k + half]) for k in range(half)]
    values = _in_memory(warp, joined[0])
    name, text = f"scatter_{space}_{size}", routines.scatter(space, size)
    _call(warp, name, text, addresses, values, moved=_moved(space, size))


def _interleaved(a: Lanes, b: Lanes) -> Lanes:
    order = [x for k in range(a.count) for x in (k, k + a.count)]
    return a.shuffle(order, b)


# Atomics --------------------------------------------------------------------------------------

_ATOMIC = {
    ("add", "f"): "fadd", ("min", "s"): "min", ("max", "s"): "max", ("min", "u"): "umin",
    ("max", "u"): "umax",
}  # fmt: skip


def _atomic(warp: Warp, made: Instruction) -> None:
    """Atom and red: lanes one after the other, in the order of their numbers."""
    kind, space = type_of(made.parts[-1]), _space(warp, made)
    if kind.pack > 1 or kind.bits < 32 or space == "local":
        raise unsupported(warp)
    to, *operands = made.operands if made.name == "atom" else ("_", *made.operands)
    place, *sources = operands
    size = kind.bits // 8
    moved = _moved(space, size)
    values = _in_memory(warp, warp.integer(sources[0], kind.bits))
    addresses = warp.address(place)
    if made.has("cas"):
        new = warp.scratch()
        warp.ir.store(warp.integer(sources[1], kind.bits), new, 64)
        text = routines.compare_exchange(space, size)
        _call(warp, f"cas_{space}_{size}", text, addresses, values, new, moved=moved)
    else:
        word = next(
            (x for x in ("add", "min", "max", "and", "or", "xor", "exch") if made.has(x)), None
        )
        if word is None or (kind.is_float and word not in ("add", "exch")):
            raise unsupported(warp)
        operation = "xchg" if word == "exch" else _ATOMIC.get((word, kind.letter), word)
        element = FLOAT[kind.bits] if operation == "fadd" else INTEGER[kind.bits]
        name, text = (
            f"atomic_{operation}_{space}_{element}",
            routines.atomic(space, operation, element, size),
        )
        _call(warp, name, text, addresses, values, moved=moved)
    warp.write(to, warp.ir.load(INTEGER[kind.bits], WARP, values, 64))


# Copies and hints -----------------------------------------------------------------------------


def _copy(warp: Warp, made: Instruction) -> None:
    """cp.async: what is to be shared comes from global memory; its groups are always done."""
    if any(made.has(x) for x in ("commit_group", "wait_group", "wait_all")):
        return
    if made.has("bulk") or len(made.operands) != 3:
        raise unsupported(warp)
    to, source, count = made.operands
    size = int(count)
    loaded = fetch(warp, "global", warp.address(source), size, f"i{8 * size}", WARP)
    values = _in_memory(warp, loaded)
    text = routines.scatter("shared", size)
    _call(warp, f"scatter_shared_{size}", text, warp.address(to), values)


def _fence(warp: Warp, made: Instruction) -> None:
    del made
    warp.ir.emit("fence seq_cst")


def _nothing(warp: Warp, made: Instruction) -> None:
    del warp, made


HANDLERS: dict[str, Callable[[Warp, Instruction], None]] = {
    "ld": _load, "st": _store, "atom": _atomic, "red": _atomic, "cp": _copy,
    "membar": _fence, "fence": _fence, "prefetch": _nothing,
}  # fmt: skip
