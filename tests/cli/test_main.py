"""The command line's frame: statuses, three lines, help, close matches, quiet ends."""

import json
import os
import subprocess
import sys
import types

import pytest

from exosuit.cli import main as frame
from exosuit.cli.main import COMMANDS, main
from exosuit.errors import DoesNotFit
from exosuit.settings import Settings


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=str(tmp_path))


@pytest.fixture
def command(monkeypatch):
    """Puts a command named `probe` into the frame, which does what the test says."""

    def put(do) -> None:
        from exosuit.cli.command import add_command

        module = types.ModuleType("exosuit.cli.probe")
        module.register = lambda sub: add_command(sub, "probe", "A probe.", "exosuit probe")
        module.run = do
        monkeypatch.setitem(sys.modules, "exosuit.cli.probe", module)
        monkeypatch.setitem(COMMANDS, "probe", ("probe", "a probe"))

    return put


def lines(capsys) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    told = captured.err.splitlines()
    assert [line[:7] for line in told] == ["error: ", "cause: ", "next:  "]
    return told


def test_help_names_every_command(capsys, settings):
    for words in ([], ["--help"], ["-h"]):
        assert main(words, settings) == 0
        told = capsys.readouterr()
        assert told.err == ""
        assert all(f"\n    {name} " in told.out for name in COMMANDS)
        assert "example:" in told.out
        assert "130 Ctrl-C" in told.out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(capsys, settings, name):
    assert main([name, "--help"], settings) == 0
    told = capsys.readouterr().out
    assert f"example:\n  exosuit {name}" in told
    assert "exit status:" in told


def test_version(capsys, settings):
    assert main(["--version"], settings) == 0
    assert capsys.readouterr().out.startswith("exosuit 0.")


@pytest.mark.parametrize(
    ("words", "next_step"),
    [
        (["modles"], "did you mean exosuit models?"),
        (["frobnicate"], "exosuit --help"),
        (["models", "--jsn"], "did you mean --json?"),
        (["--versio"], "did you mean --version?"),
        (["pull"], "exosuit pull --help"),
        (["rm"], "exosuit rm --help"),
        (["list", "more"], "exosuit list --help"),
    ],
)
def test_wrong_usage(capsys, settings, words, next_step):
    assert main(words, settings) == 2
    assert lines(capsys)[2] == f"next:  {next_step}"


def test_an_explained_failure(capsys, settings, command):
    def fail(arguments, settings):
        raise DoesNotFit("too\nlarge \x1b[2J", cause="c", next="n")

    command(fail)
    assert main(["probe"], settings) == 1
    assert lines(capsys)[0] == "error: too large  [2J"  # no line break, no terminal control


def test_debug_shows_the_traceback(capsys, settings, command):
    def fail(arguments, settings):
        raise DoesNotFit("too large", cause="c", next="n")

    command(fail)
    assert main(["probe", "--debug"], settings) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main(["probe"], Settings(debug="1")) == 1
    assert "Traceback" in capsys.readouterr().err


def test_our_own_mistakes_are_told_as_such(capsys, settings, command):
    command(lambda arguments, settings: {}["missing"])
    assert main(["probe"], settings) == 1
    assert lines(capsys)[:2] == [
        "error: exosuit itself failed: KeyError: 'missing'",
        "cause: a mistake in exosuit",
    ]


def test_ctrl_c(capsys, settings, command):
    def interrupt(arguments, settings):
        raise KeyboardInterrupt

    command(interrupt)
    assert main(["probe"], settings) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_the_status_of_a_command_is_the_status(settings, command):
    command(lambda arguments, settings: 7)
    assert main(["probe"], settings) == 7


def exosuit(*words: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "exosuit", *words], capture_output=True, text=True, **options
    )


def test_as_a_process(tmp_path):
    environment = {**os.environ, "EXOSUIT_HOME": str(tmp_path)}
    assert exosuit("models", "--json", env=environment).stdout == (
        json.dumps({"store": f"{tmp_path}/models", "models": []}, indent=2) + "\n"
    )
    assert exosuit("modles", env=environment).returncode == 2


def test_a_reader_that_left_is_no_news(tmp_path):
    script = f"{sys.executable} -m exosuit models --known | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode in (0, 1)  # 0 where everything was written before the reader left


def test_help_imports_nothing_heavy():
    heavy = [
        "numpy",
        "llvmlite",
        "rich",
        "huggingface_hub",
        "tokenizers",
        "jinja2",
        "urllib.request",
    ]
    script = (
        "import sys; from exosuit.cli.main import main; main(['--help']); "
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == "[]\n"


def test_the_frame_imports_no_command():
    assert not [name for name in vars(frame) if name in ("models", "devices")]
