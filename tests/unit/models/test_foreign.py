"""Other programs' models: linked where they lie, whatever their folders claim; never changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exosuit.errors import CorruptFile, ModelNotFound, UsageError
from exosuit.models.foreign import Foreign, Passed, bring, look, usual_folders
from exosuit.models.store import Store, checked_name

MODEL = "application/vnd.ollama.image.model"
LICENCE = "application/vnd.ollama.image.license"
ADAPTER = "application/vnd.ollama.image.adapter"


class Ollama:
    """A store as Ollama writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs").mkdir(parents=True)

    def blob(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / "blobs" / f"sha256-{digest}").write_bytes(content)
        return f"sha256:{digest}"

    def manifest(self, place: str, layers: Any) -> None:
        path = self.folder / "manifests" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        words = {"schemaVersion": 2, "config": {}, "layers": layers}
        path.write_text(json.dumps(words))

    def model(self, place: str, content: bytes, licence: str = "") -> None:
        layers = [{"mediaType": MODEL, "digest": self.blob(content), "size": len(content)}]
        if licence:
            layers.append({"mediaType": LICENCE, "digest": self.blob(licence.encode())})
        self.manifest(place, layers)

    def contents(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def ollama(tmp_path) -> Ollama:
    return Ollama(tmp_path / "ollama")


def taken(found) -> list[Foreign]:
    assert not [entry for entry in found if isinstance(entry, Passed)], found
    return [entry for entry in found if isinstance(entry, Foreign)]


def test_ollamas_models(ollama, store, make_gguf):
    library = "registry.ollama.ai/library"
    ollama.model(f"{library}/llama3.2/1b", make_gguf(10), "\nLlama 3.2 Community License\nmore")
    ollama.model(f"{library}/all-minilm/latest", make_gguf(20))
    ollama.model("registry.ollama.ai/jane/coder/7b-q4_0", make_gguf(30))
    ollama.model("hf.co/bartowski/Qwen3-4B-GGUF/Q4_K_M", make_gguf(40))
    before = ollama.contents()
    found = taken(look("ollama", ollama.folder))
    assert [(entry.label, entry.name) for entry in found] == [
        ("all-minilm:latest", "all-minilm"),
        ("hf.co/bartowski/Qwen3-4B-GGUF:Q4_K_M", "bartowski-qwen3-4b-gguf-q4_k_m"),
        ("jane/coder:7b-q4_0", "jane-coder-7b-q4_0"),
        ("llama3.2:1b", "llama3.2-1b"),
    ]
    records = [bring(entry, store) for entry in found]
    assert [record.name for record in records] == [entry.name for entry in found]
    record = records[3]
    assert record.source == "ollama:llama3.2:1b"
    assert record.size_bytes == len(make_gguf(10))
    assert store.links(record.name) == [found[3].path.resolve()]
    assert store.find(record.name).read_bytes() == make_gguf(10)
    assert sum(p.lstat().st_size for p in store.root.rglob("*.gguf")) < 1000, "nothing was copied"

    # Again: the same; and removing takes the links alone.
    assert [bring(entry, store) for entry in found] == records
    for name in store.names():
        store.remove(name)
    assert store.names() == []
    assert ollama.contents() == before


def test_a_licence_that_only_the_manifest_has(ollama, store, make_gguf):
    content = make_gguf(5).replace(b"general.license", b"general.licensX")
    ollama.model("registry.ollama.ai/library/x/latest", content, "Some \x1b[31mLicence")
    (entry,) = taken(look("ollama", ollama.folder))
    assert bring(entry, store).licence == "Some [31mLicence"


def test_what_its_owner_deletes_is_told_and_comes_back(ollama, store, make_gguf):
    place = "registry.ollama.ai/library/x/latest"
    ollama.model(place, make_gguf(10))
    (entry,) = taken(look("ollama", ollama.folder))
    bring(entry, store)
    kept = entry.path.read_bytes()
    entry.path.unlink()
    with pytest.raises(ModelNotFound, match="is gone"):
        store.find("x")
    assert look("ollama", ollama.folder) == [
        Passed("x:latest", f"its file is missing: {entry.path.name}")
    ]
    entry.path.write_bytes(kept)
    assert store.find("x").read_bytes() == kept

    ollama.model(place, make_gguf(99))  # pulled anew there: another blob
    (entry,) = taken(look("ollama", ollama.folder))
    assert bring(entry, store).size_bytes == len(make_gguf(99))
    assert store.links("x") == [entry.path.resolve()]


def test_names_that_are_taken(ollama, store, tmp_path, make_gguf):
    ours = tmp_path / "own.gguf"
    ours.write_bytes(make_gguf(1))
    store.add(ours, "x")
    ollama.model("registry.ollama.ai/library/x/latest", make_gguf(10))
    (entry,) = taken(look("ollama", ollama.folder))
    assert bring(entry, store).name == "x-ollama"
    assert bring(entry, store).name == "x-ollama"
    assert store.find("x").read_bytes() == make_gguf(1)
    store.remove("x-ollama")
    store.add(ours, "x-ollama")
    with pytest.raises(UsageError, match="already"):
        bring(entry, store)


def test_a_blob_that_is_not_what_its_name_says(ollama, store, make_gguf):
    ollama.model("registry.ollama.ai/library/x/latest", make_gguf(10))
    (entry,) = taken(look("ollama", ollama.folder))
    entry.path.write_bytes(make_gguf(11))
    with pytest.raises(CorruptFile, match="wrong hash"):
        bring(entry, store)
    assert store.names() == []
    assert not list((store.root / ".incoming").iterdir())
    assert entry.path.exists()


@pytest.mark.parametrize(
    "digest",
    ["sha256:../../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "0" * 63, "md5:" + "0" * 32,
     "/etc/passwd", "", 7, None, ["sha256:" + "0" * 64], "sha256:" + "0" * 64 + "/../x"],
)  # fmt: skip
def test_digests_that_are_none(ollama, digest):
    ollama.manifest("registry.ollama.ai/library/x/latest", [{"mediaType": MODEL, "digest": digest}])
    (entry,) = look("ollama", ollama.folder)
    assert isinstance(entry, Passed)
    assert "digest" in entry.why


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "null", "{}", '{"layers": 3}', '{"layers": [3]}', '{"layers": [{}]}',
     '{"layers": []}', "\x00", "[" * 100_000, "x" * (2 << 20)],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_manifests_that_are_none(ollama, text):
    ollama.manifest("registry.ollama.ai/library/x/latest", [])
    (ollama.folder / "manifests/registry.ollama.ai/library/x/latest").write_text(text)
    (entry,) = look("ollama", ollama.folder)
    assert isinstance(entry, Passed)


