"""What a channel is to its owner: USERD, the token of its doorbell, and the usermode page.

Sources: NVIDIA/open-gpu-doc `classes/host/clc56f.h`; NVIDIA/open-gpu-kernel-modules 580.142
`class/clc361.h` and `clc661.h` (usermode page), `kernel_fifo_*.c` (token).
"""

from __future__ import annotations

from typing import ClassVar

from exosuit.datasheet import Block, Struct, Word, at, bits, flag, u32


class Userd(Struct):
    """The control block of a channel, in memory that both look at."""

    SIZE: ClassVar[int] = 512
    put = u32(at=0x40)
    get = u32(at=0x44)
    reference = u32(at=0x48)
    put_hi = u32(at=0x4C)
    top_level_get = u32(at=0x58)
    top_level_get_hi = u32(at=0x5C)
    get_hi = u32(at=0x60)
    gp_get = u32("entries that the card has fetched, modulo the ring's; the card writes", at=0x88)
    gp_put = u32("the entry after the last one; the driver writes", at=0x8C)


class WorkSubmitToken(Word):
    """What the doorbell takes."""

    channel = bits(11, 0)
    runlist = bits(22, 16)
    runlist_doorbell = flag(30, "on GB20x")


class Usermode(Block):
    """The page that user mode may write to."""

    SIZE = 0x1_0000
    TIME_0 = at(0x80, Word, "of the card's timer, ns, lower half", access="ro")
    TIME_1 = at(0x84, Word, access="ro")
    NOTIFY_CHANNEL_PENDING = at(0x90, WorkSubmitToken, "the doorbell", access="wo")


USERMODE_OFFSET = 0xBB_0000
"""Of the page in BAR 0, where no kernel driver maps it."""
