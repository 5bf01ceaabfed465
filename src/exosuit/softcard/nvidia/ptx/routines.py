"""Functions of the model that a program's module contains where it needs them, as LLVM IR.

A lane's memory access goes through `translate`, which finds the window of the address by halves,
checks size and alignment and notes the first fault; a lane that fails reads zeros and writes
nothing. Vectors of addresses and values are passed in memory, one element per lane.
"""

from __future__ import annotations

from exosuit.softcard.nvidia.ptx import state
from exosuit.softcard.nvidia.ptx.state import WARP

SIZES = (1, 2, 4, 8, 16)

_NOTE = f"""
define internal void @note_fault(ptr %state, i64 %kind, i64 %address) {{
  %fault.p = getelementptr i8, ptr %state, i64 {state.FAULT}
  %before = load i64, ptr %fault.p, align 8
  %none = icmp eq i64 %before, 0
  br i1 %none, label %note, label %done
note:
  store i64 %kind, ptr %fault.p, align 8
  %address.p = getelementptr i8, ptr %state, i64 {state.FAULT_ADDRESS}
  store i64 %address, ptr %address.p, align 8
  %line.p = getelementptr i8, ptr %state, i64 {state.LINE}
  %line = load i32, ptr %line.p, align 4
  %to.p = getelementptr i8, ptr %state, i64 {state.FAULT_LINE}
  store i32 %line, ptr %to.p, align 4
  ret void
done:
  ret void
}}
"""

_FIND_GLOBAL = f"""
define internal ptr @find_global(ptr %state, i64 %address, i64 %size) {{
  %first.p = getelementptr i8, ptr %state, i64 {state.WINDOWS}
  %first = load ptr, ptr %first.p, align 8
  %count.p = getelementptr i8, ptr %state, i64 {state.WINDOW_COUNT}
  %count = load i64, ptr %count.p, align 8
  br label %next
next:
  %low = phi i64 [ 0, %0 ], [ %low.next, %halve ]
  %high = phi i64 [ %count, %0 ], [ %high.next, %halve ]
  %more = icmp ult i64 %low, %high
  br i1 %more, label %look, label %lost
look:
  %sum = add i64 %low, %high
  %k = lshr i64 %sum, 1
  %window = getelementptr [3 x i64], ptr %first, i64 %k
  %start = load i64, ptr %window, align 8
  %bytes.p = getelementptr i64, ptr %window, i64 1
  %bytes = load i64, ptr %bytes.p, align 8
  %offset = sub i64 %address, %start
  %end = add i64 %offset, %size
  %inside = icmp ult i64 %offset, %bytes
  br i1 %inside, label %here, label %halve
halve:
  %below = icmp ult i64 %address, %start
  %k.next = add i64 %k, 1
  %low.next = select i1 %below, i64 %low, i64 %k.next
  %high.next = select i1 %below, i64 %k, i64 %high
  br label %next
here:
  %fits = icmp ule i64 %end, %bytes
  br i1 %fits, label %found, label %lost
found:
  %host.p = getelementptr i64, ptr %window, i64 2
  %host = load ptr, ptr %host.p, align 8
  %place = getelementptr i8, ptr %host, i64 %offset
  ret ptr %place
lost:
  ret ptr null
}}
"""

_TRANSLATE_GLOBAL = f"""{_FIND_GLOBAL}
define internal ptr @translate_global(ptr %state, i64 %address, i64 %size, i64 %align) {{
  %mask = sub i64 %align, 1
  %low = and i64 %address, %mask
  %aligned = icmp eq i64 %low, 0
  br i1 %aligned, label %search, label %crooked
crooked:
  call void @note_fault(ptr %state, i64 {state.ALIGNMENT}, i64 %address)
  ret ptr null
search:
  %place = call ptr @find_global(ptr %state, i64 %address, i64 %size)
  %nowhere = icmp eq ptr %place, null
  br i1 %nowhere, label %lost, label %found
found:
  ret ptr %place
lost:
  call void @note_fault(ptr %state, i64 {state.MEMORY}, i64 %address)
  ret ptr null
}}
"""


def _translate_own(space: str, base: int, size: int, kind: int) -> str:
    """Of memory that a group or a warp has for itself: offsets from 0."""
    return f"""
define internal ptr @translate_{space}(ptr %state, i64 %address, i64 %size, i64 %align) {{
  %mask = sub i64 %align, 1
  %low = and i64 %address, %mask
  %aligned = icmp eq i64 %low, 0
  br i1 %aligned, label %look, label %crooked
crooked:
  call void @note_fault(ptr %state, i64 {state.ALIGNMENT}, i64 %address)
  ret ptr null
look:
  %bytes.p = getelementptr i8, ptr %state, i64 {size}
  %bytes = load i64, ptr %bytes.p, align 8
  %end = add i64 %address, %size
  %inside = icmp ult i64 %address, %bytes
  %fits = icmp ule i64 %end, %bytes
  %good = and i1 %inside, %fits
  br i1 %good, label %found, label %lost
found:
  %base.p = getelementptr i8, ptr %state, i64 {base}
  %base = load ptr, ptr %base.p, align 8
  %place = getelementptr i8, ptr %base, i64 %address
  ret ptr %place
lost:
  call void @note_fault(ptr %state, i64 {kind}, i64 %address)
  ret ptr null
}}
"""


SPACES = {
    "global": _TRANSLATE_GLOBAL,
    "shared": _translate_own("shared", state.SHARED, state.SHARED_BYTES, state.SHARED_MEMORY),
    "local": _translate_own("local", state.LOCAL, state.LOCAL_BYTES, state.MEMORY),
}


