"""Bank 0 as tinygrad fills it on real cards; what ptxas reads is in driver/nvidia/test_launch."""

from __future__ import annotations

import pytest

from exosuit.silicon.nvidia.bank import STACK_TOP, Bank0Hopper, bank0


@pytest.mark.parametrize(
    ("sm", "shared", "local", "stack", "first"),
    [(86, 6, 8, 10, 0x160), (89, 6, 8, 10, 0x160), (120, 188, 190, 223, 0x380)],
)
def test_the_words_that_tinygrad_sets(sm: int, shared: int, local: int, stack: int, first: int):
    """`cbuf_0[6:12]`, on Blackwell `[188:192]` and `[223]`: indices of dwords."""
    words = bank0(sm).make(shared_window=1 << 32, local_window=2 << 32, stack_pointer=STACK_TOP)
    cells = memoryview(bytes(words)).cast("I")
    assert [k for k, cell in enumerate(cells) if cell] == [shared + 1, local + 1, stack]
    assert (cells[shared + 1], cells[local + 1], cells[stack]) == (1, 2, 0xFFFDC0)
    assert len(words.memory) == bank0(sm).ARGUMENTS == first


def test_every_target_has_its_layout():
    assert bank0(90) is Bank0Hopper
    assert [bank0(sm).ARGUMENTS for sm in (80, 87, 90, 100, 103, 121)] == [
        0x160, 0x160, 0x210, 0x380, 0x380, 0x380,
    ]  # fmt: skip
