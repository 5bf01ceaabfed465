"""Matrices on the device: packed at load, rows side by side, a tensor or several stacked.

The file's bytes are permuted by a kernel: on the host straight from its mapping, without a copy in
between; on a card from a staging buffer in the card's memory. A storage type that no kernel reads
is expanded to Q8_0 first, and the loader says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from exosuit.driver.device import Buffer, Device, Region
from exosuit.errors import CorruptFile, UnsupportedModel
from exosuit.graph import Arena, Graph
from exosuit.models.gguf import GgufFile, Tensor
from exosuit.ops.formats import FORMATS
from exosuit.ops.matmul_float import FLOAT_FORMATS
from exosuit.ops.packing import AnyFormat, packing_for
from exosuit.ops.programs import Programs
from exosuit.ops.quants import StorageType, dequantise, quantise
from exosuit.units import MiB, round_up

_EXPANDED = "Q8_0"
# Rows that are expanded at a time, so that the f32 copy stays small.
_EXPAND_ELEMENTS = 1 << 24
# Bytes of the file that are packed at a time: so much of it is resident beside its packed copy.
_PACK_BYTES = 8 * MiB
# And on a card, where each time costs a wait for an answer over the link.
_STAGED_BYTES = 32 * MiB


@dataclass(frozen=True)
class Matrix:
    """`rows` times `columns` weights, packed in `region` as `panels` (see `ops.packing`)."""

    name: str
    rows: int
    columns: int
    format: AnyFormat
    region: Region
    panels: int


@dataclass(frozen=True)
class Stack:
    """Matrices over the same input whose outputs stand side by side; one per run of equal types.

    interleaved  rows come as a panel of the first tensor, then a panel of the second
    """

    matrices: tuple[Matrix, ...]
    interleaved: bool = False

    @property
    def rows(self) -> int:
        return sum(m.rows for m in self.matrices)

    @property
    def columns(self) -> int:
        return self.matrices[0].columns


@dataclass(frozen=True)
class Experts:
    """As many matrices of one shape, one after the other; `matrix` describes one of them."""

    matrix: Matrix
    count: int


def format_of(type: StorageType) -> AnyFormat:
    """The format that a tensor of this type runs in."""
    if type.label in FORMATS:
        return FORMATS[type.label]
    return FLOAT_FORMATS.get(type.label) or FORMATS[_EXPANDED]


class WeightLoader:
    """Reads tensors of one file into one arena of the device.

    notes     what the user should know (types that had to be expanded)
    progress  called with the bytes done and the bytes in all
    """

    def __init__(
        self,
        file: GgufFile,
        device: Device,
        programs: Programs,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.file = file
        self.notes: list[str] = []
        self._device = device
        self._programs = programs
        self._packing = packing_for(programs.target)
        self._staging: Buffer | None = None
        self._progress = progress
        self._done = 0
        self._total = sum(t.size_bytes for t in file.tensors.values())
        self._arena = Arena(device, self._arena_bytes(), "weights")
        self._known: dict[str, Matrix] = {}
        self._used: set[str] = set()
        self._note_expanded()

    @property
    def buffer_bytes(self) -> int:
        return self._arena.buffer.size_bytes

    def close(self) -> None:
        self._free_staging()
        self._arena.close()

    # Tensors ------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        return name in self.file.tensors

    def values(self, name: str, size: int) -> NDArray[np.float32]:
        """A vector of the file on the host, checked for its size."""
        tensor = self._tensor(name)
        if tensor.shape != (size,):
            raise _wrong_shape(tensor, (size,))
        values = self.file.array(name)
        self._advance(tensor)
        return values

    def table(self, name: str, rows: int | None, columns: int) -> NDArray[np.float32]:
        """A matrix of the file on the host, f32; any number of rows if `rows` is None."""
        tensor = self._tensor(name)
        if len(tensor.shape) != 2 or tensor.shape != (rows or tensor.shape[0], columns):
            raise _wrong_shape(tensor, (rows or tensor.shape[0], columns))
        values = self.file.array(name)
        self._advance(tensor)
        return values

    def vector(self, name: str, size: int) -> Region:
        """A vector of the file as f32 (norm weights, biases)."""
        return self.constant(self.values(name, size))

    def constant(self, values: NDArray[np.float32]) -> Region:
        """Values that are not in the file, or not so."""
        region = self._arena.take(values.nbytes)
        self._device.copy_in(region, values)
        return region

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        """The same Matrix if it is asked for again."""
        tensor = self._matrix(name, rows, columns)
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._load([tensor], interleaved=False)
        return known

    def stack(self, names: Sequence[str], rows: Sequence[int], columns: int) -> Stack:
        """Several tensors over one input, neighbours of one type in one matrix."""
        runs: list[list[Tensor]] = []
        for name, count in zip(names, rows, strict=True):
            tensor = self._matrix(name, count, columns)
            joins = (
                runs
                and format_of(runs[-1][-1].type) is format_of(tensor.type)
                and runs[-1][-1].shape[0] % self._packing.rows == 0
            )
            if joins:
                runs[-1].append(tensor)
            else:
                runs.append([tensor])
        return Stack(tuple(self._load(run, interleaved=False) for run in runs))

    def gated(self, gate: str, up: str, rows: int, columns: int) -> Stack:
        """A gate and its value: interleaved if their types agree, else one after the other."""
        tensors = [self._matrix(name, rows, columns) for name in (gate, up)]
        if format_of(tensors[0].type) is not format_of(tensors[1].type):
            return self.stack([gate, up], [rows, rows], columns)
        return Stack((self._load(tensors, interleaved=True),), interleaved=True)

    def gated_halves(self, name: str, rows: int, columns: int) -> Stack:
        """One tensor whose first `rows` are the gate and whose other `rows` are the value."""
        tensor = self._matrix(name, 2 * rows, columns)
        raw = self.file.raw(name)
        panels = 2 * -(-rows // self._packing.rows)
        matrix = self._take(name, 2 * rows, columns, format_of(tensor.type), panels)
        for which in (0, 1):
            self._pack(tensor, raw[which * rows : (which + 1) * rows], matrix, 2, which)
        self._advance(tensor)
        return Stack((matrix,), interleaved=True)

    def experts(
        self, names: Sequence[str], count: int, rows: int, columns: int, interleaved: bool = False
    ) -> Experts:
        """Tensors [expert, row, column], those of one expert together (see `gated`)."""
        tensors = [self._runnable(name, (count, rows, columns)) for name in names]
        first, panel = tensors[0], self._packing.rows
        for tensor in tensors:
            if tensor.type is not first.type or rows % panel:
                raise UnsupportedModel(
                    f"{self.file.path.name}: the experts in {tensor.name} cannot be packed",
                    cause=f"they must be {first.type.label} as in {first.name}, rows in"
                    f" multiples of {panel}; they are {tensor.type.label}, {rows} rows",
                    next="choose another file of this model: exosuit pull",
                    tensor=tensor.name,
                )
        each = rows * len(tensors)
        format = format_of(first.type)
        matrix = self._take(names[0], each, columns, format, each // panel, count)
        for which, tensor in enumerate(tensors):
            raw = self.file.raw(tensor.name)
            for expert in range(count):
                step, start = (len(tensors), which) if interleaved else (1, which * rows // panel)
                part = raw[expert * rows : (expert + 1) * rows]
                self._pack(tensor, part, matrix, step, start + expert * each // panel)
            self._advance(tensor)
        return Experts(replace(matrix, rows=each, panels=each // panel), count)

    def finish(self) -> None:
        """UnsupportedModel if the file holds tensors that the model does not use.

        They would change its answers: biases, norms or experts that its family does not have.
        """
        self._free_staging()
        unused = self.file.tensors.keys() - self._used
        if unused:
            raise UnsupportedModel(
                f"{self.file.path.name} has tensors that exosuit does not use: "
                + ", ".join(sorted(unused)[:3])
                + (f" and {len(unused) - 3} more" if len(unused) > 3 else ""),
                cause="the model is of a kind that its architecture's name does not tell",
                next="choose another model: exosuit models",
                tensors=sorted(unused),
            )

    # Packing ------------------------------------------------------------------------------

    def _load(self, tensors: list[Tensor], interleaved: bool) -> Matrix:
        """Matrices of one format over the same columns, as one."""
        rows = sum(t.shape[0] for t in tensors)
        panels = sum(-(-t.shape[0] // self._packing.rows) for t in tensors)
        name = "+".join(t.name for t in tensors)
        format = format_of(tensors[0].type)
        matrix = self._take(name, rows, tensors[0].shape[1], format, panels)
        start = 0
        for which, tensor in enumerate(tensors):
            step, first = (2, which) if interleaved else (1, start // self._packing.rows)
            self._pack(tensor, self.file.raw(tensor.name), matrix, step, first)
            self._advance(tensor)
            start += tensor.shape[0]
        return matrix

    def _take(
        self, name: str, rows: int, columns: int, format: AnyFormat, panels: int, copies: int = 1
    ) -> Matrix:
        """Room for as many matrices of `rows` rows in `panels` panels, described as one."""
        packing = self._packing
        format = packing.laid_out(format, panels, columns)
        rows, panels = rows * copies, panels * copies
        region = self._arena.take(packing.bytes(panels * packing.rows, columns, format))
        return Matrix(name, rows, columns, format, region, panels)

    def _pack(
        self, tensor: Tensor, raw: NDArray[np.uint8], matrix: Matrix, step: int, start: int
    ) -> None:
        """The rows in `raw`, which are the tensor's or some of them, as every `step`th panel."""
        format, panel = matrix.format, self._packing.rows
        program, sizes = self._packing.program(self._programs, format, matrix.columns)
        most = _STAGED_BYTES if self._packing.staged else _PACK_BYTES
        size = max(1, most // raw.shape[1] // panel) * panel
        for first in range(0, raw.shape[0], size):
            some = raw[first : first + size]
            if tensor.type.label != format.name:
                some = _expand(tensor.type, some)
            graph = Graph()
            source = self._source(some.reshape(-1), tensor.name)
            graph.launch(
                program, -(-len(some) // panel), source, matrix.region, len(some), *sizes, step,
                start + step * first // panel,
            )  # fmt: skip
            replay = graph.prepare(self._device)
            replay.run()
            replay.close()
            self.file.discard(tensor.name)

    def _source(self, raw: NDArray[np.uint8], name: str) -> Region:
        """Bytes of the file where the device's programs can read them."""
        if not self._packing.staged:
            return self._device.import_host(raw, name).region()
        if self._staging is None or self._staging.size_bytes < raw.size:
            self._free_staging()
            size = max(raw.size, min(_STAGED_BYTES, self._total))
            self._staging = self._device.allocate(size, "staging of weights", sparse=True)
        region = self._staging.region(0, raw.size)
        self._device.copy_in(region, raw)
        return region

    def _free_staging(self) -> None:
        if self._staging is not None:
            self._device.free(self._staging)
            self._staging = None

    def _matrix(self, name: str, rows: int, columns: int) -> Tensor:
        return self._runnable(name, (rows, columns))

    def _runnable(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor, checked for its shape and for a type that some kernel can read."""
        tensor = self._tensor(name)
        if tensor.shape != shape:
            raise _wrong_shape(tensor, shape)
        block = StorageType[_EXPANDED].block
        if format_of(tensor.type).name != tensor.type.label and tensor.type.block % block:
            raise UnsupportedModel(
                f"{self.file.path.name}: tensor {name!r} is stored as {tensor.type.label}",
                cause="exosuit multiplies no matrices of this type",
                next="choose another file of this model: exosuit pull",
                tensor=name,
            )
        return tensor

    def _tensor(self, name: str) -> Tensor:
        tensor = self.file.tensors.get(name)
        if tensor is None:
            raise CorruptFile(
                f"{self.file.path.name} has no tensor {name!r}",
                cause="the file is incomplete, or it names its architecture wrongly",
                next="exosuit show " + str(self.file.path),
                tensor=name,
            )
        self._used.add(name)
        return tensor

    def _advance(self, tensor: Tensor) -> None:
        self._done += tensor.size_bytes
        self._progress(self._done, self._total)

    def _arena_bytes(self) -> int:
        total = 0
        for tensor in self.file.tensors.values():
            if len(tensor.shape) == 1:
                size = tensor.shape[0] * 4
            else:
                rows = int(np.prod(tensor.shape[:-1], dtype=np.int64))
                format = format_of(tensor.type)
                size = self._packing.bytes(rows + 2 * self._packing.rows, tensor.shape[-1], format)
            total += round_up(size, 128)
        return total + (1 << 20)

    def _note_expanded(self) -> None:
        for type in sorted({t.type for t in self.file.tensors.values() if len(t.shape) > 1},
                           key=lambda t: t.label):  # fmt: skip
            if type.label not in FORMATS and type.label not in FLOAT_FORMATS:
                self.notes.append(f"{type.label} tensors are expanded to {_EXPANDED} at load")


def _expand(type: StorageType, raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows of any type as rows of Q8_0."""
    target = StorageType[_EXPANDED]
    step = max(1, _EXPAND_ELEMENTS // (raw.shape[1] // type.block_bytes * type.block))
    parts = [
        quantise(target, dequantise(type, raw[first : first + step]))
        for first in range(0, raw.shape[0], step)
    ]
    return np.concatenate(parts)


def _wrong_shape(tensor: Tensor, wanted: tuple[int, ...]) -> CorruptFile:
    return CorruptFile(
        f"tensor {tensor.name!r} has the shape {list(tensor.shape)}, not {list(wanted)}",
        cause="the file does not hold what its metadata says",
        next="download the model again: exosuit pull",
        tensor=tensor.name,
    )
