"""`exosuit serve`, `ps`, `stop` and `run` beside them: real processes, a small random model."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import plistlib
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from benchmarks.serve_load import alone, crowd, prompts
from benchmarks.serve_peers import Server
from tests.peers.random_models import SMALL, write_model

from exosuit.cli.main import main
from exosuit.models.store import Store
from exosuit.serve.client import Client
from exosuit.serve.owner import connect_privately, control_path, server_owner
from exosuit.settings import Settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    """A home with one model in its store."""
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=str(home))
    path = write_model(home / "small.gguf", replace(SMALL["llama"], n_layers=1), "F32")
    Store(settings.model_store).add(path, "small")
    return settings


@dataclass
class Process:
    """A server process and what it logs."""

    child: subprocess.Popen
    lines: list[str] = field(default_factory=list)
    port: int = 0

    def follow(self) -> None:
        with self.child.stderr as lines:
            for line in lines:
                self.lines.append(line)

    def wait_for(self, ready: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def ask(self, path: str, body: dict | None = None, **headers) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        words = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"} | headers
        connection.request("GET" if body is None else "POST", path, words, headers)
        response = connection.getresponse()
        found = response.read()
        connection.close()
        return response.status, json.loads(found)


def start(settings: Settings, *words: str, home: str | None = None) -> Process:
    environment = os.environ | {"EXOSUIT_HOME": home or settings.home}
    child = subprocess.Popen(
        [sys.executable, "-m", "exosuit", "serve", "--port", "0", "--log", "json",
         "--threads", "1", "--parallel", "8", *words],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process = Process(child)
    threading.Thread(target=process.follow, daemon=True).start()
    process.wait_for(lambda: '"address"' in process.text or child.poll() is not None)
    serving = [json.loads(line) for line in process.lines if '"address"' in line]
    if serving:
        process.port = int(serving[0]["address"].rpartition(":")[2])
    return process


@pytest.fixture(scope="module")
def running(settings) -> Iterator[Process]:
    process = start(settings)
    yield process
    process.child.terminate()
    process.child.wait(20)


@pytest.fixture
def fresh(settings) -> Iterator[Callable[..., Process]]:
    """Servers with a home of their own, ended after the test."""
    started: list[Process] = []
    homes: list[Path] = []

    def make(*words: str) -> tuple[Process, Settings]:
        home = Path(settings.home).with_name(f"home-{len(homes)}-{time.monotonic_ns()}")
        homes.append(home)
        shutil.copytree(settings.model_store, home / "models")
        cache = Path(settings.home) / "cache"
        cache.mkdir(exist_ok=True)
        (home / "cache").symlink_to(cache)
        process = start(settings, *words, home=str(home))
        started.append(process)
        return process, Settings(home=str(home))

    yield make
    for process in started:
        process.child.kill()
        process.child.wait()
    for home in homes:
        owner = server_owner(Settings(home=str(home)))
        if owner is not None:
            os.kill(owner.pid, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


def forever(prompt: str, tokens: int) -> dict:
    """A greedy request whose end token is forbidden."""
    return {"model": "small", "prompt": prompt, "max_tokens": tokens, "temperature": 0,
            "logit_bias": {"0": -100, "1": -100, "2": -100}}  # fmt: skip


class Streaming(threading.Thread):
    """A client that reads one streamed completion."""

    def __init__(self, process: Process, prompt: str, tokens: int) -> None:
        super().__init__(daemon=True)
        self.began = threading.Event()
        self.text, self.end, self.problem = "", "", ""
        self._port, self._body = process.port, forever(prompt, tokens) | {"stream": True}
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(
                "POST", "/v1/completions", json.dumps(self._body),
                {"Content-Type": "application/json"},
            )  # fmt: skip
            response = connection.getresponse()
            assert response.status == 200, response.read()
            for line in response:
                self.began.set()
                if line.startswith(b"data: {"):
                    choice = json.loads(line[6:])["choices"][0]
                    self.text += choice["text"]
                    self.end = choice["finish_reason"] or self.end
            response.close()
        except Exception as problem:
            self.problem = repr(problem)
        finally:
            connection.close()
            self.began.set()


# run, ps, stop ------------------------------------------------------------------------------------


WORDS = ["run", "small", "a text", "--raw", "--temperature", "0", "--max-tokens", "12", "--json"]


def test_run_gets_the_same_answer_from_the_server(capsys, running, settings):
    assert main([*WORDS, "--device", "cpu"], settings) == 0
    here = json.loads(capsys.readouterr().out)
    status, _ = running.ask("/health")
    assert status == 200
    before = running.text.count('"/generate"')
    assert main(WORDS, settings) == 0
    there = json.loads(capsys.readouterr().out)
    for key in ("text", "tokens", "prompt_tokens", "completion_tokens", "finish_reason", "device"):
        assert here[key] == there[key], key
    assert there["timings"]["load_s"] == 0
    assert there["timings"]["time_to_first_token_s"] > 0
    assert before == 0, "the private socket is no part of the access log"
    status = Client(settings).status()
    assert status["requests_total"] >= 1
    assert [row["name"] for row in status["loaded"]] == ["small"]


def test_errors_of_the_server_are_those_of_run(capsys, running, settings):
    assert main([*WORDS[:2], "word " * 3000, "--raw", "--json"], settings) == 1
    assert "the prompt has" in capsys.readouterr().err


def test_ctrl_c_ends_the_work_at_the_server(running, settings):
    environment = os.environ | {"EXOSUIT_HOME": settings.home}
    child = subprocess.Popen(
        [sys.executable, "-m", "exosuit", "run", "small", "a b", "--raw", "--temperature", "2"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    client = Client(settings)
    running.wait_for(lambda: client.status()["active"] > 0 or child.poll() is not None)
    child.send_signal(signal.SIGINT)
    assert child.wait(20) in (0, 130)  # it may just have been done
    running.wait_for(lambda: client.status()["active"] == 0)


def test_ps_and_stop(capsys, running, settings):
    assert main(["run", "small", "x", "--raw", "--max-tokens", "1"], settings) == 0
    capsys.readouterr()
    assert main(["ps", "--json"], settings) == 0
    found = json.loads(capsys.readouterr().out)["server"]
    assert found["pid"] == running.child.pid
    (row,) = found["loaded"]
    assert row["device"] == "cpu"
    assert row["device_bytes"] > 0
    assert main(["ps"], settings) == 0
    told = capsys.readouterr()
    assert "small" in told.out
    assert f"process {running.child.pid}" in told.err
    assert main(["stop", "small"], settings) == 0
    running.wait_for(lambda: not Client(settings).status()["loaded"])
    capsys.readouterr()
    assert main(["stop", "small"], settings) == 1
    assert "not loaded" in capsys.readouterr().err
    assert main(["stop", "smal"], settings) == 1
    assert "small" in capsys.readouterr().err
    assert main(["stop"], settings) == 2
    assert main(["stop", "small", "--server"], settings) == 2


def test_without_a_server(capsys, tmp_path):
    settings = Settings(home=str(tmp_path))
    assert main(["ps"], settings) == 0
    assert "no server is running" in capsys.readouterr().err
    assert main(["ps", "--json"], settings) == 0
    assert json.loads(capsys.readouterr().out) == {"server": None}
    assert main(["stop", "--server"], settings) == 2
    assert main(["serve", "--restart"], settings) == 2


def test_a_socket_that_was_left_behind_is_no_server(tmp_path):
    settings = Settings(home=str(tmp_path))
    control_path(settings).parent.mkdir(parents=True)
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(control_path(settings)))
    left.close()
    assert Client.find(settings) is None


# One server ---------------------------------------------------------------------------------------


def test_a_second_server_is_told_who_serves(running, settings):
    second = start(settings)
    assert second.child.wait(20) == 2
    second.wait_for(lambda: "next:" in second.text)
    assert f"process {running.child.pid}" in second.text
    assert "exosuit serve --restart" in second.text


def test_a_port_in_use_is_told(running, fresh):
    second, _ = fresh("--port", str(running.port))
    assert second.child.wait(20) == 2
    second.wait_for(lambda: "next:" in second.text)
    assert f"--port {running.port + 1}" in second.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_others_are_let_in_with_a_key_or_when_told_twice_only(host, fresh):
    second, _ = fresh("--host", host, "--on-network")
    assert second.child.wait(20) == 2
    second.wait_for(lambda: "next:" in second.text)
    assert "API key" in second.text


def test_the_socket_is_private_and_removed_at_the_end(fresh):
    process, settings = fresh()
    path = control_path(settings)
    mode = path.lstat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert server_owner(settings).pid == process.child.pid
    connection = connect_privately(settings)
    assert connection is not None
    connection.close()
    assert main(["stop", "--server"], settings) == 0
    assert process.child.wait(20) == 0
    assert not path.exists()
    assert server_owner(settings) is None


def test_a_long_home_still_has_a_socket(tmp_path, monkeypatch):
    settings = Settings(home=str(tmp_path / ("long" * 20)))
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    path = control_path(settings)
    assert len(str(path)) < 100
    assert path == control_path(settings)
    assert path != control_path(Settings(home=settings.home + "x"))


def test_keys_and_prompts_are_in_no_log(fresh):
    process, settings = fresh("--api-key", "s3cret-key")
    body = forever("xylophone", 5)
    assert process.ask("/v1/completions", body)[0] == 401
    assert process.ask("/v1/completions", body, Authorization="Bearer wrong-key")[0] == 401
    status, _ = process.ask("/v1/completions", body, Authorization="Bearer s3cret-key")
    assert status == 200
    assert process.ask("/v1/models?api_key=s3cret-key")[0] == 401
    assert main(["stop", "--server"], settings) == 0
    process.child.wait(20)
    process.wait_for(lambda: process.text.count('"message": "request"') >= 4)
    for secret in ("s3cret-key", "wrong-key", "xylophone"):
        assert secret not in process.text
    rows = [json.loads(line) for line in process.lines if line.startswith("{")]
    requests = [row for row in rows if row["message"] == "request"]
    assert [row["status"] for row in requests] == [401, 401, 200, 401]
    assert len({row["request_id"] for row in requests}) == 4
    assert all(row["time"].endswith("+00:00") for row in rows)


def test_a_crowd_gets_its_own_answers(fresh):
    """The benchmark's crowd, for some seconds: clients come, go and leave early."""
    process, settings = fresh("--model", "small")
    server = Server("exosuit", process.port, process.child.pid, "small")
    known = [alone(server, prompt, 4 + 3 * k) for k, prompt in enumerate(prompts(12, 1, words=3))]
    found = asyncio.run(crowd(server, 24, 0.1, known))
    assert found["wrong"] == []
    assert found["left_early"] > 0
    assert found["same"] + found["near_ties"] == found["answers"] > 50
    assert found["near_ties"] <= found["answers"] // 10
    process.wait_for(lambda: Client(settings).status()["active"] == 0)


