"""What this machine needs once: the app, its approval, firmware, permissions. Pure.

`steps` turns a diagnosis and what is missing into a list: what exosuit can do, what only the user
can do, and what is done. The command line shows the list, and acts only when told to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from exosuit.advise.checks import Diagnosis
from exosuit.advise.manifest import App, Item
from exosuit.silicon.pci_ids import Identity

Who = Literal["done", "exosuit", "user"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: who does it, what it is, why, and the command where there is one.

    action   what exosuit does when told to: "firmware" or "app"; empty for others' steps
    """

    who: Who
    what: str
    why: str
    command: str = ""
    action: Literal["", "firmware", "app"] = ""

    def as_json(self) -> dict[str, Any]:
        return {"who": self.who, "what": self.what, "why": self.why, "command": self.command}


def steps(
    system: str,
    diagnosis: Diagnosis,
    cards: Sequence[Identity],
    wanted: Sequence[Item],
    lacking: Sequence[Item],
    app: App,
) -> list[Step]:
    """What to do on this machine, in order."""
    found: list[Step] = []
    broken = diagnosis.broken
    if system == "macos":
        found.append(_app(diagnosis, app))
    if not cards:
        why = "firmware is chosen by the card; name one with --card to fetch it ahead"
        found.append(Step("done", "no card is here that needs firmware", why))
    elif not lacking:
        names = ", ".join(dict.fromkeys(card.name for card in cards))
        what = f"firmware for {names}: {len(wanted)} files, all with the right hash"
        found.append(Step("done", what, "checked against the manifest in the package"))
    else:
        what = f"fetch {len(lacking)} of {len(wanted)} firmware files and check their hashes"
        host = lacking[0].url.split("/")[2]
        why = f"from {host} (linux-firmware), or from a local folder with --from"
        found.append(Step("exosuit", what, why, "exosuit setup --yes", "firmware"))
    if broken and broken.layer not in ("app",):
        found.append(Step("user", f"{broken.name}: {broken.found}", broken.cause, broken.next))
    return found


def _app(diagnosis: Diagnosis, app: App) -> Step:
    check = next((check for check in diagnosis.checks if check.layer == "app"), None)
    if check is None or check.status == "ok":
        return Step("done", f"TinyGPU.app: {check.found if check else 'not needed'}", "installed")
    if check.status == "skipped":
        return Step("done", f"TinyGPU.app: {check.found}", "an earlier layer comes first")
    host = app.url.split("/")[2]
    if app.sha256:
        why = f"from {host}, checked by its hash and by Apple's signature of team {app.team}"
        return Step("exosuit", "install TinyGPU.app", why, "exosuit setup --yes", "app")
    why = (
        f"from {host}; its publisher gives no hash, so only Apple's signature of team {app.team}"
        " can be checked"
    )
    command = "exosuit setup --yes --accept-unpinned"
    return Step("exosuit", "install TinyGPU.app", why, command, "app")
