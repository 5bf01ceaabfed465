"""From a cubin to code in the card's memory.

A program that wants more than code, shared memory and its arguments is refused: our kernels have no
global variables and no constants of their own, hence no relocations, and launches give none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exosuit.errors import KernelError
from exosuit.program import Program
from exosuit.silicon.nvidia.bank import STACK_RESERVED, bank0
from exosuit.silicon.nvidia.cubin import CubinKernel, read_cubin
from exosuit.silicon.nvidia.limits import LOCAL_GRANULE, SHARED_GRANULE, SYSTEM_SHARED
from exosuit.units import GpuAddress, KiB, round_up

Assemble = Callable[[Program], bytes]
"""Makes a cubin of a program whose code is none yet. Drivers never look at PTX."""

CODE_PADDING = 4 * KiB
"""Mapped behind the code, because the card reads ahead."""
_ELF = b"\x7fELF"
_ARGUMENT_BYTES = 8
_FIRST_COUNTED = 90
"""From sm_90 on the static size of shared memory counts the system's first bytes in."""


@dataclass(frozen=True)
class Loaded:
    """A program in the card's memory.

    kernel        what the cubin says of it
    entry         address of the first instruction
    shared_bytes  of a group, the system's included, as a launch asks for them
    local_bytes   of scratch that a lane needs; 0 for most
    """

    kernel: CubinKernel
    entry: GpuAddress
    shared_bytes: int
    local_bytes: int


def read(program: Program, sm: int, assemble: Assemble) -> CubinKernel:
    """The kernel of a program, for sm_86 with sm 86.

    Raises KernelError for what cannot run there, or would be launched wrongly.
    """
    code = program.code if program.code.startswith(_ELF) else assemble(program)
    cubin = read_cubin(code)
    if cubin.sm // 10 != sm // 10 or cubin.sm > sm:
        raise _wrong(program, f"its cubin is for sm_{cubin.sm}, and this card is sm_{sm}")
    kernel = cubin.kernels.get(program.entry)
    if kernel is None:
        raise _wrong(program, f"its cubin holds only {', '.join(sorted(cubin.kernels))}")
    if kernel.relocations:
        needs = ", ".join(sorted({relocation.symbol for relocation in kernel.relocations}))
        raise _wrong(program, f"it needs the addresses of {needs}, which launches do not give")
    offset, size = kernel.arguments
    if offset != bank0(sm).ARGUMENTS:
        raise _wrong(program, f"its arguments lie at {offset:#x} of bank 0")
    if size != _ARGUMENT_BYTES * len(program.parameters):
        raise _wrong(
            program, f"it takes {size} bytes of arguments for {len(program.parameters)} parameters"
        )
    if kernel.entry_offset >= len(kernel.code):
        raise _wrong(program, f"its code begins at {kernel.entry_offset:#x}, past its end")
    return kernel


def loaded(kernel: CubinKernel, sm: int, address: GpuAddress) -> Loaded:
    """The kernel with its code at `address`."""
    shared = kernel.shared_bytes
    if sm < _FIRST_COUNTED:
        shared += SYSTEM_SHARED
    shared = max(round_up(shared, SHARED_GRANULE), SYSTEM_SHARED)
    stack = kernel.stack_bytes
    local = round_up(stack + STACK_RESERVED, LOCAL_GRANULE) if stack else 0
    return Loaded(kernel, GpuAddress(address + kernel.entry_offset), shared, local)


def _wrong(program: Program, reason: str) -> KernelError:
    return KernelError(
        f"the program {program.name!r} cannot be loaded onto the card: {reason}",
        cause="it was made by another compiler or for another chip, or the cache of programs is"
        " damaged",
        next="remove the cache of programs (exosuit doctor --settings says where) and try again",
        program=program.name,
        reason=reason,
    )
