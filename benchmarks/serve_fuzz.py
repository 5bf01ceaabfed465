"""Malformed requests by the hundred thousand: none crashes the server, hangs, or leaks memory.

    python -m benchmarks.serve_fuzz --model MODEL.gguf --requests 100000

A server of its own is started with a small model; requests come from `tests/serve/malformed.py`
over several connections. Prints one JSON document: statuses, seconds, resident bytes of the server
after each tenth of the requests. Exits 1 on any 5xx other than 503, on silence for 30 seconds, on a
dead server, or if the second half of the requests cost more than --growth MiB: what is compiled and
cached at first sight comes earlier, what is lost each time goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from tests.serve.conftest import serving
from tests.serve.malformed import MODEL, Connection, Malformed

from exosuit.models.store import Store
from exosuit.settings import Settings

ROUNDS = 10


async def fuzz(address: str, seed: int, count: int, connections: int) -> Counter[int]:
    """Statuses by how often they came; 0 is a connection closed without a word."""
    where = urlsplit(address)
    supply = Malformed(seed)
    left = iter(range(count))
    seen: Counter[int] = Counter()

    async def work() -> None:
        connection = Connection(where.hostname or "", where.port or 80)
        for _ in left:
            seen[await connection.send(supply.next())] += 1
        connection.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    return seen


def resident_bytes(pid: int) -> int:
    """By `ps`, which macOS and Linux have."""
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True)
    return int(said.stdout) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--growth", type=float, default=16.0, help="MiB that the second half may cost"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        Store(Settings(home=folder).model_store).add(arguments.model, MODEL, link=True)
        with serving(home, "--model", MODEL, "--context", "64") as served:
            pid = served.process.pid
            start = time.monotonic()
            seen: Counter[int] = Counter()
            resident: list[int] = []
            for part in range(ROUNDS):
                count = arguments.requests // ROUNDS
                seed = arguments.seed * ROUNDS + part
                seen += asyncio.run(fuzz(served.address, seed, count, arguments.connections))
                resident.append(resident_bytes(pid))
            seconds = time.monotonic() - start
    faults = {status: n for status, n in seen.items() if status >= 500 and status != 503}
    grown = (resident[-1] - resident[ROUNDS // 2 - 1]) / 2**20
    print(
        json.dumps(
            {
                "requests": arguments.requests,
                "seconds": round(seconds, 1),
                "statuses": {str(status): seen[status] for status in sorted(seen)},
                "resident_bytes": resident,
                "grown_mib": round(grown, 2),
                "faults": faults,
            },
            indent=2,
        )
    )
    return int(bool(faults) or grown > arguments.growth)


if __name__ == "__main__":
    sys.exit(main())
