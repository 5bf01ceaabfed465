"""Large files over several connections: whole, resumed, refused, and never mixed up."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.models.test_pull_http import Watching

from exosuit.clock import ManualClock
from exosuit.errors import CorruptFile, DownloadFailed
from exosuit.models import pull_http, pull_parts
from exosuit.models.pull import pull
from exosuit.models.pull_http import Download, fetch
from exosuit.models.pull_parts import Note, merged, missing
from exosuit.models.pull_progress import Unwatched
from exosuit.models.store import Store

PIECE = 300_000
BODY = b"GGUF" + np.random.default_rng(1).bytes(4_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(pull_http, "LARGE_BYTES", 1_000_000)
    monkeypatch.setattr(pull_parts, "_PIECE_BYTES", PIECE)
    monkeypatch.setattr(pull_parts, "_NOTE_BYTES", 100_000)


class Brisk(ManualClock):
    """Waits a little, so that a busy machine's server comes to close what was left."""

    def sleep(self, seconds: float) -> None:
        time.sleep(0.1)
        super().sleep(seconds)


def bring(server, folder: Path, progress=None, **known) -> str:
    download = Download(server.url + "/x.gguf", starts_with=b"GGUF", **known)
    return fetch(download, folder / "x.gguf", progress or Unwatched(), Brisk())


def spans_asked(server) -> list[str]:
    return [asked for asked in server.ranges_asked() if asked]


