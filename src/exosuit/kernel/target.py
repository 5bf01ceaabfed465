"""Targets: what code is made for, and what each can do.

The capability table is the only place that knows which chip has which instruction. A kernel that
asks for something its target lacks is refused here, with its file and line, because LLVM's back
ends answer such requests by aborting the process. Sources: LLVM 22 back ends; AMD RDNA3 and RDNA4
ISA guides; PTX ISA 9.0; Arm ARM (FEAT_DotProd, FEAT_I8MM); Intel SDM.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from functools import cache

from exosuit.errors import UsageError
from exosuit.kernel import host_arm

# What only some targets have. Everything else of the language exists everywhere.
#   mma           mma_tile and mma; wmma_gfx11 and wmma_gfx12 say with which fragments
#   async_copy    copies from memory to shared memory in the background
#   pair_dot      pair_dot, pair_dot_bytes, apply_sign
#   dot4_fast     dot4 is one instruction (it is correct everywhere); vnni, i8mm: for u8 times i8
#   f16           fma of f16 (what f32 can stand in for exactly exists everywhere)
#   avx512        vectors of 512 bits
CAPABILITIES = (
    "mma", "wmma_gfx11", "wmma_gfx12", "async_copy", "pair_dot", "dot4_fast", "vnni", "i8mm",
    "f16", "avx512",
)  # fmt: skip

_GPU_COMMON = frozenset({"mma", "dot4_fast", "f16"})

_AMD = {
    "gfx1100": {"wmma_gfx11"},
    "gfx1101": {"wmma_gfx11"},
    "gfx1102": {"wmma_gfx11"},
    "gfx1200": {"wmma_gfx12"},
    "gfx1201": {"wmma_gfx12"},
}

_NVIDIA = {
    "sm_80": {"async_copy"},
    "sm_86": {"async_copy"},
    "sm_87": {"async_copy"},
    "sm_89": {"async_copy"},
    "sm_90": {"async_copy"},
    "sm_100": {"async_copy"},
    "sm_103": {"async_copy"},
    "sm_110": {"async_copy"},
    "sm_120": {"async_copy"},
    "sm_121": {"async_copy"},
}

# x86 levels: LLVM processor, features beyond it, capabilities. Named by what they need.
_X86_AVX2 = "+avx2,+fma,+f16c,+bmi,+bmi2,+popcnt,+lzcnt,+movbe"
_X86_AVX512 = _X86_AVX2 + ",+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd"
_X86 = {
    "avx2": (_X86_AVX2, {"pair_dot"}),
    "avx512": (_X86_AVX512, {"pair_dot", "avx512"}),
    "avx512vnni": (_X86_AVX512 + ",+avx512vnni", {"pair_dot", "avx512", "dot4_fast", "vnni"}),
}

_ARM = {
    "neon": ("+neon,+fp-armv8", set[str]()),
    "dotprod": ("+neon,+fullfp16,+dotprod", {"f16", "dot4_fast"}),
    "i8mm": ("+neon,+fullfp16,+dotprod,+i8mm,+bf16", {"f16", "dot4_fast", "i8mm"}),
}


@dataclass(frozen=True)
class Target:
    """One instruction set to compile for.

    name      how it is asked for and cached: "x86-64-avx2", "aarch64-i8mm", "gfx1100", "sm_90"
    family    "x86", "aarch64", "amdgpu" or "nvptx"
    lanes     lanes that one value of a kernel spans: SIMD lanes of f32 on a CPU, 1 on a GPU
    wave      lanes that run in lockstep and can shuffle: SIMD lanes on a CPU, 32 on a GPU
    """

    name: str
    family: str
    triple: str
    processor: str
    features: str
    lanes: int
    wave: int
    capabilities: frozenset[str] = field(repr=False)

    def has(self, capability: str) -> bool:
        return capability in self.capabilities

    @property
    def is_gpu(self) -> bool:
        return self.family in ("amdgpu", "nvptx")

    @staticmethod
    def named(name: str) -> Target:
        """The target of that name, or of the host for "host"; UsageError lists the known ones."""
        if name == "host":
            return Target.host()
        if name in _AMD:
            return Target(
                name, "amdgpu", "amdgcn-amd-amdhsa", name, "", 1, 32, _GPU_COMMON | _AMD[name]
            )
        if name in _NVIDIA:
            # PTX versions: the newest feature set we use is 8.8; sm_110 exists only since 9.0.
            version = "+ptx90" if name == "sm_110" else "+ptx88"
            return Target(
                name, "nvptx", "nvptx64-nvidia-cuda", name, version, 1, 32,
                _GPU_COMMON | _NVIDIA[name],
            )  # fmt: skip
        cpu, _, level = name.rpartition("-")
        if cpu == "x86-64" and level in _X86:
            features, capabilities = _X86[level]
            return Target(
                name, "x86", _host_triple("x86_64"), "x86-64", features, 8, 8,
                frozenset(capabilities),
            )  # fmt: skip
        if cpu == "aarch64" and level in _ARM:
            features, capabilities = _ARM[level]
            return Target(
                name, "aarch64", _host_triple("aarch64"), "generic", features, 8, 8,
                frozenset(capabilities),
            )  # fmt: skip
        raise UsageError(
            f"there is no target {name!r}",
            cause=f"known targets: {', '.join(Target.names())}",
            next="exosuit kernels --target host",
        )

    @staticmethod
    def names() -> list[str]:
        """Every target there is code for."""
        cpus = [f"x86-64-{level}" for level in _X86] + [f"aarch64-{level}" for level in _ARM]
        return [*cpus, *_AMD, *_NVIDIA]

    @staticmethod
    def host(level: str = "") -> Target:
        """The machine this runs on; `level` asks for less than it can do ("avx2")."""
        return Target.named(_host_name(level))


def _host_triple(machine: str) -> str:
    import llvmlite.binding as llvm

    default: str = llvm.get_default_triple()
    host = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return default if host == machine else f"{machine}-unknown-linux-gnu"


def _llvm_features() -> frozenset[str]:
    import llvmlite.binding as llvm

    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


@cache
def _host_name(level: str) -> str:
    machine = platform.machine()
    is_arm = machine in ("arm64", "aarch64")
    features = host_arm.extensions() if is_arm else _llvm_features()

    def all_of(*names: str) -> bool:
        return features.issuperset(names)

    if is_arm:
        levels = ["neon"]
        if all_of("dotprod", "fullfp16"):
            levels.append("dotprod")
            if all_of("i8mm", "bf16"):
                levels.append("i8mm")
        prefix = "aarch64"
    elif machine in ("x86_64", "AMD64") and all_of("avx2", "fma", "f16c"):
        levels = ["avx2"]
        if all_of("avx512f", "avx512bw", "avx512dq", "avx512vl"):
            levels.append("avx512")
            if all_of("avx512vnni"):
                levels.append("avx512vnni")
        prefix = "x86-64"
    else:
        raise UsageError(
            f"this processor ({machine}) cannot run exosuit's kernels",
            cause="they need x86-64 with AVX2, FMA and F16C (2013 and later), or AArch64",
            next="exosuit list",
        )
    if level and level not in levels:
        raise UsageError(
            f"this processor has no {level!r}",
            cause=f"it can be: {', '.join(levels)}",
            next="unset EXOSUIT_CPU",
        )
    return f"{prefix}-{level or levels[-1]}"
