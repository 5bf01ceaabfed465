"""A Linux machine with a card in a slot or a box, checked layer by layer.

The answers were gathered by `probes` as JSON; this file only judges. Which ways to a card there are
(vfio, sysfs, a vendor's driver) follows what is bound to it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from exosuit.advise import checks_boot
from exosuit.advise.checks import Diagnosis, Ladder
from exosuit.advise.checks_nvidia import check_bridges, check_driver_version, check_window
from exosuit.advise.config_space import ConfigSpace
from exosuit.advise.routes import refusal_to_boot, way_to
from exosuit.advise.situation import Situation
from exosuit.silicon.nvidia.boot import VRAM_BAR
from exosuit.silicon.pci import ClassCode
from exosuit.silicon.pci_ids import NVIDIA, Identity, identify
from exosuit.units import MiB, human_bytes

LAYERS = {
    "machine": "what the kernel allows programs to do with devices",
    "cable": "a box on Thunderbolt must be authorised before its PCI Express tunnel opens",
    "card": "the card appears as a display function on the bus",
    "answer": "the card answers reads of its configuration and has addresses on the bus",
    "link": "how fast the card is connected, and how much of its memory the host can see at once",
    "driver": "who has the card now: a vendor's driver, vfio, or nobody",
    "access": "whether this user may open the card in the way that its driver allows",
    "owner": "one process owns a card; doctor never touches a card that another one owns",
    checks_boot.LAYER: checks_boot.WHY,
}
REPLUG = "reseat the card or replug the box, then restart and run  exosuit doctor"
SMALL_BAR = 256 * MiB
NVIDIA_NODES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia-uvm")
"""What a client of NVIDIA's kernel driver opens."""


@dataclass(frozen=True)
class Function:
    """One function as `probes` gathered it."""

    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.facts.get("name", ""))

    @property
    def driver(self) -> str:
        return str(self.facts.get("driver", ""))

    @property
    def identity(self) -> Identity:
        vendor, device, kind = (self.number(key) for key in ("vendor", "device", "class"))
        return identify(vendor, device, kind)

    def number(self, key: str) -> int:
        value = self.facts.get(key)
        return value if isinstance(value, int) else 0

    def text(self, key: str) -> str:
        value = self.facts.get(key)
        return value if isinstance(value, str) else ""

    def bar(self, index: int) -> int:
        """Bytes of a BAR that has an address, or 0."""
        bars = self.facts.get("bars")
        size = cast("dict[str, Any]", bars).get(str(index)) if isinstance(bars, dict) else 0
        return size if isinstance(size, int) else 0

    @property
    def bridges(self) -> list[tuple[int, int]]:
        """Vendor and device of each bridge above, the nearest first."""
        found = self.facts.get("bridges")
        pairs = cast("list[list[int]]", found) if isinstance(found, list) else []
        return [(pair[0], pair[1]) for pair in pairs]


def functions_of(situation: Situation) -> list[Function]:
    """Display-class and accelerator functions, best verdict first."""
    order = {"supported": 0, "untested": 1, "unsupported": 2}
    found = [Function(entry) for entry in _objects(situation.text("functions"))]
    return sorted(found, key=lambda f: (order[f.identity.verdict], f.name))


def diagnose_linux(situation: Situation) -> Diagnosis:
    """All checks of a Linux machine, for its best card."""
    ladder = Ladder(LAYERS)
    _machine(situation, ladder)
    _cable(situation, ladder)
    found = functions_of(situation)
    if not found and _objects(situation.text("thunderbolt")):
        ladder.fail(
            "card", "card", "the box answers over Thunderbolt, but no card is behind it",
            "the card is not seated, or its power plugs are loose",
            "switch the box off, seat the card, connect all its power plugs, switch it on",
        )  # fmt: skip
    elif not found:
        ladder.warn(
            "card", "card", "no display-class or accelerator function on the PCI bus",
            "this machine has no card; exosuit computes on the CPU",
            "exosuit run --device cpu",
        )  # fmt: skip
    if not found:
        checks_boot.check_boot(situation, ladder)
        return ladder.done()
    card = found[0]
    for rung in (_card, _answer, _link, _driver):
        rung(card, ladder)
        if ladder.broken:
            checks_boot.check_boot(situation, ladder)
            return ladder.done()
    if card.driver == "nvidia":
        check_driver_version(situation.text("nvidia_version"), ladder)
    _access(situation, card, ladder)
    _owner(situation, ladder)
    checks_boot.check_boot(situation, ladder)
    return ladder.done()


