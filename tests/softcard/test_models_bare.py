"""Models on whole NVIDIA software cards, booted from nothing, answer as they do on the CPU.

What runs is PTX. Everything else is what a real card sees: configuration space, registers, signed
code, messages to firmware, page tables, rings behind BAR 1, QMDs and doorbells. Cards are strict.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.contract.serving import serving
from tests.peers.agreement import compare
from tests.peers.conftest import RandomModel, peer, random_model
from tests.softcard.nvidia_cards import CHIPS, EVERY_CARD, boot, boot_patiently, make
from tests.softcard.test_models_gfx import PAGES, PROMPT, answers, cache, generate

from exosuit.driver.cpu import CpuDevice
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.engine.batch import Run, Sampling
from exosuit.engine.runner import open_runner
from exosuit.kernel import Target
from exosuit.link.function import PciFunction
from exosuit.link.remote import RemoteLink
from exosuit.link.tinygpu import TinyGpuLink
from exosuit.program import Program
from exosuit.softcard.nvidia.card import NvidiaCard
from exosuit.softcard.nvidia.image import stand_in

__all__ = ["cache", "peer", "random_model"]

GREEDY = Sampling(temperature=0.0)
SPEC = "vram=1G,strict"
COMPILED_FOR = "sm_86"
"""Kernels for all of them are the same text, which takes long to compile and to translate."""
ALL_SOCKETS = [(chip, flavour) for chip in CHIPS for flavour in ("tcp", "unix")]
SOCKETS = ALL_SOCKETS if EVERY_CARD else [("ga102", "unix"), ("ad102", "tcp"), ("gb202", "unix")]
RANDOM = [("qwen3", "Q4_K"), ("qwen3moe", "Q8_0"), ("qwen3", "F16")]
ALL_RANDOM = [(chip, *model) for chip in CHIPS for model in RANDOM]
CHOSEN = ALL_RANDOM if EVERY_CARD else [("ad102", "qwen3", "F16")]


def with_kernels_of_one(device: NvidiaDevice, target: str) -> NvidiaDevice:
    device.target = COMPILED_FOR

    def assemble(program: Program) -> bytes:
        return stand_in(program.code, program.entry, target)

    device.assemble = assemble
    return device


@pytest.fixture(scope="module")
def cpu() -> Iterator[CpuDevice]:
    device = CpuDevice(Target.host().name, 2)
    yield device
    device.close()


@contextmanager
def booted(chip: str, cache: Path) -> Generator[tuple[NvidiaDevice, NvidiaCard]]:
    """A card in this process, with its device; not a word of complaint at the end."""
    card = make(f"{chip},{SPEC}", cache / "host")
    assert isinstance(card, NvidiaCard)
    device = with_kernels_of_one(boot(card), card.product.chip.sm)
    yield device, card
    device.close()
    assert card.notes == []
    assert card.bus.panics == []
    assert not card.left_alive


@contextmanager
def linked(card: NvidiaCard, flavour: str, folder: Path) -> Generator[PciFunction]:
    """The card behind a socket."""
    listen = "tcp:127.0.0.1:0" if flavour == "tcp" else f"unix:{folder / 'card'}"
    with serving(card, listen, 30) as server:
        if flavour == "tcp":
            port = server.address.port
            yield RemoteLink.open("127.0.0.1", port, locks=folder)
        else:
            yield TinyGpuLink.open(folder / "card", locks=folder)


def test_stories_on_one(cpu: CpuDevice, shared: Path, cache: Path) -> None:
    path = shared / "models/stories260k/stories260K-q8_0.gguf"
    expected = answers(path, cpu, cache, GREEDY)
    with booted("gb202", cache) as (device, _):
        found = answers(path, device, cache, GREEDY)
    assert compare(found[0], expected[0]).error < 0.05
    assert found[1] == expected[1]


@pytest.mark.slow
@pytest.mark.parametrize(("chip", "flavour"), SOCKETS)
def test_stories_over_sockets(
    chip: str, flavour: str, cpu: CpuDevice, shared: Path, cache: Path, tmp_path: Path
) -> None:
    path = shared / "models/stories260k/stories260K-q8_0.gguf"
    expected = answers(path, cpu, cache, GREEDY)
    card = make(f"{chip},{SPEC}", cache / "host")
    card.late = True
    with linked(card, flavour, tmp_path) as link:
        device = with_kernels_of_one(boot_patiently(card, link), card.product.chip.sm)
        found = answers(path, device, cache, GREEDY)
        device.close()
    assert found[1] == expected[1]
    assert card.notes == []


def test_what_a_decoded_token_costs_the_link(shared: Path, cache: Path) -> None:
    """No read of the card, four writes of together 20 bytes, one doorbell."""
    path = shared / "models/stories260k/stories260K-q8_0.gguf"
    with booted("ad102", cache) as (device, card):
        file, runner, _ = open_runner(path, device, cache / "programs", context=256)
        tokens = generate(runner, GREEDY, 2)[0]
        meter = card.meter
        before = (meter.reads, meter.writes, meter.bytes_written, meter.config_accesses)
        follows = Run(0, (tokens[-1],), len(PROMPT) + 2, PAGES, GREEDY)
        assert runner.run([follows])[0] is not None
        after = (meter.reads, meter.writes, meter.bytes_written, meter.config_accesses)
        spent = tuple(b - a for a, b in zip(before, after, strict=True))
        runner.close()
        file.close()
    assert spent[0] == spent[3] == 0
    assert spent[1] <= 4
    assert spent[2] <= 64


@pytest.mark.slow
@pytest.mark.parametrize(("chip", "name", "storage"), CHOSEN)
def test_random_models(
    chip: str, name: str, storage: str, random_model: RandomModel, cpu: CpuDevice, cache: Path
) -> None:
    path = random_model(name, storage)
    expected = answers(path, cpu, cache, GREEDY)
    with booted(chip, cache) as (device, _):
        found = answers(path, device, cache, GREEDY)
    agreement = compare(found[0], expected[0])
    print(f"{name} {storage}: {agreement}")
    # A mixture may choose another expert where two are alike, hence other logits from there on.
    assert agreement.error < (0.25 if name == "qwen3moe" else 0.06)


@pytest.mark.slow
@pytest.mark.skipif(not EVERY_CARD, reason="EXOSUIT_TEST_EVERY_CARD=1 runs it: minutes")
@pytest.mark.parametrize("chip", CHIPS)
def test_smollm2(chip: str, shared: Path, cpu: CpuDevice, cache: Path) -> None:
    path = shared / "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
    expected = answers(path, cpu, cache, GREEDY, count=3)
    with booted(chip, cache) as (device, _):
        found = answers(path, device, cache, GREEDY, count=3)
    assert compare(found[0], expected[0]).error < 0.06
    assert found[1] == expected[1]
