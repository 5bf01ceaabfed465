"""`exosuit trace`: record what happens on the bus, show it in words, replay it, compare two."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exosuit.cli import render
from exosuit.cli.command import Subparsers, add_command
from exosuit.errors import ExosuitError, UsageError
from exosuit.settings import Settings

if TYPE_CHECKING:
    from exosuit.link.function import PciFunction

EXAMPLE = """exosuit trace record --device soft:generic --out card.tape
  exosuit trace show card.tape
  exosuit trace replay card.tape --device soft:generic
  exosuit trace diff good.tape bad.tape"""


def register(subparsers: Subparsers[Any]) -> None:
    parser = add_command(
        subparsers,
        "trace",
        "Record a look at a card, show a tape, replay it against a card, compare two.",
        EXAMPLE,
        json=True,
    )
    parser.add_argument("action", choices=("record", "show", "replay", "diff"))
    parser.add_argument("tapes", nargs="*", type=Path, metavar="TAPE")
    parser.add_argument("--device", metavar="NAME", help="the card to record or to replay against")
    parser.add_argument("--out", type=Path, default=Path("card.tape"), metavar="FILE")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    wanted = {"record": 0, "show": 1, "replay": 1, "diff": 2}[arguments.action]
    if len(arguments.tapes) != wanted:
        raise UsageError(
            f"trace {arguments.action} takes {wanted} tapes, not {len(arguments.tapes)}",
            cause="see the examples of  exosuit trace --help",
            next="exosuit trace --help",
        )
    if arguments.action == "record":
        return _record(arguments, settings)
    if arguments.action == "show":
        return _show(arguments)
    if arguments.action == "diff":
        return _diff(arguments)
    return _replay(arguments, settings)


def _record(arguments: argparse.Namespace, settings: Settings) -> int:
    from exosuit.trace.recorder import Recorder

    with Recorder(_open(arguments.device, settings), arguments.out) as link:
        bars = _look(link)
    result: dict[str, Any] = {"tape": str(arguments.out), "device": link.name, "bars": bars}
    if arguments.json:
        render.document(result)
    else:
        sizes = ", ".join(f"BAR {index} {size >> 10} KiB" for index, size in bars.items())
        render.text(f"recorded a look at {link.name} ({sizes}) in {arguments.out}")
    return 0


def _look(link: Any) -> dict[int, int]:
    """What can be seen without doing anything to the card; gives the sizes of its BARs."""
    from exosuit.silicon import pci

    link.step("configuration")
    for offset in range(0, 0x40, 4):
        link.read_config(offset, 4)
    link.step("capabilities")
    pci.read_link(link.read_config)
    pci.rebar_sizes(link.read_config)
    link.step("windows")
    sizes: dict[int, int] = {}
    for index in range(6):
        try:
            sizes[index] = link.bar(index).size
        except ExosuitError:
            continue  # a card has the BARs that it has
    return sizes


def _show(arguments: argparse.Namespace) -> int:
    from exosuit.trace.decode import Decoder
    from exosuit.trace.tape import Tape

    tape = Tape.load(arguments.tapes[0])
    lines = list(Decoder(tape).lines())
    if arguments.json:
        shown = [{"t_ns": line.t_ns, "step": line.step, "access": line.text} for line in lines]
        render.document({"chip": tape.chip, "link": tape.link, "accesses": shown})
        return 0
    render.text(f"{tape.chip} over {tape.link}, recorded by {tape.program}")
    render.text(f"{'t(ms)':>10}  {'step':16}  access")
    for line in lines:
        render.text(f"{line.t_ns / 1e6:10.3f}  {line.step:16.16}  {line.text}")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from exosuit.trace.diff import diff
    from exosuit.trace.tape import Tape

    old, new = (Tape.load(path) for path in arguments.tapes)
    lines = list(diff(old, new))
    if arguments.json:
        render.document({"same": not lines, "difference": lines})
    else:
        for line in lines or ["the tapes tell the same story"]:
            render.text(line)
    return 1 if lines else 0


def _replay(arguments: argparse.Namespace, settings: Settings) -> int:
    from exosuit.trace.again import play
    from exosuit.trace.tape import Tape

    tape = Tape.load(arguments.tapes[0])
    with _open(arguments.device, settings) as link:
        differences = list(play(tape, link))
    if arguments.json:
        render.document({"accesses": len(tape.records), "differences": differences})
    else:
        for line in differences:
            render.text(line)
        told = f"{len(differences)} answers differ" if differences else "every answer is the same"
        render.text(f"{len(tape.records)} records replayed against {link.name}: {told}")
    return 1 if differences else 0


def _open(name: str | None, settings: Settings) -> Any:
    """The card that `--device` names; software cards get a process of their own."""
    from exosuit.link.open import open_link
    from exosuit.softcard.process import SoftLink

    device = name or settings.device
    if device in ("auto", "cpu"):
        raise UsageError(
            "no card is named",
            cause="a trace is of one card; the cpu has no bus to be seen",
            next="exosuit trace record --device soft:generic",
        )
    if device.startswith("soft:"):
        return SoftLink.start(device.removeprefix("soft:"))
    link: PciFunction = open_link(device, locks=settings.state / "locks")
    return link
