"""Models that other programs have fetched, used where they lie: Ollama's store, LM Studio's folder.

Nothing is copied and nothing of theirs is changed: a model enters the store as links to their
files, checked like every other, and leaves it by the links' removal. If its owner deletes a file,
the link says so when it is next used. What lies there is untrusted: a manifest names blobs by
digest and nothing else, names become those of our store, and what does not fit is told, not taken.

Sources: Ollama's documented layout (manifests/HOST/NAMESPACE/MODEL/TAG, blobs/sha256-HEX; the
manifests are those of the OCI image format), LM Studio's (PUBLISHER/REPOSITORY/FILE.gguf).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from exosuit.models.store import Record, Store, name_from, split_parts

PROGRAMS = ("ollama", "lmstudio")

_HOST, _NAMESPACE = "registry.ollama.ai", "library"  # what Ollama leaves out of a name
_MODEL_LAYER = "application/vnd.ollama.image.model"
_ADAPTER_LAYER = "application/vnd.ollama.image.adapter"
_LICENCE_LAYER = "application/vnd.ollama.image.license"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_PART = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$")
_MOST_MANIFEST_BYTES = 1 << 20
_MOST_LICENCE_BYTES = 200
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Foreign:
    """A model of another program.

    label   as that program calls it
    name    what it is called here, if the name is free
    sha256  what its file should have, where its owner says so
    """

    program: str
    label: str
    name: str
    path: Path
    sha256: str | None = None
    licence: str = ""

    @property
    def source(self) -> str:
        return f"{self.program}:{self.label}"


@dataclass(frozen=True)
class Passed:
    """Something that looked like a model and is not taken."""

    label: str
    why: str


Found = Foreign | Passed


def usual_folders(program: str, home: Path, ollama_models: str = "") -> list[Path]:
    """Where the program keeps its models, as far as such folders exist.

    ollama_models  what OLLAMA_MODELS says
    """
    if program == "ollama":
        places = [Path(ollama_models)] if ollama_models else []
        places += [home / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]
    else:
        places = [home / ".lmstudio/models", home / ".cache/lm-studio/models"]
    return list(dict.fromkeys(place.resolve() for place in places if _is_folder(place)))


def look(program: str, folder: Path) -> list[Found]:
    """What is in a folder of the program, in the order of its names."""
    found = list(_ollama(folder) if program == "ollama" else _lmstudio(folder))
    return sorted(found, key=lambda entry: entry.label)


def bring(foreign: Foreign, store: Store) -> Record:
    """Link a model into the store, or find that it is there.

    Where its name is taken by another model, it gets its program's name after it. What its owner
    has replaced since is linked anew. CorruptFile for a file whose hash is not what the manifest
    says; UsageError if both names are taken; ModelNotFound if a file is missing.
    """
    name = foreign.name
    if name in store and store.record(name).source != foreign.source:
        name = f"{name}-{foreign.program}"
    if name in store:
        record = store.record(name)
        if record.source == foreign.source and store.links(name):
            if store.links(name)[0] == foreign.path.resolve():
                return record
            store.remove(name)
    return store.add(
        foreign.path, name, link=True, source=foreign.source, licence=foreign.licence,
        sha256=foreign.sha256,
    )  # fmt: skip


# Ollama -------------------------------------------------------------------------------------------


def _ollama(folder: Path) -> Iterator[Found]:
    manifests = folder / "manifests"
    for path in sorted(manifests.glob("*/*/*/*")):
        host, namespace, model, tag = path.relative_to(manifests).parts
        own = namespace == _NAMESPACE and host == _HOST
        label = "/".join([*([] if host == _HOST else [host]), *([] if own else [namespace]), model])
        label = f"{label}:{tag}"
        if tag.startswith(".") or not path.is_file():
            continue
        try:
            yield _of_manifest(folder, path, label, _name(namespace, own, model, tag))
        except _UNREADABLE as problem:
            yield Passed(
                label, f"its manifest cannot be read ({problem or type(problem).__name__})"
            )


def _name(namespace: str, own: bool, model: str, tag: str) -> str:
    words = [*([] if own else [namespace]), model, *([] if tag == "latest" else [tag])]
    return name_from("-".join(words))


def _of_manifest(folder: Path, path: Path, label: str, name: str) -> Found:
    if path.stat().st_size > _MOST_MANIFEST_BYTES:
        raise ValueError("it is too large to be one")
    manifest = cast("dict[str, Any]", json.loads(path.read_bytes()))
    layers = cast("list[dict[str, Any]]", manifest["layers"])
    by_kind = {kind: [layer for layer in layers if layer["mediaType"] == kind]
               for kind in (_MODEL_LAYER, _ADAPTER_LAYER, _LICENCE_LAYER)}  # fmt: skip
    if len(by_kind[_MODEL_LAYER]) != 1:
        return Passed(label, f"it has {len(by_kind[_MODEL_LAYER])} model files, not one")
    if by_kind[_ADAPTER_LAYER]:
        return Passed(label, "it is an adapter of another model, which exosuit does not apply")
    digest, blob = _blob(folder, by_kind[_MODEL_LAYER][0])
    if not blob.is_file():
        return Passed(label, f"its file is missing: {blob.name}")
    if not _starts_as_gguf(blob):
        return Passed(label, "its file is no GGUF file")
    return Foreign("ollama", label, name, blob, digest, _licence(folder, by_kind[_LICENCE_LAYER]))


def _blob(folder: Path, layer: dict[str, Any]) -> tuple[str, Path]:
    """The digest and the file of a layer; ValueError unless it is plainly one of the blobs."""
    match = _DIGEST.fullmatch(str(layer["digest"]))
    if match is None:
        raise ValueError("a digest that is none")
    path = folder / "blobs" / f"sha256-{match[1]}"
    older = folder / "blobs" / f"sha256:{match[1]}"  # as Ollama wrote it, long ago
    return match[1], older if older.exists() and not path.exists() else path


def _licence(folder: Path, layers: list[dict[str, Any]]) -> str:
    """The first line of its text; "" if there is none."""
    for layer in layers:
        _, path = _blob(folder, layer)
        if path.is_file():
            with path.open("rb") as file:
                text = file.read(_MOST_LICENCE_BYTES).decode(errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            return "".join(c for c in lines[0] if c.isprintable())[:80] if lines else ""
    return ""


# LM Studio ----------------------------------------------------------------------------------------


def _lmstudio(folder: Path) -> Iterator[Found]:
    for path in sorted(folder.glob("*/*/*.gguf")):
        label = str(path.relative_to(folder))
        if _PART.search(path.name) or not path.is_file():
            continue
        if path.name.startswith("mmproj"):
            continue  # the eyes of the model beside it
        missing = [part.name for part in split_parts(path) if not part.is_file()]
        if missing:
            yield Passed(label, f"a part of it is missing: {missing[0]}")
        elif not _starts_as_gguf(path):
            yield Passed(label, "it is no GGUF file, or its download has not ended")
        else:
            stem = re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)
            yield Foreign("lmstudio", label, name_from(stem), path)


def _starts_as_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # of another user
        return False
