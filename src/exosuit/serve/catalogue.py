"""The models of the store as the server tells of them: what their headers say, read once.

Names come from requests, so nothing but a name of the store is ever looked up: no path, no address.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from exosuit.errors import ExosuitError, ModelNotFound, UsageError
from exosuit.models.gguf import GgufFile, Value
from exosuit.models.store import Record, Store, name_from, unknown_model
from exosuit.serve.facts import ModelInfo

_FILL_TOKENS = frozenset({"<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<｜fim▁begin｜>"})

EMBEDDING_FAMILIES = ("bert", "nomic-bert", "jina-bert-v2")


class Catalogue:
    """What the store holds, and the file that the server was started with.

    own  a model outside the store, named by whoever started the server; None if there is none
    """

    def __init__(self, store: Store, own: Path | None = None) -> None:
        self.store = store
        self._known: dict[tuple[Path, int, int], ModelInfo] = {}
        self._own = own

    def all(self) -> list[ModelInfo]:
        """Every model that can be read, sorted by name; a damaged one hides no other."""
        found: list[ModelInfo] = []
        for name in self.store.names():
            try:
                found.append(self._stored(name))
            except ExosuitError:
                continue
        if self._own is not None:
            found.append(self._outside(self._own))
        return sorted(found, key=lambda info: info.name)

    def find(self, name: str) -> ModelInfo:
        """The model of a name, "name" or "name:latest"; ModelNotFound with the nearest."""
        plain = name.removesuffix(":latest")
        if self._own is not None and plain == self.name_of(self._own):
            return self._outside(self._own)
        for candidate in (plain, plain.replace(":", "-")):
            try:
                if candidate.lower() in self.store.names():
                    return self._stored(candidate)
            except UsageError:
                break
        names = [info.name for info in self.all()]
        if re.fullmatch(r"[\w.:/@-]{1,120}", plain):
            raise unknown_model(plain, names)
        raise ModelNotFound(
            "there is no model of that name",
            cause="a name is letters, digits, dots, dashes and underscores",
            next="exosuit models lists the names",
        )

    def name_of(self, path: Path) -> str:
        """What a file outside the store is called."""
        return name_from(path.stem)

    def _stored(self, name: str) -> ModelInfo:
        record = self.store.record(name)
        return self._read(self.store.find(name), record.name, record)

    def _outside(self, path: Path) -> ModelInfo:
        return self._read(path, self.name_of(path), None)

    def _read(self, path: Path, name: str, record: Record | None) -> ModelInfo:
        try:
            stat = path.stat()
        except OSError as problem:
            raise ModelNotFound(
                f"the file of {name} is gone",
                cause=f"{path}: {problem.strerror}",
                next="exosuit models",
                name=name,
            ) from problem
        key = (path, stat.st_mtime_ns, stat.st_size)
        if key not in self._known:
            self._known[key] = _describe(path, name, record)
        return self._known[key]


def _describe(path: Path, name: str, record: Record | None) -> ModelInfo:
    with GgufFile.open(path) as file:
        metadata = file.metadata
        tensors = list(file.tensors.values())
        family = file.get("general.architecture", str, "")
        weight: Counter[str] = Counter()
        for tensor in tensors:
            weight[tensor.type.label] += tensor.size_bytes
        template = file.get("tokenizer.chat_template", str, "")
        stat = path.stat()
        return ModelInfo(
            name=name,
            path=path,
            size_bytes=record.size_bytes if record else stat.st_size,
            digest=record.sha256 if record else "",
            family=family,
            parameters=sum(math.prod(tensor.shape) for tensor in tensors),
            quantisation=weight.most_common(1)[0][0] if weight else "",
            context=file.get(f"{family}.context_length", int, 0),
            modified=record.added
            if record
            else datetime.fromtimestamp(stat.st_mtime, UTC).isoformat(timespec="seconds"),
            licence=record.licence if record else "",
            capabilities=_capabilities(family, template, _fills(metadata)),
            template=template,
        )


def _fills(metadata: Mapping[str, Value]) -> bool:
    """Whether the vocabulary has the tokens of filling in the middle."""
    if (
        "tokenizer.ggml.fim_pre_token_id" in metadata
        or "tokenizer.ggml.prefix_token_id" in metadata
    ):
        return True
    tokens = metadata.get("tokenizer.ggml.tokens")
    return isinstance(tokens, list) and not _FILL_TOKENS.isdisjoint(tokens)


def _capabilities(family: str, template: str, fills: bool) -> tuple[str, ...]:
    if family in EMBEDDING_FAMILIES:
        return ("embedding",)
    found = ["completion"]
    if template:
        found.append("chat")
        if "tools" in template:
            found.append("tools")
        if "<think>" in template or "enable_thinking" in template:
            found.append("thinking")
    if fills:
        found.append("insert")
    return tuple(found)
