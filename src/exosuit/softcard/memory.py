"""Memory of a software card: as large as asked for, and real only where it was touched."""

from __future__ import annotations

import ctypes
import mmap
import sys

from exosuit.errors import CardError
from exosuit.units import human_bytes

_NO_RESERVE = {"linux": 0x4000, "darwin": 0x40}.get(sys.platform, 0)
"""MAP_NORESERVE, which Python 3.11 does not name: no promise of pages that may never be used."""


def sparse_memory(size: int) -> memoryview:
    """`size` zero bytes whose pages come into being when they are touched."""
    try:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        return memoryview(mmap.mmap(-1, size, flags=flags))
    except (OSError, ValueError, OverflowError) as error:
        raise CardError(
            f"this computer cannot pretend {human_bytes(size)} of card memory",
            cause=str(error),
            next="exosuit softcard generic --vram 1G",
            size=size,
        ) from error


def host_address(memory: memoryview) -> int:
    """Where the bytes lie in this process, for code that is handed plain addresses.

    Valid for as long as somebody keeps the memory.
    """
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
