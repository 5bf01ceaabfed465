"""One visit to a card: check everything, time everything, keep each result as soon as it is there.

    python benchmarks/gpu.py --out FILE --limit 570            # as often as needed: goes on
    python benchmarks/gpu.py --out FILE --list                 # what is done, what is left
    python benchmarks/gpu.py --out FILE --stage limits --again
    python benchmarks/gpu.py --out FILE --dry-run              # tiny models on the fake libcuda

Each stage is a process of its own, since a card that failed takes its process along, and is in the
file (JSON) as soon as it is done. One that is there is not run again, one that would not fit into
the time is left for the next call, one that fails says so and stops nothing. Models have random
weights in exact shapes and are made on the spot. docs/first-card.md tells how such a visit goes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # a script: the tests' folder is no package

DEVICE = "cuda:0"
PROMPT, FILLED, GENERATE = 2048, 2048, 64
SEQUENCES = 16
AGREE = 48
"""Tokens whose logits are compared with the CPU's."""


@dataclass(frozen=True)
class Speed:
    """A model whose speed is measured: shape and storage of `make_model.py`.

    bytes  of the file, about: memory and disk are asked before it is made
    """

    shape: str
    storage: str
    bytes: float

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.storage}"


MODELS = (
    Speed("llama-3.1-8b", "Q4_K_M", 4.9e9),
    Speed("llama-3.1-8b", "Q8_0", 8.5e9),
    Speed("llama-3.1-8b", "F16", 16.1e9),
    Speed("qwen3-30b-a3b", "Q4_K_M", 18.6e9),
    Speed("llama-3.3-70b", "Q4_K_M", 42.5e9),
)
TINY = (Speed("llama", "Q8_0", 1e6), Speed("qwen3moe", "Q4_K", 1e6))
"""For a dry run."""


@dataclass(frozen=True)
class Visit:
    """What the stages know: a folder for models and other large things, and whether it is dry."""

    models: Path
    is_dry: bool

    @property
    def speeds(self) -> tuple[Speed, ...]:
        return TINY if self.is_dry else MODELS


@dataclass(frozen=True)
class Stage:
    """`run` returns what the file says; `seconds` is how long it takes at most, as a guess."""

    name: str
    seconds: int
    run: Callable[[Visit], dict[str, Any]]


def stages(visit: Visit) -> list[Stage]:
    """All of them, in the order of what is worth most."""
    found = [
        Stage("environment", 30, environment),
        Stage("contract", 90, lambda v: pytest(v, "test_card.py", "test_contract.py")),
        Stage("limits", 60, limits),
    ]
    first, *others = visit.speeds
    found += _speed_stages(first)
    found += [
        Stage("route", 150, lambda v: route(v, first)),
        Stage("ops", 420, lambda v: pytest(v, "ops")),
        Stage("models", 300, lambda v: pytest(v, "test_models.py")),
    ]
    for speed in others:
        found += _speed_stages(speed)
    found.append(Stage("peers", 240, lambda v: peers(v, first)))
    return found


def _speed_stages(speed: Speed) -> list[Stage]:
    making = 20 + round(speed.bytes / 3e8)
    return [
        Stage(f"speed-{speed.name}", 90 + making, lambda v: decode_and_prefill(v, speed)),
        Stage(f"batch-{speed.name}", 60 + making, lambda v: batch(v, speed)),
        Stage(f"agree-{speed.name}", 90 + making, lambda v: agree(v, speed)),
    ]


# Stages -----------------------------------------------------------------------------------------


def environment(visit: Visit) -> dict[str, Any]:
    """What the figures were measured on."""
    import shutil

    from exosuit.advise.clocks import Nvml
    from exosuit.advise.cuda import cuda_cards
    from exosuit.cli.bench import machine
    from exosuit.kernel.packs import installed_pack

    cards, problem = cuda_cards()
    nvml = Nvml.find()
    return {
        "machine": machine(0),
        "cards": [
            {"name": c.name, "title": c.title, "capability": c.capability, "cuda": c.driver,
             "memory_bytes": c.memory_bytes, "bus": c.bus_id,
             "clocks": (clocks.told() if nvml and (clocks := nvml.clocks(c.bus_id)) else None)}
            for c in cards
        ],
        "problem": str(problem) if problem else None,
        "driver": nvml.driver_version() if nvml else None,
        "smi": _said(["nvidia-smi"]),
        "topology": _said(["lspci", "-nn", "-d", "10de:"]),
        "packs": {
            c.target: (len(pack) if (pack := installed_pack(c.target)) else None)
            for c in cards if c.capability >= (8, 0)
        },
        "free_bytes": {str(visit.models): shutil.disk_usage(visit.models).free},
        "nodes": sorted(str(node) for node in Path("/dev").glob("nvidia*")),
    }  # fmt: skip


