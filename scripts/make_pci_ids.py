"""Make the `[cards]` part of `src/exosuit/silicon/pci_ids.toml` from the public pci.ids file.

    python scripts/make_pci_ids.py /usr/share/misc/pci.ids

Keeps the families, which are written by hand at the top of the table, and replaces everything
below the marker line. Only ids of those families are kept, and no audio, USB or bridge function.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

TABLE = Path(__file__).parent.parent / "src/exosuit/silicon/pci_ids.toml"
MARKER = "# --- generated below this line by scripts/make_pci_ids.py ---\n"
NOT_CARDS = re.compile(r"audio|usb|switch|bridge|host|serial|i2c|pcie", re.IGNORECASE)
PLACEHOLDER = re.compile(r"reserved|initial|dev ?id|engineering|int sku|PG\d|-\d+K-|Skinny|AC AD")


def rows(text: str, vendor: str) -> list[tuple[int, str]]:
    """Device ids and descriptions of one vendor."""
    found: list[tuple[int, str]] = []
    inside = False
    for line in text.splitlines():
        if re.match(r"[0-9a-f]{4}  ", line):
            inside = line.startswith(vendor)
        elif inside and (match := re.match(r"\t([0-9a-f]{4})  (.*)", line)):
            found.append((int(match[1], 16), match[2]))
    return found


def main(source: str) -> None:
    text = Path(source).read_text(encoding="utf-8")
    version = re.search(r"Version: (\S+)", text)
    head = TABLE.read_text(encoding="utf-8").split(MARKER)[0]
    ranges = [
        (family["vendor"], low, high)
        for family in tomllib.loads(head)["family"]
        for low, high in family["ids"]
        if family.get("named", True)
    ]
    out = [head, MARKER, f"# input: pci.ids {version[1] if version else '?'} (pci-ids.ucw.cz)\n"]
    for vendor in sorted({vendor for vendor, _, _ in ranges}):
        out.append(f"\n[cards.{vendor:04x}]\n")
        for device, described in rows(text, f"{vendor:04x}"):
            if not any(v == vendor and low <= device <= high for v, low, high in ranges):
                continue
            match = re.match(r"(.*?) ?\[(.*)\]$", described)
            chip, name = (match[1], match[2]) if match else (described, "")
            if NOT_CARDS.search(chip) or (NOT_CARDS.search(name) and "PCIe" not in name):
                continue
            name = name.removeprefix("AMD ")
            if PLACEHOLDER.search(name) or name == "Radeon Graphics":
                name = ""
            out.append(f'{device:04x} = ["{chip.split(" / ")[0]}", "{name}"]\n')
    TABLE.write_text("".join(out), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
