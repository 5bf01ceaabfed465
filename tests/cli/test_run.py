"""`exosuit run` on real small models: answers, documents, pipes, chats, Ctrl-C, refusals."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from exosuit.cli import chat as chat_room
from exosuit.cli import run as run_command
from exosuit.cli.main import main
from exosuit.settings import Settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    """One home for all tests of this file, so that kernels are compiled once."""
    return Settings(home=str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def stories(shared) -> str:
    """A base model of 260 thousand parameters, without a chat template."""
    return str(shared / "models/stories260k/stories260K-f32.gguf")


@pytest.fixture
def smollm2(shared) -> str:
    return str(shared / "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture
def stdin(monkeypatch):
    def put(data: bytes, is_terminal: bool = False) -> None:
        stream = io.TextIOWrapper(io.BytesIO(data))
        stream.isatty = lambda: is_terminal
        monkeypatch.setattr(sys, "stdin", stream)

    return put


def document(capsys, *words: str, settings: Settings, status: int = 0) -> dict:
    assert main(["run", *words, "--json"], settings) == status
    return json.loads(capsys.readouterr().out)


def quiet(errors: str) -> str:
    """Without what is told of a load that takes long, as it does on a busy machine."""
    lines = errors.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("loading "))


def test_an_answer_is_streamed_and_ends_its_line(capsys, settings, stories):
    words = [stories, "Once upon a time", "--temperature", "0", "--max-tokens", "11"]
    assert main(["run", *words], settings) == 0
    told = capsys.readouterr()
    assert told.out == ", there was a little girl named Lily.\n"
    note = "stories260K-f32.gguf has no chat template: it continues the text\n"
    assert quiet(told.err) == note
    assert main(["run", *words, "--raw"], settings) == 0
    raw = capsys.readouterr()
    assert (raw.out, quiet(raw.err)) == (told.out, "")


def test_the_document(capsys, settings, stories):
    found = document(
        capsys, stories, "Once upon a time", "--raw", "--temperature", "0", "--max-tokens", "11",
        settings=settings,
    )  # fmt: skip
    timings = found.pop("timings")
    assert set(timings) == {
        "load_s", "compile_s", "time_to_first_token_s", "prefill_tok_s", "decode_tok_s"
    }  # fmt: skip
    assert all(value > 0 for value in timings.values())
    assert found.pop("seed") >= 0
    assert len(found.pop("tokens")) == 11
    assert found == {
        "text": ", there was a little girl named Lily.",
        "prompt_tokens": 5,
        "completion_tokens": 11,
        "finish_reason": "length",
        "device": "cpu",
        "model": "stories260K",
    }


def test_the_chat_template_and_the_system_message(capsys, settings, smollm2):
    words = [smollm2, "What is the capital of France? Answer in one short sentence."]
    found = document(capsys, *words, "--temperature", "0", settings=settings)
    assert found["text"] == "The capital of France is Paris."
    assert found["tokens"][-1] == 2
    assert (found["prompt_tokens"], found["finish_reason"]) == (43, "stop")
    raw = document(
        capsys, *words, "--temperature", "0", "--raw", "--max-tokens", "1", settings=settings
    )
    assert raw["prompt_tokens"] < 20
    system = document(
        capsys, *words, "--system", "Be brief.", "--max-tokens", "1", settings=settings
    )
    assert system["prompt_tokens"] < 43


def test_a_seed_is_the_same_answer_again(capsys, settings, stories):
    words = [stories, "Once", "--raw", "--max-tokens", "20"]
    first = document(capsys, *words, "--seed", "7", settings=settings)
    again = document(capsys, *words, "--seed", "7", settings=settings)
    other = document(capsys, *words, "--seed", "8", settings=settings)
    unsaid = document(capsys, *words, settings=settings)
    assert first["tokens"] == again["tokens"] != other["tokens"]
    repeated = document(capsys, *words, "--seed", str(unsaid["seed"]), settings=settings)
    assert repeated["tokens"] == unsaid["tokens"]


def test_stop_strings(capsys, settings, stories):
    words = [stories, "Once upon a time", "--raw", "--temperature", "0"]
    found = document(capsys, *words, "--stop", "xyz", "--stop", "tle gi", settings=settings)
    assert found["text"] == ", there was a lit"
    assert found["finish_reason"] == "stop"


def test_the_prompt_comes_through_a_pipe(capsys, settings, stories, stdin):
    words = ["--temperature", "0", "--max-tokens", "11", "--raw"]
    for extra in ([], ["-"]):
        stdin(b"Once upon a time")
        assert main(["run", stories, *extra, *words], settings) == 0
        assert capsys.readouterr().out == ", there was a little girl named Lily.\n"


@pytest.mark.parametrize(
    ("data", "raw", "text"),
    [(b"Hi\n", False, "Hi"), (b"Hi\n\n", False, "Hi\n"), (b"Hi\n", True, "Hi\n")],
)
def test_the_last_line_break_of_a_pipe(stdin, data, raw, text):
    stdin(data)
    assert run_command.read_prompt(None, keep_end=raw) == text


@pytest.mark.parametrize(
    ("data", "argument"),
    [(b"", None), (b"\n", None), (b"a\xff", None), (b"", ""), (b"", "a\udcff")],
)
def test_prompts_that_are_none(capsys, settings, stdin, data, argument):
    stdin(data)
    words = ["any.gguf"] if argument is None else ["any.gguf", argument]
    assert main(["run", *words], settings) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert [line[:6] for line in told.err.splitlines()] == ["error:", "cause:", "next: "]


@pytest.mark.parametrize(
    "words",
    [
        ["--temperature", "-1"],
        ["--temperature", "nan"],
        ["--top-p", "1.1"],
        ["--min-p", "x"],
        ["--top-k", "-1"],
        ["--max-tokens", "0"],
        ["--context", "0"],
        ["--threads", "many"],
        ["--seed", "1.5"],
        ["--raw", "--system", "Be brief."],
        ["--device", "pci:nowhere"],
    ],
)
def test_wrong_usage(capsys, settings, stories, words):
    assert main(["run", stories, "Hi", *words], settings) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert [line[:6] for line in told.err.splitlines()] == ["error:", "cause:", "next: "]


def test_a_system_message_without_a_template(capsys, settings, stories):
    assert main(["run", stories, "Hi", "--system", "Be brief."], settings) == 2
    assert "needs a chat template" in capsys.readouterr().err


def test_a_chat_is_no_document(capsys, settings, stdin):
    stdin(b"", is_terminal=True)
    assert main(["run", "any.gguf", "--json"], settings) == 2
    assert capsys.readouterr().out == ""


def test_a_prompt_that_is_longer_than_the_context(capsys, settings, stories):
    words = ["run", stories, "Once upon a time", "--raw", "--context", "4"]
    assert main(words, settings) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[0] == "error: the prompt has 5 tokens; the context holds 4"
    assert len(told.err.splitlines()) == 3


def test_an_answer_that_fills_the_context(capsys, settings, stories):
    words = [stories, "Once upon a time", "--raw", "--context", "16", "--temperature", "0"]
    assert main(["run", *words], settings) == 0
    told = capsys.readouterr()
    assert told.out == ", there was a little girl named Lily.\n"
    assert "the context of 16 tokens is full" in told.err


def test_a_context_that_the_model_does_not_have(capsys, settings, stories):
    assert main(["run", stories, "Hi", "--raw", "--context", "99999", "--max-tokens", "1"],
                settings) == 0  # fmt: skip
    assert "the context is 512 tokens" in capsys.readouterr().err


def test_explain(capsys, settings, stories):
    words = [stories, "Hi", "--raw", "--max-tokens", "3", "--explain", "--json"]
    assert main(["run", *words], settings) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["completion_tokens"] == 3
    heads = [line.split()[0] for line in told.err.splitlines() if not line.startswith(" ")]
    assert heads == ["device", "model", "weights", "kv", "workspace", "ready", "prompt", "first",
                     "answer"]  # fmt: skip


def test_no_model(capsys, settings):
    assert main(["run", "nothing.gguf", "Hi"], settings) == 1
    assert len(capsys.readouterr().err.splitlines()) == 3


# Chats, with lines instead of a keyboard --------------------------------------------------


@pytest.fixture
def typed(monkeypatch, settings, stdin, capsys):
    """Chats with a model by the given lines; an exception among them is what a key does."""

    def chat(model: str, lines: list, *words: str) -> tuple[int, str, str]:
        left = list(lines)

        def read(prompt: str) -> str:
            line = left.pop(0) if left else EOFError()
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)
        stdin(b"", is_terminal=True)
        status = main(["run", model, "--temperature", "0", *words], settings)
        assert not left, "left before all was typed"
        return status, *capsys.readouterr()

    return chat


def test_a_chat_remembers_until_it_is_told_to_forget(typed, smollm2):
    question = "What is the capital of France? Answer in one short sentence."
    status, out, err = typed(
        smollm2, [question, "And of Italy?", "/clear", question, "/bye"], "--max-tokens", "12",
        "--explain",
    )  # fmt: skip
    assert status == 0
    answers = out.splitlines()
    assert answers[0] == answers[2] == "The capital of France is Paris."
    assert "Italy" in answers[1]
    prompts = [line for line in err.splitlines() if line.startswith("prompt")]
    assert "43 tokens, 0 of them" in prompts[0]
    assert "43 tokens, 0 of them" in prompts[2]  # less than a page, so nothing is reused


def test_several_lines_and_commands(typed, smollm2):
    status, out, err = typed(
        smollm2,
        ["/help", "", "/nothing", '/system "Be brief."', "/system", '/system ""', '"""What is',
         'the capital of France?"""', '"""One line."""', "/etc/hosts is a file"],
        "--max-tokens", "3",
    )  # fmt: skip
    assert status == 0
    assert len([line for line in out.splitlines() if line]) == 3
    assert "there is no /nothing" in err
    assert err.count("/clear ") == 1
    assert [line for line in err.splitlines() if line.startswith("system:")] == [
        'system: "Be brief."', 'system: "Be brief."', "system: (none of yours)",
    ]  # fmt: skip


