"""`Recording`: the vocabulary in which an architecture writes down its graph.

A recording is made for a number of tokens and of wanted rows; replaying it computes a step of that
size. It owns no memory: activations are cut from a workspace that all recordings of a model share,
because only one of them runs at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.driver.device import Region
from exosuit.graph import Arena, Graph
from exosuit.models.matrices import Experts, Matrix, Stack
from exosuit.models.step import StepBuffers
from exosuit.ops.activations import Prologue
from exosuit.ops.attention import Attention, attention, combine
from exosuit.ops.elementwise import chunks, gated, softcap
from exosuit.ops.embedding import embed
from exosuit.ops.epilogues import Epilogue, GatedEpilogue
from exosuit.ops.masking import mask_groups, mask_logits
from exosuit.ops.products import MOST_TILE, attention_splits, attention_tile, products_for
from exosuit.ops.programs import Programs
from exosuit.ops.rotary import Heads, rope_and_cache, rope_angles
from exosuit.ops.routing import Routing, collect, deal, route
from exosuit.ops.rows import add_normed, gather_rows
from exosuit.ops.sampling import sample
from exosuit.units import round_up


@dataclass(frozen=True)
class Norm:
    """RMS normalisation: its weight f32[width] on the device, and epsilon."""

    weight: Region
    epsilon: float


@dataclass(frozen=True)
class LayerCache:
    """One layer's pages (see `ops.cache`)."""

    keys: Region
    values: Region
    key_scales: Region
    value_scales: Region


