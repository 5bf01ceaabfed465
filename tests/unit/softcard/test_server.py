"""The server survives whatever a peer sends, in bounded time and memory, and serves the next."""

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.contract.serving import serving

from exosuit.errors import LinkError, UsageError
from exosuit.link.remote import RemoteLink
from exosuit.link.tinygpu import TinyGpuLink
from exosuit.link.wire import BULK_LIMIT, REQUEST, RESPONSE, Command
from exosuit.silicon import generic
from exosuit.softcard.card import Options
from exosuit.softcard.generic import GenericCard
from exosuit.softcard.server import Address, Server
from exosuit.units import MiB


def card(**options: object) -> GenericCard:
    return GenericCard(Options(**{"vram": 16 * MiB, **options}))  # type: ignore[arg-type]


@contextmanager
def client(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(5)
        stream.connect(str(path))
        yield stream


def request(command: int, bar: int = 0, *arguments: int) -> bytes:
    return REQUEST.pack(command, 0, bar, *(*arguments, 0, 0, 0)[:3])


def answer(stream: socket.socket) -> tuple[int, str | tuple[int, int]]:
    status, first, second = RESPONSE.unpack(exactly(stream, RESPONSE.size))
    return (status, exactly(stream, first).decode()) if status else (status, (first, second))


def exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := stream.recv(size - len(data))):
        data += part
    return data


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (request(99), "no command 99"),
        (request(Command.CFG_READ, 0, 0, 3), "by 1, 2 or 4 bytes"),
        (request(Command.CFG_WRITE, 0, 0, 1 << 60), "by 1, 2 or 4 bytes"),
        (request(Command.MAP_BAR, 7), "no BAR 7"),
        (request(Command.MMIO_READ, 0, 1 << 63, 4), "outside BAR 0"),
        (request(Command.MMIO_READ, 2, 0, BULK_LIMIT + 4), "outside BAR 2"),
        (request(Command.SYSMEM_READ, 5, 0, 4), "outside mapping 5"),
        (request(Command.MAP_SYSMEM_FD, 0, 1 << 62), "too much"),
        (request(Command.MAP_SYSMEM, 0, 1 << 62), "too much"),
        (request(Command.RESIZE_BAR, 0), "cannot be resized"),
    ],
)
def test_wrong_requests_are_refused_in_words(sent: bytes, words: str, tmp_path: Path):
    with serving(card(), f"unix:{tmp_path / 's'}"), client(tmp_path / "s") as stream:
        stream.sendall(sent + request(Command.PING))
        status, text = answer(stream)
        assert (status, words in str(text)) == (1, True), text
        assert answer(stream) == (0, (0, 0))


def test_posted_writes_outside_are_swallowed_whole_and_noted(tmp_path: Path):
    soft = card()
    with serving(soft, f"unix:{tmp_path / 's'}"), client(tmp_path / "s") as stream:
        for command, bar, offset in ((7, 0, 1 << 40), (7, 9, 0), (10, 3, 0), (7, 2, 16 * MiB)):
            stream.sendall(request(command, bar, offset, 100_000) + bytes(100_000))
        stream.sendall(request(Command.PING))
        assert answer(stream) == (0, (0, 0))
    assert len(soft.notes) == 4


def test_a_strict_card_ends_the_session_and_takes_the_next(tmp_path: Path):
    with serving(card(strict=True), f"unix:{tmp_path / 's'}"):
        with client(tmp_path / "s") as stream:
            stream.sendall(request(Command.MMIO_WRITE, 0, 0x800, 4) + bytes(4))
            assert stream.recv(100) == b""
        with TinyGpuLink.open(tmp_path / "s") as link:
            assert link.read_config(0, 2) == generic.VENDOR_ID


def test_an_endless_payload_ends_the_session(tmp_path: Path):
    with serving(card(), f"unix:{tmp_path / 's'}"), client(tmp_path / "s") as stream:
        stream.sendall(request(Command.MMIO_WRITE, 0, 0, 1 << 62))
        assert stream.recv(100) == b""


@pytest.mark.parametrize(
    "begun", [b"\x06\0\0", request(Command.MMIO_WRITE, 2, 0, 1000) + bytes(10)]
)
def test_a_peer_that_stalls_in_mid_message_is_dropped(begun: bytes, tmp_path: Path):
    with serving(card(), f"unix:{tmp_path / 's'}", stall_s=0.2):
        with client(tmp_path / "s") as stream:
            stream.sendall(begun)
            began = time.monotonic()
            assert stream.recv(100) == b""
            assert time.monotonic() - began < 2
        with TinyGpuLink.open(tmp_path / "s") as link:
            assert link.read_config(0, 2) == generic.VENDOR_ID


def test_requests_may_arrive_byte_by_byte(tmp_path: Path):
    with serving(card(), f"unix:{tmp_path / 's'}"), client(tmp_path / "s") as stream:
        for byte in request(Command.CFG_READ, 0, 0, 2):
            stream.sendall(bytes([byte]))
        assert answer(stream) == (0, (generic.VENDOR_ID, 0))


def test_a_peer_that_leaves_in_mid_message(tmp_path: Path):
    with serving(card(), f"unix:{tmp_path / 's'}"):
        for cut in (1, 32, 33, 40):
            with client(tmp_path / "s") as stream:
                stream.sendall((request(Command.MMIO_WRITE, 2, 0, 100) + bytes(99))[:cut])
        with TinyGpuLink.open(tmp_path / "s") as link:
            assert link.read_config(0, 2) == generic.VENDOR_ID


