"""Cards made of Python, behind the same seam as real ones.

A `SoftCard` is a chip below the link: configuration space, BARs, memory, DMA. `direct` puts the
seam over one in this process, `server` serves one over the wire protocol. It checks what hardware
demands and refuses loudly; time is virtual and faults come on a seeded schedule.
"""
