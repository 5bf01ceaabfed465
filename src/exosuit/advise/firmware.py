"""The firmware folder that `exosuit setup` fills, as a source of files whose hashes are pinned."""

from __future__ import annotations

import hashlib
from pathlib import Path

from exosuit.advise.manifest import firmware
from exosuit.errors import CorruptFile, HelperMissing


class StoredFirmware:
    """Files below `folder`, laid out as linux-firmware lays them out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes:
        """One file. Raises HelperMissing if it is not there, CorruptFile if it is another one."""
        item = next((item for item in firmware() if item.path == path), None)
        if item is None:
            raise HelperMissing(
                f"the card needs the firmware file {path}, which exosuit does not know",
                cause="no release of it has been tried, so there is no hash to check it by",
                next="exosuit list   (which cards are known)",
                path=path,
            )
        try:
            data = (self._folder / path).read_bytes()
        except OSError as error:
            raise HelperMissing(
                f"the card needs the firmware file {path}, which is not here",
                cause=f"{self._folder / path}: {error.strerror}",
                next="exosuit setup --yes",
                path=path,
            ) from error
        found = hashlib.sha256(data).hexdigest()
        if found != item.sha256:
            raise CorruptFile(
                f"the firmware file {self._folder / path} is not the one that was tried",
                cause=f"its sha256 begins with {found[:12]}, not with {item.sha256[:12]}",
                next="exosuit setup --yes",
                path=path,
                sha256=found,
            )
        return data
