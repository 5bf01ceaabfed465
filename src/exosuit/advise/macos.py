"""What the tools of macOS print, read into facts; tolerant of spelling, never of size.

Formats: Apple's tools on macOS 13 to 26 as quoted in public issue threads and in users.md E1.
`systemextensionsctl list` separates columns with tabs, which become spaces when people paste it;
key spelling of `system_profiler` varies between releases; the I/O registry comes as a property list
(`ioreg -a`). Whatever cannot be read is left out: a parser here never raises.
"""

from __future__ import annotations

import json
import plistlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from xml.parsers.expat import ExpatError

from exosuit.silicon.pci import ClassCode

BUNDLE = "org.tinygrad.tinygpu"
TEAM = "9YG3G8543N"
"""Tiny Corp's team identifier, in the app's signature and in the extension's row."""
LARGEST_BAR = 1 << 40


def values_of(text: str) -> dict[str, str]:
    """`key: value` lines as `sw_vers` and `sysctl` print them."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def version_of(text: str) -> tuple[int, ...]:
    """`14.6.1` as (14, 6, 1); empty if there is none."""
    found = re.search(r"\d{1,4}(?:\.\d{1,4}){0,3}", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


@dataclass(frozen=True, slots=True)
class Extension:
    """One row of `systemextensionsctl list`."""

    enabled: bool
    active: bool
    team: str
    bundle: str
    version: str
    state: str


def extensions(text: str) -> list[Extension]:
    """The rows of TinyGPU's driver extension, in the order in which they stand."""
    row = re.compile(
        r"^(?P<marks>[*\s]{0,64})(?P<team>[A-Z0-9]{10})\s+(?P<bundle>[\w.-]{3,200})\s+"
        r"\((?P<version>[^)]{0,80})\)[^\[]{0,400}\[(?P<state>[^\]]{0,120})\]"
    )
    found: list[Extension] = []
    for line in text.splitlines():
        match = row.match(line[:1000])
        if match is None or not match["bundle"].startswith(BUNDLE):
            continue
        marks = match["marks"]
        columns = marks.split("\t")
        enabled = "*" in columns[0] if len(columns) > 1 else marks.startswith("*")
        active = "*" in columns[1] if len(columns) > 2 else marks.count("*") > enabled
        entry = Extension(
            enabled, active, match["team"], match["bundle"], match["version"], match["state"]
        )
        found.append(entry)
    return found


@dataclass(frozen=True, slots=True)
class Port:
    """One Thunderbolt receptacle: is something in it, its speed in Gb/s, what hangs on it."""

    name: str
    connected: bool
    gbit_s: int
    devices: tuple[str, ...]


def ports(text: str) -> list[Port]:
    """Receptacles of `system_profiler SPThunderboltDataType -json`."""
    tree = _json(text)
    found: list[Port] = []
    for bus in _list(tree.get("SPThunderboltDataType")):
        devices = tuple(_device_names(bus.get("_items")))
        tags = [
            (key, _dict(value))
            for key, value in bus.items()
            if key.startswith("receptacle") and isinstance(value, dict)
        ]
        for _, tag in tags:
            status = str(tag.get("receptacle_status_key", ""))
            connected = "no_devices" not in status and ("connected" in status or bool(devices))
            speed = re.search(r"\d{1,4}", str(tag.get("current_speed_key", "")))
            name = str(tag.get("receptacle_id_key") or bus.get("_name") or "")
            held = devices if connected else ()
            found.append(Port(name, connected, int(speed[0]) if speed else 0, held))
        if not tags and devices:
            found.append(Port(str(bus.get("_name", "")), True, 0, devices))
    return found


def _device_names(items: Any) -> Iterator[str]:
    """Names of devices and of what is chained behind them; an explicit stack, no recursion."""
    waiting = list(reversed(_list(items)))
    while waiting:
        item = waiting.pop()
        name = str(item.get("device_name_key") or item.get("_name") or "")
        maker = str(item.get("vendor_name_key") or "")
        yield f"{maker} {name}".strip()
        waiting.extend(reversed(_list(item.get("_items"))))


@dataclass(frozen=True, slots=True)
class Function:
    """One PCI function of the I/O registry.

    bars     how many memory BARs have an address
    windows  of those, the register in the configuration space and the size
    """

    path: str
    vendor: int
    device: int
    class_code: int
    tunnelled: bool
    driver: str
    bars: int
    windows: tuple[tuple[int, int], ...] = ()

    @property
    def is_card(self) -> bool:
        return ClassCode(self.class_code).can_be_card

    @property
    def is_bridge(self) -> bool:
        return self.class_code >> 8 == 0x0604


def functions(text: str) -> list[Function]:
    """PCI functions of `ioreg -a -l -r -c IOPCIDevice`, each once."""
    tree = _plist(text)
    found: dict[Any, Function] = {}
    waiting = list(reversed(_list(tree if isinstance(tree, list) else [tree])))
    while waiting:
        entry = waiting.pop()
        children = _list(entry.get("IORegistryEntryChildren"))
        waiting.extend(reversed(children))
        if isinstance(entry.get("vendor-id"), bytes) and isinstance(entry.get("device-id"), bytes):
            key = entry.get("IORegistryEntryID")
            unique = key if isinstance(key, int) else len(found)
            found.setdefault(unique, _function(entry, children))
    return list(found.values())


