"""The cards that libcuda sees, without taking one: what lists and choices need to know.

Nothing here makes a context, which would take memory of the card and hundreds of milliseconds.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from exosuit.driver.cuda.library import Library
from exosuit.errors import HelperMissing, UnsupportedCard

MAJOR, MINOR = 75, 76
"""CUdevice_attribute: of the compute capability."""
LEAST_DRIVER = 12000
"""Of the functions in the table; what PTX a driver knows shows when a program is loaded."""


@dataclass(frozen=True)
class SeenCard:
    """One card. `bus_id` is its PCI function; `driver` the CUDA version of the driver: 13.0."""

    ordinal: int
    title: str
    bus_id: str
    capability: tuple[int, int]
    memory_bytes: int
    driver: str

    @property
    def name(self) -> str:
        """As in `--device`."""
        return f"cuda:{self.ordinal}"

    @property
    def target(self) -> str:
        """Raises UnsupportedCard for what is older than Ampere."""
        return supported_target(self.title, *self.capability)


def count(library: Library) -> int:
    """Cards that libcuda sees. Raises what it says if it cannot start."""
    version = library.number("cuDriverGetVersion")
    if version < LEAST_DRIVER:
        raise HelperMissing(
            "NVIDIA's driver is too old",
            cause=f"it is of CUDA {version_text(version)}; 12.0 is the oldest that does",
            next="install a driver of branch 575 or later",
            version=version,
        )
    library.call("cuInit", 0)
    return library.number("cuDeviceGetCount")


def seen_cards(library: Library) -> list[SeenCard]:
    """All of them. Raises what libcuda says if it cannot start."""
    found: list[SeenCard] = []
    for ordinal in range(count(library)):
        card = library.number("cuDeviceGet", ordinal)
        memory = ctypes.c_size_t()
        library.call("cuDeviceTotalMem_v2", ctypes.byref(memory), card)
        major, minor = (library.number("cuDeviceGetAttribute", k, card) for k in (MAJOR, MINOR))
        found.append(
            SeenCard(
                ordinal,
                library.text("cuDeviceGetName", card),
                library.text("cuDeviceGetPCIBusId", card).lower(),
                (major, minor),
                memory.value,
                version_text(library.number("cuDriverGetVersion")),
            )
        )
    return found


def supported_target(title: str, major: int, minor: int) -> str:
    """The target of a compute capability. Raises UnsupportedCard."""
    if major < 8:
        raise UnsupportedCard(
            f"{title} is of compute capability {major}.{minor}",
            cause="exosuit's kernels need 8.0 or later: Ampere, Ada, Hopper, Blackwell",
            next="exosuit plan --cards",
            capability=(major, minor),
        )
    return f"sm_{major}{minor}"


def version_text(version: int) -> str:
    """12090 is 12.9."""
    return f"{version // 1000}.{version % 1000 // 10}"
