"""Which tokens are computed next: continuous batching with chunked prefill, over pages.

The one idea: a sequence is a list of tokens of which the first `computed` are in the cache. One
token left to compute is a decode, more are a prompt, and a sequence that lost its pages simply
has everything left. So admission, decoding and coming back after preemption are one path:

  1. every running sequence gets the pages for its tokens in turn; where pages run out, the one
     admitted last gives up its own and waits (its tokens stay, its full pages stay known)
  2. waiting sequences are admitted in order while slots and pages last; one whose prompt begins
     as one does that is being computed lets others pass until it can take those pages
  3. decodes enter the step, then pieces of prompts, in even shares: a short prompt is never held
     up by a long one, and beside decodes prompts get only so many tokens, so that answers flow on

Pure: takes and gives values, touches no device. The oldest sequence always fits alone, so
somebody always moves on.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field

from exosuit.engine.batch import PAGE_TOKENS, Run, Sampling
from exosuit.engine.pages import PagePool, page_name


@dataclass(eq=False)
class Sequence:
    """A text in the making. Only the scheduler changes it.

    id        order of arrival
    tokens    prompt and answer
    prompt    how many of them are the prompt
    computed  how many of them are in the cache
    reused    how many the cache held when the sequence was first admitted
    names     of its full pages, as far as they were named
    slot      its row of the device's page table; None while it waits
    """

    id: int
    tokens: list[int]
    sampling: Sampling
    prompt: int = field(init=False)
    computed: int = 0
    reused: int | None = None
    pages: list[int] = field(default_factory=list[int])
    names: list[bytes] = field(default_factory=list[bytes])
    slot: int | None = None

    def __post_init__(self) -> None:
        self.prompt = len(self.tokens)

    @property
    def left(self) -> int:
        """Tokens that are not in the cache yet; at least one while it lives."""
        return len(self.tokens) - self.computed


@dataclass(frozen=True)
class Step:
    """What the device does next.

    runs      with the sequence that each belongs to
    admitted  sequences that took a slot since the last step, the cache holding `computed` tokens
    """

    runs: tuple[tuple[Sequence, Run], ...]
    admitted: tuple[Sequence, ...]


class Scheduler:
    """Owns the sequences, slots and pages of one runner. Not safe for two threads."""

    def __init__(
        self,
        *,
        max_sequences: int,
        max_step_tokens: int,
        pages: int,
        context: int,
        prompt_tokens_beside: int | None = None,
    ) -> None:
        """The runner's limits; `context` is lowered to what the pages can hold.

        prompt_tokens_beside  most tokens of prompts in a step that has decodes; None for no limit
        """
        assert max_step_tokens >= max_sequences >= 1
        self.prompt_tokens_beside = prompt_tokens_beside or max_step_tokens
        self.pool = PagePool(pages)
        self.context = min(context, pages * PAGE_TOKENS)
        self.max_step_tokens = max_step_tokens
        self.running: list[Sequence] = []  # in the order of their admission
        self.waiting: list[Sequence] = []  # oldest first
        self._slots = list(range(max_sequences - 1, -1, -1))

    @property
    def is_idle(self) -> bool:
        return not self.running and not self.waiting

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; its tokens leave room for at least one more in the context."""
        assert 0 < len(sequence.tokens) < self.context
        self.waiting.append(sequence)

    def schedule(self) -> Step:
        """The next step; empty only if there are no sequences.

        Every step is answered by `advance` before the next. A step that was never computed may be
        asked for again, except that its `admitted` are told only once.
        """
        self._grow()
        admitted = self._admit()
        return Step(tuple(self._fill()), admitted)

    def advance(self, sequence: Sequence, run: Run, token: int | None) -> None:
        """`run` was computed and gave `token`, or None where it was not to be sampled."""
        sequence.computed += len(run.tokens)
        for index in range(len(sequence.names), sequence.computed // PAGE_TOKENS):
            before = sequence.names[-1] if sequence.names else b""
            here = sequence.tokens[index * PAGE_TOKENS : (index + 1) * PAGE_TOKENS]
            sequence.names.append(page_name(before, here))
            self.pool.name(sequence.pages[index], sequence.names[-1])
        if token is not None:
            sequence.tokens.append(token)

    def remove(self, sequence: Sequence) -> None:
        """The sequence is finished or cancelled. What it computed stays known."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self._leave(sequence)

    # Pages --------------------------------------------------------------------------------

    def _grow(self) -> None:
        """Pages for every token of the running; the newest makes room where there are too few."""
        for sequence in list(self.running):
            while sequence.slot is not None:
                missing = _pages_of(sequence) - len(sequence.pages)
                if missing <= self.pool.available:
                    sequence.pages += self.pool.take(missing)
                    break
                self._preempt(self.running[-1])

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        sequence.computed = 0
        insort(self.waiting, sequence, key=lambda waiting: waiting.id)

    def _admit(self) -> tuple[Sequence, ...]:
        """First come, first served; nobody overtakes one who waits for pages.

        One who waits for pages that another is about to compute is passed over, and keeps its
        place. A page is kept for each of the running to grow into, so that few are preempted, and
        none comes back in the step that it made room for.
        """
        admitted: list[Sequence] = []
        for sequence in self.waiting[: 2 * len(self._slots)]:
            if not self._slots:
                break
            shared = self.pool.find(sequence.tokens)
            if self._is_coming(sequence, len(shared)):
                continue
            new = _pages_of(sequence) - len(shared)
            wanted = new + self.pool.unused(shared) + len(self.running)
            if self.running and wanted > self.pool.available:
                break
            self.waiting.remove(sequence)
            self.pool.share(shared)
            sequence.pages = shared + self.pool.take(new)
            sequence.computed = len(shared) * PAGE_TOKENS
            if sequence.reused is None:
                sequence.reused = sequence.computed
            sequence.slot = self._slots.pop()
            self.running.append(sequence)
            admitted.append(sequence)
        return tuple(admitted)

    def abandon(self) -> list[Sequence]:
        """All sequences, oldest first, as they would wait for another scheduler to add them."""
        everyone = self.running + self.waiting
        for sequence in list(self.running):
            self._leave(sequence)
            sequence.computed = 0
        self.waiting.clear()
        return everyone

    def _is_coming(self, sequence: Sequence, known: int) -> bool:
        """Whether one at work is computing the page that follows the `known` ones of this text.

        It must have all of that page's tokens in its prompt, so that it names the page soon.
        """
        end = (known + 1) * PAGE_TOKENS
        if len(sequence.tokens) <= end:  # the page of the last token is always its own
            return False
        begin = sequence.tokens[:end]
        return any(
            other.computed < end <= len(other.tokens)
            and other.tokens[end - 1] == begin[-1]
            and other.tokens[:end] == begin
            for other in self.running
        )

    def _leave(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self.running.remove(sequence)
        self.pool.release(sequence.pages)
        self._slots.append(sequence.slot)
        sequence.slot, sequence.pages, sequence.names = None, [], []

    # Tokens -------------------------------------------------------------------------------

    def _fill(self) -> Iterable[tuple[Sequence, Run]]:
        """Decodes, then prompts: the shortest first, each at most an even share of what is left."""
        room = self.max_step_tokens
        for sequence in self.running:
            if sequence.left == 1:
                yield sequence, _run(sequence, 1)
                room -= 1
        if room < self.max_step_tokens:
            room = min(room, self.prompt_tokens_beside)
        prompts = sorted((s for s in self.running if s.left > 1), key=lambda s: s.left)
        for position, sequence in enumerate(prompts):
            size = min(sequence.left, max(1, room // (len(prompts) - position)), room)
            if size:
                yield sequence, _run(sequence, size)
                room -= size


def _pages_of(sequence: Sequence) -> int:
    return -(-len(sequence.tokens) // PAGE_TOKENS)


def _run(sequence: Sequence, size: int) -> Run:
    assert sequence.slot is not None
    start = sequence.computed
    return Run(
        slot=sequence.slot,
        tokens=tuple(sequence.tokens[start : start + size]),
        start=start,
        pages=tuple(sequence.pages),
        sample=sequence.sampling if size == sequence.left else None,
        step=len(sequence.tokens) - sequence.prompt,
    )
