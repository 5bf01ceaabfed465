"""What `exosuit doctor` finds, for the status: gathered in the background, never waited for."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from exosuit.advise.doctor import diagnose
from exosuit.advise.probes import gather
from exosuit.settings import Settings

log = logging.getLogger(__name__)

FRESH_S = 600.0


class Findings:
    """Calling it gives the checks that are not ok, as `doctor --json` has them; [] at first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rows: list[dict[str, Any]] = []
        self._due = 0.0
        self._guard = threading.Lock()

    def __call__(self) -> list[dict[str, Any]]:
        with self._guard:
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + FRESH_S
                threading.Thread(target=self._look, name="doctor", daemon=True).start()
            return self._rows

    def _look(self) -> None:
        try:
            found = diagnose(gather(self._settings.state)).as_json()["checks"]
        except Exception:
            log.exception("the doctor failed")
            return
        self._rows = [row for row in found if row["status"] in ("warning", "failed")]
