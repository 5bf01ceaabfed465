"""Nodes around nodes: every call in words, as the descriptions in `silicon` name it."""

from __future__ import annotations

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

_CONTROLS = {
    kind.COMMAND: kind.__name__.partition("Of5")[0]
    for kind in vars(rm_controls).values()
    if isinstance(kind, type) and issubclass(kind, rm_controls.Control) and kind.COMMAND
}
_UVM = {
    kind.REQUEST: kind.__name__.partition("Of5")[0]
    for kind in vars(uvm).values()
    if isinstance(kind, type) and issubclass(kind, uvm.UvmCall) and kind.REQUEST
}


class Told:
    """Implements DeviceNodes. `calls` is what was asked, in order."""

    def __init__(self, nodes: DeviceNodes) -> None:
        self._nodes = nodes
        self._paths: dict[int, str] = {}
        self.calls: list[str] = []

    def open(self, path: str) -> int:
        self.calls.append(f"open {path}")
        fd = self._nodes.open(path)
        self._paths[fd] = path
        return fd

    def ioctl(self, fd: int, request: int, record: bytearray) -> None:
        if self._paths[fd] == "/dev/nvidia-uvm":
            self.calls.append(f"UVM {_UVM[request]}")
        else:
            self.calls.append(_escape(request, record))
        self._nodes.ioctl(fd, request, record)

    def map(self, fd: int, size: int) -> Mapping:
        self.calls.append("mmap")
        return self._nodes.map(fd, size)

    def close(self, fd: int) -> None:
        self._nodes.close(fd)


def _escape(request: int, record: bytearray) -> str:
    number = Request(request & 0xFFFF_FFFF).number
    if number == Escape.RM_ALLOC:
        return f"RM_ALLOC {class_name(ioctl.RmAlloc(record).class_id)}"
    if number == Escape.RM_ALLOC_MEMORY:
        return f"RM_ALLOC_MEMORY {class_name(ioctl.RmAllocMemory(record).class_id)}"
    if number == Escape.RM_CONTROL:
        return f"RM_CONTROL {_CONTROLS[ioctl.RmControl(record).command]}"
    return number.name


def class_name(class_id: int) -> str:
    for kind in (ObjectClass, UsermodeClass, GpfifoClass, ComputeClass, CopyClass):
        if class_id in tuple(kind):
            role = "" if kind is ObjectClass else f"{kind.__name__.removesuffix('Class')} "
            return f"{role}{kind(class_id).name}"
    return hex(class_id)
