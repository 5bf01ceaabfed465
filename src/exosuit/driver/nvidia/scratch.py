"""Scratch: memory in which lanes keep what does not fit into registers.

One piece for the whole card, as large as the most demanding program and every lane that the
architecture could run at once make it. It is set up when a program first needs it, and grows.
"""

from __future__ import annotations

from exosuit.driver.nvidia.channels import Queue
from exosuit.driver.nvidia.route import Memory, Route
from exosuit.silicon.nvidia.compute import ALL_SMS, Compute
from exosuit.silicon.nvidia.limits import local_bytes, local_tpc_bytes
from exosuit.silicon.nvidia.push import COMPUTE, methods, wide
from exosuit.units import GpuAddress


class Scratch:
    """The scratch of one card."""

    def __init__(self, route: Route, queue: Queue) -> None:
        self._route = route
        self._queue = queue
        self._memory: Memory | None = None
        self.lane_bytes = 0
        """What every lane can have now."""

    def provide(self, lane_bytes: int) -> None:
        """Let programs have `lane_bytes` for each lane. Raises DoesNotFit."""
        if lane_bytes <= self.lane_bytes:
            return
        facts = self._route.facts
        of_tpc = local_tpc_bytes(lane_bytes, facts.max_warps_per_sm, facts.sms_per_tpc)
        memory = self._route.take(local_bytes(of_tpc, facts.tpcs_per_gpc, facts.gpcs), "scratch")
        self._route.flush()
        self._queue.wait(self._queue.push(setup(memory.address, of_tpc)), "the setup of scratch")
        if self._memory is not None:  # what ran with it is done, as that came after
            self._route.give(self._memory)
        self._memory, self.lane_bytes = memory, lane_bytes


def setup(address: GpuAddress, tpc_bytes: int) -> bytes:
    """Where scratch lies, once nothing runs that uses another."""
    return (
        methods(COMPUTE, Compute.WAIT_FOR_IDLE, 0)
        + methods(COMPUTE, Compute.SET_SHADER_LOCAL_MEMORY_A, *wide(address))
        + methods(
            COMPUTE,
            Compute.SET_SHADER_LOCAL_MEMORY_NON_THROTTLED_A,
            *wide(tpc_bytes),
            ALL_SMS,
        )
    )
