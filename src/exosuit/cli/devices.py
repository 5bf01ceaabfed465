"""`exosuit list`: what this machine can compute on: the host, and every card on its bus."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from exosuit.cli import render
from exosuit.cli.command import Subparsers, add_command
from exosuit.errors import UsageError
from exosuit.settings import Settings
from exosuit.units import human_bytes


def register(subparsers: Subparsers[Any]) -> None:
    parser = add_command(
        subparsers, "list", "List the devices of this machine.", "exosuit list --json", json=True
    )
    parser.add_argument(
        "--device", action="append", default=[], metavar="NAME",
        help="list this software card too, such as soft:gfx1100; may repeat",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="source", metavar="FILE", type=Path,
        help="list the cards of a report of exosuit doctor instead",
    )  # fmt: skip


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    if arguments.source:
        from exosuit.advise.listing import rows_of
        from exosuit.advise.situation import read_situation

        devices = rows_of(read_situation(arguments.source))
    else:
        devices = [cpu_row(), *rows_of_cards(settings)]
    devices += [soft_row(name) for name in arguments.device]
    if arguments.json:
        render.document({"devices": devices})
        return 0
    render.table(
        ("device", "name", "memory", "driver", "connection", "verdict", "known"),
        [
            (
                row["device"], _title(row),
                human_bytes(row["memory_bytes"]) if row["memory_bytes"] else "",
                row["driver"] or "none", row["connection"], row["verdict"], row["known"] or "",
            )
            for row in devices
        ],
    )  # fmt: skip
    for row in devices:
        if row["verdict"] != "ready":
            render.note(f"{row['device']}: {row['reason']}; {row['next']}")
    return 0


def _title(row: dict[str, Any]) -> str:
    """The name; a host's with its cores and vector units."""
    if "cores" not in row:
        return row["name"]
    return ", ".join([row["name"], f"{row['cores']} cores", *row["features"]])


def rows_of_cards(settings: Settings) -> list[dict[str, Any]]:
    """Every display-class or accelerator function, with who holds it; then what libcuda sees."""
    from exosuit.advise.cuda import cuda_cards, cuda_rows
    from exosuit.advise.listing import card_rows
    from exosuit.link.find import find_cards
    from exosuit.link.lock import owner_of
    from exosuit.link.tinygpu import default_socket, lock_name

    found, locks = find_cards(), settings.state / "locks"
    names = {f"pci:{card.name}": f"pci:{card.name}" for card in found}
    names["tinygpu"] = lock_name(default_socket())
    owners = {
        device: owner
        for device, lock in names.items()
        if (owner := owner_of(lock, locks)) is not None
    }
    rows = card_rows(found, sys.platform == "darwin", owners)
    return [*rows, *cuda_rows(*cuda_cards())]


def soft_row(name: str) -> dict[str, Any]:
    """A software card as a row of `list --json`; nothing is started. Raises UsageError."""
    from exosuit.softcard.chips import CHIPS, parse_options, parse_spec

    kind, _, spec = name.partition(":")
    chip, chosen = parse_spec(spec)
    if kind != "soft" or chip not in CHIPS:
        raise UsageError(
            f"{name!r} is no software card",
            cause=f"they are {', '.join(f'soft:{card}' for card in CHIPS)}",
            next="exosuit list --device soft:gfx1100,vram=2G,link=tb4",
            device=name,
        )
    options = parse_options(chosen)
    facts = _soft_facts(chip)
    row: dict[str, Any] = {
        "device": name,
        "vendor_id": None,
        "device_id": None,
        "class_code": None,
        "family": chip,
        "driver": None,
        "verdict": "ready",
        "reason": None,
        "next": None,
        "known": "simulated",
        **facts,
        "name": f"{facts.get('name', chip)}, made of software",
        "memory_bytes": options.vram or facts.get("memory_bytes"),
        "connection": f"a process, as if by {options.link.title}",
    }
    return row if row["verdict"] == "ready" else row | {"next": "use  --device soft:gfx1100"}


def _soft_facts(chip: str) -> dict[str, Any]:
    """What a software card stands for, as entries of its row."""
    from exosuit.silicon.amd import chips as amd
    from exosuit.silicon.amd.discovery import HardwareId
    from exosuit.silicon.nvidia import chips as nvidia
    from exosuit.softcard.nvidia.products import PRODUCTS

    display = f"{amd.CLASS_CODE:06x}"
    for product in PRODUCTS:
        if product.name == chip:
            return {
                "name": f"NVIDIA {product.title}",
                "vendor_id": f"{nvidia.VENDOR_ID:04x}",
                "device_id": f"{product.device_id:04x}",
                "class_code": display,
                "memory_bytes": product.vram_bytes,
                "driver": "nvidia, bare metal",
            }
    for card in amd.CHIPS:
        if card.target == chip:
            facts: dict[str, Any] = {
                "name": card.name,
                "vendor_id": f"{amd.VENDOR_ID:04x}",
                "device_id": f"{card.device_id:04x}",
                "class_code": display,
                "memory_bytes": card.vram_bytes,
                "driver": "amd",
            }
            if card.versions[HardwareId.GC][0] == 12:
                reason = "it boots and copies, but runs no programs yet"
                facts |= {"verdict": "untested", "reason": reason}
            return facts
    reason = "it moves bytes only and runs no programs"
    return {"verdict": "unsupported", "reason": reason, "known": None}


def cpu_row() -> dict[str, Any]:
    """The host as a row of `list --json`, plus `cores` and `features` of its vector units."""
    from exosuit.kernel.target import Target

    row: dict[str, Any] = {
        "device": "cpu",
        "name": processor_name(),
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


def processor_name() -> str:
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
