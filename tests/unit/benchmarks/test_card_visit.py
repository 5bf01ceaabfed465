"""The scripts of a card visit: what they keep, what they skip, what they draw."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as tree
from pathlib import Path

import pytest
from benchmarks import gpu, roofline

ROOT = Path(__file__).parents[3]
CARD = {"title": "a card", "read_gb_s": 4000.0, "matrix_gflop_s": 6e5, "datasheet_gflop_s": 9e5}


def told(weights: float, decode: float, prefill: float) -> dict:
    row = {
        "card": CARD, "prefill_gflop_s": 16 * prefill, "prefill_tok_s": prefill,
        "weight_bytes_per_token": weights, "decode_tok_s": decode,
    }  # fmt: skip
    return {"results": [row]}


def test_points_and_roofs() -> None:
    stages = {
        "speed-a": told(8e9, 400.0, 10_000.0),
        "speed-b": {"failed": "no room"},
        "batch-a": {"tok_s": {"1": 400.0, "16": 3200.0}},
    }
    roofs, points, title = roofline.read(stages)
    assert title == "a card"
    found = {p.what: (p.intensity, p.gflop_s) for p in points}
    # 16 GFLOP a token: two operations for each byte of the weights.
    assert found["decode"] == (2.0, 6400.0)
    assert found["prefill"] == (1024.0, 160_000.0)
    assert found["batch of 16"] == (32.0, 51_200.0)
    assert roofs.over(2.0) == 8000
    assert roofs.over(1024.0) == 9e5
    assert "| a | decode | 2.0 | 6400 | 80% |" in roofline.table(roofs, points)
    picture = tree.fromstring(roofline.draw(roofs, points, "<&> card"))
    places = [
        (float(c.get("cx")), float(c.get("cy")))
        for c in picture
        if c.tag.endswith("circle") and c.find("{*}title") is not None
    ]
    assert len(places) == len(points)
    assert all(70 <= x <= 650 and 30 <= y <= 470 for x, y in places)
    with pytest.raises(SystemExit):
        roofline.read({"speed-b": {"failed": "no room"}})


def stage(run) -> gpu.Stage:
    return gpu.Stage("some", 5, run)


def test_a_stage_that_fails_says_so(tmp_path: Path) -> None:
    def broken(visit: gpu.Visit) -> dict:
        raise ValueError("no luck")

    found = gpu._one(gpu.Visit(tmp_path, is_dry=False), stage(broken))
    assert (found["failed"], found["stage"]) == ("no luck", "some")
    assert gpu._verdict(found) == "FAILED: no luck"
    assert gpu._verdict(None) == "-"


def test_a_stage_without_time_is_left(tmp_path: Path) -> None:
    visit = gpu.Visit(tmp_path, is_dry=True)
    long = gpu.Stage("environment", 100, gpu.environment)
    assert gpu._apart(visit, long, 50, is_first=False) is None
    assert gpu._apart(visit, long, 10, is_first=True) is None


def test_a_visit_goes_on_where_it_was(tmp_path: Path) -> None:
    """Two calls of the script itself, dry: what is there is not run again."""
    out = tmp_path / "results.json"
    out.write_text(json.dumps({"stages": {"limits": {"best": {"read_gb_s": 1}, "seconds": 2}}}))
    words = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--out", str(out), "--dry-run"]
    words += ["--models", str(tmp_path / "made"), "--stage", "environment", "--stage", "limits"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    assert "limits: at most" not in done.stderr
    stages = json.loads(out.read_text())["stages"]
    assert set(stages) == {"limits", "environment"}
    assert stages["environment"]["cards"][0]["title"] == "Fake sm_80 number 0"
    assert stages["environment"]["simulated"] is True
    wrong = subprocess.run([*words, "--stage", "nothing"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "no stage nothing" in wrong.stderr
