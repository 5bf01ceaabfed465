"""How fast: decode, prefill and loading from a stated model, with constants fitted to measurements.

Decode. A token reads its weights and its cache once, so it takes

    bytes read / (memory bandwidth x share) + layers x time per layer (more for a mixture)

Prefill multiplies: 2 x parameters operations per token at a share of the card's f16 rate. Loading
is the weights over the link, or over the disk where that is slower, after the card has booted.

`share` is a property of an engine, not of a card. It is fitted on the rows of `data/measured.toml`
(geometric mean; a test repeats the fit); `measured` shows the errors row by row. exosuit has no
measurements of its own on cards yet: it is planned as "llama.cpp", the class that it aims at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exosuit.advise.footprint import LayerNeed

BOOT_S = 4.2
"""From nothing to a card that computes, firmware at hand (users.md C1: 4.2 to 4.4 s on a 4090)."""
DISK_GB_S = 5.0
"""A current NVMe disk; assumed."""
CROSSING_S = 0.2e-3
"""One hand-over of activations between devices, there and back; assumed, like a USB round trip."""
TYPICAL_FILL = 1024
"""Tokens of context that a predicted decode speed stands for."""


@dataclass(frozen=True, slots=True)
class Engine:
    """How well a program uses a card.

    share                  of memory bandwidth, while weights are being read
    layer_us, mixture_us   fixed time per dense layer and per mixture of experts, microseconds
    prefill_share          of the card's f16 rate, dense; mixture_prefill_share for mixtures
    """

    name: str
    share: float
    layer_us: float
    mixture_us: float
    prefill_share: float
    mixture_prefill_share: float
    because: str


ENGINES = {
    "llama.cpp": Engine(
        "llama.cpp",
        share=0.772,
        layer_us=25.0,
        mixture_us=75.0,
        prefill_share=0.69,
        mixture_prefill_share=0.12,
        because="llama.cpp's share in nine published measurements on NVIDIA cards",
    ),
    "tinygrad": Engine(
        "tinygrad",
        share=0.0331,
        layer_us=0.0,
        mixture_us=0.0,
        prefill_share=0.003,
        mixture_prefill_share=0.003,
        because="tinygrad's share without kernel search in seven published measurements",
    ),
    "tinygrad BEAM": Engine(
        "tinygrad BEAM",
        share=0.175,
        layer_us=0.0,
        mixture_us=0.0,
        prefill_share=0.008,
        mixture_prefill_share=0.008,
        because="tinygrad's share after kernel search in four published measurements",
    ),
}
CLASS = ENGINES["llama.cpp"]
"""What exosuit is planned as until it has measurements of its own."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What one device offers: memory in 10^9 bytes per second, arithmetic in 10^12 per second.

    tops        f16 of a card, bytes of a host
    host_share  of its bandwidth that a host's program reaches; 0 for a card, whose share is the
                engine's
    """

    gb_s: float
    tops: float
    host_share: float = 0.0

    @property
    def is_host(self) -> bool:
        return self.host_share > 0


HOST_PREFILL_SHARE = 0.4
"""Of a host's byte arithmetic; exosuit's prefill reached 0.31 to 0.81 on a 2-core x86 server."""


def decode_s(
    layers: Iterable[LayerNeed], head_bytes: float, filled: int, rates: Rates, engine: Engine
) -> float:
    """Seconds that one token spends on one device."""
    held = list(layers)
    bytes_read = head_bytes + sum(layer.read_bytes + layer.kv_read(filled) for layer in held)
    share = rates.host_share or engine.share
    fixed = sum(engine.mixture_us if layer.is_mixture else engine.layer_us for layer in held)
    return bytes_read / (rates.gb_s * 1e9 * share) + fixed * 1e-6


def prefill_s(layers: Iterable[LayerNeed], rates: Rates, engine: Engine) -> float:
    """Seconds of one device per token of a long prompt."""
    seconds = 0.0
    for layer in layers:
        share = engine.mixture_prefill_share if layer.is_mixture else engine.prefill_share
        if rates.is_host:
            share = HOST_PREFILL_SHARE
        seconds += 2 * layer.active_parameters / (rates.tops * 1e12 * share)
    return seconds


def load_s(card_bytes: Sequence[tuple[int, float]], host_bytes: int) -> float:
    """Seconds from start to ready: (bytes, link GB/s) per card, one after another, and the host's.

    A disk slower than the link sets the pace. Booting counts once where there is a card.
    """
    seconds = BOOT_S if card_bytes else 0.0
    for size, gb_s in card_bytes:
        seconds += size / (min(gb_s, DISK_GB_S) * 1e9)
    return seconds + host_bytes / (DISK_GB_S * 1e9)
