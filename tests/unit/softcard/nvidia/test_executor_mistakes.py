"""What a driver can get wrong with channels and grids, one mistake each: none goes unnoticed."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
from tests.unit.softcard.nvidia.bench import (
    ADD_ONE,
    BANKS,
    BASE,
    CODE,
    DATA,
    FLAG,
    QMDS,
    SCRATCH,
    SIZE,
    Bench,
)

from exosuit.silicon.nvidia.compute import Compute
from exosuit.silicon.nvidia.copy import Copy
from exosuit.silicon.nvidia.exceptions import WarpError, Xid
from exosuit.silicon.nvidia.grid import Bank, Release, StructureSize
from exosuit.silicon.nvidia.limits import local_tpc_bytes
from exosuit.silicon.nvidia.push import COMPUTE, COPY, HOST, Host, entry, methods, wide
from exosuit.softcard.card import Refused
from exosuit.softcard.nvidia.executor.faults import (
    Engine,
    LaunchFault,
    MethodFault,
    MmuFault,
    PushbufferFault,
    WarpFault,
)

OUTSIDE = BASE + SIZE + 0x1234_5000


@pytest.fixture(params=[86, 90, 120])
def bench(request):
    made = Bench(request.param)
    made.program()
    return made


def launch(bench, qmd):
    bench.submit(1, bench.begin_compute, bench.launch(qmd))


def the_fault(bench, kind):
    """The only one; both channels of the group have stopped, and doorbells do nothing."""
    (fault,) = bench.faults
    assert isinstance(fault, kind), fault
    assert all(channel.is_stopped for channel in bench.executor.channels.values())
    bench.submit(1, bench.semaphore(FLAG, 77, 0x0010_0001))
    assert bench.words(FLAG, 1)[0] != 77
    return fault


# Descriptors that the scheduler refuses -------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"qmd_major_version": 2}, "version 2"),
        ({"register_count": 0}, "0 registers"),
        ({"register_count": 256}, "256 registers"),
        ({"grid_width": 0}, r"\(0, 1, 1\) groups"),
        ({"cta_thread_dimension1": 20}, "64, 20, 1"),
        ({"cta_thread_dimension2": 0}, "64, 1, 0"),
        ({"min_sm_config_shared_mem_size": 7}, "least division of 24 KiB"),
        ({"target_sm_config_shared_mem_size": 1}, "not in order"),
        ({"max_sm_config_shared_mem_size": 62}, "which there is not"),
    ],
)
def test_descriptors_that_are_refused(bench, changes, told):
    qmd = bench.grid(DATA, 1)
    bench.flip(qmd, **changes)
    launch(bench, qmd)
    fault = the_fault(bench, LaunchFault)
    assert fault.qmd == qmd
    assert fault.XID == Xid.GRAPHICS_EXCEPTION
    assert re.search(told, fault.detail)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"program": CODE + 8}, "no multiple of 16"),
        ({"registers": 128, "lanes": (1024, 1, 1)}, "more than an SM has"),
        ({"shared_bytes": 9 << 10}, "in a division of 8 KiB"),
        ({"shared_bytes": 229 << 10, "shared_configs": (100, 100, 100)}, "of shared memory, of"),
        ({"banks": {}}, "constant bank 0 of 0 bytes"),
        ({"banks": {0: Bank(BANKS, 0x100)}}, "constant bank 0 of 256 bytes"),
        ({"local_bytes": 0x400}, "where the channel has 0"),
        ({"releases": (Release(FLAG + 2, 1),)}, "a release of 4 bytes"),
        ({"releases": (Release(FLAG + 8, 1, StructureSize.FOUR_WORDS),)}, "a release of 16 bytes"),
        ({"dependent": QMDS}, "never ends"),
    ],
)
def test_grids_that_cannot_be(bench, changes, told):
    if bench.sm == 120 and "program" in changes:
        pytest.skip("version 5 cannot even say it")
    launch(bench, bench.grid(DATA, 1, **changes))
    assert told in the_fault(bench, LaunchFault).detail


def test_programs_that_need_more_than_they_are_given(bench):
    for old, new, told in (
        ("ret;", "bar.sync 0;\nret;", "no barrier for add_one"),
        (".reg .b32", ".shared .align 4 .b8 s[256];\n.reg .b32", "bytes of shared memory for"),
        (".reg .b32", ".local .align 4 .b8 depot[64];\n.reg .b32", "0 bytes of scratch"),
    ):
        again = Bench(bench.sm)
        again.program(ADD_ONE.replace(old, new))
        launch(again, again.grid(DATA, 1, barriers=0))
        assert told in the_fault(again, LaunchFault).detail


def test_scratch_as_it_must_be(bench):
    bench.program(ADD_ONE.replace(".reg .b32", ".local .align 4 .b8 depot[64];\n.reg .b32"))
    lane = 0x300
    tpc = local_tpc_bytes(lane, bench.executor._shape.limits.warps, 2)
    scratch = methods(COMPUTE, Compute.SET_SHADER_LOCAL_MEMORY_A, *wide(SCRATCH)) + methods(
        COMPUTE, Compute.SET_SHADER_LOCAL_MEMORY_NON_THROTTLED_A, *wide(tpc), 0xFF
    )
    qmd = bench.grid(DATA, 1, local_bytes=lane)
    bench.submit(1, bench.begin_compute, scratch, bench.launch(qmd))
    assert (bench.words(DATA, 128) == 1).all()
    assert not bench.faults
    far = methods(COMPUTE, Compute.SET_SHADER_LOCAL_MEMORY_A, *wide(BASE + SIZE - 0x10000))
    bench.submit(1, far, bench.launch(bench.grid(DATA, 1, number=1, local_bytes=lane)))
    assert the_fault(bench, MmuFault).engine is Engine.COMPUTE


# What runs, and goes wrong --------------------------------------------------------------------


def test_accesses_to_nothing(bench):
    launch(bench, bench.grid(OUTSIDE, 1))
    fault = the_fault(bench, MmuFault)
    assert (fault.address, fault.write, fault.engine) == (OUTSIDE, False, Engine.COMPUTE)
    assert fault.XID == Xid.MMU_FAULT


def test_addresses_that_are_not_aligned(bench):
    launch(bench, bench.grid(DATA + 2, 1))
    fault = the_fault(bench, WarpFault)
    assert (fault.error, fault.address) == (WarpError.MISALIGNED_ADDRESS, DATA + 2)


@pytest.mark.parametrize("what", ["machine code", "nothing", "another kernel", "unmapped"])
def test_programs_that_are_none(bench, what):
    match what:
        case "machine code":
            bench.memory.write(CODE, bytes(range(1, 129)) + bytes(64))
        case "nothing":
            bench.memory.write(CODE, bytes(4096))
        case "another kernel":
            bench.program(name="other")
        case _:
            launch(bench, bench.grid(DATA, 1, program=OUTSIDE))
            assert the_fault(bench, MmuFault).address == OUTSIDE
            return
    launch(bench, bench.grid(DATA, 1))
    assert the_fault(bench, WarpFault).error == WarpError.ILLEGAL_INSTRUCTION


def test_a_program_that_never_ends_hangs_in_silence(bench):
    bench.program(ADD_ONE.replace("ret;", "$again:\nbra $again;\nret;"))
    bench.executor._model._budget = 1000
    launch(bench, bench.grid(DATA, 1, releases=(Release(FLAG, 1),)))
    assert not bench.faults
    assert [c.is_stopped for c in bench.executor.channels.values()] == [True, False]
    assert bench.words(FLAG, 1)[0] == 0


def test_a_fault_of_the_schedule():
    bench = Bench(fails=lambda: True)
    launch(bench, bench.grid(DATA, 1))
    assert the_fault(bench, WarpFault).error == WarpError.ILLEGAL_INSTRUCTION


# What the real part would not notice ----------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"block_x": 32}, "block 32x1x1"),
        ({"grid_z": 2}, "grid 2x1x2"),
        ({"shared_window": 0}, "shared window 0x0"),
        ({"local_window": 1 << 32}, "local window 0x100000000"),
    ],
)
def test_words_of_bank_0_that_are_not_the_grids(bench, words, told):
    qmd = bench.grid(DATA, 1)
    bench.memory.write(BANKS, bench.bank(DATA, 1, **words))
    with pytest.raises(Refused, match=told):
        launch(bench, qmd)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sass_version": 0x75}, "SASS version 0x75"),
        ({"cwd_membar_type": 0}, "that nothing makes wait"),
        ({"cwd_membar_type": 3}, "that nothing makes wait"),
        ({"program_prefetch_addr_shifted": 5}, "a prefetch at 0x500"),
        ({"invalidate_shader_data_cache": 0}, "no invalidate of the data caches"),
    ],
)
def test_fields_that_somebody_would_regret(bench, changes, told):
    qmd = bench.grid(DATA, 1, releases=(Release(FLAG, 1),))
    bench.flip(qmd, **changes)
    with pytest.raises(Refused, match=told):
        launch(bench, qmd)


def test_code_that_changed_in_secret(bench):
    launch(bench, bench.grid(DATA, 1))
    bench.program(ADD_ONE.replace("add.s32 %r3, %r3, %r4", "sub.s32 %r3, %r3, %r4"))
    forget = methods(COMPUTE, Compute.INVALIDATE_SHADER_CACHES_NO_WFI, 0x1011)
    with pytest.raises(Refused, match="no invalidate of the instruction caches"):
        bench.submit(1, bench.launch(bench.grid(DATA, 1, number=1)))
    bench.executor.run()
    bench.program()
    bench.submit(1, forget, bench.launch(bench.grid(DATA, 1, number=2)))
    bench.program(ADD_ONE.replace("add.s32 %r3, %r3, %r4", "sub.s32 %r3, %r3, %r4"))
    qmd = bench.grid(DATA, 1, number=3)
    bench.flip(qmd, invalidate_instruction_cache=1)
    bench.submit(1, bench.launch(qmd))
    assert len(bench.notes) == 1


def test_constants_that_changed_in_secret(bench):
    bank = {0: Bank(BANKS, len(bench.bank(0, 0)))}
    launch(bench, bench.grid(DATA, 1, banks=bank))
    bench.submit(1, bench.launch(bench.grid(DATA, 1, banks=bank)))  # nothing has changed
    qmd = bench.grid(DATA, 2, banks=bank)
    with pytest.raises(Refused, match="no invalidate of the constant caches"):
        bench.submit(1, bench.launch(qmd))
    bench.executor.run()
    qmd = bench.grid(DATA, 3, banks={0: Bank(BANKS, bank[0].size, invalidate=True)})
    bench.submit(1, bench.launch(qmd))
    assert len(bench.notes) == 1


def test_a_descriptor_that_is_sent_twice(bench):
    qmd = bench.grid(DATA, 1)
    wait = methods(HOST, Host.WFI, 0)
    bench.submit(1, bench.begin_compute, bench.launch(qmd), wait, bench.launch(qmd))
    bench.submit(1, bench.launch(qmd))  # the host may have seen the end
    with pytest.raises(Refused, match="sent again before anybody"):
        bench.submit(1, bench.launch(qmd), bench.launch(qmd))


def test_a_signal_that_waits_for_nothing(bench):
    with pytest.raises(Refused, match="does not wait for the work"):
        bench.submit(
            1, bench.begin_compute, bench.launch(bench.grid(DATA, 1)),
            bench.semaphore(FLAG, 1, 0x0100_0001),
        )  # fmt: skip


def test_windows(bench):
    if bench.sm >= 90:
        with pytest.raises(Refused, match="no multiple of 4 GiB"):
            bench.submit(1, bench.begin_compute, bench.windows(local=0x7293_0100_0000))
    bench = Bench(bench.sm)
    bench.program()
    inside = BASE  # a multiple of 4 GiB, and mapped
    qmd = bench.grid(DATA, 1)
    bench.memory.write(BANKS, bench.bank(DATA, 1, shared_window=inside))
    with pytest.raises(Refused, match="mapped in the window of shared memory"):
        bench.submit(1, bench.begin_compute, bench.windows(shared=inside), bench.launch(qmd))


# Channels -------------------------------------------------------------------------------------


def test_doorbells_that_nobody_hears():
    bench = Bench()
    with pytest.raises(Refused, match="channel 9, which does not exist"):
        bench.executor.ring_doorbell(9)
    bench.setups[1].is_enabled = False
    bench.push(1, bench.semaphore(FLAG, 1, 0x0010_0001))
    with pytest.raises(Refused, match="which is not scheduled"):
        bench.ring(1)
    assert bench.words(FLAG, 1)[0] == 0


@pytest.mark.parametrize(
    ("packets", "kind", "told"),
    [
        (methods(COMPUTE, Compute.SET_OBJECT, 0xC3C0), MethodFault, "no object"),
        (methods(COMPUTE, Compute.SEND_PCAS_A, 0), MethodFault, "which is not bound"),
        (struct.pack("<I", 2 << 29 | 1 << 16), PushbufferFault, "the header 0x40010000"),
        (struct.pack("<I", 1 << 29 | 9 << 16 | 5), PushbufferFault, "runs over the end"),
        (methods(HOST, Host.SEM_ADDR_LO, 0x100, 0x1FF, 0, 0, 1), PushbufferFault, "out of reach"),
        (methods(HOST, Host.SEM_ADDR_LO, 4, 0x10, 0, 0, 0x0110_0001), PushbufferFault, "aligned"),
        (methods(HOST, Host.SEM_ADDR_LO, 0, 0x20, 0, 0, 1), MmuFault, "nothing is mapped"),
        (methods(HOST, Host.SEM_ADDR_LO, 0, 0x10, 0, 0, 7), PushbufferFault, "operation 7"),
        (methods(COPY, Copy.SET_OBJECT, 0xC7B5) + methods(COPY, Copy.LAUNCH_DMA, 0x182 | 1 << 12),
         MethodFault, "physical addresses"),
        (methods(COPY, Copy.SET_OBJECT, 0xC7B5) + methods(COPY, Copy.LAUNCH_DMA, 2),
         MethodFault, "block-linear"),
        (methods(COPY, Copy.SET_OBJECT, 0xC7B5)
         + methods(COPY, Copy.OFFSET_IN_UPPER, 0x10, 0, 0x70, 0)
         + methods(COPY, Copy.LINE_LENGTH_IN, 64) + methods(COPY, Copy.LAUNCH_DMA, 0x182),
         MmuFault, "write at 0x7000000000"),
    ],
)  # fmt: skip
def test_pushbuffers_that_stop_a_channel(packets, kind, told):
    bench = Bench()
    bench.submit(1, packets)
    assert told in the_fault(bench, kind).detail


def test_entries_that_stop_a_channel():
    bench = Bench()
    bench.memory.write(bench.setups[1].ring, int(entry(OUTSIDE, 64)).to_bytes(8, "little"))
    bench.put[1] = 1
    bench.ring(1)
    bench.executor.run()
    assert the_fault(bench, MmuFault).address == OUTSIDE
    bench = Bench()
    bench.put[1] = 64
    bench.ring(1)
    assert "GP_PUT is 64" in bench.faults[0].detail


def test_methods_that_nobody_knows():
    bench = Bench()
    for packets in (
        struct.pack("<2I", 1 << 29 | 1 << 16 | 1 << 13 | 0x3F4 >> 2, 0),
        struct.pack("<2I", 1 << 29 | 1 << 16 | 0x9C >> 2, 0),
    ):
        with pytest.raises(Refused, match="which is unknown"):
            bench.submit(1, bench.begin_compute, packets)
        bench.executor.run()


def test_a_card_that_is_not_strict_goes_on():
    bench = Bench(strict=False)
    bench.program()
    qmd = bench.grid(DATA, 4, sass_version=0x75)
    launch(bench, qmd)
    assert (bench.words(DATA, 128) == 4).all()
    assert "SASS version" in bench.notes[0]
    assert np.all(bench.words(DATA + 512, 8) == 0)
