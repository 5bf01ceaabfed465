"""Which optional instructions the Arm cores of this host have, as its system tells.

LLVM cannot be asked: on macOS it finds nothing, on Linux no dot product (seen in LLVM 22).
Sources: Linux, arch/arm64/include/uapi/asm/hwcap.h; Apple, "Determining Instruction Set
Characteristics".
"""

from __future__ import annotations

import ctypes
import platform

_AT_HWCAP, _AT_HWCAP2 = 16, 26

# LLVM's name of the feature: word and bit of Linux's auxiliary vector, key of macOS.
EXTENSIONS = {
    "fullfp16": (_AT_HWCAP, 10, "hw.optional.arm.FEAT_FP16"),
    "dotprod": (_AT_HWCAP, 20, "hw.optional.arm.FEAT_DotProd"),
    "i8mm": (_AT_HWCAP2, 13, "hw.optional.arm.FEAT_I8MM"),
    "bf16": (_AT_HWCAP2, 14, "hw.optional.arm.FEAT_BF16"),
}


def extensions() -> frozenset[str]:
    """Those of `EXTENSIONS` that every core of this AArch64 host has."""
    has = _sysctl if platform.system() == "Darwin" else _auxiliary
    return frozenset(name for name, where in EXTENSIONS.items() if has(*where))


def _auxiliary(word: int, bit: int, key: str) -> bool:
    del key
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return bool(getauxval(word) >> bit & 1)


def _sysctl(word: int, bit: int, key: str) -> bool:
    del word, bit
    value = ctypes.c_int(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    sysctlbyname = ctypes.CDLL(None).sysctlbyname
    # A key that this version of macOS does not know is an extension that it does not report.
    status = sysctlbyname(key.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return status == 0 and value.value == 1
