"""The tree of the resource manager's objects: who may lie under whom, and what a mistake gives."""

from __future__ import annotations

import pytest

from exosuit.silicon.nvidia.rm import Status
from exosuit.softcard.nvidia.resources import CLIENT, Resources, RmError

ROOT, DEVICE, SUBDEVICE, CHANNEL = 0x41, 0x80, 0x2080, 0xC56F
SYSTEM = 0xC1D0_0001


@pytest.fixture
def made():
    tree = Resources()
    tree.freed = []
    tree.add_class(ROOT, "client", (CLIENT,))
    tree.add_class(DEVICE, "device", (ROOT,), (56,), freed=lambda r: tree.freed.append(r.handle))
    tree.add_class(SUBDEVICE, "subdevice", (DEVICE,), (0, 4), fill)
    tree.add_class(CHANNEL, "channel", (DEVICE,), (8,), refuse_all)
    tree.add_control(0x2080_0110, "name", (SUBDEVICE,), (4,), fill)
    return tree


def fill(resource, params):
    params[:] = bytes([7]) * len(params)


def refuse_all(resource, params):
    raise RmError(Status.NO_MEMORY, "there is none")


def test_an_object_is_made_used_and_freed_with_what_is_below_it(made):
    assert made.allocate(SYSTEM, 0, 0, ROOT, bytearray()) == (Status.OK, SYSTEM)
    assert made.allocate(SYSTEM, SYSTEM, 5, DEVICE, bytearray(56)) == (Status.OK, 5)
    status, subdevice = made.allocate(SYSTEM, 5, 0, SUBDEVICE, bytearray(4))
    assert status == Status.OK
    assert made.find(SYSTEM, subdevice).params == b"\7\7\7\7"
    assert [r.class_id for r in made.find(SYSTEM, subdevice).ancestors()] == [0x2080, 0x80, 0x41]
    assert made.find(SYSTEM, subdevice).above(DEVICE).handle == 5
    params = bytearray(4)
    assert made.control(SYSTEM, subdevice, 0x2080_0110, params) == Status.OK
    assert params == b"\7\7\7\7"
    assert made.free(SYSTEM, 5) == Status.OK
    assert made.freed == [5]
    assert made.control(SYSTEM, subdevice, 0x2080_0110, params) == Status.INVALID_OBJECT_HANDLE
    assert made.free(SYSTEM, 5) == Status.INVALID_OBJECT_HANDLE
    assert made.free(SYSTEM, SYSTEM) == Status.OK
    assert not made.clients


def test_a_client_without_a_name_gets_one(made):
    (first, a), (second, b) = (made.allocate(0, 0, 0, ROOT, bytearray()) for _ in range(2))
    assert first == second == Status.OK
    assert a != b
    assert set(made.clients) == {a, b}


@pytest.mark.parametrize(
    ("parent", "handle", "class_id", "size", "status"),
    [
        (SYSTEM, 6, 0x1234, 0, Status.INVALID_CLASS),
        (SYSTEM, 6, SUBDEVICE, 4, Status.INVALID_OBJECT_PARENT),
        (5, 6, SUBDEVICE, 8, Status.INVALID_PARAM_STRUCT),
        (9, 6, SUBDEVICE, 4, Status.INVALID_OBJECT_HANDLE),
        (5, 5, SUBDEVICE, 4, Status.INSERT_DUPLICATE_NAME),
        (5, 6, CHANNEL, 8, Status.NO_MEMORY),
    ],
)
def test_mistakes_get_the_status_that_the_real_one_gives(
    made, parent, handle, class_id, size, status
):
    told = []
    made._refuse = told.append
    made.allocate(SYSTEM, 0, 0, ROOT, bytearray())
    made.allocate(SYSTEM, SYSTEM, 5, DEVICE, bytearray(56))
    assert made.allocate(SYSTEM, parent, handle, class_id, bytearray(size)) == (status, 0)
    assert bool(told) is (status != Status.NO_MEMORY)  # which is nobody's mistake
    assert made.free(SYSTEM, 6) == Status.INVALID_OBJECT_HANDLE  # nothing is left of it


def test_controls_know_their_objects_and_sizes(made):
    made.allocate(SYSTEM, 0, 0, ROOT, bytearray())
    made.allocate(SYSTEM, SYSTEM, 5, DEVICE, bytearray(56))
    assert made.control(SYSTEM, 5, 0x2080_0110, bytearray(4)) == Status.NOT_SUPPORTED
    assert made.control(SYSTEM, 5, 0x1234, bytearray(4)) == Status.NOT_SUPPORTED
    assert made.control(1, 5, 0x1234, bytearray(4)) == Status.INVALID_CLIENT
    made.allocate(SYSTEM, 5, 6, SUBDEVICE, bytearray())
    assert made.control(SYSTEM, 6, 0x2080_0110, bytearray(8)) == Status.INVALID_PARAM_STRUCT
