"""What GSP firmware answers to each function: the tree of objects, page directories, the end.

Answers are the request with its blanks filled in. The status of an object's request is in its
payload, and the record's own result is OK, as long as the record could be read.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.silicon.nvidia.classes import ObjectClass
from exosuit.silicon.nvidia.rm import Status
from exosuit.silicon.nvidia.rpc import (
    NO_PASID,
    Alloc,
    AllocMemory,
    Control,
    Free,
    Function,
    SetPageDirectory,
    Unloading,
)
from exosuit.softcard.nvidia.objects import Objects
from exosuit.softcard.nvidia.resources import RmError
from exosuit.softcard.registers import Refuse

MOST_PARAMETERS = 1 << 16

Reply = tuple[Status, bytes]


class Rpc:
    """Answers requests about `objects`.

    unload  called when the host says that it leaves
    """

    def __init__(self, objects: Objects, refuse: Refuse, unload: Callable[[], None]) -> None:
        self._objects = objects
        self._refuse = refuse
        self._unload = unload
        self._functions: dict[int, Callable[[bytearray], Status]] = {
            Function.GSP_RM_ALLOC: self._alloc,
            Function.GSP_RM_CONTROL: self._control,
            Function.FREE: self._free,
            Function.ALLOC_MEMORY: self._alloc_memory,
            Function.SET_PAGE_DIRECTORY: self._set_page_directory,
            Function.UNLOADING_GUEST_DRIVER: self._unloading,
        }

    def answer(self, function: int, payload: bytes) -> Reply:
        """Result and payload of the answer."""
        known = self._functions.get(function)
        if known is None:
            self._refuse(f"function {function}, which the firmware does not answer here")
            return Status.NOT_SUPPORTED, payload
        made = bytearray(payload)
        try:
            return known(made), bytes(made)
        except ValueError:
            self._refuse(f"function {function} with {len(payload)} bytes")
            return Status.INVALID_PARAM_STRUCT, payload

    def _parameters(self, payload: bytearray, at: int, size: int) -> bytearray:
        """What follows the fixed part. Raises ValueError."""
        if size > MOST_PARAMETERS or len(payload) < at + size:
            raise ValueError(f"{size} bytes of parameters in {len(payload)}")
        return payload[at : at + size]

    def _alloc(self, payload: bytearray) -> Status:
        asked = Alloc(payload)
        size = asked.parameters_size
        params = self._parameters(payload, Alloc.SIZE, size)
        asked.status, _ = self._objects.resources.allocate(
            asked.client, asked.parent, asked.handle, asked.class_id, params
        )
        asked.memory[Alloc.SIZE : Alloc.SIZE + size] = params
        return Status.OK

    def _control(self, payload: bytearray) -> Status:
        asked = Control(payload)
        size = asked.parameters_size
        params = self._parameters(payload, Control.SIZE, size)
        asked.status = self._objects.resources.control(
            asked.client, asked.handle, asked.command, params
        )
        asked.memory[Control.SIZE : Control.SIZE + size] = params
        return Status.OK

    def _free(self, payload: bytearray) -> Status:
        asked = Free(payload)
        asked.status = self._objects.resources.free(asked.root, asked.handle)
        return Status.OK

    def _alloc_memory(self, payload: bytearray) -> Status:
        asked = AllocMemory(payload)
        if asked.class_id != ObjectClass.MEMORY_LIST_SYSTEM:
            self._refuse(f"memory of class {asked.class_id:#x}")
            return Status.INVALID_CLASS
        if asked.page_count != asked.descriptor.length or len(payload) < (
            AllocMemory.SIZE + 8 * asked.page_count
        ):
            self._refuse(f"a list of {asked.page_count} pages in {len(payload)} bytes")
            return Status.INVALID_ARGUMENT
        return self._objects.add_memory_list(
            asked.client, asked.device, asked.handle, asked.class_id
        )

    def _set_page_directory(self, payload: bytearray) -> Status:
        asked = SetPageDirectory(payload)
        flags = asked.flags
        try:
            self._objects.resources.find(asked.client, asked.device, ObjectClass.DEVICE)
            if flags.aperture or not flags.all_channels or asked.pasid != NO_PASID:
                raise RmError(Status.INVALID_FLAGS, f"a page directory with flags {int(flags):#x}")
            self._objects.set_page_directory(
                asked.client, asked.va_space, asked.address, asked.entries
            )
        except RmError as error:
            self._refuse(f"SET_PAGE_DIRECTORY: {error}")
            return error.status
        return Status.OK

    def _unloading(self, payload: bytearray) -> Status:
        Unloading(payload)
        self._unload()
        return Status.OK
