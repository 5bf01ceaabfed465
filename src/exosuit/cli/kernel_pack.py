"""`exosuit kernels pack MODEL...`: programs of models as machine code, for where no ptxas is."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from exosuit.cli import render
from exosuit.errors import ExosuitError, UsageError
from exosuit.kernel import ProgramCache, Target
from exosuit.kernel.assembler import Assembler
from exosuit.kernel.packs import FOLDER, TARGETS, Pack, Wanted, make_pack
from exosuit.models.decoder import CacheKind
from exosuit.models.inventory import programs_of
from exosuit.ops.attention_tile import Attention
from exosuit.ops.gpu.typical import typical_launches
from exosuit.ops.products import MOST_SPLITS
from exosuit.units import human_bytes

PARALLEL_GROUPS = 264
"""Of the card that models are recorded for; only the splits of attention depend on it."""
CACHES: tuple[CacheKind, ...] = ("f16", "q8")


def write_packs(arguments: argparse.Namespace) -> None:
    """Write one pack for each target, and say what is in it."""
    assembler = Assembler()
    names = TARGETS if arguments.target == "host" else (arguments.target,)
    made: list[tuple[Pack, int, Path]] = []
    for name in names:
        target = Target.named(name)
        if target.family != "nvptx":
            raise UsageError(
                f"there are no packs for {name}",
                cause="only NVIDIA's machine code needs an assembler of its own",
                next="exosuit kernels pack --target sm_90",
            )
        content = packed(target, [Path(file) for file in arguments.models], assembler)
        file = Path(arguments.out or FOLDER) / f"{name}.pack"
        _write(file, content)
        made.append((Pack(content), len(content), file))
    if arguments.json:
        render.document({
            "packs": [
                {
                    "target": pack.target, "programs": len(pack), "bytes": size,
                    "ptxas": pack.ptxas, "file": str(file),
                }
                for pack, size, file in made
            ]
        })  # fmt: skip
        return
    render.table(
        ("target", "programs", "size", "file"),
        [(pack.target, str(len(pack)), human_bytes(size), str(file)) for pack, size, file in made],
    )


def packed(target: Target, models: Sequence[Path], assembler: Assembler) -> bytes:
    """The pack of typical launches and of these models, on cards of every size."""
    wanted = [Wanted.of(each.kernel, each.static) for each in typical_launches(target)]
    for model in models:
        for each in programs_of(model, target, (PARALLEL_GROUPS,), cache_kinds=CACHES):
            wanted += every_split(each)
    with tempfile.TemporaryDirectory() as folder:
        return make_pack(wanted, target, assembler, ProgramCache(Path(folder)))


def every_split(wanted: Wanted) -> list[Wanted]:
    """The program; of a split attention, that of every number of splits.

    How many there are depends on the card and on the context that somebody asks for.
    """
    static = dict(wanted.static)
    shape = static.get("shape")
    if not isinstance(shape, Attention) or shape.splits == 1:
        return [wanted]
    return [
        Wanted.of(wanted.kernel, static | {"shape": replace(shape, splits=splits)})
        for splits in (1 << k for k in range(MOST_SPLITS.bit_length()))
    ]


def _write(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        raise ExosuitError(
            f"{file} cannot be written: {error.strerror}",
            cause="the folder is missing, full or not yours",
            next="name another one with --out FOLDER",
        ) from error
