"""The objects of NVIDIA's resource manager: handles, classes, parents, parameters, controls.

The kernel driver answers for them to ioctls, the card's firmware to RPCs; both models share this
tree and register what only they have: classes with the parameters of their version, and controls.
What a driver gets wrong is told by the status codes that the real one would give.

Source: `src/nvidia/inc/libraries/resserv` and `nvstatuscodes.h` of NVIDIA/open-gpu-kernel-modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from exosuit.silicon.nvidia.rm import Status


class RmError(Exception):
    """A call is refused with a status; `why` is for the model's notes."""

    def __init__(self, status: Status, why: str) -> None:
        super().__init__(f"{status.name}: {why}")
        self.status = status
        self.why = why


@dataclass(eq=False)
class Resource:
    """One object.

    params  its parameters as they were given, and filled in
    state   what whoever registered its class keeps with it
    """

    handle: int
    class_id: int
    parent: Resource | None
    params: bytes = b""
    state: Any = None
    children: dict[int, Resource] = field(default_factory=dict[int, "Resource"], repr=False)

    def ancestors(self) -> Iterator[Resource]:
        """Itself, its parent, and so on up to the client."""
        found: Resource | None = self
        while found is not None:
            yield found
            found = found.parent

    def above(self, *class_ids: int) -> Resource:
        """The nearest of itself and its ancestors that is of one of these classes."""
        for found in self.ancestors():
            if found.class_id in class_ids:
                return found
        raise RmError(Status.INVALID_OBJECT_PARENT, f"{self.handle:#x} is under none of these")

    @property
    def client(self) -> Resource:
        *_, root = self.ancestors()
        return root


Created = Callable[[Resource, bytearray], None]
"""Called with a new object and its parameters, which it may fill in; raises RmError to refuse."""
Freed = Callable[[Resource], None]
Control = Callable[[Resource, bytearray], None]
"""Called with an object and the parameters of a control, which it may fill in."""


@dataclass(frozen=True)
class _Class:
    name: str
    parents: frozenset[int]
    sizes: frozenset[int]
    created: Created | None
    freed: Freed | None


@dataclass(frozen=True)
class _Command:
    name: str
    classes: frozenset[int]
    sizes: frozenset[int]
    handler: Control


CLIENT = -1
"""In place of a parent's class: the object is a client itself."""
_FIRST_HANDLE = 0xCAF0_0000


