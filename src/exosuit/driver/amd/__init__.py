"""AMD cards as devices: boot, memory, queues, programs, faults."""
