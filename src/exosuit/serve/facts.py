"""What the server tells about itself: models, what is loaded, devices. Values only.

`Service` makes them; the dialects, the web page and `exosuit ps` put them into their own words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelInfo:
    """A model of the store, as far as its file's header tells.

    size_bytes    of all its files
    digest        sha256 in hex, of the first file; "" if the store never hashed it
    family        what the file calls its architecture: llama, qwen3, bert
    parameters    how many numbers its tensors hold
    quantisation  the storage type that holds most bytes: "Q4_K"
    context       positions it was trained for; 0 if the file does not say
    modified      when it came into the store; UTC, ISO 8601
    capabilities  of "completion", "chat", "tools", "thinking", "insert", "embedding"
    """

    name: str
    path: Path
    size_bytes: int
    digest: str
    family: str
    parameters: int
    quantisation: str
    context: int
    modified: str
    licence: str = ""
    capabilities: tuple[str, ...] = ()
    template: str = ""


@dataclass(frozen=True)
class LoadedInfo:
    """A model that is loaded, or being loaded.

    device_bytes  weights, cache and workspace
    progress      0.0 to 1.0 while it is being loaded, then 1.0
    expires_at    when it is unloaded if nobody asks; seconds since the epoch, None for never
    """

    name: str
    device: str
    device_bytes: int
    context: int
    parallel: int
    progress: float
    expires_at: float | None
    active: int
    waiting: int
    digest: str = ""
    family: str = ""
    parameters: int = 0
    quantisation: str = ""


@dataclass(frozen=True)
class DeviceInfo:
    """A device that the server may use.

    state  "ready" (open), "closed" (not needed so far), "lost"
    why    of a lost one
    link   counters of the way to the card, where it has one: reads, writes, bytes
    """

    name: str
    target: str
    memory_bytes: int
    used_bytes: int
    state: str
    why: str = ""
    link: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class Status:
    """The server at a glance, for the web page and `exosuit ps`.

    tokens_per_second   of all answers together, over the last ten seconds
    prefill_per_second  prompt tokens computed, likewise
    findings            the rows of `exosuit doctor --json` that are not ok
    """

    version: str
    pid: int
    uptime_s: float
    draining: bool
    devices: list[DeviceInfo]
    loaded: list[LoadedInfo]
    active: int
    waiting: int
    tokens_per_second: float
    prefill_per_second: float
    requests_total: int
    findings: list[dict[str, Any]]


@dataclass(frozen=True)
class PullProgress:
    """How far a download has come; `total_bytes` is None where nobody knows."""

    label: str
    done_bytes: int
    total_bytes: int | None
