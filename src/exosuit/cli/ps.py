"""`exosuit ps` and `stop`: what the running server has loaded, and how it lets go of it."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from exosuit.cli import render
from exosuit.cli.command import Subparsers, add_command
from exosuit.cli.run import whole
from exosuit.errors import ModelNotFound, UsageError
from exosuit.settings import Settings
from exosuit.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from exosuit.serve.client import Client


def register(subparsers: Subparsers[Any]) -> None:
    add_command(
        subparsers, "ps", "Show what is loaded, in which process, on which device.", "exosuit ps",
        json=True,
    )  # fmt: skip
    stop = add_command(
        subparsers, "stop", "Unload a model, or end the server.",
        "exosuit stop smollm2\n  exosuit stop --server",
    )  # fmt: skip
    stop.add_argument("model", nargs="?", metavar="MODEL", help="unloaded when its answers end")
    stop.add_argument("--server", action="store_true", help="end the server")
    stop.add_argument(
        "--drain", type=whole(0), default=30, metavar="SECONDS",
        help="with --server: how long its answers may go on (default: 30)",
    )  # fmt: skip


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    from exosuit.serve.client import Client

    client = Client.find(settings)
    if arguments.command == "ps":
        return _ps(client, arguments.json)
    if bool(arguments.model) == arguments.server:
        raise UsageError(
            "say what to stop: a MODEL, or --server",
            cause="one of them is needed, and not both",
            next="exosuit ps shows what is loaded",
        )
    if client is None:
        raise UsageError(
            "no server is running",
            cause="there is nothing to stop",
            next="exosuit ps",
        )
    return _stop(client, arguments)


def _ps(client: Client | None, as_json: bool) -> int:
    status = None if client is None else client.status()
    if as_json:
        render.document({"server": status})
        return 0
    if status is None:
        render.note("no server is running; start one with  exosuit serve")
        return 0
    draining = ", finishing" if status["draining"] else ""
    render.note(
        f"process {status['pid']}, for {human_seconds(status['uptime_s'])}{draining};"
        f" {status['active']} answers run, {status['waiting']} wait,"
        f" {status['tokens_per_second']:.1f} tokens a second"
    )
    for device in status["devices"]:
        if device["state"] == "lost":
            render.note(f"{device['name']} was lost: {device['why']}")
    render.table(
        ("model", "device", "memory", "context", "answers", "until"),
        [
            (
                row["name"],
                row["device"] or f"loading {100 * row['progress']:.0f} %",
                human_bytes(row["device_bytes"]),
                str(row["context"]),
                f"{row['active']} + {row['waiting']} waiting",
                _until(row),
            )
            for row in status["loaded"]
        ],
    )
    return 0


def _until(row: dict[str, Any]) -> str:
    if row["progress"] < 1.0:
        return ""
    if row["expires_at"] is None:
        return "in use" if row["active"] or row["waiting"] else "for ever"
    return human_seconds(max(0.0, row["expires_at"] - time.time()))


def _stop(client: Client, arguments: argparse.Namespace) -> int:
    if arguments.server:
        pid = client.status()["pid"]
        client.stop(arguments.drain)
        render.text(f"process {pid} is ending")
        return 0
    if not client.unload(arguments.model):
        raise ModelNotFound(
            f"{arguments.model} is not loaded",
            cause="nobody has used it for a while",
            next="exosuit ps",
        )
    render.text(f"{arguments.model} is unloaded as soon as its answers end")
    return 0
