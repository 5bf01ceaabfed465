"""`exosuit setup`: what this machine needs once. Shows it; does its part with --yes."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exosuit.cli import render
from exosuit.cli.command import Subparsers, add_command
from exosuit.errors import CorruptFile, HelperMissing, UsageError
from exosuit.settings import Settings

if TYPE_CHECKING:
    from exosuit.advise.manifest import App, Item
    from exosuit.silicon.pci_ids import Identity

APPLICATIONS = Path("/Applications")
WHO = {"done": "done", "exosuit": "exosuit", "user": "you"}


def register(subparsers: Subparsers[Any]) -> None:
    parser = add_command(
        subparsers, "setup", "Say what this machine needs once, and do it with --yes.",
        "exosuit setup --card 'RX 7900 XTX' --yes", json=True,
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="do exosuit's part of the steps")
    parser.add_argument(
        "--card", action="append", default=[], metavar="NAME",
        help="prepare for this card instead of those that are here; may repeat",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="source", metavar="FOLDER", type=Path,
        help="take files from this folder and use no network",
    )  # fmt: skip
    parser.add_argument(
        "--accept-unpinned", action="store_true",
        help="install TinyGPU.app although its publisher gives no hash",
    )  # fmt: skip


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    from exosuit.advise import manifest
    from exosuit.advise.doctor import diagnose
    from exosuit.advise.probes import gather
    from exosuit.advise.setup import steps

    if arguments.source and not arguments.source.is_dir():
        raise UsageError(
            f"{arguments.source} is no folder",
            cause="--from takes the folder that holds firmware or TinyGPU.zip",
            next="exosuit setup --help",
        )
    cards = _cards(arguments.card)
    wanted = manifest.needed(cards)
    lacking = manifest.missing(wanted, settings.firmware)
    situation = gather(settings.state)
    todo = steps(situation.system, diagnose(situation), cards, wanted, lacking, manifest.app())
    if arguments.json and not arguments.yes:
        render.document({"steps": [step.as_json() for step in todo]})
        return 0
    for number, step in enumerate(todo, 1):
        tell = render.note if arguments.json else render.text
        tell(f"{number}. {WHO[step.who]}: {step.what}; {step.why}")
        if step.command:
            tell(f"     {step.command}")
    if not arguments.yes:
        if any(step.who == "exosuit" for step in todo):
            render.note("nothing was changed; --yes does exosuit's steps")
        return 0
    actions = {step.action for step in todo if step.action}
    if "app" in actions:
        install_app(manifest.app(), arguments.source, arguments.accept_unpinned, settings)
    if "firmware" in actions:
        bring_firmware(lacking, settings.firmware, arguments.source)
    if arguments.json:
        render.document({"firmware": str(settings.firmware), "done": sorted(actions)})
    elif any(step.who == "user" for step in todo):
        render.text("what is left is yours:  exosuit doctor")
    return 0


def _cards(names: list[str]) -> list[Identity]:
    """The named cards by what the id table says of them, or those of this machine.

    What NVIDIA's own driver holds gets its firmware from there.
    """
    from exosuit.link.find import find_cards
    from exosuit.silicon.pci_ids import identify

    if names:
        return [_named(name) for name in names]
    found = [
        identify(f.vendor, f.device, f.class_code) for f in find_cards() if f.driver != "nvidia"
    ]
    return [card for card in found if card.verdict != "unsupported"]


def _named(name: str) -> Identity:
    """A card by its catalogue name or as `vendor:device`; UsageError if no firmware is for it."""
    from exosuit.advise.catalogue import cards_called, find_card
    from exosuit.advise.manifest import needed
    from exosuit.advise.routes import refusal_to_boot
    from exosuit.silicon.pci_ids import identify, listed

    by_id = re.fullmatch(r"([0-9a-f]{4}):([0-9a-f]{4})", name.lower())
    if by_id:
        found = [identify(int(by_id[1], 16), int(by_id[2], 16))]
    else:
        wanted = find_card(name)
        every = (identify(*ids) for ids in sorted(listed()))
        found = [card for card in every if wanted in cards_called(card.name)]
    known = [card for card in found if needed([card])]
    if not known:
        raise UsageError(
            f"no firmware is known for {name!r}",
            cause=refusal_to_boot(found[0]) or found[0].reason
            if found
            else "only AMD from RDNA3 and NVIDIA from Ampere on can be driven",
            next="exosuit plan --cards",
            asked=name,
        )
    return known[0]


def bring_firmware(items: list[Item], folder: Path, source: Path | None) -> None:
    """Every item into `folder`: from `source` or the system's firmware, else from its URL."""
    from exosuit.advise import manifest
    from exosuit.clock import SystemClock
    from exosuit.models.pull_http import Download, fetch

    local = [source] if source else [manifest.SYSTEM_FIRMWARE]
    for item in items:
        if manifest.adopt(item, local, folder):
            render.note(f"{item.path}: taken from {local[0]}")
            continue
        if source:
            raise CorruptFile(
                f"{source} holds no {item.path} with the hash {item.sha256[:12]}...",
                cause="the file is missing there, or is another release",
                next="exosuit setup --yes   (without --from, fetches it)",
                path=item.path,
            )
        target = folder / item.path
        target.parent.mkdir(parents=True, exist_ok=True)
        fetch(Download(item.url, sha256=item.sha256), target, render.Bar(), SystemClock())
    render.note(f"{len(items)} firmware files are in {folder}, each with its hash")


def install_app(app: App, source: Path | None, accept_unpinned: bool, settings: Settings) -> None:
    """Fetch TinyGPU.app, check it, unpack it into /Applications and start its installation."""
    from exosuit.clock import SystemClock
    from exosuit.models.pull_http import Download, fetch

    if sys.platform != "darwin":
        raise HelperMissing(
            "TinyGPU.app can be installed on a Mac only",
            cause="this machine does not run macOS",
            next="exosuit doctor",
        )
    if not app.sha256 and not accept_unpinned:
        raise HelperMissing(
            "TinyGPU.app was not installed: its publisher gives no hash to check it by",
            cause=f"only Apple's signature of team {app.team} can be checked, after the download",
            next="exosuit setup --yes --accept-unpinned",
        )
    archive = source / "TinyGPU.zip" if source else settings.cache / "TinyGPU.zip"
    if source is None:
        archive.parent.mkdir(parents=True, exist_ok=True)
        fetch(Download(app.url, sha256=app.sha256 or None), archive, render.Bar(), SystemClock())
    with tempfile.TemporaryDirectory() as folder:
        _system("ditto", "-xk", str(archive), folder)
        unpacked = Path(folder) / "TinyGPU.app"
        _system("codesign", "--verify", "--deep", "--strict", str(unpacked))
        told = _system("codesign", "-dv", "--verbose=2", str(unpacked))
        if f"TeamIdentifier={app.team}" not in told.splitlines():
            raise CorruptFile(
                "the archive holds an app that somebody else signed",
                cause=f"its signature is not of team {app.team}",
                next="exosuit doctor",
            )
        _system("ditto", str(unpacked), str(APPLICATIONS / "TinyGPU.app"))
    _system(str(APPLICATIONS / "TinyGPU.app/Contents/MacOS/TinyGPU"), "install")


def _system(*command: str) -> str:
    """Run one of macOS's tools; HelperMissing with its words if it fails."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True,
            timeout=300,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stdout", None) or str(error)
        raise HelperMissing(
            f"{Path(command[0]).name} failed",
            cause=str(told).strip()[:200],
            next="allow your terminal under Privacy & Security > App Management, then try again",
            command=command,
        ) from error
    return done.stdout
