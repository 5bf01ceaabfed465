"""Downloads: resumed, checked, and every failure told in fields."""

import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from exosuit.clock import ManualClock
from exosuit.errors import CorruptFile, DownloadFailed
from exosuit.models import pull_http
from exosuit.models.pull_http import Download, fetch, read_json
from exosuit.models.pull_progress import Unwatched
from exosuit.units import MiB

BODY = b"GGUF" + bytes(range(256)) * 8192  # 2 MiB + 4
SHA256 = hashlib.sha256(BODY).hexdigest()


class Watching(Unwatched):
    def __init__(self):
        self.seen: list[int] = []
        self.notes: list[str] = []
        self.starts: list[tuple[int | None, int]] = []

    def start(self, label, total_bytes, done_bytes=0):
        self.starts.append((total_bytes, done_bytes))

    def update(self, done_bytes):
        self.seen.append(done_bytes)

    def note(self, text):
        self.notes.append(text)


def bring(server, folder: Path, path: str = "/x.gguf", progress=None, **known) -> str:
    return fetch(
        Download(server.url + path, starts_with=b"GGUF", **known),
        folder / "x.gguf", progress or Unwatched(), ManualClock(),
    )  # fmt: skip


def test_a_whole_file_arrives_with_its_hash_and_leaves_nothing_else(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY)
    watch = Watching()
    assert bring(file_server, tmp_path, progress=watch, sha256=SHA256) == SHA256
    assert (tmp_path / "x.gguf").read_bytes() == BODY
    assert os.listdir(tmp_path) == ["x.gguf"]
    assert watch.starts == [(len(BODY), 0)]
    assert watch.seen[-1] == len(BODY)


def test_a_cut_connection_is_taken_up_where_it_broke(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY, cuts=[700_000, 900_000])
    watch = Watching()
    assert bring(file_server, tmp_path, progress=watch) == SHA256
    assert file_server.ranges_asked() == [None, "bytes=699999-", "bytes=1599998-"]
    assert len(watch.notes) == 2


def test_without_ranges_a_cut_download_starts_again(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY, cuts=[700_000], ranges=False)
    assert bring(file_server, tmp_path) == SHA256


def test_a_file_without_stated_length_is_taken_to_its_end(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY, states_length=False)
    assert bring(file_server, tmp_path) == SHA256


def leave_part(server, folder: Path, content: bytes, version: str = '"v1"') -> None:
    (folder / "x.gguf.part").write_bytes(content)
    note = {"url": f"{server.url}/x.gguf", "version": version}
    (folder / "x.gguf.part.json").write_text(json.dumps(note))


def test_a_part_of_an_earlier_process_is_resumed(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY)
    leave_part(file_server, tmp_path, BODY[: MiB + 1])
    assert bring(file_server, tmp_path, sha256=SHA256) == SHA256
    assert file_server.ranges_asked() == [f"bytes={MiB}-"]


def test_a_part_that_was_whole_needs_one_byte(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY)
    leave_part(file_server, tmp_path, BODY)
    assert bring(file_server, tmp_path) == SHA256
    assert file_server.ranges_asked() == [f"bytes={len(BODY) - 1}-"]


def test_a_part_of_another_version_is_not_mixed_in(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY, etag='"v2"')
    leave_part(file_server, tmp_path, b"GGUF" + bytes(5000))
    assert bring(file_server, tmp_path) == SHA256


def test_a_part_longer_than_the_file_is_dropped(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY)
    leave_part(file_server, tmp_path, BODY + bytes(100))
    assert bring(file_server, tmp_path) == SHA256


def test_a_part_without_a_readable_note_starts_anew(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY)
    (tmp_path / "x.gguf.part").write_bytes(b"GGUF" + bytes(5000))
    (tmp_path / "x.gguf.part.json").write_text("{")
    assert bring(file_server, tmp_path) == SHA256


def test_a_wrong_hash_is_refused_and_not_kept(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY)
    with pytest.raises(CorruptFile) as caught:
        bring(file_server, tmp_path, sha256="0" * 64)
    assert caught.value.fields["sha256"] == SHA256
    assert caught.value.fields["expected"] == "0" * 64
    assert not (tmp_path / "x.gguf").exists()
    assert not (tmp_path / "x.gguf.part").exists()


