"""Measuring a model: prefill and decode, ours and a peer's, in turn in one run.

Machines are shared and change speed within minutes, so each round measures every contender once,
and what is reported are medians and spreads over rounds. Between contenders there is a pause: the
worker threads of some peers spin for a while after their last call.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from exosuit.advise import footprint
from exosuit.engine.batch import Run, Sampling
from exosuit.engine.runner import DeviceRunner
from exosuit.models.gguf import GgufFile

_PAUSE_S = 0.3
_WARM_TOKENS = 4
PROMPT_BEFORE_DECODE = 32
PAGE = 64
_GREEDY = Sampling(temperature=0.0)


class Limits(Protocol):
    """What a device can do at most; `arithmetic` for weights that mostly are floats, or not."""

    @property
    def read_gb_s(self) -> float: ...

    def arithmetic(self, floats: bool) -> float: ...


class Contender(Protocol):
    """Something that computes a model: we, or a peer.

    prefill  seconds for a prompt of so many tokens from an empty context
    decode   seconds for each of so many tokens after a short prompt
    """

    @property
    def engine(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def threads(self) -> int: ...

    @property
    def load_s(self) -> float: ...

    def prefill(self, tokens: int) -> float: ...

    def decode(self, tokens: int) -> list[float]: ...

    def close(self) -> None: ...


@dataclass
class Ours:
    """A runner; every decoded token is sampled (greedily) and read, as in real use.

    filled  tokens that are in the context when decoding is timed
    """

    runner: DeviceRunner
    device: str
    threads: int
    load_s: float
    engine: str = "exosuit"
    filled: int = PROMPT_BEFORE_DECODE

    def prefill(self, tokens: int) -> float:
        start = time.perf_counter()
        self._prompt(tokens)
        return time.perf_counter() - start

    def decode(self, tokens: int, after_each: Callable[[], None] = lambda: None) -> list[float]:
        token = self._prompt(self.filled)
        seconds: list[float] = []
        for position in range(self.filled, self.filled + tokens):
            start = time.perf_counter()
            token = self._run((token,), position)
            seconds.append(time.perf_counter() - start)
            after_each()
        return seconds

    def decode_batch(self, sequences: int, tokens: int) -> list[float]:
        """Seconds for each step in which so many sequences decode a token each.

        All of them have a prompt of their own, and pages that nobody shares.
        """
        each = -(-(self.filled + tokens + 1) // PAGE)
        pages = [tuple(range(each * slot, each * (slot + 1))) for slot in range(sequences)]
        latest: list[int] = []
        for mine in pages:
            sampled = 0
            for start, chunk in self._chunks(self.filled):
                sampled = self._run_all([Run(len(latest), chunk, start, mine, _GREEDY)])[0]
            latest.append(sampled)
        seconds: list[float] = []
        for position in range(self.filled, self.filled + tokens):
            start = time.perf_counter()
            latest = self._run_all(
                [Run(k, (token,), position, pages[k], _GREEDY) for k, token in enumerate(latest)]
            )
            seconds.append(time.perf_counter() - start)
        return seconds

    def close(self) -> None:
        self.runner.close()

    def _chunks(self, tokens: int) -> list[tuple[int, tuple[int, ...]]]:
        size, prompt = self.runner.max_step_tokens, prompt_tokens(tokens, self.runner.vocabulary)
        return [(start, prompt[start : start + size]) for start in range(0, tokens, size)]

    def _run_all(self, runs: list[Run]) -> list[int]:
        found = self.runner.run(runs)
        return [sampled.token for sampled in found if sampled is not None]

    def _prompt(self, tokens: int) -> int:
        sampled = 0
        for start, chunk in self._chunks(tokens):
            sampled = self._run(chunk, start)
        return sampled

    def _run(self, tokens: tuple[int, ...], start: int) -> int:
        pages = tuple(range(-(-(start + len(tokens)) // PAGE)))
        return self._run_all([Run(0, tokens, start, pages, _GREEDY)])[0]


@dataclass
class Peer:
    """llama.cpp through its C interface (see `advise.peers`); it does not sample."""

    model: Any
    threads: int
    load_s: float
    vocabulary: int
    engine: str = "llama.cpp"
    device: str = "cpu"
    filled: int = PROMPT_BEFORE_DECODE

    def prefill(self, tokens: int) -> float:
        self.model.clear()
        return float(self.model.prefill(list(prompt_tokens(tokens, self.vocabulary))))

    def decode(self, tokens: int) -> list[float]:
        self.prefill(self.filled)
        return [float(self.model.decode(k % 1000 + 10)) for k in range(tokens)]

    def close(self) -> None:
        self.model.close()


@dataclass
class _Rounds:
    """Tokens per second of each round."""

    prefill: list[float] = field(default_factory=list[float])
    decode: list[float] = field(default_factory=list[float])


def prompt_tokens(count: int, vocabulary: int) -> tuple[int, ...]:
    """A prompt of different tokens that every vocabulary has."""
    return tuple((k * 37) % max(1, vocabulary - 200) + 100 for k in range(count))


def measure(
    contenders: Sequence[Contender],
    prompt: int,
    generate: int,
    repeat: int,
    progress: Callable[[str], None],
    each_round: Callable[[], None] = lambda: None,
) -> list[_Rounds]:
    """One discarded warm-up, then `repeat` rounds in which each contender has its turn.

    each_round  called before every round, to measure what the machine can do at that time
    """
    results = [_Rounds() for _ in contenders]
    for contender in contenders:
        progress(f"{contender.engine}, {contender.threads} threads: warming up")
        contender.prefill(prompt)
        contender.decode(_WARM_TOKENS)
    for turn in range(repeat):
        each_round()
        for contender, rounds in zip(contenders, results, strict=True):
            progress(f"{contender.engine}, {contender.threads} threads: {turn + 1} of {repeat}")
            time.sleep(_PAUSE_S)
            rounds.prefill.append(prompt / contender.prefill(prompt))
            time.sleep(_PAUSE_S)
            rounds.decode.append(1 / statistics.median(contender.decode(generate)))
    return results


def result(
    contender: Contender, rounds: _Rounds, file: GgufFile, limits: Limits | None
) -> dict[str, Any]:
    """One row of `bench --json`."""
    need = footprint.from_header(file.path.name, file.metadata, file.tensors)
    decode, prefill = statistics.median(rounds.decode), statistics.median(rounds.prefill)
    decode_gb_s = need.read_bytes * decode / 1e9
    prefill_gflop_s = 2 * need.active_parameters * prefill / 1e9
    return {
        "engine": contender.engine,
        "device": contender.device,
        "threads": contender.threads,
        "prefill_tok_s": round(prefill, 2),
        "decode_tok_s": round(decode, 2),
        "prefill_spread": _spread(rounds.prefill),
        "decode_spread": _spread(rounds.decode),
        "weight_bytes_per_token": round(need.read_bytes),
        "decode_gb_s": round(decode_gb_s, 2),
        "bandwidth_share": round(decode_gb_s / limits.read_gb_s, 3) if limits else None,
        "prefill_gflop_s": round(prefill_gflop_s, 1),
        "arithmetic_share": round(prefill_gflop_s / _arithmetic(file, limits), 3)
        if limits
        else None,
        "load_s": round(contender.load_s, 3),
        "peak_rss_bytes": peak_rss_bytes() if contender.engine == "exosuit" else None,
        "link": {"reads_per_token": 0, "writes_per_token": 0, "bytes_per_token": 0},
    }


def _arithmetic(file: GgufFile, limits: Limits) -> float:
    """The limit that the model's arithmetic is held to: bytes for quantised weights, or f32."""
    floats = {"F32", "F16", "BF16"}
    sizes = {True: 0, False: 0}
    for tensor in file.tensors.values():
        if len(tensor.shape) > 1:
            sizes[tensor.type.label in floats] += tensor.size_bytes
    return limits.arithmetic(sizes[True] > sizes[False])


def _spread(values: list[float]) -> list[float]:
    """[p10, p90]"""
    ordered = sorted(values)
    last = len(ordered) - 1
    return [round(ordered[round(share * last)], 2) for share in (0.1, 0.9)]


def peak_rss_bytes() -> int:
    """Of this process, since it began."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def open_peer(path: Path, threads: int, context: int, batch: int, vocabulary: int) -> Peer | None:
    """llama.cpp on this file, if it is installed."""
    from exosuit.advise.peers.llamacpp import LlamaCpp

    library = LlamaCpp.find()
    if library is None:
        return None
    start = time.perf_counter()
    model = library.open(path, threads=threads, context=context, batch=batch)
    return Peer(model, threads, time.perf_counter() - start, vocabulary)


@contextmanager
def busy(processes: int) -> Generator[None]:
    """Keep the machine busy with so many other processes that only compute."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_burn, daemon=True) for _ in range(processes)]
    for other in others:
        other.start()
    try:
        if processes:
            time.sleep(1.0)
        yield
    finally:
        for other in others:
            other.terminate()
            other.join()


def _burn() -> None:
    while True:
        sum(range(100_000))
