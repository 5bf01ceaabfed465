"""Where a model's programs come from: the installed pack, the cache on disk, the compiler.

A device that runs NVIDIA's machine code takes it from the pack of its target, if this installation
has one that is current; what the pack lacks is compiled, as PTX, like everything elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from exosuit.driver.device import Device, takes_cubins
from exosuit.kernel import ProgramCache, Target
from exosuit.kernel.packs import PackedPrograms, installed_pack
from exosuit.ops.programs import Programs


def programs_for(device: Device, cache: Path | None) -> Programs:
    """The programs of models on this device; without a cache all of them are compiled."""
    target = Target.named(device.target)
    if cache is None:
        return Programs(target, None)
    pack = installed_pack(target.name) if takes_cubins(device) else None
    return Programs(target, ProgramCache(cache) if pack is None else PackedPrograms(cache, pack))
