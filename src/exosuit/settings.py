"""The one table of settings: every environment variable that exosuit reads, declared once.

A `Settings` value is frozen and travels as an argument, so tests need no environment. Only
`Settings.from_environment` looks at the environment; `exosuit doctor --settings` prints the table.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import platformdirs


def _setting(variable: str, default: str, help: str) -> str:
    return field(default=default, metadata={"variable": variable, "help": help})


@dataclass(frozen=True)
class Settings:
    """What the environment says, as text; empty means "not set"."""

    home: str = _setting("EXOSUIT_HOME", "", "one folder for models, caches and state")
    device: str = _setting("EXOSUIT_DEVICE", "auto", "the device that commands use")
    threads: str = _setting("EXOSUIT_THREADS", "", "worker threads of the cpu device")
    api_key: str = _setting("EXOSUIT_API_KEY", "", "what clients of the server must show")
    ollama_models: str = _setting("OLLAMA_MODELS", "", "Ollama's models, for  exosuit import")
    cpu_features: str = _setting(
        "EXOSUIT_CPU", "", "pretend to be this x86 level: avx2, avx512, avx512vnni (for comparison)"
    )
    trace: str = _setting("EXOSUIT_TRACE", "", "write every access to a card to this file")
    hang: str = _setting(
        "EXOSUIT_HANG", "", "seconds after which a card that does not finish counts as hung"
    )
    debug: str = _setting("EXOSUIT_DEBUG", "", "1 shows Python tracebacks with errors")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        source = os.environ if environment is None else environment
        found = {f.name: source[v] for f in fields(cls) if (v := f.metadata["variable"]) in source}
        return cls(**found)

    @staticmethod
    def table() -> list[tuple[str, str, str]]:
        """Rows of variable, default and help, in order of declaration."""
        return [
            (f.metadata["variable"], str(f.default), f.metadata["help"]) for f in fields(Settings)
        ]

    @property
    def model_store(self) -> Path:
        return self._place("models", platformdirs.user_data_path("exosuit"))

    @property
    def firmware(self) -> Path:
        """Firmware of cards, in the folders of linux-firmware; filled by `exosuit setup`."""
        return self._place("firmware", platformdirs.user_data_path("exosuit"))

    @property
    def cache(self) -> Path:
        """What can be made again: compiled kernels."""
        base = Path(self.home) / "cache" if self.home else platformdirs.user_cache_path("exosuit")
        return base

    @property
    def state(self) -> Path:
        """Locks, sockets, traces, recorded situations."""
        return Path(self.home) / "state" if self.home else platformdirs.user_state_path("exosuit")

    def _place(self, name: str, base: Path) -> Path:
        return (Path(self.home) if self.home else base) / name
