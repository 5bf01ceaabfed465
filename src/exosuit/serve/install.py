"""The server as a service of its user, started at login: units for systemd and launchd.

Nothing here needs an administrator, and nothing is started without saying so. An upgrade is
`pip install -U exosuit` and a reload: on Linux the new server takes the listening socket over
while the old one finishes its answers; launchd watches one process, so there it is restarted.
Sources: systemd.service(5), systemd.unit(5); launchd.plist(5).
"""

from __future__ import annotations

import plistlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exosuit.errors import PermissionNeeded, UsageError

LABEL = "exosuit.serve"


@dataclass(frozen=True)
class Installation:
    """What would be written where, and what to type then.

    start, stop, reload  commands, one line each
    """

    path: Path
    text: str
    start: str
    stop: str
    reload: str


def installation(
    words: Sequence[str], home: Path, platform: str, python: str = sys.executable
) -> Installation:
    """The unit that runs `exosuit serve WORDS`; UsageError on a system without user services."""
    command = [python, "-m", "exosuit", "serve", *words]
    if platform == "darwin":
        path = home / "Library/LaunchAgents" / f"{LABEL}.plist"
        domain = "gui/$(id -u)"
        return Installation(
            path,
            _plist(command, home),
            start=f"launchctl bootstrap {domain} {shlex.quote(str(path))}",
            stop=f"launchctl bootout {domain}/{LABEL}",
            reload=f"launchctl kickstart -k {domain}/{LABEL}",
        )
    if platform.startswith("linux"):
        return Installation(
            home / ".config/systemd/user" / "exosuit.service",
            _unit(command),
            start="systemctl --user daemon-reload && systemctl --user enable --now exosuit",
            stop="systemctl --user disable --now exosuit",
            reload="systemctl --user reload exosuit",
        )
    raise UsageError(
        f"there is no service to install on {platform}",
        cause="exosuit knows systemd's user services and launchd's agents",
        next="exosuit serve",
    )


def write(found: Installation) -> bool:
    """Write the unit; False if it is there already, word for word."""
    try:
        if found.path.exists() and found.path.read_text() == found.text:
            return False
        found.path.parent.mkdir(parents=True, exist_ok=True)
        found.path.write_text(found.text)
    except OSError as error:
        raise PermissionNeeded(
            f"{found.path} cannot be written",
            cause=str(error),
            next=f"ls -ld {shlex.quote(str(found.path.parent))}   (it must be yours and writable)",
            path=str(found.path),
        ) from error
    return True


def _unit(command: Sequence[str]) -> str:
    line = " ".join(_systemd_word(word) for word in command)
    return f"""\
[Unit]
Description=exosuit, local AI on this machine's devices
After=network.target

[Service]
Type=notify
NotifyAccess=all
ExecStart={line}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=2
TimeoutStopSec=90
UMask=0077

[Install]
WantedBy=default.target
"""


def _systemd_word(word: str) -> str:
    """A word of a command line as systemd reads it: specifiers, variables and quotes escaped."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if not word or set(word) & set(" \t\"'\\;$%") else escaped


def _plist(command: Sequence[str], home: Path) -> str:
    log = str(home / "Library/Logs/exosuit.log")
    found = {
        "Label": LABEL,
        "ProgramArguments": list(command),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": 90,
        "ProcessType": "Interactive",  # or macOS gives it the slow cores
        "StandardOutPath": log,
        "StandardErrorPath": log,
        "Umask": 0o077,
    }
    return plistlib.dumps(found, sort_keys=False).decode()
