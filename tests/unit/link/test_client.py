"""Whatever sits at the other end, there is one clear error, no lock and no descriptor left."""

import gc
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.contract.serving import serving

from exosuit.errors import CardBusy, ExosuitError, HelperMissing, LinkError, LinkLost, ProtocolError
from exosuit.link.function import Region
from exosuit.link.lock import owner_of
from exosuit.link.open import open_link
from exosuit.link.remote import RemoteLink
from exosuit.link.tinygpu import ServerProcess, TinyGpuLink, lock_name
from exosuit.link.wire import RESPONSE
from exosuit.softcard.card import Options
from exosuit.softcard.faults import FaultSchedule
from exosuit.softcard.generic import GenericCard
from exosuit.units import MiB

Behaviour = Callable[[socket.socket], None]


@contextmanager
def peer(path: Path, behave: Behaviour) -> Iterator[None]:
    """A server of our making at `path`, for one client."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)

    def run() -> None:
        stream, _ = listener.accept()
        with stream:
            behave(stream)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(10)
        listener.close()


def good(stream: socket.socket, first: int = 0, second: int = 0, data: bytes = b"") -> None:
    stream.recv(4096)
    stream.sendall(RESPONSE.pack(0, first, second) + data)


def refused(path: Path, tmp_path: Path, timeout_s: float = 5.0) -> ExosuitError:
    """The error of opening `path`, after checking that its lock is free."""
    with pytest.raises(ExosuitError) as caught:
        TinyGpuLink.open(path, locks=tmp_path / "locks", timeout_s=timeout_s)
    assert owner_of(lock_name(path), tmp_path / "locks") is None
    assert str(caught.value).count("\n") == 2
    return caught.value


def poll(bar: Region) -> None:
    for _ in range(10):
        bar.read32(0)


def descriptors() -> int:
    """How many are open, less what earlier tests left to the garbage collector."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_no_descriptor_is_left_behind(tmp_path: Path):
    def shout(stream: socket.socket) -> None:
        stream.recv(4096)
        with (tmp_path / "gift").open("wb+") as file:
            socket.send_fds(stream, [b"x" * 17], [file.fileno()] * 3)

    before = descriptors()
    for number in range(3):
        path = tmp_path / f"s{number}"
        with peer(path, shout):
            assert isinstance(refused(path, tmp_path), ProtocolError)
    refused(tmp_path / "none", tmp_path)
    refused(tmp_path / "gift", tmp_path)
    assert descriptors() == before


def test_no_server(tmp_path: Path):
    assert isinstance(refused(tmp_path / "none", tmp_path), HelperMissing)


def test_a_stale_socket_file(tmp_path: Path):
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stale.bind(str(tmp_path / "s"))
    stale.close()
    error = refused(tmp_path / "s", tmp_path)
    assert isinstance(error, LinkLost)
    assert "gone" in error.cause


def test_a_file_that_is_no_socket(tmp_path: Path):
    (tmp_path / "s").write_text("hello")
    assert "not a socket" in refused(tmp_path / "s", tmp_path).cause


