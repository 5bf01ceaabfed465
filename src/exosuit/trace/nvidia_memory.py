"""What bytes in an NVIDIA card's memory, or in the host's that it reads, are: known by themselves.

RPC records of the message queues by their signature, GPFIFO entries and QMDs by the fields that
must hold, pushbuffers because they come apart into methods with names to the last dword. What is
none of these is not explained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from math import prod

from exosuit.silicon.nvidia import fsp, gsp, gsp_controls, rm_controls, rpc
from exosuit.silicon.nvidia.classes import (
    ComputeClass,
    CopyClass,
    GpfifoClass,
    ObjectClass,
    UsermodeClass,
)
from exosuit.silicon.nvidia.compute import QMD_SHIFT, Compute
from exosuit.silicon.nvidia.copy import Copy
from exosuit.silicon.nvidia.paging import PAGE, TABLE_BYTES, Format
from exosuit.silicon.nvidia.push import (
    COMPUTE,
    COPY,
    ENTRY_BYTES,
    FIRST_ENGINE_METHOD,
    GpEntry,
    Host,
    Malformed,
    MethodWrite,
    SemExecute,
    SetObject,
    read_methods,
)
from exosuit.silicon.nvidia.qmd import Qmd, QmdType
from exosuit.silicon.nvidia.rm import status_name
from exosuit.trace.registers import RegisterNames

SHOWN_METHODS, SHOWN_ENTRIES = 12, 4
MOST_PUSHBUFFER_BYTES = 1 << 20
MOST_ENTRIES_BYTES = 1 << 12
MOST_LANES = 1024
LEAST_PAGES = 8
_ENGINES = {COMPUTE: RegisterNames((Compute, 0, "")), COPY: RegisterNames((Copy, 0, ""))}
_HOST = RegisterNames((Host, 0, ""))
_CLASSES = (ComputeClass, CopyClass, GpfifoClass, UsermodeClass, ObjectClass)
_HALVES = ("_UPPER", "_LOWER", "_LO", "_HI", "_A", "_B", "_C")
"""Methods that only prepare another one and are left out of a line."""


def explain(data: bytes, qmd: type[Qmd], pages: Format) -> str:
    """What these bytes are, or nothing; `qmd` and `pages` are the layouts that the chip takes."""
    return (
        _record(data)
        or _boot_structure(data)
        or _grids(data, qmd)
        or _entries(data)
        or _page_entries(data, pages)
        or _pushbuffer(data)
    )


# GSP ---------------------------------------------------------------------------------------------


def queue_header(data: bytes) -> gsp.QueueHeader | None:
    """The header of a message queue, as its writer begins it."""
    if len(data) < gsp.QueueHeader.SIZE:
        return None
    head = gsp.QueueHeader(data)
    shape = (head.size, head.element_size, head.element_count)
    return head if shape == (gsp.QUEUE_BYTES, gsp.ELEMENT_BYTES, gsp.QUEUE_ELEMENTS) else None


def class_name(number: int) -> str:
    """`AMPERE_COMPUTE`-like words for a class, or its number."""
    for family in _CLASSES:
        try:
            kind = family(number)
        except ValueError:
            continue
        prefix = "" if family is ObjectClass else family.__name__.removesuffix("Class") + " "
        return f"{prefix}{kind.name}"
    return f"class {number:#06x}"


def control_name(command: int) -> str:
    """The name that `silicon` has for a control, or its number."""
    return _controls().get(command, f"{command:#010x}")


@cache
def _controls() -> dict[int, str]:
    found: dict[int, str] = {}
    for name, kind in vars(rm_controls).items():
        if isinstance(kind, type) and issubclass(kind, rm_controls.Control) and kind.COMMAND:
            best = found.get(kind.COMMAND, name)
            found[kind.COMMAND] = min(best, name, key=len)
    return found | {int(control): control.name for control in gsp_controls.GspControl}


def _record(data: bytes) -> str:
    """An RPC record in its element."""
    if len(data) < rpc.Header.SIZE:
        return ""
    header = rpc.Header(data)
    record = header.record
    if record.signature != rpc.SIGNATURE:
        return ""
    end = rpc.Element.SIZE + max(record.length, rpc.Record.SIZE)
    payload = data[rpc.Header.SIZE : end]
    name, detail = _function(record.function)
    words = f"RPC {name}" + (detail(payload) if detail else "")
    if record.result != rpc.PENDING:
        words += f"  {status_name(record.result)}"
    return f"{words}  (message {header.element.sequence}, {header.element.count} elements)"


def _function(number: int) -> tuple[str, Callable[[bytes], str] | None]:
    for kinds in (rpc.Function, rpc.Event):
        try:
            name = kinds(number).name
        except ValueError:
            continue
        return name, _DETAILS.get(number)
    return f"function {number:#x}", None


def _alloc(payload: bytes) -> str:
    if len(payload) < rpc.Alloc.SIZE:
        return ""
    made = rpc.Alloc(payload)
    return f" {class_name(made.class_id)} {made.handle:#x} in {made.parent:#x}"


def _control(payload: bytes) -> str:
    if len(payload) < rpc.Control.SIZE:
        return ""
    asked = rpc.Control(payload)
    return f" {control_name(asked.command)} of {asked.handle:#x}"


def _free(payload: bytes) -> str:
    return f" {rpc.Free(payload).handle:#x}" if len(payload) >= rpc.Free.SIZE else ""


def _page_directory(payload: bytes) -> str:
    if len(payload) < rpc.SetPageDirectory.SIZE:
        return ""
    return f" root table at {rpc.SetPageDirectory(payload).address:#x}"


def _registry(payload: bytes) -> str:
    try:
        values = rpc.unpack_registry(payload)
    except ValueError:
        return ""
    return "".join(f" {name}={value:#x}" for name, value in values.items())


def _error_log(payload: bytes) -> str:
    if len(payload) < rpc.ErrorLog.SIZE:
        return ""
    told = rpc.ErrorLog(payload)
    return f" Xid {told.xid}: {told.text.partition(bytes(1))[0].decode('utf-8', 'replace')}"


def _stopped_channel(payload: bytes) -> str:
    if len(payload) < rpc.RcTriggered.SIZE:
        return ""
    told = rpc.RcTriggered(payload)
    return f" channel {told.channel} stopped, Xid {told.xid}"


def _sequencer(payload: bytes) -> str:
    if len(payload) < rpc.RunSequencer.SIZE:
        return ""
    return f" {rpc.RunSequencer(payload).command_dwords} dwords of commands"


_DETAILS: dict[int, Callable[[bytes], str]] = {
    rpc.Function.GSP_RM_ALLOC: _alloc,
    rpc.Function.GSP_RM_CONTROL: _control,
    rpc.Function.FREE: _free,
    rpc.Function.SET_PAGE_DIRECTORY: _page_directory,
    rpc.Function.SET_REGISTRY: _registry,
    rpc.Event.OS_ERROR_LOG: _error_log,
    rpc.Event.RC_TRIGGERED: _stopped_channel,
    rpc.Event.GSP_RUN_CPU_SEQUENCER: _sequencer,
}


def _boot_structure(data: bytes) -> str:
    """WPR meta and libos arguments, which say themselves what they are; a queue's header."""
    if head := queue_header(data):
        return f"message queue of {head.element_count} elements, write pointer {head.write_pointer}"
    if len(data) >= gsp.WprMeta.SIZE and (meta := gsp.WprMeta(data)).magic == gsp.WPR_MAGIC:
        verified = ", verified" if meta.verified == gsp.WPR_VERIFIED else ""
        return (
            f"WPR meta  image {meta.radix3_size:#x} bytes, WPR2 {meta.wpr_start:#x} to"
            f" {meta.wpr_end:#x}, heap {meta.heap_size:#x}{verified}"
        )
    names: list[str] = []
    known = {gsp.libos_id(name): name for name in (*gsp.LOGS, gsp.ARGUMENTS)}
    for at in range(0, len(data) - gsp.LibosRegion.SIZE + 1, gsp.LibosRegion.SIZE):
        region = gsp.LibosRegion(data, at)
        if region.id not in known:
            break
        names.append(known[region.id])
    return f"libos arguments  {' '.join(names)}" if names else ""


