"""`exosuit softcard` and `exosuit trace`, as typed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from exosuit.cli.main import main
from exosuit.link.tinygpu import TinyGpuLink
from exosuit.settings import Settings
from exosuit.softcard.process import SoftLink

EXOSUIT = [sys.executable, "-m", "exosuit"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path / "home"))


def test_a_card_is_served_until_it_is_told_to_end(tmp_path: Path):
    words = [*EXOSUIT, "softcard", "generic", "--listen", f"unix:{tmp_path / 's'}", "--link", "tb4"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as server:
        assert server.stdout.readline() == f"ready unix:{tmp_path / 's'}\n"
        with TinyGpuLink.open(tmp_path / "s") as link:
            link.bar(0).write32(0x800, 1)
            assert link.bar(0).read32(0) == 0x314F5845
        server.send_signal(signal.SIGTERM)
        _, told = server.communicate(timeout=10)
    assert server.returncode == 0
    assert "1 reads, 1 writes" in told
    assert "Thunderbolt 4" in told
    assert "noted: a write to 0x800" in told
    assert not (tmp_path / "s").exists()


def test_record_show_replay_diff(tmp_path: Path, settings: Settings, capsys):
    tape = str(tmp_path / "a.tape")
    spec = "soft:generic,vram=64M,bar=64M"
    assert main(["trace", "record", "--device", spec, "--out", tape, "--json"], settings) == 0
    assert json.loads(capsys.readouterr().out)["bars"] == {"0": 65536, "2": 64 << 20, "4": 4096}
    assert main(["trace", "show", tape], settings) == 0
    shown = capsys.readouterr().out
    assert "vendor:device = 1234:e505" in shown
    assert "BAR2 opens 64 MiB at 0x6000000000" in shown
    assert main(["trace", "show", tape, "--json"], settings) == 0
    assert json.loads(capsys.readouterr().out)["chip"] == "1234:e505"
    assert main(["trace", "diff", tape, tape], settings) == 0
    assert "same story" in capsys.readouterr().out
    assert main(["trace", "replay", tape, "--device", spec], settings) == 0
    assert "every answer is the same" in capsys.readouterr().out
    assert main(["trace", "replay", tape, "--device", spec + ",faults=unplug@9"], settings) == 1
    assert "answers differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["trace", "show"], 2, "takes 1 tapes"),
        (["trace", "record"], 2, "no card is named"),
        (["trace", "record", "--device", "tpu"], 2, "names no card"),
        (["trace", "record", "--device", "soft:gneric"], 2, "did you mean generic"),
        (["trace", "record", "--device", "soft:generic,vram=1"], 2, "no size"),
        (["trace", "record", "--device", "tinygpu:/does/not/exist"], 1, "no server"),
        (["trace", "record", "--device", "remote:127.0.0.1:1"], 1, "cannot be reached"),
        (["trace", "record", "--device", "pci:0000:ff:1f.7"], 1, "no PCI function"),
        (["trace", "record", "--device", "soft:generic", "--out", "/dev/null/x"], 1, "written"),
        (["trace", "show", "/does/not/exist"], 1, "cannot be read"),
        (["softcard", "generic", "--listen", "nowhere"], 2, "no address"),
        (["softcard", "generic", "--faults", "rain@3"], 2, "no fault"),
        (["softcard", "generic", "--link", "rope"], 2, "no link model"),
        (["softcard", "gfx9999"], 2, "no software card"),
    ],
)
def test_three_lines_and_a_status(words, status, told, settings: Settings, capsys):
    assert main(words, settings) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert told in lines[0]
    assert [line.split(":")[0] for line in lines] == ["error", "cause", "next"]


def test_nothing_is_left_of_a_card_in_its_own_process():
    with SoftLink.start("generic,vram=16M,bar=16M,strict") as link:
        assert link.name == "soft:generic,vram=16M,bar=16M,strict"
        assert link.bar(2).size == 16 << 20
        folder, process = link._folder, link._server.process
        assert folder.exists()
    assert process.poll() is not None
    assert not folder.exists()


def test_a_card_of_our_own_process_ends_with_it():
    link = SoftLink.start("generic,vram=16M,bar=16M")
    assert link._server is not None
    process = link._server.process
    assert process.poll() is None
    assert process.stdin is not None
    process.stdin.close()  # what the system does when we end, by whatever signal
    assert process.wait(20) == 0
    link.close()
