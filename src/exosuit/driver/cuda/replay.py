"""Launches as a CUDA graph: one node each, one call for all of them.

Between two fences launches depend on nothing of each other; a fence makes everything behind it
depend on everything before it. Where several meet several, a node that does nothing stands between
them, so that there are as many edges as launches and not as many as pairs. Arguments are packed as
for every other device, eight bytes each, and libcuda copies them when the node is made.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from exosuit.driver.cuda.context import Context
from exosuit.driver.cuda.library import KernelNode
from exosuit.driver.cuda.programs import Programs
from exosuit.driver.device import Launch

_BUFFER, _BUFFER_SIZE, _END = 1, 2, 0
"""CU_LAUNCH_PARAM_*: what `extra` is a list of."""

_Nodes = ctypes.Array[ctypes.c_void_p]


def phases(launches: Sequence[Launch]) -> list[list[Launch]]:
    """The launches between fences; those without workgroups leave nothing but their fence."""
    found: list[list[Launch]] = [[]]
    for launch in launches:
        if launch.fence and found[-1]:
            found.append([])
        if launch.groups:
            found[-1].append(launch)
    return [phase for phase in found if phase]


class GraphBuilder:
    """Makes one CUDA graph."""

    def __init__(self, context: Context, programs: Programs) -> None:
        self._context = context
        self._programs = programs

    def build(self, launches: Sequence[Launch]) -> int:
        """The CUgraphExec of these launches, uploaded. The context is this thread's."""
        graph = self._context.handle("cuGraphCreate", 0)
        try:
            before: list[int] = []
            for phase in phases(launches):
                if len(before) > 1 and len(phase) > 1:
                    before = [self._empty(graph, before)]
                before = [self._kernel(graph, before, launch) for launch in phase]
            made = self._context.handle("cuGraphInstantiateWithFlags", graph, 0)
        finally:
            if self._context.problem is None:
                self._context.call("cuGraphDestroy", graph)
        self._context.call("cuGraphUpload", made, self._context.stream)
        return made

    def _empty(self, graph: int, before: list[int]) -> int:
        return self._context.handle("cuGraphAddEmptyNode", graph, _array(before), len(before))

    def _kernel(self, graph: int, before: list[int], launch: Launch) -> int:
        block = launch.argument_block()
        size = ctypes.c_size_t(len(block))
        extra = (ctypes.c_void_p * 5)(
            _BUFFER, ctypes.cast(ctypes.c_char_p(block), ctypes.c_void_p).value,
            _BUFFER_SIZE, ctypes.addressof(size), _END,
        )  # fmt: skip
        node = KernelNode(
            func=self._programs.function(launch.program),
            grid=(launch.groups, 1, 1),
            block=(launch.program.group_size, 1, 1),
            extra=extra,
        )
        return self._context.handle(
            "cuGraphAddKernelNode_v2", graph, _array(before), len(before), ctypes.byref(node)
        )


def _array(handles: list[int]) -> _Nodes:
    return (ctypes.c_void_p * max(len(handles), 1))(*handles)
