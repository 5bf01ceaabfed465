"""The server: one process that owns the device, and every front door to it."""