def _machine(situation: Situation, ladder: Ladder) -> None:
    lockdown = situation.text("lockdown")
    mode = next((word.strip("[]") for word in lockdown.split() if word.startswith("[")), "")
    if mode in ("integrity", "confidentiality"):
        ladder.warn(
            "machine", "lockdown", f"the kernel is locked down ({mode})",
            "Secure Boot switches this on; programs may then not map a card through sysfs",
            "bind the card to vfio-pci with the IOMMU on, or switch Secure Boot off",
        )  # fmt: skip
    else:
        ladder.ok("machine", "lockdown", mode or "not compiled in")
    groups = situation.text("iommu").split()
    ladder.ok("machine", "IOMMU", f"on ({', '.join(groups)})" if groups else "off")


def _cable(situation: Situation, ladder: Ladder) -> None:
    boxes = _objects(situation.text("thunderbolt"))
    if not boxes:
        ladder.skip("cable", "Thunderbolt", "no device on Thunderbolt; a card in a slot needs none")
        return
    for box in boxes:
        title = f"{box.get('vendor_name', '')} {box.get('device_name', '')}".strip()
        if str(box.get("authorized")) == "0":
            ladder.fail(
                "cable", "Thunderbolt", f"{title} is connected but not authorised",
                "the security level of this machine asks for consent",
                f"boltctl enroll {box.get('unique_id') or 'UUID'}   (boltctl list shows it; this"
                " allows the box from now on)",
            )  # fmt: skip
        else:
            ladder.ok("cable", "Thunderbolt", title or "a device, authorised")


def _card(card: Function, ladder: Ladder) -> None:
    identity = card.identity
    kind = ClassCode(card.number("class") & 0xFFFFFF)
    where = f"{identity.name}, {kind.title}, at {card.name}"
    if identity.verdict == "unsupported":
        ladder.fail("card", "card", where, identity.reason, "exosuit plan --cards")
    elif identity.verdict == "untested" and not (card.driver == "nvidia" and identity.listed):
        ladder.warn(
            "card", "card", where, identity.reason,
            "it may be tried; please report how it went with  exosuit doctor --report FILE",
        )  # fmt: skip
    else:
        ladder.ok("card", "card", where)


def _answer(card: Function, ladder: Ladder) -> None:
    if card.text("power_state") in ("D3cold", "D3hot"):
        ladder.warn(
            "answer", "power", f"the card sleeps ({card.text('power_state')})",
            "runtime power management put it to sleep; reads give nothing until it wakes",
            "nothing; opening the card wakes it",
        )  # fmt: skip
        return
    config = ConfigSpace.from_hex(card.text("config"))
    if config is None:
        ladder.skip("answer", "configuration", "sysfs showed no configuration space")
        return
    config.check(ladder, REPLUG)
    if card.identity.vendor == NVIDIA and card.driver != "nvidia" and not ladder.broken:
        check_window(card.bar(VRAM_BAR), ladder, REPLUG)


def _link(card: Function, ladder: Ladder) -> None:
    if card.identity.vendor == NVIDIA and card.driver != "nvidia":
        check_bridges(card.bridges, card.identity, ladder)
    speed, width = card.text("current_link_speed"), card.text("current_link_width")
    best, widest = card.text("max_link_speed"), card.text("max_link_width")
    if not speed or speed.startswith("Unknown"):
        ladder.skip("link", "link", "not told")
    elif (speed, width) == (best, widest) or not best:
        ladder.ok("link", "link", f"{speed} x{width}")
    else:
        ladder.warn(
            "link", "link", f"{speed} x{width}, the card could {best} x{widest}",
            "idle cards slow their link down; else a narrow slot, a riser or a Thunderbolt tunnel",
            "nothing for chatting; only loading takes longer",
        )  # fmt: skip
    largest = card.number("largest_bar")
    if not largest:
        return
    if largest <= SMALL_BAR:
        ladder.warn(
            "link", "resizable BAR", f"the host sees {human_bytes(largest)} of the card's memory",
            "resizable BAR is off, or the box's tunnel has no room for it",
            "switch on Above 4G Decoding and Resizable BAR in the firmware; works without, slower"
            " to load",
        )  # fmt: skip
    else:
        ladder.ok("link", "resizable BAR", f"the host sees {human_bytes(largest)} at once")


