"""Attention over paged keys and values on a GPU: from a single token to a prefill.

A workgroup takes one tile of one sequence's tokens and one kv head; its rows are the tile's tokens
times the query heads that share the kv head. Pages are dealt out to its waves, each of which keeps
an online softmax of all rows by itself; at the end their results meet in shared memory. Within a
page

    scores  a lane takes two neighbouring tokens; queries are the same for all lanes (scalar loads)
    output  a lane takes neighbouring dimensions; weights come from shared memory, by broadcast

so that keys and values, read as `ops.cache` lays them out, arrive in whole lines.
Source: online softmax (arXiv 1805.02867), FlashDecoding (Dao et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterator

from exosuit.kernel import (
    DType,
    In,
    Out,
    Pointer,
    Scalar,
    Value,
    barrier,
    constant,
    each,
    exp,
    f16,
    f32,
    fma,
    group,
    i32,
    i64,
    join,
    kernel,
    loop,
    masked,
    maximum,
    minimum,
    select,
    shared,
    tanh,
    u8,
    variable,
    wave,
    wave_barrier,
    wave_lane,
    wave_reduce,
    when,
    zeros,
)
from exosuit.ops.attention_tile import LOWEST, Attention
from exosuit.ops.cache import PAGE

WAVES = 8
_WAVE = 32
# Rows that a wave works on at a time, more of them one after the other: what registers hold.
_ROWS = {"f16": 16, "q8": 8}


@kernel(group_size=_WAVE * WAVES)
def attention_gpu(
    queries: In[f32],
    keys: In[u8],
    values: In[u8],
    key_scales: In[f16],
    value_scales: In[f16],
    page_table: In[i32],
    positions: In[i32],
    tiles: In[i32],
    out: Out[f32],
    page_columns: Scalar[i32],
    tile_count: Scalar[i32],
    *,
    shape: Attention,
) -> None:
    """As `ops.attention.attention`. `kv_heads * tile_count * splits` groups."""
    inner = tile_count * shape.splits
    kv_head, rest = group() // inner, group() % inner
    tile = tiles.at(rest // shape.splits * 4)
    first, count = tile.load(0), tile.load(1)
    split = rest % shape.splits
    slot = page_table.at(tile.load(2) * page_columns)
    rows = min(shape.rows, _ROWS[shape.cache.kind])
    for base in loop(count * shape.repeat, step=rows):
        work = _Wave(shape, rows, queries, positions, first, count, kv_head, base)
        last = positions[first + count - 1]
        start = split + wave() * shape.splits
        if shape.window:
            start = start + maximum(positions[first] - (shape.window - 1), 0) // PAGE
        for index in loop(last // PAGE + 1, start=start, step=shape.splits * WAVES):
            page, origin = slot[index], index * PAGE
            work.score(
                shape.cache.head(keys, page, kv_head),
                shape.cache.head_scales(key_scales, page, kv_head),
                origin,
            )
            work.gather(
                shape.cache.head(values, page, kv_head),
                shape.cache.head_scales(value_scales, page, kv_head),
                minimum(last - origin + 1, PAGE),
            )
        work.meet()
        if shape.splits == 1:
            work.store(out)
        else:
            work.store_partial(out, split)
        barrier()


class _Wave:
    """What a wave holds of `count` rows of a tile: running maxima and sums, and outputs."""

    def __init__(
        self,
        shape: Attention,
        count: int,
        queries: Pointer[DType],
        positions: Pointer[DType],
        first_token: Value,
        tokens: Value,
        kv_head: Value,
        base: Value,
    ) -> None:
        self.shape, self.rows = shape, count
        self.size = shape.cache.head_dim
        self.lane = wave_lane()
        self.base, self.first_token, self.kv_head = base, first_token, kv_head
        self.present = minimum(tokens * shape.repeat - base, count)
        # Past the last row it is worked on again, and that is not stored.
        places = [self._place(minimum(self.present - 1, row)) for row in range(count)]
        width = shape.query_heads * self.size
        self.queries = [
            queries.at(token.to(i64) * width).at(head * self.size) for token, head in places
        ]
        self.own = [positions[token] for token, _ in places]
        self.each_lane = -(-self.size // _WAVE)
        rows = range(count)
        self.maxima = [variable(constant(f32, LOWEST)) for _ in rows]
        self.sums = [variable(zeros(f32)) for _ in rows]  # of this lane's tokens only
        self.outputs = [[variable(zeros(f32)) for _ in range(self.each_lane)] for _ in rows]
        self.everything = shared(f32, count * max(WAVES * PAGE, self.size))
        self.weights = self.everything.at(wave() * (count * PAGE))
        self.all_maxima = shared(f32, WAVES * count)
        self.all_sums = shared(f32, WAVES * count)

    def _place(self, row: Value) -> tuple[Value, Value]:
        """Token and query head of a row."""
        number, repeat = self.base + row, self.shape.repeat
        return self.first_token + number // repeat, self.kv_head * repeat + number % repeat

    # A page -------------------------------------------------------------------------------

    def score(self, head: Pointer[DType], scales: Pointer[DType], origin: Value) -> None:
        """Weights of the page's tokens, into shared memory; what came before fades."""
        place = origin + self.lane * 2
        for row, pair in enumerate(self._scores(head, scales)):
            scores: list[Value] = []
            seen: list[Value] = []
            for k in range(2):
                score, position = pair[k], place + k
                if self.shape.softcap:
                    cap = self.shape.softcap
                    score = tanh(score * (1 / cap)) * cap
                visible = position <= self.own[row]
                if self.shape.window:
                    visible = visible & (position > self.own[row] - self.shape.window)
                scores.append(select(visible, score, LOWEST))
                seen.append(visible)
            old = self.maxima[row].value
            new = maximum(old, wave_reduce("max", maximum(*scores)))
            fade = exp(old - new)
            weights = [
                select(visible, exp(score - new), 0.0)
                for score, visible in zip(scores, seen, strict=True)
            ]
            self.maxima[row].value = new
            self.sums[row].value = fma(self.sums[row].value, fade, weights[0] + weights[1])
            for output in self.outputs[row]:
                output.value = output.value * fade
            self.weights.at(row * PAGE).store(join(*weights), self.lane * 2, align=8)
        wave_barrier()

    def _scores(self, head: Pointer[DType], scales: Pointer[DType]) -> list[list[Value]]:
        """For each row the products with this lane's two tokens."""
        cache, step = self.shape.cache, 8
        totals = [[variable(zeros(f32)) for _ in range(2)] for _ in self.queries]
        for g in range(cache.groups if cache.kind == "q8" else 1):
            size = cache.group if cache.kind == "q8" else self.size
            parts = totals
            if cache.kind == "q8":
                parts = [[variable(zeros(f32)) for _ in range(2)] for _ in self.queries]
            for d in loop(size, step=step, unroll=1):
                column = head.at((d + g * size) * PAGE).at(self.lane * 2)
                pairs = [
                    column.at(k * PAGE).load(0, 2, align=2 * head.dtype.bits // 8)
                    for k in range(step)
                ]
                wide = [
                    pair.to(f32) if head.dtype is f16 else pair.to(i32).to(f32) for pair in pairs
                ]
                for query, accumulators in zip(self.queries, parts, strict=True):
                    elements = query.at(d + g * size).load(0, step)
                    for k, pair in enumerate(wide):
                        for t, total in enumerate(accumulators):
                            total.value = fma(pair[t], elements[k], total.value)
            if cache.kind == "q8":
                factors = scales.at(g * PAGE).load(self.lane * 2, 2, align=4).to(f32)
                for part, total in zip(parts, totals, strict=True):
                    for t in range(2):
                        total[t].value = fma(part[t].value, factors[t], total[t].value)
        return [[total.value for total in pair] for pair in totals]

    def gather(self, head: Pointer[DType], scales: Pointer[DType], seen: Value) -> None:
        """Add the first `seen` values of the page, weighted."""
        step = 4
        for t in loop(seen, step=step, unroll=1):
            lines = [self._values(head, scales, t + k) for k in range(step)]
            for row, outputs in enumerate(self.outputs):
                weights = self.weights.at(row * PAGE).load(t, step, align=16)
                for k, line in enumerate(lines):
                    for output, value in zip(outputs, line, strict=True):
                        output.value = fma(weights[k], value, output.value)
        wave_barrier()

    def _values(self, head: Pointer[DType], scales: Pointer[DType], token: Value) -> list[Value]:
        """This lane's dimensions of one token, f32 each."""
        cache, line, count = self.shape.cache, head.at(token * self.size), self.each_lane
        if self.size % _WAVE == 0:
            align = (count & -count) * head.dtype.bits // 8
            whole = line.load(self.lane * count, count, align=align)
            raw = [whole[k] for k in range(count)]
        else:
            raw = [line.load(minimum(d, self.size - 1)) for d in self._dimensions()]
        if cache.kind == "f16":
            return [x.to(f32) for x in raw]
        factors = scales.at(token * cache.groups)
        found: dict[int, Value] = {}
        values: list[Value] = []
        for k, d in enumerate(self._dimensions()):
            # Neighbours within a group share its scale.
            shares = self.size % _WAVE == 0 and cache.group % count == 0
            key = 0 if shares else k
            if key not in found:
                group_of = minimum(d, self.size - 1) // cache.group
                found[key] = factors.load(group_of).to(f32)
            values.append(raw[k].to(i32).to(f32) * found[key])
        return values

    def _dimensions(self) -> list[Value]:
        """Those of this lane; some may lie past the end of the head."""
        if self.size % _WAVE == 0:
            return [self.lane * self.each_lane + k for k in range(self.each_lane)]
        return [self.lane + k * _WAVE for k in range(self.each_lane)]

    # The end ------------------------------------------------------------------------------

    def meet(self) -> None:
        """All waves' outputs of all rows, added up in order, into shared memory."""
        rows = self.rows
        for row in range(rows):
            total = wave_reduce("add", self.sums[row].value)
            self.all_maxima.store(self.maxima[row].value, wave() * rows + row)
            self.all_sums.store(total, wave() * rows + row)
        barrier()
        factors = [
            exp(self.maxima[row].value - self._peak(constant(i32, row))) for row in range(rows)
        ]
        for turn in loop(WAVES, unroll=1):
            with when(wave().eq(turn)):
                for row, outputs in enumerate(self.outputs):
                    line = self.everything.at(row * self.size)
                    for d, output in zip(self._dimensions(), outputs, strict=True):
                        with masked(d < self.size if self.size % _WAVE else None):
                            before = select(turn.eq(0), zeros(f32), line[d])
                            line[d] = fma(output.value, factors[row], before)
            barrier()

    def _peak(self, row: Value) -> Value:
        peak = self.all_maxima[row]
        for w in range(1, WAVES):
            peak = maximum(peak, self.all_maxima[row + w * self.rows])
        return peak

    def _total(self, row: Value, peak: Value) -> Value:
        total: Value = zeros(f32)
        for w in range(WAVES):
            place = row + w * self.rows
            total = fma(exp(self.all_maxima[place] - peak), self.all_sums[place], total)
        return total

    def _rows(self) -> Iterator[tuple[Value, Value]]:
        """Each row of the tile's tokens, and its token and query head as a line of outputs."""
        for row in loop(self.present):
            token, head = self._place(row)
            yield row, token * self.shape.query_heads + head

    def store(self, out: Pointer[DType]) -> None:
        for row, line in self._rows():
            factor = 1.0 / self._total(row, self._peak(row))
            target = out.at(line.to(i64) * self.size)
            for d in each(self.size):
                target[d] = self.everything[d + row * self.size] * factor

    def store_partial(self, out: Pointer[DType], split: Value) -> None:
        """Unnormalised, with maximum and sum behind; see `Attention.part`."""
        part, splits = self.shape.part, self.shape.splits
        for row, line in self._rows():
            peak = self._peak(row)
            total = self._total(row, peak)
            target = out.at((line * splits + split).to(i64) * part)
            for d in each(self.size):
                target[d] = self.everything[d + row * self.size]
            target.store(peak, self.size)
            target.store(total, self.size + 1)


@kernel(group_size=128)
def combine_gpu(partials: In[f32], slots: In[i32], out: Out[f32], *, shape: Attention) -> None:
    """As `ops.attention.combine`. `T * query_heads` groups."""
    size = shape.cache.head_dim
    with when(slots[group() // shape.query_heads] >= 0):
        parts = partials.at(group().to(i64) * (shape.splits * shape.part))
        maxima = [parts.load(s * shape.part + size) for s in range(shape.splits)]
        peak = maxima[0]
        for other in maxima[1:]:
            peak = maximum(peak, other)
        weights = [exp(one - peak) for one in maxima]
        total: Value = zeros(f32)
        for s, weight in enumerate(weights):
            total = fma(weight, parts.load(s * shape.part + size + 1), total)
        factor = 1.0 / total
        line = out.at(group().to(i64) * size)
        for d in each(size):
            value: Value = zeros(f32)
            for s, weight in enumerate(weights):
                value = fma(weight, parts[d + s * shape.part], value)
            line[d] = value * factor
