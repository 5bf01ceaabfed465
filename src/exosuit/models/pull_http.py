"""One file over HTTP: resumed where it stopped, checked as it arrives, in place when whole.

Bytes gather in `TARGET.part`; beside it `TARGET.part.json` says of which URL and version they are,
so that a resumed file never mixes two. `If-Range` (RFC 9110, section 13.1.5) lets the server decide
whether it still serves that version. Large files come over several connections (`pull_parts`) where
the server can. Nothing here knows what a model is.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

from exosuit.clock import Clock
from exosuit.errors import CorruptFile, DownloadFailed
from exosuit.models.pull_parts import LARGE_BYTES, SPARE_BYTES, Note, Pieces, Span, check_spare
from exosuit.models.pull_progress import Progress
from exosuit.models.store import disk_failure, free_bytes, sha256_of
from exosuit.units import MiB, human_bytes

_CHUNK_BYTES = MiB
_TIMEOUT_S = 30.0
_TRIES = 5
_CHECK_BYTES = 64 * MiB  # how often the room on the disk is looked at
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # worth another try


@dataclass(frozen=True)
class Download:
    """What to fetch and what is known of it beforehand; `size_bytes` and `sha256` get checked."""

    url: str
    size_bytes: int | None = None
    sha256: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    starts_with: bytes = b""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


class _Passing(Exception):
    """A failure that may be gone at the next try."""


def fetch(download: Download, target: Path, progress: Progress, clock: Clock) -> str:
    """Bring `download` to `target` and return its sha256; DownloadFailed or CorruptFile.

    What has arrived stays in the part, except where it proved to be wrong.

    A cut connection is taken up again where it broke, up to five times without a mebibyte gained.
    """
    part = target.with_name(target.name + ".part")
    failures = 0
    while True:
        before = _kept(part)
        try:
            return _try_once(download, target, part, progress)
        except (_Passing, _StalePart) as problem:
            progress.finish()
            if isinstance(problem, _StalePart):
                _forget(part)
            failures = 1 if _kept(part) - before >= MiB else failures + 1
            if failures == _TRIES:
                raise DownloadFailed(
                    f"{download.host} stopped answering ({problem})",
                    cause=f"the network or the server; {human_bytes(_kept(part))} are kept",
                    next="run the same command again: it goes on where it stopped",
                    url=download.url,
                    kept_bytes=_kept(part),
                ) from problem
            progress.note(f"connection to {download.host} lost ({problem}); trying again")
            clock.sleep(2.0 ** (failures - 1))
        except OSError as problem:
            progress.finish()
            raise disk_failure(problem, target.parent) from problem


def read_json(url: str, headers: Mapping[str, str]) -> Any:
    """A small JSON document; DownloadFailed says what is wrong with the server or the way to it."""
    try:
        with _open(Download(url, headers=headers), {}) as response:
            return json.loads(response.read(64 * MiB))
    except _Passing as problem:
        raise DownloadFailed(
            f"{urlsplit(url).netloc} does not answer ({problem})",
            cause="the server is busy or the network is down",
            next="try again in a minute",
            url=url,
        ) from problem
    except ValueError as problem:
        raise DownloadFailed(
            f"{url} did not answer with JSON",
            cause="it is not a model hub, or a proxy answered in its place",
            next="check HF_ENDPOINT and the network",
            url=url,
        ) from problem


def _try_once(download: Download, target: Path, part: Path, progress: Progress) -> str:
    path, known = _note_of(part), Note.read(_note_of(part))
    if known.done is not None and known.url == download.url and part.exists():
        return _in_pieces(download, target, part, known, progress)
    # The last byte is asked for again, so that a part that is whole is an answerable question too.
    is_resumed = known.done is None and known.url == download.url
    start = max(_size(part) - 1, 0) if is_resumed else 0
    headers: dict[str, str] = {}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known.version:
            headers["If-Range"] = known.version
    with _open(download, headers) as response:
        start, total = _place(response, start, part)
        total = _checked_total(download, total)
        _check_room(download, part, total, start)
        note = Note(download.url, _version(response))
        if total is None or total - start < LARGE_BYTES or not _gives_pieces(response):
            note.write(path)
            digest = _in_one(download, part, response, start, total, progress)
            return _finish(download, target, part, digest, progress)
    note.total, note.done = total, [(0, start)] if start else []
    if not start:
        part.unlink(missing_ok=True)
    note.write(path)
    return _in_pieces(download, target, part, note, progress)


def _in_one(
    download: Download,
    part: Path,
    response: http.client.HTTPResponse,
    start: int,
    total: int | None,
    progress: Progress,
) -> str:
    """The rest of the file from one answer; its sha256."""
    digest = hashlib.sha256()
    with part.open("r+b" if start else "wb") as handle:
        _hash_first(handle, start, digest)
        progress.start(part.name.removesuffix(".part"), total, start)
        done = checked = start
        while chunk := _read(response):
            if done == 0:
                _check_beginning(download, chunk, part)
            handle.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress.update(done)
            if done - checked >= _CHECK_BYTES:
                check_spare(part.parent)
                checked = done
        if total is not None and done < total:
            raise _Passing(f"{human_bytes(done)} of {human_bytes(total)} arrived")
        os.fsync(handle.fileno())
    return digest.hexdigest()


def _in_pieces(download: Download, target: Path, part: Path, note: Note, progress: Progress) -> str:
    """What the note says is missing, over several connections; the file's sha256."""
    _checked_total(download, note.total)
    _check_room(download, part, note.total, note.kept_bytes)
    progress.start(target.name, note.total, note.kept_bytes)

    def ask(span: Span) -> Iterator[bytes]:
        return _piece(download, note, span, part)

    try:
        Pieces(part, _note_of(part), note, ask).run(_Passing, progress.update)
    except CorruptFile:
        _forget(part)
        raise
    return _finish(download, target, part, sha256_of(part), progress)


