"""A software card stands whatever a driver writes: no crash, no hang, and it boots again after."""

import random

import pytest
from tests.softcard.bring_up import FREE, RING_BYTES, Hands

from exosuit.silicon import pci
from exosuit.silicon.amd.nbio import REGISTER_BYTES

EDGES = (0, 1, 2, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


@pytest.mark.parametrize("seed", range(8))
def test_random_writes(seed: int):
    draw = random.Random(seed)
    hands = Hands.take("gfx1201" if seed % 4 == 3 else "gfx1100", strict=False)
    hands.boot()
    names = [offset for offset in range(0, REGISTER_BYTES, 4) if is_declared(hands, offset)]
    for _ in range(1500):
        value = draw.choice(EDGES) if draw.random() < 0.3 else draw.getrandbits(32)
        match draw.randrange(8):
            case 0 | 1 | 2:
                hands.bus.write32(draw.choice(names), value)
            case 3:
                hands.bus.read32(draw.choice(names))
            case 4:
                slot = draw.choice([3, 3, 0x100, 0x100, draw.randrange(0x400)])
                hands.doorbells.write64(8 * slot, draw.choice([value % 0x8000, value]))
            case 5:
                at = draw.choice([FREE, FREE + RING_BYTES]) + 4 * draw.randrange(RING_BYTES // 4)
                hands.memory.write32(at, packet(draw, value))
            case 6:
                at = draw.choice([0x40000, 0x50000, 0x60000, 0x61000]) + 8 * draw.randrange(0x200)
                hands.memory.write64(at, value << 12 | 0x71)
            case _:
                hands.memory.write32(8 * draw.randrange(0x100000), value)
    assert len(hands.programs.runs) < 10_000
    hands.link.reset()
    hands.link.write_config(4, pci.Command(memory_space=True, bus_master=True), 2)
    again = Hands(hands.link)
    again.memory.write(0, bytes(FREE))
    again.boot()


def packet(draw: random.Random, value: int) -> int:
    """Something that may be a header, for either engine."""
    if draw.random() < 0.5:
        opcode = draw.choice([0x10, 0x15, 0x37, 0x3C, 0x3F, 0x40, 0x46, 0x49, 0x58, 0x76, 0x79])
        return 3 << 30 | draw.randrange(12) << 16 | opcode << 8
    return draw.choice([1, 2, 4, 5, 6, 8, 11, 0x20D, value])


def is_declared(hands: Hands, offset: int) -> bool:
    registers = hands.card.registers
    return offset in registers._declared
