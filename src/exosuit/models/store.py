"""The model store: one folder per model, holding its GGUF files and a record of what they are.

A model is in the store exactly when its folder is: files and record are gathered under
`.incoming/NAME` and enter by one rename, so a killed process never leaves half a model. Whoever
changes a model holds its file lock. Reading needs neither lock nor network.

    ROOT/smollm2/record.json  smollm2.gguf       a model
    ROOT/.incoming/NAME/...                      a download under way, kept when interrupted
    ROOT/.locks/NAME                             who may change NAME (flock)
"""

from __future__ import annotations

import difflib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from exosuit.errors import CorruptFile, DownloadFailed, ExosuitError, ModelNotFound, UsageError
from exosuit.units import human_bytes

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?")


@dataclass(frozen=True)
class StoredFile:
    """One file of a model: its name in the model's folder, bytes, and sha256 in hex."""

    file: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """What the store knows of a model; `added` is UTC in ISO 8601, `licence` "" when unknown."""

    name: str
    source: str
    licence: str
    architecture: str
    added: str
    files: tuple[StoredFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.files)

    @property
    def sha256(self) -> str:
        """Of the only file, or of the first part of a split model."""
        return self.files[0].sha256


class Store:
    """The models under `root`. Cheap to make; holds no state besides the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Every model, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(
            folder.name
            for folder in self.root.iterdir()
            if _NAME.fullmatch(folder.name) and (folder / "record.json").exists()
        )

    def __contains__(self, name: str) -> bool:
        return name.lower() in self.names()

    def record(self, name: str) -> Record:
        """What is known of a model; ModelNotFound with the nearest name, CorruptFile."""
        name = checked_name(name)
        path = self.root / name / "record.json"
        try:
            found = cast("dict[str, Any]", json.loads(path.read_bytes()))
            files = tuple(StoredFile(**part) for part in found.pop("files"))
            if not files or not all(
                part.file and Path(part.file).name == part.file for part in files
            ):
                raise ValueError("a file that is not in its folder")
            return Record(**found, files=files)
        except FileNotFoundError:
            raise unknown_model(name, self.names()) from None
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            raise CorruptFile(
                f"the store's record of {name} cannot be read ({problem})",
                cause=f"{path} was changed or damaged",
                next=f"exosuit rm {name}, then pull it again",
                path=str(path),
            ) from problem

    def find(self, name: str) -> Path:
        """The GGUF file of a model, or its first part; ModelNotFound when it is gone."""
        record = self.record(name)
        path = self.root / record.name / record.files[0].file
        if not path.exists():
            raise ModelNotFound(
                f"the file of {record.name} is gone ({os.path.realpath(path)})",
                cause="it was moved or deleted outside exosuit",
                next=f"exosuit rm {record.name} && exosuit pull {record.source}",
                path=str(path),
            )
        return path

    def links(self, name: str) -> list[Path]:
        """The files elsewhere that a linked model is made of; empty for one that lies here."""
        folder = self.root / checked_name(name)
        paths = [folder / part.file for part in self.record(name).files]
        return [path.resolve() for path in paths if path.is_symlink()]

    def add(
        self,
        path: Path,
        name: str,
        *,
        link: bool = False,
        source: str | None = None,
        licence: str = "",
        sha256: str | None = None,
    ) -> Record:
        """Copy (or link) a GGUF file into the store under `name`.

        Of a split model `path` is the first part; the others are taken from beside it.

        source  where it comes from, if not from that path
        sha256  what the only file must have; CorruptFile otherwise
        """
        name = checked_name(name)
        parts = split_parts(path)
        source = source or str(path.resolve())
        with self.lock(name):
            if name in self:
                raise name_taken(self.record(name))
            incoming = self.incoming(name, source=source)
            for number, part in enumerate(parts, 1):
                target = incoming / file_name(name, number, len(parts))
                target.unlink(missing_ok=True)  # of an earlier try
                if link:
                    target.symlink_to(part.resolve())
                else:
                    _copy(part, target)
            known = _checked_hash(path, incoming, sha256) if sha256 else {}
            return self.commit(name, source=source, licence=licence, sha256=known)

    def commit(
        self,
        name: str,
        *,
        source: str,
        licence: str = "",
        sha256: Mapping[str, str] | None = None,
    ) -> Record:
        """Make the GGUF files gathered for `name` a model, after checking that they are one.

        The caller holds the lock and `name` is free. Files that are no model are thrown away.
        `sha256` holds the hashes, by file name, that are known already.
        """
        known = sha256 or {}
        incoming = self.root / ".incoming" / name
        paths = sorted(incoming.glob("*.gguf"))
        try:
            architecture, stated = _facts(paths[0])
        except ExosuitError:
            shutil.rmtree(incoming)
            raise
        record = Record(
            name=name,
            source=source,
            licence=stated or licence,
            architecture=architecture,
            added=datetime.now(UTC).isoformat(timespec="seconds"),
            files=tuple(
                StoredFile(path.name, path.stat().st_size, known.get(path.name) or sha256_of(path))
                for path in paths
            ),
        )
        for left in set(incoming.iterdir()) - set(paths):  # marks, and what a killed pip left
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            (incoming / "record.json").write_text(json.dumps(asdict(record), indent=2) + "\n")
            incoming.rename(self.root / name)
        except OSError as problem:
            raise disk_failure(problem, self.root) from problem
        return record

    def remove(self, name: str) -> int:
        """Delete a model or what was kept of a download; returns the bytes freed."""
        name = checked_name(name)
        model, incoming = self.root / name, self.root / ".incoming" / name
        if not model.is_dir() and not incoming.is_dir():
            raise unknown_model(name, self.names())
        with self.lock(name):
            folders = [folder for folder in (model, incoming) if folder.is_dir()]
            freed = sum(entry.lstat().st_size for folder in folders for entry in folder.iterdir())
            for folder in folders:
                (folder / "record.json").unlink(missing_ok=True)  # from here on it is no model
                shutil.rmtree(folder)
        return freed

    def incoming(self, name: str, *, source: str) -> Path:
        """The folder where `name` is gathered, with what an earlier try from `source` left."""
        folder = self.root / ".incoming" / name
        mark = folder / "source"
        try:
            if folder.exists() and (not mark.exists() or mark.read_text() != source):
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            mark.write_text(source)
        except OSError as problem:
            raise disk_failure(problem, folder) from problem
        return folder

    @contextmanager
    def lock(self, name: str, waiting: Callable[[], None] | None = None) -> Generator[None]:
        """Hold the right to change `name`; calls `waiting` once when another process holds it."""
        try:
            (self.root / ".locks").mkdir(parents=True, exist_ok=True)
            handle = (self.root / ".locks" / name).open("w")
        except OSError as problem:
            raise disk_failure(problem, self.root) from problem
        with handle:  # closing releases the lock, and so does the death of the process
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is not None:
                    waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def checked_name(name: str) -> str:
    """The name in lower case; UsageError when it could be anything else than one plain folder."""
    lower = name.lower()
    if not _NAME.fullmatch(lower) or ".." in lower:
        raise UsageError(
            f"{name!r} cannot be the name of a model",
            cause="a name is up to 100 letters, digits, dots, dashes and underscores",
            next="give another one with --name",
            name=name,
        )
    return lower


def name_from(text: str) -> str:
    """A valid model name made from a file's or repository's name."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", text.lower())
    return checked_name(re.sub(r"\.\.+", ".", plain).strip("._-")[:100].strip("._-") or "model")


