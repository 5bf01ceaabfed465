"""From the name of a device to the device: the link, the lock, the trace, the firmware, the driver.

The one place where a card is put together. `auto` takes the best card that works and says why, or
the host. Software cards say in their configuration space who made them; for those alone firmware
files with nothing in them are made on the spot, since they cannot tell a signed one anyway. A real
card gets the vendor's files, from the folder that `exosuit setup` fills, with their hashes checked.
"""

from __future__ import annotations

import atexit
import logging
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from exosuit.driver.device import Device
from exosuit.errors import ExosuitError, UnsupportedCard, UsageError
from exosuit.link.function import PciFunction
from exosuit.settings import Settings
from exosuit.units import human_bytes

if TYPE_CHECKING:
    from exosuit.driver.amd import AmdDevice
    from exosuit.driver.boot import Progress
    from exosuit.driver.firmware import FirmwareSource
    from exosuit.driver.nvidia.device import NvidiaDevice
    from exosuit.program import Program

log = logging.getLogger(__name__)

_HANG_S, _SOFT_HANG_S = 30.0, 900.0
"""A software card is a few thousand times slower than what it stands for."""
_SUBSYSTEM = 0x2C
_KINDS = ("soft:", "tinygpu", "remote:", "pci:")


def open_by_name(
    name: str,
    settings: Settings,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Device:
    """The device of that name, as in `--device`. Raises UsageError for a name that is none."""
    if name == "auto":
        return _open_best(settings, threads, progress)
    if name == "cpu":
        return _open_cpu(settings, threads)
    if name.startswith("cuda:"):
        return _open_cuda(name, settings)
    if name.startswith("nvidia:"):
        return _open_nvidia(name, settings, progress)
    if not name.startswith(_KINDS):
        raise UsageError(
            f"{name!r} names no device that can be opened",
            cause="devices are auto, cpu, cuda:NUMBER, nvidia:NUMBER, tinygpu, tinygpu:SOCKET,"
            " remote:HOST:PORT, pci:ADDRESS and soft:CHIP",
            next="exosuit list",
            device=name,
        )
    if name.startswith("soft:gfx12"):
        raise UnsupportedCard(
            f"{name} runs no programs",
            cause="this software card boots and copies; nothing translates gfx12 code for it yet",
            next="use --device soft:gfx1100",
            device=name,
        )
    from exosuit.advise.failure import remembered

    with remembered(name, settings.state):
        return open_card(open_link_by_name(name, settings), settings, progress)


def open_link_by_name(name: str, settings: Settings) -> PciFunction:
    """The link to the card of that name, with its lock; a software card gets its process."""
    from exosuit.link.open import open_link
    from exosuit.softcard.process import SoftLink

    if name.startswith("soft:"):
        return SoftLink.start(name.removeprefix("soft:"))
    return open_link(name, locks=settings.state / "locks")


def open_card(link: PciFunction, settings: Settings, progress: Progress | None = None) -> Device:
    """Boot the card behind a link, which the device then owns. Raises CardError or LinkError."""
    from exosuit.silicon.pci_ids import AMD, NVIDIA

    try:
        vendor = link.read_config(0, 2)
        if vendor not in (AMD, NVIDIA, 0xFFFF):
            raise UnsupportedCard(
                f"the card {link.name} is of vendor {vendor:04x}",
                cause="this version boots AMD and NVIDIA cards",
                next="exosuit list",
                vendor=vendor,
            )
        is_soft = is_software(link)
        hang_s = _seconds(settings) or (_SOFT_HANG_S if is_soft else _HANG_S)
        if settings.trace:
            from exosuit.trace.recorder import Recorder

            link = Recorder(link, Path(settings.trace))
    except BaseException:
        link.close()
        raise
    _end_on_sigterm()
    boot = _boot_nvidia if vendor == NVIDIA else _boot_amd
    device = boot(link, settings, is_soft, hang_s, progress)
    _close_at_exit(device)
    return device


def _boot_amd(
    link: PciFunction, settings: Settings, is_soft: bool, hang_s: float, progress: Progress | None
) -> AmdDevice:
    from exosuit.clock import SystemClock
    from exosuit.driver.amd import AmdDevice, Card
    from exosuit.driver.boot import silent
    from exosuit.softcard.amd.firmware import SyntheticFirmware

    source = SyntheticFirmware() if is_soft else _stored_firmware(settings)
    card = Card(link, source, SystemClock(), hang_s, progress or silent)
    return AmdDevice.boot(link, card)


def _boot_nvidia(
    link: PciFunction, settings: Settings, is_soft: bool, hang_s: float, progress: Progress | None
) -> NvidiaDevice:
    from exosuit.clock import SystemClock
    from exosuit.driver.boot import silent
    from exosuit.driver.nvidia.bare_metal import BareMetalRoute, Card
    from exosuit.driver.nvidia.device import NvidiaDevice
    from exosuit.softcard.nvidia.firmware import SyntheticFirmware

    source = SyntheticFirmware() if is_soft else _stored_firmware(settings)
    card = Card(
        link, source, SystemClock(), progress or silent,
        is_pinned=not is_soft and _is_behind_intel(link.name),
    )  # fmt: skip
    route = BareMetalRoute.boot(card, hang_s)
    assemble = _stand_in if is_soft else _assemble
    return NvidiaDevice.start(route, assemble, takes_cubins=not is_soft)


def _stand_in(program: Program) -> bytes:
    """PTX in the shape of a cubin: what a software card runs in place of machine code."""
    from exosuit.softcard.nvidia.image import stand_in

    return stand_in(program.code, program.entry, program.target)


def _assemble(program: Program) -> bytes:
    """Machine code of a program that no pack has, by ptxas where it is installed."""
    from exosuit.kernel.assembler import Assembler

    return Assembler().cubin(program)


def _is_behind_intel(name: str) -> bool:
    """Whether one of Intel's Thunderbolt bridges that do not survive a retrained link is above."""
    from exosuit.advise.checks_nvidia import INTEL_BRIDGES
    from exosuit.link.find import bridges_above

    return not INTEL_BRIDGES.isdisjoint(bridges_above(name.removeprefix("pci:")))


def explain_device(device: Device) -> list[str]:
    """How the device was started, for `--explain`; nothing to tell of the host."""
    from exosuit.driver.amd import AmdDevice
    from exosuit.driver.boot import explain
    from exosuit.driver.nvidia.bare_metal import BareMetalRoute
    from exosuit.driver.nvidia.device import NvidiaDevice
    from exosuit.driver.nvidia.kernel_driver import KernelDriverRoute

    if isinstance(device, NvidiaDevice) and isinstance(device.route, KernelDriverRoute):
        return device.route.explain()
    if isinstance(device, AmdDevice):
        card, link = device.card, device.link
    elif isinstance(device, NvidiaDevice) and isinstance(device.route, BareMetalRoute):
        card, link = device.route.card, device.route.link
    else:
        return []
    crossed = link.counters
    return [
        f"found {card.found.value}, with {human_bytes(card.vram_bytes)} of memory;"
        f" {crossed.round_trips} reads and {crossed.writes} writes so far",
        "firmware: none is needed by a software card, whose pieces are made up on the spot"
        if is_software(link)
        else "firmware: the vendor's, from the folder that exosuit setup fills, hashes checked",
        *explain(card.reports),
    ]


def is_software(link: PciFunction) -> bool:
    """Whether the card says that it is made of Python: its board's maker is us."""
    from exosuit.silicon.generic import DEVICE_ID, VENDOR_ID

    return link.read_config(_SUBSYSTEM, 4) == DEVICE_ID << 16 | VENDOR_ID


def _stored_firmware(settings: Settings) -> FirmwareSource:
    from exosuit.advise.firmware import StoredFirmware

    return StoredFirmware(settings.firmware)


def _open_cpu(settings: Settings, threads: int | None) -> Device:
    from exosuit.driver.cpu import CpuDevice
    from exosuit.kernel import Target

    count = threads or _whole_number("EXOSUIT_THREADS", settings.threads)
    return CpuDevice(Target.host(settings.cpu_features).name, count)


def _open_nvidia(name: str, settings: Settings, progress: Progress | None) -> Device:
    """A card through NVIDIA's kernel driver."""
    from exosuit.clock import SystemClock
    from exosuit.driver.boot import silent
    from exosuit.driver.nvidia.device import NvidiaDevice
    from exosuit.driver.nvidia.kernel_driver import KernelDriverRoute
    from exosuit.link.nodes import LinuxNodes

    route = KernelDriverRoute.open(
        LinuxNodes(), _number(name), SystemClock(), _seconds(settings) or _HANG_S,
        progress or silent,
    )  # fmt: skip
    device = NvidiaDevice.start(route, _assemble)
    _end_on_sigterm()
    _close_at_exit(device)
    return device


def _number(name: str) -> int:
    """N of `cuda:N`. Raises UsageError."""
    number = name.partition(":")[2]
    if not number.isdecimal():
        raise UsageError(
            f"{name!r} names no card",
            cause="cards are numbered from 0, as NVIDIA's driver does",
            next="exosuit list",
            device=name,
        )
    return int(number)


def _open_cuda(name: str, settings: Settings) -> Device:
    from exosuit.driver.cuda import HANG_S, CudaDevice, Library
    from exosuit.kernel import Target

    number = _number(name)  # before libcuda is looked for: a name that is none is told first
    device = CudaDevice(Library.load(), number, hang_s=_seconds(settings) or HANG_S)
    if device.target not in Target.names():
        device.close()
        raise UnsupportedCard(
            f"{name} is of {device.target}",
            cause="this version has no kernels for a chip so new",
            next="pip install --upgrade exosuit",
            device=name,
        )
    return device


def _open_best(settings: Settings, threads: int | None, progress: Progress | None) -> Device:
    for name, title in _ready_cards(settings):
        try:
            device = open_by_name(name, settings, threads, progress)
        except ExosuitError as error:
            log.warning("%s (%s) is passed over: %s", name, title, error.what)
            continue
        log.info("%s is used: %s, %d MiB", name, title, device.memory_bytes >> 20)
        return device
    log.info("cpu is used: no card is ready")
    return _open_cpu(settings, threads)


def _ready_cards(settings: Settings) -> Iterable[tuple[str, str]]:
    """Cards that nothing stands in the way of, those with most memory first; through libcuda,
    where that is one of the ways to a card.
    """
    from exosuit.advise.cuda import cuda_cards, cuda_rows
    from exosuit.advise.listing import card_rows
    from exosuit.link.find import find_cards

    rows = [*cuda_rows(*cuda_cards()), *card_rows(find_cards(), sys.platform == "darwin", {})]
    ready = [row for row in rows if row["verdict"] == "ready"]
    ready.sort(key=lambda row: -(row["memory_bytes"] or 0))
    return [(row["device"], row["name"]) for row in ready]


_open_cards: list[AmdDevice | NvidiaDevice] = []
"""Held until they are closed: a card that its owner merely forgot must be stopped, too."""


def _close_at_exit(device: AmdDevice | NvidiaDevice) -> None:
    """Stop the card when the process ends, also by SIGTERM: it must not go on touching memory."""
    if not _open_cards:
        atexit.register(_close_all)
    _open_cards[:] = [*(card for card in _open_cards if not card.is_closed), device]


def _close_all() -> None:
    for device in _open_cards:
        try:
            device.close()
        except ExosuitError as error:
            log.warning("%s", error.what)
    _open_cards.clear()


def _end_on_sigterm() -> None:
    """Turn SIGTERM into an orderly end, unless somebody handles it already."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _seconds(settings: Settings) -> float | None:
    number = _whole_number("EXOSUIT_HANG", settings.hang)
    return None if number is None else float(number)


def _whole_number(name: str, text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise UsageError(
            f"{name} is {text!r}",
            cause="it must be a whole number, 1 or more",
            next=f"unset {name}",
        )
    return int(text)
