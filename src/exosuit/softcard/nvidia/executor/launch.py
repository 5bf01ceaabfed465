"""One grid: from its QMD over bank 0 and the program to its releases.

What the scheduler of grids would refuse stops the channel. What the real part would not notice, but
would do wrong (dimensions in bank 0 that are not the grid's, a cache that nobody invalidated) is
refused like everything a driver should not do.

Programs are stand-ins for machine code (`softcard.nvidia.image`): PTX is what runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from exosuit.silicon.nvidia.bank import STACK_RESERVED, STACK_TOP, Bank0, bank0
from exosuit.silicon.nvidia.compute import WINDOW_BYTES
from exosuit.silicon.nvidia.exceptions import WarpError
from exosuit.silicon.nvidia.grid import Grid, Release, StructureSize
from exosuit.silicon.nvidia.limits import (
    MOST_GROUPS_X,
    MOST_LANES,
    MOST_REGISTERS,
    SHARED_GRANULE,
    SYSTEM_SHARED,
    local_bytes,
    local_tpc_bytes,
    most_lanes,
    sass_version,
)
from exosuit.silicon.nvidia.qmd import ALIGNMENT, MembarType, Qmd, QmdType, layout
from exosuit.softcard.nvidia.executor.caches import Caches
from exosuit.softcard.nvidia.executor.faults import (
    Engine,
    LaunchFault,
    MmuFault,
    Stopped,
    WarpFault,
)
from exosuit.softcard.nvidia.executor.memory import GpuMemory
from exosuit.softcard.nvidia.executor.shape import Shape
from exosuit.softcard.nvidia.image import MOST_CODE, find_program
from exosuit.softcard.nvidia.ptx.faults import PtxFault
from exosuit.softcard.nvidia.ptx.grid import Cost, Function, Model
from exosuit.softcard.registers import Refuse
from exosuit.softcard.timeline import Timeline
from exosuit.units import KiB

LAUNCH_NS = 1_500.0
"""What a grid takes beyond its work; `assumed`, as for AMD's."""
LANES_PER_SM = 128
"""FP32 lanes."""
PAGE = 4096
_MOST_DEPTH = 64
_WARP_ERRORS = {
    "alignment": WarpError.MISALIGNED_ADDRESS,
    "shared memory": WarpError.OUT_OF_RANGE_ADDRESS,
    "diverged": WarpError.DIVERGENT,
}


@dataclass(frozen=True)
class Settings:
    """What methods of the channel have set when a grid begins."""

    local_base: int
    local_tpc_bytes: int
    local_window: int
    shared_window: int


@dataclass(frozen=True)
class _Work:
    """A QMD, understood. `why_not` is what is wrong with it by itself."""

    grid: Grid
    why_not: str
    notes: tuple[str, ...]
    invalidates_code: bool
    invalidates_data: bool
    invalidates_constants: bool


