"""Anything at all may be sent to the server, or answered to the client: no hang, no crash."""

import socket
import struct
import threading

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exosuit.errors import ExosuitError
from exosuit.link.client import Connection, WireFunction
from exosuit.link.remote import RemoteLink
from exosuit.link.tinygpu import TinyGpuLink
from exosuit.link.wire import REQUEST, RESPONSE
from exosuit.softcard.card import Options, Refused
from exosuit.softcard.generic import GenericCard
from exosuit.softcard.server import serve_requests
from exosuit.softcard.session import PeerGone, Session
from exosuit.units import MiB

SIZES = st.sampled_from(
    [0, 1, 2, 3, 4, 8, 33, 4096, 65536, 16 << 20, 64 << 20, 1 << 31, 1 << 40, 1 << 63, 2**64 - 1]
)
NUMBERS = st.one_of(SIZES, st.integers(0, 2**64 - 1), st.integers(0, 0x2000))
REQUESTS = st.builds(
    lambda command, bar, a, b, c, payload: REQUEST.pack(command, 0, bar, a, b, c) + payload,
    st.one_of(st.integers(0, 13), st.integers(0, 255)),
    st.one_of(st.integers(0, 6), st.integers(0, 2**32 - 1)),
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.binary(max_size=64),
)
QUICK = settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(st.lists(st.one_of(REQUESTS, st.binary(max_size=80)), max_size=12), st.booleans())
def test_the_server_survives_any_bytes(messages: list[bytes], strict: bool):
    card = GenericCard(Options(vram=4 * MiB, strict=strict))
    card.host.limit = 64 * MiB
    ours, theirs = socket.socketpair()
    drained = threading.Thread(target=_drain, args=(theirs,))
    with ours:
        theirs.sendall(b"".join(messages))
        theirs.shutdown(socket.SHUT_WR)
        drained.start()
        session = Session(ours, "a fuzzer", stall_s=0.5)
        try:
            while session.fill():
                serve_requests(card, session)
        except (PeerGone, Refused):
            pass
    drained.join(5)
    theirs.close()
    card.host.clear()
    assert not drained.is_alive()
    assert len(card.notes) <= 1000


def _drain(stream: socket.socket) -> None:
    try:
        while stream.recv(1 << 20):
            pass
    except OSError:
        pass


REPLIES = st.one_of(
    st.builds(RESPONSE.pack, st.integers(0, 3), NUMBERS, NUMBERS),
    st.binary(max_size=40),
    st.integers(0, 2**64 - 1).map(lambda n: struct.pack("<Q", n)),
)


@QUICK
@given(st.lists(REPLIES, max_size=10), st.booleans())
def test_the_client_survives_any_answer(replies: list[bytes], remote: bool):
    ours, theirs = socket.socketpair()
    theirs.sendall(b"".join(replies))
    theirs.shutdown(socket.SHUT_WR)
    kind = RemoteLink if remote else TinyGpuLink
    link = kind("fuzz", Connection(ours, "a fuzzer", 0.5), None)
    errors: list[ExosuitError] = []
    for use in (_look, _allocate, _look, _allocate):
        try:
            use(link)
        except ExosuitError as error:
            errors.append(error)
    link.close()
    theirs.close()
    assert all(str(error).count("\n") == 2 for error in errors)


def _look(link: WireFunction) -> None:
    link.read_config(0, 4)
    bar = link.bar(0)
    bar.read32(0)
    bar.read(0, min(bar.size, 64) & ~3)
    link.resize_bar(0)
    link.reset()


def _allocate(link: TinyGpuLink | RemoteLink) -> None:
    if isinstance(link, RemoteLink):
        link.probe(0x1002)
    link.allocate_dma(4096).write32(0, 1)