def test_a_server_that_always_cuts_is_given_up_with_the_part_kept(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY, cuts=[1000] * 50)
    clock = ManualClock()
    with pytest.raises(DownloadFailed) as caught:
        fetch(Download(file_server.url + "/x.gguf"), tmp_path / "x.gguf", Unwatched(), clock)
    assert len(file_server.requests) == 5
    assert clock.now() == 1 + 2 + 4 + 8
    assert caught.value.fields["kept_bytes"] == (tmp_path / "x.gguf.part").stat().st_size > 1000


def test_a_busy_server_is_asked_again(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY, statuses=[503, 429])
    assert bring(file_server, tmp_path) == SHA256


@pytest.mark.parametrize("status", [401, 403, 410, 451])
def test_a_refusal_is_told_with_its_status(file_server, served, tmp_path, status):
    file_server.files["/x.gguf"] = served(BODY, statuses=[status])
    with pytest.raises(DownloadFailed) as caught:
        bring(file_server, tmp_path)
    assert caught.value.fields["status"] == status
    assert len(file_server.requests) == 1


def test_not_found(file_server, tmp_path):
    with pytest.raises(DownloadFailed) as caught:
        bring(file_server, tmp_path, "/nothing.gguf")
    assert caught.value.fields["status"] == 404


def test_redirects_in_a_circle(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(redirect="/y")
    file_server.files["/y"] = served(redirect="/x.gguf")
    with pytest.raises(DownloadFailed) as caught:
        bring(file_server, tmp_path)
    assert caught.value.fields["status"] == 302
    assert "circle" in caught.value.cause


def test_credentials_do_not_follow_a_redirect_to_another_host(file_server, served, tmp_path):
    other = f"http://localhost:{file_server.port}/y"
    file_server.files["/x.gguf"] = served(redirect=other)
    file_server.files["/y"] = served(BODY)
    assert bring(file_server, tmp_path, headers={"Authorization": "Bearer secret"}) == SHA256
    assert [("Authorization" in headers) for _, headers in file_server.requests] == [True, False]


def test_a_web_page_is_no_model(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(b"<!doctype html><html></html>")
    with pytest.raises(CorruptFile) as caught:
        bring(file_server, tmp_path)
    assert "web page" in caught.value.cause
    assert not (tmp_path / "x.gguf.part").exists()


def test_a_size_that_differs_from_the_listing_is_refused(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY)
    with pytest.raises(DownloadFailed) as caught:
        bring(file_server, tmp_path, size_bytes=5)
    assert caught.value.fields["expected_bytes"] == 5
    assert caught.value.fields["size_bytes"] == len(BODY)


def test_room_on_the_disk_is_checked_before(file_server, served, tmp_path, monkeypatch):
    file_server.files["/x.gguf"] = served(BODY)
    monkeypatch.setattr(pull_http, "free_bytes", lambda path: 33 * MiB)
    with pytest.raises(DownloadFailed) as caught:
        bring(file_server, tmp_path)
    assert caught.value.fields == {"needed_bytes": len(BODY), "free_bytes": 33 * MiB}
    assert not (tmp_path / "x.gguf.part").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_disk_that_fills_in_mid_download(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(BODY)
    (tmp_path / "x.gguf.part").symlink_to("/dev/full")
    with pytest.raises(DownloadFailed) as caught:
        bring(file_server, tmp_path)
    assert caught.value.fields["errno"] == 28
    assert "disk is full" in caught.value.what


def test_nobody_listens(tmp_path):
    with pytest.raises(DownloadFailed) as caught:
        fetch(Download("http://127.0.0.1:9/x"), tmp_path / "x", Unwatched(), ManualClock())
    assert caught.value.fields["url"] == "http://127.0.0.1:9/x"
    assert "127.0.0.1:9" in caught.value.what


def test_a_redirect_to_what_is_no_address(file_server, served, tmp_path):
    file_server.files["/x.gguf"] = served(redirect="http://[::1/y")
    with pytest.raises(DownloadFailed) as caught:
        bring(file_server, tmp_path)
    assert "no address" in caught.value.what


def test_certificates_where_python_has_none(monkeypatch):
    nothing = SimpleNamespace(cafile=None, capath=None)
    monkeypatch.setattr(pull_http.ssl, "get_default_verify_paths", lambda: nothing)
    assert type(pull_http._certificates()).__module__.startswith("truststore")


def test_json_that_is_none(file_server, served):
    file_server.files["/api"] = served(b"<html>")
    with pytest.raises(DownloadFailed) as caught:
        read_json(file_server.url + "/api", {})
    assert caught.value.fields["url"].endswith("/api")