class Recording:
    """Collects the launches of a step into `graph`."""

    def __init__(
        self,
        programs: Programs,
        step: StepBuffers,
        workspace: Arena,
        tokens: int,
        rows: int,
        width: int,
        parallel_groups: int,
    ) -> None:
        self.graph = Graph()
        self.tokens = tokens
        self.rows = rows
        self.parallel_groups = parallel_groups
        self.width = width
        self.step = step
        self._programs = programs
        self._products = products_for(programs)
        self._workspace = workspace
        self._start = workspace.mark()
        self._buffers: dict[str, Region] = {}
        self.x = self.floats("x", width)
        # Stands where a program has a parameter that it does not use.
        self._unused = self.region("unused", 64)

    # Memory -------------------------------------------------------------------------------

    def region(self, name: str, size_bytes: int) -> Region:
        """Workspace by name; the same region if it is asked for again with the same size."""
        known = self._buffers.get(name)
        if known is None or known.size_bytes < size_bytes:
            known = self._workspace.take(size_bytes)
            self._buffers[name] = known
        return known.part(0, size_bytes)

    def floats(self, name: str, width: int, tokens: int | None = None) -> Region:
        """f32[tokens, width], with room for the tile that the last token lies in."""
        return self.region(name, 4 * width * round_up(tokens or self.tokens, MOST_TILE))

    def close(self) -> Graph:
        """The finished graph; the workspace is free for the next recording."""
        self._workspace.rewind(self._start)
        return self.graph

    # Matrices -----------------------------------------------------------------------------

    def linear(
        self,
        x: Region,
        stack: Stack,
        out: Region,
        norm: Norm | None = None,
        bias: Region | None = None,
        accumulate: bool = False,
        tokens: int | None = None,
    ) -> None:
        """`out = stack @ norm(x) (+ bias)`, or `out += ...`; x f32[tokens, columns]."""
        first = 0
        for matrix in stack.matrices:
            epilogue = Epilogue(bias=bias is not None, accumulate=accumulate)
            place = out.part(4 * first, out.size_bytes - 4 * first)
            extra = bias.part(4 * first, 4 * matrix.rows) if bias is not None else self._unused
            self._multiply(x, matrix, place, stack.rows, epilogue, extra, norm, tokens)
            first += matrix.rows

    def gated(
        self,
        x: Region,
        stack: Stack,
        out: Region,
        activation: str,
        norm: Norm | None = None,
        tokens: int | None = None,
    ) -> None:
        """`out = activation(gate @ norm(x)) * (up @ norm(x))`."""
        if stack.interleaved:
            epilogue = GatedEpilogue(activation=activation)
            matrix = stack.matrices[0]
            self._multiply(x, matrix, out, matrix.rows // 2, epilogue, self._unused, norm, tokens)
            return
        count = tokens or self.tokens
        both = self.floats("gate and up", stack.rows, count)
        self.linear(x, stack, both, norm, tokens=tokens)
        program = self._programs.get(gated, width=stack.rows // 2, activation=activation)
        self.graph.launch(program, count, both, out)

    def _multiply(
        self,
        x: Region,
        matrix: Matrix,
        out: Region,
        stride: int,
        epilogue: Epilogue,
        extra: Region,
        norm: Norm | None,
        tokens: int | None,
    ) -> None:
        count = tokens or self.tokens
        gated = isinstance(epilogue, GatedEpilogue)
        product = self._products.product(count, matrix.format, gated)
        tiles = -(-count // product.tile.tokens)
        prepared = self._prepare(x, matrix, product.interleave, count, norm)
        program = self._programs.get(
            product.kernel, rows=matrix.rows, columns=matrix.columns, stride=stride,
            format=matrix.format, tile=product.tile, epilogue=epilogue,
        )  # fmt: skip
        groups = product.groups(matrix.panels, tiles)
        self.graph.launch(program, groups, matrix.region, *prepared, extra, out, tiles)

    def _prepare(
        self,
        x: Region,
        matrix: Matrix,
        interleave: int,
        lines: int,
        norm: Norm | None,
        rows: Region | None = None,
        choices: int = 0,
    ) -> tuple[Region, ...]:
        """Activations as the matrix's kernel reads them; `rows` and `choices` as for experts."""
        prologue = Prologue(norm.epsilon if norm else None)
        found = self._products.prepared(
            matrix.columns, matrix.format, interleave, lines, prologue, choices
        )
        if found is None:
            return (x,)
        outs = tuple(self.region(name, size) for name, size in found.outputs)
        weight = norm.weight if norm else self._unused
        self.graph.launch(found.program, lines, x, weight, rows or self._unused, *outs)
        return outs

    def mixture(
        self, x: Region, router: Stack, gate_up: Experts, down: Experts, chosen: int, norm: Norm
    ) -> None:
        """`x += the chosen experts' feed-forward of norm(x)`, weights renormalised to sum to 1."""
        tile = self._products.expert_tile(self.tokens)
        routing = Routing(gate_up.count, chosen, renormalise=True, scale=1.0, tile=tile)
        tiles = routing.tiles(self.tokens)
        logits = self.floats("router", gate_up.count)
        self.linear(x, router, logits, norm)
        experts = self.region("experts", 4 * chosen * self.tokens)
        weights = self.region("expert weights", 4 * chosen * self.tokens)
        get, launch = self._programs.get, self.graph.launch
        launch(get(route, routing=routing), self.tokens, logits, experts, weights)
        rows = self.region("expert rows", 4 * tiles * tile)
        tile_experts = self.region("tile experts", 4 * tiles)
        places = self.region("places", 4 * chosen * self.tokens)
        launch(
            get(deal, routing=routing), 1, experts, self.step.slots, rows, tile_experts, places,
            self.tokens, tiles,
        )  # fmt: skip
        hidden = self.floats("expert hidden", down.matrix.columns, tiles * tile)
        self._experts(x, gate_up, tile_experts, hidden, tile, tiles, GatedEpilogue(), norm,
                      rows, chosen)  # fmt: skip
        results = self.floats("expert results", self.width, tiles * tile)
        self._experts(hidden, down, tile_experts, results, tile, tiles, Epilogue())
        program = get(collect, width=self.width, chosen=chosen)
        launch(program, self.tokens, results, weights, places, x)

    def _experts(
        self,
        x: Region,
        experts: Experts,
        tile_experts: Region,
        out: Region,
        tokens: int,
        tiles: int,
        epilogue: Epilogue,
        norm: Norm | None = None,
        rows: Region | None = None,
        choices: int = 0,
    ) -> None:
        matrix = experts.matrix
        gated = isinstance(epilogue, GatedEpilogue)
        product = self._products.expert_product(tokens, matrix.format, gated)
        lines = tiles * tokens
        prepared = self._prepare(x, matrix, product.interleave, lines, norm, rows, choices)
        program = self._programs.get(
            product.kernel, rows=matrix.rows, columns=matrix.columns, format=matrix.format,
            tile=product.tile, epilogue=epilogue,
        )  # fmt: skip
        groups = tiles * product.groups(matrix.panels, 1)
        self.graph.launch(program, groups, matrix.region, tile_experts, *prepared, out)

    # The parts of a model -----------------------------------------------------------------

    def embed(self, matrix: Matrix, factor: float = 1.0) -> None:
        """`x = factor * rows of the embedding matrix`."""
        program = self._programs.get(
            embed, columns=matrix.columns, format=matrix.format, factor=factor
        )
        self.graph.launch(program, self.tokens, matrix.region, self.step.ids, self.x)

    def angles(self, name: str, inverse: Region, magnitude: float, dims: int) -> Region:
        """The table of cosines and sines of this step, f32[tokens, dims / 2, 2]."""
        table = self.floats("angles " + name, dims)
        program = self._programs.get(rope_angles, dims=dims)
        self.graph.launch(
            program, self.tokens, self.step.positions, inverse, table, float(magnitude)
        )
        return table

    def attend(
        self,
        qkv: Region,
        table: Region,
        cache: LayerCache,
        heads: Heads,
        window: int = 0,
        softcap: float = 0.0,
        head_norms: tuple[Region, Region] | None = None,
    ) -> Region:
        """Turn, store and attend; qkv f32[tokens, query, key and value heads].

        Returns f32[tokens, query_heads * head_dim].
        """
        step, tokens = self.step, self.tokens
        columns = step.limits.pages
        queries = self.floats("queries", heads.query_width)
        query_norm, key_norm = head_norms or (self._unused, self._unused)
        program = self._programs.get(
            rope_and_cache, heads=heads, stride=heads.query_width + 2 * heads.key_width
        )
        self.graph.launch(
            program, tokens * heads.cache.kv_heads, qkv, table, step.positions, step.slots,
            step.page_table, query_norm, key_norm, queries, cache.keys, cache.values,
            cache.key_scales, cache.value_scales, columns,
        )  # fmt: skip
        tile = attention_tile(tokens, heads.repeat, self._programs.target)
        tiles = tokens if tile == 1 else tokens // tile + step.limits.sequences
        shape = Attention(
            heads.cache, heads.query_heads, tile, window=window, softcap=softcap,
            splits=attention_splits(
                tokens, tiles * heads.cache.kv_heads, columns, self.parallel_groups,
                self._programs.target,
            ),
        )  # fmt: skip
        out = self.floats("attended", heads.query_width)
        partial = out if shape.splits == 1 else self.floats("partials", shape.partial_width)
        self.graph.launch(
            self._programs.get(attention, shape=shape), heads.cache.kv_heads * tiles * shape.splits,
            queries, cache.keys, cache.values, cache.key_scales, cache.value_scales,
            step.page_table, step.positions, step.tiles, partial, columns, tiles,
        )  # fmt: skip
        if shape.splits > 1:
            program = self._programs.get(combine, shape=shape)
            self.graph.launch(program, tokens * heads.query_heads, partial, step.slots, out)
        return out

    def add_normed(self, y: Region, norm: Norm) -> None:
        """`x += norm(y)`."""
        program = self._programs.get(add_normed, width=self.width, epsilon=norm.epsilon)
        self.graph.launch(program, self.tokens, y, norm.weight, self.x)

    def logits(self, stack: Stack, norm: Norm, cap: float = 0.0) -> None:
        """Logits of the wanted rows into the step's buffer."""
        chosen = self.floats("chosen", self.width, self.rows)
        program = self._programs.get(gather_rows, width=self.width)
        self.graph.launch(program, self.rows, self.x, self.step.rows, chosen)
        self.linear(chosen, stack, self.step.logits, norm, tokens=self.rows)
        if cap:
            count = self.rows * stack.rows
            program = self._programs.get(softcap, cap=cap)
            self.graph.launch(program, chunks(count), self.step.logits, count)

    def sample(self, vocabulary: int, continues: bool, masked: bool = False) -> None:
        """Sample each wanted row as its record says; if `masked`, of the tokens its mask allows.

        If the step `continues`, the sampled tokens and their positions become the next step's, so
        that it can follow without a visit to the host.
        """
        step = self.step
        if masked:
            program = self._programs.get(mask_logits, vocabulary=vocabulary)
            groups = mask_groups(self.rows, vocabulary)
            self.graph.launch(program, groups, step.logits, step.masks)
        program = self._programs.get(sample, vocabulary=vocabulary, biases=step.limits.biases)
        self.graph.launch(
            program, self.rows, step.logits, step.samplers, step.bias_tokens, step.bias_values,
            step.counts, step.sampling_work, step.ids if continues else step.unused_ids,
            step.positions if continues else step.draws, step.tokens, step.log_probabilities,
        )  # fmt: skip
