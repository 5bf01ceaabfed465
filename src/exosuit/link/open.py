"""From the name of a device to its link: `tinygpu`, `remote:HOST:PORT`, `pci:0000:05:00.0`.

Software cards have names too, but live above this floor: `softcard.process` starts them.
"""

from __future__ import annotations

import re
from pathlib import Path

from exosuit.errors import HelperMissing, LinkError, UsageError
from exosuit.link.find import SYSFS
from exosuit.link.function import PciFunction
from exosuit.link.remote import RemoteLink
from exosuit.link.sysfs import SysfsLink
from exosuit.link.tinygpu import APP, ServerProcess, TinyGpuLink, default_socket
from exosuit.link.vfio import VfioLink
from exosuit.link.wire import DEFAULT_PORT

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
"""Domain, bus, device and function, as in `0000:05:00.0`."""


def open_link(
    name: str, *, locks: Path, timeout_s: float = 10.0, devices: Path = SYSFS
) -> PciFunction:
    """Open the card that `name` names, with its lock in the folder `locks`.

    Raises UsageError for a name that is none, and whatever the link raises. A `pci:` card is taken
    through vfio if it is bound to vfio-pci, else through sysfs.
    """
    kind, _, rest = name.partition(":")
    if kind == "tinygpu":
        if rest:
            return TinyGpuLink.open(Path(rest), locks=locks, timeout_s=timeout_s, name=name)
        return open_app(locks=locks, timeout_s=timeout_s)
    if kind == "remote" and rest:
        host, separator, port = rest.rpartition(":")
        if not separator:
            host, port = rest, str(DEFAULT_PORT)
        if host and port.isdecimal() and 0 < int(port) < 65536:
            return RemoteLink.open(host, int(port), locks=locks, timeout_s=timeout_s)
    if kind == "pci" and _ADDRESS.fullmatch(rest):
        driver = devices / rest / "driver"
        if driver.exists() and driver.resolve().name == "vfio-pci":
            return VfioLink.open(rest, locks=locks, devices=devices)
        return SysfsLink.open(rest, locks=locks, devices=devices)
    raise UsageError(
        f"{name!r} names no card behind a link",
        cause="such names are tinygpu, tinygpu:SOCKET, remote:HOST:PORT, pci:0000:05:00.0 and"
        " soft:CHIP",
        next="exosuit list",
        name=name,
    )


def open_app(
    *, locks: Path, timeout_s: float, app: Path = APP, path: Path | None = None
) -> TinyGpuLink:
    """The card behind TinyGPU.app, whose server is started if none listens.

    A server that we started is left running, as the app's own clients leave it: it serves the next
    client, and ends by itself when the card goes. Raises HelperMissing if the app is not installed.
    """
    path = path or default_socket()
    try:
        return TinyGpuLink.open(path, locks=locks, timeout_s=timeout_s, name="tinygpu")
    except LinkError as error:
        if "socket" not in error.fields:
            raise
        if not app.exists():
            raise HelperMissing(
                "TinyGPU.app is not installed",
                cause=f"there is no {app}, and no server listens at {path}",
                next="exosuit setup",
                app=str(app),
            ) from error
    ServerProcess.start([str(app), "server", str(path)], path, timeout_s).abandon()
    return TinyGpuLink.open(path, locks=locks, timeout_s=timeout_s, name="tinygpu")
