"""What the driver costs a link: boots, loads and tokens on a software card, counted and timed.

    python benchmarks/boot.py --model smollm2.gguf --out benchmarks/results/amd-links.json

Everything is counted, or is virtual time of the card and its modelled link, so it comes out the
same on every machine; waits for firmware, which the model does not have, are not in it. The rows
of tinygrad 0.14.0 are what it was seen to do on such a card (cold, warm, with a 256 MiB window).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.softcard.amd_cards import boot, make

from exosuit.driver.amd import AmdDevice
from exosuit.engine.batch import Sampling
from exosuit.engine.open import open_model
from exosuit.engine.request import Request
from exosuit.settings import Settings
from exosuit.units import MiB

LINKS = ("slot", "tb5", "tb4", "usb4", "tb3", "gen1", "usb3")
TINYGRAD = {"cold": (1640, 25420), "warm": (1550, None), "cold, 256 MiB": (4230, None)}
LOAD_BYTES = 256 * MiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="decode with it over every link, too")
    parser.add_argument("--tokens", type=int, default=6)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    boots = [row for link in LINKS for row in boots_over(link)]
    loads = [load_over(link) for link in LINKS]
    document: dict[str, Any] = {"boots": boots, "loads": loads, "tinygrad": TINYGRAD}
    if arguments.model:
        document["tokens"] = tokens_over_links(arguments.model, arguments.tokens)
    text = json.dumps(document, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def boots_over(link: str) -> list[dict[str, Any]]:
    """Cold and warm with a large window, cold with a small one."""
    rows: list[dict[str, Any]] = []
    large = make(f"gfx1100,vram=1G,link={link}")
    small = make(f"gfx1100,vram=1G,bar=256M,link={link}")
    for kind, card in (("cold", large), ("warm", large), ("cold, 256 MiB", small)):
        began = card.elapsed_ns
        device = boot(card)
        counters = device.link.counters
        rows.append(
            {
                "link": link,
                "boot": kind,
                "round_trips": counters.round_trips,
                "writes": counters.writes,
                "bytes": counters.bytes_read + counters.bytes_written,
                "virtual_ms": round((card.elapsed_ns - began) / 1e6, 3),
            }
        )
        device.close()
    return rows


def load_over(link: str) -> dict[str, Any]:
    """Bytes per virtual second, into the card and out of it, and the share of the link's."""
    card = make(f"gfx1100,vram=1G,link={link}")
    device = boot(card)
    buffer = device.allocate(LOAD_BYTES, "weights")
    device.card.copies.finish()
    data = np.zeros(LOAD_BYTES, np.uint8)
    times: list[float] = []
    for copy in (
        lambda: (device.copy_in(buffer.region(), data), device.card.copies.finish()),
        lambda: device.copy_out(buffer.region(), np.uint8),
    ):
        began = card.elapsed_ns
        copy()
        times.append((card.elapsed_ns - began) / 1e9)
    device.close()
    bandwidth = card.meter.model.bandwidth
    into, out = (LOAD_BYTES / seconds for seconds in times)
    return {
        "link": link,
        "in_gb_s": round(into / 1e9, 3),
        "in_share": round(into / bandwidth, 4),
        "out_gb_s": round(out / 1e9, 3),
        "out_share": round(out / bandwidth, 4),
    }


def tokens_over_links(path: Path, count: int) -> list[dict[str, Any]]:
    """Virtual time and traffic of a decoded token over every link."""
    cache = Settings.from_environment().cache
    rows: list[dict[str, Any]] = []
    for link in LINKS:
        card = make(f"gfx1100,vram=2G,link={link}", cache=cache / "softcard")
        device = boot(card, hang_s=900)
        rows.append({"link": link, **decode(card, device, path, count)})
        slot = rows[0]["virtual_us"]
        rows[-1]["over_slot"] = round(rows[-1]["virtual_us"] / slot - 1, 4)
        device.close()
    return rows


def decode(card: Any, device: AmdDevice, path: Path, count: int) -> dict[str, Any]:
    model = open_model(path, device, Settings.from_environment().cache / "programs", context=256)
    prompt = tuple(model.tokenizer.encode("Once upon a time there was"))
    request = Request(prompt, max_tokens=count + 3, sampling=Sampling(temperature=0.0))
    times: list[float] = []
    crossed: list[Any] = []
    for _ in model.engine.stream(request):
        times.append(card.elapsed_ns)
        crossed.append(device.link.counters.copy())
    steps = len(times) - 3
    whole = crossed[-1].since(crossed[2])
    return {
        "virtual_us": round((times[-1] - times[2]) / steps / 1e3, 2),
        "reads": whole.reads / steps,
        "writes": whole.writes / steps,
        "bytes": (whole.bytes_read + whole.bytes_written) / steps,
    }


if __name__ == "__main__":
    main()
