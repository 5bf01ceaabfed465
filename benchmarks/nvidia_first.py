"""The first run on a real NVIDIA card through its kernel driver, step by step; stops at what fails.

    python benchmarks/nvidia_first.py                         # nvidia:0
    python benchmarks/nvidia_first.py --card 1 --gpfifo c56f  # another card, an older ring
    python benchmarks/nvidia_first.py --calls                 # with every call of the kernel
    python benchmarks/nvidia_first.py --fault                 # and at the end a fault, on purpose
    python benchmarks/nvidia_first.py --software gh100        # what it looks like where all works

Each step is told before it is done. First the bring-up, with what the card says of itself; then a
word from each channel, copies, and programs from the emptiest on: an empty one (does a QMD of this
version start, and release?), what bank 0 tells a program, a vector sum, scratch, large groups and
grids, a chain in one submission. ptxas makes the programs. On failure: the three lines, the facts
behind them, and where to look.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from exosuit.clock import SystemClock
from exosuit.driver.boot import run_steps
from exosuit.driver.device import Argument, Launch
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.driver.nvidia.kernel_driver import KernelDriverRoute
from exosuit.driver.nvidia.objects import offered_classes
from exosuit.errors import ExosuitError
from exosuit.kernel.assembler import Assembler
from exosuit.link.nodes import DeviceNodes, LinuxNodes
from exosuit.program import Access, Parameter, Program
from exosuit.silicon.nvidia.rm_controls import FbInfoIndex
from exosuit.softcard.nvidia.image import stand_in
from exosuit.softcard.nvidia.kernel_driver.driver import ModelOptions, SoftKernelDriver
from exosuit.trace.nodes import ToldNodes
from exosuit.units import human_bytes, human_seconds

WHERE_TO_LOOK = {
    "hello": "the ring, GP_PUT, the token and the doorbell; try --gpfifo c56f",
    "copy": "the copy class, and how host memory was pinned",
    "empty": "the QMD: its version, type and group, and PCAS (reference 4.1; Hopper's is assumed)",
    "bank 0": "the offsets of bank 0 for this sm (silicon/nvidia/bank.py)",
    "scratch": "the size and base of local memory, and where the stack begins",
}


@dataclass(frozen=True)
class Check:
    name: str
    why: str
    run: Callable[[NvidiaDevice], str]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--card", type=int, default=0, help="N of nvidia:N")
    parser.add_argument("--gpfifo", type=lambda text: int(text, 16), help="class of the channels")
    parser.add_argument("--fault", action="store_true", help="end with an access to nowhere")
    parser.add_argument("--calls", action="store_true", help="tell every call of the kernel")
    parser.add_argument("--software", metavar="CHIP", help="a model instead: gh100, ad102, gb202")
    chosen = parser.parse_args(arguments)
    nodes: DeviceNodes = LinuxNodes()
    if chosen.software:
        nodes = SoftKernelDriver(ModelOptions(cards=(chosen.software,)))
    if chosen.calls:
        nodes = ToldNodes(nodes, lambda name, ended: print(f"{'':<10} {name}: {ended}", flush=True))
    step = "client"
    try:
        route = KernelDriverRoute(
            nodes, chosen.card, SystemClock(), 900.0 if chosen.software else 20
        )
        try:
            bring_up(route, chosen.gpfifo)
            assemble = in_software if chosen.software else Assembler().cubin
            device = NvidiaDevice(route, assemble, takes_cubins=not chosen.software)
            for check in CHECKS + ([FAULT] if chosen.fault else []):
                step = check.name
                print(f"{check.name:<10} {check.why}", flush=True)
                began = time.perf_counter()
                found = check.run(device)
                took = human_seconds(time.perf_counter() - began)
                print(f"{'':<10} {found} ({took})", flush=True)
        finally:
            route.stop()
    except ExosuitError as error:
        print(error, *(f"    {name}: {fact}" for name, fact in error.fields.items()), sep="\n")
        print(f"    look at: {WHERE_TO_LOOK.get(step, 'the kernel log:  sudo dmesg | grep NVRM')}")
        return 1
    except AssertionError as error:
        print(f"error: {step} gives a wrong result\n{error}")
        print(f"    look at: {WHERE_TO_LOOK.get(step, 'the step before')}")
        return 1
    return 0


def in_software(program: Program) -> bytes:
    return stand_in(program.code, program.entry, program.target)


def bring_up(route: KernelDriverRoute, gpfifo: int | None) -> None:
    for step in route.steps():
        print(f"{step.name:<10} {step.why}", flush=True)
        (report,) = run_steps([step], route.client, route.clock)
        for line in told(route, step.name, gpfifo):
            print(f"{'':<10} {line}", flush=True)
        calls = report.crossed.round_trips
        print(f"{'':<10} {calls} calls ({human_seconds(report.seconds)})", flush=True)


def told(route: KernelDriverRoute, step: str, gpfifo: int | None) -> list[str]:
    """What is known after a step."""
    match step:
        case "version":
            branch = route.client.branch.number
            return [f"driver {route.client.version}, with the tables of branch {branch}"]
        case "card":
            return [f"{route.gpu.name()} at {route.gpu.address}, {route.gpu.path}"]
        case "classes":
            if gpfifo is not None:
                route.classes = replace(route.classes, gpfifo=gpfifo)
            offered = offered_classes(route.client, route.gpu.objects.device)
            return [
                f"offers {' '.join(f'{kind:04x}' for kind in sorted(offered))}",
                f"chosen {', '.join(f'{k} {v:04x}' for k, v in vars(route.classes).items())}",
            ]
        case "facts":
            infos = [f"{k.name.lower()} {v:#x}" for k, v in route.gpu.graphics_info().items()]
            total = route.gpu.memory_bytes(FbInfoIndex.TOTAL_RAM_SIZE)
            free = human_bytes(route.facts.vram_bytes)
            return [
                f"{route.facts.target}, {route.facts.sm_count} SMs; {', '.join(infos)}",
                f"{human_bytes(total)} of memory, {free} free",
            ]
        case "compute":
            return [f"token {route.compute.token:#x}"]
        case "copy":
            return [f"token {route.copy.token:#x}"]
        case _:
            return []


# Programs, by hand: nothing of the kernel language is in the way. --------------------------------


def program(device: NvidiaDevice, name: str, parameters: int, body: str, lanes: int) -> Program:
    """A kernel with so many pointers, in %rd1, %rd2, ... at its beginning."""
    sm = int(device.target.removeprefix("sm_"))
    names = [f"p{k}" for k in range(parameters)]
    loads = "\n".join(f"ld.param.u64 %rd{k + 1}, [{p}];" for k, p in enumerate(names))
    text = f"""
