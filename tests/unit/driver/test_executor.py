"""The executor's threads: asleep when idle, awake when needed, gone when nobody holds them."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import threading
import time
import weakref
from contextlib import closing

import numpy as np
import pytest
from tests.contract.check_device import CELLS, check_several_replays_in_turn, grow, meeting, program

from exosuit.driver.cpu import CpuDevice
from exosuit.driver.cpu.executor import Executor, Table
from exosuit.driver.device import Launch
from exosuit.graph import Graph
from exosuit.kernel import Target

# Longer than a worker spins before it sleeps (some milliseconds).
ASLEEP_S = 0.05


def make(threads: int = 2) -> CpuDevice:
    return CpuDevice(Target.host().name, threads)


@pytest.fixture
def device():
    with closing(make()) as device:
        yield device


def workers() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("cpu-")}


def growing(device: CpuDevice):
    """A replay that grows every cell, and the cells."""
    cells = device.allocate(4 * CELLS, "cells")
    graph = Graph()
    graph.launch(program(device, grow), CELLS, cells.region())
    return graph.prepare(device), cells


def test_idle_workers_do_not_burn(device):
    replay, _ = growing(device)
    replay.run()
    time.sleep(ASLEEP_S)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.03


def test_sleeping_workers_wake(device):
    """Two workgroups that wait for each other: the second one needs the worker."""
    buffers = [device.allocate(4, name) for name in ("one", "other", "met", "met too")]
    one, other, *met = buffers
    launches = [
        meeting(device, one, other, met[0], False),
        meeting(device, other, one, met[1], False),
    ]
    replay = device.prepare(launches)
    for pause in (0.0, ASLEEP_S, 0.0, 0.001, ASLEEP_S):
        for buffer in buffers:
            device.copy_in(buffer.region(), np.zeros(1, np.int32))
        time.sleep(pause)
        replay.run()
        assert [device.copy_out(buffer.region(), np.int32)[0] for buffer in met] == [1, 1]


def test_pauses_of_every_length_around_the_spin(device):
    """Workers fall asleep just as the next replay begins; none may be lost."""
    replay, cells = growing(device)
    expected = np.zeros(CELLS, np.int64)
    for turn in range(100):
        replay.run()
        expected = (expected * 5 + 3) & 0xFFFF
        np.testing.assert_array_equal(device.copy_out(cells.region(), np.int32), expected)
        time.sleep(turn * 1e-4)


def test_layout_of_a_table():
    """Phases begin at fences; counters of a phase have cache lines of their own."""
    executor = Executor(2)
    device = make(1)
    growth = program(device, grow)
    region = device.allocate(4 * CELLS, "cells").region()
    groups, fences = (1, 5, 64, 0), (False, False, True, True)
    launches = [
        Launch(growth, n, (region,), fence) for n, fence in zip(groups, fences, strict=True)
    ]
    table = Table(launches, executor, [100, 200, 300, 400])
    epoch, phase_count, phases, parts, counters = table._header[:5].tolist()
    assert (epoch, phase_count, counters % 128, table.address % 64) == (0, 3, 0, 0)
    # No more chunks than groups, and at most four for each thread.
    assert table._phases.tolist() == [[0, 2, 1 + 5], [2, 1, 8], [3, 1, 0]]
    assert phases == table._phases.ctypes.data
    assert parts == table._parts.ctypes.data
    arguments = table._arguments.ctypes.data
    assert table._parts.tolist() == [
        [100, arguments, 1, 1],
        [200, arguments + 8, 5, 5],
        [300, arguments + 16, 64, 8],
        [400, arguments + 24, 0, 0],
    ]
    assert table._arguments.tolist() == [region.address] * 4
    executor.close()
    device.close()


def test_retired_tables_can_be_forgotten(device):
    """A worker that wakes late must not find the table of a replay that is gone."""
    for turn in range(200):
        replay, cells = growing(device)
        replay.run()
        table = weakref.ref(replay._table)
        if turn % 2:
            replay.close()
        if turn % 20 == 0:
            time.sleep(ASLEEP_S / 10)
        del replay
        assert table() is None
        assert device._executor._control[64 // 8] == 0
        device.free(cells)


def test_close_ends_the_workers_and_is_idempotent():
    before = workers()
    device = make(3)
    assert len(workers() - before) == 2
    device.close()
    assert workers() == before
    device.close()


@pytest.mark.parametrize("idle", [False, True])
def test_close_while_workers_spin_or_sleep(idle):
    before = workers()
    device = make(4)
    growing(device)[0].run()
    time.sleep(ASLEEP_S if idle else 0)
    device.close()
    assert workers() == before


def test_a_dropped_device_ends_its_workers():
    before = workers()
    device = make(3)
    replay, cells = growing(device)
    replay.run()
    del device
    assert len(workers() - before) == 2, "the replay still needs them"
    replay.run()
    del replay, cells
    gc.collect()
    assert workers() == before


def test_many_devices_come_and_go():
    before = workers()
    for threads in (1, 2, 5) * 10:
        device = make(threads)
        if threads != 2:
            growing(device)[0].run()
        if threads != 5:
            device.close()
        del device
    gc.collect()
    assert workers() == before


def test_a_busy_machine_is_slow_but_not_stuck():
    """Twice as many threads as cores while other processes want all of them."""
    burn = "import time; print(flush=True); end = time.time() + 60\nwhile time.time() < end: pass"
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            process = subprocess.Popen([sys.executable, "-c", burn], stdout=subprocess.PIPE)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout.readline()
        device = stack.enter_context(closing(make(4)))

        def repeat() -> None:
            for _ in range(5):
                check_several_replays_in_turn(device)

        work = threading.Thread(target=repeat, daemon=True)
        work.start()
        work.join(60)
        assert not work.is_alive()


_FORK = """
import os, warnings
import numpy as np
from exosuit.driver.cpu import CpuDevice
from exosuit.kernel import Target
from tests.unit.driver.test_executor import growing
warnings.simplefilter("ignore", DeprecationWarning)  # "may lead to deadlocks": we want to know
device = CpuDevice(Target.host().name, 4)
replay, cells = growing(device)
for _ in range(100):
    cells_before = device.copy_out(cells.region(), np.int32)
    replay.run()  # some workers are still at it, or on their way to sleep
    child = os.fork()
    if child == 0:
        replay.run()
        expected = ((cells_before * 5 + 3) * 5 + 3) & 0xFFFF
        assert (device.copy_out(cells.region(), np.int32) == expected).all()
        replay.close()
        device.close()
        device.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
device.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a forked child may not do much")
def test_a_forked_child_works_alone():
    """The workers stay with the parent; the child runs everything in its one thread."""
    result = subprocess.run(
        [sys.executable, "-c", _FORK], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
