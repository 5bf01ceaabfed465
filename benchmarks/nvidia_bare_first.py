"""The first boot of a real NVIDIA card without NVIDIA's driver, step by step, with a tape.

    python benchmarks/nvidia_bare_first.py --device tinygpu --until state --tape first.tape
    python benchmarks/nvidia_bare_first.py --device tinygpu --until gsp --tape first.tape
    python benchmarks/nvidia_bare_first.py --device tinygpu --tape first.tape
    exosuit trace show first.tape

Each step is told before it is done and measured after; the first that fails ends it with its three
lines and the facts behind them. Whatever happens, the card is left without a way to host memory.
`--until state` only reads. After the last step both channels say hello and 4 MiB go to the card and
come back.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from exosuit.advise.firmware import StoredFirmware
from exosuit.clock import SystemClock
from exosuit.devices import is_software, open_link_by_name
from exosuit.driver.boot import run_steps
from exosuit.driver.nvidia.bare_metal import BareMetalRoute, Card
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.errors import ExosuitError
from exosuit.program import Program
from exosuit.settings import Settings
from exosuit.softcard.nvidia.firmware import SyntheticFirmware
from exosuit.trace.recorder import Recorder
from exosuit.units import human_seconds

COPIED_BYTES = 4 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="tinygpu", help="as for exosuit run")
    parser.add_argument("--until", default="", metavar="STEP", help="the last step that is done")
    parser.add_argument("--tape", type=Path, default=Path("first.tape"))
    arguments = parser.parse_args()
    settings = Settings.from_environment()
    try:
        with Recorder(open_link_by_name(arguments.device, settings), arguments.tape) as link:
            stored = StoredFirmware(settings.firmware)
            card = Card(link, SyntheticFirmware() if is_software(link) else stored, SystemClock())
            try:
                if boot(card, arguments.until):
                    use(NvidiaDevice.start(BareMetalRoute(card, hang_s=10.0), no_programs))
            finally:
                card.stop()
    except ExosuitError as error:
        print(error, *(f"    {name}: {fact}" for name, fact in error.fields.items()), sep="\n")
        return 1
    return 0


def boot(card: Card, until: str) -> bool:
    """Do the steps up to `until`; whether all of them were done."""
    for steps in (card.first_steps, card.next_steps):
        for step in steps():
            print(f"{step.name:<12} {step.why}", flush=True)
            (report,) = run_steps([step], card.link, card.clock)
            crossed = report.crossed
            print(
                f"{'':<12} {human_seconds(report.seconds)}, {crossed.round_trips} reads,"
                f" {crossed.writes} writes",
                flush=True,
            )
            if step.name == until:
                return False
    return True


def no_programs(program: Program) -> bytes:
    raise AssertionError(program.name)


def use(device: NvidiaDevice) -> None:
    """Bytes there and back."""
    data = np.random.default_rng(1).integers(0, 256, COPIED_BYTES, np.uint8)
    buffer = device.allocate(COPIED_BYTES, "copied")
    device.copy_in(buffer.region(), data)
    same = np.array_equal(device.copy_out(buffer.region(), np.uint8), data)
    print(f"{'copies':<12} {COPIED_BYTES >> 20} MiB there and back: {'same' if same else 'DIFFER'}")
    device.close()


if __name__ == "__main__":
    sys.exit(main())
