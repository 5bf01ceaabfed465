"""A model file like another one, but for some of its metadata and tensors: mostly for bad files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

GONE = object()
"""In place of a value: the key or the tensor is left out."""


def write_altered(
    path: Path,
    source: Path,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
) -> Path:
    """Copy `source` to `path` with changes; `path` again, for chaining.

    metadata  key to its new value: str, int, float, bool, or a list of one of them
    tensors   name to a new array (f16, f32, f64, or i32); names that `source` lacks are added
    """
    metadata, tensors = dict(metadata or {}), dict(tensors or {})
    reader = gguf.GGUFReader(source)
    architecture = metadata.pop("general.architecture", None)
    if architecture is None:
        architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()
    if architecture is not GONE:
        writer.add_key_value("general.architecture", architecture, _kind(architecture))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in metadata:
            continue
        kind, *inner = field.types
        writer.add_key_value(key, field.contents(), kind, inner[0] if inner else None)
    for key, value in metadata.items():
        if value is not GONE:
            inner = _kind(value[0]) if isinstance(value, list) else None
            writer.add_key_value(key, value, _kind(value), inner)
    for tensor in reader.tensors:
        if tensor.name not in tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, values in tensors.items():
        if values is not GONE:
            writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _kind(value: Any) -> gguf.GGUFValueType:
    kinds = gguf.GGUFValueType
    if isinstance(value, bool):
        return kinds.BOOL
    if isinstance(value, int):
        if 0 <= value < 1 << 32:
            return kinds.UINT32
        return kinds.UINT64 if value >= 0 else kinds.INT32
    return {float: kinds.FLOAT32, str: kinds.STRING, list: kinds.ARRAY}[type(value)]
