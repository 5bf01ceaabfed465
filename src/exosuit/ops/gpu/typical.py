"""The launches of a real model on a GPU, by which the kernels are judged.

The shapes are Llama 3.1 8B's: width 4096, feed-forward 14336, 32 query heads of 128 dimensions
over 8 kv heads, a vocabulary of 128256; a decode step of one token, a small batch, a prefill, and
a mixture of experts of Qwen3 30B-A3B's shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from exosuit.kernel import Kernel, Target
from exosuit.ops.activations import Prologue
from exosuit.ops.attention_tile import Attention
from exosuit.ops.blocks import LANE_ROWS
from exosuit.ops.cache import PAGE, CacheFormat
from exosuit.ops.elementwise import gated
from exosuit.ops.epilogues import Epilogue, GatedEpilogue
from exosuit.ops.formats import FORMATS, Format
from exosuit.ops.gpu.activations import arrange_gpu, quantise_gpu
from exosuit.ops.gpu.attention import attention_gpu, combine_gpu
from exosuit.ops.gpu.embedding import embed_gpu
from exosuit.ops.gpu.matmul import matmul_experts_gpu, matmul_gpu
from exosuit.ops.gpu.matmul_float import matmul_experts_float_gpu, matmul_float_gpu
from exosuit.ops.gpu.matmul_tiles import WAVES as TILE_WAVES
from exosuit.ops.gpu.matmul_tiles import matmul_experts_tiles, matmul_tiles
from exosuit.ops.gpu.pack import pack_gpu
from exosuit.ops.gpu.rotary import rope_and_cache_gpu
from exosuit.ops.gpu.routing import deal_gpu
from exosuit.ops.masking import mask_logits
from exosuit.ops.matmul import Tile
from exosuit.ops.matmul_float import FLOAT_FORMATS, FloatFormat
from exosuit.ops.packing import AnyFormat
from exosuit.ops.rotary import Heads, rope_angles
from exosuit.ops.routing import Routing, collect, route
from exosuit.ops.rows import add_normed, gather_rows
from exosuit.ops.sampling import sample

WIDTH, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 4096, 14336, 32, 8, 128, 128256
QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM
CONTEXT = 4096
PROMPT = 512


@dataclass(frozen=True)
class Typical:
    """One launch.

    weights       weights that it multiplies; 0 for what is no product
    loop_weights  those of one lane in one turn of the kernel's innermost loop
    memory_bytes  what it must read and write in the card's memory
    operations    of the matrix units or of dots: products and sums
    """

    label: str
    kernel: Kernel
    groups: int
    memory_bytes: int
    weights: int = 0
    loop_weights: int = 0
    operations: int = 0
    static: dict[str, Any] = field(default_factory=dict[str, Any])


def typical_launches(target: Target) -> list[Typical]:
    """All of them; products by the matrix units only for formats that the target's units suit."""
    k = 16 if target.family == "amdgpu" else 32
    found = [_decode(format) for format in (*FORMATS.values(), *FLOAT_FORMATS.values())]
    found += [_gated(FORMATS["Q4_K"], 1), _gated(FORMATS["Q4_K"], 8)]
    found += [_batch(FORMATS[name], 4) for name in ("Q4_K", "Q6_K", "Q8_0")]
    found.append(_batch(FORMATS["Q4_K"], 16))
    found += [_prefill(format) for format in FORMATS.values() if format.sub % k == 0]
    found += [_gated_prefill(FORMATS["Q4_K"]), *_experts()]
    found += [*_activations(), *_attention(), *_rest()]
    return found


def _bytes(rows: int, columns: int, format: AnyFormat) -> int:
    if isinstance(format, FloatFormat):
        return rows * columns * format.bytes
    return rows * columns // format.block * format.block_bytes


