"""`exosuit import`: from Ollama's folder to a listing that says where a model lies, and back."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

import pytest
from tests.cli.test_models import gguf

from exosuit.cli.main import main
from exosuit.models.pull import pull, resolve_model
from exosuit.models.store import Store
from exosuit.settings import Settings


@pytest.fixture
def theirs(tmp_path) -> Path:
    """Ollama's folder with two models, one of which has lost its file."""
    folder = tmp_path / "ollama"
    (folder / "blobs").mkdir(parents=True)
    for name, content in (("tiny", gguf()), ("lost", gguf(3))):
        digest = hashlib.sha256(content).hexdigest()
        (folder / f"blobs/sha256-{digest}").write_bytes(content)
        path = folder / f"manifests/registry.ollama.ai/library/{name}/1b"
        path.parent.mkdir(parents=True)
        layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
        path.write_text(json.dumps({"layers": [layer]}))
        if name == "lost":
            (folder / f"blobs/sha256-{digest}").unlink()
    return folder


@pytest.fixture
def home(tmp_path, theirs) -> Settings:
    return Settings(home=str(tmp_path / "home"), ollama_models=str(theirs))


def test_the_life_of_an_imported_model(capsys, home, theirs):
    before = sorted((path, path.read_bytes()) for path in theirs.rglob("*") if path.is_file())
    assert main(["import", "ollama", "--dry-run"], home) == 0
    assert "tiny-1b" in capsys.readouterr().out
    assert Store(home.model_store).names() == []

    assert main(["import", "ollama", "--json"], home) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in told["models"]] == ["tiny-1b"]
    assert [row["label"] for row in told["passed"]] == ["lost:1b"]
    (file,) = told["models"][0]["linked_to"]
    assert Path(file).parent == theirs / "blobs"

    assert main(["models"], home) == 0
    assert "ollama:tiny:1b (linked)" in capsys.readouterr().out
    assert main(["models", "--json"], home) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["linked_to"] == [file]
    assert main(["show", "tiny-1b"], home) == 0
    assert main(["rm", "tiny-1b"], home) == 0
    after = sorted((path, path.read_bytes()) for path in theirs.rglob("*") if path.is_file())
    assert after == before


def test_only_what_is_named(capsys, home, theirs):
    assert main(["import", "ollama", "tiny:1b"], home) == 0
    told = capsys.readouterr()
    assert "tiny-1b" in told.out
    assert "lost" not in told.err
    assert main(["import", "ollama", "lost:1b"], home) == 1


def test_folders_that_are_not_there(capsys, home, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "nobody")
    assert main(["import", "lmstudio"], home) == 1
    assert "there is no folder of lmstudio here" in capsys.readouterr().err
    assert main(["import", "--from", str(tmp_path)], home) == 2
    assert "whose folder" in capsys.readouterr().err
    assert main(["import", "ollama", "--from", str(tmp_path)], home) == 0
    assert "no models in" in capsys.readouterr().err


def test_what_is_here_needs_no_network(home, theirs, monkeypatch):
    main(["import", "ollama", "tiny:1b"], home)
    store = Store(home.model_store)
    small = theirs.parent / "small.gguf"
    small.write_bytes(gguf(9))
    store.add(small, "smollm2", source="smollm2")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert resolve_model("tiny-1b", store).exists()
    assert resolve_model(None, store).read_bytes() == gguf(9)
    assert pull("smollm2", store).source == "smollm2"
    assert main(["models"], home) == 0
