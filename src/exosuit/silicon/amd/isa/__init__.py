"""RDNA3 (gfx11) machine code: encodings, operand codes, and the numbers of the opcodes."""