class Resources:
    """All clients of one driver.

    refuse  called with what a driver got wrong, beside the status that it gets
    """

    def __init__(self, refuse: Callable[[str], None] | None = None) -> None:
        self.clients: dict[int, Resource] = {}
        self._objects: dict[tuple[int, int], Resource] = {}
        self._classes: dict[int, _Class] = {}
        self._controls: dict[int, _Command] = {}
        self._refuse = refuse
        self._next = _FIRST_HANDLE

    # What there is.

    def add_class(
        self,
        class_id: int,
        name: str,
        parents: Sequence[int],
        sizes: Sequence[int] = (0,),
        created: Created | None = None,
        freed: Freed | None = None,
    ) -> None:
        """Let objects of a class be made.

        parents  classes that they may lie under; CLIENT for a class of clients
        sizes    bytes that their parameters may have; 0 for none
        """
        self._classes[class_id] = _Class(name, frozenset(parents), frozenset(sizes), created, freed)

    def add_control(
        self, command: int, name: str, classes: Sequence[int], sizes: Sequence[int],
        handler: Control,
    ) -> None:  # fmt: skip
        """Answer a control on objects of these classes, with parameters of these sizes."""
        self._controls[command] = _Command(name, frozenset(classes), frozenset(sizes), handler)

    @property
    def class_ids(self) -> tuple[int, ...]:
        """Of everything that can be made, in order."""
        return tuple(sorted(self._classes))

    def sizes_of(self, class_id: int) -> frozenset[int]:
        """Bytes that parameters of a class may have; none for a class that there is not."""
        known = self._classes.get(class_id)
        return known.sizes if known is not None else frozenset()

    # What a driver asks for. Statuses rather than exceptions: they go into its records.

    def allocate(
        self, client: int, parent: int, handle: int, class_id: int, params: bytearray
    ) -> tuple[Status, int]:
        """Make an object; its handle is the caller's, or chosen here if that is 0."""
        try:
            return Status.OK, self._allocate(client, parent, handle, class_id, params).handle
        except RmError as error:
            return self._refused(f"an allocation of class {class_id:#x}", error), 0

    def control(self, client: int, handle: int, command: int, params: bytearray) -> Status:
        """Let an object do something; `params` holds the answer afterwards."""
        try:
            found = self.find(client, handle)
            known = self._controls.get(command)
            if known is None:
                raise RmError(Status.NOT_SUPPORTED, "there is no such control")
            if known.classes and found.class_id not in known.classes:
                raise RmError(Status.NOT_SUPPORTED, f"{known.name} on {found.class_id:#x}")
            if len(params) not in known.sizes:
                raise RmError(Status.INVALID_PARAM_STRUCT, f"{known.name} of {len(params)} bytes")
            known.handler(found, params)
        except RmError as error:
            return self._refused(f"control {command:#x}", error)
        return Status.OK

    def free(self, client: int, handle: int) -> Status:
        """Remove an object, and everything below it first."""
        try:
            self._free(client, self.find(client, handle))
        except RmError as error:
            return self._refused(f"freeing {handle:#x}", error)
        return Status.OK

    def find(self, client: int, handle: int, *class_ids: int) -> Resource:
        """An object of a client. Raises RmError."""
        if client not in self.clients:
            raise RmError(Status.INVALID_CLIENT, f"there is no client {client:#x}")
        found = self._objects.get((client, handle))
        if found is None:
            raise RmError(Status.INVALID_OBJECT_HANDLE, f"there is no object {handle:#x}")
        if class_ids and found.class_id not in class_ids:
            raise RmError(Status.INVALID_OBJECT_HANDLE, f"{handle:#x} is a {found.class_id:#x}")
        return found

    def of_class(self, *class_ids: int) -> Iterator[Resource]:
        """Every object of these classes, of all clients, the oldest first."""
        return (found for found in tuple(self._objects.values()) if found.class_id in class_ids)

    def clear(self) -> None:
        """Forget everything, as a reset of the card does; nothing is told to anybody."""
        self.clients.clear()
        self._objects.clear()

    def _allocate(
        self, client: int, parent: int, handle: int, class_id: int, params: bytearray
    ) -> Resource:
        known = self._classes.get(class_id)
        if known is None:
            raise RmError(Status.INVALID_CLASS, "there is no such class")
        is_client = CLIENT in known.parents
        if is_client:
            handle = client or handle
        else:
            above = self.find(client, parent)
            if above.class_id not in known.parents:
                raise RmError(
                    Status.INVALID_OBJECT_PARENT, f"{known.name} under a {above.class_id:#x}"
                )
        if len(params) not in known.sizes:
            raise RmError(Status.INVALID_PARAM_STRUCT, f"{known.name} of {len(params)} bytes")
        if handle == 0:
            handle = self._new_handle(client)
        owner = handle if is_client else client
        if (owner, handle) in self._objects:
            raise RmError(Status.INSERT_DUPLICATE_NAME, f"{handle:#x} is taken")
        made = Resource(handle, class_id, None if is_client else self.find(client, parent))
        if known.created is not None:
            known.created(made, params)
        made.params = bytes(params)
        self._objects[owner, handle] = made
        if made.parent is None:
            self.clients[handle] = made
        else:
            made.parent.children[handle] = made
        return made

    def _new_handle(self, client: int) -> int:
        while (client, self._next) in self._objects or self._next in self.clients:
            self._next += 1
        self._next += 1
        return self._next - 1

    def _free(self, client: int, found: Resource) -> None:
        for child in reversed(tuple(found.children.values())):
            self._free(client, child)
        known = self._classes[found.class_id]
        if known.freed is not None:
            known.freed(found)
        del self._objects[client, found.handle]
        if found.parent is None:
            del self.clients[client]
        else:
            del found.parent.children[found.handle]

    def _refused(self, what: str, error: RmError) -> Status:
        # Running out of memory is nobody's mistake.
        if self._refuse is not None and error.status != Status.NO_MEMORY:
            self._refuse(f"{what}: {error}")
        return error.status
