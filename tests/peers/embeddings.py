"""llama.cpp as a maker of vectors, through the same library that `advise.peers` loads."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from exosuit.advise.peers import llamacpp_abi as abi
from exosuit.advise.peers.llamacpp import LlamaCpp

_NO_FLASH_ATTENTION = 0


class PeerEmbedder:
    """One open model. `tokens` and `vector` are its answers."""

    def __init__(self, library: ctypes.CDLL, model: int, handle: int, width: int) -> None:
        self._library, self._model, self._handle, self._width = library, model, handle, width

    def tokens(self, text: str) -> list[int]:
        """With what the model wants around a text."""
        data, room = text.encode(), len(text.encode()) + 8
        found = (ctypes.c_int32 * room)()
        vocabulary = self._library.llama_model_get_vocab(self._model)
        count = self._library.llama_tokenize(vocabulary, data, len(data), found, room, True, False)
        return found[:count]

    def vector(self, tokens: Sequence[int]) -> np.ndarray:
        """Pooled as the file says, made to length 1; float32 [width]."""
        ids = np.ascontiguousarray(tokens, np.int32)
        wanted = np.ones(len(ids), np.int8)
        batch = abi.Batch(n_tokens=len(ids), token=abi.address(ids), logits=abi.address(wanted))
        memory = self._library.llama_get_memory(self._handle)
        if memory:
            self._library.llama_memory_clear(memory, True)
        status = self._library.llama_decode(self._handle, batch)
        assert status == 0, f"llama_decode answered {status}"
        get = self._library.llama_get_embeddings_seq
        get.restype = ctypes.POINTER(ctypes.c_float)
        get.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        vector = np.ctypeslib.as_array(get(self._handle, 0), shape=(self._width,)).copy()
        return vector / np.linalg.norm(vector)


@contextmanager
def open_embedder(peer: LlamaCpp, path: Path, context: int, width: int) -> Iterator[PeerEmbedder]:
    library = peer.library
    model_params = library.llama_model_default_params()
    model_params.devices = abi.no_devices
    model_params.n_gpu_layers = 0
    model = library.llama_model_load_from_file(os.fsencode(path), model_params)
    assert model, peer.last_log
    params = library.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = context
    params.n_outputs_max = params.n_outputs_max_per_seq = context
    params.n_threads = params.n_threads_batch = 2
    params.embeddings = True
    params.flash_attn_type = _NO_FLASH_ATTENTION
    params.offload_kqv = params.op_offload = False
    handle = library.llama_init_from_model(model, params)
    assert handle, peer.last_log
    try:
        yield PeerEmbedder(library, model, handle, width)
    finally:
        library.llama_free(handle)
        library.llama_model_free(model)
