"""`ToldNodes`: device nodes around device nodes, that tell every call of a kernel driver in words.

What the recorder is to a link, this is to ioctls: it names escapes, classes, controls and calls of
unified memory as `silicon` describes them, with the status that each came back with.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from exosuit.datasheet import Struct
from exosuit.link.nodes import DeviceNodes, Mapping
from exosuit.silicon.nvidia import ioctl, rm_controls, uvm
from exosuit.silicon.nvidia.classes import (
    ComputeClass,
    CopyClass,
    GpfifoClass,
    ObjectClass,
    UsermodeClass,
)
from exosuit.silicon.nvidia.ioctl import Escape, Request
from exosuit.silicon.nvidia.rm import status_name

T = TypeVar("T")

_UVM_NODE = "/dev/nvidia-uvm"
_CONTROLS = {
    kind.COMMAND: kind.__name__.partition("Of5")[0]
    for kind in vars(rm_controls).values()
    if isinstance(kind, type) and issubclass(kind, rm_controls.Control) and kind.COMMAND
}
_CALLS: dict[tuple[int, int], type[uvm.UvmCall]] = {
    (kind.REQUEST, kind.SIZE): kind
    for kind in vars(uvm).values()
    if isinstance(kind, type) and issubclass(kind, uvm.UvmCall) and kind.REQUEST
}
_ESCAPES: dict[tuple[Escape, int], type[Struct]] = {
    (Escape.RM_ALLOC, ioctl.RmAlloc.SIZE): ioctl.RmAlloc,
    (Escape.RM_ALLOC, ioctl.RmAllocWide.SIZE): ioctl.RmAllocWide,
    (Escape.RM_CONTROL, ioctl.RmControl.SIZE): ioctl.RmControl,
    (Escape.RM_FREE, ioctl.RmFree.SIZE): ioctl.RmFree,
    (Escape.RM_ALLOC_MEMORY, ioctl.RmAllocMemory.SIZE): ioctl.RmAllocMemory,
    (Escape.RM_MAP_MEMORY, ioctl.RmMapMemory.SIZE): ioctl.RmMapMemory,
}


class ToldNodes:
    """Implements DeviceNodes.

    tell  called with the name of each call and with how it ended
    """

    def __init__(self, nodes: DeviceNodes, tell: Callable[[str, str], None]) -> None:
        self._nodes = nodes
        self._tell = tell
        self._paths: dict[int, str] = {}

    def open(self, path: str) -> int:
        fd = self._watch(f"open {path}", lambda: self._nodes.open(path))
        self._paths[fd] = path
        return fd

    def ioctl(self, fd: int, request: int, record: bytearray) -> None:
        is_uvm = self._paths.get(fd) == _UVM_NODE
        name, kind = (_uvm if is_uvm else _escape)(request, record)
        self._watch(name, lambda: self._nodes.ioctl(fd, request, record), kind, record)

    def map(self, fd: int, size: int) -> Mapping:
        return self._watch("mmap", lambda: self._nodes.map(fd, size))

    def close(self, fd: int) -> None:
        self._watch(f"close {self._paths.pop(fd, fd)}", lambda: self._nodes.close(fd))

    def _watch(
        self, name: str, call: Callable[[], T], kind: type[Struct] | None = None,
        record: bytearray | None = None,
    ) -> T:  # fmt: skip
        try:
            found = call()
        except OSError as error:
            self._tell(name, errno.errorcode.get(error.errno or 0, str(error)))
            raise
        ended = "done"
        slot = kind.SLOTS.get("status") if kind is not None else None
        if slot is not None and record is not None:
            ended = status_name(slot.read(memoryview(record), slot.offset))
        self._tell(name, ended)
        return found


def class_name(class_id: int) -> str:
    """`Gpfifo HOPPER_A`, or the number where the class is not known."""
    for kind in (ObjectClass, UsermodeClass, GpfifoClass, ComputeClass, CopyClass):
        if class_id in tuple(kind):
            role = "" if kind is ObjectClass else f"{kind.__name__.removesuffix('Class')} "
            return f"{role}{kind(class_id).name}"
    return f"{class_id:#06x}"


def _uvm(request: int, record: bytearray) -> tuple[str, type[Struct] | None]:
    kind = _CALLS.get((request, len(record)))
    named = f"{request:#x}" if kind is None else kind.__name__.partition("Of5")[0]
    return f"UVM {named}", kind


def _escape(request: int, record: bytearray) -> tuple[str, type[Struct] | None]:
    asked = Request(request & 0xFFFF_FFFF)
    number = asked.number
    name = getattr(number, "name", f"escape {int(number):#x}")
    kind = _ESCAPES.get((number, asked.size))
    view = kind(record) if kind is not None else None
    if isinstance(view, ioctl.RmAlloc | ioctl.RmAllocWide | ioctl.RmAllocMemory):
        name = f"{name} {class_name(view.class_id)}"
    if isinstance(view, ioctl.RmControl):
        name = f"{name} {_CONTROLS.get(view.command, f'{view.command:#010x}')}"
    return name, kind
