"""How a target's kernels want weights packed, and the programs that pack them.

CPUs take eight rows side by side, and panels of floats in turns; GPUs records of 32 rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from exosuit.kernel import Target
from exosuit.ops.blocks import LANE_ROWS, ROWS, Field
from exosuit.ops.formats import Format
from exosuit.ops.gpu.matmul_float import RUN_BYTES, padded_columns
from exosuit.ops.gpu.pack import pack_gpu
from exosuit.ops.matmul_float import FloatFormat
from exosuit.ops.pack import pack
from exosuit.ops.pack_float import pack_floats
from exosuit.ops.programs import Programs
from exosuit.program import Program
from exosuit.units import round_up

AnyFormat = Format | FloatFormat


class Packing(ABC):
    """One way to pack.

    rows    rows of a panel
    staged  raw bytes are copied into the device's memory first; else programs read the file's
    """

    rows: int
    staged: bool

    @abstractmethod
    def laid_out(self, format: AnyFormat, panels: int, columns: int) -> AnyFormat:
        """The format as a matrix of that size is packed."""

    @abstractmethod
    def row_bytes(self, columns: int, format: AnyFormat) -> int:
        """Bytes of one packed row."""

    @abstractmethod
    def program(
        self, programs: Programs, format: AnyFormat, columns: int
    ) -> tuple[Program, tuple[int, ...]]:
        """What packs rows, and the sizes that it takes between the number of rows and the step."""

    def bytes(self, rows: int, columns: int, format: AnyFormat) -> int:
        """Device bytes of a packed matrix."""
        return round_up(rows, self.rows) * self.row_bytes(columns, format)


class CpuPacking(Packing):
    rows = ROWS
    staged = False

    def laid_out(self, format: AnyFormat, panels: int, columns: int) -> AnyFormat:
        return format.laid_out(panels, columns) if isinstance(format, FloatFormat) else format

    def row_bytes(self, columns: int, format: AnyFormat) -> int:
        if isinstance(format, FloatFormat):
            return columns * format.bytes
        return columns // format.block * format.block_bytes

    def program(
        self, programs: Programs, format: AnyFormat, columns: int
    ) -> tuple[Program, tuple[int, ...]]:
        if isinstance(format, FloatFormat):
            return programs.get(pack_floats, columns=columns, format=format), ()
        program = programs.get(pack, fields=format.fields, block_bytes=format.block_bytes)
        return program, (columns // format.block,)


class GpuPacking(Packing):
    rows = LANE_ROWS
    staged = True

    def laid_out(self, format: AnyFormat, panels: int, columns: int) -> AnyFormat:
        del panels, columns
        return format

    def row_bytes(self, columns: int, format: AnyFormat) -> int:
        if isinstance(format, FloatFormat):
            return padded_columns(columns, format) * format.bytes
        return columns // format.block * format.block_bytes

    def program(
        self, programs: Programs, format: AnyFormat, columns: int
    ) -> tuple[Program, tuple[int, ...]]:
        if isinstance(format, FloatFormat):
            fields, tail = (Field(0, RUN_BYTES, format.bytes),), columns * format.bytes % RUN_BYTES
            program = programs.get(pack_gpu, fields=fields, block_bytes=RUN_BYTES, tail=tail)
            return program, (-(-columns * format.bytes // RUN_BYTES),)
        program = programs.get(pack_gpu, fields=format.fields, block_bytes=format.block_bytes)
        return program, (columns // format.block,)


def packing_for(target: Target) -> Packing:
    return GpuPacking() if target.is_gpu else CpuPacking()