class Launcher:
    """Grids of one channel.

    model  runs PTX; one for all channels of a card
    fails  whether the next program is to fail, by the schedule of faults
    """

    def __init__(
        self,
        channel: int,
        compute_class: int,
        memory: GpuMemory,
        shape: Shape,
        model: Model,
        timeline: Timeline,
        caches: Caches,
        refuse: Refuse,
        fails: Callable[[], bool],
    ) -> None:
        self._channel = channel
        self._class = compute_class
        self._layout = layout(compute_class)
        self._memory = memory
        self._shape = shape
        self._model = model
        self._timeline = timeline
        self._caches = caches
        self._refuse = refuse
        self._fails = fails
        self._works: dict[bytes, _Work] = {}
        self._lengths: dict[int, int] = {}

    def run(self, address: int, settings: Settings) -> int | None:
        """Run the grid of the QMD at `address`; the QMD that it schedules. Raises Stopped."""
        work = self._work(self._memory.read(address, self._layout.WIDTH // 8))
        if work.why_not:
            raise self._stopped(address, work.why_not)
        for note in work.notes:
            self._refuse(f"the QMD at {address:#x}: {note}")
        grid = work.grid
        self._caches.invalidate(
            code=work.invalidates_code,
            data=work.invalidates_data,
            constants=work.invalidates_constants,
        )
        try:
            function = self._program(grid.program)
            arguments = self._bank0(address, grid, function, settings)
            self._check_resources(address, grid, function, settings)
            self._caches.expect_fresh()
            cost = self._execute(grid, function, arguments, settings)
        except PtxFault as fault:
            raise self._warp_fault(fault, address) from fault
        self._caches.others_wrote()
        self._timeline.spend(self._cost_ns(cost))
        for release in grid.releases:
            self._release(address, release)
        return grid.dependent

    # The descriptor by itself.

    def _work(self, data: bytes) -> _Work:
        known = self._works.get(data)
        if known is None:
            qmd = self._layout(int.from_bytes(data, "little"))
            known = _Work(
                qmd.grid(),
                next(self._faults(qmd), ""),
                tuple(self._oddities(qmd)),
                bool(qmd.raw("invalidate_instruction_cache")),
                bool(qmd.raw("invalidate_shader_data_cache")),
                bool(qmd.raw("invalidate_shader_constant_cache")),
            )
            self._works[data] = known
            if len(self._works) > 4096:
                self._works.pop(next(iter(self._works)))
        return known

    def _faults(self, qmd: Qmd) -> Iterator[str]:
        """What the scheduler refuses."""
        version = qmd.raw("qmd_major_version")
        if version != self._layout.MAJOR:
            yield f"version {version}, where class {self._class:#06x} takes {self._layout.MAJOR}"
        if "qmd_type" in qmd.FIELDS:
            kind = qmd.raw("qmd_type")
            # Mesa leaves Hopper's type at QUEUE, so nobody knows that it must not be.
            allowed = (QmdType.GRID_CTA, QmdType.QUEUE)[: 2 if self._layout.MAJOR == 4 else 1]
            if kind not in allowed:
                yield f"type {kind}, which is no grid"
        grid = qmd.grid()
        if not (
            1 <= grid.groups[0] <= MOST_GROUPS_X and all(1 <= n <= 0xFFFF for n in grid.groups[1:])
        ):
            yield f"{grid.groups} groups"
        lanes = math.prod(grid.lanes)
        if min(grid.lanes) < 1 or lanes > MOST_LANES or grid.lanes[2] > _MOST_DEPTH:
            yield f"groups of {grid.lanes} lanes"
        if not 1 <= grid.registers <= MOST_REGISTERS:
            yield f"{grid.registers} registers"
        if lanes > most_lanes(grid.registers):
            yield f"{lanes} lanes of {grid.registers} registers are more than an SM has"
        if grid.program % 16:
            yield f"a program at {grid.program:#x}, no multiple of 16"
        yield from self._shared_faults(grid)

    def _shared_faults(self, grid: Grid) -> Iterator[str]:
        limits = self._shape.limits
        if grid.shared_bytes > limits.most_shared:
            yield f"{grid.shared_bytes} bytes of shared memory, of {limits.most_shared}"
        if grid.shared_bytes % SHARED_GRANULE:
            yield f"{grid.shared_bytes} bytes of shared memory, no multiple of {SHARED_GRANULE}"
        least, wanted, most = grid.shared_configs
        for name, config in (("least", least), ("wanted", wanted), ("most", most)):
            if config not in limits.shared_configs:
                yield f"a {name} division of {config} KiB of shared memory, which there is not"
        if not least <= wanted <= most:
            yield f"divisions of shared memory {least}, {wanted}, {most} KiB, not in order"
        if grid.shared_bytes > least * KiB:
            yield f"{grid.shared_bytes} bytes of shared memory in a division of {least} KiB"

    def _oddities(self, qmd: Qmd) -> Iterator[str]:
        """What the real part would take, and somebody would regret."""
        grid = qmd.grid()
        version = sass_version(self._shape.sm_version)
        if grid.sass_version != version:
            yield f"SASS version {grid.sass_version:#x} on a chip of {version:#x}"
        if qmd.raw("program_prefetch_size"):
            ahead = qmd.raw("program_prefetch_addr_shifted")
            if ahead != grid.program >> 8:
                yield f"a prefetch at {ahead << 8:#x} for the program at {grid.program:#x}"
        membar = qmd.raw("cwd_membar_type")
        if grid.releases and membar != MembarType.L1_SYSMEMBAR:
            yield "a release that nothing makes wait for the grid's writes to the system"
        if grid.dependent is not None and membar == MembarType.L1_NONE:
            yield "a dependent QMD without a barrier behind this one's writes"
        if grid.dependent is not None and grid.dependent == 0:
            yield "a dependent QMD at 0"
        for number, bank in grid.banks.items():
            if bank.address % (ALIGNMENT if self._layout.MAJOR == 3 else 64):
                yield f"constant bank {number} at {bank.address:#x}, which is not aligned"

    # The program and what it is given.

    def _program(self, address: int) -> Function:
        if self._fails():
            raise PtxFault("instruction", "by the schedule of faults")
        code = self._code(address)
        self._caches.fetch_code(address, code)
        text, entry = find_program(code)
        found = self._model.load(text).get(entry)
        if found is None:
            raise PtxFault("syntax", f"the text has no kernel {entry}")
        return found

    def _code(self, address: int) -> bytes:
        """Up to the NUL at its end."""
        length = self._lengths.get(address)
        if length is not None:
            known = self._memory.read(address, length)
            if known.endswith(b"\0"):
                return known
        found = bytearray()
        while b"\0" not in found[-PAGE:] and len(found) < MOST_CODE:
            at = address + len(found)
            found += self._memory.read(at, PAGE - at % PAGE)
        end = found.find(b"\0")
        code = bytes(found if end < 0 else found[: end + 1])
        self._lengths[address] = len(code)
        return code

    def _bank0(self, address: int, grid: Grid, function: Function, settings: Settings) -> bytes:
        """The kernel's arguments, out of bank 0; what else the driver must put there is checked.

        Of a bank only what programs read matters: it may say that it is larger than it is.
        """
        bank = grid.banks.get(0)
        kind, entry = bank0(self._shape.sm), function.entry
        size = kind.ARGUMENTS + entry.parameter_bytes
        if bank is None or bank.size < size:
            have = 0 if bank is None else bank.size
            raise self._stopped(address, f"constant bank 0 of {have} bytes for {size}")
        content = self._memory.read(bank.address, size)
        self._caches.fetch_constants(bank.address, content, bank.invalidate)
        self._check_words(address, grid, kind(bytearray(content[: kind.ARGUMENTS])), settings)
        return content[kind.ARGUMENTS :]

    def _check_words(self, address: int, grid: Grid, words: Bank0, settings: Settings) -> None:
        expected = {
            "block": ((words.block_x, words.block_y, words.block_z), grid.lanes),
            "grid": ((words.grid_x, words.grid_y, words.grid_z), grid.groups),
            "shared window": (words.shared_window, settings.shared_window),
            "local window": (words.local_window, settings.local_window),
        }
        if grid.local_bytes:
            expected["stack pointer"] = words.stack_pointer, STACK_TOP
        for name, (have, want) in expected.items():
            if have != want:
                self._refuse(
                    f"the QMD at {address:#x}: bank 0 says {name} {_shown(have)}, "
                    f"where {_shown(want)} was set"
                )

    def _check_resources(
        self, address: int, grid: Grid, function: Function, settings: Settings
    ) -> None:
        entry, shape = function.entry, self._shape
        needed = entry.shared_bytes + SYSTEM_SHARED
        if entry.shared_bytes and grid.shared_bytes < needed:
            raise self._stopped(
                address, f"{grid.shared_bytes} bytes of shared memory for {entry.name}'s {needed}"
            )
        if entry.has_barrier and not grid.barriers:
            raise self._stopped(address, f"no barrier for {entry.name}, which has one")
        if entry.local_bytes and grid.local_bytes < entry.local_bytes + STACK_RESERVED:
            raise self._stopped(
                address,
                f"{grid.local_bytes} bytes of scratch for {entry.name}'s {entry.local_bytes}, "
                f"and {STACK_RESERVED} of the system's",
            )
        if not grid.local_bytes:
            return
        tpc = local_tpc_bytes(grid.local_bytes, shape.limits.warps, shape.sms_per_tpc)
        if settings.local_tpc_bytes < tpc:
            raise self._stopped(
                address,
                f"scratch of {grid.local_bytes} bytes a lane, {tpc} a TPC, where the channel has "
                f"{settings.local_tpc_bytes}",
            )
        whole = local_bytes(settings.local_tpc_bytes, shape.tpcs_per_gpc, shape.gpcs)
        self._memory.read(settings.local_base, 1)
        self._memory.read(settings.local_base + whole - 1, 1)

    def _execute(
        self, grid: Grid, function: Function, arguments: bytes, settings: Settings
    ) -> Cost:
        windows = self._memory.windows()
        if windows is not self._model.windows:
            self._model.windows = windows
            for name, base in (
                ("local", settings.local_window),
                ("shared", settings.shared_window),
            ):
                end = base + WINDOW_BYTES
                if any(w.start < end and base < w.start + w.size_bytes for w in windows):
                    self._refuse(f"memory mapped in the window of {name} memory at {base:#x}")
        static = function.entry.shared_bytes
        dynamic = max(grid.shared_bytes - SYSTEM_SHARED - static, 0)
        return self._model.run(function, grid.groups, grid.lanes, arguments, dynamic)

    # The end.

    def _release(self, address: int, release: Release) -> None:
        payload = release.payload if release.is_wide else release.payload & 0xFFFF_FFFF
        data = payload.to_bytes(8, "little")
        if release.size == StructureSize.FOUR_WORDS:
            data += int(self._timeline.now_ns).to_bytes(8, "little")
        elif release.size == StructureSize.ONE_WORD:
            data = data[:4]
        if release.address % len(data):
            raise self._stopped(
                address, f"a release of {len(data)} bytes at {release.address:#x}, not aligned"
            )
        if self._memory.host_bytes(release.address, len(data)):
            self._timeline.write_host(len(data))
        self._memory.write(release.address, data)

    def _cost_ns(self, cost: Cost) -> float:
        shape = self._shape
        lanes_per_ns = shape.sm_count * LANES_PER_SM * shape.clock_mhz / 1e3
        return LAUNCH_NS + max(
            cost.lane_instructions / lanes_per_ns, cost.memory_bytes / shape.bandwidth * 1e9
        )

    def _stopped(self, address: int, why: str) -> Stopped:
        detail = f"the QMD at {address:#x}: {why}"
        return Stopped(LaunchFault(self._channel, Engine.COMPUTE, detail, address))

    def _warp_fault(self, fault: PtxFault, address: int) -> Stopped:
        engine, detail = Engine.COMPUTE, str(fault)
        match fault.kind:
            case "memory" if fault.address:
                made = MmuFault(self._channel, engine, detail, fault.address, fault.write)
            case "hang":
                return Stopped(None, detail)
            case "launch":
                return self._stopped(address, fault.detail)
            case kind:
                error = _WARP_ERRORS.get(kind, WarpError.ILLEGAL_INSTRUCTION)
                made = WarpFault(self._channel, engine, detail, error, fault.address)
        return Stopped(made)


def _shown(value: int | tuple[int, ...]) -> str:
    return hex(value) if isinstance(value, int) else "x".join(map(str, value))
