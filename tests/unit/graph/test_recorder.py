"""Fences: placed wherever memory demands one, and nowhere else."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exosuit.driver.device import Buffer, Launch, Region
from exosuit.errors import ShapeMismatch
from exosuit.graph import Graph
from exosuit.program import Access, Parameter, Program

BUFFERS = [Buffer(f"b{k}", 0x1000 * k, 64) for k in range(3)]
MEMORY = (Access.IN, Access.OUT, Access.INOUT)


def program(*accesses: Access) -> Program:
    named = tuple(
        Parameter(f"p{k}", "i32" if access is Access.VALUE else "u8", access)
        for k, access in enumerate(accesses)
    )
    return Program("probe", "nowhere", "probe", b"", named, 1, 0)


regions = st.builds(
    lambda buffer, start, size: buffer.region(start, min(size, 64 - start)),
    st.sampled_from(BUFFERS),
    st.integers(0, 60),
    st.integers(0, 16),
)
steps = st.lists(st.tuples(st.sampled_from(MEMORY), regions), min_size=1, max_size=3)
recordings = st.lists(steps, max_size=25)


def record(recording: list[list[tuple[Access, Region]]]) -> list[list[Launch]]:
    """The phases that the graph makes of it."""
    graph = Graph()
    for step in recording:
        accesses, arguments = zip(*step, strict=True)
        graph.launch(program(*accesses), 1, *arguments)
    phases: list[list[Launch]] = []
    for launch in graph.launches:
        if launch.fence or not phases:
            phases.append([])
        phases[-1].append(launch)
    return phases


def touched(launch: Launch) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """Every byte that a launch reads, and every byte that it writes."""
    read: set[tuple[str, int]] = set()
    written: set[tuple[str, int]] = set()
    for parameter, region in zip(launch.program.parameters, launch.arguments, strict=True):
        assert isinstance(region, Region)
        stop = region.offset + region.size_bytes
        span = {(region.buffer.name, k) for k in range(region.offset, stop)}
        read |= span if parameter.access.reads else set()
        written |= span if parameter.access.writes else set()
    return read, written


def conflict(one: Launch, other: Launch) -> bool:
    (read_1, written_1), (read_2, written_2) = touched(one), touched(other)
    return bool(written_1 & written_2 or written_1 & read_2 or read_1 & written_2)


@given(recordings)
def test_launches_of_one_phase_share_nothing_that_is_written(recording):
    """So every order of a phase's launches, and all at once, gives what one after another does."""
    for phase in record(recording):
        assert not any(itertools.starmap(conflict, itertools.combinations(phase, 2)))


@given(recordings)
def test_no_fence_without_a_reason(recording):
    for before, phase in itertools.pairwise(record(recording)):
        assert any(conflict(launch, phase[0]) for launch in before)


@given(recordings)
def test_order_and_arguments_are_kept(recording):
    recorded = [launch.arguments for phase in record(recording) for launch in phase]
    assert recorded == [tuple(region for _, region in step) for step in recording]


@pytest.mark.parametrize(
    ("first", "then", "fence"),
    [
        (Access.IN, Access.IN, False),
        (Access.OUT, Access.IN, True),  # read after write
        (Access.IN, Access.OUT, True),  # write after read
        (Access.OUT, Access.OUT, True),  # write after write
        (Access.INOUT, Access.IN, True),
        (Access.IN, Access.INOUT, True),
    ],
)
def test_every_hazard(first, then, fence):
    graph, region = Graph(), BUFFERS[0].region()
    graph.launch(program(first), 1, region)
    graph.launch(program(then), 1, region)
    assert [launch.fence for launch in graph.launches] == [False, fence]


def test_a_launch_does_not_wait_for_itself():
    graph, region = Graph(), BUFFERS[0].region()
    graph.launch(program(Access.IN, Access.OUT, Access.INOUT), 1, region, region, region)
    assert not graph.launches[0].fence


def test_a_hazard_is_remembered_past_other_launches():
    """Not only the launch before counts, but all since the last fence."""
    graph = Graph()
    graph.launch(program(Access.OUT), 1, BUFFERS[0].region())
    graph.launch(program(Access.OUT), 1, BUFFERS[1].region())
    graph.launch(program(Access.OUT), 1, BUFFERS[2].region())
    graph.launch(program(Access.IN), 1, BUFFERS[0].region(7, 1))
    graph.launch(program(Access.IN), 1, BUFFERS[1].region())  # that fence served for this too
    assert [launch.fence for launch in graph.launches] == [False, False, False, True, False]


def test_numbers_are_no_hazard():
    graph = Graph()
    for _ in range(2):
        graph.launch(program(Access.VALUE, Access.IN), 1, 3, BUFFERS[0].region())
    assert not any(launch.fence for launch in graph.launches)


def test_wrong_number_of_arguments():
    with pytest.raises(ShapeMismatch, match="probe takes 2 arguments, not 1") as caught:
        Graph().launch(program(Access.IN, Access.OUT), 1, BUFFERS[0].region())
    assert caught.value.cause == "its parameters are: p0, p1"
