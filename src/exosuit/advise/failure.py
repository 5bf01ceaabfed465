"""The last boot of a card that failed: kept for `doctor` and its report, and what it means.

Whoever opens a card by name does so within `remembered`: an error that names its boot step is
written to a file of the state folder, with its facts and the firmware's log buffers; a boot of the
same card that works removes it. What the facts mean, from reports of people with the same card, is
`data/boot_failures.toml`.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import time
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

from exosuit.advise.catalogue import frozen, rows
from exosuit.errors import ExosuitError

log = logging.getLogger(__name__)

FILE = "last-boot.json"
LONGEST_WORDS = 300
LARGEST_LOG = 256 << 10
"""Bytes of one of the firmware's log buffers that are kept; each has 64 KiB."""
MOST_LOGS = 16

Fact = int | float | str | bool


@dataclass(frozen=True)
class Failure:
    """A boot that failed.

    step, why  the step and the sentence about it
    facts      the error's fields that are numbers or words
    logs       buffers that the firmware wrote, by name
    """

    device: str
    when: str
    step: str
    why: str
    what: str
    cause: str
    next: str
    facts: Mapping[str, Fact] = field(default_factory=dict[str, Fact])
    logs: Mapping[str, bytes] = field(default_factory=dict[str, bytes])

    @classmethod
    def of(cls, device: str, error: ExosuitError, when: float) -> Self:
        fields = dict(error.fields)
        found = fields.pop("logs", {})
        logs = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        step, why = str(fields.pop("step", "")), str(fields.pop("step_why", ""))
        return cls(
            device=device,
            when=time.strftime("%Y-%m-%d %H:%M", time.localtime(when)),
            step=step,
            why=why,
            what=error.what,
            cause=error.cause,
            next=error.next,
            facts={str(name): _fact(value) for name, value in fields.items()},
            logs={
                str(name): bytes(data)[:LARGEST_LOG]
                for name, data in list(logs.items())[:MOST_LOGS]
                if isinstance(data, (bytes, bytearray))
            },
        )

    @classmethod
    def read(cls, text: str) -> Self | None:
        """What `as_text` wrote, or None if the text is anything else."""
        try:
            found = cast("dict[str, Any]", json.loads(text))
            logs = {
                str(name): zlib.decompressobj().decompress(
                    base64.b64decode(data, validate=True), LARGEST_LOG
                )
                for name, data in found.pop("logs").items()
            }
            words = {name: str(found[name]) for name in _WORDS}
            facts = {str(name): _fact(value) for name, value in found["facts"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error,
                binascii.Error):  # fmt: skip
            return None
        return cls(**words, facts=facts, logs=logs)

    def as_text(self) -> str:
        packed = {
            name: base64.b64encode(zlib.compress(data)).decode() for name, data in self.logs.items()
        }
        return json.dumps(asdict(self) | {"facts": dict(self.facts), "logs": packed})


_WORDS = ("device", "when", "step", "why", "what", "cause", "next")


@dataclass(frozen=True)
class Meaning:
    """One row of `data/boot_failures.toml`."""

    says: str
    source: str
    step: str = ""
    text: str = ""
    field: str = ""
    values: tuple[int, ...] = ()
    next: str = ""

    def fits(self, failure: Failure) -> bool:
        if self.step not in failure.step or self.text not in failure.what.lower():
            return False
        if not self.field:
            return True
        value = failure.facts.get(self.field)
        return value in self.values if self.values else bool(value)


@cache
def meanings() -> tuple[Meaning, ...]:
    return tuple(Meaning(**frozen(row)) for row in rows("boot_failures.toml", "meaning"))


def meaning_of(failure: Failure) -> Meaning | None:
    """What is known of such a failure."""
    return next((meaning for meaning in meanings() if meaning.fits(failure)), None)


@contextmanager
def remembered(device: str, state: Path) -> Generator[None, None, None]:
    """Keep an error of a boot that is done inside; forget the last one of this device otherwise."""
    path = state / FILE
    try:
        yield
    except ExosuitError as error:
        if "step" in error.fields:
            _write(path, Failure.of(device, error, time.time()).as_text())
        raise
    failed = Failure.read(_read(path))
    if failed is not None and failed.device == device:
        with suppress(OSError):
            path.unlink()


def last_failure(state: Path) -> str:
    """The text of the last failed boot; empty if there is none."""
    return _read(state / FILE)


def _fact(value: object) -> Fact:
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return int(value)
    return str(value)[:LONGEST_WORDS]


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    """Whole or not at all; that it cannot be written must not hide why the boot failed."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, "utf-8")
        part.replace(path)
    except OSError as error:
        log.debug("the failed boot is not kept: %s", error)
        with suppress(OSError):
            part.unlink()