def test_clients_that_reset_the_connection_at_once():
    with serving(card(), "tcp:127.0.0.1:0") as server:
        for _ in range(30):
            stream = socket.create_connection(("127.0.0.1", server.address.port))
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.close()
        with RemoteLink.open("127.0.0.1", server.address.port) as link:
            assert link.read_config(0, 2) == generic.VENDOR_ID


def test_ten_thousand_posted_writes_in_one_burst(tmp_path: Path):
    soft = card()
    with serving(soft, f"unix:{tmp_path / 's'}"), client(tmp_path / "s") as stream:
        burst = b"".join(
            request(Command.MMIO_WRITE, 0, 0x1000 + 4 * (n % 1024), 4) + struct.pack("<I", n)
            for n in range(10_000)
        )
        stream.sendall(burst + request(Command.MMIO_READ, 0, 0x1000, 4096))
        assert answer(stream) == (0, (4096, 0))
        words = struct.unpack("<1024I", exactly(stream, 4096))
        assert words == tuple(range(9216, 10_000)) + tuple(range(8976, 9216))
    assert (soft.meter.writes, soft.meter.bytes_written, soft.meter.reads) == (10_000, 40_000, 1)


def test_descriptors_pass_over_unix_sockets_only():
    with (
        serving(card(), "tcp:127.0.0.1:0") as server,
        RemoteLink.open("127.0.0.1", server.address.port) as link,
    ):
        with pytest.raises(LinkError, match="UNIX sockets only"):
            link._connection.ask(Command.MAP_SYSMEM_FD, 0, 4096)
        assert link.probe(generic.VENDOR_ID) == ["soft:0"]
        assert link.probe(generic.VENDOR_ID, [(0xFFFF, 0x744C)]) == []
        assert link.probe(generic.VENDOR_ID, base_class=0x03) == []
        assert link.probe(generic.VENDOR_ID, base_class=0x12) == ["soft:0"]
        assert link.probe(0x1002) == []


def test_an_engine_that_waits_for_memory_sees_it_change_in_silence(tmp_path: Path):
    """Over a UNIX socket the client writes shared memory and the server hears nothing."""
    with serving(card(), f"unix:{tmp_path / 's'}"), TinyGpuLink.open(tmp_path / "s") as link:
        link.write_config(4, 6, 2)
        flag, ring = link.allocate_dma(4096), link.allocate_dma(4096)
        wait = generic.Wait.build(source=flag.bus_address(), value=1)
        wait.header = wait.header.replace(source=generic.Aperture.HOST)
        fence = generic.Fence.build(target=flag.bus_address(8), value=2)
        fence.header = fence.header.replace(target=generic.Aperture.HOST)
        work = bytes(wait) + bytes(fence)
        ring.write(0, work)
        registers = generic.Registers(link.bar(0))
        registers.RING_BASE.write(ring.bus_address())
        registers.RING_SIZE.write(4096)
        registers.CONTROL.write(enable=True)
        link.bar(4).write64(0, len(work))
        assert registers.STATUS.read().waiting
        flag.write64(0, 1)
        deadline = time.monotonic() + 5
        while flag.read32(8) != 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert flag.read32(8) == 2


def test_two_servers_cannot_have_one_address(tmp_path: Path):
    address = Address.parse(f"unix:{tmp_path / 's'}")
    with serving(card(), str(address)):
        with pytest.raises(LinkError) as caught:
            Server(card(), address)
        assert "another server listens" in caught.value.cause
    assert not (tmp_path / "s").exists()
    with Server(card(), Address.parse("tcp:127.0.0.1:0")) as server:
        assert server.address.port > 0
        with pytest.raises(LinkError, match="cannot be served"):
            Server(card(), server.address)


def test_a_client_cannot_shrink_the_memory_that_the_card_writes(tmp_path: Path):
    with serving(card(), f"unix:{tmp_path / 's'}"), client(tmp_path / "s") as stream:
        stream.sendall(request(Command.MAP_SYSMEM_FD, 0, 1 << 20, 1))
        _, descriptors, _, _ = socket.recv_fds(stream, RESPONSE.size, 1)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptors[0], 0)
        os.close(descriptors[0])


def test_a_crowd_is_turned_away(tmp_path: Path):
    with serving(card(), f"unix:{tmp_path / 's'}"), TinyGpuLink.open(tmp_path / "s") as link:
        crowd = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(40)]
        for stream in crowd:
            stream.settimeout(5)
            stream.connect(str(tmp_path / "s"))
            assert link.read_config(0, 2) == generic.VENDOR_ID
        assert crowd[-1].recv(1) == b""
        crowd[0].sendall(request(Command.PING))
        status, text = answer(crowd[0])
        assert (status, "card in use by process" in str(text)) == (1, True)
        for stream in crowd:
            stream.close()
        assert link.read_config(0, 2) == generic.VENDOR_ID


def test_the_socket_is_private(tmp_path: Path):
    with serving(card(), f"unix:{tmp_path / 's'}"):
        assert (tmp_path / "s").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "unix:", "tcp:1", "tcp::5", "tcp:h:x", "tcp:h:99999", "x"])
def test_addresses_that_are_none(text: str):
    with pytest.raises(UsageError, match="no address"):
        Address.parse(text)
