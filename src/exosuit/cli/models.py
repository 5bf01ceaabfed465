"""`exosuit models`, `pull`, `import`, `show` and `rm`: the model store."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sized
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exosuit.cli import render
from exosuit.cli.command import Subparsers, add_command
from exosuit.errors import CorruptFile, ExosuitError, ModelNotFound, UsageError
from exosuit.settings import Settings
from exosuit.units import human_bytes

if TYPE_CHECKING:
    from exosuit.models.foreign import Found
    from exosuit.models.gguf import Tensor
    from exosuit.models.store import Record, Store

_SOURCES = """
SOURCE is one of
  smollm2                        a short name (exosuit models --known)
  hf:owner/repo                  the model hub; a usual quantisation is chosen
  owner/repo:Q8_0                a quantisation
  owner/repo/file.gguf           one file
  https://host/x.gguf            any server; #sha256=HEX at the end checks it
  ./x.gguf                       a file on this disk
""".strip()


def register(subparsers: Subparsers[Any]) -> None:
    models = add_command(
        subparsers, "models", "List the models in the store.", "exosuit models --json", json=True
    )
    models.add_argument("--known", action="store_true", help="list the names that pull knows")

    pull = add_command(
        subparsers, "pull", "Fetch a model into the store.", "exosuit pull qwen3-4b", json=True
    )
    pull.description = f"Fetch a model into the store, checked by its hash.\n\n{_SOURCES}"
    pull.add_argument("source", metavar="SOURCE")
    pull.add_argument("--name", help="what to call it (default: made from the source)")
    pull.add_argument("--link", action="store_true", help="link a local file, do not copy it")

    bring = add_command(
        subparsers, "import", "Use the models of Ollama and LM Studio where they lie.",
        "exosuit import ollama", json=True,
    )  # fmt: skip
    bring.description = (
        "Use the models that Ollama and LM Studio have fetched, without copying them: the store"
        " gets links, and  exosuit rm  removes the links alone."
    )
    bring.add_argument("program", nargs="?", choices=("ollama", "lmstudio"), help="default: both")
    bring.add_argument("names", nargs="*", metavar="MODEL", help="default: all")
    bring.add_argument(
        "--from", dest="folder", type=Path, metavar="FOLDER", help="where they lie, if not as usual"
    )
    bring.add_argument("--dry-run", action="store_true", help="only show what there is")

    show = add_command(
        subparsers, "show", "Show what a model is made of.", "exosuit show smollm2", json=True
    )
    show.add_argument("model", metavar="MODEL", help="a GGUF file or a name in the store")

    remove = add_command(
        subparsers, "rm", "Remove models, or what is left of a download.", "exosuit rm smollm2"
    )
    remove.add_argument("names", metavar="MODEL", nargs="+")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    from exosuit.models.store import Store

    store = Store(settings.model_store)
    match arguments.command:
        case "models":
            return _known(arguments) if arguments.known else _models(arguments, store)
        case "pull":
            return _pull(arguments, store)
        case "import":
            return _import(arguments, store, settings)
        case "show":
            return _show(arguments, store)
        case _:
            return _remove(arguments, store)


def _models(arguments: argparse.Namespace, store: Store) -> int:
    records: list[Record] = []
    for name in store.names():
        try:
            records.append(store.record(name))
        except CorruptFile as problem:  # one bad record must not hide the other models
            render.error(problem)
    if arguments.json:
        models = [as_json(record, store) for record in records]
        render.document({"store": str(store.root), "models": models})
    elif records:
        render.table(
            ("name", "size", "architecture", "licence", "from"),
            [
                (
                    r.name,
                    human_bytes(r.size_bytes),
                    r.architecture,
                    r.licence or "?",
                    f"{r.source} (linked)" if store.links(r.name) else r.source,
                )
                for r in records
            ],
        )
    else:
        render.note(f"no models in {store.root} yet; try  exosuit pull smollm2")
    return 0


def _known(arguments: argparse.Namespace) -> int:
    from exosuit.models.pull_names import KNOWN_MODELS

    rows = [
        (m.name, m.source if isinstance(m.source, str) else "python wheels", m.licence, m.about,
         m.tested)
        for m in KNOWN_MODELS.values()
    ]  # fmt: skip
    if arguments.json:
        keys = ("name", "source", "licence", "about", "tested")
        render.document({"known": [dict(zip(keys, row, strict=True)) for row in rows]})
    else:
        render.table(
            ("name", "source", "licence", "what", "tested"),
            [(*row[:4], "yes" if row[4] else "no") for row in rows],
        )
    return 0


def _pull(arguments: argparse.Namespace, store: Store) -> int:
    from exosuit.models.pull import pull

    record = pull(
        arguments.source, store, name=arguments.name, link=arguments.link, progress=render.Bar()
    )
    if arguments.json:
        render.document(as_json(record, store) | {"path": str(store.find(record.name))})
    else:
        render.text(f"{record.name}  {human_bytes(record.size_bytes)}  {store.find(record.name)}")
        render.note(f"sha256 {record.sha256}, licence {record.licence or 'not stated'}")
    return 0


def _import(arguments: argparse.Namespace, store: Store, settings: Settings) -> int:
    from exosuit.models.foreign import PROGRAMS, Passed, bring, look, usual_folders

    programs = (arguments.program,) if arguments.program else PROGRAMS
    if arguments.folder is not None:
        if arguments.program is None:
            raise UsageError(
                "--from does not say whose folder it is",
                cause="Ollama and LM Studio keep their models differently",
                next=f"exosuit import ollama --from {arguments.folder}",
            )
        places = [(arguments.program, arguments.folder.expanduser())]
    else:
        home, theirs = Path.home(), settings.ollama_models
        places = [(p, place) for p in programs for place in usual_folders(p, home, theirs)]
    if not places:
        raise ModelNotFound(
            f"there is no folder of {' or '.join(programs)} here",
            cause="it is not installed, belongs to another user, or keeps its models elsewhere",
            next="exosuit import ollama --from FOLDER",
        )
    found = [entry for program, place in places for entry in look(program, place)]
    wanted = {name.lower() for name in arguments.names}
    if wanted:
        found = [e for e in found if not wanted.isdisjoint(_called(e))]
    taken: list[dict[str, Any]] = []
    passed: list[dict[str, str]] = []
    for entry in found:
        if isinstance(entry, Passed):
            passed.append({"label": entry.label, "why": entry.why})
        elif arguments.dry_run:
            row = {"name": entry.name, "source": entry.source, "linked_to": [str(entry.path)]}
            taken.append(row)
        else:
            try:
                taken.append(as_json(bring(entry, store), store))
            except ExosuitError as problem:  # the others are still brought
                passed.append({"label": entry.label, "why": f"{problem.what}; {problem.cause}"})
    if arguments.json:
        render.document({"models": taken, "passed": passed})
    else:
        render.table(
            ("name", "from", "file"),
            [(row["name"], row["source"], row["linked_to"][0]) for row in taken],
        )
        for row in passed:
            render.note(f"not taken: {row['label']}: {row['why']}")
        if not found:
            render.note(f"no models in {', '.join(str(place) for _, place in places)}")
    return 0 if taken or not passed else 1


def _called(entry: Found) -> set[str]:
    """All that a user may call it."""
    from exosuit.models.foreign import Foreign

    names = {entry.label.lower(), entry.label.lower().removesuffix(":latest")}
    return names | {entry.name} if isinstance(entry, Foreign) else names


def _show(arguments: argparse.Namespace, store: Store) -> int:
    from exosuit.models.pull import resolve_model

    path = resolve_model(arguments.model, store, may_pull=False)
    facts = describe(path)
    if path.parent.parent == store.root:
        record = store.record(path.parent.name)
        facts |= {"source": record.source, "licence": facts["licence"] or record.licence}
    if arguments.json:
        render.document(facts)
        return 0
    for key, value in facts.items():
        render.text(f"{key.replace('_', ' '):<16} {_as_text(key, value)}")
    return 0


def describe(path: Path) -> dict[str, Any]:
    """What a GGUF file says of itself, as `show --json` prints it."""
    from exosuit.models.gguf import GgufFile

    with GgufFile.open(path) as file:
        metadata, tensors = file.metadata, list(file.tensors.values())
        architecture = metadata.get("general.architecture")
        vocabulary = metadata.get("tokenizer.ggml.tokens")

        def stated(key: str) -> str | int | float | None:
            """A plain value; a file may hold anything under any key."""
            value = metadata.get(key)
            return value if isinstance(value, str | int | float) else None

        return {
            "path": str(path),
            "name": stated("general.name"),
            "architecture": stated("general.architecture"),
            "parameters": sum(math.prod(tensor.shape) for tensor in tensors),
            "tensor_bytes": sum(tensor.size_bytes for tensor in tensors),
            "context": stated(f"{architecture}.context_length"),
            "layers": stated(f"{architecture}.block_count"),
            "width": stated(f"{architecture}.embedding_length"),
            "storage": _storage_mix(tensors),
            "tokenizer": stated("tokenizer.ggml.model"),
            "pre_tokenizer": stated("tokenizer.ggml.pre"),
            "vocabulary": len(vocabulary) if isinstance(vocabulary, Sized) else None,
            "chat_template": "tokenizer.chat_template" in metadata,
            "licence": stated("general.license"),
        }


def _storage_mix(tensors: list[Tensor]) -> dict[str, dict[str, int]]:
    """Tensors and bytes of each storage type, the heaviest first."""
    count: Counter[str] = Counter()
    size_bytes: Counter[str] = Counter()
    for tensor in tensors:
        count[tensor.type.label] += 1
        size_bytes[tensor.type.label] += tensor.size_bytes
    return {
        label: {"tensors": count[label], "bytes": size} for label, size in size_bytes.most_common()
    }


def _as_text(key: str, value: Any) -> str:
    match key:
        case "parameters":
            return f"{value:,}"
        case "tensor_bytes":
            return human_bytes(value)
        case "storage":
            return ", ".join(
                f"{name} {part['tensors']} ({human_bytes(part['bytes'])})"
                for name, part in value.items()
            )
        case _:
            return {True: "yes", False: "no", None: "not stated"}.get(value, str(value))


def _remove(arguments: argparse.Namespace, store: Store) -> int:
    for name in arguments.names:
        freed = store.remove(name)
        render.text(f"removed {name.lower()} ({human_bytes(freed)})")
    return 0


def as_json(record: Record, store: Store) -> dict[str, Any]:
    """A record as `models --json` and `pull --json` print it.

    linked_to  the files of another program or folder that a linked model is made of
    """
    return asdict(record) | {
        "size_bytes": record.size_bytes,
        "sha256": record.sha256,
        "linked_to": [str(path) for path in store.links(record.name)],
    }
