"""The scheduler: every sequence gets its own text whatever company it has, and all of them end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.engine.fakes import FakeRunner, alone, toy_choice

from exosuit.engine.batch import PAGE_TOKENS, Sampling
from exosuit.engine.scheduler import Scheduler, Sequence

SAMPLING = Sampling(temperature=0)
CHOOSE = toy_choice(3)  # few tokens, so that texts often begin alike


def scheduler_of(runner: FakeRunner, prompt_tokens_beside: int | None = None) -> Scheduler:
    return Scheduler(
        max_sequences=runner.max_sequences,
        max_step_tokens=runner.max_step_tokens,
        pages=runner.pages,
        context=runner.context,
        prompt_tokens_beside=prompt_tokens_beside,
    )


def step(scheduler: Scheduler, runner: FakeRunner) -> list[Sequence]:
    """One step; the sequences that got a token."""
    planned = scheduler.schedule()
    for sequence in planned.admitted:
        runner.forget(sequence.slot, sequence.tokens[: sequence.computed])
    results = runner.run([run for _, run in planned.runs])
    for (sequence, run), sampled in zip(planned.runs, results, strict=True):
        scheduler.advance(sequence, run, sampled.token if sampled else None)
    return [s for (s, _), sampled in zip(planned.runs, results, strict=True) if sampled]


def lengths(runner: FakeRunner) -> list[int]:
    """Tokens of each run of the last step."""
    return [len(run.tokens) for run in runner.steps[-1]]


def test_a_long_prompt_comes_in_chunks_and_is_sampled_once():
    runner = FakeRunner(CHOOSE, max_step_tokens=96)
    scheduler = scheduler_of(runner)
    scheduler.add(Sequence(1, [1] * 200, SAMPLING))
    told = [len(step(scheduler, runner)) for _ in range(5)]
    assert told == [0, 0, 1, 1, 1]
    assert [len(steps[0].tokens) for steps in runner.steps] == [96, 96, 8, 1, 1]
    assert [steps[0].step for steps in runner.steps] == [0, 0, 0, 1, 2]


def test_decodes_go_on_beside_a_long_prompt():
    runner = FakeRunner(CHOOSE, max_step_tokens=96)
    scheduler = scheduler_of(runner)
    first = Sequence(1, [1] * 10, SAMPLING)
    scheduler.add(first)
    step(scheduler, runner)
    scheduler.add(Sequence(2, [2] * 300, SAMPLING))
    for _ in range(3):
        assert first in step(scheduler, runner)
        assert lengths(runner) == [1, 95]


def test_answers_flow_on_beside_long_prompts():
    """With decodes in the step, prompts share a part of it; without, they have all of it."""
    runner = FakeRunner(CHOOSE, max_step_tokens=96)
    scheduler = scheduler_of(runner, prompt_tokens_beside=20)
    first = Sequence(1, [1] * 90, SAMPLING)
    scheduler.add(first)
    step(scheduler, runner)
    assert lengths(runner) == [90]
    scheduler.add(Sequence(2, [2] * 100, SAMPLING))
    scheduler.add(Sequence(3, [3] * 15, SAMPLING))
    for expected in ([1, 10, 10], [1, 5, 15], [1, 1, 20]):
        assert first in step(scheduler, runner)
        assert sorted(lengths(runner)) == sorted(expected)
    scheduler.remove(first)
    for sequence in list(scheduler.running):
        if sequence.id == 3:
            scheduler.remove(sequence)
    step(scheduler, runner)
    assert lengths(runner) == [100 - 10 - 15 - 20]


def test_those_who_begin_alike_compute_it_once():
    """Five of one prompt and one of another, all at once: the shared part is computed once."""
    runner = FakeRunner(CHOOSE, max_step_tokens=96, pages=40, max_sequences=6)
    scheduler = scheduler_of(runner)
    prompt = [k % 3 for k in range(300)]
    alike = [Sequence(k, [*prompt, k % 3], SAMPLING) for k in range(5)]
    other = Sequence(5, [2] * 40, SAMPLING)
    for sequence in (*alike, other):
        scheduler.add(sequence)
    step(scheduler, runner)
    assert [s.id for s in scheduler.running] == [0, 5], "the other one passes"
    while any(s.left > 1 for s in alike):
        step(scheduler, runner)
    computed = sum(
        len(run.tokens) for steps in runner.steps for run in steps if len(run.tokens) > 1
    )
    assert computed == 301 + 40 + 4 * (301 - 256)
    assert [s.reused for s in alike] == [0, 256, 256, 256, 256]
    for sequence in alike:
        assert sequence.tokens[301:] == alone(
            CHOOSE, sequence.tokens[:301], SAMPLING, len(sequence.tokens) - 301
        )


def test_nobody_waits_for_one_who_left():
    runner = FakeRunner(CHOOSE, max_step_tokens=96, pages=40)
    scheduler = scheduler_of(runner)
    first, second = (Sequence(k, [k % 3 for k in range(300)] + [k], SAMPLING) for k in (1, 2))
    scheduler.add(first)
    scheduler.add(second)
    step(scheduler, runner)
    assert scheduler.waiting == [second]
    scheduler.remove(first)
    while len(second.tokens) < 305:
        step(scheduler, runner)
    assert second.reused == 64, "what the first had computed when it left"
    assert second.tokens[301:] == alone(CHOOSE, second.tokens[:301], SAMPLING, 4)


def test_a_short_prompt_is_not_held_up_by_a_long_one():
    runner = FakeRunner(CHOOSE, max_step_tokens=96)
    scheduler = scheduler_of(runner)
    scheduler.add(Sequence(1, [1] * 400, SAMPLING))
    step(scheduler, runner)
    short = Sequence(2, [2] * 20, SAMPLING)
    scheduler.add(short)
    assert step(scheduler, runner) == [short]
    assert lengths(runner) == [20, 76]


def test_more_prompts_than_room_in_a_step():
    runner = FakeRunner(CHOOSE, max_sequences=4, max_step_tokens=5)
    scheduler = scheduler_of(runner)
    sequences = [Sequence(k, [k % 3] * 9, SAMPLING) for k in range(4)]
    for sequence in sequences:
        scheduler.add(sequence)
    for _ in range(12):
        step(scheduler, runner)
    assert all(sequence.left == 1 for sequence in sequences)


def test_those_who_find_no_slot_wait_their_turn():
    runner = FakeRunner(CHOOSE, max_sequences=2)
    scheduler = scheduler_of(runner)
    sequences = [Sequence(k, [k % 3] * 10, SAMPLING) for k in range(4)]
    for sequence in sequences:
        scheduler.add(sequence)
    step(scheduler, runner)
    assert scheduler.running == sequences[:2]
    scheduler.remove(sequences[0])
    step(scheduler, runner)
    assert scheduler.running == sequences[1:3]
    scheduler.remove(sequences[3])  # while it waits
    assert scheduler.waiting == []


def test_the_newest_makes_room_and_comes_back_with_its_tokens():
    runner = FakeRunner(CHOOSE, max_sequences=2, pages=4, context=256)
    scheduler = scheduler_of(runner)
    old, new = Sequence(1, [1] * 60, SAMPLING), Sequence(2, [2] * 60, SAMPLING)
    scheduler.add(old)
    scheduler.add(new)
    for _ in range(80):  # both pass the first page; the old one passes the second later
        step(scheduler, runner)
    assert scheduler.running == [old]
    assert scheduler.waiting == [new]
    kept = list(new.tokens)
    while new.slot is None:
        if len(old.tokens) == 200:
            scheduler.remove(old)
        step(scheduler, runner)
    assert new.tokens[: len(kept)] == kept
    step(scheduler, runner)
    expected = alone(CHOOSE, [2] * 60, SAMPLING, len(new.tokens) - 60)
    assert new.tokens[60:] == expected
    assert new.reused == 0


def test_coming_back_to_known_pages_is_no_reuse_of_the_prompt():
    runner = FakeRunner(CHOOSE, max_sequences=2, pages=5, context=320)
    scheduler = scheduler_of(runner)
    old, new = Sequence(1, [1] * 60, SAMPLING), Sequence(2, [2] * 130, SAMPLING)
    scheduler.add(old)
    scheduler.add(new)
    step(scheduler, runner)
    while new in scheduler.running:
        step(scheduler, runner)
    scheduler.remove(old)
    step(scheduler, runner)
    assert runner.steps[-1][0].start == 192, "only what follows the known pages is computed"
    assert new.reused == 0


def test_nobody_overtakes_one_who_waits_for_pages():
    runner = FakeRunner(CHOOSE, max_sequences=3, pages=5, context=320)
    scheduler = scheduler_of(runner)
    first, large, small = (Sequence(k, [k] * n, SAMPLING) for k, n in enumerate((150, 200, 5)))
    for sequence in (first, large, small):
        scheduler.add(sequence)
    step(scheduler, runner)
    assert scheduler.running == [first]
    scheduler.remove(first)
    step(scheduler, runner)
    assert scheduler.running == [large]  # one page is left, which it may grow into
    assert scheduler.waiting == [small]


def test_the_next_turn_starts_behind_what_is_known():
    runner = FakeRunner(CHOOSE)
    scheduler = scheduler_of(runner)
    turn = Sequence(1, [1, 2] * 70, SAMPLING)
    scheduler.add(turn)
    for _ in range(60):
        step(scheduler, runner)
    scheduler.remove(turn)
    again = Sequence(2, [*turn.tokens, 0, 0, 0], SAMPLING)
    scheduler.add(again)
    assert step(scheduler, runner) == [again]
    known = (len(turn.tokens) - 1) // PAGE_TOKENS * PAGE_TOKENS
    assert again.reused == runner.steps[-1][0].start == known == 192
    assert again.tokens[-1:] == alone(CHOOSE, again.tokens[:-1], SAMPLING, 1)


def test_a_step_that_failed_is_tried_again():
    runner = FakeRunner(CHOOSE)
    scheduler = scheduler_of(runner)
    scheduler.add(Sequence(1, [1] * 10, SAMPLING))
    first = scheduler.schedule()
    again = scheduler.schedule()
    assert first.runs == again.runs
    assert (len(first.admitted), len(again.admitted)) == (1, 0)


def test_the_context_is_what_the_pages_hold():
    scheduler = Scheduler(max_sequences=1, max_step_tokens=8, pages=3, context=1000)
    assert scheduler.context == 192
    with pytest.raises(AssertionError):
        scheduler.add(Sequence(1, [0] * 192, SAMPLING))


class Company(RuleBasedStateMachine):
    """Any arrivals, cancellations and shortages: each text is what it would be alone."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = FakeRunner(CHOOSE, max_sequences=3, max_step_tokens=40, pages=6, context=300)
        self.scheduler = scheduler_of(self.runner)
        self.alive: list[Sequence] = []
        self.count = 0

    @rule(parts=st.lists(st.integers(0, 1), min_size=1, max_size=3), rest=st.integers(1, 64))
    def arrive(self, parts, rest) -> None:
        """Prompts of pages that are often the same."""
        tokens = [token for part in parts[1:] for token in [part] * PAGE_TOKENS] + [parts[0]] * rest
        self.count += 1
        sequence = Sequence(self.count, tokens, SAMPLING)
        self.scheduler.add(sequence)
        self.alive.append(sequence)

    @precondition(lambda self: self.alive)
    @rule(times=st.integers(1, 40))
    def compute(self, times) -> None:
        for _ in range(times):
            if not self.alive:
                return
            for sequence in step(self.scheduler, self.runner):
                if len(sequence.tokens) >= self.scheduler.context:
                    self.leave(sequence)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data) -> None:
        self.leave(data.draw(st.sampled_from(self.alive)))

    def leave(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self.alive.remove(sequence)
        self.check(sequence)

    def check(self, sequence: Sequence) -> None:
        prompt, answer = sequence.tokens[: sequence.prompt], sequence.tokens[sequence.prompt :]
        assert answer == alone(CHOOSE, prompt, SAMPLING, len(answer))

    def teardown(self) -> None:
        limit = 60 * (len(self.alive) + 1) * 10
        while self.alive and limit:
            self.compute(1)
            limit -= 1
        assert not self.alive, "somebody never ends"
        assert self.scheduler.is_idle
        assert self.scheduler.pool.available == self.runner.pages

    @invariant()
    def slots_and_pages_add_up(self) -> None:
        running, pool = self.scheduler.running, self.scheduler.pool
        assert {id(s) for s in self.alive} == {id(s) for s in running + self.scheduler.waiting}
        assert len({s.slot for s in running}) == len(running) <= self.runner.max_sequences
        order = [s.id for s in self.scheduler.waiting]
        assert order == sorted(order)
        assert all(s.slot is None and not s.pages for s in self.scheduler.waiting)
        assert all(s.computed == 0 for s in self.scheduler.waiting)
        assert len({page for s in running for page in s.pages}) + pool.available == pool.count


TestCompany = Company.TestCase
TestCompany.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(4, 100),
)
def test_a_step_is_never_too_large_nor_wasted(prompts, sequences, step_tokens):
    runner = FakeRunner(
        CHOOSE, max_sequences=sequences, max_step_tokens=step_tokens, pages=8, context=256
    )
    scheduler = scheduler_of(runner)
    for number, size in enumerate(prompts):
        scheduler.add(Sequence(number, [number % 3] * size, SAMPLING))
    for _ in range(5):
        wanted = sum(s.left for s in scheduler.running)
        step(scheduler, runner)
        assert sum(lengths(runner)) >= min(wanted, step_tokens)
