"""`exosuit plan`, `doctor` and `setup` as they are typed."""

import json
import sys
from pathlib import Path

import pytest
from tests.unit.advise.macos_situations import load

from exosuit.cli.main import main
from exosuit.errors import UsageError
from exosuit.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path))


def document(capsys):
    return json.loads(capsys.readouterr().out)


def test_plan_for_a_card_that_one_does_not_own(capsys, settings):
    words = ["plan", "llama-3-70b", "--card", "5090", "--mac", "m4-pro:48", "--json"]
    assert main(words, settings) == 0
    found = document(capsys)
    assert found["model"] == "llama-3.3-70b:Q4_K_M"
    assert found["fits"] is False
    assert [part["device"] for part in found["placement"]] == ["Apple M4 Pro", "RTX 5090"]
    assert found["instead"]


def test_plan_of_a_file(capsys, settings, shared):
    path = next((shared / "models/smollm2-135m-instruct").glob("*.gguf"))
    assert main(["plan", str(path), "--mac", "m1:8", "--json"], settings) == 0
    found = document(capsys)
    assert found["fits"] is True
    assert found["weight_bytes"] < path.stat().st_size
    assert found["context"] == 8192


def test_plan_in_words(capsys, settings):
    words = ["plan", "qwen3-8b:q4_k_m", "--card", "rx 7900 xtx", "--mac", "m4"]
    assert main([*words, "--explain"], settings) == 0
    out = capsys.readouterr().out
    assert "fits: all on RX 7900 XTX" in out
    assert "because:" in out
    assert "has not been measured on a card yet" in out


def test_plan_lists_what_it_knows(capsys, settings):
    assert main(["plan", "--models"], settings) == 0
    assert "gpt-oss-20b" in capsys.readouterr().out
    assert main(["plan", "--cards", "--json"], settings) == 0
    assert {"cards", "macs", "links"} == set(document(capsys))


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["plan"], 2, "needs a model"),
        (["plan", "llama-9-900b", "--mac", "m4"], 1, "no model called"),
        (["plan", "llama-4-scout-8b"], 1, "109B"),
        (["plan", "qwen3-8b:Q9", "--mac", "m4"], 2, "Q9"),
        (["plan", "qwen3-8b", "--card", "voodoo 2"], 2, "voodoo 2"),
        (["plan", "qwen3-8b", "--mac", "m4:lots"], 2, "lots"),
        (["plan", "qwen3-8b", "--mac", "m4", "--context", "-1"], 2, "context"),
        (["plan", "/nonexistent/x.gguf", "--mac", "m4"], 1, "x.gguf"),
        (["doctor", "--from", "/nonexistent"], 1, "no report"),
        (["setup", "--card", "voodoo 2"], 2, "voodoo 2"),
        (["setup", "--card", "10de:1b80"], 2, "Ampere is the oldest NVIDIA generation"),
        (["setup", "--card", "H100 PCIe"], 2, "only NVIDIA's own driver starts GH100"),
        (["setup", "--from", "/nonexistent"], 2, "no folder"),
    ],
)
def test_mistakes_are_told_in_three_lines(capsys, settings, words, status, told):
    assert main(words, settings) == status
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith(("error:", "cause:", "next:"))
    ]
    assert [line.split(":")[0] for line in lines] == ["error", "cause", "next"]
    assert told in "\n".join(lines)


def test_doctor_looks_at_this_machine(capsys, settings):
    status = main(["doctor", "--json"], settings)
    found = document(capsys)
    assert set(found) == {"ok", "checks"}
    assert status == (0 if found["ok"] else 1)
    keys = {"layer", "name", "status", "found", "cause", "next"}
    assert all(set(check) == keys for check in found["checks"])


def test_doctor_diagnoses_a_report_of_another_machine(capsys, settings, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(load("approval-pending").situation.as_json()))
    again = tmp_path / "again.json"
    assert main(["doctor", "--from", str(path), "--report", str(again), "--explain"], settings) == 1
    told = capsys.readouterr()
    assert "FAILED" in told.out
    assert "LoginItems-Settings" in told.err
    assert main(["doctor", "--from", str(again), "--json"], settings) == 1
    assert document(capsys)["checks"]


def test_list_of_a_report(capsys, settings, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(load("controller-3d").situation.as_json()))
    assert main(["list", "--from", str(path), "--json"], settings) == 0
    (card,) = document(capsys)["devices"]
    assert card["verdict"] == "unsupported"


def test_a_report_that_cannot_be_written(capsys, settings, tmp_path):
    target = tmp_path / "missing" / "x.json"
    assert main(["doctor", "--report", str(target)], settings) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_doctor_prints_the_settings(capsys, settings):
    assert main(["doctor", "--settings"], settings) == 0
    assert "EXOSUIT_HOME" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="a Mac may lack more than firmware")
def test_setup_changes_nothing_unless_told(capsys, settings, tmp_path):
    assert main(["setup", "--card", "RTX 4090", "--json"], settings) == 0
    steps = document(capsys)["steps"]
    assert steps[0]["who"] == "exosuit"
    assert "3 of 3 firmware files" in steps[0]["what"]
    assert not settings.firmware.exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    words = ["setup", "--card", "RTX 4090", "--yes", "--from", str(empty)]
    assert main(words, settings) == 1
    assert "gsp-570.144.bin" in capsys.readouterr().err


def test_a_usage_error_is_one(settings):
    assert UsageError("x", cause="y", next="z").exit_status == 2
    assert main(["plan", "--nonsense"], settings) == 2
