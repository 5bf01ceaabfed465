"""Classes of objects that a resource manager makes, by what they are for; and which one to take.

A card lists the classes that it offers, older ones beside newer. What is chosen is the newest that
is on the card's list and in ours, never by the name of a family: that is how a chip nobody has seen
still works where its classes are known.

Sources: NVIDIA/open-gpu-kernel-modules 580.142, `src/common/sdk/nvidia/inc/class/`,
`g_gpu_class_list.c`; NVIDIA/open-gpu-doc `classes/`.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum

from exosuit.errors import UnsupportedCard


class ObjectClass(IntEnum):
    """Classes that are the same on every chip here."""

    ROOT = 0x0000
    EVENT = 0x0005
    MEMORY_SYSTEM = 0x003E
    MEMORY_LOCAL = 0x0040
    ROOT_CLIENT = 0x0041
    VIRTUAL_MEMORY = 0x0070
    MEMORY_OS_DESCRIPTOR = 0x0071
    OS_EVENT = 0x0079
    DEVICE = 0x0080
    MEMORY_LIST_SYSTEM = 0x0081
    SUBDEVICE = 0x2080
    DEBUGGER = 0x83DE
    CONTEXT_SHARE = 0x9067
    VA_SPACE = 0x90F1
    CHANNEL_GROUP = 0xA06C
    PROFILER = 0xB2CC


class UsermodeClass(IntEnum):
    """The page with the doorbell."""

    VOLTA_A = 0xC361
    TURING_A = 0xC461
    AMPERE_A = 0xC561
    HOPPER_A = 0xC661
    BLACKWELL_A = 0xC761


class GpfifoClass(IntEnum):
    """Channels."""

    AMPERE_A = 0xC56F
    HOPPER_A = 0xC86F
    BLACKWELL_A = 0xC96F
    BLACKWELL_B = 0xCA6F


class ComputeClass(IntEnum):
    """What a compute channel's subchannel is bound to; each chip has one."""

    AMPERE_A = 0xC6C0
    AMPERE_B = 0xC7C0
    ADA_A = 0xC9C0
    HOPPER_A = 0xCBC0
    BLACKWELL_A = 0xCDC0
    BLACKWELL_B = 0xCEC0


class CopyClass(IntEnum):
    """What a copy channel's subchannel is bound to."""

    AMPERE_A = 0xC6B5
    AMPERE_B = 0xC7B5
    HOPPER_A = 0xC8B5
    BLACKWELL_A = 0xC9B5
    BLACKWELL_B = 0xCAB5


class Engine(IntEnum):
    """NV2080_ENGINE_TYPE_*; further copy engines follow the first."""

    GRAPHICS = 0x01
    COPY0 = 0x09
    COPY9 = 0x12
    NVDEC0 = 0x13


Role = type[UsermodeClass] | type[GpfifoClass] | type[ComputeClass] | type[CopyClass]

_ROLES = {
    UsermodeClass: "doorbells",
    GpfifoClass: "channels",
    ComputeClass: "compute",
    CopyClass: "copies",
}


def newest(role: Role, offered: Collection[int]) -> int:
    """The newest class of `role` that the card offers.

    Raises UnsupportedCard where it offers none that is known here.
    """
    known = [int(kind) for kind in role if kind in offered]
    if not known:
        seen = ", ".join(f"{kind:#06x}" for kind in sorted(offered)) or "none"
        raise UnsupportedCard(
            f"the card offers no class for {_ROLES[role]} that exosuit knows",
            cause=f"it is older than Ampere, or newer than this version; its classes: {seen}",
            next="exosuit doctor --report FILE",
            offered=tuple(sorted(offered)),
        )
    return max(known)