def test_all_pieces_arrive_where_they_belong(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY, pieces=True)
    watch = Watching()
    assert bring(file_server, tmp_path, progress=watch, sha256=SHA256) == SHA256
    assert (tmp_path / "x.gguf").read_bytes() == BODY
    assert os.listdir(tmp_path) == ["x.gguf"]
    asked = spans_asked(file_server)
    assert len(asked) == len(set(asked)) == -(-len(BODY) // PIECE)
    assert watch.starts == [(len(BODY), 0)]
    assert watch.seen == sorted(watch.seen)
    assert watch.seen[-1] <= len(BODY)


def test_several_connections_at_a_time(file_server, served, tmp_path):
    most = 0

    class Counting(type(served(b""))):
        def __setattr__(self, name, value):
            nonlocal most
            if name == "open":
                most = max(most, value)
            super().__setattr__(name, value)

    file_server.files["/x.gguf"] = Counting(BODY, pieces=True, pause_s=0.02)
    bring(file_server, tmp_path)
    assert most >= pull_parts.CONNECTIONS


def test_a_server_that_takes_one_connection_gives_everything(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY, pieces=True, most=1)
    assert bring(file_server, tmp_path) == SHA256


@pytest.mark.parametrize("change", [{"pieces": False}, {"ranges": False, "pieces": False},
                                    {"etag": "", "pieces": True}])  # fmt: skip
def test_a_server_without_pieces_gives_the_file_in_one(file_server, served, tmp_path, change):
    file_server.files["/x.gguf"] = served(BODY, **change)
    assert bring(file_server, tmp_path) == SHA256
    assert spans_asked(file_server) == []


def test_cut_connections_cost_only_what_was_under_way(file_server, served, tmp_path):
    cuts = [0, 0, *[70_000, 250_000] * 3]  # the first answer only tells how large the file is
    file_server.files["/x.gguf"] = served(BODY, pieces=True, cuts=cuts)
    assert bring(file_server, tmp_path) == SHA256
    sizes = [
        int(last) - int(first) + 1
        for first, _, last in (
            a.removeprefix("bytes=").partition("-") for a in spans_asked(file_server)
        )
    ]
    assert sum(sizes) < len(BODY) + 6 * PIECE


def test_given_up_it_goes_on_where_it_stopped(file_server, served, tmp_path):
    served_file = served(BODY, pieces=True, cuts=[0] + [40_000] * 60)
    file_server.files["/x.gguf"] = served_file
    with pytest.raises(DownloadFailed, match="stopped answering") as caught:
        bring(file_server, tmp_path)
    kept = caught.value.fields["kept_bytes"]
    assert 0 < kept < len(BODY)
    served_file.cuts = []
    file_server.requests.clear()
    watch = Watching()
    assert bring(file_server, tmp_path, progress=watch) == SHA256
    assert watch.starts == [(len(BODY), kept)]


def test_a_part_in_one_goes_on_in_pieces(file_server, served, tmp_path):
    (tmp_path / "x.gguf.part").write_bytes(BODY[:900_000])
    note = {"url": f"{file_server.url}/x.gguf", "version": '"v1"'}
    (tmp_path / "x.gguf.part.json").write_text(json.dumps(note))
    file_server.files["/x.gguf"] = served(BODY, pieces=True)
    assert bring(file_server, tmp_path) == SHA256
    first = min(int(a.removeprefix("bytes=").partition("-")[0]) for a in spans_asked(file_server))
    assert first == 899_999


def leave_pieces(server, folder: Path, version: str = '"v1"', total: int = len(BODY)) -> None:
    """A part of which the odd pieces are there."""
    done = [(a, a + PIECE) for a in range(PIECE, len(BODY) - PIECE, 2 * PIECE)]
    part = bytearray(total)
    for start, end in done:
        part[start:end] = BODY[start:end]
    (folder / "x.gguf.part").write_bytes(part)
    Note(f"{server.url}/x.gguf", version, total, done).write(folder / "x.gguf.part.json")


def test_pieces_of_an_earlier_process_are_kept(file_server, served, tmp_path):
    leave_pieces(file_server, tmp_path)
    file_server.files["/x.gguf"] = served(BODY, pieces=True)
    assert bring(file_server, tmp_path) == SHA256
    assert all(
        int(a.removeprefix("bytes=").partition("-")[0]) // PIECE % 2 == 0 or
        int(a.removeprefix("bytes=").partition("-")[0]) > len(BODY) - 2 * PIECE
        for a in spans_asked(file_server)
    )  # fmt: skip


def test_pieces_of_another_version_are_dropped(file_server, served, tmp_path):
    leave_pieces(file_server, tmp_path, version='"v0"')
    file_server.files["/x.gguf"] = served(BODY, pieces=True)
    assert bring(file_server, tmp_path) == SHA256


def test_pieces_and_a_server_that_gives_none_any_more(file_server, served, tmp_path):
    leave_pieces(file_server, tmp_path)
    file_server.files["/x.gguf"] = served(BODY, ranges=False)
    assert bring(file_server, tmp_path) == SHA256


@pytest.mark.parametrize("note", [b"{", b"[]", b"{}", b'{"url": 1, "done": 3}',
                                  b'{"url": "U", "total": 9, "done": [[5, 99]]}',
                                  b'{"url": "U", "total": 9, "done": [[-1, 3]]}'])  # fmt: skip
def test_a_note_that_cannot_be_true_starts_anew(file_server, served, tmp_path, note):
    (tmp_path / "x.gguf.part").write_bytes(b"y" * 1000)
    url = f"{file_server.url}/x.gguf".encode()
    (tmp_path / "x.gguf.part.json").write_bytes(note.replace(b"U", url))
    file_server.files["/x.gguf"] = served(BODY, pieces=True)
    assert bring(file_server, tmp_path) == SHA256


def test_a_wrong_hash_keeps_nothing(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY, pieces=True)
    with pytest.raises(CorruptFile, match="wrong hash"):
        bring(file_server, tmp_path, sha256="0" * 64)
    assert os.listdir(tmp_path) == []


def test_a_web_page_is_no_model(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(b"<html>" + BODY, pieces=True)
    with pytest.raises(CorruptFile, match="not a GGUF file"):
        bring(file_server, tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_disk_is_watched_all_the_way(file_server, served, tmp_path, monkeypatch):
    """Somebody else fills it in mid download."""
    room = iter([1 << 40] * 6 + [pull_parts.SPARE_BYTES - 1] * 1000)
    monkeypatch.setattr(pull_parts, "free_bytes", lambda path: next(room))
    file_server.files["/x.gguf"] = served(BODY, pieces=True)
    with pytest.raises(DownloadFailed, match="the disk is full") as caught:
        bring(file_server, tmp_path)
    assert caught.value.fields["errno"] == errno.ENOSPC
    monkeypatch.undo()
    assert Note.read(tmp_path / "x.gguf.part.json").kept_bytes > 0


def test_room_is_asked_for_before(file_server, served, tmp_path, monkeypatch):
    monkeypatch.setattr(pull_http, "free_bytes", lambda path: len(BODY))
    file_server.files["/x.gguf"] = served(BODY, pieces=True)
    with pytest.raises(DownloadFailed, match="the disk has"):
        bring(file_server, tmp_path)


def test_ctrl_c_keeps_what_has_arrived(file_server, served, tmp_path):
    class Impatient(Unwatched):
        def update(self, done_bytes):
            if done_bytes > 500_000:
                raise KeyboardInterrupt

    served_file = served(BODY, pieces=True, pause_s=0.01)
    file_server.files["/x.gguf"] = served_file
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        bring(file_server, tmp_path, progress=Impatient())
    assert time.monotonic() - started < 5
    assert Note.read(tmp_path / "x.gguf.part.json").kept_bytes > 300_000
    served_file.pause_s = 0
    assert bring(file_server, tmp_path) == SHA256


# Several processes --------------------------------------------------------------------------------


def _pull(url: str, root: Path, told) -> None:
    pull_http.LARGE_BYTES = 1_000_000
    pull_parts._PIECE_BYTES = PIECE
    pull_parts._NOTE_BYTES = 100_000
    record = pull(url, Store(root), name="model")
    told.put((record.sha256, record.size_bytes))


def test_two_processes_pull_one_model_and_fetch_it_once(file_server, served, tmp_path, make_gguf):
    body = make_gguf(3_000_000)
    file_server.files["/m.gguf"] = served(body, pieces=True, pause_s=0.005)
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    arguments = (f"{file_server.url}/m.gguf", tmp_path, told)
    both = [context.Process(target=_pull, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    found = [told.get(timeout=60) for _ in both]
    for process in both:
        process.join(20)
        assert process.exitcode == 0
    assert found == [(hashlib.sha256(body).hexdigest(), len(body))] * 2
    asked = spans_asked(file_server)
    assert len(asked) == len(set(asked))


def test_a_killed_process_leaves_what_the_next_goes_on_with(
    file_server, served, tmp_path, make_gguf
):
    body = make_gguf(3_000_000)
    served_file = served(body, pieces=True, pause_s=0.03)
    file_server.files["/m.gguf"] = served_file
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    url = f"{file_server.url}/m.gguf"
    process = context.Process(target=_pull, args=(url, tmp_path, told))
    process.start()
    note = tmp_path / ".incoming/model/model.gguf.part.json"
    deadline = time.monotonic() + 30
    while Note.read(note).kept_bytes < 600_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    kept = Note.read(note).kept_bytes
    served_file.pause_s = 0
    file_server.requests.clear()
    record = pull(url, Store(tmp_path), name="model")
    assert record.sha256 == hashlib.sha256(body).hexdigest()
    spans = [a.removeprefix("bytes=").partition("-") for a in spans_asked(file_server)]
    assert sum(int(last) - int(first) + 1 for first, _, last in spans) == len(body) - kept


# Spans --------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 2_000_000), st.integers(0, 2_000_000))))
def test_spans(spans):
    total = 2_000_000
    whole = np.zeros(total, bool)
    for start, end in spans:
        whole[start:end] = True
    done = merged(spans)
    assert done == sorted(done)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(done))
    again = np.zeros(total, bool)
    for start, end in done:
        again[start:end] = True
    assert (whole == again).all()
    for start, end in missing(done, total):
        assert end > start
        assert not again[start:end].any()
        again[start:end] = True
    assert again.all()