def _piece(download: Download, note: Note, span: Span, part: Path) -> Iterator[bytes]:
    at, end = span
    headers = {"Range": f"bytes={at}-{end - 1}", "If-Range": note.version}
    with _open(download, headers) as response:
        if response.status != 206 or _content_range(response) != (at, note.total):
            raise _StalePart("it has another file there now, or gives no pieces of it any more")
        while at < end:
            chunk = _read(response)[: end - at]
            if not chunk:
                raise _Passing("the connection was cut")
            if at == 0:
                _check_beginning(download, chunk, part)
            at += len(chunk)
            yield chunk


def _finish(download: Download, target: Path, part: Path, found: str, progress: Progress) -> str:
    """The whole part is what was asked for: in place with it."""
    progress.finish()
    _check_hash(download, found, part)
    part.rename(target)
    _note_of(part).unlink()
    return found


def _place(response: http.client.HTTPResponse, start: int, part: Path) -> tuple[int, int | None]:
    """Where the answer's first byte belongs, and how long the whole file is."""
    length = response.headers.get("Content-Length")
    if response.status != 206:
        return 0, int(length) if length and length.isdecimal() else None
    first, whole = _content_range(response)
    if first != start:
        part.unlink()
        raise _Passing("the server resumed at the wrong place")
    return start, whole


def _content_range(response: http.client.HTTPResponse) -> tuple[int | None, int | None]:
    """First byte and whole length: "bytes 100-199/200" (RFC 9110, section 14.4)."""
    span, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    first = span.partition("-")[0]
    return (
        int(first) if first.isdecimal() else None,
        int(whole) if whole.isdecimal() else None,
    )


def _gives_pieces(response: http.client.HTTPResponse) -> bool:
    """Whether spans of this very version can be asked for."""
    ranges = response.status == 206 or response.headers.get("Accept-Ranges", "") == "bytes"
    return ranges and bool(_version(response))


def _checked_total(download: Download, total: int | None) -> int | None:
    if download.size_bytes is None or total is None or total == download.size_bytes:
        return total if total is not None else download.size_bytes
    raise DownloadFailed(
        f"{download.host} offers {total} bytes where {download.size_bytes} were expected",
        cause="the file was changed on the server, or a proxy answered in its place",
        next="run the same command again",
        url=download.url,
        size_bytes=total,
        expected_bytes=download.size_bytes,
    )


def _check_room(download: Download, part: Path, total: int | None, start: int) -> None:
    free = free_bytes(part.parent)
    if total is not None and total - start + SPARE_BYTES > free:
        raise DownloadFailed(
            f"{download.host} offers {human_bytes(total - start)}; the disk has "
            f"{human_bytes(free)} free",
            cause=f"{part.parent} is on a disk that is too full",
            next="make room (exosuit models, exosuit rm NAME), or set EXOSUIT_HOME elsewhere",
            needed_bytes=total - start,
            free_bytes=free,
        )


def _check_beginning(download: Download, chunk: bytes, part: Path) -> None:
    """CorruptFile for another kind of file; then nothing is kept of it."""
    if chunk.startswith(download.starts_with):
        return
    _forget(part)
    page = b"<html" in chunk[:1024].lower() or b"<!doctype" in chunk[:1024].lower()
    raise CorruptFile(
        f"{download.url} is not a GGUF file: it starts with {chunk[:8]!r}",
        cause="the address is that of a web page" if page else "it is another kind of file",
        next="give the address of the file itself, which ends in .gguf",
        url=download.url,
        start=chunk[:8],
    )


