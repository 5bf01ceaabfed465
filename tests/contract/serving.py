"""A software card behind a socket, in a thread of this process, for as long as a test needs it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exosuit.softcard.card import SoftCard
from exosuit.softcard.server import Address, Server


@contextmanager
def serving(card: SoftCard, address: str, stall_s: float = 5.0) -> Iterator[Server]:
    """Serve `card` at `address`; whatever the thread raises fails the test."""
    server = Server(card, Address.parse(address), stall_s=stall_s)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            server.serve()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(10)
        server.close()
    assert not thread.is_alive()
    assert not failures, failures


def unix_address(folder: Path) -> str:
    return f"unix:{folder / 'card.sock'}"
