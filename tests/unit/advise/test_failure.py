"""A failed boot is kept, told and forgotten; what is read back is trusted with nothing."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.softcard.nvidia_cards import boot, boot_route, make

from exosuit.advise.doctor import diagnose
from exosuit.advise.failure import (
    FILE,
    LARGEST_LOG,
    Failure,
    last_failure,
    meaning_of,
    meanings,
    remembered,
)
from exosuit.advise.situation import Answer, Situation
from exosuit.errors import BootFailed, CardHung, LinkLost, UsageError


def failed(what: str = "the card did not finish", step: str = "gsp", **facts: object) -> BootFailed:
    return BootFailed(what, cause="it hangs", next="exosuit doctor", step=step, **facts)


def keep(error: Exception, state: Path, device: str = "tinygpu") -> Failure | None:
    with pytest.raises(type(error)), remembered(device, state):
        raise error
    return Failure.read(last_failure(state))


def test_what_is_kept(tmp_path: Path) -> None:
    error = failed(
        step_why="it starts", mailbox0=0xB, words="x" * 999, logs={"LOGRM": b"\1\2" * 50, 5: "no"}
    )
    kept = keep(error, tmp_path / "state")
    assert kept is not None
    assert (kept.device, kept.step, kept.why) == ("tinygpu", "gsp", "it starts")
    assert (kept.what, kept.cause, kept.next) == (error.what, error.cause, error.next)
    assert kept.facts == {"mailbox0": 0xB, "words": "x" * 300}
    assert kept.logs == {"LOGRM": b"\1\2" * 50}


def test_only_boots_are_kept(tmp_path: Path) -> None:
    assert keep(UsageError("w", cause="c", next="n"), tmp_path) is None
    assert keep(LinkLost("w", cause="c", next="n"), tmp_path) is None
    assert keep(LinkLost("w", cause="c", next="n", step="identify"), tmp_path) is not None


def test_a_boot_that_works_forgets_its_own_failure_only(tmp_path: Path) -> None:
    assert keep(failed(), tmp_path) is not None
    with remembered("pci:0000:05:00.0", tmp_path):
        pass
    assert last_failure(tmp_path)
    with remembered("tinygpu", tmp_path):
        pass
    assert last_failure(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert keep(failed(), tmp_path / "file" / "state") is None


def test_logs_are_bounded(tmp_path: Path) -> None:
    kept = keep(failed(logs={"LOGRM": bytes(LARGEST_LOG + 5)}), tmp_path)
    assert kept is not None
    assert len(kept.logs["LOGRM"]) == LARGEST_LOG
    found = json.loads(last_failure(tmp_path))
    found["logs"] = {"bomb": base64.b64encode(zlib.compress(bytes(50 << 20))).decode()}
    read = Failure.read(json.dumps(found))
    assert read is not None
    assert len(read.logs["bomb"]) == LARGEST_LOG


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
WORDS = ("device", "when", "step", "why", "what", "cause", "next", "facts", "logs")


@given(JUNK)
def test_anything_else_is_no_failure(found: object) -> None:
    assert Failure.read(json.dumps(found)) is None


@settings(max_examples=30, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(WORDS, JUNK)))
def test_malformed_failures_never_raise(found: dict[str, object]) -> None:
    failure = Failure.read(json.dumps(found))
    if failure is not None:
        meaning_of(failure)
        assert Failure.read(failure.as_text()) == failure


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "9" * 5000, "[" * 100_000])
def test_texts_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert Failure.read(last_failure(tmp_path)) is None
    with remembered("tinygpu", tmp_path):
        pass


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (failed("SEC2 ended with mailbox 0x0b", "booter", mailbox0=0xB), "refused what it was"),
        (failed("SEC2 ended with mailbox 0x31", "booter", mailbox0=0x31), "does not publish"),
        (failed(mailbox0=0x8000_0000), "parked itself"),
        (failed(mailbox0=0), ""),
        (failed(wpr2=0x1FF), "a process before this one"),
        (failed("the card did not finish: FSP: its answer", "fsp"), "until they lose power"),
        (failed("GSP: its DMA, which does not end", "fwsec"), "cannot reach"),
        (failed(status=0x65), "timed out while it started"),
        (failed(bar=1, size=0), "BAR 1"),
        (failed(bar=0, size=0), "registers have no window"),
        (failed("the card x answers on the bus, but its registers read 0xffffffff"), "retrained"),
        (failed("the card x has gone", "identify"), "all ones"),
        (failed("the card's FSP refuses to start the GSP (error 0x3f)", "fsp"), "did not like"),
        (failed("the card's firmware did not give the answer to x"), "stopped answering"),
        (failed(xid=79), "fell off the bus"),
        (failed("everything else", "queues"), ""),
    ],
)
def test_what_failures_mean(error: BootFailed, words: str) -> None:
    meaning = meaning_of(Failure.of("tinygpu", error, 0.0))
    assert words in meaning.says if meaning else not words


def test_a_boot_of_our_driver_that_failed(tmp_path: Path) -> None:
    """Signed code that ends with an error: the step with its sentence."""
    with pytest.raises((BootFailed, CardHung)), remembered("soft:gb202", tmp_path):
        boot(make("gb202,vram=1G,faults=mailbox@60+mailbox@300"))
    kept = Failure.read(last_failure(tmp_path))
    assert kept is not None
    assert kept.step
    assert kept.why
    assert kept.cause
    assert all(isinstance(fact, (int, float, str)) for fact in kept.facts.values())
    checks = diagnose(Situation("linux", {"boot": Answer(kept.as_text())})).checks
    (told,) = (check for check in checks if check.name == "last boot")
    assert (told.status, f"step {kept.step} (" in told.found) == ("warning", True)


@pytest.mark.parametrize("chip", ["ad102", "gb202"])
def test_steps_that_meanings_name_are_steps_of_the_boot(chip: str) -> None:
    route = boot_route(make(f"{chip},vram=1G"))
    steps = {report.name for report in route.card.reports}
    route.stop()
    named = {meaning.step for meaning in meanings() if meaning.step}
    assert named - steps <= ({"fwsec", "booter"} if chip == "gb202" else set())


def test_every_meaning_says_where_it_is_from() -> None:
    for meaning in meanings():
        assert meaning.says
        assert meaning.source
        assert meaning.step or meaning.text or meaning.field
        assert "." not in meaning.says[-1]