def _check_hash(download: Download, found: str, part: Path) -> None:
    if download.sha256 is None or found == download.sha256.lower():
        return
    _forget(part)
    raise CorruptFile(
        f"what {download.host} sent has the wrong hash: sha256 {found}",
        cause=f"expected {download.sha256}; it was damaged on the way, or replaced by somebody",
        next="run the same command again; if it fails again, do not trust this source",
        url=download.url,
        sha256=found,
        expected=download.sha256,
    )


def _open(download: Download, headers: dict[str, str]) -> http.client.HTTPResponse:
    """The server's good answer; every other one as `_Passing` or DownloadFailed."""
    request = urllib.request.Request(
        download.url, headers={"User-Agent": "exosuit", **download.headers, **headers}
    )
    opener = urllib.request.build_opener(
        _Redirects(), urllib.request.HTTPSHandler(context=_certificates())
    )
    try:
        return cast("http.client.HTTPResponse", opener.open(request, timeout=_TIMEOUT_S))
    except urllib.error.HTTPError as problem:
        problem.close()
        if problem.code == 416:  # the part is not a beginning of what the server has now
            raise _StalePart("it has another file there now") from problem
        if problem.code in _PASSING:
            raise _Passing(f"status {problem.code}") from problem
        raise _refused(download, problem.code) from problem
    except urllib.error.URLError as problem:
        if isinstance(problem.reason, ssl.SSLCertVerificationError):
            raise DownloadFailed(
                f"{download.host} could not prove who it is",
                cause=f"{problem.reason.verify_message}; a proxy may stand in between",
                next="set SSL_CERT_FILE to the certificates that this network uses",
                url=download.url,
            ) from problem
        if isinstance(problem.reason, ConnectionResetError | BrokenPipeError):
            raise _Passing(str(problem.reason)) from problem
        raise DownloadFailed(
            f"cannot reach {download.host} ({problem.reason})",
            cause="no network, a proxy that is not set (HTTPS_PROXY), or the server is down",
            next="check the network, then run the same command again; "
            "models in the store work offline",
            url=download.url,
        ) from problem
    except (TimeoutError, ConnectionError, http.client.HTTPException) as problem:
        raise _Passing(str(problem) or type(problem).__name__) from problem
    except ValueError as problem:
        raise DownloadFailed(
            f"{download.host} redirects to what is no address ({problem})",
            cause="the server is misconfigured",
            next="use another source",
            url=download.url,
        ) from problem


class _StalePart(Exception):
    """The part is not of what the server has now."""


def _refused(download: Download, status: int) -> DownloadFailed:
    cause, step = {
        401: ("it is private, gated or does not exist", "set HF_TOKEN if you have access"),
        403: ("it is private or gated, and this account may not read it",
              "accept its terms on its page, and set HF_TOKEN"),
        404: ("the address or the file's name is mistyped, or it was removed",
              "check the name on the site it comes from"),
        410: ("it was removed", "look for another source"),
    }.get(status, (
        ("its redirects go in a circle", "check the address")
        if 300 <= status < 400
        else ("the server refused without a reason that exosuit knows", "check the address")
    ))  # fmt: skip
    return DownloadFailed(
        f"{download.host} answered {status} for {urlsplit(download.url).path}",
        cause=cause,
        next=step,
        url=download.url,
        status=status,
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but takes no credentials along to another host, nor https to http."""

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
        headers: http.client.HTTPMessage,
    ) -> Any:  # fmt: skip
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except BaseException:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
        headers: http.client.HTTPMessage, newurl: str,
    ) -> urllib.request.Request | None:  # fmt: skip
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if old.scheme == "https" and new.scheme != "https":
            raise DownloadFailed(
                f"{old.netloc} redirects to an address without encryption",
                cause=f"{newurl} is not https",
                next="use another source",
                url=newurl,
            )
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and old.netloc != new.netloc:
            request.headers.pop("Authorization", None)
        return request


def _certificates() -> ssl.SSLContext:
    """Trust in whom this system trusts, also where Python has no list (python.org's on macOS)."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        return ssl.create_default_context()
    import truststore  # asks the platform; comes with huggingface_hub's HTTP client

    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as problem:
        raise _Passing(str(problem) or type(problem).__name__) from problem


def _hash_first(handle: IO[bytes], start: int, digest: Any) -> None:
    """Feed the first `start` bytes to `digest`, and cut the file there."""
    while handle.tell() < start:
        digest.update(handle.read(min(_CHUNK_BYTES, start - handle.tell())))
    if start:
        handle.truncate(start)


def _note_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)


def _kept(part: Path) -> int:
    """Bytes that need not be fetched again."""
    note = Note.read(_note_of(part))
    return _size(part) if note.done is None else note.kept_bytes


def _version(response: http.client.HTTPResponse) -> str:
    """A strong validator of what is served, or "": weak ones must not guard a range."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