def _each_lane(name: str, extra: str, space: str, size: int, body: str) -> str:
    """A function that does `body` with %place of every lane in %mask whose address is good."""
    return f"""
define internal void @{name}(ptr %state, ptr %addresses, ptr %values, i32 %mask{extra}) {{
entry:
  br label %next
next:
  %left = phi i32 [ %mask, %entry ], [ %rest, %lane.done ]
  %any = icmp ne i32 %left, 0
  br i1 %any, label %lane.begin, label %done
lane.begin:
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %less = sub i32 %left, 1
  %rest = and i32 %left, %less
  %address.p = getelementptr i64, ptr %addresses, i32 %lane
  %address = load i64, ptr %address.p, align 8
  %place = call ptr @translate_{space}(ptr %state, i64 %address, i64 {size}, i64 {size})
  %bad = icmp eq ptr %place, null
  %value.p = getelementptr [{size} x i8], ptr %values, i32 %lane
  br i1 %bad, label %lane.done, label %lane.work
lane.work:
{body}
  br label %lane.done
lane.done:
  br label %next
done:
  ret void
}}
"""


def gather(space: str, size: int) -> str:
    """`gather_SPACE_SIZE(state, addresses, values, mask)`.

    One copy where all lanes are on and their addresses follow each other.
    """
    kind = f"i{8 * size}"
    name = f"gather_{space}_{size}"
    load = f"  %loaded = load {kind}, ptr %place, align {size}\n"
    each = _each_lane(
        f"{name}_each", "", space, size,
        load + f"  store {kind} %loaded, ptr %value.p, align {size}",
    )  # fmt: skip
    ramp = ", ".join(f"i64 {k * size}" for k in range(WARP))
    whole = WARP * size
    # What lies across two windows is no fault: then every lane looks for itself.
    if space == "global":
        place = f"call ptr @find_global(ptr %state, i64 %first, i64 {whole})"
    else:
        place = f"call ptr @translate_{space}(ptr %state, i64 %first, i64 {whole}, i64 {size})"
    return (
        each
        + f"""
define internal void @{name}(ptr %state, ptr %addresses, ptr %values, i32 %mask) {{
entry:
  %full = icmp eq i32 %mask, -1
  br i1 %full, label %look, label %each
look:
  %all = load <{WARP} x i64>, ptr %addresses, align 64
  %first = load i64, ptr %addresses, align 64
  %one = insertelement <{WARP} x i64> poison, i64 %first, i64 0
  %same = shufflevector <{WARP} x i64> %one, <{WARP} x i64> poison, <{WARP} x i32> zeroinitializer
  %row = add <{WARP} x i64> %same, <{ramp}>
  %differ = icmp ne <{WARP} x i64> %all, %row
  %bits = bitcast <{WARP} x i1> %differ to i32
  %neighbours = icmp eq i32 %bits, 0
  %low = and i64 %first, {size - 1}
  %aligned = icmp eq i64 %low, 0
  %good = and i1 %neighbours, %aligned
  br i1 %good, label %whole, label %each
whole:
  %place = {place}
  %bad = icmp eq ptr %place, null
  br i1 %bad, label %{"each" if space == "global" else "done"}, label %copy
copy:
  %data = load <{whole} x i8>, ptr %place, align {size}
  store <{whole} x i8> %data, ptr %values, align 64
  br label %done
each:
  call void @{name}_each(ptr %state, ptr %addresses, ptr %values, i32 %mask)
  br label %done
done:
  ret void
}}
"""
    )


def scatter(space: str, size: int) -> str:
    """`scatter_SPACE_SIZE(state, addresses, values, mask)`; of two lanes the later one wins."""
    kind = f"i{8 * size}"
    body = (
        f"  %stored = load {kind}, ptr %value.p, align {size}\n"
        f"  store {kind} %stored, ptr %place, align {size}"
    )
    return _each_lane(f"scatter_{space}_{size}", "", space, size, body)


def atomic(space: str, operation: str, kind: str, size: int) -> str:
    """`atomic_...(state, addresses, values, mask)`: what was there replaces the values."""
    body = (
        f"  %operand = load {kind}, ptr %value.p, align {size}\n"
        f"  %old = atomicrmw {operation} ptr %place, {kind} %operand monotonic, align {size}\n"
        f"  store {kind} %old, ptr %value.p, align {size}"
    )
    return _each_lane(f"atomic_{operation}_{space}_{kind}", "", space, size, body)


def compare_exchange(space: str, size: int) -> str:
    """`cas_...(state, addresses, values, mask, new)`: values are compared, then what was there."""
    kind = f"i{8 * size}"
    body = (
        f"  %expected = load {kind}, ptr %value.p, align {size}\n"
        f"  %new.p = getelementptr {kind}, ptr %new, i32 %lane\n"
        f"  %wanted = load {kind}, ptr %new.p, align {size}\n"
        f"  %pair = cmpxchg ptr %place, {kind} %expected, {kind} %wanted monotonic monotonic\n"
        f"  %old = extractvalue {{ {kind}, i1 }} %pair, 0\n"
        f"  store {kind} %old, ptr %value.p, align {size}"
    )
    return _each_lane(f"cas_{space}_{size}", ", ptr %new", space, size, body)


def module_text(used: dict[str, str]) -> str:
    """The routines with these names and texts, and what they call."""
    if not used:
        return ""
    spaces = [text for space, text in SPACES.items() if any(f"_{space}" in name for name in used)]
    return "\n".join([_NOTE, *spaces, *used.values()])
