"""A server as users start it, in a process of its own, with a few small models in its store.

smollm2   chats; its template knows nothing of tools or thoughts
stories   continues texts; no template
thinker   SmolLM2 under a template that opens the model's thoughts and knows tools, with tokens for
          filling gaps: what it says is nonsense, where it comes out is not
embedder  makes vectors; random weights
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anthropic
import httpx
import ollama
import openai
import pytest
from tests.peers.altered import write_altered
from tests.peers.bert_models import BertShape, write_bert

from exosuit.models.store import Store
from exosuit.settings import Settings

SMOLLM2, STORIES, THINKER, EMBEDDER = "smollm2", "stories", "thinker", "embedder"
NAMES = sorted((SMOLLM2, STORIES, THINKER, EMBEDDER))

FIM = {"fim_pre": 3, "fim_suf": 4, "fim_mid": 5}
"""Control tokens of SmolLM2 that thinker uses for gaps."""

THINKING_TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}call with <tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% else %}<think>
{% endif %}{% endif %}"""


@dataclass(frozen=True)
class Served:
    """A running server: where it listens, its process, and the file of its log."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path


def write_thinker(path: Path, chat: Path) -> Path:
    changed = {f"tokenizer.ggml.{role}_token_id": id for role, id in FIM.items()}
    return write_altered(path, chat, {"tokenizer.chat_template": THINKING_TEMPLATE, **changed})


@contextmanager
def serving(home: Path, *options: str) -> Generator[Served, None, None]:
    """`exosuit serve` from its first words to its end, which is clean."""
    command = [sys.executable, "-m", "exosuit", "serve", "--port", "0", "--device", "cpu"]
    log = home / "log"
    with log.open("wb") as writing:
        process = subprocess.Popen(
            [*command, *options],
            stderr=writing,
            stdout=writing,
            env={**os.environ, "EXOSUIT_HOME": str(home)},
        )
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"serves on (http://\S+);", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield Served(found[1], process, log)
        assert process.poll() is None, "the server died"
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    assert status == 0
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="session")
def served(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served, None, None]:
    home = tmp_path_factory.mktemp("home")
    store = Store(Settings(home=str(home)).model_store)
    models = shared / "models"
    chat = models / "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
    store.add(chat, SMOLLM2, link=True)
    store.add(models / "stories260k/stories260K-q8_0.gguf", STORIES, link=True)
    store.add(write_thinker(home / "thinker.gguf", chat), THINKER, link=True)
    store.add(write_bert(home / "embedder.gguf", BertShape()), EMBEDDER, link=True)
    with serving(home, "--model", SMOLLM2) as server:
        yield server


@pytest.fixture(scope="session")
def openai_client(served: Served) -> Generator[openai.OpenAI, None, None]:
    with openai.OpenAI(
        base_url=f"{served.address}/v1", api_key="none", max_retries=0, timeout=60
    ) as client:
        yield client


@pytest.fixture(scope="session")
def ollama_client(served: Served) -> Generator[ollama.Client, None, None]:
    with ollama.Client(served.address, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def anthropic_client(served: Served) -> Generator[anthropic.Anthropic, None, None]:
    with anthropic.Anthropic(
        base_url=served.address, api_key="none", max_retries=0, timeout=60
    ) as client:
        yield client


@pytest.fixture(scope="session")
def http(served: Served) -> Generator[httpx.Client, None, None]:
    with httpx.Client(base_url=served.address, timeout=60) as client:
        yield client