.version {"8.7" if sm >= 100 else "7.8"}
.target {device.target}
.address_size 64
.visible .entry {name}({", ".join(f".param .u64 {p}" for p in names)})
{{
.reg .b32 %r<32>;
.reg .b64 %rd<32>;
.reg .pred %p<8>;
{loads}
{body}
ret;
}}
"""
    return Program(
        name, device.target, name, text.encode(),
        tuple(Parameter(p, "i32", Access.INOUT) for p in names), lanes, 0,
    )  # fmt: skip


OWN_CELL = """
mov.u32 %r1, %ctaid.x;
mov.u32 %r2, %ntid.x;
mov.u32 %r3, %tid.x;
mad.lo.s32 %r4, %r1, %r2, %r3;
mul.wide.s32 %rd9, %r4, 4;
"""
"""%r4 is the lane's number in the grid, %rd9 its offset in bytes."""

BANK = """
mov.u32 %r1, %tid.x;
mov.u32 %r2, %ntid.x;
mov.u32 %r3, %ntid.y;
mov.u32 %r4, %ntid.z;
mov.u32 %r5, %nctaid.x;
mov.u32 %r6, %nctaid.y;
mov.u32 %r7, %nctaid.z;
st.global.b32 [%rd1], %r2;
st.global.b32 [%rd1+4], %r3;
st.global.b32 [%rd1+8], %r4;
st.global.b32 [%rd1+12], %r5;
st.global.b32 [%rd1+16], %r6;
st.global.b32 [%rd1+20], %r7;
"""

ADD = f"""{OWN_CELL}
add.s64 %rd4, %rd1, %rd9;
add.s64 %rd5, %rd2, %rd9;
add.s64 %rd6, %rd3, %rd9;
ld.global.b32 %r5, [%rd4];
ld.global.b32 %r6, [%rd5];
add.s32 %r7, %r5, %r6;
st.global.b32 [%rd6], %r7;
"""

SCRATCH = f"""
.local .align 8 .b8 stack[1024];
{OWN_CELL}
mov.u64 %rd3, stack;
and.b32 %r5, %r4, 255;
mul.wide.s32 %rd4, %r5, 4;
add.s64 %rd5, %rd3, %rd4;
st.local.b32 [%rd5], %r4;
xor.b32 %r6, %r5, 1;
mul.wide.s32 %rd6, %r6, 4;
add.s64 %rd7, %rd3, %rd6;
st.local.b32 [%rd7], %r5;
ld.local.b32 %r7, [%rd5];
add.s64 %rd8, %rd1, %rd9;
st.global.b32 [%rd8], %r7;
"""

GROW = f"""{OWN_CELL}
add.s64 %rd4, %rd1, %rd9;
ld.global.b32 %r5, [%rd4];
mad.lo.s32 %r6, %r5, 3, 1;
st.global.b32 [%rd4], %r6;
"""


def run(device: NvidiaDevice, chosen: Program, groups: int, *arrays: NDArray[np.int32]) -> float:
    """Run over copies of arrays, which then hold what the card has; seconds of the run alone."""
    buffers = [device.allocate(a.nbytes, f"array {k}") for k, a in enumerate(arrays)]
    for buffer, array in zip(buffers, arrays, strict=True):
        device.copy_in(buffer.region(), array)
    given: tuple[Argument, ...] = tuple(buffer.region() for buffer in buffers)
    replay = device.prepare([Launch(chosen, groups, given, False)])
    began = time.perf_counter()
    replay.run()
    took = time.perf_counter() - began
    for buffer, array in zip(buffers, arrays, strict=True):
        array[:] = device.copy_out(buffer.region(), np.int32)
    replay.close()
    return took