def test_a_peer_of_another_protocol(tmp_path: Path):
    def http(stream: socket.socket) -> None:
        stream.recv(4096)
        stream.sendall(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n")

    with peer(tmp_path / "s", http):
        assert isinstance(refused(tmp_path / "s", tmp_path), ProtocolError)


def test_a_truncated_reply(tmp_path: Path):
    def half(stream: socket.socket) -> None:
        stream.recv(4096)
        stream.sendall(b"\0" * 8)

    with peer(tmp_path / "s", half):
        assert "closed the connection" in refused(tmp_path / "s", tmp_path).what


def test_a_peer_that_stalls_in_the_middle_of_a_reply(tmp_path: Path):
    def stall(stream: socket.socket) -> None:
        stream.recv(4096)
        stream.sendall(b"\0" * 8)
        time.sleep(0.6)

    with peer(tmp_path / "s", stall):
        error = refused(tmp_path / "s", tmp_path, timeout_s=0.2)
    assert isinstance(error, LinkLost)
    assert "within 0.2 s" in error.what


def test_an_app_without_a_card(tmp_path: Path):
    def app(stream: socket.socket) -> None:
        text = b"Driver not available. Check: System Report > PCI for GPU."
        stream.recv(4096)
        stream.sendall(RESPONSE.pack(1, len(text), 0) + text)

    with peer(tmp_path / "s", app):
        assert isinstance(refused(tmp_path / "s", tmp_path), HelperMissing)


def test_an_app_that_does_not_know_ping_is_alive(tmp_path: Path):
    def app(stream: socket.socket) -> None:
        stream.recv(4096)
        stream.sendall(RESPONSE.pack(1, 0, 0))
        good(stream, 0x10DE)

    with peer(tmp_path / "s", app), TinyGpuLink.open(tmp_path / "s") as link:
        assert link.read_config(0, 2) == 0x10DE


def test_an_error_text_of_absurd_length_is_not_read(tmp_path: Path):
    def liar(stream: socket.socket) -> None:
        stream.recv(4096)
        stream.sendall(RESPONSE.pack(1, 1 << 60, 0))

    with peer(tmp_path / "s", liar):
        assert isinstance(refused(tmp_path / "s", tmp_path), ProtocolError)


def test_the_words_of_a_peer_stay_in_their_line(tmp_path: Path):
    def rude(stream: socket.socket) -> None:
        text = b"no\nnext:  rm -rf ~\x1b[2J" + b"x" * 5000
        good(stream)
        stream.recv(4096)
        stream.sendall(RESPONSE.pack(1, len(text), 0) + text)

    with (
        peer(tmp_path / "s", rude),
        TinyGpuLink.open(tmp_path / "s") as link,
        pytest.raises(LinkError) as caught,
    ):
        link.read_config(0, 4)
    assert str(caught.value).count("\n") == 2
    assert caught.value.what.isprintable()
    assert len(caught.value.what) < 500


def test_a_mapping_without_a_descriptor_or_without_memory(tmp_path: Path):
    def bare(stream: socket.socket) -> None:
        good(stream)
        good(stream, 16 * MiB)

    with (
        peer(tmp_path / "s", bare),
        TinyGpuLink.open(tmp_path / "s") as link,
        pytest.raises(ProtocolError, match="does not speak"),
    ):
        link.allocate_dma(4096)

    def hollow(stream: socket.socket) -> None:
        good(stream)
        stream.recv(4096)
        with (tmp_path / "small").open("wb+") as file:
            socket.send_fds(stream, [RESPONSE.pack(0, 16 * MiB, 0)], [file.fileno()])

    with (
        peer(tmp_path / "t", hollow),
        TinyGpuLink.open(tmp_path / "t") as link,
        pytest.raises(ProtocolError, match="memory that cannot be used"),
    ):
        link.allocate_dma(4096)


def test_a_page_list_of_the_wrong_length():
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        stream, _ = listener.accept()
        with stream:
            good(stream)
            good(stream, 1 << 50, 1)

    thread = threading.Thread(target=serve)
    thread.start()
    with (
        RemoteLink.open("127.0.0.1", listener.getsockname()[1]) as link,
        pytest.raises(ProtocolError, match="page addresses for 2 pages"),
    ):
        link.allocate_dma(8192)
    thread.join()
    listener.close()


def test_after_a_loss_the_link_stays_lost(tmp_path: Path):
    card = GenericCard(Options(vram=16 * MiB, faults=FaultSchedule.parse("drop@3")))
    with (
        serving(card, f"unix:{tmp_path / 's'}"),
        TinyGpuLink.open(tmp_path / "s", locks=tmp_path) as link,
    ):
        bar = link.bar(0)
        with pytest.raises(LinkLost):
            poll(bar)
        with pytest.raises(LinkLost, match="is closed"):
            bar.read32(0)
        link.close()
        assert owner_of(lock_name(tmp_path / "s"), tmp_path) is None


def test_a_stall_in_the_middle_of_a_transfer(tmp_path: Path):
    card = GenericCard(Options(vram=16 * MiB, faults=FaultSchedule.parse("stall@2")))
    with (
        serving(card, f"unix:{tmp_path / 's'}", stall_s=1.0),
        TinyGpuLink.open(tmp_path / "s", timeout_s=0.3) as link,
    ):
        bar = link.bar(0)
        began = time.monotonic()
        with pytest.raises(LinkLost, match="did not answer"):
            poll(bar)
        assert time.monotonic() - began < 2


def test_a_second_client_learns_who_is_first(tmp_path: Path):
    card = GenericCard(Options(vram=16 * MiB))
    with serving(card, f"unix:{tmp_path / 's'}"), TinyGpuLink.open(tmp_path / "s"):
        error = refused(tmp_path / "s", tmp_path)
        assert isinstance(error, CardBusy)
        assert str(os.getpid()) in error.what


def test_our_own_lock_comes_before_the_server(tmp_path: Path):
    card = GenericCard(Options(vram=16 * MiB))
    with (
        serving(card, f"unix:{tmp_path / 's'}"),
        TinyGpuLink.open(tmp_path / "s", locks=tmp_path),
        pytest.raises(CardBusy, match="in use by process"),
    ):
        TinyGpuLink.open(tmp_path / "s", locks=tmp_path)


def test_a_server_that_does_not_come_up(tmp_path: Path):
    for words in (["/does/not/exist"], [sys.executable, "-c", "raise SystemExit('no card')"]):
        with pytest.raises(HelperMissing) as caught:
            ServerProcess.start(words, tmp_path / "s", timeout_s=10)
    assert caught.value.cause == "no card"
    with pytest.raises(HelperMissing, match="did not listen"):
        ServerProcess.start(
            [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "s", timeout_s=0.2
        )


def test_a_server_killed_while_it_serves(tmp_path: Path):
    words = [sys.executable, "-m", "exosuit", "softcard", "generic", "--listen"]
    with ServerProcess.start([*words, f"unix:{tmp_path / 's'}"], tmp_path / "s") as server:
        link = TinyGpuLink.open(tmp_path / "s", locks=tmp_path)
        server.process.kill()
        server.process.wait()
        with pytest.raises(LinkLost):
            link.read_config(0, 4)
        link.close()
    # It could not remove its socket file; the next server replaces it.
    with (
        ServerProcess.start([*words, f"unix:{tmp_path / 's'}"], tmp_path / "s"),
        TinyGpuLink.open(tmp_path / "s", locks=tmp_path) as link,
    ):
        assert link.read_config(0, 2) == 0x1234


def test_a_client_killed_while_it_works_leaves_a_card_for_the_next(tmp_path: Path):
    card = GenericCard(Options(vram=16 * MiB))
    program = (
        "import os, signal; from pathlib import Path;"
        "from exosuit.link.tinygpu import TinyGpuLink;"
        f"link = TinyGpuLink.open(Path({str(tmp_path / 's')!r}), locks=Path({str(tmp_path)!r}));"
        "link.allocate_dma(1 << 20); link.bar(0).write32(0x1000, 9);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with serving(card, f"unix:{tmp_path / 's'}"):
        subprocess.run([sys.executable, "-c", program], check=False)
        with TinyGpuLink.open(tmp_path / "s", locks=tmp_path) as link:
            assert link.bar(0).read32(0x1000) == 9
            assert card.host.mappings == {}


@pytest.mark.parametrize(
    "name", ["cuda:0", "remote:", "remote:host:port", "remote:h:70000", "pci:../x", ""]
)
def test_names_that_are_none(name: str, tmp_path: Path):
    with pytest.raises(ExosuitError, match="names no card"):
        open_link(name, locks=tmp_path)


def test_an_unreachable_host(tmp_path: Path):
    with pytest.raises(LinkLost, match="cannot be reached"):
        open_link("remote:127.0.0.1:1", locks=tmp_path)
    assert owner_of("remote:127.0.0.1:1", tmp_path) is None


def test_bars_larger_than_the_card_are_refused_here_not_lost(tmp_path: Path):
    card = GenericCard(Options(vram=16 * MiB))
    with serving(card, f"unix:{tmp_path / 's'}"), TinyGpuLink.open(tmp_path / "s") as link:
        with pytest.raises(LinkError, match="lie outside BAR 2"):
            link.bar(2).write(16 * MiB - 4, bytes(8))
        with pytest.raises(LinkError, match="refused MAP_BAR: there is no BAR 3"):
            link.bar(3)
        assert link.bar(2).read32(0) == 0


def test_the_segment_list_is_wiped(tmp_path: Path):
    card = GenericCard(Options(vram=16 * MiB))
    with serving(card, f"unix:{tmp_path / 's'}"), TinyGpuLink.open(tmp_path / "s") as link:
        memory = link.allocate_dma(64)
        assert memory.read(0, 64) == bytes(64)
        memory.write(0, struct.pack("<Q", 5))
        assert card.host.parts(memory.bus_address(), 8)[0] == struct.pack("<Q", 5)
        assert link.mappings == 1
