"""A wheel that was built with packs computes a model where there is neither ptxas nor a JIT.

The fake libcuda refuses PTX, reads each cubin as a card would (ELF, sm) and runs the PTX that
exactly these bytes were assembled from; a cubin that nobody made here is a misuse. So what runs is
what the pack has, though not as machine code.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from exosuit.driver.cpu import CpuDevice
from exosuit.engine.batch import Run, Sampling
from exosuit.engine.runner import open_runner
from exosuit.kernel import Target
from exosuit.kernel.assembler import Assembler, find_ptxas
from exosuit.kernel.packs import make_pack
from exosuit.models.inventory import programs_of

ROOT = Path(__file__).parents[2]
TARGET = Target.named("sm_90")
PROMPT, COUNT, CONTEXT = tuple(range(1, 6)), 4, 256
_SCRIPT = """
import json, pickle, sys
from pathlib import Path
wheel, root, cubins, model, cache = sys.argv[1:]
sys.path[:0] = [wheel, root]
import exosuit
assert Path(exosuit.__file__).is_relative_to(wheel), exosuit.__file__
from exosuit.kernel.assembler import find_ptxas
assert find_ptxas() is None
from tests.softcard.libcuda import Libcuda
from tests.softcard.test_packed_wheel import tokens_on
from exosuit.driver.cuda import CudaDevice
made = pickle.loads(Path(cubins).read_bytes())
fake = Libcuda(Path(cache) / "host", sm=(9, 0), cubins=made, only_cubins=True)
tokens = tokens_on(CudaDevice(fake.library()), Path(model), Path(cache))
assert not fake.misuses, fake.misuses
fake.close()
print(json.dumps([tokens, fake.calls.count("cuModuleLoadDataEx")]))
"""


def tokens_on(device, model: Path, cache: Path) -> list[int]:
    file, runner, _ = open_runner(model, device, cache / "programs", context=CONTEXT)
    greedy = Sampling(temperature=0.0)
    pages = tuple(range(CONTEXT // 64))
    found, length = PROMPT, 0
    tokens: list[int] = []
    for _ in range(COUNT):
        sampled = runner.run([Run(0, found, length, pages, greedy)])[0]
        assert sampled is not None
        tokens.append(sampled.token)
        found, length = (sampled.token,), length + len(found)
    runner.close()
    file.close()
    device.close()
    return tokens


@pytest.mark.slow
def test_a_model_from_the_wheel(shared: Path, tmp_path: Path) -> None:
    if find_ptxas() is None:
        pytest.skip("no ptxas to make a pack with")
    model = shared / "models/stories260k/stories260K-q8_0.gguf"
    wanted = programs_of(model, TARGET, (4,), context=CONTEXT, steps=(1, 8))
    cubins: dict[str, bytes] = {}

    class Noting(Assembler):
        def cubin(self, program):
            made = super().cubin(program)
            cubins[hashlib.sha256(made).hexdigest()] = program.code
            return made

    content = make_pack(wanted, TARGET, Noting())
    wheel = _wheel_with(content, tmp_path)
    (tmp_path / "cubins").write_bytes(pickle.dumps(cubins))
    arguments = (wheel, ROOT, tmp_path / "cubins", model, tmp_path / "cache")
    environment = os.environ | {"PATH": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tokens, modules = json.loads(done.stdout)
    assert modules > 10
    cpu = CpuDevice(Target.host().name, 2)
    assert tokens == tokens_on(cpu, model, tmp_path)


def _wheel_with(pack: bytes, folder: Path) -> Path:
    """The files of a wheel that is built from a copy of the source with this pack in it."""
    source = folder / "source"
    shutil.copytree(
        ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.pack")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source)
    packed = source / "src/exosuit/kernel/packed"
    packed.mkdir(exist_ok=True)
    (packed / f"{TARGET.name}.pack").write_bytes(pack)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=120)
    (made,) = folder.glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        archive.extractall(folder / "wheel")
    assert (folder / "wheel/exosuit/kernel/packed" / f"{TARGET.name}.pack").read_bytes() == pack
    return folder / "wheel"


def test_an_installed_pack_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a device that takes cubins, and by no other."""
    from exosuit.engine import programs
    from exosuit.kernel.packs import Pack, PackedPrograms

    class Device:
        target = "sm_90"

    pack = Pack(make_pack([], TARGET, _NoAssembler()))
    monkeypatch.setattr(programs, "installed_pack", lambda target: pack)
    device = Device()
    assert not isinstance(programs.programs_for(device, tmp_path)._cache, PackedPrograms)
    device.takes_cubins = True
    found = programs.programs_for(device, tmp_path)._cache
    assert isinstance(found, PackedPrograms)
    assert found.pack is pack
    monkeypatch.setattr(programs, "installed_pack", lambda target: None)
    assert not isinstance(programs.programs_for(device, tmp_path)._cache, PackedPrograms)


class _NoAssembler:
    version = "none"

    def cubin(self, program):
        raise AssertionError(program)
