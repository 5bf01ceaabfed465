"""llama.cpp as installed here says what another one said when the golden outputs were made.

One thread: on a busy machine two of llama.cpp's wait for each other far longer than they work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.peers.golden_models import MODELS, GoldenModel

from exosuit.advise.peers.llamacpp import LlamaCpp, PeerModel

TOLERANCE = 0.6
"""Both round activations to 8 bits, along different code paths: several tenths of a logit."""


def check_run(model: PeerModel, run: dict[str, Any]) -> int:
    """Compare one golden run at every step whose gap is wide; how many such steps there were.

    The golden tokens are fed, not our own choices, so one narrow step does not end the comparison.
    """
    prompt, golden, margins = run["prompt_tokens"], run["greedy_tokens"], run["top1_margins"]
    assert model.tokenize(run["prompt"], parse_special=True) == prompt
    logits = model.logits(prompt + golden[:-1])[len(prompt) - 1 :]
    wide = np.array(margins) > TOLERANCE
    assert logits.argmax(1)[wide].tolist() == np.array(golden)[wide].tolist(), run["name"]
    for entry in run["first_position_top5"]:
        assert abs(logits[0, entry["id"]] - entry["logit"]) < TOLERANCE, (run["name"], entry)
    return int(wide.sum())


@pytest.mark.parametrize("storage", ["f32", "f16", "q8_0", "q4_0"])
def test_stories(storage: str, peer: LlamaCpp, shared: Path) -> None:
    folder = shared / "models" / "stories260k"
    name = f"stories260K-{storage}.gguf"
    runs = json.loads((folder / "golden.json").read_text())["runs"][name]
    with peer.open(folder / name, threads=1, context=512, exact=True) as model:
        compared = sum(check_run(model, run) for run in runs)
    assert compared > 50


def test_smollm2(peer: LlamaCpp, shared: Path) -> None:
    folder = shared / "models" / "smollm2-135m-instruct"
    golden = json.loads((folder / "golden.json").read_text())
    with peer.open(folder / golden["model"], threads=1, exact=True) as model:
        compared = sum(check_run(model, run) for run in golden["runs"])
        chat = golden["runs"][0]
        steps = model.greedy(chat["prompt_tokens"], len(chat["greedy_tokens"]))
        assert [step.token for step in steps] == chat["greedy_tokens"]
        assert model.is_end(steps[-1].token)
    assert compared > 80


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_larger_models(model: GoldenModel, peer: LlamaCpp, shared: Path) -> None:
    if not model.path.exists():
        pytest.skip(f"{model.path} is absent; run python tests/peers/golden_models.py")
    golden = json.loads((shared / "models/golden" / f"{model.path.stem}.json").read_text())
    assert golden["model_sha256"] == model.sha256
    with peer.open(model.path, threads=1, exact=True) as opened:
        assert sum(check_run(opened, run) for run in golden["runs"]) > 50
