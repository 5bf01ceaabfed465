"""MQD: the descriptor of a compute queue in memory, 2,048 bytes.

From dword 0x80 on it mirrors the queue's registers one for one, so `Mqd.registers` is the same
`Hqd` block that stands over the card's registers, over this memory instead. Versions 11 and 12 lay
out what is used here alike.

Sources: Linux `v11_structs.h`, `v12_structs.h`, `gfx_v11_0.c` (gfx_v11_0_compute_mqd_init).
"""

from __future__ import annotations

from typing import ClassVar

from exosuit.datasheet import Struct, u32
from exosuit.datasheet.structs import Buffer
from exosuit.silicon.amd.hqd import FIRST_REGISTER, MQD_FIRST_DWORD, REGISTERS, Hqd

HEADER = 0xC031_0800
BYTES = 2048


class Mqd(Struct):
    """The fields outside the mirrored registers that a driver sets."""

    SIZE: ClassVar[int] = BYTES
    header = u32()
    compute_static_thread_mgmt_se0 = u32("which compute units may work", at=4 * 23)
    compute_static_thread_mgmt_se1 = u32()
    compute_static_thread_mgmt_se2 = u32(at=4 * 26)
    compute_static_thread_mgmt_se3 = u32()
    compute_static_thread_mgmt_se4 = u32(at=4 * 44)
    compute_static_thread_mgmt_se5 = u32()
    compute_static_thread_mgmt_se6 = u32()
    compute_static_thread_mgmt_se7 = u32()

    @property
    def registers(self) -> Hqd:
        """The mirrored queue registers, live."""
        return Hqd(_Mirror(self.memory))

    def register_words(self) -> list[tuple[int, int]]:
        """Offset in the HQD block, in bytes, and value of every mirrored register, in order."""
        words = self.memory[4 * MQD_FIRST_DWORD :][: 4 * REGISTERS].cast("I")
        return [(Hqd.UNIT * (FIRST_REGISTER + index), value) for index, value in enumerate(words)]


class _Mirror:
    """The memory of a descriptor as a bus for its registers."""

    def __init__(self, memory: Buffer) -> None:
        self._words = memoryview(memory).cast("B")[:BYTES].cast("I")

    def read32(self, offset: int) -> int:
        return self._words[self._place(offset)]

    def write32(self, offset: int, value: int) -> None:
        self._words[self._place(offset)] = value

    def _place(self, offset: int) -> int:
        register = offset // Hqd.UNIT - FIRST_REGISTER
        assert 0 <= register < REGISTERS, hex(offset)
        return MQD_FIRST_DWORD + register
