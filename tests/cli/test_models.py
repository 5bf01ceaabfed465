"""`exosuit models`, `pull`, `show`, `rm`: in process for what they say, as processes for races."""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from exosuit.cli import render
from exosuit.cli.main import main
from exosuit.settings import Settings


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(filler: int = 0) -> bytes:
    """Version 3, one tensor of 2 rows of 4 float32."""
    strings = {"general.architecture": "llama", "general.license": "mit", "filler": "x" * filler}
    pairs = b"".join(text(k) + struct.pack("<I", 8) + text(v) for k, v in strings.items())
    tensor = text("w") + struct.pack("<IQQIQ", 2, 4, 2, 0, 0)  # dimensions, type F32, offset
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(strings)) + pairs + tensor
    return header + bytes(-len(header) % 32) + bytes(32)


@pytest.fixture
def home(tmp_path) -> Settings:
    return Settings(home=str(tmp_path / "home"))


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf())
    return path


def test_the_life_of_a_model(capsys, home, model):
    assert main(["pull", str(model), "--json"], home) == 0
    pulled = json.loads(capsys.readouterr().out)
    assert pulled["name"] == "tiny"
    assert Path(pulled["path"]).read_bytes() == model.read_bytes()
    assert main(["models", "--json"], home) == 0
    listed = json.loads(capsys.readouterr().out)["models"]
    assert listed == [{k: v for k, v in pulled.items() if k != "path"}]
    assert main(["models"], home) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["tiny", str(len(gguf()))]
    assert main(["rm", "TINY"], home) == 0
    assert capsys.readouterr().out.startswith("removed tiny (")
    assert main(["models"], home) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "no models" in told.err


def test_show(capsys, home, model):
    assert main(["pull", str(model)], home) == 0
    capsys.readouterr()
    assert main(["show", "tiny", "--json"], home) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["architecture"], facts["licence"], facts["parameters"]) == ("llama", "mit", 8)
    assert facts["storage"] == {"F32": {"tensors": 1, "bytes": 32}}
    assert (facts["source"], facts["chat_template"]) == (str(model), False)
    assert main(["show", str(model)], home) == 0
    told = capsys.readouterr().out
    assert "architecture     llama\n" in told
    assert "storage          F32 1 (32 B)\n" in told


def test_what_a_file_says_cannot_harm_the_terminal(capsys, home, tmp_path):
    path = tmp_path / "evil.gguf"
    path.write_bytes(gguf().replace(b"llama", b"l\x1b[2\xff"))
    assert main(["show", str(path)], home) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["show", str(path), "--json"], home) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "l\x1b[2\udcff"


def test_one_damaged_record_does_not_hide_the_others(capsys, home, model):
    for name in ("one", "two"):
        main(["pull", str(model), "--name", name, "--link"], home)
    (home.model_store / "one" / "record.json").write_text("{")
    capsys.readouterr()
    assert main(["models", "--json"], home) == 0
    told = capsys.readouterr()
    assert [m["name"] for m in json.loads(told.out)["models"]] == ["two"]
    assert "exosuit rm one" in told.err


def test_known_names(capsys, home):
    assert main(["models", "--known", "--json"], home) == 0
    known = json.loads(capsys.readouterr().out)["known"]
    assert [row["name"] for row in known if row["tested"]] == ["smollm2"]
    assert main(["models", "--known"], home) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(known) + 1


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["show", "nothing"], 1),
        (["show", "smollm2"], 1),  # known, but show fetches nothing
        (["rm", "nothing"], 1),
        (["rm", "../home"], 2),
        (["pull", "./nothing.gguf"], 1),
        (["pull", "https://h/x#md5=1"], 2),
    ],
)
def test_failures_are_three_lines(capsys, home, words, status):
    assert main(words, home) == status
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 3


def test_the_bar_where_no_terminal_reads(capsys):
    bar = render.Bar()
    bar.start("x.gguf", 1000, 300)
    for done in (400, 600, 620, 1000):
        bar.update(done)
    bar.finish()
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "x.gguf: 25 %", "x.gguf: 50 %", "x.gguf: 100 %",
    ]  # fmt: skip


class Slow(BaseHTTPRequestHandler):
    """Serves one model in pieces, in about a second and a half; knows ranges."""

    body = gguf(3 << 20)

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.server.asked.append(start)
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            whole = len(self.body)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(len(self.body) - start))
        self.end_headers()
        for at in range(start, len(self.body), 1 << 18):
            try:
                self.wfile.write(self.body[at : at + (1 << 18)])
            except OSError:
                return
            time.sleep(0.1)


@pytest.fixture
def slow_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def start_pull(server, home: Settings, **options) -> subprocess.Popen[str]:
    url = f"http://127.0.0.1:{server.server_address[1]}/x.gguf"
    return subprocess.Popen(
        [sys.executable, "-m", "exosuit", "pull", url, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "EXOSUIT_HOME": home.home}, **options,
    )  # fmt: skip


def wait_for_part(home: Settings) -> None:
    part = home.model_store / ".incoming" / "x" / "x.gguf.part"
    deadline = time.monotonic() + 20
    while not part.exists() or part.stat().st_size < 1 << 20:
        assert time.monotonic() < deadline, "no download began"
        time.sleep(0.02)


def test_two_processes_pull_one_model(slow_server, home):
    first = start_pull(slow_server, home)
    wait_for_part(home)
    second = start_pull(slow_server, home)
    answers = [process.communicate(timeout=60) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    assert json.loads(answers[0][0]) == json.loads(answers[1][0])
    assert answers[1][1] == "another process is pulling x; waiting for it\n"
    assert slow_server.asked == [0]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_pull_goes_on_where_it_stopped(slow_server, home, how):
    first = start_pull(slow_server, home)
    wait_for_part(home)
    first.send_signal(how)
    told = first.communicate(timeout=30)[1]
    if how == signal.SIGINT:
        assert first.returncode == 130
        assert "Traceback" not in told
        assert "go on with: exosuit pull http://127.0.0.1" in told
    again = start_pull(slow_server, home)
    out, _ = again.communicate(timeout=60)
    assert again.returncode == 0
    assert Path(json.loads(out)["path"]).read_bytes() == Slow.body
    assert slow_server.asked[1] >= (1 << 20) - 1


def test_the_hub_out_of_reach(home):
    done = subprocess.run(
        [sys.executable, "-m", "exosuit", "pull", "o/r:Q8_0"], capture_output=True, text=True,
        env={**os.environ, "EXOSUIT_HOME": home.home, "HF_ENDPOINT": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 3
    assert done.stderr.startswith("error: cannot reach 127.0.0.1:9")
