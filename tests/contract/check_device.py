"""The contract of `Device`: whatever computes passes it.

`check_device(make)` opens devices with `make` and runs each check on a fresh one.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from exosuit.driver.device import Buffer, Device, Launch
from exosuit.errors import DoesNotFit, KernelError, ShapeMismatch
from exosuit.graph import Graph
from exosuit.kernel import (
    In,
    InOut,
    Kernel,
    Out,
    Scalar,
    Target,
    atomic_add,
    compile_kernel,
    constant,
    f32,
    group,
    i32,
    i64,
    kernel,
    loop,
    u8,
    variable,
    when,
)
from exosuit.program import Program

Make = Callable[[], Device]

CELLS = 64
REPLAYS = 1000
# Turns of some microseconds that a workgroup waits: a minute for one that comes, or hardly.
PATIENT, HASTY = 1 << 23, 1 << 8


def check_device(make: Make) -> None:
    """Run the whole contract."""
    for check in CHECKS:
        with closing(make()) as device:
            check(device)
    check_two_at_once(make)
    check_closing(make)


# Programs -------------------------------------------------------------------------------------

# One wave on a GPU, all of whose lanes do the same at the same time.
ALIKE = kernel(group_size=32)


@ALIKE
def mix(source: In[i32], out: Out[i32]) -> None:
    """Each cell from two others, so that every workgroup depends on work of other ones."""
    g = group()
    out[g] = (source[g] * 3 + source[(g + 17) % CELLS] + 1) & 0xFFFF


@ALIKE
def grow(cells: InOut[i32]) -> None:
    g = group()
    cells[g] = (cells[g] * 5 + 3) & 0xFFFF


@ALIKE
def fill(cells: Out[i32], value: Scalar[i32]) -> None:
    cells[group()] = value


@ALIKE
def scalars(out: Out[f32], small: Scalar[i32], large: Scalar[i64], real: Scalar[f32]) -> None:
    out[0] = small.to(f32)
    out[1] = (large >> 32).to(i32).to(f32)
    out[2] = real


@ALIKE
def widen(source: In[u8], out: Out[i32]) -> None:
    out[group()] = source[group()].to(i32)


@ALIKE
def meet(mine: InOut[i32], theirs: InOut[i32], met: Out[i32], turns: Scalar[i32]) -> None:
    """Raise a flag, wait for another's, and say whether it came."""
    atomic_add(mine, 0, 1)
    seen = variable(constant(i32, 0))
    for _ in loop(turns):
        with when(seen.value.eq(0)):
            for _ in loop(1 << 10):
                seen.value = seen.value | atomic_add(theirs, 0, 0)
    met[0] = seen.value


def program(device: Device, kernel: Kernel) -> Program:
    return _compiled(kernel, device.target)


@cache
def _compiled(kernel: Kernel, target: str) -> Program:
    return compile_kernel(kernel, Target.named(target))


def mixed(cells: NDArray[Any]) -> NDArray[Any]:
    return (cells * 3 + np.roll(cells, -17) + 1) & 0xFFFF


def grown(cells: NDArray[Any]) -> NDArray[Any]:
    return (cells * 5 + 3) & 0xFFFF


def cells_of(device: Device, buffer: Buffer) -> NDArray[Any]:
    return device.copy_out(buffer.region(), np.int32)


def set_cells(device: Device, buffer: Buffer, values: NDArray[Any]) -> None:
    device.copy_in(buffer.region(), values.astype(np.int32))


def two_buffers(device: Device) -> tuple[Buffer, Buffer]:
    return device.allocate(4 * CELLS, "a"), device.allocate(4 * CELLS, "b")


# Memory ---------------------------------------------------------------------------------------


def check_it_says_what_it_is(device: Device) -> None:
    assert device.name
    assert Target.named(device.target).name == device.target
    assert device.memory_bytes > 0
    assert device.parallel_groups >= 1


def check_memory_is_zeroed_and_aligned(device: Device) -> None:
    for size in (1, 64, 4097, 9 << 20):
        for sparse in (False, True):
            buffer = device.allocate(size, "probe", sparse)
            assert buffer.size_bytes == size
            assert buffer.address % 64 == 0
            assert not device.copy_out(buffer.region(), np.uint8).any()
            device.free(buffer)


def check_too_much_memory_is_refused(device: Device) -> None:
    for size in (1 << 60, 1 << 70):
        with pytest.raises(DoesNotFit) as caught:
            device.allocate(size, "all there is")
        assert "all there is" in caught.value.what


