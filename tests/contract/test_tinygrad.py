"""A program that knows the protocol from elsewhere drives our card: tinygrad's remote device.

tinygrad is the protocol's author and its client boots real cards. It is a test dependency only.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.contract.serving import serving

from exosuit.silicon import generic, pci
from exosuit.softcard.card import Options
from exosuit.softcard.generic import GenericCard
from exosuit.units import MiB

system: Any = pytest.importorskip("tinygrad.runtime.support.system")

DEVICES = ((0xFFFF, (generic.DEVICE_ID,)),)


@contextmanager
def tinygrad_device(card: GenericCard, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """tinygrad's own way to a remote card: REMOTE, a probe, a device."""
    with serving(card, "tcp:127.0.0.1:0") as server:
        monkeypatch.setenv("REMOTE", f"127.0.0.1:{server.address.port}")
        for cached in (system.getenv, system.RemotePCIDevice.remote_sock):
            cached.cache_clear()
        system.RemotePCIDevice.remote_list.cache_clear()
        found = system.RemotePCIDevice.remote_list(generic.VENDOR_ID, DEVICES, None)
        assert len(found) == 1
        stream, name = found[0]
        umask = os.umask(0o22)
        device = system.RemotePCIDevice("XO", name, stream)  # clears this process's umask
        os.umask(umask)
        try:
            yield device
        finally:
            stream.close()
            os.close(device.lock_fd)


def test_probe_config_bars_and_dma(monkeypatch: pytest.MonkeyPatch):
    card = GenericCard(Options(vram=512 * MiB, strict=True))
    with tinygrad_device(card, monkeypatch) as device:
        assert device.pcibus.startswith("remote:127.0.0.1:")
        assert device.dev_id == 0
        assert device.read_config(0, 4) == generic.VENDOR_ID | generic.DEVICE_ID << 16
        command = pci.Command(device.read_config(4, 2)).replace(bus_master=True)
        device.write_config(4, command, 2)
        assert pci.Command(device.read_config(4, 2)).bus_master
        address, size = device.bar_info(generic.MEMORY_BAR)
        assert (address, size) == (card.config.address(2), 256 * MiB)

        registers = device.map_bar(generic.REGISTER_BAR, fmt="I")
        assert registers[0] == generic.MAGIC
        registers[0x1000 // 4] = 0xCAFE
        assert registers[0x1000 // 4] == 0xCAFE
        memory = device.map_bar(generic.MEMORY_BAR)
        memory[0x100:0x110] = bytes(range(16))
        assert memory[0x100:0x110] == bytes(range(16))
        assert bytes(card.memory[0x100:0x110]) == bytes(range(16))

        view, pages = device.alloc_sysmem(0x3000)
        assert len(pages) == 3
        assert all(page % 4096 == 0 and page < 1 << 40 for page in pages)
        view[0:5] = b"hello"
        assert view[0:5] == b"hello"
        copy = generic.Copy.build(source=pages[0], target=0x8000, count=5)
        copy.header = copy.header.replace(source=generic.Aperture.HOST)
        fence = generic.Fence.build(target=pages[2], value=7)
        fence.header = fence.header.replace(target=generic.Aperture.HOST)
        work = bytes(copy) + bytes(fence)
        view[0x1000 : 0x1000 + len(work)] = work
        wide = registers.view(fmt="Q")
        offsets = {name: r.offset for name, r in generic.Registers.REGISTERS.items()}
        wide[offsets["RING_BASE"] // 8] = pages[1]
        registers[offsets["RING_SIZE"] // 4] = 4096
        registers[offsets["CONTROL"] // 4] = 1
        device.map_bar(generic.DOORBELL_BAR, fmt="Q")[0] = len(work)
        assert view.view(0x2000, 8, fmt="Q")[0] == 7
        assert bytes(memory[0x8000:0x8005]) == b"hello"

        device.resize_bar(generic.MEMORY_BAR)
        device.reset()
        assert registers[0] == generic.MAGIC
    assert card.notes == []


def test_a_burst_of_posted_writes(monkeypatch: pytest.MonkeyPatch):
    card = GenericCard(Options(vram=64 * MiB))
    with tinygrad_device(card, monkeypatch) as device:
        registers = device.map_bar(generic.REGISTER_BAR, fmt="I")
        for number in range(10_000):
            registers[0x1000 // 4 + number % 1024] = number
        assert registers[0x1000 // 4 + 9_999 % 1024] == 9_999
        assert card.meter.writes == 10_000


def test_the_flavour_with_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The macOS class, given a socket instead of the app: memory is shared, not asked for."""
    card = GenericCard(Options(vram=64 * MiB))
    with serving(card, f"unix:{tmp_path / 's'}"):
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.connect(str(tmp_path / "s"))
        apple = system.APLRemotePCIDevice
        device = apple.__new__(apple)
        device.sock, device.dev_id, device.pcibus = stream, 0, "usb4"
        view, pages = device.alloc_sysmem(0x8000)
        assert device.read_config(0, 2) == generic.VENDOR_ID
        view[0:8] = struct.pack("<Q", 42)
        assert card.host.parts(pages[0], 8)[0] == struct.pack("<Q", 42)
        stream.close()
