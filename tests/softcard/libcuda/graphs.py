"""The fake's graphs: nodes that run when those they depend on are done, in any order that allows.

Nodes that are ready together run at the same time, two by two, so that launches which wait for each
other meet; which of the ready ones come first is drawn.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from exosuit.softcard.nvidia.ptx.grid import Function, Model, Window


@dataclass
class Node:
    """One launch, or nothing (`function` None)."""

    before: tuple[int, ...]
    function: Function | None = None
    grid: tuple[int, int, int] = (0, 0, 0)
    block: tuple[int, int, int] = (0, 0, 0)
    shared_bytes: int = 0
    arguments: bytes = b""


@dataclass
class Graph:
    nodes: dict[int, Node] = field(default_factory=dict)


class Runner:
    """Runs graphs on the PTX model."""

    def __init__(self, cache: Path | None, seed: int, threads: int, budget: int | None) -> None:
        more = {} if budget is None else {"budget": budget}
        self.model = Model([], cache, threads, **more)
        self._pair = [Model([], cache, 1, **more) for _ in range(2)]
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="node")
        self._random = random.Random(seed)
        for model in self._pair:  # one translation is enough
            model._code, model._functions = self.model._code, self.model._functions

    def run(self, graph: Graph, windows: list[Window]) -> None:
        """Raises PtxFault."""
        left = dict(graph.nodes)
        while left:
            ready = [k for k, node in left.items() if not any(b in left for b in node.before)]
            self._random.shuffle(ready)
            together = ready[:2]
            nodes = [left.pop(k) for k in together]
            nodes = [node for node in nodes if node.function is not None]
            if len(nodes) == 2:
                jobs = [
                    self._pool.submit(_launch, model, node, windows)
                    for model, node in zip(self._pair, nodes, strict=True)
                ]
                for job in jobs:
                    job.result()
            elif nodes:
                _launch(self.model, nodes[0], windows)

    def close(self) -> None:
        self._pool.shutdown()


def _launch(model: Model, node: Node, windows: list[Window]) -> None:
    assert node.function is not None
    model.windows = windows
    model.run(node.function, node.grid, node.block, node.arguments, node.shared_bytes)