def check_copies_and_regions(device: Device) -> None:
    buffer = device.allocate(256, "copied")
    numbers = np.arange(32, dtype=np.float32).reshape(4, 8)
    device.copy_in(buffer.region(64), numbers.T)  # not contiguous
    expected = np.concatenate([np.zeros(16, "f"), numbers.T.reshape(-1), np.zeros(16, "f")])
    np.testing.assert_array_equal(device.copy_out(buffer.region(), np.float32), expected)
    part = buffer.region(64, 128).part(32, 16)
    assert (part.address, part.size_bytes) == (buffer.address + 96, 16)
    np.testing.assert_array_equal(device.copy_out(part, np.float32), expected[24:28])
    device.copy_in(part, np.full(2, -1, np.float32))  # shorter than the region
    got = device.copy_out(part, np.float32)
    np.testing.assert_array_equal(got, [-1, -1, *expected[26:28]])
    got[:] = 9  # a copy is one's own
    assert device.copy_out(part, np.float32)[0] == -1
    for offset, size in ((-1, 2), (0, 257), (250, 7), (0, -1)):
        with pytest.raises(ShapeMismatch):
            buffer.region(offset, size)
    device.free(buffer)


def check_host_view(device: Device) -> None:
    buffer = device.allocate(64, "seen")
    view = device.host_view(buffer.region(8, 16), np.int32)
    if view is None:
        return
    device.copy_in(buffer.region(), np.arange(16, dtype=np.int32))
    assert view.tolist() == [2, 3, 4, 5]
    view[1] = -7
    assert device.copy_out(buffer.region(), np.int32)[3] == -7


def check_host_memory_is_seen_without_a_copy(device: Device) -> None:
    """What programs write into it stands in the view that was taken before, if there is one."""
    cells = device.allocate(4 * CELLS, "host cells", host=True)
    view = device.host_view(cells.region(), np.int32)
    if view is None:  # behind a link that maps no memory, a copy has to do
        set_cells(device, cells, np.arange(CELLS))
        np.testing.assert_array_equal(cells_of(device, cells), np.arange(CELLS))
        return
    assert not view.any()
    graph = Graph()
    graph.launch(program(device, grow), CELLS, cells.region())
    replay = graph.prepare(device)
    expected = np.arange(CELLS)
    view[:] = expected
    for _ in range(3):
        replay.run()
        expected = grown(expected)
        np.testing.assert_array_equal(view, expected)
    replay.close()
    del view
    device.free(cells)


def check_imported_memory_can_be_read(device: Device) -> None:
    data = np.arange(CELLS, dtype=np.uint8)
    source = device.import_host(data, "file")
    assert source.size_bytes == CELLS
    out = device.allocate(4 * CELLS, "out")
    graph = Graph()
    graph.launch(program(device, widen), CELLS, source.region(), out.region())
    replay = graph.prepare(device)
    in_place = device.host_view(source.region(), np.uint8) is not None
    for start in (0, 100):
        data[:] = np.arange(CELLS) + start
        replay.run()
        expected = data if in_place else np.arange(CELLS)  # a copy is of the time of the import
        np.testing.assert_array_equal(cells_of(device, out), expected)
    replay.close()


# Replays --------------------------------------------------------------------------------------


def check_arguments_arrive(device: Device) -> None:
    out = device.allocate(12, "out")
    graph = Graph()
    graph.launch(program(device, scalars), 1, out.region(), -3, -(5 << 32), 0.1)
    graph.prepare(device).run()
    expected = np.array([-3, -5, 0.1], np.float32)
    np.testing.assert_array_equal(device.copy_out(out.region(), np.float32), expected)


def check_every_group_runs_once(device: Device) -> None:
    """Fewer groups than threads, about as many, many more, and none at all."""
    for groups in (0, 1, 2, 3, 5, 16, 17, 1000):
        cells = device.allocate(4 * 1000, "cells")
        graph = Graph()
        graph.launch(program(device, grow), groups, cells.region())
        replay = graph.prepare(device)
        replay.run()
        expected = np.where(np.arange(1000) < groups, 3, 0)
        np.testing.assert_array_equal(cells_of(device, cells), expected)
        replay.close()
        device.free(cells)


def check_nothing_to_do(device: Device) -> None:
    replay = Graph().prepare(device)
    for _ in range(3):
        replay.run()
    replay.close()


def check_fences_order_every_kind_of_hazard(device: Device) -> None:
    """RAW, WAR and WAW between neighbours; the host writes before and reads after each replay."""
    a, b = two_buffers(device)
    graph = Graph()
    graph.launch(program(device, mix), CELLS, a.region(), b.region())
    graph.launch(program(device, fill), CELLS, a.region(), 7)  # WAR
    graph.launch(program(device, fill), CELLS, a.region(), 8)  # WAW
    graph.launch(program(device, grow), CELLS, b.region())  # concurrent with the fill
    graph.launch(program(device, mix), CELLS, b.region(), a.region())  # RAW, WAW
    for _ in range(3):
        graph.launch(program(device, mix), CELLS, a.region(), b.region())
        graph.launch(program(device, mix), CELLS, b.region(), a.region())
    replay = graph.prepare(device)
    for turn in range(REPLAYS):
        start = np.arange(CELLS) * (turn + 1)
        set_cells(device, a, start)
        replay.run()
        expected = mixed(grown(mixed(start)))
        for _ in range(6):
            expected = mixed(expected)
        np.testing.assert_array_equal(cells_of(device, a), expected, f"replay {turn}")
    replay.close()


