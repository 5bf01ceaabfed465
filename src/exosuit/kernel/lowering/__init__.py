"""How each family of targets says what the language leaves open: one class per family."""

from __future__ import annotations

from exosuit.kernel.builder import current
from exosuit.kernel.lowering.base import Lowering
from exosuit.kernel.target import Target


def lowering() -> Lowering:
    """The lowering of the target that is being compiled for."""
    return for_target(current().target)


def for_target(target: Target) -> Lowering:
    match target.family:
        case "x86":
            from exosuit.kernel.lowering.x86 import X86

            return X86()
        case "aarch64":
            from exosuit.kernel.lowering.aarch64 import AArch64

            return AArch64()
        case "amdgpu":
            from exosuit.kernel.lowering.amdgpu import AmdGpu

            return AmdGpu()
        case "nvptx":
            from exosuit.kernel.lowering.nvptx import Nvptx

            return Nvptx()
        case _:
            raise AssertionError(target.family)


__all__ = ["Lowering", "for_target", "lowering"]
