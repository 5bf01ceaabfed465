"""`KernelClient`: a client of the resource manager, reached by ioctls. Implements ResourceManager.

One control file and one root object for each. Whatever the client made is gone when the control
file closes, so a process that dies leaves nothing. What is asked goes in records whose layout the
driver's version decides; the version is the first thing that is asked.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import TypeVar

from exosuit.datasheet import Struct
from exosuit.driver.nvidia.kernel_driver import refusals
from exosuit.link.function import Counters
from exosuit.link.nodes import DeviceNodes, Mapping
from exosuit.silicon.nvidia.branches import Branch, branch_of
from exosuit.silicon.nvidia.classes import ObjectClass
from exosuit.silicon.nvidia.ioctl import (
    Escape,
    RmAlloc,
    RmControl,
    RmFree,
    request_of,
)
from exosuit.silicon.nvidia.rm_controls import BuildVersion

CONTROL_NODE = "/dev/nvidiactl"

S = TypeVar("S", bound=Struct)


class KernelClient:
    """A client. `counters.round_trips` counts its calls of the kernel."""

    def __init__(self, nodes: DeviceNodes) -> None:
        """Make a client, and learn the driver's version; `branch` is set by `choose_branch`.

        Raises HelperMissing or PermissionNeeded where the node cannot be opened.
        """
        self.nodes = nodes
        self.counters = Counters()
        self.client = 0
        self._branch: Branch | None = None
        self._parents: dict[int, int] = {}
        self.fd = self.open(CONTROL_NODE)
        try:
            self.client, _ = self.allocate(0, ObjectClass.ROOT_CLIENT)
            self.version = self._ask_version()
        except BaseException:
            self.close()
            raise

    @property
    def branch(self) -> Branch:
        assert self._branch is not None, "no branch was chosen"
        return self._branch

    def choose_branch(self) -> Branch:
        """The table for the driver's version. Raises ProtocolError where there is none."""
        branch = branch_of(self.version)
        if branch is None:
            raise refusals.unknown_version(self.version)
        self._branch = branch
        return branch

    # Files.

    def open(self, path: str) -> int:
        """A node's descriptor, or an error that says what is missing."""
        self.counters.round_trips += 1
        try:
            return self.nodes.open(path)
        except OSError as error:
            raise refusals.cannot_open(path, error) from error

    def escape(self, escape: Escape, record: S, fd: int | None = None) -> S:
        """One call on the control file, or on another; the record with the answer in it."""
        answer = self.call(
            escape.name, self.fd if fd is None else fd, request_of(escape, record.SIZE), record
        )
        return answer

    def call(self, what: str, fd: int, request: int, record: S) -> S:
        """One ioctl; the record comes back changed. Raises for what the kernel turns down."""
        self.counters.round_trips += 1
        data = bytearray(bytes(record))
        try:
            self.nodes.ioctl(fd, request, data)
        except OSError as error:
            raise refusals.call_failed(what, error) from error
        return type(record)(data)

    def map(self, what: str, fd: int, size: int) -> Mapping:
        """What a file has been prepared to show."""
        self.counters.round_trips += 1
        try:
            return self.nodes.map(fd, size)
        except OSError as error:
            raise refusals.call_failed(f"mapping {what}", error) from error

    # Objects.

    def allocate(
        self, parent: int, class_id: int, params: bytes = b"", handle: int | None = None
    ) -> tuple[int, bytes]:
        held, address = lend(params)
        record = RmAlloc.make(
            root=self.client,
            parent=parent,
            new=handle or 0,
            class_id=class_id,
            params=address,
            params_size=len(params),
        )
        answer = self.escape(Escape.RM_ALLOC, record)
        self._check(f"making an object of class {class_id:#06x}", answer.status)
        self._parents[answer.new] = parent
        return answer.new, bytes(held)

    def control(self, handle: int, command: int, params: bytes) -> bytes:
        held, address = lend(params)
        record = RmControl.make(
            client=self.client,
            object=handle,
            command=command,
            params=address,
            params_size=len(params),
        )
        answer = self.escape(Escape.RM_CONTROL, record)
        self._check(f"control {command:#010x}", answer.status)
        return bytes(held)

    def free(self, handle: int) -> None:
        record = RmFree.make(root=self.client, parent=self._parents.pop(handle, 0), old=handle)
        answer = self.escape(Escape.RM_FREE, record)
        self._check(f"freeing object {handle:#x}", answer.status)

    def adopt(self, handle: int, parent: int) -> None:
        """Take note of an object that was made by another call, so that `free` finds it."""
        self._parents[handle] = parent

    def close(self) -> None:
        """Give up everything that the client has. Idempotent."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                self.nodes.close(self.fd)
            self.fd = -1

    def _ask_version(self) -> str:
        question = BuildVersion.make()
        answer = BuildVersion(
            bytearray(self.control(self.client, question.COMMAND, bytes(question)))
        )
        return answer.driver_version.partition(b"\0")[0].decode("ascii", "replace")

    def _check(self, what: str, status: int) -> None:
        if status:
            raise refusals.refused(what, status)


def lend(params: bytes) -> tuple[bytearray, int]:
    """Bytes that the kernel may read and change while they are held, and their address, or 0."""
    held = bytearray(params)
    if not held:
        return held, 0
    return held, ctypes.addressof((ctypes.c_char * len(held)).from_buffer(held))
