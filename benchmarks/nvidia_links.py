"""What a bare NVIDIA card costs a link: boots by stage, loads and tokens, counted and timed.

    python benchmarks/nvidia_links.py --model stories.gguf --out results/nvidia-links.json

As benchmarks/boot.py for AMD: everything is counted, or is virtual time of the card and its
modelled link, with the waits of the driver itself (a falcon's reset is held for 0.1 s) added, so it
comes out the same on every machine. What real firmware takes to start is not in it. The firmware's
image is as large here as the real one, 63.6 MB, and is fetched by the card over the link.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.softcard.nvidia_cards import CHIPS, boot, make

from exosuit.clock import ManualClock
from exosuit.driver.boot import StepReport
from exosuit.driver.nvidia.bare_metal.vram import Vram
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.engine.batch import Sampling
from exosuit.engine.open import open_model
from exosuit.engine.request import Request
from exosuit.link.function import Counters
from exosuit.settings import Settings
from exosuit.softcard.nvidia import firmware
from exosuit.units import MiB

LINKS = ("slot", "tb5", "tb4", "usb4", "tb3", "gen1", "usb3")
IMAGE_BYTES = 63_600_000
"""Of gsp_ga10x 570.144, rounded."""
LOAD_BYTES = 256 * MiB
STAGED = "tb4"
"""The link for which every stage is written down."""


class VirtualClock(ManualClock):
    """Time of the driver's own waits and of the card and its link together."""

    def __init__(self, card: Any) -> None:
        super().__init__()
        self._card = card

    def now(self) -> float:
        return super().now() + self._card.meter.now_ns / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="decode with it over every link, too")
    parser.add_argument("--tokens", type=int, default=6)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    firmware.GSP_BYTES = IMAGE_BYTES
    document: dict[str, Any] = {
        "image_bytes": IMAGE_BYTES,
        "boots": [row for chip in CHIPS for link in LINKS for row in boots_over(chip, link)],
        "loads": [load_over(chip, link) for chip in CHIPS for link in ("slot", "tb5", "tb4")],
    }
    if arguments.model:
        document["tokens"] = [
            {"chip": chip, "link": link, **decode(chip, link, arguments.model, arguments.tokens)}
            for chip in CHIPS
            for link in ("slot", "tb4")
        ]
    text = json.dumps(document, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def boots_over(chip: str, link: str) -> list[dict[str, Any]]:
    """Cold, by the next process, and cold with a small window."""
    rows: list[dict[str, Any]] = []
    large = make(f"{chip},vram=2G,link={link}")
    small = make(f"{chip},vram=2G,bar=256M,link={link}")
    for kind, card in (("cold", large), ("next process", large), ("cold, 256 MiB", small)):
        clock = VirtualClock(card)
        began = clock.now()
        device = boot(card, clock=clock)
        route: Any = device.route
        vram: Vram = route.card.vram
        rows.append(
            {
                "chip": chip,
                "link": link,
                "boot": kind,
                **crossed(route.link.counters),
                "virtual_ms": round((clock.now() - began) * 1e3, 1),
                "largest_burst": vram.largest_burst,
                "stages": [stage(report) for report in route.card.reports if link == STAGED],
            }
        )
        device.close()
    return rows


def crossed(counters: Counters) -> dict[str, int]:
    return {
        "round_trips": counters.round_trips,
        "writes": counters.writes,
        "bytes": counters.bytes_read + counters.bytes_written,
    }


def stage(report: StepReport) -> dict[str, Any]:
    return {
        "stage": report.name,
        **crossed(report.crossed),
        "virtual_ms": round(report.seconds * 1e3, 2),
    }


def load_over(chip: str, link: str) -> dict[str, Any]:
    """Bytes per virtual second, into the card and out of it, and the share of the link's."""
    card = make(f"{chip},vram=2G,link={link}")
    device = boot(card)
    buffer = device.allocate(LOAD_BYTES, "weights")
    data = np.zeros(LOAD_BYTES, np.uint8)
    found: dict[str, Any] = {"chip": chip, "link": link}
    for name, copy in (
        ("in", lambda: device.copy_in(buffer.region(), data)),
        ("out", lambda: device.copy_out(buffer.region(), np.uint8)),
    ):
        began = card.elapsed_ns
        copy()
        rate = LOAD_BYTES / (card.elapsed_ns - began) * 1e9
        found[f"{name}_gb_s"] = round(rate / 1e9, 3)
        found[f"{name}_share"] = round(rate / card.meter.model.bandwidth, 4)
    device.close()
    return found


def decode(chip: str, link: str, path: Path, count: int) -> dict[str, Any]:
    """Virtual time and traffic of a decoded token; PTX stands in for machine code."""
    cache = Settings.from_environment().cache
    card = make(f"{chip},vram=2G,link={link}", cache=cache / "softcard")
    device: NvidiaDevice = boot(card, hang_s=900)
    route: Any = device.route
    model = open_model(path, device, cache / "programs", context=256)
    prompt = tuple(model.tokenizer.encode("Once upon a time there was"))
    request = Request(prompt, max_tokens=count + 3, sampling=Sampling(temperature=0.0))
    times: list[float] = []
    seen: list[Counters] = []
    for _ in model.engine.stream(request):
        times.append(card.elapsed_ns)
        seen.append(route.link.counters.copy())
    steps = len(times) - 3
    whole = seen[-1].since(seen[2])
    device.close()
    return {
        "virtual_us": round((times[-1] - times[2]) / steps / 1e3, 2),
        "reads": whole.reads / steps,
        "writes": whole.writes / steps,
        "bytes": (whole.bytes_read + whole.bytes_written) / steps,
    }


if __name__ == "__main__":
    main()