def test_a_full_context_in_a_chat_is_told_and_survived(typed, smollm2):
    status, out, err = typed(
        smollm2, ["Tell me a long story.", "Go on.", "/clear", "Hi"], "--context", "64",
    )  # fmt: skip
    assert status == 0
    assert err.count("is full: the answer ends here. /clear starts anew") == 1
    assert "error: the conversation has" in err
    assert "next:  /clear starts anew" in err
    assert len(out.splitlines()) >= 2


def test_a_chat_with_a_base_model_continues_each_text(typed, stories):
    status, out, err = typed(
        stories, ["Once upon a time", "Once upon a time", "/clear"], "--max-tokens", "11"
    )
    assert (status, out) == (0, ", there was a little girl named Lily.\n" * 2 + "\n")
    assert "/clear has no meaning here" in err


def test_ctrl_c_at_the_prompt_leaves_the_second_time(typed, stories):
    keys = [KeyboardInterrupt(), "Hi", KeyboardInterrupt(), KeyboardInterrupt()]
    status, _, err = typed(stories, keys, "--max-tokens", "1")
    assert status == 130
    assert err.count("Ctrl-C again") == 2


# Ctrl-C and pipes, as processes -----------------------------------------------------------


def start(settings: Settings, *words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "exosuit", "run", *words],
        env={**os.environ, "EXOSUIT_HOME": settings.home},
        text=True,
        **options,
    )


