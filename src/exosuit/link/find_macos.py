"""PCI functions of a Mac: IOKit through `ctypes`, and `system_profiler` where that fails.

The I/O registry answers in about 20 ms and gives class codes, which `system_profiler` does not;
the latter takes seconds and hangs if a server of TinyGPU.app is wedged, so it has a time limit.
Property names and value forms: Apple's IOPCIFamily and the outputs collected in issue threads of
TinyGPU users. Values are little-endian data, `class-code` = 00 00 03 00 for a VGA controller.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, cast

from exosuit.errors import HelperMissing
from exosuit.link.find import BRIDGE, Found
from exosuit.silicon.pci import ClassCode

PROFILER_TIMEOUT_S = 15.0
_UTF8 = 0x08000100
_PROPERTIES = (
    "vendor-id",
    "device-id",
    "class-code",
    "subsystem-vendor-id",
    "subsystem-id",
    "revision-id",
    "IOPCITunnelled",
)


def find_macos() -> list[Found]:
    """Display and accelerator functions by IOKit, or by `system_profiler` if that cannot be used.

    Raises HelperMissing if neither answers.
    """
    try:
        services = list(registry_services())
    except (OSError, AttributeError):
        return from_profiler(run_profiler())
    found = [from_properties(path, properties, driver) for path, properties, driver in services]
    return sorted(
        (f for f in found if ClassCode(f.class_code).can_be_card), key=lambda card: card.name
    )


def bridges() -> list[tuple[int, int]]:
    """Vendor and device of every PCI bridge of this computer; empty where IOKit is not there."""
    try:
        services = list(registry_services())
    except (OSError, AttributeError):
        return []
    found = [from_properties(path, properties, driver) for path, properties, driver in services]
    return [(f.vendor, f.device) for f in found if f.class_code >> 8 == BRIDGE]


def from_properties(path: str, properties: Mapping[str, bytes], driver: str) -> Found:
    """A function from its registry properties, raw as the registry holds them."""

    def number(key: str) -> int:
        return int.from_bytes(properties.get(key, b"")[:4], "little")

    tunnelled = properties.get("IOPCITunnelled")
    return Found(
        name=path,
        vendor=number("vendor-id") & 0xFFFF,
        device=number("device-id") & 0xFFFF,
        class_code=number("class-code") & 0xFFFFFF,
        subsystem=(number("subsystem-vendor-id") & 0xFFFF, number("subsystem-id") & 0xFFFF),
        revision=number("revision-id") & 0xFF,
        driver=driver,
        tunnelled=None if tunnelled is None else any(tunnelled),
    )


def registry_services() -> Iterator[tuple[str, dict[str, bytes], str]]:
    """Path, properties and driver of every `IOPCIDevice`; OSError where IOKit is not there."""
    kit = _library("IOKit")
    core = _library("CoreFoundation")
    kit.IOServiceMatching.restype = ctypes.c_void_p
    kit.IOServiceMatching.argtypes = [ctypes.c_char_p]
    kit.IOServiceGetMatchingServices.argtypes = [
        ctypes.c_uint32,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_uint32),
    ]
    iterator = ctypes.c_uint32()
    matching = kit.IOServiceMatching(b"IOPCIDevice")
    if kit.IOServiceGetMatchingServices(0, matching, ctypes.byref(iterator)):
        raise OSError("IOServiceGetMatchingServices failed")
    try:
        while service := int(kit.IOIteratorNext(iterator)):
            try:
                properties = {
                    key: value
                    for key in _PROPERTIES
                    if (value := _property(kit, core, service, key)) is not None
                }
                yield _path(kit, service), properties, _driver(kit, service)
            finally:
                kit.IOObjectRelease(service)
    finally:
        kit.IOObjectRelease(iterator)


def _library(name: str) -> ctypes.CDLL:
    found = ctypes.util.find_library(name)
    if found is None:
        raise OSError(f"{name} is not on this system")
    return ctypes.CDLL(found)


def _path(kit: ctypes.CDLL, service: int) -> str:
    buffer = ctypes.create_string_buffer(512)
    kit.IORegistryEntryGetPath(service, b"IOService", buffer)
    return buffer.value.decode("utf-8", "replace")


def _driver(kit: ctypes.CDLL, service: int) -> str:
    """`tinygpu` if a child of that name is attached to the function, else nothing."""
    iterator = ctypes.c_uint32()
    if kit.IORegistryEntryGetChildIterator(service, b"IOService", ctypes.byref(iterator)):
        return ""
    names: list[str] = []
    try:
        while child := int(kit.IOIteratorNext(iterator)):
            buffer = ctypes.create_string_buffer(128)
            kit.IORegistryEntryGetName(child, buffer)
            names.append(buffer.value.decode("utf-8", "replace"))
            kit.IOObjectRelease(child)
    finally:
        kit.IOObjectRelease(iterator)
    return next((name for name in names if name == "tinygpu"), "")


def _property(kit: ctypes.CDLL, core: ctypes.CDLL, service: int, key: str) -> bytes | None:
    """One property as bytes: data as it is, a boolean as one byte; None where it is missing."""
    pointer = ctypes.c_void_p
    core.CFStringCreateWithCString.restype = pointer
    core.CFStringCreateWithCString.argtypes = [pointer, ctypes.c_char_p, ctypes.c_uint32]
    kit.IORegistryEntryCreateCFProperty.restype = pointer
    kit.IORegistryEntryCreateCFProperty.argtypes = [
        ctypes.c_uint32,
        pointer,
        pointer,
        ctypes.c_uint32,
    ]
    core.CFRelease.argtypes = [pointer]
    core.CFGetTypeID.argtypes = [pointer]
    core.CFGetTypeID.restype = ctypes.c_ulong
    core.CFDataGetTypeID.restype = ctypes.c_ulong
    core.CFBooleanGetTypeID.restype = ctypes.c_ulong
    core.CFDataGetLength.argtypes = [pointer]
    core.CFDataGetLength.restype = ctypes.c_long
    core.CFDataGetBytePtr.argtypes = [pointer]
    core.CFDataGetBytePtr.restype = pointer
    core.CFBooleanGetValue.argtypes = [pointer]
    core.CFBooleanGetValue.restype = ctypes.c_ubyte
    name = core.CFStringCreateWithCString(None, key.encode(), _UTF8)
    value = kit.IORegistryEntryCreateCFProperty(service, name, None, 0)
    core.CFRelease(name)
    if not value:
        return None
    try:
        if core.CFGetTypeID(value) == core.CFDataGetTypeID():
            return ctypes.string_at(core.CFDataGetBytePtr(value), core.CFDataGetLength(value))
        if core.CFGetTypeID(value) == core.CFBooleanGetTypeID():
            return bytes([core.CFBooleanGetValue(value)])
        return None
    finally:
        core.CFRelease(value)


def run_profiler() -> str:
    """The PCI section of `system_profiler` as JSON text."""
    try:
        done = subprocess.run(
            ["/usr/sbin/system_profiler", "SPPCIDataType", "-json"],
            capture_output=True,
            timeout=PROFILER_TIMEOUT_S,
            check=True,
            text=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HelperMissing(
            "macOS does not say which PCI devices there are",
            cause=f"neither IOKit nor system_profiler answered ({error}); a wedged TinyGPU server"
            " can hang both",
            next="restart the Mac, then run  exosuit doctor",
        ) from error
    return done.stdout


def from_profiler(text: str) -> list[Found]:
    """Functions of vendors that make cards, from `system_profiler SPPCIDataType -json`.

    Key spelling varies between releases, so keys are matched without their prefix and punctuation.
    This source has no class code: a function is taken for a card unless its name says otherwise.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found: list[Found] = []
    for item in _items(tree):
        keys = {_plain(key): str(value) for key, value in item.items()}
        vendor, device = _hexadecimal(keys.get("vendorid")), _hexadecimal(keys.get("deviceid"))
        kind = keys.get("devicetype", "").lower()
        if vendor not in (0x1002, 0x10DE) or device is None or "audio" in kind:
            continue
        speed, width = keys.get("linkspeed", ""), keys.get("linkwidth", "")
        found.append(
            Found(
                name=keys.get("slotname", f"{vendor:04x}:{device:04x}"),
                vendor=vendor,
                device=device,
                class_code=0x030000,
                subsystem=(
                    _hexadecimal(keys.get("subsystemvendorid")) or 0,
                    _hexadecimal(keys.get("subsystemid")) or 0,
                ),
                revision=_hexadecimal(keys.get("revisionid")) or 0,
                link=f"{speed} {width}".replace(".0 GT", " GT").strip(),
                tunnelled=keys.get("tunnelcompatible", "no").lower()
                in ("yes", "affirmative_string"),
                facts={"source": "system_profiler", **keys},
            )
        )
    return found


def _items(node: Any) -> Iterator[dict[str, Any]]:
    """Every object in the tree, `_items` of `_items` included; an explicit stack, no recursion."""
    waiting: list[Any] = [node]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            entry = cast("dict[str, Any]", current)
            yield entry
            waiting.extend(reversed([v for v in entry.values() if isinstance(v, (dict, list))]))
        elif isinstance(current, list):
            waiting.extend(reversed(cast("list[Any]", current)))


def _plain(key: str) -> str:
    return "".join(c for c in key.lower().removeprefix("sppci") if c.isalnum())


def _hexadecimal(text: str | None) -> int | None:
    try:
        return int(text or "", 16)
    except ValueError:
        return None
