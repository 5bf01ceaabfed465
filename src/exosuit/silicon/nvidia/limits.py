"""What an SM can hold, by its version: threads, registers, shared memory, scratch.

Sources: shared memory configurations, Mesa `nouveau_device.c`; versions, open-gpu-kernel-modules
580.142 `ctrl2080gr.h` (SM_VERSION); the rest from the CUDA programming guide's table of compute
capabilities. Allocation of registers as in tinygrad `ops_nv.py`. GB20x is assumed to divide its
shared memory as Ada does.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.units import KiB, round_up

WARP = 32
MOST_LANES = 1024
"""Of a group."""
MOST_GROUPS_X = (1 << 31) - 1
REGISTERS = 65536
"""Of an SM."""
MOST_REGISTERS = 255
REGISTER_GRANULE = 256
"""Of a warp's registers."""
WARP_GRANULE = 4
SHARED_GRANULE = 128
SYSTEM_SHARED = 1 * KiB
"""Of each group, at the beginning of its shared memory."""
LOCAL_GRANULE = 32
_LOCAL_WARP_GRANULE, _LOCAL_TPC_GRANULE, _LOCAL_GRANULE = 0x200, 0x8000, 0x20000

_AMPERE = (0, 8, 16, 32, 64, 100)
_AMPERE_LARGE = (*_AMPERE, 132, 164)
_HOPPER = (*_AMPERE_LARGE, 196, 228)


@dataclass(frozen=True)
class SmLimits:
    """shared_configs: KiB that an SM can give to shared memory, ascending."""

    warps: int
    groups: int
    shared_configs: tuple[int, ...]

    @property
    def most_shared(self) -> int:
        """Bytes that one group can have, the system's included."""
        return self.shared_configs[-1] * KiB


_LIMITS = {
    80: SmLimits(64, 32, _AMPERE_LARGE),
    86: SmLimits(48, 16, _AMPERE),
    87: SmLimits(48, 16, _AMPERE_LARGE),
    89: SmLimits(48, 24, _AMPERE),
    90: SmLimits(64, 32, _HOPPER),
    100: SmLimits(64, 32, _HOPPER),
    103: SmLimits(64, 32, _HOPPER),
    120: SmLimits(48, 24, _AMPERE),
    121: SmLimits(48, 24, _AMPERE),
}

_SM_OF_VERSION = {
    0x800: 80, 0x802: 80, 0x806: 86, 0x807: 87, 0x809: 89, 0x900: 90, 0xA00: 100, 0xA01: 100,
    0xA03: 103, 0xA04: 120, 0xC00: 120, 0xC01: 121,
}  # fmt: skip
"""0xA04 is what GB20x says until it says 0xC00; GA100's own number is assumed."""


def sm_of(version: int) -> int | None:
    """86 for the SM_VERSION 0x806; None where it is not known."""
    return _SM_OF_VERSION.get(version)


def sass_version(version: int) -> int:
    """How a QMD names an SM_VERSION: 0x86 for 0x806."""
    return version >> 4 & 0xF0 | version & 0xF


def limits(sm: int) -> SmLimits:
    """Of sm_86: `limits(86)`. An sm that is not listed has those of the one before it."""
    return _LIMITS[max(known for known in _LIMITS if known <= sm)]


def most_lanes(registers: int) -> int:
    """Lanes of a group whose registers fit into an SM."""
    warp = round_up(max(registers, 1) * WARP, REGISTER_GRANULE)
    return min(REGISTERS // warp // WARP_GRANULE * WARP_GRANULE * WARP, MOST_LANES)


def local_tpc_bytes(lane_bytes: int, warps_per_sm: int, sms_per_tpc: int) -> int:
    """Scratch that one TPC needs for lanes of `lane_bytes`."""
    warp = round_up(lane_bytes * WARP, _LOCAL_WARP_GRANULE)
    return round_up(warp * warps_per_sm * sms_per_tpc, _LOCAL_TPC_GRANULE)


def local_bytes(tpc_bytes: int, tpcs_per_gpc: int, gpcs: int) -> int:
    """Scratch of a whole card."""
    return round_up(tpc_bytes * tpcs_per_gpc * gpcs, _LOCAL_GRANULE)
