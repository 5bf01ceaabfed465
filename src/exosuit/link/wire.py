"""The wire protocol of TinyGPU.app and of tinygrad's remote devices, as both ends need it.

A request is 33 bytes and perhaps a payload, a reply 17 bytes and perhaps data, little-endian and
packed. Writes to BARs and DMA memory have no reply at all. A reply with status 1 carries the length
of a text that follows. Two flavours share it: over a UNIX socket DMA memory is shared by passing a
descriptor (MAP_SYSMEM_FD), over TCP every access to it is a request (MAP_SYSMEM).

Source: tinygrad 0.14.0 runtime/support/system.py (client) and extra/usbgpu/tbgpu server.c (server),
facts only; `docs/protocol.md` has the whole of it.
"""

from __future__ import annotations

import struct
from enum import IntEnum


class Command(IntEnum):
    PROBE = 0
    MAP_BAR = 1
    MAP_SYSMEM_FD = 2
    CFG_READ = 3
    CFG_WRITE = 4
    RESET = 5
    MMIO_READ = 6
    MMIO_WRITE = 7
    MAP_SYSMEM = 8
    SYSMEM_READ = 9
    SYSMEM_WRITE = 10
    RESIZE_BAR = 11
    PING = 12


POSTED = frozenset({Command.MMIO_WRITE, Command.SYSMEM_WRITE})
"""Commands that are never answered."""

REQUEST = struct.Struct("<BIIQQQ")
"""Command, device, BAR or handle, and three arguments."""
RESPONSE = struct.Struct("<BQQ")
"""Status (0 is good), and two results."""

STATUS_GOOD = 0
STATUS_ERROR = 1

BULK_LIMIT = 64 << 20
"""Largest payload of one request: the app's buffer."""
TEXT_LIMIT = 64 << 10
"""Longest error text or listing that is believed."""
MAPPING_LIMIT = 128
"""DMA mappings of one session of the app; it has no way to unmap."""
SEGMENT_LIMIT = 32
"""Bus segments of one mapping of the app; what lies beyond is cut off without a word."""
SEGMENT_LIST = 4096
"""Bytes at the start of a shared mapping that hold its segment list when it arrives."""
SMALLEST_MAPPING = 0x4000
DEFAULT_PORT = 6667
"""TCP port of tinygrad's remote server."""
BUSY_PREFIX = "card in use by "
"""How our server begins the text that refuses a second client; what follows is the owner."""

SEGMENT = struct.Struct("<QQ")


def pack_segments(segments: list[tuple[int, int]]) -> bytes:
    """The list that begins a shared mapping: (bus address, size) pairs and a zero pair."""
    return b"".join(SEGMENT.pack(*pair) for pair in segments) + SEGMENT.pack(0, 0)


def unpack_segments(data: bytes | memoryview) -> list[tuple[int, int]]:
    """The pairs before the first of size zero; at most `SEGMENT_LIMIT`."""
    found: list[tuple[int, int]] = []
    for index in range(min(SEGMENT_LIMIT, len(data) // SEGMENT.size)):
        address, size = SEGMENT.unpack_from(data, index * SEGMENT.size)
        if size == 0:
            break
        found.append((address, size))
    return found
