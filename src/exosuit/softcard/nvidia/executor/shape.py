"""What the engines must know of a chip: how much there is of everything, and how fast it is."""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.silicon.nvidia.limits import SmLimits, limits


@dataclass(frozen=True)
class Shape:
    """One product.

    sm            86 for sm_86
    sm_version    as the resource manager reports it: 0x806
    gpcs, tpcs_per_gpc, sms_per_tpc
                  the architecture's most, by which scratch is divided
    sm_count      that work
    clock_mhz     of the SMs, under load
    bandwidth     of its memory, bytes per second
    """

    sm: int
    sm_version: int
    gpcs: int
    tpcs_per_gpc: int
    sms_per_tpc: int
    sm_count: int
    clock_mhz: float
    bandwidth: float

    @property
    def limits(self) -> SmLimits:
        return limits(self.sm)