def _function(entry: Mapping[str, Any], children: list[dict[str, Any]]) -> Function:
    def number(key: str, mask: int) -> int:
        value = entry.get(key)
        return int.from_bytes(value[:4], "little") & mask if isinstance(value, bytes) else 0

    names = {str(child.get("IORegistryEntryName", "")) for child in children}
    classes = {str(child.get("IOClass") or child.get("IOObjectClass") or "") for child in children}
    addresses = entry.get("assigned-addresses")
    tunnelled = entry.get("IOPCITunnelled")
    driver = "tinygpu" if "tinygpu" in names else ""
    if not driver:
        driver = next((name for name in sorted(classes) if name and "NVMe" in name), "")
    windows = _assigned(addresses) if isinstance(addresses, bytes) else ()
    return Function(
        path=str(entry.get("IORegistryEntryName", "")),
        vendor=number("vendor-id", 0xFFFF),
        device=number("device-id", 0xFFFF),
        class_code=number("class-code", 0xFFFFFF),
        tunnelled=any(tunnelled) if isinstance(tunnelled, bytes) else bool(tunnelled),
        driver=driver,
        bars=len(windows),
        windows=windows,
    )


def _assigned(data: bytes) -> tuple[tuple[int, int], ...]:
    """Register and size of memory BARs that have an address.

    Entries have five words: the register in the low byte of the first, the address, the size; both
    upper half first by the PCI binding of IEEE 1275. No dump of a real Mac was seen, so a size that
    no BAR has is read the other way round.
    """
    found: list[tuple[int, int]] = []
    for start in range(0, min(len(data), 400) - 19, 20):
        words = [
            int.from_bytes(data[start + 4 * i : start + 4 * i + 4], "little") for i in range(5)
        ]
        is_memory = words[0] >> 24 & 3 in (2, 3)
        size = words[3] << 32 | words[4]
        size = size if size <= LARGEST_BAR else words[4] << 32 | words[3]
        if is_memory and size and (words[1] or words[2]):
            found.append((words[0] & 0xFF, size))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Profiled:
    """One function of `system_profiler SPPCIDataType -json`: ids, link, as it spells them."""

    vendor: int
    device: int
    link: str
    up: bool


def profiled(text: str) -> list[Profiled]:
    """PCI functions as the profiler lists them; keys are matched without prefix and punctuation."""
    found: list[Profiled] = []
    waiting: list[Any] = [_json(text)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(reversed(cast("list[Any]", node)))
        if not isinstance(node, dict):
            continue
        entry = _dict(node)
        waiting.extend(reversed(list(entry.values())))
        plain = {_plain(key): value for key, value in entry.items() if isinstance(value, str)}
        vendor, device = _hex(plain.get("vendorid", "")), _hex(plain.get("deviceid", ""))
        if vendor and device:
            speed, width = plain.get("linkspeed", ""), plain.get("linkwidth", "")
            status = plain.get("linkstatus", "").lower()
            up = not status or "up" in status or status in ("yes", "affirmative_string")
            link = f"{speed} {width}".replace(".0 GT", " GT").strip()
            found.append(Profiled(vendor, device, link, up))
    return found


@dataclass(frozen=True, slots=True)
class Process:
    """One line of `ps -axo pid,stat,%cpu,etime,command`; state U means stuck in the kernel."""

    pid: int
    state: str
    cpu: float
    age: str
    command: str

    @property
    def is_stuck(self) -> bool:
        return "U" in self.state

    @property
    def is_server(self) -> bool:
        return "TinyGPU" in self.command and " server" in self.command

    @property
    def is_extension(self) -> bool:
        return BUNDLE in self.command and "TinyGPU.app/Contents/MacOS" not in self.command


def processes(text: str) -> list[Process]:
    """Those processes that have to do with TinyGPU."""
    line = re.compile(
        r"^\s{0,40}(\d{1,9})\s+(\S{1,12})\s+(\d{1,6}[.,]\d{1,3})\s+(\S{1,20})\s+(.{1,2000})"
    )
    found: list[Process] = []
    for text_line in text.splitlines():
        match = line.match(text_line[:2200])
        if match and "tinygpu" in match[5].lower():
            cpu = float(match[3].replace(",", "."))
            found.append(Process(int(match[1]), match[2], cpu, match[4], match[5].strip()))
    return found


def signature(text: str) -> dict[str, str]:
    """`Identifier`, `TeamIdentifier`, ... as `codesign -dv --verbose=2` prints them."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def bundle_version(text: str) -> str:
    """The short version in an app's Info.plist; empty if it cannot be read."""
    return str(_dict(_plist(text)).get("CFBundleShortVersionString", ""))


def _plist(text: str) -> Any:
    """A property list in XML, or None; plistlib lets through whatever its parts raise."""
    try:
        return plistlib.loads(text.encode("utf-8", "replace"), fmt=plistlib.FMT_XML)
    except (ExpatError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        return None


def _json(text: str) -> dict[str, Any]:
    try:
        return _dict(json.loads(text))
    except (ValueError, RecursionError):
        return {}


def _dict(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; anything else counts as none."""
    if not isinstance(value, list):
        return []
    return [_dict(entry) for entry in cast("list[Any]", value) if isinstance(entry, dict)]


def _plain(key: str) -> str:
    return "".join(c for c in key.lower().removeprefix("sppci") if c.isalnum())


def _hex(text: str) -> int:
    try:
        return int(text, 16) & 0xFFFF
    except ValueError:
        return 0
