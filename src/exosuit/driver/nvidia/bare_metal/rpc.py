"""Calls of the firmware, and its resource manager as `objects` wants one.

A call puts a record and waits for the record of the same function to come back; what comes in
between is an event. A call that is not answered raises with all that the card still tells: its
mailboxes, whether its core runs, its logs.

Sources: open-gpu-kernel-modules 570.144 `rpc.c`, `kernel_gsp.c`; tinygrad `nv/ip.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from exosuit.clock import Clock
from exosuit.driver.nvidia.bare_metal.events import Report, read_report
from exosuit.driver.nvidia.bare_metal.queues import Message, MessageQueues
from exosuit.errors import BootFailed, CardHung, ExosuitError
from exosuit.silicon.nvidia.branches import BRANCHES, Branch
from exosuit.silicon.nvidia.classes import ObjectClass
from exosuit.silicon.nvidia.rm import ClientParams, Status, status_name
from exosuit.silicon.nvidia.rpc import (
    MOST_ELEMENTS,
    Alloc,
    Control,
    Event,
    Free,
    Function,
)

T = TypeVar("T")

TIMEOUT_S = 10.0
_FIRST_HANDLE = 0xCF00_0000
_SHORTEST_S, _LONGEST_S = 2e-5, 1e-3
_LOOK_EVERY_S = 0.25


class FirmwareRpc:
    """Calls of one card's firmware.

    run_sequencer  runs a list of register accesses that it asks for
    describe       what the card still tells, for the fields of errors; raises LinkLost
    check_alive    raises LinkLost where the card is gone; asked now and then in a long wait
    """

    def __init__(
        self,
        queues: MessageQueues,
        clock: Clock,
        run_sequencer: Callable[[bytes], None],
        describe: Callable[[], Mapping[str, Any]],
        check_alive: Callable[[], None],
    ) -> None:
        self._queues = queues
        self._clock = clock
        self._run_sequencer = run_sequencer
        self._describe = describe
        self._check_alive = check_alive
        self._next_handle = _FIRST_HANDLE
        self.reports: list[Report] = []
        """Errors that it told of and nobody has taken yet."""

    def send(self, function: Function, payload: bytes) -> None:
        """Put a record that is not answered."""
        self._wait(lambda: self._queues.has_room(MOST_ELEMENTS), f"room for {function.name}")
        self._queues.send(function, payload)

    def call(
        self, function: Function, payload: bytes, what: str, timeout_s: float = TIMEOUT_S
    ) -> bytes:
        """Put a record and give the payload of its answer. Raises CardHung or LinkLost."""
        self.send(function, payload)
        try:
            answer = self._wait(lambda: self._next_of(function), f"the answer to {what}", timeout_s)
        except CardHung as error:
            error.fields["function"] = int(function)
            raise
        if answer.result:
            raise CardHung(
                f"the card's firmware refuses {what}: {status_name(answer.result)}",
                cause="it is of another release, or the card is in a state that it cannot use",
                next="exosuit doctor --report FILE",
                function=int(function),
                status=answer.result,
                **self._describe(),
            )
        return answer.payload

    def wait_ready(self, timeout_s: float) -> None:
        """Until the firmware has set up its queue and says that it is up. Raises BootFailed."""
        try:
            self._wait(lambda: self._queues.is_ready, "its queue", timeout_s)
            self._queues.check_layout()
            done = self._wait(lambda: self._next_of(Event.GSP_INIT_DONE), "its start", timeout_s)
        except CardHung as error:
            raise BootFailed(
                error.what, cause=error.cause, next=error.next, **error.fields
            ) from error
        if done.result:
            raise BootFailed(
                f"the card's firmware could not start: {status_name(done.result)}",
                cause="something on the card did not answer it in time; some enclosures cause that"
                if done.result == Status.TIMEOUT
                else "it found the card in a state that it cannot use",
                next="switch the enclosure off and on, then  exosuit doctor --report FILE",
                status=done.result,
                **self._describe(),
            )

    def poll(self) -> None:
        """Take what the firmware told unasked; `reports` has what of it is an error."""
        while self._next_of(None) is not None:
            pass

    def take_reports(self) -> list[Report]:
        taken, self.reports = self.reports, []
        return taken

    def new_handle(self) -> int:
        self._next_handle += 1
        return self._next_handle - 1

    def _next_of(self, function: int | None) -> Message | None:
        """The next record of `function`; events on the way to it are handled.

        With None, everything that lies there is handled, and nothing is given.
        """
        while (message := self._queues.receive()) is not None:
            if message.function == function:
                return message
            if message.function == Event.GSP_RUN_CPU_SEQUENCER:
                self._run_sequencer(message.payload)
            report = read_report(message.function, message.payload)
            if report is not None:
                self.reports.append(report)
        return None

    def _wait(self, look: Callable[[], T | None], what: str, timeout_s: float = TIMEOUT_S) -> T:
        began = looked = self._clock.now()
        pause = _SHORTEST_S
        while not (found := look()):
            now = self._clock.now()
            if now - began >= timeout_s:
                raise self._silent(what, timeout_s)
            if now - looked >= _LOOK_EVERY_S:
                looked = now
                self._check_alive()
            self._clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_S)
        return found

    def _silent(self, what: str, timeout_s: float) -> ExosuitError:
        facts = dict(self._describe())
        told = "; ".join(str(report) for report in self.reports)
        return CardHung(
            f"the card's firmware did not give {what} within {timeout_s:g} s",
            cause=told or "it hangs, or its link to this computer's memory is broken",
            next="run it again; if it stays:  exosuit doctor --report FILE",
            waited_for=what,
            timeout_s=timeout_s,
            **facts,
        )


class FirmwareClient:
    """A client of the firmware's resource manager. Implements `objects.ResourceManager`."""

    branch: Branch = BRANCHES[570]

    def __init__(self, rpc: FirmwareRpc, client: int) -> None:
        self._rpc = rpc
        self.client = client
        self._parents: dict[int, int] = {}
        params = ClientParams.make(client=client)
        self.allocate(0, ObjectClass.ROOT, bytes(params), client)

    def allocate(
        self, parent: int, class_id: int, params: bytes = b"", handle: int | None = None
    ) -> tuple[int, bytes]:
        chosen = self._rpc.new_handle() if handle is None else handle
        record = Alloc.make(
            client=self.client, parent=parent, handle=chosen, class_id=class_id,
            parameters_size=len(params),
        )  # fmt: skip
        what = f"an object of class {class_id:#06x}"
        answer = self._rpc.call(Function.GSP_RM_ALLOC, bytes(record) + params, what)
        self._check(Alloc, answer, what, len(params))
        self._parents[chosen] = parent
        return chosen, answer[Alloc.SIZE : Alloc.SIZE + len(params)]

    def control(self, handle: int, command: int, params: bytes) -> bytes:
        record = Control.make(
            client=self.client, handle=handle, command=command, parameters_size=len(params)
        )
        what = f"the control {command:#010x}"
        answer = self._rpc.call(Function.GSP_RM_CONTROL, bytes(record) + params, what)
        self._check(Control, answer, what, len(params))
        return answer[Control.SIZE : Control.SIZE + len(params)]

    def free(self, handle: int) -> None:
        record = Free.make(root=self.client, parent=self._parents.pop(handle, 0), handle=handle)
        what = f"the freeing of object {handle:#x}"
        self._rpc.call(Function.FREE, bytes(record), what)

    @staticmethod
    def _check(kind: type[Alloc] | type[Control], answer: bytes, what: str, size: int) -> None:
        if len(answer) < kind.SIZE + size:
            raise CardHung(
                f"the card's firmware answers {what} with {len(answer)} bytes",
                cause="it is of another release than exosuit knows",
                next="exosuit setup --yes",
                size=len(answer),
            )
        status = kind(answer).status
        if status:
            raise CardHung(
                f"the card's firmware refuses {what}: {status_name(status)}",
                cause="it is of another release, or the card cannot do it",
                next="exosuit doctor --report FILE",
                status=status,
            )
