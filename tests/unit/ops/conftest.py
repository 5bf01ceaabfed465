"""Running one kernel on the host, and comparing with its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from exosuit.driver.cpu import CpuDevice
from exosuit.graph import Arena, Graph
from exosuit.kernel import Kernel, Target, compile_kernel
from exosuit.program import Program

Run = Callable[..., None]

LEVELS = [name for name in ("avx2", "") if name == "" or Target.host().family == "x86"]


class Runner:
    """Compiles kernels for one level of the host and runs them on a CPU device of two threads."""

    def __init__(self, target: Target, threads: int = 2) -> None:
        self.target = target
        self.device = CpuDevice(target.name, threads)
        self._programs: dict[tuple[str, str], Program] = {}

    def __call__(self, kernel: Kernel, groups: int, *arguments: Any, **static: Any) -> None:
        """Run once. Arrays that the kernel writes are changed in place; numbers are scalars."""
        key = (kernel.name, repr(static))
        if key not in self._programs:
            self._programs[key] = compile_kernel(kernel, self.target, **static)
        program = self._programs[key]
        sizes = sum(x.nbytes + 256 for x in arguments if isinstance(x, np.ndarray))
        arena = Arena(self.device, sizes + 256, kernel.name)
        regions: dict[int, Any] = {}
        values: list[Any] = []
        for argument in arguments:
            if not isinstance(argument, np.ndarray):
                values.append(argument)
                continue
            if id(argument) not in regions:
                regions[id(argument)] = arena.take(argument.nbytes)
                self.device.copy_in(regions[id(argument)], argument)
            values.append(regions[id(argument)])
        graph = Graph()
        graph.launch(program, groups, *values)
        replay = graph.prepare(self.device)
        replay.run()
        for parameter, argument in zip(program.parameters, arguments, strict=True):
            if parameter.access.writes and isinstance(argument, np.ndarray):
                result = self.device.copy_out(regions[id(argument)], argument.dtype)
                argument[...] = result.reshape(argument.shape)
        replay.close()
        arena.close()


@pytest.fixture(scope="session", params=LEVELS, ids=lambda level: level or "host")
def run(request: pytest.FixtureRequest) -> Iterator[Runner]:
    runner = Runner(Target.host(request.param))
    yield runner
    runner.device.close()


@pytest.fixture(scope="session")
def check() -> Callable[[NDArray[Any], NDArray[Any], float], None]:
    """`check(actual, expected, tolerance)`: relative to the largest expected magnitude."""

    def compare(actual: NDArray[Any], expected: NDArray[Any], tolerance: float) -> None:
        assert actual.shape == expected.shape
        error = np.abs(actual.astype(np.float64) - expected)
        assert np.isfinite(error).all(), f"not finite at {np.argwhere(~np.isfinite(error))[0]}"
        worst = np.unravel_index(int(error.argmax()), error.shape)
        limit = tolerance * max(float(np.abs(expected).max()), 1e-30)
        assert error[worst] <= limit, (
            f"worst at {tuple(int(k) for k in worst)}: {actual[worst]} for {expected[worst]}"
            f" (off by {error[worst]:.3g}, allowed {limit:.3g})"
        )

    return compare
