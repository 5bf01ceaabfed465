"""NVIDIA devices over the software model of NVIDIA's kernel driver, for tests of all kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exosuit.clock import ManualClock
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.driver.nvidia.kernel_driver import KernelDriverRoute
from exosuit.program import Program
from exosuit.softcard.nvidia.image import stand_in
from exosuit.softcard.nvidia.kernel_driver.driver import ModelOptions, SoftKernelDriver

TARGETS = {
    "ga100": "sm_80",
    "ga102": "sm_86",
    "ad102": "sm_89",
    "gh100": "sm_90",
    "gb202": "sm_120",
}


class RunningClock(ManualClock):
    """Lets late engines work whenever the host pauses."""

    def __init__(self, model: SoftKernelDriver) -> None:
        super().__init__()
        self._model = model

    def sleep(self, seconds: float) -> None:
        for card in self._model.cards:
            card.run()
        super().sleep(seconds)


def assemble(program: Program) -> bytes:
    return stand_in(program.code, program.entry, program.target)


def open_route(model: SoftKernelDriver, index: int = 0, hang_s: float = 20.0) -> KernelDriverRoute:
    return KernelDriverRoute.open(model, index, RunningClock(model), hang_s)


def start(
    card: str, make: Callable[[Program], bytes] = assemble, **options: Any
) -> tuple[NvidiaDevice, SoftKernelDriver]:
    """A device on one card of a new model, strict and late unless told otherwise."""
    chosen = ModelOptions(**{"cards": (card,), "late": True, "threads": 2, **options})
    model = SoftKernelDriver(chosen)
    return NvidiaDevice.start(open_route(model), make, takes_cubins=False), model


def start_other(
    card: str, compiled_for: str, **options: Any
) -> tuple[NvidiaDevice, SoftKernelDriver]:
    """The same, but it takes PTX made for another target, so that one translation does for many."""
    device, model = start(card, lambda p: stand_in(p.code, p.entry, TARGETS[card]), **options)
    device.target = compiled_for
    return device, model
