"""Real gfx11 machine code, translated to LLVM and run on the host's cores, 32 lanes at a time."""
