"""What the shaders' caches may hold: not the bytes, but whether a driver has cared for them.

Memory is coherent here, on the real part it is not: vector and scalar caches keep what earlier
programs read, the L2 keeps what was there before the host or the copy engine wrote, and what
programs write reaches memory when the L2 is written back. A driver that forgets one of these gets
right numbers here and wrong ones there; so what it forgets is noted, and refused by a strict card.

Sources: Linux `gfx_v11_0.c` (gfx_v11_0_emit_mem_sync, ring emission of fences); Mesa `radv`'s
barriers for GFX 11.
"""

from __future__ import annotations

from exosuit.silicon.amd.pm4 import CacheControl, ReleaseControl
from exosuit.softcard.registers import Refuse


class Caches:
    """The caches of one card."""

    def __init__(self, refuse: Refuse) -> None:
        self._refuse = refuse
        self.power_on()

    def power_on(self) -> None:
        """Empty: nothing in them is stale, nothing is missing from memory."""
        self._stale_shader = self._stale_l2 = self._dirty = False

    def foreign_write(self) -> None:
        """The host or the copy engine has written memory past the L2."""
        self._stale_shader = self._stale_l2 = True

    def program_ended(self) -> None:
        """What a program wrote is in the L2; other programs' own caches know nothing of it."""
        self._stale_shader = self._dirty = True

    def acquire(self, control: CacheControl) -> None:
        """ACQUIRE_MEM: forget."""
        if control.glv_inv and control.glk_inv and control.gl1_inv:
            self._stale_shader = False
        if control.gl2_inv:
            self._stale_l2 = False

    def release(self, control: ReleaseControl) -> None:
        """RELEASE_MEM: write back, and forget what it says."""
        if control.gl2_wb:
            self._dirty = False
        if control.gl2_inv:
            self._stale_l2 = False

    def expect_fresh(self) -> None:
        """A program is about to read memory."""
        if self._stale_l2:
            self._stale_l2 = self._stale_shader = False  # said once
            self._refuse(
                "a dispatch with no ACQUIRE_MEM of the L2 since the host or SDMA wrote memory"
            )
        elif self._stale_shader:
            self._stale_shader = False
            self._refuse("a dispatch with no ACQUIRE_MEM of the shader caches since the last")

    def expect_clean(self) -> None:
        """The copy engine is about to read memory, and every compute queue is idle."""
        if self._dirty:
            self._dirty = False
            self._refuse("a copy with no RELEASE_MEM that writes the L2 back since a dispatch")
