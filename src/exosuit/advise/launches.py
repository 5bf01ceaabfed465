"""What one decoded token consists of on a device: launches, gaps, and each op's time and bandwidth.

The graph of a step is known, so parts of it can be replayed: the launches of one kernel alone say
what that op takes, with weights as cold as they are in the whole; and a graph of the same shape
whose kernels do nothing says what launching takes. Both leave the model's state in disorder, so
this comes last.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from exosuit.driver.device import Device, Launch, Region
from exosuit.engine.runner import DeviceRunner
from exosuit.kernel import InOut, Target, group, i32, kernel, when
from exosuit.models.gguf import GgufFile
from exosuit.ops.programs import Programs

_ROUNDS = 7


@kernel(group_size=32)
def idle(cells: InOut[i32]) -> None:
    """Nothing, but not for the compiler: groups other than the first would write."""
    with when(group() > 0):
        cells[0] = 1


def profile_token(runner: DeviceRunner, file: GgufFile, read_gb_s: float) -> dict[str, Any]:
    """One row of what `bench --json` says of a token; times in microseconds.

    The runner has just decoded a token of one sequence.
    """
    device = runner.model.device
    launches = runner.model.record(1, 1, continues=True).launches
    whole = seconds(device, launches)
    idle_s = seconds(device, _idle(device, launches))
    ops = [
        _op(device, name, [one for one in launches if one.program.name == name], file, read_gb_s)
        for name in dict.fromkeys(one.program.name for one in launches)
    ]
    return {
        "launches": sum(one.groups > 0 for one in launches),
        "fences": sum(one.fence for one in launches),
        "token_us": round(1e6 * whole, 1),
        "launching_us": round(1e6 * idle_s, 1),
        "gap_us": round(1e6 * idle_s / max(len(launches), 1), 3),
        "ops": sorted(ops, key=lambda op: -op["us"]),
    }


def seconds(device: Device, launches: Sequence[Launch]) -> float:
    """Median of a few replays."""
    replay = device.prepare(launches)
    times: list[float] = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        replay.run()
        times.append(time.perf_counter() - start)
    replay.close()
    return statistics.median(times)


def _op(
    device: Device, name: str, launches: list[Launch], file: GgufFile, read_gb_s: float
) -> dict[str, Any]:
    took = seconds(device, [replace(one, fence=True) for one in launches])
    size = sum(weight_bytes(one, file) for one in launches)
    gb_s = size / took / 1e9
    return {
        "op": name,
        "launches": len(launches),
        "us": round(1e6 * took, 1),
        "weight_bytes": round(size),
        "gb_s": round(gb_s, 1),
        "bandwidth_share": round(gb_s / read_gb_s, 3),
    }


def weight_bytes(launch: Launch, file: GgufFile) -> float:
    """What a product reads of weights: its first argument; of experts, those that are used."""
    name = launch.program.name
    weights = launch.arguments[0] if launch.arguments else 0
    if not name.startswith("matmul") or not isinstance(weights, Region):
        return 0
    if "experts" not in name:
        return weights.size_bytes
    architecture = file.require("general.architecture", str)
    used = file.get(f"{architecture}.expert_used_count", int, 1)
    return weights.size_bytes * used / file.get(f"{architecture}.expert_count", int, 1)


def _idle(device: Device, launches: Sequence[Launch]) -> list[Launch]:
    """As many launches with the same fences, of one workgroup each."""
    program = Programs(Target.named(device.target), None).get(idle)
    cells = device.allocate(4, "idle")
    return [Launch(program, 1, (cells.region(),), one.fence) for one in launches if one.groups > 0]
