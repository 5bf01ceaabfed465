"""One card behind the software kernel driver: its memory, its engines, what it has to report."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from exosuit.silicon.nvidia.channel import Usermode, WorkSubmitToken
from exosuit.silicon.nvidia.rm import Notification
from exosuit.silicon.nvidia.rm_controls import (
    AccessType,
    FaultType,
    SmError,
)
from exosuit.silicon.nvidia.rm_controls import (
    MmuFault as MmuFaultRecord,
)
from exosuit.softcard.nvidia.executor.channel import ChannelSetup
from exosuit.softcard.nvidia.executor.faults import Fault, MmuFault, WarpFault
from exosuit.softcard.nvidia.executor.runlist import Executor
from exosuit.softcard.nvidia.kernel_driver.backing import PAGE, Backing, Pool
from exosuit.softcard.nvidia.products import Product
from exosuit.softcard.registers import Refuse
from exosuit.softcard.timing import Meter, find_model

_RUNLIST = 3
"""Of the graphics engine; any number would do, and a driver that loses it rings nobody."""
_PC = 0x7F00_0000_0000
_TIME_0 = Usermode.TIME_0.description.offset
_TIME_1 = Usermode.TIME_1.description.offset
_DOORBELL = Usermode.NOTIFY_CHANNEL_PENDING.description.offset


@dataclass
class ChannelState:
    """What the driver knows of a channel beside its engines.

    errors         where its end is noted
    is_registered  whether unified memory has mapped what its engine keeps
    """

    setup: ChannelSetup
    errors: Backing
    is_registered: bool = False


@dataclass
class Reports:
    """What a debugger is told."""

    faults: list[MmuFaultRecord] = field(default_factory=list[MmuFaultRecord])
    errors: dict[int, SmError] = field(default_factory=dict[int, SmError])


class ModelCard:
    """One card.

    vram    bytes of its memory
    offers  every class on its list
    """

    def __init__(
        self,
        product: Product,
        index: int,
        vram: int,
        offers: Sequence[int],
        refuse: Refuse,
        *,
        cache: Path | None,
        threads: int,
        late: bool,
    ) -> None:
        self.product = product
        self.index = index
        self.offers = tuple(offers)
        self.gpu_id = 0x100 * (index + 1)
        self.uuid = sha256(f"{product.name} {index}".encode()).digest()[:16]
        self.memory = Pool(f"vram of {product.name}", vram, is_host=False)
        self.reports = Reports()
        self.faults: list[Fault] = []
        """What stopped channels, in words that no driver gets."""
        self.channels: dict[int, ChannelState] = {}
        self.is_lost = False
        self._refuse = refuse
        self._next = 1
        self.executor = Executor(
            product.shape,
            Meter(find_model("slot")),
            refuse=refuse,
            faulted=self._faulted,
            cache=cache,
            threads=threads,
            late=late,
        )

    # Channels.

    def add_channel(self, make: Callable[[int], ChannelSetup], errors: Backing) -> ChannelState:
        """A channel with the next free number."""
        number = self._next
        self._next += 1
        state = ChannelState(make(number), errors)
        self.channels[number] = state
        self.executor.add(state.setup)
        return state

    def remove_channel(self, number: int) -> None:
        del self.channels[number]
        self.executor.remove(number)

    def token(self, number: int) -> int:
        """What rings a channel's doorbell."""
        enabled = self.product.chip.token_enabled
        return WorkSubmitToken(channel=number, runlist=_RUNLIST, runlist_doorbell=enabled)

    # The usermode page.

    def read_page(self, offset: int) -> int:
        self.run()
        now = time.monotonic_ns()
        return {_TIME_0: now & 0xFFFF_FFFF, _TIME_1: now >> 32}.get(offset, 0)

    def write_page(self, offset: int, value: int) -> None:
        if offset != _DOORBELL:
            self._refuse(f"a write of {value:#x} at {offset:#x} of the usermode page")
            return
        if self.is_lost:
            return
        number = WorkSubmitToken(value & 0xFFFF_FFFF).channel
        state = self.channels.get(number)
        if state is None or value != self.token(number):
            self._refuse(f"a doorbell with the token {value:#x}, which is no channel's")
            return
        if not state.is_registered:
            self._refuse(f"a doorbell of channel {number}, which UVM does not know")
            return
        if self.executor.ring_doorbell(number) and not self.executor.late:
            self.run()

    def run(self) -> None:
        """Let engines go as far as they can."""
        while not self.is_lost:
            self.executor.run()
            if not any(channel.is_paused for channel in self.executor.channels.values()):
                return

    # What goes wrong.

    def _faulted(self, fault: Fault) -> None:
        self.faults.append(fault)
        if isinstance(fault, MmuFault):
            access = AccessType.WRITE if fault.write else AccessType.READ
            page = fault.address & ~(PAGE - 1)  # the card reports pages
            self.reports.faults.append(
                MmuFaultRecord.make(address=page, fault_type=FaultType.PTE, access_type=access)
            )
        if isinstance(fault, WarpFault):
            last = self.product.shape.sm_count - 1  # where a careless reader does not look
            self.reports.errors[last] = SmError.make(
                global_esr=1 << 2,
                warp_esr=fault.error,
                warp_pc=_PC,
                warp_pc32=_PC & 0xFFFF_FFFF,
                esr_address=fault.address,
            )
        group = self.channels[fault.channel].setup.group
        for state in self.channels.values():
            if state.setup.group == group:
                self._note(state, fault)

    def _note(self, state: ChannelState, fault: Fault) -> None:
        note = Notification.make(time_ns=time.time_ns(), info32=fault.XID, info16=1, status=0xFFFF)
        ctypes.memmove(state.errors.host, bytes(note), Notification.SIZE)
