"""llama.cpp as a peer: its answers to check ours, its speed to measure ours.

    peer = LlamaCpp.find()
    with peer.open(path, threads=2) as model:
        seconds = model.prefill(tokens)            # the llama-bench loop: no sampling
        seconds = model.decode(next_token)
        logits = model.logits(tokens)              # float32 [tokens, n_vocab]

The engine is the one inside the PyPI wheel xllamacpp, whose extension module exports llama.cpp's C
interface; we load that module as a plain library (Python's half of it is never imported) and call
`llama_decode` by ctypes. Structures go by value, so only the release whose layout is written in
`llamacpp_abi` is accepted. Runs on the CPU alone, also in wheels that know a GPU.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from exosuit.advise.peers import llamacpp_abi as abi
from exosuit.errors import ContextFull, ModelNotFound, PeerError

Tokens = Sequence[int] | npt.NDArray[np.int32]


class Step(NamedTuple):
    """One greedy choice: the token, and by how much its logit beats the second best."""

    token: int
    gap: float


class LlamaCpp:
    """The installed llama.cpp. A process has one; any number of models can be open in it."""

    def __init__(self, library: Path) -> None:
        """Load the library and prepare its backend. Its log stays silent; see `last_log`."""
        self.library = ctypes.CDLL(str(library))
        abi.declare(self.library)
        self._log: deque[str] = deque(maxlen=8)
        self._show_log = False
        self._log_callback = abi.LOG_CALLBACK(self._on_log)  # kept alive as long as the library
        self.library.llama_log_set(self._log_callback, None)
        self.library.llama_backend_init()

    @classmethod
    def find(cls) -> LlamaCpp | None:
        """The peer of this process, or None where xllamacpp is not installed.

        Raises PeerError if another release of it is installed than the one we know.
        """
        global _found
        if _found is None and (library := _installed_library()) is not None:
            _found = cls(library)
        return _found

    @property
    def version(self) -> str:
        return f"llama.cpp {self.library.llama_version().decode()} (xllamacpp {abi.RELEASE})"

    @property
    def features(self) -> list[str]:
        """CPU features and code paths that this build uses, such as AVX2 or REPACK."""
        info = self.library.llama_print_system_info().decode()
        words = info.replace(":", "|").split("|")
        return [word.split("=")[0].strip() for word in words if word.strip().endswith("= 1")]

    def show_log(self, show: bool = True) -> None:
        """Pass the engine's own log to stderr, or stop doing so."""
        self._show_log = show

    @property
    def last_log(self) -> str:
        """The last few warnings and errors since a model was last opened, in the engine's words."""
        return "".join(self._log).strip()

    def open(
        self,
        path: str | Path,
        threads: int = 2,
        context: int = 1024,
        batch: int = 512,
        exact: bool = False,
    ) -> PeerModel:
        """Load a GGUF file for `context` tokens, fed in batches of up to `batch`.

        By default as fast as llama-bench has it: F16 KV cache, flash attention where llama.cpp
        likes it. `exact` asks for float32 attention instead, for use as an oracle (activations
        are still rounded to 8 bits before packed matrices: llama.cpp has no other way).
        Raises ModelNotFound, or PeerError with the engine's own words if it refuses the file.
        """
        path = Path(path)
        if not path.is_file():
            raise ModelNotFound(
                f"there is no model file at {path}",
                cause="the path is wrong, or the file was moved",
                next="exosuit models",
            )
        self._log.clear()
        model_params = self.library.llama_model_default_params()
        model_params.devices = abi.no_devices
        model_params.n_gpu_layers = 0
        model = self.library.llama_model_load_from_file(os.fsencode(path), model_params)
        if not model:
            raise self._refused(path)
        params = self.library.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, batch, batch
        params.n_outputs_max, params.n_outputs_max_per_seq = batch, batch
        params.n_threads = params.n_threads_batch = threads
        if exact:
            params.type_k = params.type_v = abi.STORAGE_F32
            params.flash_attn_type = abi.FLASH_ATTENTION_DISABLED
        params.offload_kqv = params.op_offload = False
        params.swa_full = False
        handle = self.library.llama_init_from_model(model, params)
        if not handle:
            self.library.llama_model_free(model)
            raise self._refused(path)
        return PeerModel(self.library, model, handle, context=context, batch=batch)

    def _refused(self, path: Path) -> PeerError:
        return PeerError(
            f"llama.cpp does not open {path.name}",
            cause=self.last_log.replace("\n", "; ") or "it does not say",
            next=f"exosuit show {path}",
            path=str(path),
        )

    def _on_log(self, level: int, text: bytes, _: Any) -> None:
        line = text.decode(errors="replace")
        if level in (abi.LOG_WARNING, abi.LOG_ERROR):
            self._log.append(line)
        if self._show_log:
            os.write(2, line.encode())


_found: LlamaCpp | None = None


