"""The part of llama.cpp's C interface that the peer calls, as this one release has it.

Names and order are those of `llama.h` (github.com/ggml-org/llama.cpp, include/llama.h, autumn
2026). The released binary was asked too: what `llama_*_default_params` writes over a patterned
buffer gives each structure's size and the place of every field with a telling default; a test
repeats it.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, c_bool, c_char_p, c_float, c_int32, c_size_t, c_void_p
from typing import Any

import numpy.typing as npt

RELEASE = "2026.10.11549"
"""The release of xllamacpp whose layout this is."""

STORAGE_F32 = 0  # enum ggml_type
FLASH_ATTENTION_DISABLED = 0  # enum llama_flash_attn_type
LOG_WARNING, LOG_ERROR = 3, 4  # enum ggml_log_level
LOG_CALLBACK = CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)

no_devices = ctypes.cast((c_void_p * 1)(None), c_void_p)
"""An empty NULL-terminated list: compute on the CPU, whatever else the build could use."""


class ModelParams(ctypes.Structure):
    """`struct llama_model_params`: how a file is loaded."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParams(ctypes.Structure):
    """`struct llama_context_params`: how one sequence is computed."""

    _fields_ = (
        ("n_ctx", c_int32),
        ("n_batch", c_int32),
        ("n_ubatch", c_int32),
        ("n_seq_max", c_int32),
        ("n_rs_seq", c_int32),
        ("n_outputs_max", c_int32),
        ("n_outputs_max_per_seq", c_int32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int32),
        ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32),
        ("attention_type", c_int32),
        ("flash_attn_type", c_int32),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_int32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("unknown", c_void_p),  # eight zero bytes that the published headers we saw do not have
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class Batch(ctypes.Structure):
    """`struct llama_batch`: NULL positions continue the sequence, NULL sequences mean number 0."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", c_void_p),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", c_void_p),
    )


_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (LOG_CALLBACK, c_void_p)),
    "llama_version": (c_char_p, ()),
    "llama_print_system_info": (c_char_p, ()),
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParams)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_model_desc": (c_int32, (c_void_p, c_char_p, c_size_t)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_is_eog": (c_bool, (c_void_p, c_int32)),
    "llama_tokenize": (
        c_int32,
        (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool),
    ),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParams)),
    "llama_free": (None, (c_void_p,)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_synchronize": (None, (c_void_p,)),
    "llama_get_logits": (POINTER(c_float), (c_void_p,)),
}


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes what each function takes and gives."""
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments


def address(array: npt.NDArray[Any]) -> int:
    """Where an array's elements lie; the caller keeps it alive."""
    return array.ctypes.data
