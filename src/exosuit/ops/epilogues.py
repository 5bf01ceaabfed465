"""What becomes of a matrix product before it is stored: compile-time values, composed."""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.kernel import DType, Lanes, Pointer, Value, i64, masked, sigmoid, tanh
from exosuit.ops.blocks import LANE_ROWS, ROWS


@dataclass(frozen=True)
class Epilogue:
    """Store the product; optionally add a bias, or add to what is there (a residual)."""

    bias: bool = False
    accumulate: bool = False

    def width(self, rows: int) -> int:
        """Columns of the output for a matrix of `rows` rows."""
        return rows

    def store(
        self,
        out: Pointer[DType],
        extra: Pointer[DType],
        token: Value,
        first: Value,
        results: list[Value],
        rows: int,
        stride: int,
        lane: Value | None = None,
    ) -> None:
        """Store one result for each of the workgroup's panels, the first of which is `first`.

        Lines of the output are `stride` elements apart.

        lane  on a GPU: which row of its panel a result belongs to; a result of a CPU is f32[8],
              all rows of a panel
        """
        line = out.at(token.to(i64) * stride)
        for k, result in enumerate(results):
            self._store_rows(line, extra, first + k, result, rows, lane)

    def _store_rows(
        self,
        line: Pointer[DType],
        extra: Pointer[DType],
        panel: Value,
        result: Value,
        rows: int,
        lane: Value | None,
    ) -> None:
        side_by_side = ROWS if lane is None else LANE_ROWS
        first = panel * side_by_side
        index = Lanes(first, ROWS) if lane is None else first + lane
        with masked(index < rows if rows % side_by_side else None):
            if self.bias:
                result = result + extra[index]
            if self.accumulate:
                result = result + line[index]
            line[index] = result


@dataclass(frozen=True)
class GatedEpilogue(Epilogue):
    """Rows come in pairs of groups, a gate and its value: store activation(gate) * value.

    activation  "silu" or "gelu" (the tanh form)
    """

    activation: str = "silu"

    def width(self, rows: int) -> int:
        return rows // 2

    def store(
        self,
        out: Pointer[DType],
        extra: Pointer[DType],
        token: Value,
        first: Value,
        results: list[Value],
        rows: int,
        stride: int,
        lane: Value | None = None,
    ) -> None:
        line = out.at(token.to(i64) * stride)
        gates, values = results[0::2], results[1::2]
        for k, (gate, value) in enumerate(zip(gates, values, strict=True)):
            product = ACTIVATIONS[self.activation](gate) * value
            self._store_rows(line, extra, first // 2 + k, product, self.width(rows), lane)


def silu(x: Value) -> Value:
    return x * sigmoid(x)


def gelu(x: Value) -> Value:
    """The tanh approximation, as ggml computes it."""
    inner = x * (x * x * 0.044715 + 1.0) * 0.79788456080286535588
    return x * 0.5 * (tanh(inner) + 1.0)


ACTIVATIONS = {"silu": silu, "gelu": gelu}
