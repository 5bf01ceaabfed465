"""`exosuit doctor`: every layer from the cable up, the first that is broken, and what to do."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from exosuit.cli import render
from exosuit.cli.command import Subparsers, add_command
from exosuit.errors import ExosuitError, PermissionNeeded
from exosuit.settings import Settings

MARKS = {"ok": "ok", "warning": "!", "failed": "FAILED", "skipped": "-"}


def register(subparsers: Subparsers[Any]) -> None:
    parser = add_command(
        subparsers, "doctor", "Check every layer between this machine and its card.",
        "exosuit doctor --explain", json=True,
    )  # fmt: skip
    parser.add_argument("--explain", action="store_true", help="say what each layer is for")
    parser.add_argument(
        "--report", metavar="FILE", type=Path,
        help="write what was found, without names and serial numbers, for an issue",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="source", metavar="FILE", type=Path,
        help="diagnose a report instead of this machine",
    )  # fmt: skip
    parser.add_argument(
        "--settings", action="store_true", help="print the environment variables that are read"
    )


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    if arguments.settings:
        _settings(arguments.json)
        return 0
    from exosuit.advise.doctor import diagnose, report
    from exosuit.advise.probes import gather
    from exosuit.advise.situation import read_situation

    if arguments.source:
        situation = read_situation(arguments.source)
    else:
        render.note("looking at this machine; on a Mac this takes up to half a minute")
        situation = gather(settings.state)
    diagnosis = diagnose(situation)
    if arguments.report:
        _write(arguments.report, report(situation, version("exosuit")))
        render.note(f"wrote {arguments.report}; look through it before you share it")
    if arguments.json:
        render.document(diagnosis.as_json())
    else:
        rows = [(MARKS[c.status], c.layer, c.name, c.found) for c in diagnosis.checks]
        render.table(("", "layer", "check", "found"), rows)
        for check in diagnosis.warnings:
            render.text(f"! {check.name}: {check.cause}; {check.next}")
        if arguments.explain:
            for layer, why in dict.fromkeys((c.layer, c.why) for c in diagnosis.checks):
                render.text(f"{layer}: {why}")
    broken = diagnosis.broken
    if broken is None:
        if not arguments.json:
            render.text("nothing is broken")
        return 0
    render.error(
        ExosuitError(f"{broken.name}: {broken.found}", cause=broken.cause, next=broken.next)
    )
    return 1


def _settings(as_json: bool) -> None:
    if as_json:
        rows = [{"variable": v, "default": d, "help": h} for v, d, h in Settings.table()]
        render.document({"settings": rows})
    else:
        render.table(("variable", "default", "what it does"), Settings.table())


def _write(path: Path, bundle: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(bundle, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise PermissionNeeded(
            f"the report cannot be written to {path}",
            cause=str(error),
            next="exosuit doctor --report ~/exosuit-report.json",
        ) from error
