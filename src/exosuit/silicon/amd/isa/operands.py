"""What the operand codes of gfx11 mean: registers, inline constants, and what follows in the code.

Source codes have nine bits in vector instructions and eight in scalar ones; destinations of scalar
instructions have seven. Vector registers are the upper half of the nine-bit codes.
"""

from __future__ import annotations

import struct

SOURCE = "AMD RDNA3 instruction set architecture guide, section 15.2 and chapter 5"

SCALAR_REGISTERS = 106
VCC, VCC_HI = 106, 107
TRAP_REGISTERS = range(108, 124)
NULL = 124
M0 = 125
EXEC, EXEC_HI = 126, 127
INTEGERS = range(128, 209)
DPP8, DPP8_FETCH_INACTIVE = 233, 234
SHARED_BASE, SHARED_LIMIT, PRIVATE_BASE, PRIVATE_LIMIT = 235, 236, 237, 238
FLOATS = range(240, 249)
DPP16 = 250
VCCZ, EXECZ, SCC = 251, 252, 253
LITERAL = 255
VECTOR = 256

_FLOATS = (0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0)
_INVERSE_TWO_PI = {16: 0x3118, 32: 0x3E22F983, 64: 0x3FC45F306DC9C882}


def inline_integer(code: int) -> int:
    """The number that a code of `INTEGERS` stands for: 0 to 64, then -1 to -16."""
    return code - 128 if code <= 192 else 192 - code


def inline_float_bits(code: int, width: int) -> int:
    """The bits, in a float of `width` bits, of a code of `FLOATS`."""
    if code == 248:
        return _INVERSE_TWO_PI[width]
    letter = {16: "<e", 32: "<f", 64: "<d"}[width]
    return int.from_bytes(struct.pack(letter, _FLOATS[code - 240]), "little")