def _driver(card: Function, ladder: Ladder) -> None:
    driver = card.driver
    refusal = refusal_to_boot(card.identity)
    if refusal and way_to(driver) == "boot":
        ladder.fail(
            "driver", "bound driver", driver or "none", refusal,
            "install NVIDIA's driver, then  sudo modprobe nvidia   (gives it the card)",
        )  # fmt: skip
    elif driver in ("", "vfio-pci", "pci-stub"):
        ladder.ok("driver", "bound driver", driver or "none; exosuit can take the card")
    elif driver == "nvidia":
        ladder.ok("driver", "bound driver", "nvidia; the card is reached as nvidia:0 or cuda:0")
    else:
        ladder.fail(
            "driver", "bound driver", f"the kernel's {driver} has the card",
            f"only one driver can have a card, and {driver} is using it now, perhaps for a screen",
            f"echo {card.name} | sudo tee /sys/bus/pci/devices/{card.name}/driver/unbind   (takes"
            f" the card away from {driver}; screens on it go dark)",
        )  # fmt: skip


def _access(situation: Situation, card: Function, ladder: Ladder) -> None:
    if card.driver == "nvidia":
        nodes = situation.text("nvidia_nodes").split()
        lacking = [node for node in NVIDIA_NODES if node not in nodes]
        if not lacking:
            ladder.ok("access", "device nodes", " ".join(nodes))
        else:
            ladder.fail(
                "access", "device nodes", f"{', '.join(lacking)} cannot be opened by this user",
                "the nodes are missing, or belong to another group",
                "ls -l /dev/nvidia*   and  nvidia-modprobe -u -c 0   (makes them)",
            )  # fmt: skip
        return
    if card.driver == "vfio-pci":
        group = card.text("iommu_group")
        if card.facts.get("vfio_writable") is True:
            ladder.ok("access", "vfio", f"group {group} can be opened")
        else:
            ladder.fail(
                "access", "vfio", f"/dev/vfio/{group or '?'} cannot be opened by this user",
                "vfio groups belong to root until somebody gives them away",
                f"sudo chown $USER /dev/vfio/{group or 'GROUP'}   (gives this card to you until the"
                " next restart)",
            )  # fmt: skip
        return
    if card.facts.get("resource_writable") is True:
        ladder.ok("access", "sysfs", "its BARs can be mapped")
    else:
        ladder.fail(
            "access", "sysfs", f"the BARs of {card.name} cannot be opened by this user",
            "sysfs gives a card's memory to root only",
            "sudo -E exosuit doctor   (as root), or bind the card to vfio-pci",
        )  # fmt: skip


def _owner(situation: Situation, ladder: Ladder) -> None:
    owners = _objects(situation.text("owners"))
    if not owners:
        ladder.ok("owner", "owner", "no other process of exosuit has the card")
        return
    pid, command = owners[0].get("pid"), owners[0].get("command")
    ladder.fail(
        "owner", "owner", f"process {pid} ({command}) has the card",
        "a card belongs to one process at a time",
        f"wait for it, or end it:  kill {pid}",
    )  # fmt: skip


def _objects(text: str) -> list[dict[str, Any]]:
    """The objects of a JSON list; anything else counts as none."""
    try:
        found: Any = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return []
    if not isinstance(found, list):
        return []
    entries = cast("list[Any]", found)
    return [cast("dict[str, Any]", entry) for entry in entries if isinstance(entry, dict)]
