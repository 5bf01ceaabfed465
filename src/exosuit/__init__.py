"""Local AI on external GPUs and on the host."""