def hello(device: NvidiaDevice) -> str:
    device.greet()
    return "both channels have written their number into the host's memory"


def copy(device: NvidiaDevice) -> str:
    small, large = np.arange(4096, dtype=np.uint8), np.arange(64 << 18, dtype=np.uint32)
    for data in (small, large.view(np.uint8)):
        buffer = device.allocate(data.size, "copied")
        began = time.perf_counter()
        device.copy_in(buffer.region(), data)
        between = time.perf_counter()
        back = device.copy_out(buffer.region(), np.uint8)
        ended = time.perf_counter()
        assert (back == data).all(), f"{int((back != data).sum())} of {data.size} bytes differ"
        rates = [data.size / seconds / 1e9 for seconds in (between - began, ended - between)]
    return f"4 KiB and {human_bytes(large.nbytes)}: {rates[0]:.2f} GB/s in, {rates[1]:.2f} out"


def empty(device: NvidiaDevice) -> str:
    took = run(device, program(device, "empty", 0, "", 32), 1)
    return f"one grid from doorbell to release: {human_seconds(took)}"


def bank(device: NvidiaDevice) -> str:
    out = np.zeros(6, np.int32)
    run(device, program(device, "bank", 1, BANK, 64), 5, out)
    assert out.tolist() == [64, 1, 1, 5, 1, 1], f"ntid and nctaid are {out.tolist()}"
    return "a program sees its dimensions"


def add(device: NvidiaDevice) -> str:
    count = 1 << 16
    a, b = (np.random.default_rng(k).integers(0, 1 << 30, count, np.int32) for k in (1, 2))
    out = np.zeros(count, np.int32)
    run(device, program(device, "add", 3, ADD, 128), count // 128, a, b, out)
    assert (out == a + b).all(), f"{int((out != a + b).sum())} of {count} sums are wrong"
    return f"{count} sums are right"


def scratch(device: NvidiaDevice) -> str:
    out = np.zeros(1 << 14, np.int32)
    run(device, program(device, "scratch", 1, SCRATCH, 128), out.size // 128, out)
    assert (out == np.arange(out.size)).all(), f"{int((out != np.arange(out.size)).sum())} wrong"
    return "each lane finds what it has put onto its stack"


def large(device: NvidiaDevice) -> str:
    count = 70_000 * 32
    out = np.zeros(count, np.int32)
    run(device, program(device, "grow", 1, GROW, 32), count // 32, out)
    assert (out == 1).all(), "a grid of 70,000 groups"
    out = np.zeros(4096, np.int32)
    run(device, program(device, "grow", 1, GROW, 1024), 4, out)
    assert (out == 1).all(), "groups of 1,024 lanes"
    return "70,000 groups, and groups of 1,024 lanes"


def chain(device: NvidiaDevice) -> str:
    length = 200
    buffer = device.allocate(4 * 128, "cells")
    device.copy_in(buffer.region(), np.zeros(128, np.int32))
    grow = program(device, "grow", 1, GROW, 128)
    replay = device.prepare([Launch(grow, 1, (buffer.region(),), True) for _ in range(length)])
    times: list[float] = []
    expected = 0
    for _ in range(5):
        began = time.perf_counter()
        replay.run()
        times.append(time.perf_counter() - began)
        for _ in range(length):
            expected = (expected * 3 + 1) & 0xFFFF_FFFF
    found = device.copy_out(buffer.region(), np.uint32)
    assert (found == expected).all(), f"{found[0]} in place of {expected}"
    replay.close()
    each = human_seconds(min(times) / length)
    return f"{length} grids one after the other by one doorbell: {each} each"


def fault(device: NvidiaDevice) -> str:
    wild = device.allocate(4096, "the last buffer")
    wild.address += 1 << 34
    grow = program(device, "grow", 1, GROW, 32)
    try:
        device.prepare([Launch(grow, 1, (wild.region(),), False)]).run()
    except ExosuitError as error:
        return f"told as it should be:\n{error}"
    raise AssertionError("an access to nothing was not noticed")


CHECKS = [
    Check("hello", "a semaphore from each channel: ring, token, doorbell, mapping", hello),
    Check("copy", "the copy engine, from pinned memory and back", copy),
    Check("empty", "the emptiest program: a QMD starts and releases", empty),
    Check("bank 0", "what the driver puts in front of the arguments", bank),
    Check("add", "a sum of two vectors", add),
    Check("scratch", "a program with a stack", scratch),
    Check("large", "more groups than 16 bits hold, and the largest group", large),
    Check("chain", "QMDs that start each other", chain),
]
FAULT = Check("fault", "an access to nothing that is mapped; the channels are lost with it", fault)


if __name__ == "__main__":
    sys.exit(main())
