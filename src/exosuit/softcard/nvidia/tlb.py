"""One address space as the engines see it: translations that stay until they are invalidated.

What was mapped when the space was first looked at after an invalidation is what the engines know.
A page that came later is a miss: it is noted, since hardware may have kept that there was nothing.
A page that went later is still reached, as on hardware, unless the host took it away: then the card
reaches a bus address where nothing is.
"""

from __future__ import annotations

import bisect
import ctypes
from collections.abc import Callable, Sequence

from exosuit.softcard.host import HostFault
from exosuit.softcard.memory import host_address
from exosuit.softcard.nvidia.bus import Bus
from exosuit.softcard.nvidia.executor.memory import MemoryFault
from exosuit.softcard.nvidia.mmu import Place, Run, Walker
from exosuit.softcard.nvidia.ptx.grid import Window
from exosuit.softcard.registers import Refuse


class AddressSpace:
    """GPU virtual addresses below one root.

    may_fail  whether the access that is about to be made shall find nothing, by the schedule
    """

    def __init__(
        self,
        root: int,
        walker: Walker,
        bus: Bus,
        refuse: Refuse,
        may_fail: Callable[[], bool],
    ) -> None:
        self.root = root
        self._walker = walker
        self._bus = bus
        self._refuse = refuse
        self._may_fail = may_fail
        self._runs: list[Run] | None = None
        self._starts: list[int] = []
        self._windows: tuple[Window, ...] | None = None

    def invalidate(self) -> None:
        """Forget everything."""
        self._runs = self._windows = None

    def forget_host(self, view: memoryview) -> bool:
        """The host takes memory away: what is mapped there leads nowhere from now on.

        Whether something was.
        """
        found = False
        low = host_address(view)
        high = low + len(view)
        for run in self._runs or ():
            if run.place is Place.HOST and low < run.host + run.size and run.host < high:
                run.place = Place.NOWHERE
                self._windows = None
                found = True
        return found

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes. Raises MemoryFault."""
        if size == 0:
            return b""
        found = self._find(address, size, write=False)
        return b"".join(ctypes.string_at(host, length) for host, length in found)

    def write(self, address: int, data: bytes) -> None:
        """Raises MemoryFault, and then nothing is written."""
        if not data:
            return
        done = 0
        for host, length in self._find(address, len(data), write=True):
            ctypes.memmove(host, data[done : done + length], length)
            done += length

    def windows(self) -> Sequence[Window]:
        """Everything that programs may reach, joined where this process has it side by side.

        Windows do not know what is read-only.
        """
        self._load()
        if self._windows is None:
            made: list[Window] = []
            for run in self._known():
                if run.place is Place.NOWHERE:
                    continue
                last = made[-1] if made else None
                if (
                    last is not None
                    and last.start + last.size_bytes == run.start
                    and last.host + last.size_bytes == run.host
                ):
                    made[-1] = Window(last.start, last.size_bytes + run.size, last.host)
                else:
                    made.append(Window(run.start, run.size, run.host))
            self._windows = tuple(made)
        return self._windows

    def host_bytes(self, address: int, size: int) -> int:
        """How many of these bytes lie in host memory."""
        return sum(
            min(run.end, address + size) - max(run.start, address)
            for run in self._known()
            if run.place is Place.HOST and run.start < address + size and address < run.end
        )

    def physical(self, address: int) -> tuple[Place, int] | None:
        """Where the byte at an address is, and its offset or bus address; None for nothing."""
        run = self._run(address)
        return None if run is None else (run.place, run.physical + address - run.start)

    def _known(self) -> list[Run]:
        self._load()
        assert self._runs is not None
        return self._runs

    def _load(self) -> None:
        if self._runs is None:
            self._runs = self._walker.read(self.root)
            self._starts = [run.start for run in self._runs]

    def _run(self, address: int) -> Run | None:
        runs = self._known()
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0 or address >= runs[index].end:
            return None
        return runs[index]

    def _find(self, address: int, size: int, *, write: bool) -> list[tuple[int, int]]:
        if self._may_fail():
            raise MemoryFault(address, write, "nothing is mapped, says the schedule of faults")
        found: list[tuple[int, int]] = []
        while size:
            run = self._run(address)
            if run is None:
                raise MemoryFault(address, write, self._why_nothing(address))
            if write and not run.writable:
                raise MemoryFault(address, write, "read-only")
            length = min(size, run.end - address)
            offset = address - run.start
            if run.place is Place.NOWHERE:
                self._bus.panic(
                    f"{'a write' if write else 'a read'} through {address:#x} at bus address"
                    f" {run.physical + offset:#x}, where nothing is mapped"
                )
                raise MemoryFault(address, write, run.place.value)
            if run.place is Place.HOST:
                try:
                    self._bus.allow(run.physical + offset, length)
                except HostFault as fault:
                    raise MemoryFault(address, write, "the host refuses it") from fault
            found.append((run.host + offset, length))
            address, size = address + length, size - length
        return found

    def _why_nothing(self, address: int) -> str:
        fresh = self._walker.read(self.root)
        if any(run.start <= address < run.end for run in fresh):
            self._refuse(
                f"an access at {address:#x}, whose page came after the last TLB invalidation"
            )
            return "its page came after the last invalidation"
        return "nothing is mapped"
