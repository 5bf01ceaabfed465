"""One launch: its QMD and its constant bank 0, and what the card could not run.

Groups and lanes are counted in x only. Bank 0 is made for every launch, because the number of
groups stands in it beside the arguments.
"""

from __future__ import annotations

from exosuit.driver.device import Launch
from exosuit.driver.nvidia.loader import Loaded
from exosuit.errors import KernelError
from exosuit.silicon.nvidia.bank import STACK_TOP, bank0
from exosuit.silicon.nvidia.compute import LOCAL_WINDOW, SHARED_WINDOW
from exosuit.silicon.nvidia.grid import Bank, Grid, Release
from exosuit.silicon.nvidia.limits import (
    MOST_GROUPS_X,
    MOST_LANES,
    limits,
    most_lanes,
)
from exosuit.units import GpuAddress, KiB, human_bytes


def bank(launch: Launch, sm: int) -> bytes:
    """Bank 0 of a launch on sm_86 for sm 86: the driver's words, then the arguments."""
    words = bank0(sm).make(
        block_x=launch.program.group_size,
        block_y=1,
        block_z=1,
        grid_x=launch.groups,
        grid_y=1,
        grid_z=1,
        shared_window=SHARED_WINDOW,
        local_window=LOCAL_WINDOW,
        stack_pointer=STACK_TOP,
    )
    return bytes(words) + launch.argument_block()


def grid(
    launch: Launch,
    loaded: Loaded,
    sm: int,
    sass_version: int,
    arguments: Bank,
    dependent: GpuAddress | None,
    release: Release | None,
) -> Grid:
    """What the launch's QMD says.

    arguments  bank 0, where it lies
    dependent  address of the QMD that is to be scheduled when this grid has ended
    release    what is to be written then

    Raises KernelError for what an SM cannot hold.
    """
    check(launch, loaded, sm)
    kernel = loaded.kernel
    return Grid(
        program=loaded.entry,
        code_bytes=len(kernel.code),
        groups=(launch.groups, 1, 1),
        lanes=(launch.program.group_size, 1, 1),
        registers=kernel.registers,
        barriers=max(kernel.barriers, 1),  # CUDA 12 keeps the number elsewhere; one always works
        shared_bytes=loaded.shared_bytes,
        shared_configs=shared_configs(loaded.shared_bytes, launch.program.group_size, sm),
        local_bytes=loaded.local_bytes,
        sass_version=sass_version,
        banks={0: arguments},
        releases=() if release is None else (release,),
        dependent=dependent,
        virtual_resources=kernel.virtual_resources,
    )


def check(launch: Launch, loaded: Loaded, sm: int) -> None:
    """Raises KernelError for what an SM cannot hold."""
    program, kernel = launch.program, loaded.kernel
    lanes, groups = program.group_size, launch.groups
    if not 0 < lanes <= MOST_LANES:
        raise _refused(launch, f"has workgroups of {lanes} lanes", f"takes 1 to {MOST_LANES}")
    if lanes > most_lanes(kernel.registers):
        raise _refused(
            launch,
            f"has workgroups of {lanes} lanes with {kernel.registers} registers each",
            f"holds {most_lanes(kernel.registers)} of them",
        )
    if loaded.shared_bytes > limits(sm).most_shared:
        raise _refused(
            launch,
            f"wants {human_bytes(loaded.shared_bytes)} of workgroup memory",
            f"has {human_bytes(limits(sm).most_shared)}",
        )
    if groups > MOST_GROUPS_X:
        raise _refused(launch, f"has {groups} workgroups", f"takes {MOST_GROUPS_X}")


def shared_configs(shared_bytes: int, lanes: int, sm: int) -> tuple[int, int, int]:
    """How an SM is to divide its memory, in KiB: least, wanted and most for shared memory.

    Wanted is what lets as many groups run as its warps and its slots for groups allow; the rest
    stays cache, which these kernels read weights through.
    """
    sizes = limits(sm).shared_configs
    together = min(limits(sm).groups, max(limits(sm).warps * 32 // lanes, 1))

    def holding(size: int) -> int:
        return next((kib for kib in sizes if kib * KiB >= size), sizes[-1])

    return holding(shared_bytes), holding(shared_bytes * together), sizes[-1]


def _refused(launch: Launch, what: str, limit: str) -> KernelError:
    return KernelError(
        f"program {launch.program.name!r} {what}",
        cause=f"an SM of this card {limit}",
        next="use smaller workgroups, smaller tiles or fewer stages in the kernel",
        program=launch.program.name,
    )