def file_name(name: str, number: int, count: int) -> str:
    """What file `number` (from 1) of `count` is called, in the pattern of split GGUF files."""
    return f"{name}.gguf" if count == 1 else f"{name}-{number:05d}-of-{count:05d}.gguf"


def split_parts(path: Path) -> list[Path]:
    """Every file of the model that starts at `path`: itself, or all parts in order."""
    match = re.fullmatch(r"(.+)-00001-of-(\d{5})\.gguf", path.name)
    if match is None:
        return [path]
    count = int(match[2])
    return [path.with_name(f"{match[1]}-{n:05d}-of-{match[2]}.gguf") for n in range(1, count + 1)]


def unknown_model(name: str, known: list[str]) -> ModelNotFound:
    """The error for a name that nothing knows, with the nearest that something does."""
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return ModelNotFound(
        f"there is no model {name!r}",
        cause="it is neither in the store nor a name that pull knows",
        next=f"did you mean {near[0]}?" if near else "exosuit models --known lists the names",
        name=name,
        suggestion=near[0] if near else None,
    )


def name_taken(record: Record) -> UsageError:
    """The error for adding a second model under a name."""
    return UsageError(
        f"the store has a model named {record.name} already",
        cause=f"it came from {record.source}",
        next=f"choose another name with --name, or remove it: exosuit rm {record.name}",
        name=record.name,
        source=record.source,
    )


def disk_failure(problem: OSError, path: Path) -> ExosuitError:
    """The operating system's refusal to write under `path`, told in our three lines."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadFailed(
            f"the disk is full: {path} has {human_bytes(free_bytes(path))} left",
            cause="the model needs more room than there is; what has arrived is kept",
            next="make room (exosuit models, exosuit rm NAME), then run the same command again",
            errno=problem.errno,
            path=str(path),
        )
    return DownloadFailed(
        f"cannot write to {path} ({problem.strerror})",
        cause="the folder is read-only, missing, or belongs to another user",
        next="set EXOSUIT_HOME to a folder that you can write to",
        errno=problem.errno,
        path=str(path),
    )


def free_bytes(path: Path) -> int:
    """Room on the disk that holds `path` or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def sha256_of(path: Path) -> str:
    """In hex, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _checked_hash(path: Path, incoming: Path, expected: str) -> dict[str, str]:
    """The hash of the one file in `incoming`, which is thrown away if it is another."""
    (gathered,) = incoming.glob("*.gguf")
    found = sha256_of(gathered)
    if found != expected:
        shutil.rmtree(incoming)
        raise CorruptFile(
            f"{path} has the wrong hash: sha256 {found}",
            cause=f"expected {expected}; the file was damaged or replaced",
            next="fetch it again with the program that it belongs to",
            path=str(path),
        )
    return {gathered.name: found}


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise ModelNotFound(
            f"there is no file {source}",
            cause="the path is mistyped, or a part of a split model is missing",
            next=f"ls {source.parent}",
            path=str(source),
        ) from None
    except OSError as problem:
        raise disk_failure(problem, target.parent) from problem


def _facts(path: Path) -> tuple[str, str]:
    """Architecture and licence that a GGUF file states; CorruptFile when it is none."""
    from exosuit.models.gguf import GgufFile

    with GgufFile.open(path) as file:
        return (
            str(file.metadata.get("general.architecture", "")),
            str(file.metadata.get("general.license", "")),
        )