# Ending and handing over --------------------------------------------------------------------------


def test_sigterm_lets_answers_end_and_takes_no_more(fresh):
    process, _ = fresh("--model", "small")
    alone = process.ask("/v1/completions", forever("once", 400))[1]["choices"][0]["text"]
    streams = [Streaming(process, "once", 400) for _ in range(5)]
    for stream in streams:
        assert stream.began.wait(20)
    process.child.terminate()
    time.sleep(0.1)
    with pytest.raises(ConnectionRefusedError):
        process.ask("/health")
    for stream in streams:
        stream.join(30)
        assert (stream.problem, stream.end) == ("", "length")
        assert stream.text == alone
    assert process.child.wait(20) == 0


def test_a_second_signal_ends_at_once(fresh):
    process, _ = fresh("--parallel", "1")
    streams = [Streaming(process, f"{k}", 490) for k in range(40)]
    assert streams[0].began.wait(20)
    process.child.terminate()
    time.sleep(0.5)
    process.child.terminate()
    assert process.child.wait(5) == 0


def test_a_new_process_takes_over_without_a_broken_answer(fresh):
    """Streams run on in the old process while requests never stop being taken."""
    process, settings = fresh("--model", "small")
    alone = process.ask("/v1/completions", forever("twice", 450))[1]["choices"][0]["text"]
    streams = [Streaming(process, "twice", 450) for _ in range(8)]
    assert streams[0].began.wait(20)
    os.kill(process.child.pid, signal.SIGHUP)
    asked = 0
    while process.child.poll() is None:
        assert process.ask("/v1/completions", forever("twice", 3))[0] == 200
        asked += 1
    for stream in streams:
        stream.join(30)
        assert (stream.problem, stream.end) == ("", "length")
        assert stream.text == alone
    assert asked > 5
    assert process.child.returncode == 0
    status = Client(settings).status()
    assert status["pid"] != process.child.pid
    process.wait_for(lambda: (o := server_owner(settings)) is not None and o.pid == status["pid"])
    assert process.ask("/v1/completions", forever("twice", 450))[1]["choices"][0]["text"] == alone
    assert main(["stop", "--server"], settings) == 0
    process.wait_for(lambda: server_owner(settings) is None)


