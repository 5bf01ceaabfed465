"""How fast is the way to a card: a software card in its own process, over UNIX socket and TCP.

    python benchmarks/link.py [--json]

Posted writes in one burst, reads (a round trip each), bulk through a BAR in both directions, bulk
through DMA memory by the host and by the card's copy engine. Medians of five; the virtual time of
the card is off (slot). What is measured is this machine's sockets and Python, not a card.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from exosuit.link.function import PciFunction
from exosuit.link.remote import RemoteLink
from exosuit.link.tinygpu import ServerProcess, TinyGpuLink
from exosuit.silicon import generic
from exosuit.silicon.pci import Command
from exosuit.units import MiB

BURST = 10_000
READS = 2_000
BULK = 64 * MiB
REPEAT = 5


@contextmanager
def over_unix() -> Iterator[PciFunction]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "card"
        words = [sys.executable, "-m", "exosuit", "softcard", "generic", "--listen"]
        with (
            ServerProcess.start([*words, f"unix:{path}"], path),
            TinyGpuLink.open(path, timeout_s=60) as link,
        ):
            yield link


@contextmanager
def over_tcp() -> Iterator[PciFunction]:
    words = [sys.executable, "-m", "exosuit", "softcard", "generic", "--listen", "tcp:127.0.0.1:0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().decode().rsplit(":", 1)[1])
        try:
            with RemoteLink.open("127.0.0.1", port, timeout_s=60) as link:
                yield link
        finally:
            server.terminate()


def timed(work: Callable[[], object]) -> float:
    """Median seconds of `REPEAT` runs after one that is thrown away."""
    work()
    times: list[float] = []
    for _ in range(REPEAT):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(link: PciFunction) -> dict[str, float]:
    """Figures of one link."""
    registers, window = link.bar(generic.REGISTER_BAR), link.bar(generic.MEMORY_BAR)
    data, back = bytes(BULK), bytearray(BULK)

    def burst() -> None:
        before = link.counters.copy()
        for number in range(BURST):
            registers.write32(0x1000 + 4 * (number % 1024), number)
        registers.read32(0x1000)  # all have arrived when this has its answer
        spent = link.counters.since(before)
        assert (spent.writes, spent.bytes_written, spent.round_trips) == (BURST, 4 * BURST, 1)

    def reads() -> None:
        for _ in range(READS):
            registers.read32(0)

    def bar_write() -> None:
        window.write(0, data)
        window.read32(0)

    memory = link.allocate_dma(BULK, contiguous=True)

    def dma_write() -> None:
        memory.write(0, data)
        memory.read32(0)

    ring = link.allocate_dma(4096, contiguous=True)
    link.write_config(4, Command(memory_space=True, bus_master=True), 2)
    block = generic.Registers(registers)
    block.RING_BASE.write(ring.bus_address())
    block.RING_SIZE.write(1024)
    block.CONTROL.write(enable=True)
    written = 0

    def engine() -> None:
        nonlocal written
        copy = generic.Copy.build(source=memory.bus_address(), target=0, count=BULK)
        copy.header = copy.header.replace(source=generic.Aperture.HOST)
        ring.write(written % 1024, bytes(copy))
        written += copy.SIZE
        link.bar(generic.DOORBELL_BAR).write64(0, written)
        while block.READ_POINTER.read() != written:
            pass

    return {
        "posted_writes_per_s": BURST / timed(burst),
        "read_us": timed(reads) / READS * 1e6,
        "bar_write_gb_s": BULK / timed(bar_write) / 1e9,
        "bar_read_gb_s": BULK / timed(lambda: window.read_into(0, memoryview(back))) / 1e9,
        "dma_write_gb_s": BULK / timed(dma_write) / 1e9,
        "dma_read_gb_s": BULK / timed(lambda: memory.read_into(0, memoryview(back))) / 1e9,
        "card_dma_gb_s": BULK / timed(engine) / 1e9,
    }


def main() -> None:
    results: dict[str, dict[str, float]] = {}
    for name, opened in (("unix", over_unix), ("tcp", over_tcp)):
        with opened() as link:
            results[name] = measure(link)
    if "--json" in sys.argv:
        print(json.dumps(results, indent=2))
        return
    print(f"{'':22}" + "".join(f"{name:>14}" for name in results))
    for figure in results["unix"]:
        print(f"{figure:22}" + "".join(f"{r[figure]:14,.2f}" for r in results.values()))


if __name__ == "__main__":
    main()