def _product(
    label: str, format: AnyFormat, rows: int, columns: int, tile: Tile, epilogue: Epilogue
) -> Typical:
    is_float = isinstance(format, FloatFormat)
    turn = 4 * (16 // format.bytes) if is_float else format.block
    if not is_float and not format.has_sub_scales and tile.tokens <= 4:
        turn = 4 * format.block
    return Typical(
        label=label,
        kernel=matmul_float_gpu if is_float else matmul_gpu,
        groups=rows // LANE_ROWS // tile.groups,
        memory_bytes=_bytes(rows, columns, format),
        weights=rows * columns,
        loop_weights=turn * tile.groups,
        operations=2 * rows * columns * tile.tokens,
        static={
            "rows": rows, "columns": columns, "stride": epilogue.width(rows), "format": format,
            "tile": tile, "epilogue": epilogue,
        },
    )  # fmt: skip


def _decode(format: AnyFormat) -> Typical:
    label = f"matvec {format.name}"
    return _product(label, format, WIDTH, WIDTH, Tile(1, 1), Epilogue(accumulate=True))


def _batch(format: Format, tokens: int) -> Typical:
    label = f"{tokens} tokens {format.name}"
    return _product(label, format, WIDTH, WIDTH, Tile(tokens, 1), Epilogue())


def _gated(format: Format, tokens: int) -> Typical:
    label = f"gate and up, {tokens} token{'s' * (tokens > 1)}, {format.name}"
    return _product(label, format, 2 * HIDDEN, WIDTH, Tile(tokens, 2), GatedEpilogue())


def _tiles(
    label: str, format: Format, rows: int, tile: Tile, epilogue: Epilogue, tokens: int
) -> Typical:
    blocks = 4 if not format.has_sub_scales else 1
    return Typical(
        label=label,
        kernel=matmul_tiles,
        groups=tokens // tile.tokens * -(-rows // (LANE_ROWS * TILE_WAVES * tile.groups)),
        memory_bytes=_bytes(rows, WIDTH, format) + tokens * (WIDTH + 4 * epilogue.width(rows)),
        weights=rows * WIDTH,
        loop_weights=format.block * blocks * tile.groups,
        operations=2 * rows * WIDTH * tokens,
        static={
            "rows": rows, "columns": WIDTH, "stride": epilogue.width(rows), "format": format,
            "tile": tile, "epilogue": epilogue,
        },
    )  # fmt: skip


def _prefill(format: Format) -> Typical:
    label = f"prefill of {PROMPT} {format.name}"
    return _tiles(label, format, WIDTH, Tile(32, 1), Epilogue(), PROMPT)


def _gated_prefill(format: Format) -> Typical:
    label = f"prefill of {PROMPT}, gate and up, {format.name}"
    return _tiles(label, format, 2 * HIDDEN, Tile(16, 2), GatedEpilogue(), PROMPT)


def _experts() -> list[Typical]:
    """A decode step and a prefill of a mixture: 128 experts of 768 rows, 8 for each token."""
    rows, columns, chosen, format = 2 * 768, 2048, 8, FORMATS["Q4_K"]
    shape = {"rows": rows, "columns": columns, "format": format, "epilogue": GatedEpilogue()}
    panels = rows // LANE_ROWS // 2
    tiles = Routing(128, chosen, True, 1.0, 16).tiles(PROMPT)
    return [
        Typical(
            "experts, 1 token, Q4_K", matmul_experts_gpu, chosen * panels,
            chosen * _bytes(rows, columns, format), chosen * rows * columns, 2 * format.block,
            2 * chosen * rows * columns, {**shape, "tile": Tile(1, 2)},
        ),
        Typical(
            "experts, 1 token, F16", matmul_experts_float_gpu, chosen * panels,
            chosen * _bytes(rows, columns, FLOAT_FORMATS["F16"]), chosen * rows * columns, 64,
            2 * chosen * rows * columns,
            {**shape, "format": FLOAT_FORMATS["F16"], "tile": Tile(1, 2)},
        ),
        Typical(
            f"experts, prefill of {PROMPT}, Q4_K", matmul_experts_tiles,
            tiles * -(-panels // TILE_WAVES), 128 * _bytes(rows, columns, format),
            128 * rows * columns, 2 * format.block, 2 * PROMPT * chosen * rows * columns,
            {**shape, "tile": Tile(16, 2)},
        ),
    ]  # fmt: skip


def _activations() -> list[Typical]:
    line = {"columns": WIDTH, "stride": WIDTH, "tokens": 1, "prologue": Prologue(1e-5)}
    q4 = FORMATS["Q4_K"]
    return [
        Typical(
            "norm and quantise", quantise_gpu, 1, 9 * WIDTH,
            static={**line, "block": q4.block, "sub": q4.sub, "float_sums": True},
        ),
        Typical("norm for floats", arrange_gpu, 1, 12 * WIDTH, static={**line, "padded": WIDTH}),
    ]  # fmt: skip


def _attention() -> list[Typical]:
    found: list[Typical] = []
    for kind, size in (("f16", 2), ("q8", 1)):
        cache = CacheFormat(kind, KV_HEADS, HEAD_DIM)  # pyright: ignore[reportArgumentType]
        pages = CONTEXT // PAGE
        one = Attention(cache, HEADS, 1, splits=8)
        held = 2 * CONTEXT * KV_HEADS * HEAD_DIM * size
        found.append(
            Typical(
                f"attention, 1 token after {CONTEXT}, {kind}", attention_gpu,
                KV_HEADS * one.splits, held + 2 * pages * cache.scale_page_bytes,
                static={"shape": one},
            )
        )  # fmt: skip
        many = Attention(cache, HEADS, 4)
        found.append(
            Typical(
                f"attention, prefill of {PROMPT}, {kind}", attention_gpu, KV_HEADS * PROMPT // 4,
                held * PROMPT // CONTEXT, operations=2 * PROMPT * PROMPT * HEADS * HEAD_DIM,
                static={"shape": many},
            )
        )  # fmt: skip
        heads = Heads(cache, HEADS, HEAD_DIM, "halves", HEAD_DIM**-0.5, 1e-6)
        found.append(
            Typical(
                f"rotation and cache, {kind}", rope_and_cache_gpu, KV_HEADS, 8 * QKV,
                static={"heads": heads, "stride": QKV},
            )
        )  # fmt: skip
    split = Attention(CacheFormat("f16", KV_HEADS, HEAD_DIM), HEADS, 1, splits=8)
    found.append(
        Typical(
            "joining splits", combine_gpu, HEADS, 4 * split.partial_width, static={"shape": split}
        )
    )
    return found


def _rest() -> list[Typical]:
    routing = {"routing": Routing(128, 8, True, 1.0, 1)}
    embedding = FORMATS["Q4_K"]
    return [
        Typical("embedding Q4_K", embed_gpu, 1, 5 * WIDTH,
                static={"columns": WIDTH, "format": embedding, "factor": 1.0}),
        Typical("sampling", sample, 1, 12 * VOCABULARY,
                static={"vocabulary": VOCABULARY, "biases": 64}),
        Typical("masks of tokens", mask_logits, -(-VOCABULARY // 1024), 8 * VOCABULARY,
                static={"vocabulary": VOCABULARY}),
        Typical("angles", rope_angles, 1, 8 * HEAD_DIM, static={"dims": HEAD_DIM}),
        Typical("gathering rows", gather_rows, 1, 8 * WIDTH, static={"width": WIDTH}),
        Typical("norm and residual", add_normed, 1, 16 * WIDTH,
                static={"width": WIDTH, "epsilon": 1e-6}),
        Typical("gate of parts", gated, 1, 12 * HIDDEN,
                static={"width": HIDDEN, "activation": "silu"}),
        Typical("routing", route, 1, 1024, static=routing),
        Typical("dealing to experts", deal_gpu, 1, 1024, static=routing),
        Typical("collecting experts", collect, 1, 40 * 2048,
                static={"width": 2048, "chosen": 8}),
        Typical("packing Q4_K", pack_gpu, WIDTH // LANE_ROWS, 2 * _bytes(WIDTH, WIDTH, embedding),
                static={"fields": embedding.fields, "block_bytes": embedding.block_bytes}),
    ]  # fmt: skip
