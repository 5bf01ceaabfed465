"""The server of TinyGPU.app, written again from its description, for one client.

As the real one: a request must arrive in one piece, a refusal has no words, writes outside a BAR
vanish, PING, PROBE, RESIZE_BAR and the TCP flavour of DMA memory do not exist, mappings are at
least 16 KiB and never given back, and a segment list longer than 32 pairs is cut off. It shares no
code with the package.
"""

import array
import mmap
import os
import socket
import struct
from pathlib import Path


class AppServer:
    """Three BARs of memory, 256 bytes of configuration, DMA in pieces of `piece` bytes."""

    def __init__(self, path: Path, piece: int = 1 << 20) -> None:
        self.config = bytearray(256)
        self.config[0:4] = struct.pack("<HH", 0x10DE, 0x2684)
        self.config[6] = 0x10
        self.config[9:12] = b"\0\0\x03"
        self.config[0x34] = 0x60
        self.config[0x60:0x62] = b"\x01\0"
        self.bars = {0: bytearray(1 << 20), 1: bytearray(1 << 20)}
        self.mapped: set[int] = set()
        self.memory: list[tuple[mmap.mmap, list[tuple[int, int]]]] = []
        self.piece = piece
        self.resets = 0
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(1)

    def serve_one(self) -> None:
        stream, _ = self.listener.accept()
        with stream:
            while len(message := stream.recv(33)) == 33:
                self._answer(stream, *struct.unpack("<BIIQQQ", message))

    def _answer(
        self, stream: socket.socket, command: int, _: int, bar: int, a: int, b: int, c: int
    ) -> None:
        good = struct.pack("<BQQ", 0, 0, 0)
        bad = struct.pack("<BQQ", 1, 0, 0)
        if command == 1 and bar in self.bars:
            self.mapped.add(bar)
            stream.sendall(struct.pack("<BQQ", 0, 0x7F00_0000_0000 + bar, len(self.bars[bar])))
        elif command == 2 and len(self.memory) < 128:
            self._share(stream, a)
        elif command == 3:
            stream.sendall(
                struct.pack("<BQQ", 0, int.from_bytes(self.config[a : a + b], "little"), 0)
            )
        elif command == 4:
            if a == 4:
                self.config[a : a + b] = c.to_bytes(b, "little")
            stream.sendall(good)
        elif command == 5:
            self.resets += 1
            stream.sendall(good)
        elif command == 6 and bar in self.mapped and a + b <= len(self.bars[bar]):
            stream.sendall(struct.pack("<BQQ", 0, b, 0) + self.bars[bar][a : a + b])
        elif command == 7:
            data = b""
            while len(data) < b:
                data += stream.recv(b - len(data))
            if bar in self.mapped and a + b <= len(self.bars[bar]):
                self.bars[bar][a : a + b] = data
        else:
            stream.sendall(bad)

    def _share(self, stream: socket.socket, size: int) -> None:
        size = max(-(-size // 4096) * 4096, 0x4000)
        descriptor = os.memfd_create("app")
        os.ftruncate(descriptor, size)
        memory = mmap.mmap(descriptor, size)
        start = 0x80_0000_0000 + (len(self.memory) << 32)
        pairs = [(start + 2 * at, min(self.piece, size - at)) for at in range(0, size, self.piece)]
        self.memory.append((memory, pairs))
        listed = b"".join(struct.pack("<QQ", *pair) for pair in pairs[:32]) + bytes(16)
        memory[: len(listed)] = listed
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        stream.sendmsg([struct.pack("<BQQ", 0, size, len(self.memory) - 1)], rights)
        os.close(descriptor)

    def at(self, address: int, size: int) -> bytes:
        """What the card would read at a bus address."""
        for memory, pairs in self.memory:
            offset = 0
            for start, length in pairs:
                if start <= address < start + length:
                    return memory[offset + address - start :][:size]
                offset += length
        raise AssertionError(f"{address:#x} is not mapped")
