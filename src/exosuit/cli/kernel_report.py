"""What a GPU's machine code consists of, and how near to the card's limits it can come.

Everything counted is read from the object that a driver would load: its descriptor, and its
instructions as the software card's decoder names them. The estimate is arithmetic on these counts
and on a few figures of the RX 7900 XTX; nothing here has been measured on one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from exosuit.driver.amd.loader import Image, load
from exosuit.kernel import Target, compile_kernel
from exosuit.ops.gpu.typical import Typical, typical_launches
from exosuit.program import Program
from exosuit.softcard.amd.isa.decode import Instruction, decode

CHIP = "RX 7900 XTX"
MEMORY_BYTES_PER_S = 960e9
SIMDS = 192
CLOCK_HZ = 2.3e9
VECTOR_REGISTERS = 1536
"""Of one SIMD, per lane; handed out in granules of 24."""
MATRIX_CYCLES = 32
"""A WMMA of 16x16x16 keeps a SIMD busy for so long: 512 operations a cycle and compute unit."""
MOST_WAVES = 16
LATENCY_S = 0.8e-6
"""Assumed: from a load to its data, under load."""
FIXED_S = 2e-6
"""Assumed: the launch, the first loads and the last wave."""
_WAVE = 32


@dataclass(frozen=True)
class Report:
    """One kernel's code, and an estimate of a launch.

    loop          instructions of the main loop; None where no loop has most of the work
    loads         global loads by width in bits, of the whole kernel
    scalar_loads  likewise, loads that all lanes share
    waves         of one SIMD, as registers and workgroup memory allow
    limit         what bounds the launch: "memory", "latency", "issue" or "launch"
    share         of the card's bandwidth, or, by the matrix units, of their peak
    """

    label: str
    kernel: str
    instructions: int
    loop: int | None
    per_weight: float | None
    loads: dict[int, int]
    scalar_loads: dict[int, int]
    dots: int
    matrix_operations: int
    vgprs: int
    shared_bytes: int
    spilled_bytes: int
    waves: int
    limit: str
    share: float | None


def reports(target: Target) -> list[Report]:
    """Of all typical launches, for an AMD target."""
    return [report(launch, target) for launch in typical_launches(target)]


def report(launch: Typical, target: Target) -> Report:
    program = compile_kernel(launch.kernel, target, **launch.static)
    image = load(program.code, program.entry, target.name)
    instructions = _instructions(image)
    loop = _main_loop(instructions)
    names = Counter(each.name for each in instructions)
    vgprs = (image.descriptor.rsrc1.vgprs + 1) * 8
    shared = image.descriptor.group_segment_bytes
    waves = _resident(vgprs, shared, program)
    per_weight = len(loop) / launch.loop_weights if launch.loop_weights and loop else None
    limit, share = _estimate(launch, program, instructions, loop, waves)
    return Report(
        label=launch.label,
        kernel=launch.kernel.name,
        instructions=len(instructions),
        loop=len(loop) if launch.loop_weights and loop else None,
        per_weight=per_weight,
        loads=_widths(names, "global_load_"),
        scalar_loads=_widths(names, "s_load_"),
        dots=sum(count for name, count in names.items() if name.startswith("v_dot")),
        matrix_operations=sum(count for name, count in names.items() if "wmma" in name),
        vgprs=vgprs,
        shared_bytes=shared,
        spilled_bytes=image.descriptor.private_segment_bytes,
        waves=waves,
        limit=limit,
        share=share,
    )


# Reading the code -----------------------------------------------------------------------------


def _instructions(image: Image) -> list[Instruction]:
    """Those that can be reached, by address."""

    def fetch(offset: int) -> int:
        at = image.entry_offset + offset
        return int.from_bytes(image.bytes[at : at + 4], "little")

    blocks = decode(fetch)
    found = [each for start in sorted(blocks) for each in blocks[start].instructions]
    return list({each.address: each for each in found}.values())


def _main_loop(instructions: list[Instruction]) -> list[Instruction]:
    """The innermost loop that does the most of a product: dots, matrix operations, else loads."""
    loops: list[tuple[int, int]] = []
    for each in instructions:
        target = each.branch if "branch" in each.name else None
        if target is not None and target <= each.address:
            loops.append((target, each.address))
    inner = [
        (start, end)
        for start, end in loops
        if not any(start <= a and b <= end and (a, b) != (start, end) for a, b in loops)
    ]
    bodies = [[x for x in instructions if start <= x.address <= end] for start, end in inner]
    return max(bodies, key=_work) if bodies else []


def _work(body: list[Instruction]) -> tuple[int, int]:
    products = sum(x.name.startswith(("v_dot", "v_wmma", "v_fma_mix")) for x in body)
    return products, sum(x.name.startswith("global_load") for x in body)


def _widths(names: Counter[str], prefix: str) -> dict[int, int]:
    """How many loads there are of each width in bits."""
    found: Counter[int] = Counter()
    for name, count in names.items():
        if name.startswith(prefix):
            digits = "".join(c for c in name.rpartition("_")[2] if c.isdigit())
            found[int(digits)] += count
    return dict(sorted(found.items(), reverse=True))


# The estimate ---------------------------------------------------------------------------------


def _resident(vgprs: int, shared: int, program: Program) -> int:
    """Waves of one SIMD: as many as registers and the 128 KiB of a processor's memory hold."""
    by_registers = VECTOR_REGISTERS // max(-(-vgprs // 24) * 24, 1)
    waves = program.group_size // _WAVE
    by_memory = (131072 // shared) * waves // 4 if shared else MOST_WAVES
    return max(1, min(MOST_WAVES, by_registers, by_memory))


def _estimate(
    launch: Typical,
    program: Program,
    instructions: list[Instruction],
    loop: list[Instruction],
    waves: int,
) -> tuple[str, float | None]:
    """What bounds a launch, and its share of that limit; no share for what is no product."""
    if not launch.loop_weights or not loop:
        return "launch", None
    group_waves = program.group_size // _WAVE
    matrix = sum("wmma" in x.name for x in loop)
    vector = sum(x.name.startswith(("v_", "ds_", "global_", "scratch_")) for x in loop)
    if matrix:
        busy = matrix * MATRIX_CYCLES
        return "matrix units", busy / (busy + vector - matrix)
    turns = launch.weights / (launch.loop_weights * _WAVE)
    around = (len(instructions) - len(loop)) * launch.groups * group_waves
    issue_s = (turns * vector + around) / (SIMDS * CLOCK_HZ)
    memory_s = launch.memory_bytes / MEMORY_BYTES_PER_S
    resident = min(launch.groups * group_waves, SIMDS * waves)
    turn_bytes = launch.memory_bytes / turns
    latency_s = launch.memory_bytes / (resident * turn_bytes / LATENCY_S)
    times = {"memory": memory_s, "latency": latency_s, "issue": issue_s}
    limit = max(times, key=lambda name: times[name])
    if times[limit] < FIXED_S:
        limit = "launch"
    return limit, memory_s / (max(times.values()) + FIXED_S)


# For people -----------------------------------------------------------------------------------

HEADINGS = (
    "launch", "instructions", "loop", "per weight", "loads", "scalar loads", "dots", "VGPRs", "LDS",
    "spills", "waves", "share", "limit",
)  # fmt: skip


def row(found: Report) -> tuple[str, ...]:
    """A report as the cells of a table under `HEADINGS`."""
    products = f"{found.matrix_operations} wmma" if found.matrix_operations else str(found.dots)
    return (
        found.label,
        str(found.instructions),
        "" if found.loop is None else str(found.loop),
        "" if found.per_weight is None else f"{found.per_weight:.2f}",
        _shown(found.loads),
        _shown(found.scalar_loads),
        products,
        str(found.vgprs),
        str(found.shared_bytes),
        str(found.spilled_bytes),
        str(found.waves),
        "" if found.share is None else f"{found.share:.0%}",
        found.limit if found.share is not None else "",
    )


def _shown(widths: dict[int, int]) -> str:
    return " ".join(f"{count}x{width}" for width, count in widths.items()) or "0"


def page(target: Target, found: list[Report]) -> str:
    """The report as a page of documentation."""
    lines = [
        f"# GPU kernels: what the code for {target.name} consists of",
        "",
        f"Made by `exosuit kernels --target {target.name} --report FILE`; do not edit.",
        "",
        "Every launch is one of a real model (Llama 3.1 8B's shapes; experts as in Qwen3",
        "30B-A3B), every count is read from the object that the driver loads. `loop` is the main",
        "loop's instructions, `per weight` these for each weight that a lane multiplies in it,",
        "`loads` the global loads by width in bits, `spills` bytes of scratch memory for each",
        "lane, `waves` those that registers and LDS let one SIMD hold.",
        "",
        f"`share` is an estimate for the {CHIP}, not a measurement: for products by dots the",
        f"share of its {MEMORY_BYTES_PER_S / 1e9:.0f} GB/s, for products by the matrix units",
        "the share of their peak. Its reasoning:",
        "",
        f"- memory: the weights' bytes at {MEMORY_BYTES_PER_S / 1e9:.0f} GB/s, each read once;",
        "- latency: waves that are resident have one turn of the loop under way each, for",
        f"  {LATENCY_S * 1e6:.1f} us (assumed);",
        f"- issue: the loop's vector instructions, one a cycle on each of {SIMDS} SIMDs at",
        f"  {CLOCK_HZ / 1e9:.1f} GHz, and everything outside of the loop once per wave;",
        f"- the longest of these, plus {FIXED_S * 1e6:.0f} us (assumed) for the launch, the",
        "  first loads and the last wave;",
        f"- matrix units: a WMMA takes {MATRIX_CYCLES} cycles of a SIMD, and no other",
        "  instruction of the loop is counted as hidden behind it.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
        *("| " + " | ".join(row(each)) + " |" for each in found),
        "",
    ]
    return "\n".join(lines)
