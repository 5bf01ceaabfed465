"""One channel as its owner drives it: pushbuffers, the ring of entries, GP_PUT, the doorbell.

A submission is a run of pushbuffer that ends in a release: the host engine waits until the
channel's engine is idle and writes the submission's number into the page of signals. So the host
knows what is done without reading from the card, GP_GET included: a ring is never full, because a
submission waits for the one that is IN_FLIGHT numbers older.

Small submissions go through slots of host memory. Prepared ones lie in memory of their own, where
only the number in their release is written anew each time.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from exosuit.driver.nvidia.route import Channel, Memory, Route
from exosuit.driver.nvidia.waiting import Waiting
from exosuit.driver.placed import HostMemory
from exosuit.silicon.nvidia.channel import Userd
from exosuit.silicon.nvidia.push import (
    ENTRY_BYTES,
    HOST,
    Host,
    SemaphoreOperation,
    SemExecute,
    entry,
    methods,
)
from exosuit.units import GpuAddress, KiB

SLOT_BYTES = 2 * KiB
IN_FLIGHT = 16
"""Submissions that may be on their way at the same time; fewer than any ring has entries."""
PAYLOAD_AT = 12
"""Of the number in the bytes of a release."""
_RELEASE = SemExecute(operation=SemaphoreOperation.RELEASE, release_wfi=True)
_GP_PUT = Userd.gp_put.offset


@dataclass(frozen=True)
class Prepared:
    """A pushbuffer in host memory, ending in a release whose number is not yet written."""

    memory: Memory
    size: int

    @property
    def host(self) -> HostMemory:
        assert self.memory.host is not None
        return self.memory.host

    @property
    def payload_at(self) -> int:
        return self.size - RELEASE_BYTES + PAYLOAD_AT


class Queue:
    """Submissions to one channel, in order.

    signal  number of its signal in the page
    """

    def __init__(self, route: Route, channel: Channel, waiting: Waiting, signal: int) -> None:
        assert channel.entries > IN_FLIGHT, channel.entries
        self._route = route
        self._channel = channel
        self._waiting = waiting
        self._signal = signal
        self._slots = route.take_host(IN_FLIGHT * SLOT_BYTES, f"pushbuffers of {channel.name}")
        self._put = 0
        self._finished = 0
        self.submitted = 0
        """How many submissions there have been; the number of the last one."""

    def push(self, packets: bytes) -> int:
        """Submit packets; the number to wait for."""
        number = self._next()
        data = packets + release(self._waiting.address(self._signal), number)
        assert len(data) <= SLOT_BYTES, len(data)
        offset = number % IN_FLIGHT * SLOT_BYTES
        assert self._slots.host is not None
        self._slots.host.write(offset, data)
        self._enter(GpuAddress(self._slots.address + offset), len(data))
        return number

    def run(self, prepared: Prepared) -> int:
        """Submit a prepared pushbuffer, which is not on its way already; the number to wait for."""
        number = self._next()
        payload = struct.pack("<I", number & 0xFFFF_FFFF)
        prepared.host.write(prepared.payload_at, payload)
        self._enter(prepared.memory.address, prepared.size)
        return number

    def prepare(self, packets: bytes, name: str) -> Prepared:
        """Packets and a release in host memory, to be run again and again."""
        data = packets + release(self._waiting.address(self._signal), 0)
        memory = self._route.take_host(len(data), name)
        prepared = Prepared(memory, len(data))
        prepared.host.write(0, data)
        return prepared

    def wait(self, number: int, what: str) -> None:
        """Return when a submission is done."""
        if number > self._finished:
            self._waiting.until(self._signal, number, what)
            self._finished = number

    def _next(self) -> int:
        """The number of the submission that is to come, which has a slot to itself."""
        if self._waiting.problem is not None:
            raise self._waiting.problem
        self.wait(self.submitted + 1 - IN_FLIGHT, "earlier work")
        self.submitted += 1
        return self.submitted

    def _enter(self, address: GpuAddress, size: int) -> None:
        channel = self._channel
        channel.ring.write(ENTRY_BYTES * self._put, entry(address, size).encode())
        self._put = (self._put + 1) % channel.entries
        channel.userd.write32(_GP_PUT, self._put)
        self._route.ring_doorbell(channel.token)


def release(address: GpuAddress, number: int) -> bytes:
    """When the channel's engine is idle, write 32 bits."""
    low, high = address & 0xFFFF_FFFF, address >> 32
    return methods(HOST, Host.SEM_ADDR_LO, low, high, number & 0xFFFF_FFFF, 0, _RELEASE)


RELEASE_BYTES = len(release(GpuAddress(0), 0))
