"""`exosuit softcard CHIP`: serve a card made of Python, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from exosuit.cli import render
from exosuit.cli.command import Subparsers, add_command
from exosuit.settings import Settings


def register(subparsers: Subparsers[Any]) -> None:
    parser = add_command(
        subparsers,
        "softcard",
        "Serve a software card over the protocol of TinyGPU.app. Prints `ready ADDRESS`.",
        "exosuit softcard generic --listen unix:/tmp/card.sock --link tb4",
    )
    parser.add_argument("chip", metavar="CHIP", help="which card: generic, gfx1100, ...")
    parser.add_argument(
        "--listen",
        default="tcp:127.0.0.1:6667",
        metavar="ADDRESS",
        help="unix:PATH (memory is shared) or tcp:HOST:PORT; port 0 lets the system choose",
    )
    parser.add_argument("--vram", metavar="SIZE", help="its memory, such as 2G")
    parser.add_argument("--bar", metavar="SIZE", help="the window on it, such as 256M")
    parser.add_argument(
        "--link", metavar="MODEL", help="count virtual time for slot, tb3, tb4, tb5, usb4, ..."
    )
    parser.add_argument(
        "--faults", metavar="SCHEDULE", help="a seed, or such as unplug@1000+hang@50"
    )
    parser.add_argument(
        "--strict", action="store_true", help="end the session of a driver that strays"
    )
    parser.add_argument(
        "--until-input-ends", action="store_true",
        help="end with standard input: a card that must not outlive who started it",
    )  # fmt: skip


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    from exosuit.softcard.chips import make_card, parse_options
    from exosuit.softcard.server import Address, Server

    names = ("vram", "bar", "link", "faults")
    chosen = {n: value for n in names if (value := getattr(arguments, n)) is not None}
    if arguments.strict:
        chosen["strict"] = ""
    options = replace(parse_options(chosen), cache=settings.cache / "softcard")
    card = make_card(arguments.chip, options)
    with Server(card, Address.parse(arguments.listen)) as server:

        def stop(number: int, frame: object) -> None:
            server.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        if arguments.until_input_ends:
            threading.Thread(target=_watch_input, args=(server.stop,), daemon=True).start()
        render.text(f"ready {server.address}")
        sys.stdout.flush()
        server.serve()
    meter = card.meter
    render.note(
        f"{meter.reads} reads, {meter.writes} writes, {meter.config_accesses} of configuration,"
        f" {card.elapsed_ns / 1e9:.6f} s of {meter.model.title}"
    )
    for note in card.notes[:10]:
        render.note(f"noted: {note}")
    if len(card.notes) > 10:
        render.note(f"and {len(card.notes) - 10} more such accesses")
    return 0


def _watch_input(stop: Callable[[], None]) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    stop()
