"""A model of the running server, as `exosuit run` sees it: words here, answers from there.

Tokenizer and template are read from the file's header, which both processes share; weights are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exosuit.models.chat import ChatTemplate
from exosuit.models.gguf import GgufFile
from exosuit.models.store import Store
from exosuit.models.tokenizer import Tokenizer
from exosuit.serve.client import Client, RemoteEngine
from exosuit.settings import Settings


@dataclass(frozen=True)
class RemoteModel:
    """Stands in for an `engine.open.LoadedModel` where only words and answers are wanted.

    template  None if the file has no chat template
    """

    path: Path
    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None
    engine: RemoteEngine

    def close(self) -> None:
        """Nothing is held here; the server keeps the model for as long as it was told."""


def served(path: Path, settings: Settings, context: int | None) -> RemoteModel | None:
    """The model in the running server; None if none runs, or the file is not in the store."""
    if path.parent.parent != Store(settings.model_store).root:
        return None
    client = Client.find(settings)
    if client is None:
        return None
    with GgufFile.open(path) as file:
        tokenizer = Tokenizer.from_metadata(file.metadata)
        template = None
        if file.get("tokenizer.chat_template", str):
            template = ChatTemplate.from_metadata(file.metadata, tokenizer)
        name = file.get("general.name", str) or path.stem
    return RemoteModel(
        path, name, tokenizer, template, RemoteEngine(client, path.parent.name, context)
    )
