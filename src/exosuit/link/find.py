"""Which PCI functions this computer has that could be cards, without touching any of them.

Linux tells through sysfs, macOS through IOKit (`find_macos`). What is found is a `Found` value:
facts only, no verdict; `silicon.pci_ids` has the verdicts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from exosuit.silicon.pci import LINK_SPEEDS, ClassCode

SYSFS = Path("/sys/bus/pci/devices")
BRIDGE = 0x0604
"""Class code of a PCI bridge, without its interface."""


@dataclass(frozen=True, slots=True)
class Found:
    """One PCI function that could be a card.

    name        how this computer calls it: `0000:05:00.0` on Linux, the registry path on macOS
    bars        (address, size) by index, those that are assigned
    driver      who has it now: a kernel driver's name, `tinygpu` on macOS, or empty
    link        what the link says, as `8 GT/s x4`, empty where not told
    tunnelled   whether it hangs on Thunderbolt or USB4; None where not told
    facts       whatever else the system says, by its own names
    """

    name: str
    vendor: int
    device: int
    class_code: int
    subsystem: tuple[int, int] = (0, 0)
    revision: int = 0
    bars: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    driver: str = ""
    link: str = ""
    tunnelled: bool | None = None
    facts: dict[str, str] = field(default_factory=dict[str, str])


def find_cards() -> list[Found]:
    """Every display or accelerator function of this computer, ordered by name."""
    if sys.platform == "darwin":
        from exosuit.link.find_macos import find_macos

        return find_macos()
    return find_linux()


def find_linux(devices: Path = SYSFS) -> list[Found]:
    """The functions under `devices`; functions that vanish meanwhile are left out."""
    found: list[Found] = []
    try:
        folders = sorted(devices.iterdir())
    except OSError:
        return []
    for folder in folders:
        class_code = _number(folder / "class")
        if class_code is None or not ClassCode(class_code & 0xFFFFFF).can_be_card:
            continue
        found.append(read_function(folder))
    return found


def read_function(folder: Path) -> Found:
    """What sysfs says of one function."""
    driver = folder / "driver"
    return Found(
        name=folder.name,
        vendor=_number(folder / "vendor") or 0,
        device=_number(folder / "device") or 0,
        class_code=(_number(folder / "class") or 0) & 0xFFFFFF,
        subsystem=(
            _number(folder / "subsystem_vendor") or 0,
            _number(folder / "subsystem_device") or 0,
        ),
        revision=_number(folder / "revision") or 0,
        bars={index: (low, size) for index, (low, size, _) in read_bars(folder).items()},
        driver=driver.resolve().name if driver.exists() else "",
        link=_link(folder),
        tunnelled=_is_tunnelled(folder),
        facts={
            name: text
            for name in ("current_link_speed", "max_link_speed", "power_state", "enable")
            if (text := _text(folder / name)) is not None
        },
    )


def read_bars(folder: Path) -> dict[int, tuple[int, int, int]]:
    """Address, size and resource flags of each assigned BAR, from the `resource` file."""
    bars: dict[int, tuple[int, int, int]] = {}
    lines = (_text(folder / "resource") or "").splitlines()[:6]
    for index, line in enumerate(lines):
        try:
            start, end, flags = (int(word, 16) for word in line.split())
        except ValueError:
            continue
        if end > start:
            bars[index] = (start, end - start + 1, flags)
    return bars


def bridges_above(name: str, devices: Path = SYSFS) -> list[tuple[int, int]]:
    """Vendor and device of each bridge above a function, the nearest first.

    On macOS, where a card is behind a socket, those of the whole computer: a bridge that matters
    is in a box or in the computer for the sake of a box. Elsewhere empty for cards behind sockets.
    """
    if sys.platform == "darwin":
        from exosuit.link.find_macos import bridges

        return bridges()
    folder = devices / name
    if not name or not folder.exists():
        return []
    return [
        (_number(parent / "vendor") or 0, _number(parent / "device") or 0)
        for parent in folder.resolve().parents
        if (_number(parent / "class") or 0) >> 8 == BRIDGE
    ]


def _is_tunnelled(folder: Path) -> bool | None:
    """Whether a bridge above says that what hangs below can be unplugged by the user."""
    path = folder.resolve()
    for step in (path, *path.parents):
        removable = _text(step / "removable")
        if removable is not None:
            return removable == "removable"
        if step.name.startswith("pci"):
            return False
    return None


def _link(folder: Path) -> str:
    speed = (_text(folder / "current_link_speed") or "").split(" ")[0]
    width = _text(folder / "current_link_width")
    known = {f"{rate:.1f}": rate for rate in LINK_SPEEDS.values()}
    return f"{known[speed]:g} GT/s x{width}" if speed in known and width not in (None, "0") else ""


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    try:
        return int(_text(path) or "", 16)
    except ValueError:
        return None
