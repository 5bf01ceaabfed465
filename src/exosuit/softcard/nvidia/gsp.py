"""GSP firmware: from its start by signed code to the answers that it gives.

Started, it finds its log buffers, its arguments and through them the message queues, takes what
the host says of itself, and tells that it is ready. On Ampere and Ada it first has the host do what
only a host can: put the falcon through a run of its own and resume it. From then on it answers
requests in the order in which they came, and tells unasked what stops a channel. What it is given
to touch lies in host memory: where that is gone it stops.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum

from exosuit.silicon.nvidia import falcon as falcons
from exosuit.silicon.nvidia.classes import Engine
from exosuit.silicon.nvidia.falcon import Falcon as FalconRegisters
from exosuit.silicon.nvidia.gsp import (
    ARGUMENTS,
    LOG_BYTES,
    LOGS,
    PAGE,
    GspArguments,
    LibosRegion,
    RegionKind,
    RegionPlace,
    Sequencer,
    libos_id,
)
from exosuit.silicon.nvidia.rm import Status
from exosuit.silicon.nvidia.rm_controls import FaultType
from exosuit.silicon.nvidia.rpc import ErrorLog, Event, Function, RcTriggered, RunSequencer
from exosuit.softcard.host import HostFault
from exosuit.softcard.memory import host_address
from exosuit.softcard.nvidia.bus import Bus
from exosuit.softcard.nvidia.executor.faults import Fault, MmuFault
from exosuit.softcard.nvidia.objects import ChannelState
from exosuit.softcard.nvidia.queues import BadQueues, Message, Queues
from exosuit.softcard.registers import Refuse

log = logging.getLogger(__name__)

MOST_REGIONS = PAGE // LibosRegion.SIZE


class State(Enum):
    """What the firmware is doing."""

    OFF = "has not been started"
    BOOTING = "waits for what the host says of itself"
    SUSPENDED = "waits for the host to resume it"
    RUNNING = "runs"
    STOPPED = "has stopped"
    UNLOADED = "was unloaded"


class Gsp:
    """GSP-RM. `answer` gives the result and payload of a request.

    has_sequence  whether it has the host run a sequence during its start
    changed       called with what it is doing now
    """

    def __init__(
        self,
        bus: Bus,
        refuse: Refuse,
        answer: Callable[[int, bytes], tuple[Status, bytes]],
        *,
        has_sequence: bool,
        is_silent: Callable[[], bool],
        changed: Callable[[State], None],
    ) -> None:
        self._bus = bus
        self._refuse = refuse
        self._answer = answer
        self._has_sequence = has_sequence
        self._is_silent = is_silent
        self._changed = changed
        self.power_on()

    def power_on(self) -> None:
        self.state = State.OFF
        self.arguments = 0
        self.system_info = b""
        self.registry = b""
        self.requests: list[int] = []
        self._queues: Queues | None = None
        self._logs: dict[str, tuple[int, int]] = {}

    # The start.

    def start(self, arguments: int) -> str:
        """Begin with the libos arguments at a bus address; why it cannot, or ""."""
        try:
            regions = self._regions(arguments)
            place = regions.get(ARGUMENTS)
            if place is None:
                return "the libos arguments have no RMARGS"
            self._logs = {name: regions[name] for name in LOGS if name in regions}
            if len(self._logs) < len(LOGS):
                return "the libos arguments lack log buffers"
            given = GspArguments(self._bus.read(place[0], GspArguments.SIZE))
            if not given.dmem_stack:
                self._refuse("RMARGS without bDmemStack")
            self._queues = Queues(self._bus, given.queues, self._refuse)
        except HostFault as fault:
            return f"nothing is at bus address {fault.address:#x}"
        except BadQueues as error:
            return str(error)
        self.arguments = arguments
        self._write_log("LOGINIT", "boot")
        self._become(State.BOOTING)
        if self._has_sequence:
            self._send_sequence()
            self._become(State.SUSPENDED)
        else:
            self.ring()
        return ""

    def resume(self) -> None:
        """The host has done what the sequence says."""
        self._become(State.BOOTING)
        self.ring()

    def ring(self) -> None:
        """The host has written the command queue."""
        if self._queues is None or self._is_silent():
            return
        if self.state not in (State.BOOTING, State.RUNNING):
            return
        try:
            while (message := self._queues.receive()) is not None:
                self._obey(message)
                if self.state not in (State.BOOTING, State.RUNNING):
                    return
            self._queues.flush()
        except HostFault as fault:
            self._stop(f"bus address {fault.address:#x} is gone")

    def flush(self) -> None:
        """The host may have made room in the status queue."""
        if self._queues is not None and self._queues.is_waiting and not self._is_silent():
            try:
                self._queues.flush()
            except HostFault as fault:
                self._stop(f"bus address {fault.address:#x} is gone")

    @property
    def is_waiting(self) -> bool:
        """Whether something waits for the host to read."""
        return self._queues is not None and self._queues.is_waiting

    def knows(self, view: memoryview) -> bool:
        """Whether any of its buffers lies in these bytes of host memory."""
        low = host_address(view)
        places = [where for where, _ in self._logs.values()]
        places += self._queues.pages if self._queues is not None else []
        for place in places:
            try:
                ((host, _),) = self._bus.pieces(place, 1)
            except HostFault:
                continue
            if low <= host < low + len(view):
                return True
        return False

    def _obey(self, message: Message) -> None:
        self.requests.append(message.function)
        if message.function == Function.GSP_SET_SYSTEM_INFO:
            self.system_info = message.payload
        elif message.function == Function.SET_REGISTRY:
            self.registry = message.payload
        elif self.state is not State.RUNNING:
            self._refuse(f"function {message.function} before the firmware is ready")
        else:
            status, payload = self._answer(message.function, message.payload)
            self._send(message.function, payload, status, message.sequence)
            if message.function == Function.UNLOADING_GUEST_DRIVER and status == Status.OK:
                self._become(State.UNLOADED)
            return
        if self.state is State.BOOTING and self.system_info and self.registry:
            self._become(State.RUNNING)
            self._send(Event.GSP_INIT_DONE, bytes(4))

    def _regions(self, arguments: int) -> dict[str, tuple[int, int]]:
        """Address and size of each region by name. Raises HostFault."""
        names = {libos_id(name): name for name in (*LOGS, ARGUMENTS)}
        page = self._bus.read(arguments, PAGE)
        found: dict[str, tuple[int, int]] = {}
        for index in range(MOST_REGIONS):
            region = LibosRegion(page, index * LibosRegion.SIZE)
            if region.id == 0:
                break
            name = names.get(region.id)
            if name is None:
                self._refuse(f"a libos region with id {region.id:#x}")
                continue
            if region.kind != RegionKind.CONTIGUOUS or region.place != RegionPlace.SYSTEM:
                self._refuse(f"{name} of kind {region.kind} in place {region.place}")
            size = PAGE if name == ARGUMENTS else LOG_BYTES
            if region.size < size:
                self._refuse(f"{name} of {region.size} bytes")
            self._bus.reach(region.address, region.size)
            found[name] = region.address, region.size
        return found

    def _send_sequence(self) -> None:
        """What the host is to do with the falcon while the firmware rests."""
        base = falcons.GSP
        mailbox = base + FalconRegisters.MAILBOX0.description.offset
        boot_vector = base + FalconRegisters.BOOTVEC.description.offset
        words = [
            Sequencer.REG_STORE, mailbox, 0,
            Sequencer.CORE_RESET,
            Sequencer.REG_WRITE, boot_vector, 0,
            # One word as value and mask: drivers differ in which of the two comes first.
            Sequencer.REG_MODIFY, mailbox, 0xFF, 0xFF,
            Sequencer.DELAY_US, 5,
            Sequencer.CORE_START,
            Sequencer.CORE_WAIT_FOR_HALT,
            Sequencer.REG_POLL, mailbox, 0xFF, 0, 1_000_000, 0x65,
            Sequencer.CORE_RESUME,
        ]  # fmt: skip
        head = RunSequencer.make(size_dwords=len(words), command_dwords=len(words))
        body = b"".join(int(word).to_bytes(4, "little") for word in words)
        self._send(Event.GSP_RUN_CPU_SEQUENCER, bytes(head) + body)

    # What it tells unasked.

    def tell_fault(self, state: ChannelState, fault: Fault) -> None:
        """A channel has stopped."""
        if self.state is not State.RUNNING:
            return
        if isinstance(fault, MmuFault):
            self._send(Event.MMU_FAULT_QUEUED, b"")
        text = f"Xid {fault.XID.value}: channel {fault.channel}, {fault.detail}"
        record = ErrorLog.make(
            xid=fault.XID, runlist=state.runlist, channel=fault.channel,
            text=text.encode()[:255],
        )  # fmt: skip
        self._send(Event.OS_ERROR_LOG, bytes(record))
        address = fault.address if isinstance(fault, MmuFault) else 0
        stopped = RcTriggered.make(
            engine=Engine.GRAPHICS, channel=fault.channel, xid=fault.XID, scope=1,
            fault_address_low=address & 0xFFFF_FFFF, fault_address_high=address >> 32,
            fault_type=FaultType.PTE if address else 0,
        )  # fmt: skip
        self._send(Event.RC_TRIGGERED, bytes(stopped))

    def crash(self, why: str) -> None:
        """It stops in the middle, and leaves its last words in its log."""
        if self.state in (State.BOOTING, State.SUSPENDED, State.RUNNING):
            self._stop(why)

    def _stop(self, why: str) -> None:
        log.info("gsp: stopped: %s", why)
        self._become(State.STOPPED)
        self._write_log("LOGRM", f"GSP-RM stopped: {why}")

    def _write_log(self, name: str, text: str) -> None:
        """As libos logs: how many words follow, then them. Their meaning here is text; `assumed`,
        since real ones need the firmware's own tables to be read.
        """
        where = self._logs.get(name)
        if where is None:
            return
        data = text.encode() + bytes(-len(text.encode()) % 8)
        try:
            self._bus.write(where[0] + 8, data)
            self._bus.write(where[0], (len(data) // 8).to_bytes(8, "little"))
        except HostFault:
            log.info("gsp: its log buffer is gone")

    def _send(
        self, function: int, payload: bytes, status: Status = Status.OK, sequence: int = 0
    ) -> None:
        assert self._queues is not None
        if self._is_silent():
            return
        try:
            self._queues.send(function, payload, status, sequence)
        except HostFault as fault:
            self._stop(f"bus address {fault.address:#x} is gone")

    def _become(self, state: State) -> None:
        self.state = state
        self._changed(state)