def check_steps_between_fences_are_concurrent(device: Device) -> None:
    """Two launches without a fence meet, which they cannot one after the other."""
    if device.parallel_groups < 2:
        return
    one, other = device.allocate(4, "one"), device.allocate(4, "other")
    met = [device.allocate(4, f"met {k}") for k in range(2)]
    for fence, together in ((False, [1, 1]), (True, [0, 1])):
        launches = [
            meeting(device, one, other, met[0], fence),
            meeting(device, other, one, met[1], fence),
        ]
        for buffer in (one, other):
            set_cells(device, buffer, np.zeros(1))
        replay = device.prepare(launches)
        replay.run()
        # every lane of a GPU's wave raises the flag, so it may read more than 1
        assert [bool(cells_of(device, buffer)[0]) for buffer in met] == together
        replay.close()


def meeting(device: Device, mine: Buffer, theirs: Buffer, met: Buffer, fence: bool) -> Launch:
    turns = HASTY if fence else PATIENT
    arguments = (mine.region(), theirs.region(), met.region(), turns)
    return Launch(program(device, meet), 1, arguments, fence)


def check_several_replays_in_turn(device: Device) -> None:
    a, b = two_buffers(device)
    growing, mixing = Graph(), Graph()
    growing.launch(program(device, grow), CELLS, a.region())
    mixing.launch(program(device, mix), CELLS, a.region(), b.region())
    mixing.launch(program(device, mix), CELLS, b.region(), a.region())
    replays = [growing.prepare(device), mixing.prepare(device)]
    expected = np.arange(CELLS)
    set_cells(device, a, expected)
    for turn in range(300):
        if turn == 200:  # a new one in the place of an old one
            replays[0].close()
            replays[0] = growing.prepare(device)
        replays[turn % 3 % 2].run()
        expected = mixed(mixed(expected)) if turn % 3 % 2 else grown(expected)
        np.testing.assert_array_equal(cells_of(device, a), expected, f"turn {turn}")
    for replay in replays:
        replay.close()
        replay.close()


def check_replays_that_are_dropped(device: Device) -> None:
    """A replay that nobody closed is given up when it is collected, in whatever state it is."""
    a, b = two_buffers(device)
    expected = np.arange(CELLS)
    set_cells(device, a, expected)
    for turn in range(300):
        graph = Graph()
        graph.launch(program(device, mix), CELLS, a.region(), b.region())
        graph.launch(program(device, mix), CELLS, b.region(), a.region())
        graph.prepare(device).run()
        expected = mixed(mixed(expected))
        np.testing.assert_array_equal(cells_of(device, a), expected, f"turn {turn}")


def check_replays_keep_their_buffers(device: Device) -> None:
    a = device.allocate(4 * CELLS, "kept")
    graph = Graph()
    graph.launch(program(device, grow), CELLS, a.region())
    replay = graph.prepare(device)
    view = a.region()
    del a, graph
    gc.collect()
    replay.run()
    np.testing.assert_array_equal(device.copy_out(view, np.int32), np.full(CELLS, 3))


def check_programs_for_others_are_refused(device: Device) -> None:
    cells = device.allocate(4, "cells")
    foreign = replace(program(device, grow), target="elsewhere")
    with pytest.raises(KernelError, match="elsewhere") as caught:
        device.prepare([Launch(foreign, 1, (cells.region(),), False)])
    assert device.target in caught.value.what


# Devices --------------------------------------------------------------------------------------


def check_two_at_once(make: Make) -> None:
    """Two devices, each with a thread of its own, do not know of each other."""
    failures: list[BaseException] = []

    def work(device: Device) -> None:
        try:
            check_several_replays_in_turn(device)
        except BaseException as error:
            failures.append(error)

    with closing(make()) as first, closing(make()) as second:
        threads = [threading.Thread(target=work, args=(d,)) for d in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures


def check_closing(make: Make) -> None:
    """Unused, used, with a replay still open, twice; and a replay closed after its device."""
    make().close()
    device = make()
    a = device.allocate(4 * CELLS, "a")
    graph = Graph()
    graph.launch(program(device, grow), CELLS, a.region())
    replay = graph.prepare(device)
    replay.run()
    device.close()
    device.close()
    replay.close()


CHECKS: Sequence[Callable[[Device], None]] = (
    check_it_says_what_it_is,
    check_memory_is_zeroed_and_aligned,
    check_too_much_memory_is_refused,
    check_copies_and_regions,
    check_host_view,
    check_host_memory_is_seen_without_a_copy,
    check_imported_memory_can_be_read,
    check_arguments_arrive,
    check_every_group_runs_once,
    check_nothing_to_do,
    check_fences_order_every_kind_of_hazard,
    check_steps_between_fences_are_concurrent,
    check_several_replays_in_turn,
    check_replays_that_are_dropped,
    check_replays_keep_their_buffers,
    check_programs_for_others_are_refused,
)
