"""What libcuda's error numbers mean for people: kinds of errors, causes, and what to do.

Some errors are sticky: after one of them the context is dead, every later call fails with it, and
only another process can use the card again. Source: the comments at CUresult in cuda.h (13.0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exosuit.errors import (
    BootFailed,
    CardBusy,
    CardError,
    CardHung,
    CompileFailed,
    DoesNotFit,
    ExosuitError,
    HelperMissing,
    LinkLost,
    NotOnTarget,
    PageFault,
    UnsupportedCard,
)

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY = 0, 1, 2
NO_DEVICE, INVALID_DEVICE = 100, 101
INVALID_IMAGE, NO_BINARY = 200, 209
INVALID_PTX, NO_JIT, NEWER_PTX = 218, 221, 222
NOT_READY, ILLEGAL_ADDRESS = 600, 700
UNKNOWN = 999

STICKY = frozenset({46, 214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 999})
"""After these the context is dead."""

_AGAIN = "start the command again; if it comes back:  exosuit doctor --report FILE"
_LATER = "exosuit list, then again; --device cpu works meanwhile"


@dataclass(frozen=True)
class _Meaning:
    kind: type[ExosuitError]
    what: str
    cause: str
    next: str


_MEANINGS = {
    OUT_OF_MEMORY: _Meaning(
        DoesNotFit,
        "the card's memory is full",
        "the model, its cache and other programs take all of it",
        "use a smaller --context or a smaller model:  exosuit plan MODEL",
    ),
    34: _Meaning(
        HelperMissing,
        "the libcuda that was found is a stub",
        "the CUDA toolkit's stub for linking comes before the driver's library",
        "take the toolkit's stubs out of LD_LIBRARY_PATH",
    ),
    36: _Meaning(
        HelperMissing,
        "NVIDIA's driver is too old",
        "it lacks a call that exosuit makes",
        "install a driver of branch 575 or later",
    ),
    46: _Meaning(
        CardBusy,
        "the card is not available",
        "another process has it for itself, or it failed",
        "nvidia-smi shows who has it",
    ),
    NO_DEVICE: _Meaning(
        UnsupportedCard,
        "libcuda sees no card",
        "there is none, CUDA_VISIBLE_DEVICES hides it, or the kernel's nvidia driver let it go",
        "nvidia-smi -L, and exosuit list",
    ),
    NO_BINARY: _Meaning(
        NotOnTarget,
        "the program is not for this card",
        "its machine code was made for another sm",
        "pip install --force-reinstall exosuit",
    ),
    214: _Meaning(
        CardError,
        "the card's memory has an error that could not be corrected",
        "a bit flipped in two places, which ECC can only report",
        "nvidia-smi -q -d ECC; start again on another card or --device cpu",
    ),
    INVALID_PTX: _Meaning(
        CompileFailed,
        "the driver's compiler refuses a kernel",
        "the PTX is wrong, or this driver's compiler is",
        "report it, with  exosuit kernels --target SM --asm",
    ),
    NO_JIT: _Meaning(
        HelperMissing,
        "the driver cannot compile kernels",
        "libnvidia-ptxjitcompiler is missing from the installation",
        "reinstall NVIDIA's driver",
    ),
    NEWER_PTX: _Meaning(
        HelperMissing,
        "NVIDIA's driver is too old for exosuit's kernels",
        "they are PTX of version 8.8, which came with branch 575 (CUDA 12.9)",
        "install a driver of branch 575 or later",
    ),
    ILLEGAL_ADDRESS: _Meaning(
        PageFault,
        "a kernel touched memory that is not its own",
        "a mistake in a kernel; the card has given up this process",
        _AGAIN,
    ),
    701: _Meaning(
        CompileFailed,
        "a kernel needs more of the card than it has",
        "registers, shared memory or lanes of one workgroup",
        "report it: this is a mistake in exosuit",
    ),
    702: _Meaning(
        CardHung,
        "a kernel took too long and was ended",
        "the system's watchdog guards cards that drive a display",
        "use a card without a display, or a smaller --context",
    ),
    716: _Meaning(
        PageFault,
        "a kernel read from an address that is not aligned",
        "a mistake in a kernel; the card has given up this process",
        _AGAIN,
    ),
    801: _Meaning(
        UnsupportedCard,
        "the card or its driver lacks something that is needed",
        "libcuda says: not supported",
        "exosuit doctor",
    ),
    802: _Meaning(
        BootFailed,
        "the system of cards is not ready",
        "cards joined by NVSwitch wait for the fabric manager, which has not finished",
        "systemctl status nvidia-fabricmanager",
    ),
    803: _Meaning(
        HelperMissing,
        "libcuda and the kernel's nvidia driver are of different versions",
        "the driver was updated while the old one is loaded",
        "restart the machine",
    ),
    804: _Meaning(
        HelperMissing,
        "NVIDIA's driver is too old for the libcuda that was found",
        "a compatibility package of CUDA is installed, which this card is not allowed to use",
        "update the driver, or take the compat folder out of LD_LIBRARY_PATH",
    ),
    UNKNOWN: _Meaning(
        CardError,
        "NVIDIA's driver failed and does not know why",
        "the card may have failed (the kernel's log then has a line with Xid), or nvidia-uvm is not"
        " loaded",
        "dmesg | grep -i xid; then exosuit doctor",
    ),
}


def explain(status: int, name: str, function: str, text: Callable[[str, int], str]) -> ExosuitError:
    """The error that a CUresult is.

    name      of the number, as libcuda gives it
    function  what was called
    text      asks libcuda for its sentence: `text("cuGetErrorString", status)`
    """
    found = _MEANINGS.get(status)
    if found is None:
        dead = "; the card has given up this process" if status in STICKY else ""
        found = _Meaning(
            CardError,
            f"{function} failed with {name}",
            text("cuGetErrorString", status) + dead,
            _AGAIN,
        )
        return found.kind(found.what, cause=found.cause, next=found.next, status=status)
    return found.kind(
        found.what,
        cause=f"{found.cause} ({function}: {name})",
        next=found.next,
        status=status,
        function=function,
    )


def lost(name: str, status: int) -> LinkLost:
    """The card does not answer on its bus any more."""
    return LinkLost(
        f"{name} is gone from its bus",
        cause="the cable or the enclosure's power, or the card failed (the kernel's log says Xid)",
        next=_LATER,
        status=status,
    )


def hung(name: str, what: str, seconds: float) -> CardHung:
    """It does not come to an end."""
    return CardHung(
        f"{name} has not finished {what} after {seconds:.0f} s",
        cause="a kernel loops, or other programs keep the card busy",
        next=f"nvidia-smi; EXOSUIT_HANG={2 * seconds:.0f} waits longer",
        seconds=seconds,
    )
