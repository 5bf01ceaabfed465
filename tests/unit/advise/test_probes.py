"""Asking a live server: a software card answers, an owned or dead one is left alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.contract.serving import serving, unix_address
from tests.unit.advise.macos_situations import load

from exosuit.advise import probes
from exosuit.advise.catalogue import find_link
from exosuit.advise.config_space import ConfigSpace
from exosuit.advise.doctor import diagnose
from exosuit.advise.probes import gather_macos, read_config, run_command
from exosuit.advise.situation import Answer, Situation
from exosuit.link.lock import CardLock
from exosuit.link.tinygpu import lock_name
from exosuit.softcard.card import Options
from exosuit.softcard.chips import make_card
from exosuit.softcard.timing import find_model


def test_the_configuration_of_a_served_card_is_read_and_judged(tmp_path: Path) -> None:
    locks = tmp_path / "locks"
    with serving(make_card("generic", Options()), unix_address(tmp_path)):
        answer = read_config(tmp_path / "card.sock", locks)
    config = ConfigSpace.from_hex(answer.text)
    assert config is not None
    assert not config.is_dead
    assert config.link is not None
    answers = {**load("healthy-nvidia").situation.answers, "config": answer}
    checks = {check.name: check for check in diagnose(Situation("macos", answers)).checks}
    assert checks["configuration"].status == "ok"


def test_an_unplugged_card_reads_as_all_ones(tmp_path: Path) -> None:
    card = make_card("generic", Options())
    with serving(card, unix_address(tmp_path)):
        card.unplugged = True
        answer = read_config(tmp_path / "card.sock", tmp_path / "locks")
    answers = {**load("healthy-nvidia").situation.answers, "config": answer}
    broken = diagnose(Situation("macos", answers)).broken
    assert broken is not None
    assert broken.layer == "answer"


def test_a_card_that_somebody_owns_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, locks = tmp_path / "card.sock", tmp_path / "locks"
    monkeypatch.setattr(probes, "default_socket", lambda: path)
    card = make_card("generic", Options())
    with serving(card, unix_address(tmp_path)):
        free = gather_macos(tmp_path, lambda command, timeout_s: Answer())
        assert free.has("config")
        with CardLock.acquire(lock_name(path), locks):
            owned = gather_macos(tmp_path, lambda command, timeout_s: Answer())
    assert "config" not in owned.answers
    assert '"pid"' in owned.text("owner")


def test_a_hanging_system_keeps_the_server_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "card.sock"
    path.touch()
    monkeypatch.setattr(probes, "default_socket", lambda: path)
    found = gather_macos(tmp_path, lambda command, timeout_s: Answer(timed_out=True))
    assert "config" not in found.answers


def test_no_server_is_an_answer_too(tmp_path: Path) -> None:
    answer = read_config(tmp_path / "nothing.sock", tmp_path / "locks")
    assert answer.missing
    assert ConfigSpace.from_hex(answer.text) is None


def test_tools_are_run_with_a_limit() -> None:
    assert run_command([sys.executable, "-c", "print('yes')"], 20).text == "yes\n"
    assert run_command([sys.executable, "-c", "import time; time.sleep(9)"], 0.2).timed_out
    assert run_command(["/nonexistent/tool"], 1).missing
    failed = run_command([sys.executable, "-c", "raise SystemExit('no')"], 20)
    assert (failed.status, failed.text) == (1, "no\n")


@pytest.mark.parametrize("name", ["tb3", "tb4", "usb4", "tb5", "gen1", "usb3", "slot"])
def test_plans_and_software_cards_mean_the_same_links(name: str) -> None:
    model = find_model(name)
    assert find_link(name).gb_s == pytest.approx(model.bandwidth / 1e9)
