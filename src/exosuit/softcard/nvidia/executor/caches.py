"""What the SMs' caches may hold: whether a driver has cared for them.

Memory is coherent here, on the real part it is not: instruction and constant caches keep what they
have read until they are told to forget, the first-level data caches keep what was there before
others wrote. A driver that forgets gets right numbers here and wrong ones there; so what it forgets
is noted, and refused by a strict card. The second level is where everybody meets: it needs no care.

Sources: the invalidate fields of NVIDIA/open-gpu-doc `classes/compute/*qmd.h`; when drivers set
them, tinygrad `ops_nv.py` and Mesa `nvk_cmd_dispatch.c`.
"""

from __future__ import annotations

from collections import OrderedDict

from exosuit.softcard.registers import Refuse

MOST_LINES = 1024
"""Programs, and constant banks, that are remembered; real caches hold less."""


class Caches:
    """The caches of one card."""

    def __init__(self, refuse: Refuse) -> None:
        self._refuse = refuse
        self._code: OrderedDict[int, bytes] = OrderedDict()
        self._constants: OrderedDict[int, bytes] = OrderedDict()
        self._stale_data = False

    def power_on(self) -> None:
        """Empty."""
        self._code.clear()
        self._constants.clear()
        self._stale_data = False

    def others_wrote(self) -> None:
        """The host, a copy or a grid has written memory: first-level caches know nothing of it."""
        self._stale_data = True

    def invalidate(self, *, code: bool, data: bool, constants: bool) -> None:
        """Forget."""
        if code:
            self._code.clear()
        if constants:
            self._constants.clear()
        if data:
            self._stale_data = False

    def fetch_code(self, address: int, content: bytes) -> None:
        """A program is about to run, which looks so in memory."""
        if _kept(self._code, address, content):
            self._refuse(
                f"a launch of the program at {address:#x}, which has changed, "
                "with no invalidate of the instruction caches"
            )

    def fetch_constants(self, address: int, content: bytes, invalidate: bool) -> None:
        """A program is about to read a constant bank, which looks so in memory.

        invalidate  the bank's own flag in the QMD
        """
        if _kept(self._constants, address, content) and not invalidate:
            self._refuse(
                f"a launch with the constant bank at {address:#x}, which has changed, "
                "with no invalidate of the constant caches"
            )

    def expect_fresh(self) -> None:
        """A program is about to read memory."""
        if self._stale_data:
            self._stale_data = False  # said once
            self._refuse("a launch with no invalidate of the data caches since memory was written")


def _kept(cache: OrderedDict[int, bytes], address: int, content: bytes) -> bool:
    """Whether the cache had something else there; it has this now."""
    before = cache.get(address)
    cache[address] = content
    cache.move_to_end(address)
    if len(cache) > MOST_LINES:
        cache.popitem(last=False)
    return before is not None and before != content
