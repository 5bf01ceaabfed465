"""What a card needs that the package may not carry: its firmware, and on a Mac TinyGPU.app.

`data/manifest.toml` names each file, where it comes from and its sha256. Files are kept in one
folder, laid out as linux-firmware lays them out, and are checked every time they are looked at.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

from exosuit.errors import CorruptFile
from exosuit.silicon.pci_ids import AMD, Identity

SYSTEM_FIRMWARE = Path("/lib/firmware")
LARGEST = 256 << 20
"""Bytes of one firmware file that are read; the largest has about 64 MB."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file: its path below the firmware folder, its sha256 and who needs it."""

    path: str
    sha256: str
    families: tuple[str, ...]
    url: str


@dataclass(frozen=True, slots=True)
class App:
    """TinyGPU.app; an empty `sha256` means that nobody published one."""

    url: str
    sha256: str
    team: str


@cache
def firmware() -> tuple[Item, ...]:
    table = cast("dict[str, Any]", _manifest()["firmware"])
    return tuple(
        Item(row["path"], row["sha256"], tuple(row["for"]), table["base"] + row["path"])
        for row in table["file"]
    )


@cache
def app() -> App:
    return App(**cast("dict[str, str]", _manifest()["app"]))


def _manifest() -> dict[str, Any]:
    text = resources.files("exosuit.advise").joinpath("data/manifest.toml").read_text("utf-8")
    return tomllib.loads(text)


def needed(cards: Iterable[Identity]) -> list[Item]:
    """The files that these cards need, in order of the manifest."""
    families = {card.family if card.vendor == AMD else card.target for card in cards}
    return [item for item in firmware() if families.intersection(item.families)]


def missing(items: Iterable[Item], folder: Path) -> list[Item]:
    """Those that are not in the folder, or not with their hash."""
    return [item for item in items if not is_whole(folder / item.path, item.sha256)]


def is_whole(path: Path, sha256: str) -> bool:
    """Whether the file is there and has its hash."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def adopt(item: Item, folders: Sequence[Path], target: Path) -> bool:
    """Copy one file out of local folders, plain or xz-compressed, if one has it with its hash.

    A file of that name with another hash is passed over: distributions carry other releases.
    Raises CorruptFile only if the copy cannot be written.
    """
    for folder in folders:
        for name in (item.path, Path(item.path).name, item.path + ".xz"):
            data = _read(folder / name)
            if data is not None and hashlib.sha256(data).hexdigest() == item.sha256:
                _write(target / item.path, data)
                return True
    return False


def _read(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > LARGEST:
            return None
        data = path.read_bytes()
        if path.suffix != ".xz":
            return data
        unpacked = lzma.LZMADecompressor(memlimit=LARGEST).decompress(data, LARGEST + 1)
        return unpacked if len(unpacked) <= LARGEST else None
    except (OSError, lzma.LZMAError, EOFError):
        return None


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: under another name first, then renamed."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CorruptFile(
            f"{path} cannot be written",
            cause=str(error),
            next=f"free some room or make {path.parent} writable, then  exosuit setup --yes",
        ) from error
