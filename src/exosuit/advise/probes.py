"""Asking a live machine: every question of `doctor`, each with a time limit.

Nothing here needs privileges, changes anything, or talks to a card that somebody else has. A
question that fails is an answer too: `missing` or `timed_out`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from exosuit.advise.failure import last_failure
from exosuit.advise.situation import LONGEST_ANSWER, Answer, Situation
from exosuit.errors import ExosuitError
from exosuit.link.find import bridges_above, read_bars
from exosuit.link.lock import owner_of
from exosuit.link.tinygpu import TinyGpuLink, default_socket, lock_name
from exosuit.silicon.pci import ClassCode

Ask = Callable[[Sequence[str], float], Answer]
"""`ask(command, timeout_s) -> Answer`."""

APP = "/Applications/TinyGPU.app"
LIMIT_S = 15.0
"""For tools that take seconds on a healthy Mac and for ever on a wedged one."""

MACOS: Mapping[str, tuple[str, ...]] = {
    "sw_vers": ("sw_vers",),
    "uname": ("uname", "-m"),
    "sysctl": ("sysctl", "hw.model", "machdep.cpu.brand_string", "sysctl.proc_translated"),
    "ps": ("ps", "-axo", "pid,stat,%cpu,etime,command"),
    "thunderbolt": ("system_profiler", "SPThunderboltDataType", "-json"),
    "ioreg": ("ioreg", "-a", "-l", "-r", "-c", "IOPCIDevice"),
    "pci": ("system_profiler", "SPPCIDataType", "-json"),
    "app": ("cat", f"{APP}/Contents/Info.plist"),
    "codesign": ("codesign", "-dv", "--verbose=2", APP),
    "extensions": ("systemextensionsctl", "list"),
    "mdm": ("profiles", "status", "-type", "enrollment"),
    "power": ("pmset", "-g", "assertions"),
    "panics": ("grep", "-rl", "DART", "/Library/Logs/DiagnosticReports", "--include=panic-full*"),
}  # fmt: skip


def run_command(command: Sequence[str], timeout_s: float) -> Answer:
    """Run a program of the system; standard error is part of the answer (codesign writes there)."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return Answer(timed_out=True, status=-1)
    except OSError:
        return Answer(missing=True, status=-1)
    text = done.stdout[:LONGEST_ANSWER].decode("utf-8", "replace")
    return Answer(text, done.returncode)


def gather(state: Path, ask: Ask = run_command) -> Situation:
    """Ask this machine everything; `state` is the folder of locks and of the last failed boot."""
    if sys.platform == "darwin":
        return gather_macos(state, ask)
    return gather_linux(state)


def gather_macos(state: Path, ask: Ask) -> Situation:
    """The questions of `MACOS`, who owns the card, and its configuration if nobody does."""
    locks = state / "locks"
    answers = {name: ask(command, LIMIT_S) for name, command in MACOS.items()}
    path = default_socket()
    owner = owner_of(lock_name(path), locks)
    answers["boot"] = Answer(last_failure(state))
    answers["files"] = Answer(str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
    answers["owner"] = Answer(json.dumps(asdict(owner) if owner else None))
    silent = any(answer.timed_out for answer in answers.values())
    if owner is None and not silent and path.exists():
        answers["config"] = read_config(path, locks)
    return Situation("macos", answers)


def read_config(path: Path, locks: Path, timeout_s: float = 3.0) -> Answer:
    """The first 256 bytes of the card's configuration, through a server that already runs."""
    try:
        with TinyGpuLink.open(path, locks=locks, timeout_s=timeout_s) as link:
            words = [link.read_config(offset, 4) for offset in range(0, 256, 4)]
    except ExosuitError as error:
        return Answer(str(error), status=1, missing=True)
    return Answer(b"".join(word.to_bytes(4, "little") for word in words).hex())


def gather_linux(state: Path, root: Path = Path("/")) -> Situation:
    """What sysfs and /dev say under `root`."""
    locks = state / "locks"
    devices = root / "sys/bus/pci/devices"
    functions = [
        entry for folder in _folders(devices) if (entry := _function(folder, root)) is not None
    ]
    owners = [
        asdict(owner)
        for entry in functions
        if (owner := owner_of(f"pci:{entry['name']}", locks)) is not None
    ]
    boxes = [
        {name: _text(folder / name) for name in ("vendor_name", "device_name", "authorized")}
        for folder in _folders(root / "sys/bus/thunderbolt/devices")
        if (folder / "authorized").exists() and not folder.name.endswith("-0")
    ]
    nodes = [
        "/" + str(path.relative_to(root))
        for path in sorted((root / "dev").glob("nvidia*"))
        if os.access(path, os.R_OK | os.W_OK)
    ]
    found = {
        "functions": json.dumps(functions),
        "owners": json.dumps(owners),
        "thunderbolt": json.dumps(boxes),
        "lockdown": _text(root / "sys/kernel/security/lockdown"),
        "iommu": " ".join(folder.name for folder in _folders(root / "sys/class/iommu")),
        "nvidia_nodes": " ".join(nodes),
        "kernel": _text(root / "proc/version"),
        "nvidia_version": _text(root / "sys/module/nvidia/version"),
        "boot": last_failure(state),
    }
    return Situation("linux", {name: Answer(text) for name, text in found.items()})


def _function(folder: Path, root: Path) -> dict[str, Any] | None:
    """One display-class or accelerator function; None for any other."""
    kind = _number(folder / "class") & 0xFFFFFF
    if not ClassCode(kind).can_be_card:
        return None
    driver, group = folder / "driver", folder / "iommu_group"
    bars = read_bars(folder)
    names = ("current_link_speed", "current_link_width", "max_link_speed", "max_link_width")
    number = group.resolve().name if group.exists() else ""
    return {
        "name": folder.name,
        "class": kind,
        "vendor": _number(folder / "vendor"),
        "device": _number(folder / "device"),
        "driver": driver.resolve().name if driver.exists() else "",
        "power_state": _text(folder / "power_state"),
        "config": _config(folder),
        "largest_bar": max((size for _, size, _ in bars.values()), default=0),
        "bars": {str(index): size for index, (_, size, _) in bars.items()},
        "bridges": bridges_above(folder.name, folder.parent),
        "iommu_group": number,
        "resource_writable": os.access(folder / "resource0", os.R_OK | os.W_OK),
        "vfio_writable": bool(number) and os.access(root / "dev/vfio" / number, os.R_OK | os.W_OK),
        **{name: _text(folder / name) for name in names},
    }


def _config(folder: Path) -> str:
    """Hexadecimal; 64 bytes for users, 256 for root. Not read from a card that sleeps deeply."""
    if _text(folder / "power_state") == "D3cold":
        return ""
    try:
        with (folder / "config").open("rb") as file:
            return file.read(256).hex()
    except OSError:
        return ""


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    try:
        return int(_text(path), 16)
    except ValueError:
        return 0
