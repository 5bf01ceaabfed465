"""The store: names stay inside it, models enter whole, damage is told."""

import hashlib
import json
import multiprocessing
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exosuit.errors import CorruptFile, DownloadFailed, ModelNotFound, UsageError
from exosuit.models.store import Store, checked_name, name_from, split_parts


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def model(tmp_path, make_gguf):
    path = tmp_path / "Tiny.gguf"
    path.write_bytes(make_gguf())
    return path


def test_an_empty_store_needs_no_folder(store):
    assert store.names() == []
    assert "tiny" not in store
    assert not store.root.exists()


def test_a_model_goes_in_and_out(store, model):
    record = store.add(model, "Tiny")
    assert (record.name, record.architecture, record.licence) == ("tiny", "llama", "apache-2.0")
    assert record.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert record.size_bytes == model.stat().st_size
    assert record.source == str(model)
    assert store.names() == ["tiny"]
    assert store.record("TINY") == record
    assert store.find("tiny").read_bytes() == model.read_bytes()
    assert sorted(os.listdir(store.root / "tiny")) == ["record.json", "tiny.gguf"]
    assert store.remove("tiny") > record.size_bytes
    assert store.names() == []
    assert model.exists()


def test_a_linked_model_stays_where_it_is(store, model):
    store.add(model, "tiny", link=True)
    assert store.find("tiny").is_symlink()
    store.remove("tiny")
    assert model.exists()


def test_a_split_model_comes_with_all_parts(store, tmp_path, make_gguf, monkeypatch):
    # what parts must say of themselves is the reader's matter, tested with it
    monkeypatch.setattr("exosuit.models.store._facts", lambda path: ("llama", ""))
    parts = [tmp_path / f"big-0000{n}-of-00002.gguf" for n in (1, 2)]
    for filler, part in enumerate(parts):
        part.write_bytes(make_gguf(filler * 100))
    record = store.add(parts[0], "big")
    assert [f.file for f in record.files] == [p.name for p in parts]
    assert split_parts(store.find("big")) == [store.root / "big" / p.name for p in parts]
    parts[1].unlink()
    with pytest.raises(ModelNotFound) as caught:
        store.add(parts[0], "other")
    assert caught.value.fields["path"] == str(parts[1])


def test_a_name_is_given_once(store, model):
    store.add(model, "tiny")
    with pytest.raises(UsageError) as caught:
        store.add(model, "Tiny")
    assert caught.value.fields["name"] == "tiny"


def test_what_is_no_model_does_not_get_in(store, tmp_path):
    text = tmp_path / "text.gguf"
    text.write_text("not a model")
    with pytest.raises(CorruptFile):
        store.add(text, "text")
    assert store.names() == []
    assert not (store.root / ".incoming" / "text").exists()


def test_an_unknown_name_gets_the_nearest(store, model):
    store.add(model, "tiny")
    with pytest.raises(ModelNotFound) as caught:
        store.find("tinny")
    assert caught.value.fields == {"name": "tinny", "suggestion": "tiny"}
    with pytest.raises(ModelNotFound) as caught:
        store.remove("qwen")
    assert caught.value.fields["suggestion"] is None


def test_a_file_deleted_by_hand_is_told(store, model):
    store.add(model, "tiny", link=True)
    model.unlink()
    with pytest.raises(ModelNotFound) as caught:
        store.find("tiny")
    assert "exosuit rm tiny" in caught.value.next


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"files": [3]}', '{"files": []}', "\xff"])
def test_a_damaged_record_is_told_and_can_be_removed(store, model, damage):
    store.add(model, "tiny")
    (store.root / "tiny" / "record.json").write_text(damage, encoding="latin-1")
    with pytest.raises(CorruptFile) as caught:
        store.record("tiny")
    assert caught.value.fields["path"].endswith("record.json")
    store.remove("tiny")
    assert store.names() == []


@pytest.mark.parametrize("file", ["../../../etc/passwd", "/etc/passwd", "a/b.gguf", ""])
def test_a_record_that_points_elsewhere_is_damaged(store, model, file):
    store.add(model, "tiny")
    path = store.root / "tiny" / "record.json"
    record = json.loads(path.read_text())
    record["files"][0]["file"] = file
    path.write_text(json.dumps(record))
    with pytest.raises(CorruptFile):
        store.find("tiny")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        ".hidden",
        "a..b",
        "a\n",
        "-x",
        "ä",
        "a" * 101,
        "a.",
        "/",
    ],
)
def test_a_name_is_one_plain_folder(store, name):
    with pytest.raises(UsageError):
        store.find(name)
    with pytest.raises(UsageError):
        store.remove(name)


@given(st.text(max_size=300))
def test_any_text_makes_a_valid_name(text):
    name = name_from(text)
    assert checked_name(name) == name


def test_a_store_that_cannot_be_written(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadFailed) as caught:
        Store(tmp_path / "file" / "store").add(model, "tiny")
    assert caught.value.fields["errno"] == 20  # a file where a folder should be


def _hold(root, ready, go):
    with Store(root).lock("tiny"):
        ready.set()
        go.wait(10)


def test_a_lock_is_waited_for_with_a_message(store):
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(store.root, ready, go))
    other.start()
    assert ready.wait(20)
    told = []

    def waiting():
        told.append("waiting")
        go.set()

    with store.lock("tiny", waiting):
        assert told == ["waiting"]
    other.join()
    with store.lock("tiny", lambda: pytest.fail("nobody holds it")):
        pass
