"""Firmware as Debian packs it, for tests that want the vendors' own files; skips without it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


def mirror() -> str:
    """The archive that this machine installs from; skips elsewhere."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        pytest.skip("this system has no apt-get")
    sites = [line for line in told.stdout.splitlines() if line.rstrip("/").endswith("/debian")]
    if not sites:
        pytest.skip("this system does not install from Debian's archive")
    return sites[0]


def unpack(package: str, release: str, folder: Path) -> Path:
    """The folder of firmware files in a package of non-free-firmware; skips where there is none.

    A folder that EXOSUIT_TEST_FIRMWARE names is taken as it is.
    """
    given = os.environ.get("EXOSUIT_TEST_FIRMWARE")
    if given:
        return Path(given)
    sources = folder / "sources.list"
    sources.write_text(f"deb [trusted=yes] {mirror()} {release} non-free-firmware\n")
    options = [
        "-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=/dev/null",
        "-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache",
        "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=0",
        "-o", "Acquire::http::Timeout=10",
    ]  # fmt: skip
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "cache/archives/partial").mkdir(parents=True)
    for command in (["update"], ["download", package]):
        try:
            done = subprocess.run(
                ["apt-get", *options, *command], cwd=folder, capture_output=True, text=True,
                timeout=240, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"apt-get cannot fetch {package}: {error}")
        if done.returncode:
            pytest.skip(f"{package} cannot be had: {done.stderr.strip()[-200:]}")
    archive = next(folder.glob(f"{package}*.deb"))
    subprocess.run(["dpkg-deb", "-x", archive, folder / "root"], check=True, timeout=120)
    return next(path for path in (folder / "root").rglob("firmware") if path.is_dir())