def test_a_successor_that_fails_leaves_the_old_one_serving(capsys, fresh):
    process, settings = fresh()
    model = Path(settings.home) / "own.gguf"
    shutil.copy(Store(settings.model_store).find("small"), model)
    process.child.terminate()
    process.child.wait(20)
    process, settings = fresh("--model", str(model))
    client = Client(settings)
    process.wait_for(lambda: any(row["device"] for row in client.status()["loaded"]))
    model.unlink()
    capsys.readouterr()
    assert main(["serve", "--restart"], settings) == 1
    assert "the old one goes on" in capsys.readouterr().err
    assert process.ask("/v1/completions", forever("twice", 3) | {"model": "own"})[0] == 200
    assert server_owner(settings).pid == process.child.pid


# Installation -------------------------------------------------------------------------------------


def test_the_unit_for_systemd(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    words = ["serve", "--install", "--port", "1234", "--api-key", "@/some where/100%key"]
    assert main([*words, "--dry-run"], Settings()) == 0
    shown = capsys.readouterr()
    assert not list(tmp_path.iterdir())
    assert main(words, Settings()) == 0
    told = capsys.readouterr()
    assert told.out.startswith("wrote")
    path = tmp_path / ".config/systemd/user/exosuit.service"
    assert path.read_text() == shown.out
    assert "systemctl --user enable --now exosuit" in told.err
    line = next(x for x in shown.out.splitlines() if x.startswith("ExecStart="))
    assert line.endswith('-m exosuit serve --port 1234 --api-key "@/some where/100%%key"')
    assert main(words, Settings()) == 0
    assert capsys.readouterr().out.startswith("unchanged")
    if shutil.which("systemd-analyze"):
        environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
        checked = subprocess.run(
            ["systemd-analyze", "--user", "verify", "--man=no", str(path)],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "exosuit.service" not in checked.stderr, checked.stderr


def test_the_agent_for_launchd(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert main(["serve", "--install", "--model", "smollm2", "--keep-alive", "-1"], Settings()) == 0
    found = plistlib.loads((tmp_path / "Library/LaunchAgents/exosuit.serve.plist").read_bytes())
    assert found["ProgramArguments"][1:] == [
        "-m", "exosuit", "serve", "--model", "smollm2", "--keep-alive", "-1",
    ]  # fmt: skip
    assert found["RunAtLoad"] is True
    assert "launchctl bootstrap" in capsys.readouterr().err


def test_a_key_stays_out_of_units_and_other_systems_are_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert main(["serve", "--install", "--api-key", "open-secret"], Settings()) == 2
    assert "open-secret" not in capsys.readouterr().err
    monkeypatch.setattr(sys, "platform", "sunos5")
    assert main(["serve", "--install"], Settings()) == 2


@pytest.mark.parametrize(
    "words",
    [["--keep-alive", "often"], ["--api-key", "@/nowhere/at/all"], ["--parallel", "0"],
     ["--host", "10.0.0.1"], ["--model", "no-such-model"]],
)  # fmt: skip
def test_wrong_usage_is_explained(capsys, words, tmp_path):
    assert main(["serve", *words], Settings(home=str(tmp_path))) in (1, 2)
    assert "next:" in capsys.readouterr().err
