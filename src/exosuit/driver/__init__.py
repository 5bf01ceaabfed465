"""Drivers: turn a link, a kernel driver or the host into a `Device`."""
