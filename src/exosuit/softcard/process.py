"""A software card in a process of its own, behind a private socket: what `soft:CHIP` opens."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from exosuit.errors import ExosuitError
from exosuit.link.tinygpu import ServerProcess, TinyGpuLink
from exosuit.softcard.chips import make_card, parse_options, parse_spec

ANSWER_S = 60.0
"""Longest wait for an answer: a card that runs a program for this process answers after it."""


class SoftLink(TinyGpuLink):
    """A link that owns the process of its card: closing it ends the card."""

    _server: ServerProcess | None = None
    _folder: Path | None = None

    @classmethod
    def start(cls, spec: str, timeout_s: float = 20.0) -> SoftLink:
        """Start the card that `spec` (`generic,vram=2G,link=tb4`) describes and connect to it.

        Raises UsageError for a wrong spec before anything is started, HelperMissing if the process
        does not come up; nothing is left behind then.
        """
        chip, chosen = parse_spec(spec)
        make_card(chip, parse_options({**chosen, "vram": chosen.get("vram", "64M")}))
        folder = Path(tempfile.mkdtemp(prefix="exosuit-soft-"))
        path = folder / "card.sock"
        words = [sys.executable, "-m", "exosuit", "softcard", chip, "--listen", f"unix:{path}"]
        for key, value in chosen.items():
            words += [f"--{key}"] if key == "strict" else [f"--{key}", value]
        words.append("--until-input-ends")
        server: ServerProcess | None = None
        try:
            server = ServerProcess.start(words, path, timeout_s, pipe=True)
            link = cls.open(path, name=f"soft:{spec}", timeout_s=ANSWER_S)
        except ExosuitError:
            if server is not None:
                server.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        link._server, link._folder = server, folder
        return link

    def close(self) -> None:
        """End the session, then the card; idempotent."""
        super().close()
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