def fsp_message(data: bytes) -> str:
    """A message to the FSP, or its answer."""
    if len(data) < 8:
        return ""
    kind = fsp.Nvdm(int.from_bytes(data[4:8], "little"))
    if kind.kind != fsp.MCTP_VENDOR:
        return ""
    try:
        name = fsp.NvdmType(kind.type).name
    except ValueError:
        name = f"type {kind.type:#x}"
    return f"NVDM {name}, {len(data)} bytes"


# Page tables -------------------------------------------------------------------------------------


def _page_entries(data: bytes, pages: Format) -> str:
    """Entries of one table that map pages alike, in equal steps."""
    if len(data) % 8 or not LEAST_PAGES * 8 <= len(data) <= TABLE_BYTES:
        return ""
    numbers = memoryview(data).cast("Q")
    first, step = pages.pte(numbers[0]), numbers[1] - numbers[0]
    steps = {after - before for before, after in pairwise(numbers)}
    if not first.valid or step <= 0 or steps != {step} or step % int(pages.pte(0).replace(frame=1)):
        return ""
    apart = pages.pte(step).frame * PAGE
    return (
        f"pages  {len(numbers)} entries, {first.aperture.name} from {first.frame * PAGE:#x},"
        f" {apart:#x} apart"
    )


# Channels ----------------------------------------------------------------------------------------


