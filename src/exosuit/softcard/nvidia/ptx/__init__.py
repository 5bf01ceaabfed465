"""PTX text, translated to LLVM and run on the host's cores, 32 lanes at a time.

PTX stands in for machine code, which NVIDIA does not document: what runs here is what ptxas is
given, not what it makes of it. Source: PTX ISA 9.0.
"""
