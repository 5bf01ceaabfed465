"""Choosing the next token on the device, so that it feeds the next step without the host.

One workgroup takes one row of logits, with everything that a request may ask, in llama.cpp's order:
logit bias, penalties, top-k, top-p, min-p, temperature. It never sorts the vocabulary. Each filter
leaves the tokens whose logit reaches some threshold, and a threshold is found by bisection on the
bits of the number; the tokens near the top are first copied into a short list, so that bisection
is cheap. Tokens that tie with the last one left all stay.

What differs from request to request is in memory (`SAMPLER`, one record per row), so that a graph
is recorded once. Passes over a row go by vectors on a CPU and by lanes on a GPU; what depends on
the tokens' order, the list and the draw, is another matter there (`ops.gpu.drawing`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exosuit.kernel import (
    DType,
    In,
    InOut,
    Out,
    Pointer,
    Value,
    Variable,
    barrier,
    constant,
    deal,
    each,
    exp,
    f32,
    group,
    group_max,
    group_sum,
    i32,
    i64,
    kernel,
    leader,
    loop,
    maximum,
    select,
    shared,
    target,
    u16,
    u32,
    u64,
    variable,
    when,
    zeros,
)
from exosuit.ops.argmax import best_of
from exosuit.ops.bits import bisect, log, uniform, uniform_reference
from exosuit.ops.gpu.drawing import draw_in_order, list_above

SAMPLER = np.dtype(
    [
        ("inverse_temperature", "<f4"),  # 0: the likeliest token, no chance involved
        ("top_k", "<i4"),  # 0: off
        ("top_p", "<f4"),  # 1: off
        ("log_min_p", "<f4"),  # natural logarithm of min-p; minus infinity: off
        ("repetition", "<f4"),  # 1: off; divides positive logits, multiplies negative ones
        ("presence", "<f4"),  # subtracted once from what has occurred
        ("frequency", "<f4"),  # subtracted for each occurrence
        ("penalised", "<i4"),  # 1 if any of the three is on
        ("seed", "<u8"),
        ("slot", "<i4"),  # row of `counts`; -1: the row of logits is padding, write nothing
        ("count", "<i4"),  # 1: note the sampled token in `counts`
        ("unused", "<i4", 4),
    ]
)
"""What a row of logits is sampled with; 64 bytes."""

_WORDS = SAMPLER.itemsize // 4
_OFFSETS = {name: field[1] for name, field in (SAMPLER.fields or {}).items()}
LANES = 8
# Logits are kept above this, so that differences are numbers; what a NaN becomes.
_LOWEST = -1e30


def sampler_row(
    *,
    slot: int,
    temperature: float = 0.8,
    top_k: int = 40,
    top_p: float = 0.95,
    min_p: float = 0.05,
    repetition: float = 1.0,
    presence: float = 0.0,
    frequency: float = 0.0,
    seed: int = 0,
    count: bool = False,
) -> NDArray[np.void]:
    """A `SAMPLER` record from a request's numbers; the defaults are llama.cpp's."""
    penalised = repetition != 1.0 or presence != 0.0 or frequency != 0.0
    return np.array(
        (
            1.0 / temperature if temperature > 0 else 0.0,
            top_k,
            top_p,
            np.log(min_p) if min_p > 0 else -np.inf,
            repetition,
            presence,
            frequency,
            penalised,
            seed % 2**64,
            slot,
            count,
            (0, 0, 0, 0),
        ),
        SAMPLER,
    )


def padded(vocabulary: int) -> int:
    """Tokens in a row of `sample`'s workspace: whole vectors."""
    return -(-vocabulary // LANES) * LANES


@kernel(group_size=1024)
def sample(
    logits: In[f32],
    samplers: In[u32],
    bias_tokens: In[i32],
    bias_values: In[f32],
    counts: InOut[u16],
    work: InOut[f32],
    ids: Out[i32],
    positions: InOut[i32],
    tokens: Out[i32],
    log_probabilities: Out[f32],
    *,
    vocabulary: int,
    biases: int,
) -> None:
    """Sample one token for each row of logits. R groups.

    logits       f32[R, vocabulary]; unchanged
    samplers     SAMPLER[R]
    bias_tokens  i32[R, biases], -1 where there is none; bias_values f32[R, biases]
    counts       u16[slots, vocabulary]: how often each token has occurred
    work         f32[R, 2, padded(vocabulary)]; nobody else's
    positions    i32[R]; the draw's counter, and advanced by one
    ids, tokens  i32[R]: the sampled token, for the next step and for the host
    log_probabilities  f32[R]: of the sampled token under the logits as they came
    """
    row = group()
    options = _Options(samplers.at(row * _WORDS))
    with when(options.slot >= 0):
        line = logits.at(row.to(i64) * vocabulary)
        size = padded(vocabulary)
        values = work.at(row.to(i64) * (2 * size))
        scene = _Row(values, values.at(size), size)
        scene.copy(line, vocabulary)
        barrier(memory=True)
        raw_top = scene.top()
        raw_mass = scene.mass_above(raw_top)
        for k in deal(biases):
            token = bias_tokens[row * biases + k]
            with when(token >= 0):
                biased = values[token] + bias_values[row * biases + k]
                values[token] = maximum(biased, _LOWEST)
        barrier(memory=True)
        seen = counts.at(options.slot.to(i64) * vocabulary)
        with when(options.penalised.ne(0)):
            scene.penalise(seen, options, vocabulary)
            barrier(memory=True)
        top, likeliest = best_of(values, size)
        token = variable(likeliest)
        with when((options.inverse_temperature > 0.0) & options.top_k.ne(1)):
            chance = uniform(options.seed, positions[row])
            _choose(scene, top, options, chance, token)
        with leader():
            ids[row] = token.value
            tokens[row] = token.value
            log_probabilities[row] = line[token.value] - raw_top - log(raw_mass)
            with when(options.count.ne(0)):
                before = seen[token.value]
                seen[token.value] = before + select(before < 0xFFFF, constant(u16, 1), 0)
            positions[row] = positions[row] + 1


class _Options:
    """A row's SAMPLER record, loaded."""

    def __init__(self, record: Pointer[DType]) -> None:
        def number(name: str) -> Value:
            return record.load(_offset(name)).view(f32)

        def integer(name: str) -> Value:
            return record.load(_offset(name)).view(i32)

        self.inverse_temperature = number("inverse_temperature")
        self.top_k = integer("top_k")
        self.top_p = number("top_p")
        self.log_min_p = number("log_min_p")
        self.repetition = number("repetition")
        self.presence = number("presence")
        self.frequency = number("frequency")
        self.penalised = integer("penalised")
        self.slot = integer("slot")
        self.count = integer("count")
        self.seed = record.view(u64).load(_offset("seed") // 2)


def _most_listed() -> int:
    """More candidates than this are not worth a list; NVIDIA's workgroups share 48 KiB."""
    return 3072 if target().is_gpu else 4096


def _offset(name: str) -> int:
    return _OFFSETS[name] // 4


@dataclass(frozen=True)
class _Row:
    """`size` logits in whole vectors, and room for as many weights, `exp(logit - top)`."""

    values: Pointer[DType]
    weights: Pointer[DType]
    size: Value | int

    def copy(self, line: Pointer[DType], count: int) -> None:
        """Take `count` logits; NaN and minus infinity become very small, as does the padding."""
        assert isinstance(self.size, int), "the whole vocabulary"
        for i in each(count):
            value = line[i]
            self.values[i] = select(value > _LOWEST, value, _LOWEST)
        for i in each(self.size - count):
            self.values[i + count] = constant(f32, _LOWEST, target().lanes)

    def penalise(self, seen: Pointer[DType], options: _Options, count: int) -> None:
        for i in each(count):
            value, times = self.values[i], seen[i].to(f32)
            occurred = times > 0.0
            harsher = select(value > 0.0, value / options.repetition, value * options.repetition)
            harsher = harsher - times * options.frequency - options.presence
            self.values[i] = maximum(select(occurred, harsher, value), _LOWEST)

    def vectors(self) -> Iterator[Value]:
        """Places of the vectors; on a GPU of the elements of this lane."""
        return each(self.size) if target().is_gpu else loop(self.size, step=LANES)

    def top(self) -> Value:
        best = variable(constant(f32, _LOWEST, target().lanes))
        for i in self.vectors():
            best.value = maximum(best.value, self.values.load(i, target().lanes))
        return group_max(best.value)

    def mass_above(self, top: Value) -> Value:
        """The sum of exp(logit - top)."""
        total = variable(zeros(f32, target().lanes))
        for i in self.vectors():
            total.value += exp(self.values.load(i, target().lanes) - top)
        return group_sum(total.value)

    def weigh(self, top: Value) -> None:
        for i in self.vectors():
            self.weights.store(exp(self.values.load(i, target().lanes) - top), i)

    def count(self, cut: Value) -> Value:
        """How many reach the cut."""
        total = variable(zeros(i32, target().lanes))
        for i in self.vectors():
            total.value += (self.values.load(i, target().lanes) >= cut).to(i32)
        return group_sum(total.value)

    def mass(self, cut: Value) -> Value:
        """The weight of those that reach the cut."""
        total = variable(zeros(f32, target().lanes))
        for i in self.vectors():
            reached = self.values.load(i, target().lanes) >= cut
            total.value += select(reached, self.weights.load(i, target().lanes), 0.0)
        return group_sum(total.value)


def _choose(row: _Row, top: Value, options: _Options, draw: Value, token: Variable) -> None:
    """Draw from the tokens that all filters leave."""
    by_count = (options.top_k > 0) & (options.top_k < row.size)
    by_mass = options.top_p < 1.0
    cut = variable(top + options.log_min_p)
    listed = variable(constant(i32, 0))
    with when(by_count | by_mass):
        everything = variable(zeros(f32))
        with when(~by_count):
            everything.value = row.mass_above(top)
        listed.value, floor = _depth(row, top, options, by_count, everything.value)
        with when(listed.value.eq(0)):
            row.weigh(top)
            _narrow(row, options, by_count, by_mass, everything.value, cut)
            _draw(row, None, top, options, cut.value, draw, token)
        with when(listed.value.ne(0)):
            members = shared(i32, _most_listed() + LANES)
            short = _copy_above(row, floor, members)
            short.weigh(top)
            _narrow(short, options, by_count, by_mass, everything.value, cut)
            _draw(short, members, top, options, cut.value, draw, token)
    with when(~(by_count | by_mass)):
        _draw(row, None, top, options, cut.value, draw, token)


def _depth(
    row: _Row, top: Value, options: _Options, by_count: Value, everything: Value
) -> tuple[Value, Value]:
    """Whether a list of all tokens above some floor serves every filter, and that floor."""
    depth = variable(constant(f32, 8.0))
    # Known to hold too few, and too many.
    shallow, deep = variable(constant(f32, 0.0)), variable(constant(f32, 128.0))
    listed = variable(constant(i32, 0))
    for _ in loop(7):
        with when(listed.value.eq(0)):
            floor = top - depth.value
            number = row.count(floor)
            enough = variable((number >= options.top_k).to(i32))
            with when(~by_count & (number <= _most_listed())):
                reached = _mass_of_few(row, top, floor) >= options.top_p * everything
                enough.value = reached.to(i32)
            few = number <= _most_listed()
            listed.value = (few & enough.value.ne(0)).to(i32)
            shallow.value = select(few, depth.value, shallow.value)
            deep.value = select(few, deep.value, depth.value)
            middle = select(
                deep.value < 128.0, (shallow.value + deep.value) * 0.5, shallow.value * 2.0
            )
            depth.value = select(listed.value.ne(0), depth.value, middle)
    return listed.value, top - depth.value


def _mass_of_few(row: _Row, top: Value, floor: Value) -> Value:
    """The weight of those above the floor, where they are so few that most vectors hold none."""
    total = variable(zeros(f32, target().lanes))
    for i in row.vectors():
        value = row.values.load(i, target().lanes)
        with when((value >= floor).to(i32).reduce("max").ne(0)):
            total.value += select(value >= floor, exp(value - top), 0.0)
    return group_sum(total.value)


def _copy_above(row: _Row, floor: Value, members: Pointer[DType]) -> _Row:
    """The tokens above the floor as a row of their own, and their ids; as many as are listed."""
    values, weights = shared(f32, _most_listed() + LANES), shared(f32, _most_listed() + LANES)
    if target().is_gpu:
        assert isinstance(row.size, int), "the whole vocabulary"
        return _Row(values, weights, list_above(row.values, row.size, floor, values, members))
    end = variable(constant(i32, 0))
    for i in row.vectors():
        value = row.values.load(i, LANES)
        with when((value >= floor).to(i32).reduce("max").ne(0)):
            for lane in range(LANES):
                values.store(value[lane], end.value)
                members.store(i + lane, end.value)
                end.value += (value[lane] >= floor).to(i32)
    values.store(constant(f32, _LOWEST, LANES), end.value)
    return _Row(values, weights, (end.value + (LANES - 1)) // LANES * LANES)


def _narrow(
    row: _Row,
    options: _Options,
    by_count: Value,
    by_mass: Value,
    everything: Value,
    cut: Variable,
) -> None:
    """Raise `cut` to what top-k and top-p leave."""
    whole = variable(everything)
    with when(by_count):
        last = bisect(lambda trial: row.count(trial) >= options.top_k)
        cut.value = maximum(cut.value, last)
        whole.value = row.mass(last)
    with when(by_mass):
        # The likeliest token weighs 1, so this is above 0 and it always stays.
        wanted = maximum(options.top_p * whole.value, 1e-30)
        cut.value = maximum(cut.value, bisect(lambda trial: row.mass(trial) >= wanted))


def _draw(
    row: _Row,
    members: Pointer[DType] | None,
    top: Value,
    options: _Options,
    cut: Value,
    draw: Value,
    token: Variable,
) -> None:
    """Set `token` to one that reaches the cut, with probability as its weight at temperature."""

    def chance(place: Value) -> Value:
        value = row.values.load(place, target().lanes)
        return select(value >= cut, exp((value - top) * options.inverse_temperature), 0.0)

    if target().is_gpu:
        index = draw_in_order(chance, row.size, draw)
        token.value = index if members is None else members[index]
        return

    def reached(place: Value) -> Value:
        return (row.values.load(place, LANES) >= cut).to(i32).reduce("max").ne(0)

    total = variable(zeros(f32))
    for i in row.vectors():
        with when(reached(i)):
            total.value += chance(i).reduce("add")
    goal = draw * total.value
    # Again, up to the vector in which the sum passes the goal.
    place, before = variable(constant(i32, -1)), variable(zeros(f32))
    total.value = 0.0
    for i in row.vectors():
        with when((place.value < 0) & reached(i)):
            passed = total.value + chance(i).reduce("add")
            with when(passed > goal):
                place.value = i
                before.value = total.value
            total.value = passed
    with when(place.value >= 0):
        parts = chance(place.value)
        passed, last = before.value, zeros(i32)
        for lane in range(LANES):
            # The lane where the sum passes the goal; at the latest the last one with any chance.
            short = (passed <= goal) & (parts[lane] > 0.0)
            last = select(short, lane, last)
            passed = passed + parts[lane]
        index = place.value + last
        token.value = index if members is None else members[index]


def sample_reference(
    logits: NDArray[np.float32],
    sampler: NDArray[np.void],
    biases: dict[int, float],
    counts: NDArray[np.uint16],
    position: int,
) -> tuple[int, float, NDArray[np.float64]]:
    """For one row: the token, its log-probability, and the distribution that it is drawn from.

    logits f32[vocabulary]    counts u16[vocabulary] of the row's slot
    """
    wide = logits.astype(np.float64)
    raw = wide - wide.max()
    log_probabilities = raw - np.log(np.exp(raw).sum())
    for token, bias in biases.items():
        wide[token] += bias
    times = counts.astype(np.float64)
    repetition = float(sampler["repetition"])
    harsher = np.where(wide > 0, wide / repetition, wide * repetition)
    harsher -= times * sampler["frequency"] + sampler["presence"]
    wide = np.where(times > 0, harsher, wide)
    if sampler["inverse_temperature"] == 0 or sampler["top_k"] == 1:
        token = int(wide.argmax())
        return token, float(log_probabilities[token]), np.eye(len(wide))[token]
    kept = np.ones(len(wide), bool)
    if 0 < sampler["top_k"] < len(wide):
        kept = wide >= np.sort(wide)[-sampler["top_k"]]
    if sampler["top_p"] < 1:
        weight = np.where(kept, np.exp(wide - wide.max()), 0)
        falling = np.sort(weight)[::-1]
        short = falling.cumsum() < float(sampler["top_p"]) * weight.sum()
        kept &= weight >= falling[min(int(short.sum()), len(falling) - 1)]
    kept &= wide >= wide.max() + sampler["log_min_p"]
    heated = (wide - wide.max()) * float(sampler["inverse_temperature"])
    chance = np.where(kept, np.exp(heated), 0)
    chance /= chance.sum()
    draw = uniform_reference(int(sampler["seed"]), position)
    token = int(np.searchsorted(chance.cumsum(), draw, side="right"))
    return token, float(log_probabilities[token]), chance


def top_log_probabilities(
    logits: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The likeliest `count` tokens of a row of logits, best first, and their log-probabilities.

    For requests that ask for them; on the host, from logits that were copied out.
    """
    wide = logits.astype(np.float64)
    near = np.argpartition(-wide, min(count, len(wide) - 1))[:count]
    tokens = near[np.lexsort((near, -wide[near]))]
    peak = wide.max()
    return tokens, wide[tokens] - peak - np.log(np.exp(wide - peak).sum())
