"""What `exosuit bench` says of the device under a model: its limits, and of a card the rest too.

The limits are measured again before every round, because machines that are shared change from
minute to minute; the limit is the best that was seen. Of cards there are also clocks, and what one
token consists of.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from exosuit.cli import render

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exosuit.advise.card_limits import CardLimits
    from exosuit.advise.limits import DeviceLimits
    from exosuit.driver.device import Device
    from exosuit.engine.runner import DeviceRunner
    from exosuit.models.gguf import GgufFile


class Watched:
    """A device whose limits are measured as long as a bench runs."""

    def __init__(self, device: Device) -> None:
        from exosuit.advise.clocks import Nvml
        from exosuit.kernel import Target
        from exosuit.ops.programs import Programs

        self.device = device
        self.limits: DeviceLimits | CardLimits | None = None
        self._target = Target.named(device.target)
        self._programs = Programs(self._target, None)
        self._bus_id = str(getattr(device, "bus_id", ""))
        self._nvml = Nvml.find() if self._bus_id else None
        self._clocks: list[dict[str, Any]] = []

    @property
    def title(self) -> str:
        return str(getattr(self.device, "title", self.device.name))

    def measure(self) -> None:
        from exosuit.advise.card_limits import CardLimits, measure_card
        from exosuit.advise.limits import DeviceLimits, measure_limits

        if not self._target.is_gpu:
            found = measure_limits(self.device, self._programs)
            best = self.limits
            self.limits = found.or_better(best) if isinstance(best, DeviceLimits) else found
            return
        card = measure_card(self.device, self._programs, self.title)
        clocks = self._nvml.clocks(self._bus_id) if self._nvml else None
        if clocks is not None:
            self._clocks.append(clocks.told())
        best = self.limits
        self.limits = card.or_better(best) if isinstance(best, CardLimits) else card

    def told(self, runner: DeviceRunner, file: GgufFile) -> dict[str, Any]:
        """More fields of a row, of cards; the runner's state is in disorder afterwards."""
        from exosuit.advise.launches import profile_token

        if not self._target.is_gpu or self.limits is None:
            return {}
        card = {"title": self.title, "target": self._target.name, "clocks": self._clocks}
        if self._nvml is not None:
            card["driver"] = self._nvml.driver_version()
        return {
            "card": card | asdict(self.limits),
            "token": profile_token(runner, file, self.limits.read_gb_s),
        }


def limits_told(watched: Mapping[tuple[str, int], Watched]) -> dict[str, Any]:
    """By threads of the host, or by name of a card."""
    return {
        str(count) if name == "cpu" else name: asdict(one.limits)
        for (name, count), one in watched.items()
        if one.limits is not None
    }


def tell_cards(results: list[dict[str, Any]]) -> None:
    """For people: each card's limits, and where a token's time goes."""
    for row in results:
        if "card" not in row:
            continue
        card, token = row["card"], row["token"]
        sheet = card["datasheet_gflop_s"]
        render.text(
            f"{row['device']} ({card['title']}): reads {card['read_gb_s']:.0f} GB/s,"
            f" copies {card['copy_gb_s']:.0f} GB/s,"
            f" multiplies {card['matrix_gflop_s'] / 1e3:.1f} TFLOP/s of f16"
            + (f" (data sheet {sheet / 1e3:.1f})" if sheet else "")
        )
        if card["clocks"]:
            last = card["clocks"][-1]
            render.text(
                f"clocks {last['sm_mhz']} and {last['memory_mhz']} MHz, {last['power_w']:.0f} W of"
                f" {last['power_limit_w']:.0f} W, {last['temperature_c']} C"
            )
        render.text(
            f"a token is {token['launches']} launches in {token['token_us']:.0f} us; launching"
            f" alone takes {token['launching_us']:.0f} us, {token['gap_us']:.2f} us each"
        )
        render.table(
            ("op", "launches", "us", "GB/s", "of memory"),
            [
                (
                    op["op"], str(op["launches"]), f"{op['us']:.1f}",
                    f"{op['gb_s']:.0f}" if op["weight_bytes"] else "",
                    f"{op['bandwidth_share']:.0%}" if op["weight_bytes"] else "",
                )
                for op in token["ops"]
            ],
        )  # fmt: skip
