"""The server under load: throughput by clients, a long crowd whose answers are all checked.

    python -m benchmarks.serve_load MODEL.gguf throughput [--against llama.cpp] [--rounds 3]
    python -m benchmarks.serve_load MODEL.gguf crowd [--clients 64] [--minutes 5]
    python -m benchmarks.serve_load MODEL.gguf turns [--tokens 3000]

`throughput`: 1, 8 and 16 clients, each with prompts of its own, 128 tokens each, end tokens
forbidden. Rounds of the servers are interleaved, one server up at a time; the figure is the median
of completion tokens in all by wall time, first request to last byte.

`crowd`: clients that ask again and again; a quarter of the answers is left early. Every
answer, whole or left, is compared with the greedy answer to the same prompt that was got alone
before. A batch rounds sums of quantised products in another order than one sequence does, so where
an answer first differs, the two likeliest tokens of the solo run must have been closer than 0.25 in
log-probability there; it counts as `near_ties`. Anything else is `wrong`, and so is any error.

`turns`: the time to the first token of a long chat's first turn, and of its second, which begins
with the first.

One JSON document on standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serve_peers import PEERS, Answer, Server

TOKENS = 128
NEAR_TIE = 0.25
CLIENTS = (1, 8, 16)
PLACES = 16

_OPENINGS = (
    "Explain why {} matters to {}.", "Write a short story about {} and {}.",
    "List the differences between {} and {}.", "The history of {} begins with {}.",
    "Here is a recipe that uses {} and {}:", "Dear {}, I am writing to you about {}.",
)  # fmt: skip
_THINGS = (
    "rivers", "a lighthouse", "the moon", "bicycles", "an old clock", "bread", "glass", "chess",
    "volcanoes", "a violin", "steam engines", "honey bees", "maps", "winter", "the sea", "tea",
)  # fmt: skip


def prompts(count: int, seed: int, words: int = 0) -> list[str]:
    """Texts to go on with, no two alike, with so many words of ballast in front."""
    draw = random.Random(seed)
    found: list[str] = []
    for number in range(count):
        first, second = draw.sample(_THINGS, 2)
        ballast = " ".join(draw.choice(_THINGS) for _ in range(words))
        found.append(f"{number}. {ballast} " + draw.choice(_OPENINGS).format(first, second))
    return found


# Throughput -------------------------------------------------------------------------------


def endless(server: Server, prompt: str, tokens: int) -> dict[str, Any]:
    """A greedy request that no end token ends."""
    body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "temperature": 0}
    body["stream_options"] = {"include_usage": True}
    if server.name == "exosuit":
        ends = (0, 1, 2)  # of SmolLM2: <|endoftext|>, <|im_start|>, <|im_end|>
        return body | {"logit_bias": {str(token): -100 for token in ends}}
    return body | {"ignore_eos": True, "cache_prompt": False}


async def throughput(server: Server, clients: int, seed: int) -> float:
    """Completion tokens a second of so many clients, one answer each."""
    asked = prompts(clients, seed, words=12)
    started = time.perf_counter()
    found = await asyncio.gather(
        *(server.stream("/v1/completions", endless(server, p, TOKENS)) for p in asked)
    )
    seconds = time.perf_counter() - started
    for answer in found:
        if answer.error or answer.finish != "length":
            raise RuntimeError(f"{server.name}: {answer.status} {answer.error} {answer.finish}")
    return clients * TOKENS / seconds


def measure_throughput(path: Path, names: Sequence[str], rounds: int, threads: int) -> Any:
    rates: dict[tuple[str, int], list[float]] = {}
    for turn in range(rounds):
        for name in names:
            with PEERS[name](path, PLACES, threads) as server:
                for clients in (16, 8, 1):  # every size of step is recorded before it counts
                    asyncio.run(throughput(server, clients, 1000 + turn))
                for again in range(3):
                    for clients in CLIENTS:
                        rate = asyncio.run(throughput(server, clients, 100 * turn + again))
                        rates.setdefault((name, clients), []).append(rate)
                        print(f"{name} {clients}: {rate:.1f}", file=sys.stderr, flush=True)
    middle = {key: statistics.median(values) for key, values in rates.items()}
    return [
        {
            "server": name,
            "clients": clients,
            "tok_s": round(middle[name, clients], 1),
            "times_one_client": round(middle[name, clients] / middle[name, 1], 2),
            "times_peer": round(middle[name, clients] / middle["llama.cpp", clients], 2)
            if "llama.cpp" in names
            else None,
            "all": [round(value, 1) for value in rates[name, clients]],
        }
        for name in names
        for clients in CLIENTS
    ]


# The crowd --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Solo:
    """A prompt's greedy answer: its tokens' texts, and how far the second likeliest was off."""

    prompt: str
    tokens: int
    text: str
    pieces: tuple[str, ...]
    gaps: tuple[float, ...]

    def judge(self, answer: Answer) -> str:
        """What it is: same, near tie, or in words what is wrong."""
        expected, text = self.text, answer.text
        if answer.error:
            return f"error: {answer.status} {answer.error}"
        if not answer.left and answer.finish is None:
            return "lost: no end came"
        if text == expected or (answer.left and expected.startswith(text)):
            return "same"
        place = next(
            (k for k, (a, b) in enumerate(zip(text, expected, strict=False)) if a != b),
            min(len(text), len(expected)),
        )
        seen = 0
        for piece, gap in zip(self.pieces, self.gaps, strict=True):
            seen += len(piece)
            if seen > place or piece == self.pieces[-1]:
                if gap < NEAR_TIE:
                    return "near tie"
                if seen > place:
                    return f"differs at {place} (gap {gap:.3f}): {text[:80]!r}"
        return f"differs at its end, {place}"


def alone(server: Server, prompt: str, tokens: int) -> Solo:
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "logprobs": 2}
    found = server.ask("/v1/completions", body)["choices"][0]
    told = found["logprobs"]
    gaps: list[float] = []
    for top in told["top_logprobs"]:
        best = sorted(top.values(), reverse=True)
        gaps.append(best[0] - best[1] if len(best) > 1 else 0.0)
    return Solo(prompt, tokens, found["text"], tuple(told["tokens"]), tuple(gaps))


async def client(
    server: Server, number: int, known: Sequence[Solo], end: float,
    told: list[tuple[Solo, Answer]],
) -> None:  # fmt: skip
    draw = random.Random(number)
    while time.perf_counter() < end:
        solo = draw.choice(known)
        body = {"prompt": solo.prompt, "max_tokens": solo.tokens, "temperature": 0}
        leaves = draw.random() < 0.25
        most = draw.randrange(1, 20)
        answer = await server.stream(
            "/v1/completions", body, lambda n, most=most, leaves=leaves: leaves and n >= most
        )
        told.append((solo, answer))
        if draw.random() < 0.1:
            await asyncio.sleep(draw.random())


async def crowd(server: Server, clients: int, minutes: float, known: list[Solo]) -> Any:
    told: list[tuple[Solo, Answer]] = []
    started = time.perf_counter()
    end = started + 60 * minutes
    await asyncio.gather(*(client(server, k, known, end, told) for k in range(clients)))
    seconds = time.perf_counter() - started
    verdicts = [solo.judge(answer) for solo, answer in told]
    first = sorted(a.times[0] for _, a in told if a.times)
    between = sorted(
        later - earlier
        for _, a in told
        for earlier, later in zip(a.times, a.times[1:], strict=False)
    )
    return {
        "clients": clients,
        "seconds": round(seconds, 1),
        "answers": len(told),
        "left_early": sum(answer.left for _, answer in told),
        "same": verdicts.count("same"),
        "near_ties": verdicts.count("near tie"),
        "wrong": [v for v in verdicts if v not in ("same", "near tie")],
        "pieces_per_s": round(sum(len(a.texts) for _, a in told) / seconds, 1),
        "first_token_s": percentiles(first),
        "between_tokens_s": percentiles(between),
    }


def percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {
        f"p{p}": round(values[min(len(values) - 1, int(len(values) * p / 100))], 4)
        for p in (50, 90, 99)
    } | {"most": round(values[-1], 4)}


def measure_crowd(path: Path, clients: int, minutes: float, threads: int) -> Any:
    with PEERS["exosuit"](path, PLACES, threads) as server:
        known = [
            alone(server, prompt, 16 + 5 * k % 80)
            for k, prompt in enumerate([*prompts(24, 5), *prompts(8, 6, words=120)])
        ]
        before = server.resident_bytes
        found = asyncio.run(crowd(server, clients, minutes, known))
        time.sleep(1)
        left = server.ask("/health")
        again = alone(server, known[0].prompt, known[0].tokens)
        return found | {
            "resident_mib_before": before >> 20,
            "resident_mib_after": server.resident_bytes >> 20,
            "health_after": left["status"],
            "solo_after_is_the_same": again.pieces == known[0].pieces,
        }


# A second turn ----------------------------------------------------------------------------


async def two_turns(server: Server, tokens: int) -> dict[str, float]:
    story = " ".join(prompts(tokens // 14, int(time.time())))
    first = await server.stream("/v1/completions", endless(server, story, 8))
    more = story + first.text + " And then, on the next morning,"
    second = await server.stream("/v1/completions", endless(server, more, 8))
    return {
        "prompt_tokens": first.usage.get("prompt_tokens", 0),
        "first_turn_s": round(first.times[0], 4),
        "second_turn_s": round(second.times[0], 4),
        "sooner": round(first.times[0] / second.times[0], 1),
    }


def measure_turns(path: Path, tokens: int, threads: int) -> Any:
    with PEERS["exosuit"](path, PLACES, threads) as server:
        asyncio.run(two_turns(server, 200))
        return asyncio.run(two_turns(server, tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("what", choices=("throughput", "crowd", "turns"))
    parser.add_argument("--against", default="", help="llama.cpp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    if a.what == "throughput":
        names = ["exosuit", *([a.against] if a.against else [])]
        found = measure_throughput(a.model, names, a.rounds, a.threads)
    elif a.what == "crowd":
        found = measure_crowd(a.model, a.clients, a.minutes, a.threads)
    else:
        found = measure_turns(a.model, a.tokens, a.threads)
    print(json.dumps({"model": a.model.name, "threads": a.threads, a.what: found}, indent=2))


if __name__ == "__main__":
    main()
