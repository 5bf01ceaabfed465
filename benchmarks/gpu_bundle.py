"""Pack what a machine with a card lacks, where that machine reaches no package registry.

    python benchmarks/gpu_bundle.py --out .carry --python 3.12     # here
    . .carry/unpack.sh                                             # there, in the repository's root

The folder gets one compressed archive of packages (llvmlite without its debug symbols, gguf, ...),
the packs of cubins that `benchmarks/packs.py` has made, and the small models that tests load; and
`unpack.sh`, which puts them in place and sets PYTHONPATH. What is there already is not packed:
numpy, tokenizers, huggingface_hub, jinja2, rich, pytest and its plugins are expected.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("llvmlite>=0.50,<0.51", "gguf>=0.19", "platformdirs>=4", "prometheus_client>=0.20")
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (28, 27, 17)] + ["manylinux2014_x86_64"]
_UNPACK = """
# Read by the shell that is to run benchmarks/gpu.py, in the root of the repository.
here=${CARRY:-.carry}
site=${SITE:-/tmp/exosuit-site}
mkdir -p "$site" src/exosuit/kernel/packed
tar xJf "$here/site.tar.xz" -C "$site"
if ls "$here"/*.pack >/dev/null 2>&1; then cp "$here"/*.pack src/exosuit/kernel/packed/; fi
# Tests look for reference models beside the repository.
if [ -d "$here/shared" ] && [ ! -e ../shared ]; then cp -r "$here/shared" ../shared; fi
export PYTHONPATH="$site:$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
export EXOSUIT_HOME=${EXOSUIT_HOME:-/tmp/exosuit-home}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder; emptied first")
    parser.add_argument("--python", default="3.12", help="version of Python there")
    parser.add_argument("--package", action="append", default=[], help="one more; may repeat")
    parser.add_argument("--packs", type=Path, default=ROOT / "src/exosuit/kernel/packed")
    parser.add_argument("--pack", action="append", help="targets of packs (default: sm_90)")
    parser.add_argument("--models", type=Path, help="folder of reference models: shared/models")
    wanted = parser.parse_args()
    shutil.rmtree(wanted.out, ignore_errors=True)
    wanted.out.mkdir(parents=True)
    (wanted.out / "unpack.sh").write_text(_UNPACK.lstrip())
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        install([*PACKAGES, *wanted.package], wanted.python, site)
        strip(site)
        with tarfile.open(wanted.out / "site.tar.xz", "w:xz", preset=1) as archive:
            for part in sorted(site.iterdir()):
                archive.add(part, part.name)
    for target in wanted.pack or ["sm_90"]:
        pack = wanted.packs / f"{target}.pack"
        if pack.is_file():
            shutil.copy(pack, wanted.out)
        else:
            print(f"there is no {pack}: the card's driver will compile PTX", file=sys.stderr)
    if wanted.models:
        small = wanted.models / "stories260k"
        shutil.copytree(small, wanted.out / "shared/models" / small.name)
    total = sum(file.stat().st_size for file in wanted.out.rglob("*") if file.is_file())
    print(f"{wanted.out}: {total / (1 << 20):.1f} MiB")
    return 0


def install(packages: list[str], python: str, site: Path) -> None:
    """Their wheels, without what they need, unpacked for that Python on Linux."""
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    words += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for platform in PLATFORMS:
        words += ["--platform", platform]
    subprocess.run([*words, *packages], check=True)


def strip(site: Path) -> None:
    """Leave out debug symbols, bytecode and tests."""
    for name in ("__pycache__", "tests", "bin"):
        for folder in list(site.rglob(name)):
            shutil.rmtree(folder, ignore_errors=True)
    if shutil.which("strip"):
        for library in site.rglob("*.so"):
            subprocess.run(["strip", "--strip-unneeded", str(library)], check=False)


if __name__ == "__main__":
    raise SystemExit(main())
