"""What every translator of a card's programs is made of: LLVM IR written down, and host code."""
