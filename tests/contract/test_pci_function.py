"""Every link passes the one contract: direct, UNIX socket, TCP, recorded, replayed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.contract.pci_function import CHECKS, GENERIC, check_pci_function
from tests.contract.serving import serving, unix_address

from exosuit.link.remote import RemoteLink
from exosuit.link.tinygpu import TinyGpuLink
from exosuit.softcard.card import Options
from exosuit.softcard.direct import DirectLink
from exosuit.softcard.generic import GenericCard
from exosuit.trace.recorder import Recorder
from exosuit.trace.replay import Replay
from exosuit.trace.tape import Tape
from exosuit.units import MiB


def card() -> GenericCard:
    return GenericCard(Options(vram=64 * MiB, strict=True))


def test_direct():
    check_pci_function(lambda: DirectLink(card()), GENERIC)


def test_unix_socket(tmp_path: Path):
    with serving(card(), unix_address(tmp_path)):
        path = tmp_path / "card.sock"
        check_pci_function(lambda: TinyGpuLink.open(path, locks=tmp_path), GENERIC)


def test_tcp(tmp_path: Path):
    with serving(card(), "tcp:127.0.0.1:0") as server:
        port = server.address.port
        check_pci_function(lambda: RemoteLink.open("127.0.0.1", port, locks=tmp_path), GENERIC)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_recorded_and_replayed(check, tmp_path: Path):
    path = tmp_path / "card.tape"

    def recorded() -> Recorder:
        return Recorder(DirectLink(card()), path)

    @contextmanager
    def replayed() -> Iterator[Replay]:
        tape = Tape.load(path)
        replay = Replay(tape)
        yield replay
        assert replay.is_finished

    with recorded() as link:
        check(link, GENERIC)
    assert not list(tmp_path.glob("*.part"))
    with replayed() as link:
        check(link, GENERIC)


def test_state_survives_a_client_that_leaves(tmp_path: Path):
    with serving(card(), unix_address(tmp_path)):
        for turn in range(3):
            with TinyGpuLink.open(tmp_path / "card.sock") as link:
                bar = link.bar(0)
                assert bar.read32(0x1000) == turn
                bar.write32(0x1000, turn + 1)
                memory = link.bar(2)
                assert memory.read32(0x40) == turn
                memory.write32(0x40, turn + 1)
                assert memory.read32(0x40) == turn + 1
