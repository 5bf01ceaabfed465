"""Our client against a server that was written from the protocol's description alone."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.link.app_server import AppServer

from exosuit.errors import HelperMissing, LinkError
from exosuit.link.open import open_app
from exosuit.link.tinygpu import TinyGpuLink
from exosuit.silicon import pci
from exosuit.units import MiB


@pytest.fixture
def app(tmp_path: Path) -> Iterator[AppServer]:
    server = AppServer(tmp_path / "s", piece=256 << 10)
    thread = threading.Thread(target=server.serve_one)
    thread.start()
    yield server
    thread.join(5)
    server.listener.close()
    assert not thread.is_alive()


def test_config_bars_and_reset(app: AppServer, tmp_path: Path):
    with TinyGpuLink.open(tmp_path / "s") as link:
        assert link.read_config(0, 4) == 0x268410DE
        link.write_config(4, pci.Command(memory_space=True, bus_master=True), 2)
        assert pci.Command(link.read_config(4, 2)).bus_master
        assert [c.id for c in pci.capabilities(link.read_config)] == [1]
        bar = link.bar(0)
        assert bar.size == 1 * MiB
        bar.write32(0x100, 0xDEADBEEF)
        bar.write64(0x108, 1 << 40)
        bar.write(0x200, bytes(range(200)))
        assert bar.read32(0x100) == 0xDEADBEEF
        assert bar.read(0x108, 8) == (1 << 40).to_bytes(8, "little")
        assert bar.read(0x200, 200) == bytes(range(200))
        assert link.resize_bar(0) == 1 * MiB  # refused without words; the size stays
        link.reset()
        assert app.resets == 1
        with pytest.raises(LinkError, match="refused MAP_BAR"):
            link.bar(3)


def test_dma_memory_is_where_it_says(app: AppServer, tmp_path: Path):
    with TinyGpuLink.open(tmp_path / "s") as link:
        taken = [link.allocate_dma(size) for size in (64, 4096, 300_000, 1 << 20, 40)]
        for number, memory in enumerate(taken):
            for offset in range(0, memory.size - 8, 40_000):
                memory.write64(offset // 8 * 8, number << 32 | offset)
        for number, memory in enumerate(taken):
            for offset in range(0, memory.size - 8, 40_000):
                at = memory.bus_address(offset // 8 * 8)
                assert app.at(at, 8) == (number << 32 | offset).to_bytes(8, "little")
        assert link.mappings == 1


def test_segments_that_were_cut_off_are_not_used(app: AppServer, tmp_path: Path):
    with TinyGpuLink.open(tmp_path / "s") as link:
        # 16 MiB in pieces of 256 KiB are 64 segments; the app tells 32 of them: 8 MiB.
        for _ in range(8):
            memory = link.allocate_dma(1 * MiB)
            memory.write64(1 * MiB - 8, 77)
            assert app.at(memory.bus_address(1 * MiB - 8), 8) == (77).to_bytes(8, "little")
        assert link.mappings == 1
        link.allocate_dma(1 * MiB)
        assert link.mappings == 2
        with pytest.raises(LinkError, match="no 12 MiB of DMA memory"):
            link.allocate_dma(12 * MiB)


def test_contiguous_memory_within_a_piece(app: AppServer, tmp_path: Path):
    with TinyGpuLink.open(tmp_path / "s") as link:
        memory = link.allocate_dma(200_000, contiguous=True)
        assert len(memory.segments) == 1
        with pytest.raises(LinkError, match="contiguous"):
            link.allocate_dma(300_000, contiguous=True)


def test_the_app_is_started_when_no_server_listens(tmp_path: Path):
    script = tmp_path / "TinyGPU"
    script.write_text(
        "#!/bin/sh\nexec python3 -c 'import sys; sys.path.insert(0, sys.argv[3]);"
        " from pathlib import Path; from tests.unit.link.app_server import AppServer;"
        ' s = AppServer(Path(sys.argv[2])); s.serve_one(); s.serve_one()\' "$@"'
        f" {Path.cwd()}\n"
    )
    script.chmod(0o755)
    with open_app(locks=tmp_path, timeout_s=10, app=script, path=tmp_path / "s") as link:
        assert link.name == "tinygpu"
        assert link.read_config(0, 2) == 0x10DE


def test_the_app_is_not_installed(tmp_path: Path):
    with pytest.raises(HelperMissing, match="not installed"):
        open_app(locks=tmp_path, timeout_s=1, app=tmp_path / "none", path=tmp_path / "s")