def test_ctrl_c_ends_an_answer_and_keeps_what_was_said(settings, smollm2):
    words = [smollm2, "Tell me a very long story.", "--seed", "1", "--context", "2000"]
    with start(settings, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        first = process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert len(first) == 20
    assert rest.endswith("\n")
    assert quiet(errors) == ""


def test_a_reader_that_leaves_is_no_error(settings, smollm2):
    words = [smollm2, "Tell me a very long story.", "--seed", "1", "--context", "2000"]
    with start(settings, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(5)
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(20) == 1
    assert quiet(errors) == ""


def test_a_chat_on_a_terminal_goes_on_after_ctrl_c(settings, smollm2):
    """A real terminal: the answer is interrupted by its key, and the next one comes."""
    master, terminal = pty.openpty()
    words = [smollm2, "--temperature", "0", "--max-tokens", "400"]
    process = start(settings, *words, stdin=terminal, stdout=terminal, stderr=terminal,
                    start_new_session=True)  # fmt: skip
    os.close(terminal)
    seen = b""

    def until(text: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 20
        while text not in seen:
            assert time.monotonic() < deadline, seen
            seen += os.read(master, 1000)

    try:
        until(b">>> ")
        seen = b""
        os.write(master, b"Tell me a very long story.\n")
        until(b"story.\r\n")
        seen = b""
        until(b" ")
        process.send_signal(signal.SIGINT)
        until(b">>> ")
        seen = b""
        os.write(master, b"What is the capital of France?\n")
        until(b"Paris")
        process.send_signal(signal.SIGINT)
        until(b">>> ")
        os.write(master, b"/bye\n")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_control_characters_do_not_reach_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    chat_room.render.stream("a\x1b[2J\x9b\r\tb\u200d\n")
    assert capsys.readouterr().out == "a\ufffd[2J\ufffd\ufffd\tb\u200d\n"