def pytest(visit: Visit, *names: str) -> dict[str, Any]:
    """Tests of tests/hardware on the card: how many passed, and what failed."""
    import xml.etree.ElementTree as tree

    report = visit.models / f"{Path(names[-1]).stem}.xml"
    environment = os.environ | {"EXOSUIT_CARD": "fake" if visit.is_dry else DEVICE}
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", f"--junitxml={report}"]
    words += [
        "-W",
        "default",
        "-p",
        "no:cacheprovider",
    ]  # other versions there warn of other things
    workers = min(8, (os.cpu_count() or 2) // 2)
    if names[-1] == "ops" and not visit.is_dry and workers > 1:
        words += ["-n", str(workers)]  # compiling takes longer than running
    if visit.is_dry:
        environment["EXOSUIT_FAKE_CACHE"] = str(visit.models / "translated")
        words += ["-k", "there_is_a_card or arguments or masking or f16-f32"]
    words += [str(ROOT / "tests/hardware" / name) for name in names]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(done.stdout[-2000:], file=sys.stderr)
    suites = tree.parse(report).getroot().iter("testsuite")
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in suites:
        for key in counts:
            counts[key] += int(suite.get(key, 0))
    failed = [
        {"test": case.get("name"), "said": (bad.get("message") or "")[:500]}
        for case in tree.parse(report).getroot().iter("testcase")
        for bad in case
        if bad.tag in ("failure", "error")
    ]
    return counts | {"failed": failed, "exit_status": done.returncode}


def limits(visit: Visit) -> dict[str, Any]:
    """Bandwidth and matrix units, five times over, with the clocks of each."""
    from dataclasses import asdict

    from exosuit.advise.card_limits import measure_card
    from exosuit.advise.clocks import Nvml
    from exosuit.kernel import Target
    from exosuit.ops.programs import Programs

    del visit
    device = _open(DEVICE)
    programs, nvml = Programs(Target.named(device.target), None), Nvml.find()
    rounds: list[dict[str, Any]] = []
    for _ in range(5):
        found = asdict(measure_card(device, programs, getattr(device, "title", "")))
        clocks = nvml.clocks(device.bus_id) if nvml else None
        rounds.append(found | {"clocks": clocks.told() if clocks else None})
    groups = device.parallel_groups
    device.close()
    best = {key: max(one[key] for one in rounds) for key in rounds[0] if key != "clocks"}
    return {"best": best, "rounds": rounds, "parallel_groups": groups}


def decode_and_prefill(visit: Visit, speed: Speed, device: str = DEVICE) -> dict[str, Any]:
    """`exosuit bench` on a model: 2k of prompt, decoding behind 2k of context."""
    from exosuit.cli.bench import measure
    from exosuit.settings import Settings

    prompt, filled, generate = (8, 4, 2) if visit.is_dry else (PROMPT, FILLED, GENERATE)
    arguments = argparse.Namespace(
        model=str(_model(visit, speed)), device=[device], prompt=prompt, generate=generate,
        filled=filled, repeat=1 if visit.is_dry else 5, threads=None, against=None, busy=0,
    )  # fmt: skip
    return measure(arguments, Settings.from_environment())


def batch(visit: Visit, speed: Speed) -> dict[str, Any]:
    """Several sequences that decode together, against one alone."""
    import statistics

    from exosuit.advise.bench import PAGE, Ours
    from exosuit.engine.runner import open_runner
    from exosuit.settings import Settings

    filled, generate = (4, 2) if visit.is_dry else (512, 32)
    device, counts = _open(DEVICE), (1, 2, 4, 8, SEQUENCES)
    context = filled + generate + PAGE
    cache = Settings.from_environment().cache / "programs"
    file, runner, timings = open_runner(
        _model(visit, speed), device, cache, context=context, sequences=SEQUENCES
    )
    ours = Ours(runner, device.name, device.parallel_groups, timings.load_s, filled=filled)
    rates: dict[str, float] = {}
    for count in counts:
        ours.decode_batch(count, 2)
        step = statistics.median(ours.decode_batch(count, generate))
        rates[str(count)] = count / step
    ours.close()
    file.close()
    device.close()
    return {
        "model": speed.name,
        "filled": filled,
        "tok_s": {count: round(rate, 2) for count, rate in rates.items()},
        "times_one": {count: round(rate / rates["1"], 2) for count, rate in rates.items()},
        "load_s": round(timings.load_s, 2),
        "load_gb_s": round(file.path.stat().st_size / timings.load_s / 1e9, 2),
    }


def agree(visit: Visit, speed: Speed) -> dict[str, Any]:
    """Logits of the same file on the card and on the CPU."""
    from tests.peers.agreement import compare

    count = 8 if visit.is_dry else AGREE
    path = _model(visit, speed)
    card, cpu = (_logits(name, path, count) for name in (DEVICE, "cpu"))
    found = compare(card, cpu)
    same = (card.argmax(1) == cpu.argmax(1)).mean()
    return {
        "model": speed.name, "tokens": count, "agreement": str(found),
        "error": float(found.error), "same_choice": float(same),
    }  # fmt: skip


def route(visit: Visit, speed: Speed) -> dict[str, Any]:
    """NVIDIA's kernel driver without libcuda: the same tokens, and its speed beside libcuda's."""
    path = _model(visit, speed)
    if visit.is_dry:
        return {"left_out": "there is no kernel driver in a dry run"}
    names = (DEVICE, "nvidia:0")
    tokens = {name: _elsewhere(_tokens, name, path) for name in names}
    speeds = {
        name: _elsewhere(decode_and_prefill, visit, speed, name)["results"][0] for name in names
    }
    return {
        "same_tokens": tokens[DEVICE] == tokens["nvidia:0"], "tokens": tokens, "speeds": speeds,
        "decode_ratio": speeds["nvidia:0"]["decode_tok_s"] / speeds[DEVICE]["decode_tok_s"],
    }  # fmt: skip


def peers(visit: Visit, speed: Speed) -> dict[str, Any]:
    """Whoever else is here: llama.cpp's own bench, PyTorch's product, tinygrad's."""
    from benchmarks.gpu_peers import llamacpp, pytorch, tinygrad

    path = _model(visit, speed)
    found: dict[str, Any] = {}
    for name, run in (
        ("llama.cpp", lambda: llamacpp(path, PROMPT, FILLED, GENERATE)),
        ("pytorch", pytorch),
        ("tinygrad", tinygrad),
    ):
        try:
            found[name] = run()
        except Exception as error:
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
    return found


# What they share --------------------------------------------------------------------------------


def _elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in a process of its own: libcuda and the kernel's driver share no address space."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def _open(name: str) -> Any:
    import exosuit

    return exosuit.open_device(name)


def _logits(name: str, path: Path, count: int) -> Any:
    from exosuit.engine.runner import open_runner
    from exosuit.settings import Settings

    device = _open(name)
    cache = Settings.from_environment().cache / "programs"
    file, runner, _ = open_runner(path, device, cache, context=256, rows=16)
    tokens = [(37 * k) % 400 + 2 for k in range(count)]
    logits = runner.score(tokens)
    runner.close()
    file.close()
    device.close()
    return logits


def _tokens(name: str, path: Path) -> list[int]:
    from exosuit.engine.batch import Run, Sampling
    from exosuit.engine.runner import open_runner
    from exosuit.settings import Settings

    device, greedy = _open(name), Sampling(temperature=0.0)
    cache = Settings.from_environment().cache / "programs"
    file, runner, _ = open_runner(path, device, cache, context=512)
    tokens, held, pages = [7, 11, 13, 17], 0, tuple(range(8))
    for _ in range(64):
        found = runner.run([Run(0, tuple(tokens[held:]), held, pages, greedy)])[0]
        assert found is not None
        held = len(tokens)
        tokens.append(found.token)
    runner.close()
    file.close()
    device.close()
    return tokens


def _model(visit: Visit, speed: Speed) -> Path:
    """The file, made if it is not there; the models before it go, to make room."""
    from tests.peers.random_models import LARGE, SMALL, write_model

    path = visit.models / f"{speed.name}.gguf"
    if path.exists():
        return path
    keep = visit.speeds[0].name
    for other in visit.models.glob("*.gguf"):
        if other.stem != keep:
            other.unlink()
    started = time.perf_counter()
    shape, part = (SMALL | LARGE)[speed.shape], path.with_suffix(".part")
    made = write_model(part, shape, speed.storage, drawn=True)
    made.rename(path)
    took = time.perf_counter() - started
    print(f"{path.name}: {path.stat().st_size / 1e9:.1f} GB in {took:.0f} s", file=sys.stderr)
    return path


def _said(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return None


def _fake_libcuda(folder: Path) -> None:
    """Put the fake one in the place of the real one."""
    from tests.softcard.libcuda import Libcuda

    from exosuit.driver.cuda import Library

    fake = Libcuda(folder / "translated", memory_bytes=1 << 30)
    Library.load = staticmethod(fake.library)  # type: ignore[method-assign]


# The visit --------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file of the results")
    parser.add_argument("--models", type=Path, help="folder of the models (default: memory)")
    parser.add_argument("--limit", type=float, default=570, help="seconds that this call may take")
    parser.add_argument("--stage", action="append", help="only this one; may repeat")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--list", action="store_true", help="show the stages and stop")
    parser.add_argument("--dry-run", action="store_true", help="tiny models, the fake libcuda")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    visit = Visit(wanted.models or _in_memory(wanted.out), wanted.dry_run)
    for folder in (wanted.out.parent, visit.models):
        folder.mkdir(parents=True, exist_ok=True)
    known = stages(visit)
    if wanted.run:
        stage = next(s for s in known if s.name == wanted.run)
        _write(wanted.out, _one(visit, stage))
        return 0
    chosen = [s for s in known if not wanted.stage or s.name in wanted.stage]
    if unknown := set(wanted.stage or ()) - {s.name for s in known}:
        parser.error(f"no stage {', '.join(sorted(unknown))}; --list shows them")
    results = json.loads(wanted.out.read_text())["stages"] if wanted.out.exists() else {}
    if not wanted.list:
        deadline = time.monotonic() + wanted.limit
        for stage in chosen:
            if stage.name in results and not wanted.again:
                continue
            found = _apart(visit, stage, deadline - time.monotonic(), is_first=stage is chosen[0])
            if found is not None:
                results[stage.name] = found
                _write(wanted.out, {"stages": results})
    for stage in known:
        print(f"{stage.name:30} {_verdict(results.get(stage.name))}")
    return 0


def _in_memory(out: Path) -> Path:
    """Models go to memory where there is enough of it, else beside the results."""
    shared = Path("/dev/shm")
    try:
        room = os.statvfs(shared)
    except OSError:
        return out.parent / "made"
    return shared / "exosuit-gpu" if room.f_bavail * room.f_frsize > 60e9 else out.parent / "made"


def _apart(visit: Visit, stage: Stage, left: float, is_first: bool) -> dict[str, Any] | None:
    """Run a stage in a process of its own; None if there is no time for it."""
    if left < min(stage.seconds, 30) or (left < stage.seconds and not is_first):
        print(f"{stage.name}: left for the next call ({left:.0f} s)", file=sys.stderr)
        return None
    file = visit.models / f"{stage.name}.json"
    file.unlink(missing_ok=True)
    words = [sys.executable, __file__, "--out", str(file), "--models", str(visit.models)]
    words += ["--run", stage.name, *(["--dry-run"] if visit.is_dry else [])]
    print(f"{stage.name}: at most {left:.0f} s", file=sys.stderr, flush=True)
    try:
        status = subprocess.run(words, timeout=left, check=False).returncode
    except subprocess.TimeoutExpired:
        return {"stage": stage.name, "failed": f"not done after {left:.0f} s"}
    if not file.exists():
        return {"stage": stage.name, "failed": f"its process ended with {status}"}
    return json.loads(file.read_text())


def _one(visit: Visit, stage: Stage) -> dict[str, Any]:
    """A stage, in this process."""
    if visit.is_dry:
        _fake_libcuda(visit.models)
    started = time.perf_counter()
    try:
        found = stage.run(visit)
    except Exception as error:
        import traceback

        traceback.print_exc()
        found = {"failed": str(error) or type(error).__name__}
    took = round(time.perf_counter() - started, 1)
    facts = {"stage": stage.name, "commit": _commit(), "seconds": took, "simulated": visit.is_dry}
    return facts | found


def _commit() -> str:
    return (_said(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]) or "").strip()


def _write(file: Path, document: dict[str, Any]) -> None:
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(document, indent=1, default=str) + "\n")
    temporary.replace(file)


def _verdict(found: dict[str, Any] | None) -> str:
    """One line of a result."""
    if found is None:
        return "-"
    if isinstance(found.get("failed"), str):
        return f"FAILED: {found['failed'].splitlines()[0]}"
    told = f"{found.get('seconds', 0):6.1f} s  "
    if "results" in found:
        row = found["results"][0]
        return told + (
            f"decode {row['decode_tok_s']} tok/s, {row['bandwidth_share']:.0%} of reading; prefill"
            f" {row['prefill_tok_s']} tok/s, {row['arithmetic_share']:.0%} of f16"
        )
    if "times_one" in found:
        return told + f"{SEQUENCES} sequences: {found['times_one'][str(SEQUENCES)]} times one"
    if "best" in found:
        return told + ", ".join(f"{key} {value:.0f}" for key, value in found["best"].items())
    if "tests" in found:
        bad = found["failures"] + found["errors"]
        return told + f"{found['tests']} tests, {bad} failed, {found['skipped']} skipped"
    for key in ("agreement", "decode_ratio", "left_out"):
        if key in found:
            return told + f"{key}: {found[key]}"
    return told


if __name__ == "__main__":
    raise SystemExit(main())
