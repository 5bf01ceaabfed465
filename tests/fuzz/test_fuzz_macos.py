"""Whatever the tools of macOS print, nothing crashes, hangs or grows: mutations of real shapes."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.advise.macos_situations import load, names

from exosuit.advise import macos
from exosuit.advise.config_space import ConfigSpace
from exosuit.advise.doctor import diagnose, report
from exosuit.advise.situation import Answer, Situation, redact

BASE = dict(load("healthy-nvidia").situation.answers)
QUIET = settings(max_examples=120, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
PARSERS = {
    "extensions": macos.extensions,
    "thunderbolt": macos.ports,
    "ioreg": macos.functions,
    "pci": macos.profiled,
    "ps": macos.processes,
    "codesign": macos.signature,
    "app": macos.bundle_version,
    "sw_vers": macos.values_of,
    "config": ConfigSpace.from_hex,
}


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """Cuts, repeats, replacements and insertions in a real output."""
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.integers(0, 40)))
        piece = draw(
            st.one_of(
                st.just(""),
                st.text(max_size=12),
                st.sampled_from(
                    [
                        "*",
                        "\t",
                        "[",
                        "]",
                        "(",
                        "{",
                        "null",
                        "-1",
                        "1e999",
                        "<",
                        "</data>",
                        "0x",
                        "\x00",
                    ]
                ),
                st.just(text[start:stop] * 3),
            )
        )
        text = text[:start] + piece + text[stop:]
    return text


@pytest.mark.parametrize("question", PARSERS)
@QUIET
@given(data=st.data())
def test_a_damaged_answer_is_read_as_far_as_it_goes(question: str, data: st.DataObject) -> None:
    text = data.draw(mutated(BASE[question].text))
    PARSERS[question](text)
    found = diagnose(Situation("macos", {**BASE, question: Answer(text)}))
    assert len(found.checks) >= 10


@QUIET
@given(name=st.sampled_from(names()), missing=st.sets(st.sampled_from(sorted(BASE))))
def test_any_set_of_silent_tools_still_gives_a_diagnosis(name: str, missing: set[str]) -> None:
    answers = dict(load(name).situation.answers)
    for question in missing:
        answers[question] = Answer(timed_out=True, status=-1)
    checks = diagnose(Situation("macos", answers)).checks
    assert all(check.cause and check.next for check in checks if check.status == "failed")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=12,
)


@QUIET
@given(tree=JSON)
def test_any_json_is_no_crash(tree: object) -> None:
    for key in ("SPThunderboltDataType", "SPPCIDataType", None):
        text = json.dumps({key: tree} if key else tree)
        macos.ports(text)
        macos.profiled(text)
    owner = {**BASE, "owner": Answer(json.dumps(tree))}
    assert diagnose(Situation("macos", owner)).checks
    functions = {"functions": Answer(json.dumps([tree])), "owners": Answer(json.dumps(tree))}
    assert diagnose(Situation("linux", functions)).checks


@QUIET
@given(words=st.lists(st.integers(0, 255), min_size=60, max_size=300))
def test_any_configuration_space_is_judged(words: list[int]) -> None:
    answers = {**BASE, "config": Answer(bytes(words).hex())}
    assert diagnose(Situation("macos", answers)).checks


def test_depth_and_size_are_no_trouble() -> None:
    deep = "[" * 100_000
    for parse in (macos.ports, macos.profiled, macos.functions, macos.bundle_version):
        parse(deep)
    long_line = "*\t*\t9YG3G8543N\torg.tinygrad.tinygpu.driver2 (" + "1" * 2_000_000
    assert macos.extensions(long_line) == []
    assert macos.processes(" " * 2_000_000 + "tinygpu") == []
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><plist><string>&a;</string></plist>'
    assert macos.functions(bomb) == []
    assert len(redact("a@" * 200_000)) > 0


def test_a_report_of_junk_is_still_json() -> None:
    junk = Situation("macos", {name: Answer("\x00\ud800�" * 10) for name in BASE})
    assert json.loads(json.dumps(report(junk, "0")))