def gpfifo_entries(data: bytes) -> list[GpEntry]:
    """The entries of a ring that these bytes are, or none."""
    if not data or len(data) % ENTRY_BYTES or len(data) > MOST_ENTRIES_BYTES:
        return []
    found = [
        GpEntry(int.from_bytes(data[at : at + ENTRY_BYTES], "little"))
        for at in range(0, len(data), ENTRY_BYTES)
    ]
    known = all(e == GpEntry(get=e.get, level=True, length=e.length, sync=e.sync) for e in found)
    return found if known and all(e.length and e.get for e in found) else []


def tell_entries(entries: Sequence[GpEntry]) -> str:
    """What the first of these entries name."""
    shown = ", ".join(f"{e.length} dwords at {e.get << 2:#x}" for e in entries[:SHOWN_ENTRIES])
    more = len(entries) - SHOWN_ENTRIES
    return f"{shown} and {more} more" if more > 0 else shown


def _entries(data: bytes) -> str:
    found = gpfifo_entries(data)
    return f"GPFIFO  {tell_entries(found)}" if found else ""


def _pushbuffer(data: bytes) -> str:
    """Names of the methods that these bytes write, or nothing."""
    if len(data) % 4 or not 8 <= len(data) <= MOST_PUSHBUFFER_BYTES or not any(data[:4]):
        return ""
    try:
        written = list(read_methods(data))
    except (Malformed, ValueError):
        return ""
    names = [_method(write) for write in written]
    if not names or not all(names):
        return ""
    acts = [name for name in names if not _is_half(name)] or names
    shown = [name for k, name in enumerate(acts) if k == 0 or acts[k - 1] != name]
    more = f" and {len(shown) - SHOWN_METHODS} more" if len(shown) > SHOWN_METHODS else ""
    return "methods  " + " · ".join(shown[:SHOWN_METHODS]) + more


def _is_half(name: str) -> bool:
    return name.endswith(_HALVES) and " " not in name and not name.startswith("SEND_")


def _method(write: MethodWrite) -> str:
    """A method in words, or nothing if its engine has none of that address."""
    names = _HOST if write.method < FIRST_ENGINE_METHOD else _ENGINES.get(write.subchannel)
    name = names.name(write.method) if names else ""
    match name:
        case "SET_OBJECT":
            return f"{name} {class_name(SetObject(write.value).class_id)}"
        case "SEND_PCAS_A":
            return f"{name} QMD at {write.value << QMD_SHIFT:#x}"
        case "SEM_EXECUTE":
            return f"{name} {SemExecute(write.value).explain()}"
        case _:
            return name


def _grids(data: bytes, kind: type[Qmd]) -> str:
    """The first of one or several QMDs, which lie 256 or 512 bytes apart."""
    size = kind.WIDTH // 8
    if len(data) < size or (len(data) > size and len(data) % 256):
        return ""
    first = kind.decode(data[:size])
    is_grid = first.raw("qmd_major_version") == kind.MAJOR and not first.raw("qmd_minor_version")
    if "qmd_type" in kind.FIELDS:
        is_grid = is_grid and first.raw("qmd_type") == QmdType.GRID_CTA
    grid = first.grid()
    if not (is_grid and prod(grid.groups) and 0 < prod(grid.lanes) <= MOST_LANES):
        return ""
    groups, lanes = ("x".join(map(str, shape)) for shape in (grid.groups, grid.lanes))
    words = f"QMD  {groups} groups of {lanes}, program at {grid.program:#x}"
    if grid.shared_bytes:
        words += f", {grid.shared_bytes} bytes shared"
    words += "".join(f", releases {r.payload:#x} to {r.address:#x}" for r in grid.releases)
    if grid.dependent is not None:
        words += f", then the QMD at {grid.dependent:#x}"
    return words