class PeerModel:
    """A model open in the peer, with one sequence in its KV cache. Use from one thread."""

    def __init__(
        self,
        library: ctypes.CDLL,
        model: int,
        handle: int,
        *,
        context: int,
        batch: int,
    ) -> None:
        self._library = library
        self._model = model
        self._handle = handle
        self._vocab = library.llama_model_get_vocab(model)
        self.context = context
        self.batch = batch
        self.position = 0
        """Tokens in the KV cache."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def n_vocab(self) -> int:
        return self._library.llama_vocab_n_tokens(self._vocab)

    @property
    def description(self) -> str:
        """Architecture, size and storage type in llama.cpp's words: `llama 1B Q4_0`."""
        buffer = ctypes.create_string_buffer(256)
        self._library.llama_model_desc(self._model, buffer, len(buffer))
        return buffer.value.decode()

    def is_end(self, token: int) -> bool:
        """Whether the vocabulary says that generation ends with this token."""
        return self._library.llama_vocab_is_eog(self._vocab, token)

    def tokenize(
        self, text: str, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids; `add_special` as the file asks (BOS), `parse_special` reads `<|...|>`."""
        data = text.encode()
        room = len(data) + 8  # no tokenizer makes more tokens than bytes, plus BOS and EOS
        found = (ctypes.c_int32 * room)()
        count = self._library.llama_tokenize(
            self._vocab, data, len(data), found, room, add_special, parse_special
        )
        if count < 0:
            raise PeerError(
                f"llama.cpp made no tokens of {len(data)} bytes",
                cause="the file has no vocabulary that it can use",
                next="exosuit show MODEL",
            )
        return found[:count]

    def prefill(self, tokens: Tokens) -> float:
        """Append tokens in batches, computing the last one's logits; seconds it took."""
        started = time.perf_counter()
        self._append(tokens, want_all=False)
        self._library.llama_synchronize(self._handle)
        return time.perf_counter() - started

    def decode(self, token: int) -> float:
        """Append one token, computing its logits; seconds it took."""
        return self.prefill([token])

    def clear(self) -> None:
        """Empty the KV cache."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._handle), True)
        self.position = 0

    def logits(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Logits of the next token after each of `tokens`, from an empty KV cache.

        returns  [tokens, n_vocab]  float32
        """
        self.clear()
        return self._append(tokens, want_all=True)

    def last_logits(self) -> npt.NDArray[np.float32]:
        """Logits after the token appended last: float32 [n_vocab], a copy."""
        return self._read_logits(1)[0]

    def greedy(self, prompt: Tokens, n: int) -> list[Step]:
        """The `n` likeliest tokens after a prompt, one after another, from an empty KV cache.

        Goes on past an end-of-generation token; `is_end` tells.
        """
        self.clear()
        self.prefill(prompt)
        steps: list[Step] = []
        while len(steps) < n:
            logits = self.last_logits()
            second, best = np.argpartition(logits, -2)[-2:].tolist()
            steps.append(Step(best, float(logits[best] - logits[second])))
            if len(steps) < n:
                self.decode(best)
        return steps

    def close(self) -> None:
        """Free the model and its KV cache; again is harmless."""
        if self._handle:
            self._library.llama_free(self._handle)
            self._library.llama_model_free(self._model)
            self._handle = self._model = self._vocab = 0

    def _append(self, tokens: Tokens, want_all: bool) -> npt.NDArray[np.float32]:
        """Decode tokens batch by batch; their logits [tokens, n_vocab] if all are wanted."""
        ids = np.ascontiguousarray(tokens, dtype=np.int32)
        if self.position + len(ids) > self.context:
            raise ContextFull(
                f"{self.position + len(ids)} tokens do not fit a context of {self.context}",
                cause="the peer was opened with a smaller context than it is asked to hold",
                next="open it with a larger context, or clear it first",
            )
        wanted = np.ones(self.batch, dtype=np.int8) if want_all else None
        found: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(ids), self.batch):
            part = ids[start : start + self.batch]
            batch = abi.Batch(n_tokens=len(part), token=abi.address(part))
            if wanted is not None:
                batch.logits = abi.address(wanted)
            status = self._library.llama_decode(self._handle, batch)
            if status != 0:
                raise PeerError(
                    f"llama.cpp does not decode {len(part)} tokens at position {self.position}",
                    cause=f"llama_decode answered {status}; a token may be outside the vocabulary",
                    next="check that the tokens come from this model's own tokenizer",
                    status=status,
                )
            self.position += len(part)
            if want_all:
                found.append(self._read_logits(len(part)))
        return np.concatenate(found) if found else np.empty((0, self.n_vocab), np.float32)

    def _read_logits(self, count: int) -> npt.NDArray[np.float32]:
        """The logits that the last `llama_decode` left, [count, n_vocab], copied."""
        pointer = self._library.llama_get_logits(self._handle)
        return np.ctypeslib.as_array(pointer, shape=(count, self.n_vocab)).copy()


def _installed_library() -> Path | None:
    """The extension module of the installed xllamacpp, found without importing it."""
    try:
        wheel = importlib.metadata.distribution("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        return None
    modules = [
        f for f in wheel.files or () if f.name.startswith("xllamacpp.") and f.suffix == ".so"
    ]
    if wheel.version != abi.RELEASE or len(modules) != 1:
        raise PeerError(
            f"xllamacpp {wheel.version} is installed; only {abi.RELEASE} is known as a peer",
            cause="llama.cpp changes the layout of its structures between releases",
            next=f"pip install xllamacpp=={abi.RELEASE}",
            version=wheel.version,
        )
    return Path(str(modules[0].locate()))
