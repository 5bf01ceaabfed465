"""Copies in slots: whole and in order, and no slot is touched while the engine may."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exosuit.driver import staging
from exosuit.driver.staging import Staging
from exosuit.units import GpuAddress

SLOT = 64
STAGED_AT = 0x1000
CARD_AT = 0x10_0000


class Card:
    """A copy engine that does nothing until it is waited for, and host memory without a view."""

    view = None

    def __init__(self) -> None:
        self.host = bytearray(staging.SLOTS * SLOT)
        self.card = bytearray(4096)
        self.queued: list[tuple[int, int, int]] = []
        self.done = 0
        self.submitted = 0
        self.waits: list[int] = []

    def read(self, offset: int, size: int) -> bytes:
        assert offset % 4 == 0
        assert size % 4 == 0
        self.check_free(offset)
        return bytes(self.host[offset : offset + size])

    def write(self, offset: int, data) -> None:
        assert offset % 4 == 0
        assert len(data) % 4 == 0
        self.check_free(offset)
        self.host[offset : offset + len(data)] = bytes(data)

    def check_free(self, offset: int) -> None:
        for source, target, size in self.queued:
            for place in (source, target):
                if place < CARD_AT:
                    assert not place <= STAGED_AT + offset < place + size, "in use by the engine"

    def copy(self, source: int, target: int, size: int) -> int:
        assert size <= SLOT
        self.queued.append((source, target, size))
        self.submitted += 1
        return self.submitted

    def wait(self, value: int) -> None:
        self.waits.append(value)
        while self.done < value:
            source, target, size = self.queued.pop(0)
            self.done += 1
            data = bytes(self.run(source)[0][self.run(source)[1] :][:size])
            memory, at = self.run(target)
            memory[at : at + size] = data

    def run(self, address: int) -> tuple[bytearray, int]:
        if address >= CARD_AT:
            return self.card, address - CARD_AT
        return self.host, address - STAGED_AT


@pytest.fixture(autouse=True)
def _small_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "SLOT_BYTES", SLOT)


@settings(max_examples=50)
@given(st.integers(1, 700), st.integers(0, 2**32 - 1))
def test_what_goes_in_comes_out(size: int, seed: int):
    card = Card()
    slots = Staging(card, GpuAddress(STAGED_AT), card)
    data = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    slots.write(GpuAddress(CARD_AT + 12), data)
    found = np.empty(size, np.uint8)
    slots.read(GpuAddress(CARD_AT + 12), found)
    np.testing.assert_array_equal(found, data)


def test_a_load_waits_only_for_the_slot_that_it_fills():
    card = Card()
    slots = Staging(card, GpuAddress(STAGED_AT), card)
    slots.write(GpuAddress(CARD_AT), np.zeros(5 * SLOT, np.uint8))
    assert card.waits == [0, 0, 1, 2, 3]
    assert card.submitted - card.done == staging.SLOTS


def test_a_read_is_one_slot_ahead():
    card = Card()
    slots = Staging(card, GpuAddress(STAGED_AT), card)
    slots.read(GpuAddress(CARD_AT), np.empty(4 * SLOT, np.uint8))
    assert card.submitted == card.done == 4
    assert card.waits == [0, 0, 1, 1, 2, 2, 3, 4]
