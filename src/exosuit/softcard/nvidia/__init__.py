"""Software stand-ins for NVIDIA cards."""
