"""What stops a channel, decoded; the models tell it on in the form that their drivers know.

Each fault names the channel that it stops; other channels of its group stop with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from exosuit.silicon.nvidia.exceptions import WarpError, Xid


class Engine(Enum):
    HOST = "host"
    COMPUTE = "compute"
    COPY = "copy"


@dataclass(frozen=True)
class Fault:
    """detail: for people."""

    XID: ClassVar[Xid]
    channel: int
    engine: Engine
    detail: str


@dataclass(frozen=True)
class MmuFault(Fault):
    """An access without a translation; the address is a GPU virtual one."""

    XID: ClassVar[Xid] = Xid.MMU_FAULT
    address: int
    write: bool


@dataclass(frozen=True)
class WarpFault(Fault):
    """An exception of a running program; `address` of its memory access, or 0."""

    XID: ClassVar[Xid] = Xid.GRAPHICS_EXCEPTION
    error: WarpError
    address: int = 0


@dataclass(frozen=True)
class LaunchFault(Fault):
    """A QMD that the scheduler of grids refuses."""

    XID: ClassVar[Xid] = Xid.GRAPHICS_EXCEPTION
    qmd: int


@dataclass(frozen=True)
class MethodFault(Fault):
    """A method, its data, or a class that the engine does not know."""

    XID: ClassVar[Xid] = Xid.CLASS_ERROR
    class_id: int
    method: int
    data: int


@dataclass(frozen=True)
class PushbufferFault(Fault):
    """An entry or a pushbuffer that is none, or a semaphore that cannot be."""

    XID: ClassVar[Xid] = Xid.PUSHBUFFER
    address: int


class Stopped(Exception):
    """Raised by whatever obeys a method, to stop its channel.

    fault  what is told to the driver; None for a hang, of which nobody is told
    """

    def __init__(self, fault: Fault | None, detail: str = "") -> None:
        super().__init__(detail or (fault.detail if fault else ""))
        self.fault = fault
