"""`BareMetalRoute`: a card that the host booted itself, as the device above wants one.

Memory is the host's own to give out, page tables the host's own to write; the firmware is only
asked what went wrong.
"""

from __future__ import annotations

import contextlib

from exosuit.clock import Clock
from exosuit.driver.memory import Allocation
from exosuit.driver.nvidia.bare_metal import events
from exosuit.driver.nvidia.bare_metal.card import Card
from exosuit.driver.nvidia.route import Channel, Facts, Memory
from exosuit.errors import ExosuitError
from exosuit.silicon.nvidia.channel import USERMODE_OFFSET, Usermode
from exosuit.silicon.nvidia.rm_controls import GrInfoIndex

_DOORBELL = USERMODE_OFFSET + Usermode.NOTIFY_CHANNEL_PENDING.description.offset


class BareMetalRoute:
    """A booted card. Implements `Route`; stopping it stops the card and closes the link."""

    def __init__(self, card: Card, hang_s: float) -> None:
        self.name = card.link.name
        self.card = card
        self.link = card.link
        self.clock: Clock = card.clock
        self.hang_s = hang_s
        self.compute: Channel = card.channels.compute
        self.copy: Channel = card.channels.copy
        self.facts = _facts(card)
        self._registers = card.registers.bar
        self._problem: ExosuitError | None = None

    @classmethod
    def boot(cls, card: Card, hang_s: float) -> BareMetalRoute:
        """Boot the card; its link is closed where that fails."""
        try:
            card.boot()
            return cls(card, hang_s)
        except BaseException:
            with contextlib.suppress(ExosuitError):
                card.stop()
            card.link.close()
            raise

    def take(self, size: int, name: str) -> Memory:
        return _memory(self.card.memory.take(size, name))

    def take_low(self, size: int, name: str) -> Memory:
        """The same: every address that is given out lies low enough."""
        return self.take(size, name)

    def take_host(self, size: int, name: str) -> Memory:
        return _memory(self.card.memory.take_host(self.link, size, name))

    def give(self, memory: Memory) -> None:
        assert isinstance(memory.owner, Allocation)
        self.card.memory.give(memory.owner)

    def flush(self) -> None:
        self.card.memory.flush()

    def ring_doorbell(self, token: int) -> None:
        self._registers.write32(_DOORBELL, token)

    def check(self) -> None:
        if self._problem is None:
            self._problem = self._find_problem()
        if self._problem is not None:
            raise self._problem

    def stop(self) -> None:
        try:
            self.card.stop()
        finally:
            self.link.close()

    def _find_problem(self) -> ExosuitError | None:
        try:
            self.card.rpc.poll()
            reports = self.card.rpc.take_reports()
            if not reports:
                self.card.registers.check_alive()
                return None
        except ExosuitError as error:
            return error
        errors = None
        with contextlib.suppress(ExosuitError):  # firmware that crashed cannot be asked
            errors = self.card.channels.read_errors()
        return events.explain(reports, errors, self.card.memory.named())


def _memory(allocation: Allocation) -> Memory:
    return Memory(
        allocation.name, allocation.address, allocation.size, allocation.reserved,
        allocation.host, allocation,
    )  # fmt: skip


def _facts(card: Card) -> Facts:
    info = card.channels.graphics
    return Facts(
        chip=card.chip.name,
        target=card.chip.sm,
        sm_version=info[GrInfoIndex.SM_VERSION],
        compute_class=card.channels.compute.engine_class,
        copy_class=card.channels.copy.engine_class,
        gpfifo_class=card.channels.gpfifo_class,
        sm_count=card.channels.sm_count,
        gpcs=info[GrInfoIndex.LITTER_NUM_GPCS],
        tpcs_per_gpc=info[GrInfoIndex.LITTER_NUM_TPC_PER_GPC],
        sms_per_tpc=info[GrInfoIndex.LITTER_NUM_SM_PER_TPC],
        max_warps_per_sm=info[GrInfoIndex.MAX_WARPS_PER_SM],
        vram_bytes=card.memory.local_bytes,
    )
