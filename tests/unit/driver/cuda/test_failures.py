"""What goes wrong with a card behind libcuda, as people are told it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.contract.check_device import CELLS, cells_of, grow, program, scalars, set_cells
from tests.softcard.libcuda import Libcuda

from exosuit.clock import ManualClock
from exosuit.driver.cuda import CudaDevice
from exosuit.driver.device import Launch
from exosuit.errors import (
    BootFailed,
    CardBusy,
    CardError,
    CardHung,
    CompileFailed,
    DoesNotFit,
    ExosuitError,
    HelperMissing,
    LinkLost,
    NotOnTarget,
    PageFault,
    UnsupportedCard,
    UsageError,
)
from exosuit.kernel import InOut, Scalar, Target, compile_kernel, group, i32, kernel, loop, when
from exosuit.kernel.assembler import Assembler, find_ptxas


@kernel(group_size=32)
def far(cells: InOut[i32], distance: Scalar[i32]) -> None:
    """Write so many cells past the first."""
    cells[distance] = 1


@kernel(group_size=32)
def crooked(cells: InOut[i32], by: Scalar[i32]) -> None:
    """Write to an address that is not a multiple of four, where the argument is none."""
    cells[group()] = by


@kernel(group_size=32)
def endless(cells: InOut[i32]) -> None:
    for _ in loop(1 << 30):
        with when(cells[0].eq(0)):
            cells[1] = cells[1] + 1


def three_lines(error: ExosuitError) -> None:
    told = str(error).splitlines()
    assert [line[:6] for line in told] == ["error:", "cause:", "next: "]
    assert all(len(line) > 12 for line in told)


def launched(device: CudaDevice, which, *arguments) -> None:
    compiled = compile_kernel(which, Target.named(device.target))
    device.prepare([Launch(compiled, 1, arguments, False)]).run()


# Opening ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (100, UnsupportedCard, "CUDA_VISIBLE_DEVICES"),
        (802, BootFailed, "fabric manager"),
        (803, HelperMissing, "updated"),
        (804, HelperMissing, "compat"),
        (34, HelperMissing, "stub"),
        (999, CardError, "nvidia-uvm"),
        (46, CardBusy, "another process"),
        (801, UnsupportedCard, "not supported"),
        (304, CardError, "304"),
    ],
)
def test_libcuda_does_not_start(libcuda, status: int, kind: type, says: str) -> None:
    fake: Libcuda = libcuda()
    fake.fail("cuInit", status)
    with pytest.raises(kind) as caught:
        CudaDevice(fake.library())
    three_lines(caught.value)
    assert says in str(caught.value)
    assert caught.value.fields["status"] == status


def test_a_driver_from_before(libcuda) -> None:
    with pytest.raises(HelperMissing, match="too old") as caught:
        CudaDevice(libcuda(driver=11080).library())
    assert "CUDA 11.8" in caught.value.cause


def test_a_card_from_before(libcuda) -> None:
    with pytest.raises(UnsupportedCard, match=r"compute capability 7\.5") as caught:
        CudaDevice(libcuda(sm=(7, 5)).library())
    three_lines(caught.value)


def test_a_number_that_no_card_has(libcuda) -> None:
    with pytest.raises(UsageError, match="no cuda:2") as caught:
        CudaDevice(libcuda(cards=2).library(), 2)
    assert "2 cards" in caught.value.cause


def test_every_card_by_itself(libcuda) -> None:
    fake: Libcuda = libcuda(cards=2)
    devices = [CudaDevice(fake.library(), k) for k in range(2)]
    assert [device.name for device in devices] == ["cuda:0", "cuda:1"]
    buffers = [device.allocate(4 * CELLS, "cells") for device in devices]
    for k, (device, buffer) in enumerate(zip(devices, buffers, strict=True)):
        set_cells(device, buffer, np.full(CELLS, k))
    for k, (device, buffer) in enumerate(zip(devices, buffers, strict=True)):
        launched(device, grow, buffer.region())
        assert cells_of(device, buffer)[:2].tolist() == [5 * k + 3, k]
    for device in devices:
        device.close()


def test_a_card_whose_context_cannot_be_had(libcuda) -> None:
    fake: Libcuda = libcuda()
    fake.fail("cuStreamCreate", 2)
    with pytest.raises(DoesNotFit):
        CudaDevice(fake.library())
    CudaDevice(fake.library()).close()


# Memory -----------------------------------------------------------------------------------------


def test_full_memory_names_who_has_it(libcuda) -> None:
    fake: Libcuda = libcuda(memory_bytes=64 << 20)
    with closing(CudaDevice(fake.library())) as device:
        weights = device.allocate(40 << 20, "weights")
        with pytest.raises(DoesNotFit) as caught:
            device.allocate(40 << 20, "kv cache")
        three_lines(caught.value)
        assert "kv cache" in caught.value.what
        assert "weights 40" in caught.value.cause
        assert "exosuit plan" in caught.value.next
        device.free(weights)
        device.allocate(40 << 20, "kv cache")


def test_memory_that_nobody_holds_comes_back(libcuda) -> None:
    fake: Libcuda = libcuda(memory_bytes=64 << 20)
    with closing(CudaDevice(fake.library())) as device:
        for _ in range(4):
            device.allocate(40 << 20, "dropped")


def test_host_memory_that_cannot_be_pinned(libcuda) -> None:
    with closing(CudaDevice(libcuda().library())) as device:
        for size in (1 << 40, 1 << 70):
            with pytest.raises(DoesNotFit, match="host memory for results"):
                device.allocate(size, "results", host=True)


def test_large_copies_both_ways(libcuda) -> None:
    """Larger than both slots together, and not a multiple of anything."""
    with closing(CudaDevice(libcuda().library())) as device:
        data = np.random.default_rng(3).integers(0, 256, (41 << 20) + 13, np.uint8)
        buffer = device.allocate(data.size + 5, "large")
        small = device.allocate(1000, "small")
        device.copy_in(small.region(3, 500), data[:500])
        device.copy_in(buffer.region(5), data)
        device.copy_in(small.region(503, 400), data[500:900])
        assert np.array_equal(device.copy_out(buffer.region(5), np.uint8), data)
        assert np.array_equal(device.copy_out(small.region(3, 900), np.uint8), data[:900])


# Programs ---------------------------------------------------------------------------------------


def test_ptx_that_the_compiler_refuses(libcuda) -> None:
    with closing(CudaDevice(libcuda().library())) as device:
        cells = device.allocate(4, "cells")
        good = program(device, grow)
        bad = replace(good, code=good.code[:-20])
        with pytest.raises(CompileFailed, match="grow") as caught:
            device.prepare([Launch(bad, 1, (cells.region(),), False)])
        three_lines(caught.value)
        assert "ptxas application ptx input" in caught.value.cause
        device.prepare([Launch(good, 1, (cells.region(),), False)]).run()


def test_ptx_that_is_newer_than_the_driver(libcuda) -> None:
    with closing(CudaDevice(libcuda(driver=12080).library())) as device:
        cells = device.allocate(4, "cells")
        with pytest.raises(HelperMissing, match="too old for exosuit's kernels") as caught:
            launched(device, grow, cells.region())
        assert "575" in caught.value.next


def test_no_compiler(libcuda) -> None:
    with closing(CudaDevice(libcuda(only_cubins=True).library())) as device:
        cells = device.allocate(4, "cells")
        with pytest.raises(HelperMissing, match="cannot compile"):
            launched(device, grow, cells.region())


def test_a_cubin_for_another_card(libcuda, tmp_path: Path) -> None:
    if find_ptxas() is None:
        pytest.skip("no ptxas to make a cubin with")
    other = Assembler().cubin(compile_kernel(grow, Target.named("sm_90")))
    with closing(CudaDevice(libcuda().library())) as device:
        cells = device.allocate(4, "cells")
        wrong = replace(program(device, grow), code=other)
        with pytest.raises(NotOnTarget, match="grow") as caught:
            device.prepare([Launch(wrong, 1, (cells.region(),), False)])
        three_lines(caught.value)
        damaged = replace(wrong, code=other[:16] + b"\xff" * 4 + other[20:])
        with pytest.raises(CompileFailed, match="a cubin for sm_80"):
            device.prepare([Launch(damaged, 1, (cells.region(),), False)])


# At work ----------------------------------------------------------------------------------------


def test_a_kernel_that_strays(libcuda) -> None:
    """The context is dead: all that follows says the same, and closing waits for nothing."""
    device = CudaDevice(libcuda().library(), is_present=lambda bus_id: True)
    cells = device.allocate(4 * CELLS, "cells")
    with pytest.raises(PageFault) as caught:
        launched(device, far, cells.region(), 1 << 24)
    three_lines(caught.value)
    for attempt in (
        lambda: device.copy_out(cells.region(), np.int32),
        lambda: device.copy_in(cells.region(), np.zeros(1)),
        lambda: device.allocate(4, "more"),
        lambda: launched(device, scalars, cells.region(), 1, 2, 3.0),
    ):
        with pytest.raises(PageFault) as again:
            attempt()
        assert again.value is caught.value
    device.free(cells)
    device.close()


def test_a_card_that_is_gone(libcuda) -> None:
    fake: Libcuda = libcuda()
    device = CudaDevice(fake.library(), is_present=fake.is_present)
    cells = device.allocate(4 * CELLS, "cells")
    replay = device.prepare([Launch(program(device, grow), 1, (cells.region(),), False)])
    replay.run()
    fake.gone, fake.sticky = True, 999
    with pytest.raises(LinkLost, match="cuda:0 is gone") as caught:
        replay.run()
    three_lines(caught.value)
    replay.close()
    device.close()


def test_a_bus_that_cannot_be_seen_is_no_sign_of_loss(libcuda) -> None:
    fake: Libcuda = libcuda()
    device = CudaDevice(fake.library(), is_present=lambda bus_id: False)
    cells = device.allocate(4 * CELLS, "cells")
    fake.sticky = 719
    with pytest.raises(CardError, match="CUDA_ERROR_LAUNCH_FAILED"):
        launched(device, grow, cells.region())
    device.close()


def test_a_kernel_that_does_not_end(libcuda) -> None:
    fake: Libcuda = libcuda(budget=1 << 12)
    clock = ManualClock()
    device = CudaDevice(fake.library(), clock=_Ticking(clock), hang_s=10.0)
    cells = device.allocate(4 * CELLS, "cells")
    with pytest.raises(CardHung, match="not finished a graph after 10 s") as caught:
        launched(device, endless, cells.region())
    three_lines(caught.value)
    assert 10 < clock.now() < 11
    device.close()


class _Ticking:
    """Time passes with every look at the clock, as it does while a host spins."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    def now(self) -> float:
        self._clock.sleep(1e-4)
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        self._clock.sleep(seconds)


def test_uses_from_several_threads(libcuda) -> None:
    """The server hands a device from thread to thread; a context belongs to each of them."""
    import threading

    with closing(CudaDevice(libcuda().library())) as device:
        cells = device.allocate(4 * CELLS, "cells")
        replay = device.prepare([Launch(program(device, grow), CELLS, (cells.region(),), False)])
        threads = [threading.Thread(target=replay.run) for _ in range(3)]
        for thread in threads:
            thread.start()
            thread.join()
        expected = 0
        for _ in range(3):
            expected = expected * 5 + 3
        assert cells_of(device, cells).tolist() == [expected] * CELLS


def test_misaligned(libcuda) -> None:
    device = CudaDevice(libcuda().library())
    cells = device.allocate(4 * CELLS, "cells")
    with pytest.raises(PageFault, match="not aligned"):
        launched(device, crooked, cells.region(2), 7)
    device.close()
