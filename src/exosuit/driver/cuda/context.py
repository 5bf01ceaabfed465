"""One card through libcuda: its primary context, one stream, and waiting with an end.

Everything a device does goes through one stream, so that copies and graphs happen in the order in
which they were asked for. Whoever enters from outside calls `enter` first: the current context is a
thread's, and threads come and go. A sticky error or a hang is kept: the context is never used
again, and nothing of it is given back, because that would wait for a card that does not answer.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exosuit.clock import Clock
from exosuit.driver.cuda import failures
from exosuit.driver.cuda.cards import MAJOR, MINOR, count, supported_target
from exosuit.driver.cuda.library import Library
from exosuit.errors import ExosuitError, UsageError

STREAM_NON_BLOCKING, EVENT_NO_TIMING = 1, 2
MULTIPROCESSORS = 16
"""CUdevice_attribute."""

_SPIN_S, _PAUSE_S = 20e-3, 0.5e-3


class Context:
    """The primary context of the card with this number.

    is_present  whether the PCI function of that bus id still answers; asked after failures
    hang_s      what takes longer has hung
    """

    def __init__(
        self,
        library: Library,
        ordinal: int,
        clock: Clock,
        hang_s: float,
        is_present: Callable[[str], bool],
    ) -> None:
        self.library = library
        self.name = f"cuda:{ordinal}"
        self.problem: ExosuitError | None = None
        self._clock, self._hang_s, self._is_present = clock, hang_s, is_present
        # What was collected: appended to at any moment, by any thread; given back when it suits.
        self._dropped: deque[tuple[str, int]] = deque()
        self._card = _card(library, ordinal)
        self.bus_id = library.text("cuDeviceGetPCIBusId", self._card)
        # In a container the bus may be hidden; then nobody can tell when the card goes.
        self._is_watched = is_present(self.bus_id)
        self.title = library.text("cuDeviceGetName", self._card)
        self.target = supported_target(self.title, self.attribute(MAJOR), self.attribute(MINOR))
        self._handle = library.handle("cuDevicePrimaryCtxRetain", self._card)
        try:
            self.enter()
            self.stream = library.handle("cuStreamCreate", STREAM_NON_BLOCKING)
        except BaseException:
            library.status("cuDevicePrimaryCtxRelease_v2", self._card)
            raise

    def attribute(self, number: int) -> int:
        return self.library.number("cuDeviceGetAttribute", number, self._card)

    @property
    def memory_bytes(self) -> int:
        found = ctypes.c_size_t()
        self.library.call("cuDeviceTotalMem_v2", ctypes.byref(found), self._card)
        return found.value

    def free_bytes(self) -> int:
        """What nobody has taken, of any process."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    # Calling --------------------------------------------------------------------------------

    def enter(self) -> None:
        """Make the context this thread's; raises why it is dead, if it is."""
        if self.problem is not None:
            raise self.problem
        self.call("cuCtxSetCurrent", self._handle)

    def call(self, function: str, *arguments: Any) -> None:
        status = self.library.status(function, *arguments)
        if status:
            raise self.failed(status, function)

    def handle(self, function: str, *arguments: Any) -> int:
        found = ctypes.c_void_p()
        self.call(function, ctypes.byref(found), *arguments)
        assert found.value is not None, function
        return found.value

    def failed(self, status: int, function: str) -> ExosuitError:
        """The error of a call, kept if nothing will work after it."""
        error = self.library.error(status, function)
        if status in failures.STICKY:
            is_gone = self._is_watched and not self._is_present(self.bus_id)
            self.problem = failures.lost(self.name, status) if is_gone else error
            return self.problem
        return error

    # Waiting --------------------------------------------------------------------------------

    def finish(self, what: str) -> None:
        """Return when all that was asked for is done."""
        self._until("cuStreamQuery", self.stream, what)

    def reached(self, event: int, what: str) -> None:
        """Return when the event has happened."""
        self._until("cuEventQuery", event, what)

    def _until(self, function: str, handle: int, what: str) -> None:
        """Ask again and again, at first without a pause: a token is a matter of milliseconds."""
        status = self.library.status(function, handle)
        if status == failures.SUCCESS:
            return
        began = self._clock.now()
        while status == failures.NOT_READY:
            waited = self._clock.now() - began
            if waited > self._hang_s:
                self.problem = failures.hung(self.name, what, waited)
                raise self.problem
            if waited > _SPIN_S:
                self._clock.sleep(_PAUSE_S)
            status = self.library.status(function, handle)
        if status:
            raise self.failed(status, function)

    # Giving back ----------------------------------------------------------------------------

    def drop(self, function: str, handle: int) -> None:
        """Have `function` called with what nobody holds any more, when it suits."""
        self._dropped.append((function, handle))

    def sweep(self) -> None:
        """Give back what was dropped; the context is this thread's."""
        while self._dropped:
            self.call(*self._dropped.popleft())

    def close(self) -> None:
        """Let the card go. After a failure the process's end does that."""
        if self.problem is not None:
            return
        self.enter()
        self.finish("its last work")
        self.sweep()
        self.call("cuStreamDestroy_v2", self.stream)
        self.call("cuDevicePrimaryCtxRelease_v2", self._card)


def answers_on_its_bus(bus_id: str) -> bool:
    """Whether Linux can still read who made the function of that id (0000:01:00.0)."""
    try:
        with open(Path("/sys/bus/pci/devices") / bus_id.lower() / "config", "rb") as file:
            return file.read(2) not in (b"", b"\xff\xff")
    except OSError:
        return False


def _card(library: Library, ordinal: int) -> int:
    found = count(library)
    if ordinal >= found:
        raise UsageError(
            f"there is no cuda:{ordinal}",
            cause=f"libcuda sees {found} cards, counted from 0",
            next="exosuit list",
            count=found,
        )
    return library.number("cuDeviceGet", ordinal)
