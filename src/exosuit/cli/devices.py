"""`exosuit list`: what this machine can compute on. For now the host; cards join here."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from exosuit.cli import render
from exosuit.cli.command import Subparsers, add_command
from exosuit.errors import UsageError
from exosuit.settings import Settings
from exosuit.units import human_bytes


def register(subparsers: Subparsers[Any]) -> None:
    add_command(
        subparsers, "list", "List the devices of this machine.", "exosuit list --json", json=True
    )


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    devices = [cpu_row()]
    if arguments.json:
        render.document({"devices": devices})
        return 0
    render.table(
        ("device", "name", "memory", "cores", "features", "verdict", "known"),
        [
            (
                row["device"], row["name"], human_bytes(row["memory_bytes"]), str(row["cores"]),
                " ".join(row["features"]), row["verdict"], row["known"] or "",
            )
            for row in devices
        ],
    )  # fmt: skip
    for row in devices:
        if row["verdict"] != "ready":
            render.note(f"{row['device']}: {row['reason']}; {row['next']}")
    return 0


def cpu_row() -> dict[str, Any]:
    """The host as a row of `list --json`, plus `cores` and `features` of its vector units."""
    from exosuit.kernel.target import Target

    row: dict[str, Any] = {
        "device": "cpu",
        "name": _processor_name(),
        "vendor_id": None,
        "device_id": None,
        "class_code": None,
        "family": platform.machine(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "driver": "cpu",
        "connection": "host",
        "verdict": "ready",
        "reason": None,
        "next": None,
        "known": "hardware",
        "cores": os.cpu_count(),
        "features": [],
    }
    try:
        target = Target.host()
    except UsageError as problem:
        return row | {"verdict": "unsupported", "reason": problem.cause, "next": problem.next,
                      "known": None}  # fmt: skip
    return row | {"family": target.family, "features": [target.name.rpartition("-")[2]]}


def _processor_name() -> str:
    """The maker's name of the processor, or of its instruction set where nobody tells."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    else:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
        named = [line.partition(":")[2] for line in lines if line.startswith("model name")]
        told = named[0] if named else ""
    return told.strip() or platform.machine()
