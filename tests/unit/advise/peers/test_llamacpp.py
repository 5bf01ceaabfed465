"""The peer's own promises: layouts, timing loop, errors, two models at once."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
from pathlib import Path

import numpy as np
import pytest

from exosuit.advise.peers import llamacpp, llamacpp_abi
from exosuit.advise.peers.llamacpp import LlamaCpp
from exosuit.errors import ContextFull, ModelNotFound, PeerError

PROMPT = [1, 403, 407, 261, 378]


@pytest.fixture(scope="module")
def peer() -> LlamaCpp:
    found = LlamaCpp.find()
    if found is None:
        pytest.skip("llama.cpp is not installed (pip install xllamacpp, or the `test` extra)")
    return found


@pytest.fixture(scope="module")
def stories(shared: Path) -> Path:
    return shared / "models" / "stories260k" / "stories260K-f32.gguf"


def written_over_pattern(peer: LlamaCpp, name: str) -> bytes:
    """What the binary's own `name` writes, as far as it writes, with 0xaa where it does not."""
    buffer = ctypes.create_string_buffer(b"\xaa" * 512, 512)
    prototype = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    prototype((name, peer.library))(ctypes.cast(buffer, ctypes.c_void_p))
    return buffer.raw.rstrip(b"\xaa")


@pytest.mark.skipif(
    platform.machine() != "x86_64", reason="large results go through a hidden first argument there"
)
def test_layouts_end_where_the_binary_stops_writing(peer: LlamaCpp) -> None:
    model = written_over_pattern(peer, "llama_model_default_params")
    last = llamacpp_abi.ModelParams.load_mtp
    assert len(model) == last.offset + last.size
    context = written_over_pattern(peer, "llama_context_default_params")
    assert len(context) == ctypes.sizeof(llamacpp_abi.ContextParams)
    fields = llamacpp_abi.ContextParams
    padding = slice(fields.kv_unified.offset + 1, fields.samplers.offset)
    assert context[padding] == b"\xaa\xaa"


def test_telling_defaults_are_where_the_layout_says(peer: LlamaCpp) -> None:
    model = peer.library.llama_model_default_params()
    assert (model.n_gpu_layers, model.split_mode, model.load_mode, model.lazy_mode) == (
        -1,
        1,
        -1,
        1,
    )
    assert (model.use_extra_bufts, model.vocab_only, model.no_alloc) == (True, False, False)
    context = peer.library.llama_context_default_params()
    assert (context.n_ctx, context.n_batch, context.n_ubatch) == (512, 2048, 512)
    assert (context.yarn_ext_factor, context.yarn_orig_ctx, context.defrag_thold) == (-1, 0, -1)
    assert (context.type_k, context.type_v) == (1, 1)
    assert (context.embeddings, context.offload_kqv, context.kv_unified) == (False, True, False)


def test_it_says_what_it_is(peer: LlamaCpp) -> None:
    assert llamacpp_abi.RELEASE in peer.version
    assert "REPACK" in peer.features
    assert LlamaCpp.find() is peer


def test_prefill_and_decode_agree_with_all_logits(peer: LlamaCpp, stories: Path) -> None:
    with peer.open(stories, threads=1, context=256, batch=4, exact=True) as model:
        every = model.logits(PROMPT)
        assert every.shape == (len(PROMPT), model.n_vocab)
        assert every.dtype == np.float32
        model.clear()
        assert model.prefill(PROMPT[:-1]) > 0
        assert model.decode(PROMPT[-1]) > 0
        assert model.position == len(PROMPT)
        np.testing.assert_allclose(model.last_logits(), every[-1], atol=1e-3)


def test_greedy_takes_the_likeliest_and_knows_the_gap(peer: LlamaCpp, stories: Path) -> None:
    with peer.open(stories, threads=1, context=256, exact=True) as model:
        steps = model.greedy(PROMPT, 12)
        tokens = [step.token for step in steps]
        after = model.logits(PROMPT + tokens[:-1])[len(PROMPT) - 1 :]
    ranked = np.sort(after, axis=1)
    assert tokens == after.argmax(1).tolist()
    np.testing.assert_allclose([s.gap for s in steps], ranked[:, -1] - ranked[:, -2], atol=1e-3)


def test_two_models_open_at_once_do_not_disturb_each_other(peer: LlamaCpp, stories: Path) -> None:
    other = stories.with_name("stories260K-q8_0.gguf")
    with peer.open(stories, threads=1, context=256) as alone:
        expected = alone.greedy(PROMPT, 8)
    with peer.open(stories, threads=1, context=256) as first, peer.open(other, 2, 256) as second:
        first.prefill(PROMPT)
        second.prefill(PROMPT[:2])
        assert (first.position, second.position) == (5, 2)
        assert first.greedy(PROMPT, 8) == expected
        assert second.greedy(PROMPT, 8)[0].token == expected[0].token


def test_tokenize_adds_and_reads_special_tokens_as_asked(peer: LlamaCpp, stories: Path) -> None:
    with peer.open(stories, threads=1, context=256) as model:
        assert model.tokenize("Once upon a time") == PROMPT
        assert model.tokenize("Once upon a time", add_special=False) == PROMPT[1:]
        assert model.tokenize("</s>", add_special=False, parse_special=True) == [2]
        assert model.tokenize("</s>", add_special=False) != [2]
        assert model.is_end(2)
        assert not model.is_end(PROMPT[1])


def test_a_full_context_is_told_before_it_happens(peer: LlamaCpp, stories: Path) -> None:
    with peer.open(stories, threads=1, context=256) as model:
        model.prefill(PROMPT * 51)
        with pytest.raises(ContextFull):
            model.prefill([1, 1])
        assert model.position == 255
        model.decode(1)


def test_a_token_outside_the_vocabulary_is_an_error(peer: LlamaCpp, stories: Path) -> None:
    with peer.open(stories, threads=1, context=256) as model, pytest.raises(PeerError):
        model.decode(model.n_vocab)


def test_what_is_no_model_is_refused_with_the_engines_own_words(
    peer: LlamaCpp, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"not a model at all")
    with pytest.raises(PeerError) as refused:
        peer.open(wrong)
    assert "magic" in refused.value.cause
    with pytest.raises(ModelNotFound):
        peer.open(tmp_path / "absent.gguf")
    assert capfd.readouterr() == ("", "")


def test_its_log_is_shown_when_asked(
    peer: LlamaCpp, stories: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    peer.show_log()
    peer.open(stories, threads=1, context=256).close()
    peer.show_log(False)
    assert "llama_context" in capfd.readouterr().err
    peer.open(stories, threads=1, context=256).close()
    assert capfd.readouterr().err == ""


def test_closing_twice_is_harmless(peer: LlamaCpp, stories: Path) -> None:
    model = peer.open(stories, threads=1, context=256)
    model.close()
    model.close()


def test_absent_and_unknown_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "_found", None)

    def absent(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    assert LlamaCpp.find() is None

    class Newer:
        version = "2030.1.1"
        files = None

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Newer())
    with pytest.raises(PeerError) as refused:
        LlamaCpp.find()
    assert refused.value.fields["version"] == "2030.1.1"
    assert llamacpp_abi.RELEASE in refused.value.next
