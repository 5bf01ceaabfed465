"""A Mac with a card in a box, checked layer by layer from the cable up.

Every judgement is a function of the `Situation`; nothing is asked here. The states of the driver
extension and what to do about each follow users.md E2.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from exosuit.advise import checks_boot, macos
from exosuit.advise.catalogue import rows
from exosuit.advise.checks import Diagnosis, Ladder
from exosuit.advise.checks_nvidia import (
    INTEL_BRIDGES,
    WINDOW_REGISTER,
    check_bridges,
    check_window,
)
from exosuit.advise.config_space import ConfigSpace
from exosuit.advise.situation import Situation
from exosuit.silicon.pci import ClassCode
from exosuit.silicon.pci_ids import NVIDIA, Identity, identify

OLDEST_MACOS = (13, 0)
PANE = 'open "x-apple.systempreferences:com.apple.LoginItems-Settings.extension"'
INSTALL = "/Applications/TinyGPU.app/Contents/MacOS/TinyGPU install"
LADDER = (
    "unplug and replug the box; then its power off for 10 s; then restart the Mac; then another"
    " port"
)
FEWEST_FILES = 1024
"""TinyGPU.app allows 128 mappings, each a file; models, sockets and caches come on top."""

LAYERS = {
    "machine": "the driver extension needs Apple silicon, and macOS 13 for its reset call",
    "cable": "the card's PCI Express runs through the Thunderbolt cable",
    "box": "the enclosure answers over Thunderbolt by itself, whether or not a card is in it",
    "tunnel": "macOS opens a PCI Express tunnel and makes a bridge for what is in the box",
    "card": "the card appears as a display function behind that bridge",
    "app": "TinyGPU.app carries the driver extension that Apple signed",
    "extension": "macOS runs the extension only after the user has allowed it, once",
    "driver": "the extension attaches itself to the card",
    "server": "one server process of the app passes the card on to one client",
    "owner": "one process owns a card; doctor never touches a card that another one owns",
    "answer": "the card answers reads of its configuration and has addresses on the bus",
    "link": "how fast the card is connected; this decides loading, not decoding",
    checks_boot.LAYER: checks_boot.WHY,
    "risk": "what has hurt others with this machine and card",
}


@dataclass(frozen=True)
class Mac:
    """The facts of one situation, read once."""

    situation: Situation

    @cached_property
    def facts(self) -> dict[str, str]:
        return macos.values_of(self.situation.text("sysctl"))

    @cached_property
    def chip(self) -> str:
        return self.facts.get("machdep.cpu.brand_string", "").removeprefix("Apple ").strip()

    @cached_property
    def functions(self) -> list[macos.Function]:
        return macos.functions(self.situation.text("ioreg"))

    @cached_property
    def card(self) -> macos.Function | None:
        """The card that matters: one that the extension has, else one that is known, else any."""
        found = [function for function in self.functions if function.is_card]
        order = {"supported": 0, "untested": 1, "unsupported": 2}

        def rank(function: macos.Function) -> tuple[bool, int]:
            known = identify(function.vendor, function.device, function.class_code)
            return function.driver != "tinygpu", order[known.verdict]

        return min(found, key=rank, default=None)

    @cached_property
    def identity(self) -> Identity | None:
        card = self.card
        return identify(card.vendor, card.device, card.class_code) if card else None

    @cached_property
    def processes(self) -> list[macos.Process]:
        return macos.processes(self.situation.text("ps"))

    @cached_property
    def config(self) -> ConfigSpace | None:
        return ConfigSpace.from_hex(self.situation.text("config"))


def diagnose_macos(situation: Situation) -> Diagnosis:
    """All checks of a Mac, in order of `LAYERS`."""
    ladder = Ladder(LAYERS)
    mac = Mac(situation)
    for rung in (_machine, _hanging, _cable, _card, _app, _extension, _driver, _server, _owner):
        rung(mac, ladder)
        if ladder.broken:
            return ladder.done()
    for rung in (_answer, _link):
        rung(mac, ladder)
    checks_boot.check_boot(situation, ladder)
    _risk(mac, ladder)
    return ladder.done()


def _machine(mac: Mac, ladder: Ladder) -> None:
    told = macos.values_of(mac.situation.text("sw_vers"))
    version = macos.version_of(told.get("ProductVersion", ""))
    shown = ".".join(map(str, version)) or "not told"
    machine = mac.situation.text("uname").strip()
    is_intel = machine == "x86_64" and mac.facts.get("sysctl.proc_translated", "0") != "1"
    if is_intel or mac.chip.startswith("Intel"):
        ladder.fail(
            "machine", "processor", mac.chip or machine,
            "on Intel Macs the signed extension maps memory read-only for the card; boots fail and"
            " panics were reported",
            "use a Mac with Apple silicon, or this machine under Linux",
        )  # fmt: skip
        return
    ladder.ok("machine", "processor", f"Apple {mac.chip}" if mac.chip else machine or "not told")
    if machine == "x86_64":
        ladder.warn(
            "machine", "Python", "an Intel build of Python under Rosetta",
            "it was installed for Intel", "install Python for Apple silicon",
        )  # fmt: skip
    if version and version < OLDEST_MACOS:
        ladder.fail(
            "machine", "macOS", f"macOS {shown}",
            "TinyGPU.app needs macOS 13 or newer, which can reset a PCI device for it",
            "update macOS in System Settings > General > Software Update",
        )  # fmt: skip
        return
    ladder.ok("machine", "macOS", f"macOS {shown}")


def _hanging(mac: Mac, ladder: Ladder) -> None:
    """System tools that never answer are the mark of a wedged server, whatever else is true."""
    silent = [name for name in ("pci", "ioreg", "thunderbolt") if mac.situation.timed_out(name)]
    stuck = [p for p in mac.processes if p.is_stuck]
    busy = [p for p in mac.processes if p.is_extension and p.cpu > 50]
    if not silent and not stuck and not busy:
        return
    if stuck:
        found = f"process {stuck[0].pid} ({stuck[0].command[:60]}) is stuck in the kernel"
    elif busy:
        found = f"the extension, process {busy[0].pid}, spins at {busy[0].cpu:.0f} % of a core"
    else:
        found = f"macOS itself does not answer about {', '.join(silent)}"
        ladder.warn(
            "server", "system tools", found,
            "usually a wedged TinyGPU server; sometimes only a busy system",
            "run  exosuit doctor  once more; if it stays so, restart the Mac",
        )  # fmt: skip
        return
    ladder.fail(
        "server", "server", found,
        "the card vanished (sleep, cable) while a client was waiting for it",
        "restart the Mac; nothing less frees such a process, and killing the extension can freeze"
        " the screen",
    )  # fmt: skip


def _cable(mac: Mac, ladder: Ladder) -> None:
    """Cable, box and tunnel; skipped where the card is seen anyway or the tool did not answer."""
    ports = macos.ports(mac.situation.text("thunderbolt"))
    used = [port for port in ports if port.connected]
    bridges = [f for f in mac.functions if f.is_bridge and f.tunnelled]
    if not ports:
        for layer in ("cable", "box"):
            ladder.skip(layer, layer, "system_profiler told nothing about Thunderbolt")
    elif used:
        speed = f"up to {used[0].gbit_s} Gb/s" if used[0].gbit_s else "connected"
        ladder.ok("cable", "Thunderbolt port", f"port {used[0].name}: {speed}")
    elif mac.card is None:
        ladder.fail(
            "cable", "Thunderbolt port", f"nothing is connected to any of {len(ports)} ports",
            "no cable, a charging or USB cable, or a box without power",
            "connect the box with a Thunderbolt cable and switch it on, then  exosuit doctor",
        )  # fmt: skip
        return
    devices = [name for port in used for name in port.devices]
    if devices:
        ladder.ok("box", "enclosure", ", ".join(devices))
    elif used and mac.card is None:
        ladder.fail(
            "box", "enclosure", f"port {used[0].name} is connected, but no device answers there",
            "the box has no power, or macOS waits for you to allow the accessory",
            "switch the box on; unlock the screen and allow the accessory, then  exosuit doctor",
        )  # fmt: skip
        return
    if bridges:
        ladder.ok("tunnel", "PCI Express bridge", f"{len(bridges)} tunnelled")
    elif mac.card is None and mac.situation.has("ioreg"):
        ladder.fail(
            "tunnel", "PCI Express bridge", "the box answers, but macOS made no bridge for it",
            "the box was connected while the Mac slept, or is a dock without PCI Express",
            "unplug the box, wait 10 s, plug it in again with the Mac awake",
        )  # fmt: skip


def _card(mac: Mac, ladder: Ladder) -> None:
    card, identity = mac.card, mac.identity
    if card is None or identity is None:
        if not mac.situation.has("ioreg"):
            ladder.skip("card", "card", "the I/O registry did not answer")
            return
        ladder.fail(
            "card", "card", "the box is connected, but no graphics card is behind it",
            "the card is not seated, its power plugs are loose, or the box's supply is off",
            "switch the box off, seat the card, connect all its power plugs, switch it on",
        )  # fmt: skip
        return
    kind = ClassCode(card.class_code)
    where = f"{identity.name}, {kind.title} {card.vendor:04x}:{card.device:04x}"
    if kind.sub == 0x02 and card.driver != "tinygpu":
        ladder.fail(
            "card", "card", where,
            "a 3D controller has no display outputs; Apple's signature of TinyGPU.app covers"
            " display controllers (class 0300) only, so it cannot attach",
            "use this card under Linux; on a Mac only cards with outputs work",
        )  # fmt: skip
        return
    if identity.verdict == "unsupported":
        ladder.fail("card", "card", where, identity.reason, "exosuit plan --cards")
        return
    if identity.verdict == "untested":
        ladder.warn(
            "card", "card", where, identity.reason,
            "it may be tried; please report how it went with  exosuit doctor --report FILE",
        )  # fmt: skip
        return
    ladder.ok("card", "card", where)


def _app(mac: Mac, ladder: Ladder) -> None:
    answer = mac.situation.answers.get("codesign")
    version = macos.bundle_version(mac.situation.text("app"))
    if answer is None:
        ladder.skip("app", "TinyGPU.app", "not asked")
        return
    signed = macos.signature(answer.text)
    if not signed.get("Identifier") and (answer.missing or "No such file" in answer.text):
        ladder.fail(
            "app", "TinyGPU.app", "not in /Applications", "it was never installed",
            "exosuit setup",
        )  # fmt: skip
        return
    team = signed.get("TeamIdentifier", "none")
    if team != macos.TEAM:
        ladder.fail(
            "app", "TinyGPU.app", f"signed by team {team}",
            f"only the app signed by team {macos.TEAM} may carry the extension; this is a fork or"
            " was changed",
            "move it out of /Applications, then  exosuit setup",
        )  # fmt: skip
        return
    ladder.ok("app", "TinyGPU.app", f"version {version or 'not told'}, signed by team {team}")


def _extension(mac: Mac, ladder: Ladder) -> None:
    if not mac.situation.has("extensions"):
        ladder.skip("extension", "driver extension", "systemextensionsctl did not answer")
        return
    found = macos.extensions(mac.situation.text("extensions"))
    enabled = [row for row in found if row.state == "activated enabled"]
    states = ", ".join(f"{row.version} [{row.state}]" for row in found)
    managed = "MDM enrollment: Yes" in mac.situation.text("mdm")
    if enabled:
        name = f"{enabled[-1].bundle} {enabled[-1].version}"
        ladder.ok("extension", "driver extension", f"{name} [activated enabled]")
        copies = sum(p.is_extension for p in mac.processes)
        if copies > 1:
            ladder.warn(
                "extension", "extension processes", f"{copies} are running",
                "each time the card re-appears one more is left behind",
                "restart the Mac when it is convenient",
            )  # fmt: skip
        return
    if not found:
        ladder.fail(
            "extension", "driver extension", "not installed", "TinyGPU.app has not installed it",
            INSTALL,
        )  # fmt: skip
    elif any("waiting for user" in row.state for row in found):
        leaving = any(row.state.startswith("terminat") for row in found)
        cause = "macOS asked once whether to allow it, and the question was missed"
        step = f"{PANE}   and switch TinyGPU on under Driver Extensions"
        if managed:
            cause = "this Mac is managed; its policy may forbid the switch"
            step = f"ask your IT to allow team {macos.TEAM}, bundle {found[0].bundle}; then {PANE}"
        elif leaving:
            cause = "an old copy is still leaving while the new one waits for approval"
            step = f"restart the Mac, then  {PANE}"
        ladder.fail("extension", "driver extension", states, cause, step)
    elif any("disabled" in row.state for row in found):
        ladder.fail(
            "extension", "driver extension", states, "it was switched off in System Settings",
            f"{PANE}   and switch TinyGPU on under Driver Extensions",
        )  # fmt: skip
    elif all(row.state.startswith("terminat") for row in found):
        ladder.fail(
            "extension", "driver extension", states,
            "it was uninstalled and leaves at the next restart",
            f"restart the Mac, then  {INSTALL}",
        )  # fmt: skip
    else:
        ladder.fail(
            "extension", "driver extension", states, "an update waits for the next restart",
            "restart the Mac",
        )  # fmt: skip


def _driver(mac: Mac, ladder: Ladder) -> None:
    card = mac.card
    if card is None:
        ladder.skip("driver", "attached", "no card to attach to")
        return
    if card.driver == "tinygpu":
        ladder.ok("driver", "attached", "the extension holds the card")
        return
    ladder.fail(
        "driver", "attached", "the extension runs, but has not attached to the card",
        f"the card's id {card.vendor:04x}:{card.device:04x} may be missing from the extension, or"
        " it was approved after the card came",
        "unplug the box, wait 10 s, plug it in again, then  exosuit doctor",
    )  # fmt: skip


def _server(mac: Mac, ladder: Ladder) -> None:
    servers = [p for p in mac.processes if p.is_server]
    if not servers:
        ladder.ok("server", "server", "none is running; exosuit starts one when it needs it")
    elif len(servers) == 1:
        ladder.ok("server", "server", f"process {servers[0].pid}, for {servers[0].age}")
    else:
        pids = ", ".join(str(p.pid) for p in servers)
        ladder.warn(
            "server", "server", f"{len(servers)} are running: {pids}",
            "shells with different TMPDIR each started one; only one can have the card",
            f"kill {servers[-1].pid}   (the newest)",
        )  # fmt: skip


def _owner(mac: Mac, ladder: Ladder) -> None:
    try:
        owner: Any = json.loads(mac.situation.text("owner") or "null")
    except ValueError:
        owner = None
    if not isinstance(owner, dict):
        ladder.ok("owner", "owner", "no other process has the card")
        return
    ladder.fail(
        "owner", "owner", f"process {owner.get('pid')} ({owner.get('command')}) has the card",  # pyright: ignore[reportUnknownMemberType]
        "a card belongs to one process at a time",
        f"wait for it, or end it:  kill {owner.get('pid')}",  # pyright: ignore[reportUnknownMemberType]
    )  # fmt: skip


def _answer(mac: Mac, ladder: Ladder) -> None:
    config = mac.config
    if config is None:
        ladder.skip("answer", "configuration", "not read: no server of the app is running")
        if mac.card and mac.card.bars == 0:
            ladder.warn(
                "answer", "addresses", "the registry shows no address for any BAR",
                "the card was reset and macOS did not give it addresses again",
                LADDER,
            )  # fmt: skip
    else:
        config.check(ladder, LADDER)
    if mac.card and mac.card.vendor == NVIDIA and mac.card.bars and not ladder.broken:
        size = dict(mac.card.windows).get(WINDOW_REGISTER, 0)
        check_window(size, ladder, LADDER)


def _link(mac: Mac, ladder: Ladder) -> None:
    card = mac.card
    ports = [port for port in macos.ports(mac.situation.text("thunderbolt")) if port.connected]
    seen = macos.profiled(mac.situation.text("pci"))
    mine = next(
        (f for f in seen if card and (f.vendor, f.device) == (card.vendor, card.device)), None
    )
    if mine and not mine.up:
        ladder.fail(
            "link", "link", "macOS says that the card's link is down",
            "the cable moved or the box lost power", LADDER,
        )  # fmt: skip
        return
    bridges = [(f.vendor, f.device) for f in mac.functions if f.is_bridge]
    bridge = not INTEL_BRIDGES.isdisjoint(bridges)
    config = mac.config
    speed = config.link.title if config and config.link else mine.link if mine else ""
    if speed.startswith("2.5 GT/s") and "x1 " not in f"{speed} ":
        pinned = bridge and card is not None and card.vendor == NVIDIA
        ladder.warn(
            "link", "link", f"{speed}: about 0.9 GB/s",
            "the link is pinned to its first generation, which keeps NVIDIA cards before Blackwell"
            " stable behind Intel's bridge" if pinned else "the link was trained down",
            "nothing for chatting; loading is slow. A restart of the Mac or 10 s without power for"
            " the box undoes it",
        )  # fmt: skip
    elif speed or ports:
        cable = f", cable up to {ports[0].gbit_s} Gb/s" if ports and ports[0].gbit_s else ""
        ladder.ok("link", "link", f"{speed or 'speed not told'} inside the box{cable}")
    else:
        ladder.skip("link", "link", "not told")
    if card and card.vendor == NVIDIA and mac.identity:
        check_bridges(bridges, mac.identity, ladder)
    if ports and 0 < ports[0].gbit_s < 40:
        ladder.warn(
            "link", "cable", f"up to {ports[0].gbit_s} Gb/s",
            "a USB-C or an old Thunderbolt cable", "use a Thunderbolt 4 or 5 cable",
        )  # fmt: skip


def _risk(mac: Mac, ladder: Ladder) -> None:
    identity = mac.identity
    for row in rows("risks.toml", "risk"):
        if identity is None or identity.architecture not in row["architectures"]:
            continue
        if row["hosts"] and mac.chip not in row["hosts"]:
            continue
        if row["names"] and not any(name in identity.name for name in row["names"]):
            continue
        ladder.warn("risk", "reports", row["says"], f"seen by others: {row['source']}", row["next"])
        break
    _sleep(mac, ladder)
    reports = mac.situation.text("panics").splitlines()
    if any(line.endswith(".ips") for line in reports):
        ladder.warn(
            "risk", "panics", "this Mac has had a kernel panic about DMA",
            "a card kept working on memory that its process had given up",
            "stop exosuit before unplugging; keep  exosuit doctor --report FILE  for an issue",
        )  # fmt: skip
    files = mac.situation.text("files").strip()
    if files.isdigit() and int(files) < FEWEST_FILES:
        ladder.warn(
            "risk", "open files", f"a process may open {files} files",
            "each piece of memory shared with the card is an open file",
            f"ulimit -n {4 * FEWEST_FILES}   (for this terminal)",
        )  # fmt: skip
    ladder.ok("risk", "known pairs", f"{mac.chip or 'this Mac'} looked up")


def _sleep(mac: Mac, ladder: Ladder) -> None:
    """Sleep cuts the card's power and wedges whoever is waiting for it."""
    servers = [process for process in mac.processes if process.is_server]
    told = mac.situation.text("power")
    held = re.search(r"Prevent(?:UserIdle)?SystemSleep\s+1\b", told)
    if not servers or not told or held:
        return
    ladder.warn(
        "risk", "sleep", "the card is in use and nothing keeps this Mac awake",
        "when a Mac sleeps, the card loses its memory and the server may hang until a restart",
        f"caffeinate -i -w {servers[0].pid}   (keeps it awake until that server ends)",
    )  # fmt: skip
