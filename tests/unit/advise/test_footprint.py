from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exosuit.advise.footprint import from_header, from_shape
from exosuit.advise.mixes import stored_as
from exosuit.advise.shapes import find_model, tensors
from exosuit.errors import CorruptFile, ExosuitError, UnsupportedModel
from exosuit.models.gguf import GgufFile
from exosuit.ops.quants import StorageType


@dataclass(frozen=True)
class Tensor:
    shape: tuple[int, ...]
    type: StorageType


def header_of(model: str, mix: str) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Metadata and tensors as a GGUF file of this model would have them."""
    shape = find_model(model)
    listed = list(tensors(shape))
    kinds = stored_as(shape, listed, mix)
    name = shape.architecture
    metadata: dict[str, object] = {
        "general.architecture": name,
        f"{name}.block_count": shape.layers,
        f"{name}.embedding_length": shape.width,
        f"{name}.context_length": shape.context,
        f"{name}.attention.head_count": shape.heads,
        f"{name}.attention.head_count_kv": shape.kv_heads,
        f"{name}.attention.key_length": shape.head_dim,
        f"{name}.attention.value_length": shape.head_dim,
    }
    if shape.window:
        metadata[f"{name}.attention.sliding_window"] = shape.window
    if shape.experts:
        metadata[f"{name}.expert_count"] = shape.experts
        metadata[f"{name}.expert_used_count"] = shape.experts_used
    if shape.linear:
        metadata[f"{name}.ssm.inner_size"] = shape.linear.value_heads * shape.linear.value_dim
        metadata[f"{name}.ssm.state_size"] = shape.linear.key_dim
        metadata[f"{name}.ssm.group_count"] = shape.linear.key_heads
        metadata[f"{name}.ssm.time_step_rank"] = shape.linear.value_heads
        metadata[f"{name}.ssm.conv_kernel"] = shape.linear.kernel
    metadata[f"{name}.feed_forward_length"] = shape.ffn
    return metadata, {t.name: Tensor(t.shape, k) for t, k in zip(listed, kinds, strict=True)}


@pytest.mark.parametrize(
    ("model", "mix"),
    [
        ("llama-3.1-8b", "Q4_K_M"),
        ("gemma-3-27b", "Q4_K_M"),
        ("gpt-oss-20b", "MXFP4"),
        ("qwen3-30b-a3b", "Q4_K_M"),
        ("qwen3.5-27b", "Q4_K_M"),
    ],
)
def test_a_shape_and_its_file_need_the_same(model: str, mix: str) -> None:
    told = from_shape(find_model(model), mix)
    read = from_header(model, *header_of(model, mix))
    assert read.layers == told.layers
    for context in (512, 8192, 40_000):
        assert read.kv_bytes(context) == told.kv_bytes(context)
    assert read.weight_bytes == told.weight_bytes
    assert read.read_bytes == told.read_bytes
    assert (read.tied, read.vocabulary) == (told.tied, told.vocabulary)


def test_kv_cache_of_llama() -> None:
    need = from_shape(find_model("llama-3.1-8b"), "Q4_K_M")
    assert need.kv_bytes(8192) == 32 * 2 * 8 * 128 * 2 * 8192  # 1 GiB
    assert need.kv_bytes(1) == need.kv_bytes(64)  # whole pages


def test_a_sliding_window_reads_its_window_of_a_cache_that_keeps_all() -> None:
    need = from_shape(find_model("gemma-3-27b"), "Q4_K_M")
    per_token = 2 * 16 * 128 * 2
    full = sum(not layer.window for layer in need.layers)
    assert full == 10
    assert need.kv_bytes(32768) == 62 * 32768 * per_token
    assert need.kv_read(32768) == (full * 32768 + (62 - full) * 1024) * per_token


def test_experts_are_read_a_few_at_a_time() -> None:
    need = from_shape(find_model("qwen3-30b-a3b"), "Q4_K_M")
    assert need.is_mixture
    assert need.weight_bytes > 18e9
    assert 1.5e9 < need.read_bytes < 2.2e9
    assert 2.5e9 < need.active_parameters < 3.4e9


def test_a_recurrent_layer_keeps_the_same_for_any_context() -> None:
    need = from_shape(find_model("qwen3.5-27b"), "Q4_K_M")
    recurrent = [layer for layer in need.layers if layer.state_bytes]
    assert len(recurrent) == 48
    assert recurrent[0].kv_bytes(1000) == recurrent[0].kv_bytes(100_000)


def test_a_real_file(shared: Path) -> None:
    path = next((shared / "models/smollm2-135m-instruct").glob("*.gguf"))
    with GgufFile.open(path) as file:
        need = from_header(path.name, file.metadata, file.tensors)
        stored = sum(tensor.size_bytes for tensor in file.tensors.values())
    assert need.weight_bytes == stored
    assert need.parameters == 134_515_008
    assert need.tied
    assert need.read_bytes == stored  # everything but the norms is a matrix, and it is tied
    assert need.kv_bytes(8192) == 30 * 2 * 3 * 64 * 2 * 8192
    assert need.context_limit == 8192


def test_what_is_no_language_model_is_refused() -> None:
    metadata, listed = header_of("llama-3.2-1b", "Q8_0")
    with pytest.raises(UnsupportedModel):
        from_header("vocab.gguf", metadata, {})
    del metadata["llama.attention.head_count"]
    with pytest.raises(CorruptFile) as caught:
        from_header("damaged.gguf", metadata, listed)
    assert caught.value.fields["key"] == "llama.attention.head_count"


JUNK = st.one_of(
    st.none(),
    st.integers(-(1 << 63), 1 << 63),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.one_of(st.integers(-5, 1 << 40), st.text(max_size=3), st.none()), max_size=5),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_junk_in_a_header_is_an_error_or_a_plan_never_a_crash(data: st.DataObject) -> None:
    metadata, listed = header_of("qwen3-0.6b", "Q4_0")
    for key in data.draw(st.lists(st.sampled_from(sorted(metadata)), max_size=4)):
        metadata[key] = data.draw(JUNK)
    with suppress(ExosuitError):
        need = from_header("junk.gguf", metadata, listed)
        assert need.kv_bytes(4096) >= 0
        assert need.weight_bytes > 0
