"""GGUF files: metadata and tensors of a model, in one file or split over several.

The files are mapped, and `raw` is a view of the map: nothing is copied until it is used, and what
was not read costs no memory. A file must not be shortened while it is open (the system then ends
the process, as with any map).
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from exosuit.errors import CorruptFile, ModelNotFound
from exosuit.models.gguf_header import GgufHeader, Tensor, Value
from exosuit.ops.quants import dequantise

__all__ = ["GgufFile", "GgufHeader", "Tensor", "Value"]

T = TypeVar("T")
D = TypeVar("D")

_PART_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


class GgufFile:
    """An open model. Live: owns the maps of its files; any thread may read.

    path      as it was opened; of a split model, its first part
    paths     of all parts
    header    metadata of the first part, tensors of all
    """

    def __init__(self, header: GgufHeader, paths: list[Path], maps: list[mmap.mmap]) -> None:
        self.header = header
        self.path = paths[0]
        self.paths = paths
        self._maps = maps

    @classmethod
    def open(cls, path: Path | str) -> GgufFile:
        """Open a model; any part of a split one opens all of them.

        Raises ModelNotFound if the file or a part of it is not there or may not be read,
        CorruptFile and UnsupportedModel for what it holds.
        """
        path = Path(path)
        mapped = _map(path)
        header = _parse(mapped, path)
        count = header.get("split.count", int, 0)
        if count <= 1:
            return cls(header, [path], [mapped])
        return cls._open_split(header, path, count)

    @classmethod
    def _open_split(cls, opened: GgufHeader, path: Path, count: int) -> GgufFile:
        paths = _parts(path, opened.require("split.no", int), count)
        maps = [_map(part) for part in paths]
        headers = [_parse(m, p, n) for n, (m, p) in enumerate(zip(maps, paths, strict=True))]
        tensors: dict[str, Tensor] = {}
        for number, header in enumerate(headers):
            if (header.get("split.no", int), header.get("split.count", int)) != (number, count):
                raise _mixed(path, f"{paths[number].name} says that it is another part")
            twice = tensors.keys() & header.tensors.keys()
            if twice:
                raise _mixed(path, f"{min(twice)} is in more than one part")
            tensors.update(header.tensors)
        total = headers[0].get("split.tensors.count", int, len(tensors))
        if total != len(tensors):
            raise _mixed(path, f"the parts hold {len(tensors)} tensors, the model has {total}")
        first = headers[0]
        whole = GgufHeader(
            path.name, first.version, first.alignment, first.metadata, tensors, first.size_bytes
        )
        return cls(whole, paths, maps)

    @property
    def version(self) -> int:
        return self.header.version

    @property
    def alignment(self) -> int:
        return self.header.alignment

    @property
    def metadata(self) -> Mapping[str, Value]:
        """Copies: they outlive the file."""
        return self.header.metadata

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """In the order of the file."""
        return self.header.tensors

    def require(self, key: str, kind: type[T]) -> T:
        """See `GgufHeader.require`."""
        return self.header.require(key, kind)

    @overload
    def get(self, key: str, kind: type[T]) -> T | None: ...
    @overload
    def get(self, key: str, kind: type[T], default: D) -> T | D: ...
    def get(self, key: str, kind: type[T], default: Any = None) -> Any:
        """See `GgufHeader.get`."""
        return self.header.get(key, kind, default)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The tensor as it is stored: u8[rows, bytes of a row], a read-only view of the map.

        Rows of all leading dimensions are counted together. Raises CorruptFile if there is no
        such tensor.
        """
        if not self._maps:
            raise ValueError(f"{self.path.name} is closed")
        tensor = self.tensors.get(name)
        if tensor is None:
            raise CorruptFile(
                f"{self.path.name} has no tensor {name}",
                cause="the file is incomplete, or made for another architecture than it says",
                next="choose another file of this model: exosuit pull",
                tensor=name,
            )
        view = np.frombuffer(self._maps[tensor.part], np.uint8, tensor.size_bytes, tensor.offset)
        return view.reshape(tensor.rows, tensor.row_bytes)

    def array(self, name: str) -> NDArray[np.float32]:
        """The tensor's values in its shape, f32, new. Raises like `raw`."""
        stored = self.raw(name)
        tensor = self.tensors[name]
        return dequantise(tensor.type, stored).reshape(tensor.shape)

    def discard(self, name: str) -> None:
        """Let the system forget the tensor's pages, until it is read again.

        A loader that has copied a tensor says so, or the file would count as resident twice over.
        """
        tensor = self.tensors[name]
        page = mmap.PAGESIZE
        start = -(-tensor.offset // page) * page
        length = (tensor.offset + tensor.size_bytes) // page * page - start
        if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._maps[tensor.part].madvise(mmap.MADV_DONTNEED, start, length)

    def close(self) -> None:
        """Idempotent. Views that are still alive keep their map until they go."""
        maps, self._maps = self._maps, []
        for mapped in maps:
            with suppress(BufferError):  # a view is alive; the map goes when the last one does
                mapped.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _map(path: Path) -> mmap.mmap:
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise OSError(0, "it is not a regular file")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise CorruptFile(
                    f"{path.name} is empty",
                    cause="a download or copy was cut short",
                    next="download the model again: exosuit pull",
                    path=str(path),
                )
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ModelNotFound(
            f"there is no file {path}",
            cause="the path is mistyped, or the file was moved",
            next="exosuit models",
            path=str(path),
        ) from None
    except OSError as problem:
        raise ModelNotFound(
            f"{path} cannot be read",
            cause=(problem.strerror or str(problem)).lower(),
            next=f"ls -l {path}",
            path=str(path),
        ) from problem


def _parse(mapped: mmap.mmap, path: Path, part: int = 0) -> GgufHeader:
    header = GgufHeader.parse(mapped, path.name, part=part)
    header.check_extent(len(mapped))
    return header


def _parts(path: Path, number: int, count: int) -> list[Path]:
    """The files of a split model: NAME-00001-of-00003.gguf and so on."""
    match = _PART_NAME.fullmatch(path.name)
    if match is None or (int(match[2]), int(match[3])) != (number + 1, count):
        raise ModelNotFound(
            f"{path.name} is a part of a split model, and the others cannot be found",
            cause=f"it is part {number + 1} of {count}, and its name does not say so",
            next=f"rename it to NAME-{number + 1:05d}-of-{count:05d}.gguf beside the others",
            path=str(path),
        )
    paths = [path.with_name(f"{match[1]}-{n:05d}-of-{match[3]}.gguf") for n in range(1, count + 1)]
    for part in paths:
        if not part.exists():
            raise ModelNotFound(
                f"{part.name} is missing",
                cause=f"the model is split into {count} files, which must lie in one folder",
                next=f"download the missing part into {path.parent}",
                path=str(part),
            )
    return paths


def _mixed(path: Path, found: str) -> CorruptFile:
    return CorruptFile(
        f"the parts of {path.name} do not belong together",
        cause=found,
        next="download all parts of the model again: exosuit pull",
        path=str(path),
    )