def test_what_is_no_model_of_its_own(ollama, make_gguf):
    digest = ollama.blob(make_gguf(3))
    two = [{"mediaType": MODEL, "digest": digest}] * 2
    ollama.manifest("registry.ollama.ai/library/two/latest", two)
    ollama.manifest("registry.ollama.ai/library/part/latest",
                    [two[0], {"mediaType": ADAPTER, "digest": digest}])  # fmt: skip
    ollama.model("registry.ollama.ai/library/page/latest", b"<html>")
    assert [(entry.label, entry.why[:26]) for entry in look("ollama", ollama.folder)] == [
        ("page:latest", "its file is no GGUF file"),
        ("part:latest", "it is an adapter of anothe"),
        ("two:latest", "it has 2 model files, not "),
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.text(st.characters(exclude_characters="/\x00", codec="utf-8"), min_size=1,
                        max_size=20), min_size=4, max_size=4))  # fmt: skip
def test_any_names_become_names_of_ours(tmp_path, make_gguf, parts):
    if any(part in (".", "..") for part in parts):
        return
    folder = tmp_path / "any"
    shutil.rmtree(folder, ignore_errors=True)
    theirs = Ollama(folder)
    try:
        theirs.model("/".join(parts), make_gguf(2))
    except OSError:
        return  # too long for this file system
    for entry in look("ollama", folder):
        if isinstance(entry, Foreign):
            assert checked_name(entry.name) == entry.name


# LM Studio ----------------------------------------------------------------------------------------


def test_lm_studios_models(tmp_path, store, make_gguf):
    folder = tmp_path / "models"
    one = folder / "lmstudio-community/Qwen3-4B-GGUF"
    split = folder / "big/Large-GGUF"
    for place in (one, split):
        place.mkdir(parents=True)
    (one / "Qwen3-4B-Q4_K_M.gguf").write_bytes(make_gguf(7))
    (one / "mmproj-Qwen3-4B.gguf").write_bytes(make_gguf(8))
    (one / "downloading_Qwen3-4B-Q8_0.gguf.part").write_bytes(b"GG")
    (one / "half.gguf").write_bytes(b"")
    (split / "large-00001-of-00002.gguf").write_bytes(make_gguf(9))
    found = look("lmstudio", folder)
    assert [entry.label for entry in found if isinstance(entry, Passed)] == [
        "big/Large-GGUF/large-00001-of-00002.gguf",
        "lmstudio-community/Qwen3-4B-GGUF/half.gguf",
    ]
    (entry,) = [entry for entry in found if isinstance(entry, Foreign)]
    record = bring(entry, store)
    assert record.name == "qwen3-4b-q4_k_m"
    assert record.source == "lmstudio:lmstudio-community/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf"
    assert store.links(record.name) == [one / "Qwen3-4B-Q4_K_M.gguf"]
    store.remove(record.name)
    assert (one / "Qwen3-4B-Q4_K_M.gguf").read_bytes() == make_gguf(7)


def test_a_split_model_is_linked_as_a_whole(tmp_path, store, make_gguf, monkeypatch):
    monkeypatch.setattr("exosuit.models.store._facts", lambda path: ("llama", ""))
    folder = tmp_path / "models/a/b"
    folder.mkdir(parents=True)
    for part in (1, 2):
        (folder / f"large-0000{part}-of-00002.gguf").write_bytes(make_gguf(part))
    (entry,) = taken(look("lmstudio", tmp_path / "models"))
    record = bring(entry, store)
    assert record.name == "large"
    assert len(store.links("large")) == 2


# Folders ------------------------------------------------------------------------------------------


def test_the_usual_folders(tmp_path):
    assert usual_folders("lmstudio", tmp_path) == []
    for place in (".ollama/models", ".lmstudio/models", ".cache/lm-studio/models", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
    assert tmp_path / ".ollama/models" in usual_folders("ollama", tmp_path)
    assert len(usual_folders("lmstudio", tmp_path)) == 2
    theirs = usual_folders("ollama", tmp_path, str(tmp_path / "elsewhere"))
    assert theirs[0] == tmp_path / "elsewhere"
    again = usual_folders("ollama", tmp_path, str(tmp_path / ".ollama/models"))
    assert again.count(tmp_path / ".ollama/models") == 1
