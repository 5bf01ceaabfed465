"""Local AI on external GPUs and on the host.

    import exosuit
    model = exosuit.load("smollm2.gguf", device="cpu")

and for those who write kernels: `exosuit.kernel` (the language), `exosuit.open_device`, and the
`Device` interface of `exosuit.driver.device`. Nothing is probed, read or started on import.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exosuit.driver.boot import Progress
    from exosuit.driver.device import Device
    from exosuit.engine.open import LoadedModel
    from exosuit.settings import Settings


def open_device(
    name: str = "auto",
    settings: Settings | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Device:
    """The device of that name, as in `--device`; UsageError for one that cannot be opened here.

    threads   of the cpu device; its own default is one for each core
    progress  is told of each step of a card's boot
    """
    from exosuit.devices import open_by_name
    from exosuit.settings import Settings

    return open_by_name(name, settings or Settings.from_environment(), threads, progress)


def list_devices() -> list[dict[str, Any]]:
    """The rows of `exosuit list --json`."""
    from exosuit.cli.devices import cpu_row, rows_of_cards
    from exosuit.settings import Settings

    return [cpu_row(), *rows_of_cards(Settings.from_environment())]


def load(
    model: str | Path, device: str | Device = "auto", context: int | None = None
) -> LoadedModel:
    """Load a GGUF file, or a model of the store by name, onto a device."""
    from exosuit.engine.open import open_model
    from exosuit.models.store import Store
    from exosuit.settings import Settings

    settings = Settings.from_environment()
    path = Path(model)
    if not path.exists():
        path = Store(settings.model_store).find(str(model))
    opened = open_device(device, settings) if isinstance(device, str) else device
    return open_model(path, opened, settings.cache / "programs", context=context)


__all__ = ["list_devices", "load", "open_device"]
