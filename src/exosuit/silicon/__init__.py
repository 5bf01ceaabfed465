"""What the chips look like: registers, packets, entries, firmware records. No behaviour, no I/O."""
