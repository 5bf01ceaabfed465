"""All channels of a card: doorbells, whose turn it is, and who stops with whom.

Channels take turns until none of them can go on. On a late card nothing is looked at before the
host reads something or pauses, and the channel that was rung last begins: nothing is done in the
order in which it was asked for unless the driver makes it so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from exosuit.softcard.nvidia.executor.caches import Caches
from exosuit.softcard.nvidia.executor.channel import Channel, ChannelSetup
from exosuit.softcard.nvidia.executor.compute import ComputeEngine
from exosuit.softcard.nvidia.executor.copy import CopyEngine
from exosuit.softcard.nvidia.executor.faults import Fault
from exosuit.softcard.nvidia.executor.launch import Launcher
from exosuit.softcard.nvidia.executor.shape import Shape
from exosuit.softcard.nvidia.ptx.grid import Model
from exosuit.softcard.registers import Refuse
from exosuit.softcard.timeline import Slice, Timeline
from exosuit.softcard.timing import Meter


class Executor:
    """The engines of one card.

    refuse          called with what a driver should not do; raises on a strict card
    faulted         called with each fault, once its channels have stopped
    invalidate_tlb  called when a channel asks for it
    fails           whether the next program is to fail, by a schedule of faults
    cache           folder in which translated programs are kept, or None
    threads         host threads that run groups; 0 for one per processor
    late            see above; may be changed while no channel is at work
    """

    def __init__(
        self,
        shape: Shape,
        meter: Meter,
        *,
        refuse: Refuse,
        faulted: Callable[[Fault], None],
        invalidate_tlb: Callable[[], None] = lambda: None,
        fails: Callable[[], bool] = lambda: False,
        cache: Path | None = None,
        threads: int = 0,
        late: bool = False,
    ) -> None:
        self.late = late
        self.caches = Caches(refuse)
        self.channels: dict[int, Channel] = {}
        self._shape = shape
        self._meter = meter
        self._refuse = refuse
        self._faulted = faulted
        self._invalidate_tlb = invalidate_tlb
        self._fails = fails
        self._model = Model(cache=cache, threads=threads or os.cpu_count() or 1)
        self._slice = Slice()
        self._timelines: list[Timeline] = []
        self._rung_last: Channel | None = None

    # Channels.

    def add(self, setup: ChannelSetup) -> Channel:
        """Let a channel be rung. Its number must be free."""
        assert setup.number not in self.channels
        timeline = Timeline(self._meter, self._timelines)
        self._timelines.append(timeline)
        made = Channel(
            setup,
            timeline,
            self.caches,
            self._refuse,
            self._slice,
            compute=self._compute,
            copies=self._copies,
            stop=self._stopped,
            invalidate_tlb=self._invalidate_tlb,
            late=lambda: self.late,
        )
        self.channels[setup.number] = made
        return made

    def remove(self, number: int) -> None:
        """Forget a channel, whatever it does."""
        channel = self.channels.pop(number, None)
        if channel is not None:
            channel.halt()

    def power_on(self) -> None:
        """As after a reset: no channels, empty caches. Time goes on."""
        for number in tuple(self.channels):
            self.remove(number)
        self.caches.power_on()

    def ring_doorbell(self, number: int) -> bool:
        """GP_PUT of a channel has moved; whether anybody hears it."""
        channel = self.channels.get(number)
        if channel is None or not channel.setup.is_enabled:
            what = "which does not exist" if channel is None else "which is not scheduled"
            self._refuse(f"a doorbell of channel {number}, {what}")
            return False
        if channel.is_stopped:
            return False
        self._rung_last = channel
        channel.ring_doorbell()
        return True

    # Work.

    def run(self) -> bool:
        """Let every channel go as far as it can, for a while; whether one of them still waits."""
        self._slice.begin()
        moved = True
        while moved:
            moved = False
            for channel in self._in_turn():
                if channel.run() and not channel.is_paused:
                    moved = True
                    self._others_follow(channel)
        return any(channel.is_waiting or channel.is_paused for channel in self.channels.values())

    @property
    def elapsed_ns(self) -> float:
        """Virtual time until everything that was submitted is done."""
        return max([self._meter.now_ns, *(timeline.now_ns for timeline in self._timelines)])

    def _in_turn(self) -> Iterable[Channel]:
        channels = [c for c in self.channels.values() if c.setup.is_enabled and not c.is_stopped]
        if self.late:
            channels.sort(key=lambda channel: channel is not self._rung_last)
        return channels

    def _others_follow(self, done: Channel) -> None:
        for channel in self.channels.values():
            if channel.is_waiting:
                channel.timeline.follow(done.timeline)

    def _stopped(self, channel: Channel, fault: Fault | None) -> None:
        """A channel, and with it its group; a hang stops nobody else and is told to nobody."""
        if fault is None:
            return
        for other in self.channels.values():
            if other.setup.group == channel.setup.group:
                other.halt()
        self._faulted(fault)

    def _compute(self, channel: Channel, class_id: int) -> ComputeEngine:
        setup = channel.setup
        launcher = Launcher(
            setup.number,
            class_id,
            setup.memory,
            self._shape,
            self._model,
            channel.timeline,
            self.caches,
            self._refuse,
            self._fails,
        )
        return ComputeEngine(
            setup.number,
            class_id,
            setup.memory,
            launcher,
            self.caches,
            self._refuse,
            lambda: self.late,
        )

    def _copies(self, channel: Channel, class_id: int) -> CopyEngine:
        setup = channel.setup
        return CopyEngine(
            setup.number,
            class_id,
            setup.memory,
            self._shape,
            channel.timeline,
            self.caches,
            self._refuse,
            lambda: self.late,
        )
