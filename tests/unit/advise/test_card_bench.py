"""`exosuit bench` on a card: what it measures is what it says, on the fake libcuda."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.softcard.libcuda import Libcuda

from exosuit.advise import card_limits
from exosuit.advise.card_limits import (
    LANES,
    PART_BYTES,
    CardLimits,
    copy_card,
    measure_card,
    multiply_tiles,
    read_card,
)
from exosuit.advise.clocks import Nvml
from exosuit.cli.main import main
from exosuit.driver.cuda import CudaDevice, Library
from exosuit.graph import Graph
from exosuit.kernel import Target
from exosuit.models.gguf import GgufFile
from exosuit.ops.programs import Programs
from exosuit.settings import Settings


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libcuda]:
    fake = Libcuda(tmp_path_factory.mktemp("translated"), memory_bytes=256 << 20)
    yield fake
    fake.close()
    assert not fake.misuses


def test_every_byte_is_read_and_copied(libcuda: Libcuda) -> None:
    """The figures are bytes over seconds, so the bytes must be true."""
    with closing(CudaDevice(libcuda.library())) as device:
        programs = Programs(Target.named(device.target), None)
        data, out = device.allocate(2 * PART_BYTES, "data"), device.allocate(2 * PART_BYTES, "out")
        words = np.random.default_rng(2).integers(0, 1 << 20, 2 * PART_BYTES // 4, np.int32)
        device.copy_in(data.region(), words)
        for kernel in (read_card, copy_card):
            graph = Graph()
            program = programs.get(kernel, part_bytes=PART_BYTES)
            graph.launch(program, 2, data.region(), out.region())
            graph.prepare(device).run()
            found = device.copy_out(out.region(), np.int32)
            if kernel is read_card:
                sums = found[: 2 * LANES].reshape(2, LANES).sum(1, dtype=np.int64)
                expected = words.reshape(2, -1).sum(1, dtype=np.int64)
                assert sums.tolist() == expected.tolist()
            else:
                assert np.array_equal(found, words)


@pytest.mark.parametrize(("target", "operation"), [("sm_80", "mma.sync.aligned.m16n8k16")])
def test_operations_of_the_matrix_unit(target: str, operation: str) -> None:
    """The shape that is counted, as often as it is counted."""
    programs = Programs(Target.named(target), None)
    text = programs.get(multiply_tiles, turns=16).code.decode()
    assert text.count(operation) == card_limits._CHAINS
    assert card_limits._flops(programs, 1, 1) == 2 * 16 * 8 * 16 * card_limits._CHAINS * 8


def test_the_best_of_two() -> None:
    best = CardLimits(1, 5, 3, 0).or_better(CardLimits(2, 4, 1, 0))
    assert best == CardLimits(2, 5, 3, 0)
    assert best.arithmetic(floats=True) == 3
    assert CardLimits(1, 1, 3, 9).arithmetic(floats=False) == 9


def test_the_data_sheet_of_a_card_that_is_listed(
    libcuda: Libcuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card_limits, "_SMALLEST", PART_BYTES)
    monkeypatch.setattr(card_limits, "_LARGEST", PART_BYTES)
    with closing(CudaDevice(libcuda.library())) as device:
        programs = Programs(Target.named(device.target), None)
        assert measure_card(device, programs, "NVIDIA GeForce RTX 4090").datasheet_gflop_s == 165200
        for title in ("NVIDIA H100 80GB HBM3", "NVIDIA H200"):
            assert measure_card(device, programs, title).datasheet_gflop_s == 989500
        assert measure_card(device, programs, "Nobody's card").datasheet_gflop_s == 0


def test_bench(
    libcuda: Libcuda,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(card_limits, "_SMALLEST", PART_BYTES)
    monkeypatch.setattr(card_limits, "_LARGEST", PART_BYTES)
    monkeypatch.setattr(Library, "load", staticmethod(libcuda.library))
    path = shared / "models/stories260k/stories260K-q8_0.gguf"
    words = ["bench", str(path), "--device", "cuda:0", "--prompt", "8", "--generate", "2"]
    words += ["--filled", "4", "--repeat", "1"]
    settings = Settings(home=str(tmp_path))
    assert main([*words, "--json"], settings) == 0
    document = json.loads(capsys.readouterr().out)
    (row,) = document["results"]
    assert set(document["machine"]["limits_by_threads"]) == {"cuda:0"}
    assert row["card"]["title"] == "Fake sm_80 number 0"
    assert row["card"]["read_gb_s"] > 0 < row["card"]["copy_gb_s"]
    token = row["token"]
    assert token["launches"] == sum(op["launches"] for op in token["ops"])
    assert token["fences"] < token["launches"]
    assert token["gap_us"] > 0
    with GgufFile.open(path) as file:
        # Every weight once; rows and columns may be filled up when they are packed.
        weights = sum(op["weight_bytes"] for op in token["ops"])
        size = sum(t.size_bytes for t in file.tensors.values() if len(t.shape) > 1)
    assert 0.8 * size < weights < 1.6 * size
    assert main(words, settings) == 0
    told = capsys.readouterr().out
    assert "a token is" in told
    assert "matmul_gpu" in told


def test_clocks() -> None:
    """NVML's functions, as nvml.h has them: handles by bus id, numbers by reference."""

    class Fake:
        def nvmlDeviceGetHandleByPciBusId_v2(self, bus_id, card):
            card._obj.value = 77
            return 0 if bus_id == b"0000:21:00.0" else 6

        def nvmlSystemGetDriverVersion(self, text, size):
            text.value = b"580.1"
            return 0

        def __getattr__(self, name):
            known = {
                ("nvmlDeviceGetClockInfo", 1): 1980,
                ("nvmlDeviceGetClockInfo", 2): 2619,
                ("nvmlDeviceGetPowerUsage",): 412_500,
                ("nvmlDeviceGetEnforcedPowerLimit",): 700_000,
                ("nvmlDeviceGetTemperature", 0): 51,
            }

            def call(card, *rest):
                assert card.value == 77
                *which, out = rest
                if (name, *which) not in known:
                    return 3
                out._obj.value = known[name, *which]
                return 0

            return call

    nvml = Nvml(Fake())
    assert nvml.driver_version() == "580.1"
    assert nvml.clocks("0000:22:00.0") is None
    found = nvml.clocks("0000:21:00.0")
    assert found is not None
    assert (found.sm_mhz, found.memory_mhz, found.temperature_c) == (1980, 2619, 51)
    assert (found.power_w, found.power_limit_w, found.held_back) == (412.5, 700.0, 0)
