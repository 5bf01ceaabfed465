"""Pretrained models go on as recorded: the words of `shared/models`, token by token.

The recordings are llama.cpp's, with the gap between best and second best at every step. For packed
weights both engines round activations to eight bits, each in its own way, which moves single logits
by a few tenths; a step whose gap is wider than that must give the recorded token. The recorded
tokens are fed, not our own, so that one narrow step does not end the comparison.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.peers.golden_models import MODELS, GoldenModel
from tests.peers.ours import GREEDY, Ours, open_ours

from exosuit.models.tokenizer import Tokenizer

EXACT = 0.005
"""Nothing is rounded but the cache, to half precision: thousandths of a logit."""
PACKED = 0.3
"""Activations are rounded to eight bits, here and there."""
WIDE_VALUES = 0.6
"""Two tenths more for single logits of the models with thousands of columns to a sum."""


def check_run(ours: Ours, run: dict[str, Any], gap: float, logit: float) -> tuple[int, int]:
    """Compare a recorded run; how many steps had a wide gap, and how many there were.

    gap    steps with a wider one must agree
    logit  most that a logit of the first position may differ
    """
    tokenizer = Tokenizer.from_metadata(ours.file.metadata)
    prompt, golden = run["prompt_tokens"], run["greedy_tokens"]
    assert tokenizer.encode(run["prompt"], parse_special=True) == prompt
    logits = ours.follow(prompt + golden[:-1], len(prompt))
    wide = np.array(run["top1_margins"]) > gap
    assert logits.argmax(1)[wide].tolist() == np.array(golden)[wide].tolist(), run["name"]
    for entry in run["first_position_top5"]:
        assert abs(logits[0, entry["id"]] - entry["logit"]) < logit, (run["name"], entry)
    return int(wide.sum()), len(golden)


@pytest.mark.parametrize(
    ("storage", "limit"), [("f32", EXACT), ("f16", EXACT), ("q8_0", PACKED), ("q4_0", PACKED)]
)
def test_stories(storage: str, limit: float, shared: Path) -> None:
    folder = shared / "models" / "stories260k"
    name = f"stories260K-{storage}.gguf"
    runs = json.loads((folder / "golden.json").read_text())["runs"][name]
    with open_ours(folder / name, context=512) as ours:
        for run in runs:
            compared, steps = check_run(ours, run, gap=limit, logit=limit)
            assert compared > 0.8 * steps


def test_stories_in_full_precision_tells_its_story(shared: Path) -> None:
    """Our own tokens are fed back, sampled on the device, and their text is the recorded one."""
    folder = shared / "models" / "stories260k"
    runs = json.loads((folder / "golden.json").read_text())["runs"]["stories260K-f32.gguf"]
    with open_ours(folder / "stories260K-f32.gguf", context=512) as ours:
        tokenizer = Tokenizer.from_metadata(ours.file.metadata)
        for run in runs:
            prompt = tokenizer.encode(run["prompt"], parse_special=True)
            tokens = ours.generate(prompt, len(run["greedy_tokens"]), GREEDY)
            assert tokens == run["greedy_tokens"]
            assert tokenizer.decode(tokens, continues=True) == run["greedy_text"]


def test_smollm2(shared: Path) -> None:
    """The demonstration model; `runs_float32` says what rounds no activations."""
    folder = shared / "models" / "smollm2-135m-instruct"
    golden = json.loads((folder / "golden.json").read_text())
    with open_ours(folder / golden["model"], threads=2) as ours:
        for run in golden["runs"] + golden["runs_float32"]:
            compared, steps = check_run(ours, run, gap=PACKED, logit=WIDE_VALUES)
            assert compared > 0.7 * steps
        tokenizer = Tokenizer.from_metadata(ours.file.metadata)
        chat = golden["runs"][0]
        tokens = ours.generate(chat["prompt_tokens"], 8, GREEDY)
        assert tokenizer.decode(tokens[:-1]) == "The capital of France is Paris."
        assert tokens[-1] in tokenizer.end_tokens


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_larger_models(model: GoldenModel, shared: Path) -> None:
    if not model.path.exists():
        pytest.skip(f"{model.path} is absent; run python tests/peers/golden_models.py")
    golden = json.loads((shared / "models/golden" / f"{model.path.stem}.json").read_text())
    assert golden["model_sha256"] == model.sha256
    with open_ours(model.path, threads=2) as ours:
        for run in golden["runs"]:
            compared, steps = check_run(ours, run, gap=PACKED, logit=WIDE_VALUES)
            assert compared > 0.5 * steps
