"""The house keeps its order: floors, rooms of a readable size, nothing that happens on import."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/exosuit"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST = 500

BY_NAME = pytest.mark.parametrize(
    "path", [*FILES, *SOURCE.rglob("*.ll")], ids=lambda path: str(path.relative_to(SOURCE))
)


def test_a_floor_imports_only_from_floors_below_it():
    pytest.importorskip("importlinter", reason="import-linter is not installed (extra: lint)")
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    result = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 kept, 0 broken" in result.stdout


def test_everything_stands_on_a_floor():
    """A folder that the contract does not know could import whatever it likes."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    floors = {name.strip("() ") for layer in contract["layers"] for name in layer.split("|")}
    there = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or _is_package(path)}
    assert there - floors == {"__init__", "__main__"}


def _is_package(path: Path) -> bool:
    return (path / "__init__.py").exists()


@BY_NAME
def test_a_file_says_what_it_is_for(path: Path):
    text = path.read_text()
    if path.suffix == ".ll":
        assert text.startswith("; ")
        return
    said = ast.get_docstring(ast.parse(text))
    assert said, "no docstring"
    assert len(said.split()) >= 3, said


@BY_NAME
def test_a_file_is_one_room(path: Path):
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("folder", [p.parent for p in FILES if p.name == "__init__.py"], ids=str)
def test_every_folder_is_a_package(folder: Path):
    """What has no __init__ is not installed the same way everywhere."""
    inner = {path.parent for path in folder.rglob("*.py")}
    assert all(_is_package(path) for path in inner)


def test_import_is_light():
    """Only the standard library, and of that nothing slow."""
    new = _in_python("import exosuit")["modules"]
    ours = [name for name in new if name.split(".")[0] == "exosuit"]
    assert ours == ["exosuit"]
    foreign = {name.split(".")[0] for name in new} - set(sys.stdlib_module_names) - {"exosuit"}
    assert not foreign
    assert not {"asyncio", "ctypes", "http", "socket", "subprocess", "threading"} & set(new)


def test_nothing_happens_on_import():
    """Every module, one after the other: nothing is written, started or connected to."""
    names = [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if path.name != "__main__.py"
    ]
    # NumPy sets a variable for its own libraries while it is imported; that is not ours.
    result = _in_python("\n".join(f"import {name}" for name in names), first="import numpy")
    assert set(names) <= set(result["modules"])
    assert result["events"] == []
    assert result["threads"] == 1
    assert result["environment"] == []


_WATCHED = """
import json, os, sys
events = []
WATCHED = {
    "os.mkdir", "os.remove", "os.rename", "os.chmod", "os.link", "os.symlink", "os.truncate",
    "os.fork", "os.exec", "os.posix_spawn", "os.system", "os.putenv", "subprocess.Popen",
    "socket.connect", "socket.bind", "socket.getaddrinfo", "shutil.rmtree", "tempfile.mkstemp",
    "tempfile.mkdtemp", "mmap.__new__",
}
def watch(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event in WATCHED:
        events.append(f"{event} {arguments[:2]}")
sys.addaudithook(watch)
before, environment = set(sys.modules), dict(os.environ)
"""
_REPORT = """
modules = sorted(set(sys.modules) - before)
import threading
print(json.dumps({
    "modules": modules,
    "events": events,
    "threads": threading.active_count(),
    "environment": sorted(set(os.environ.items()) ^ set(environment.items())),
}))
"""


def _in_python(imports: str, first: str = "") -> dict[str, Any]:
    """What a fresh interpreter saw while it ran these imports, after `first`."""
    result = subprocess.run(
        [sys.executable, "-B", "-c", f"{first}\n{_WATCHED}{imports}{_REPORT}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
