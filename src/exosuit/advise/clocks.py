"""A card's clocks, power and temperature at a moment, from NVIDIA's management library (NVML).

It comes with the driver, like libcuda; where there is none nothing is said. Source: nvml.h 13.0.
"""

from __future__ import annotations

import ctypes
from dataclasses import asdict, dataclass
from typing import Any

_SM, _MEMORY = 1, 2
_GPU_CORE = 0
_NAME_BYTES = 96


@dataclass(frozen=True)
class Clocks:
    """MHz, watts, degrees Celsius; 0 for what the card does not tell.

    held_back  NVML's bits of what keeps clocks down: 4 power, 8 and 0x40 heat, 0x20 software heat
    """

    sm_mhz: int
    memory_mhz: int
    power_w: float
    power_limit_w: float
    temperature_c: int
    held_back: int

    def told(self) -> dict[str, Any]:
        return asdict(self)


class Nvml:
    """The library, started."""

    def __init__(self, library: Any) -> None:
        self._library = library

    @staticmethod
    def find() -> Nvml | None:
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return None
        return Nvml(library) if library.nvmlInit_v2() == 0 else None

    def driver_version(self) -> str:
        text = ctypes.create_string_buffer(_NAME_BYTES)
        failed = self._library.nvmlSystemGetDriverVersion(text, len(text))
        return "" if failed else text.value.decode()

    def clocks(self, bus_id: str) -> Clocks | None:
        """Of the card at this bus id, now."""
        card = ctypes.c_void_p()
        found = self._library.nvmlDeviceGetHandleByPciBusId_v2(bus_id.encode(), ctypes.byref(card))
        if found:
            return None
        return Clocks(
            sm_mhz=self._number("nvmlDeviceGetClockInfo", card, _SM),
            memory_mhz=self._number("nvmlDeviceGetClockInfo", card, _MEMORY),
            power_w=self._number("nvmlDeviceGetPowerUsage", card) / 1e3,
            power_limit_w=self._number("nvmlDeviceGetEnforcedPowerLimit", card) / 1e3,
            temperature_c=self._number("nvmlDeviceGetTemperature", card, _GPU_CORE),
            held_back=self._number("nvmlDeviceGetCurrentClocksThrottleReasons", card),
        )

    def _number(self, name: str, card: ctypes.c_void_p, *which: int) -> int:
        found = ctypes.c_ulonglong()
        failed = getattr(self._library, name)(card, *which, ctypes.byref(found))
        return 0 if failed else found.value
