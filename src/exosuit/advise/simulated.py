"""Measuring a model on a software card: what crosses the link, and virtual time.

No speed is reported, because none is real: the card computes as fast as this host translates its
programs. What is exact is every count of the link, and what is modelled is time: of the link by its
four numbers (`softcard.timing`), of the engines by the chip's data sheet. The card is in this
process, so that its meter can be read; the driver reaches it through the same seam as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from exosuit.advise import footprint
from exosuit.advise.bench import Ours
from exosuit.engine.runner import DeviceRunner
from exosuit.models.gguf import GgufFile
from exosuit.softcard.timing import Meter


class MeteredCard(Protocol):
    """A software card whose virtual time can be asked for."""

    meter: Meter

    @property
    def elapsed_ns(self) -> float: ...


@dataclass(frozen=True)
class Crossing:
    """What happened up to now, or between two moments: counts, bytes, virtual seconds.

    dma_bytes  what the card itself read from and wrote to the host's memory
    """

    reads: int
    writes: int
    bytes: int
    dma_bytes: int
    virtual_s: float

    def since(self, earlier: Crossing) -> Crossing:
        return Crossing(
            self.reads - earlier.reads,
            self.writes - earlier.writes,
            self.bytes - earlier.bytes,
            self.dma_bytes - earlier.dma_bytes,
            self.virtual_s - earlier.virtual_s,
        )


def crossed(card: MeteredCard) -> Crossing:
    """Everything since the card was made."""
    meter = card.meter
    return Crossing(
        meter.reads + meter.config_accesses,
        meter.writes,
        meter.bytes_read + meter.bytes_written,
        meter.dma_bytes_read + meter.dma_bytes_written,
        card.elapsed_ns / 1e9,
    )


def measure(
    card: MeteredCard,
    name: str,
    boot: Crossing,
    open_model: Callable[[], tuple[GgufFile, DeviceRunner]],
    prompt: int,
    generate: int,
) -> dict[str, Any]:
    """One row of `bench --json` for a card that has been booted.

    boot        what its boot took
    open_model  loads the model onto it
    """
    before = crossed(card)
    file, runner = open_model()
    load = crossed(card).since(before)
    ours = Ours(runner, name, 0, 0.0)
    try:
        ours.prefill(prompt)  # recordings are made when they are first needed
        before = crossed(card)
        ours.prefill(prompt)
        prefill = crossed(card).since(before)
        tokens = _decoding(ours, card, generate)
        need = footprint.from_header(file.path.name, file.metadata, file.tensors)
    finally:
        ours.close()
        file.close()
    link, decode = card.meter.model, tokens[-1].since(tokens[0])
    each = [after.since(before) for before, after in pairwise(tokens)]
    return {
        "engine": "exosuit",
        "device": name,
        "threads": None,
        "known": "simulated",
        "prefill_tok_s": None,
        "decode_tok_s": None,
        "prefill_spread": None,
        "decode_spread": None,
        "weight_bytes_per_token": round(need.read_bytes),
        "decode_gb_s": None,
        "bandwidth_share": None,
        "prefill_gflop_s": None,
        "arithmetic_share": None,
        "load_s": None,
        "peak_rss_bytes": None,
        "link": {
            "reads_per_token": decode.reads / generate,
            "writes_per_token": decode.writes / generate,
            "bytes_per_token": decode.bytes / generate,
            "dma_bytes_per_token": decode.dma_bytes / generate,
            "most_writes_of_a_token": max(token.writes for token in each),
            "most_bytes_of_a_token": max(token.bytes for token in each),
        },
        "virtual": {
            "link": link.name,
            "boot_s": boot.virtual_s,
            "boot_round_trips": boot.reads,
            "boot_posted_writes": boot.writes,
            "load_s": load.virtual_s,
            "load_bytes": load.bytes + load.dma_bytes,
            "load_link_share": (load.bytes + load.dma_bytes) / load.virtual_s / link.bandwidth,
            "prefill_s": prefill.virtual_s,
            "decode_s_per_token": decode.virtual_s / generate,
        },
    }


def _decoding(ours: Ours, card: MeteredCard, generate: int) -> list[Crossing]:
    """The moments after one token and after each of `generate` that follow; no prompt in between.

    Done twice, because programs and recordings are made when they are first needed.
    """
    ours.decode(2)
    moments: list[Crossing] = []
    ours.decode(generate + 1, lambda: moments.append(crossed(card)))
    return moments
