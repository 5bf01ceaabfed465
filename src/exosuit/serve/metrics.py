"""What is counted, for Prometheus: requests, tokens, waits, steps. Nothing of what was said.

The numbers of one `Service`; `exposition` is what `GET /metrics` answers.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from exosuit.engine.request import Generation
from exosuit.serve.facts import LoadedInfo

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STEPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Rate:
    """How many a second, over the last few. Any thread may add."""

    def __init__(self, window_s: int = 10) -> None:
        self._window_s = window_s
        self._guard = threading.Lock()
        self._seconds: deque[list[int]] = deque()  # second, count

    def add(self, count: int) -> None:
        now = int(time.monotonic())
        with self._guard:
            if not self._seconds or self._seconds[-1][0] != now:
                self._seconds.append([now, 0])
            self._seconds[-1][1] += count
            self._trim(now)

    def per_second(self) -> float:
        with self._guard:
            self._trim(int(time.monotonic()))
            return sum(count for _, count in self._seconds) / self._window_s

    def _trim(self, now: int) -> None:
        while self._seconds and self._seconds[0][0] <= now - self._window_s:
            self._seconds.popleft()


class _Loaded(Collector):
    """Memory, answers and queues of the loaded models, asked for when they are looked at."""

    def __init__(self, loaded: Callable[[], list[LoadedInfo]]) -> None:
        self._loaded = loaded

    def collect(self) -> Iterable[Metric]:
        held = GaugeMetricFamily(
            "exosuit_model_bytes", "Device memory of a loaded model.", labels=["model", "device"]
        )
        running = GaugeMetricFamily(
            "exosuit_requests_running", "Answers in the batch.", labels=["model"]
        )
        waiting = GaugeMetricFamily(
            "exosuit_requests_waiting", "Requests that wait for a place.", labels=["model"]
        )
        # A model may be there twice for a while: one that leaves, and one that was loaded anew.
        places: Counts[tuple[str, str]] = Counts()
        active: Counts[str] = Counts()
        queued: Counts[str] = Counts()
        for row in self._loaded():
            places[row.name, row.device] += row.device_bytes
            active[row.name] += row.active
            queued[row.name] += row.waiting
        for place, size_bytes in places.items():
            held.add_metric(place, size_bytes)
        for name in active:
            running.add_metric([name], active[name])
            waiting.add_metric([name], queued[name])
        return held, running, waiting


class Metrics:
    """Any thread may count.

    sampled_rate, prompt_rate  tokens of answers and of prompts, of all models
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sampled_rate, self.prompt_rate = Rate(), Rate()
        model, registry = ["model"], self.registry
        self.requests = Counter(
            "exosuit_requests", "Answers that ended, by how.", ["model", "finish_reason"],
            registry=registry,
        )  # fmt: skip
        self.refused = Counter(
            "exosuit_requests_refused", "Requests refused for a full queue.", model,
            registry=registry,
        )  # fmt: skip
        self.tokens = Counter(
            "exosuit_tokens", "Tokens: computed and reused of prompts, sampled for answers.",
            ["model", "kind"], registry=registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "exosuit_time_to_first_token_seconds", "From the request to its first token.", model,
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.per_token = Histogram(
            "exosuit_seconds_per_token", "Mean time between the tokens of an answer.", model,
            buckets=_STEPS, registry=registry,
        )  # fmt: skip
        self.steps = Histogram(
            "exosuit_step_seconds", "Time of a step of the engine.", model, buckets=_STEPS,
            registry=registry,
        )  # fmt: skip
        self.loads = Histogram(
            "exosuit_load_seconds", "Time to load a model.", model, buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.losses = Counter(
            "exosuit_device_losses", "Devices lost at work.", ["device"], registry=registry
        )

    def watch(self, loaded: Callable[[], list[LoadedInfo]]) -> None:
        """Tell of the loaded models too, as they are whenever somebody looks."""
        self.registry.register(_Loaded(loaded))

    def step(self, model: str, seconds: float, sampled: int) -> None:
        self.steps.labels(model).observe(seconds)
        self.tokens.labels(model, "sampled").inc(sampled)

    def generation(self, model: str, generation: Generation) -> None:
        """An answer has ended."""
        usage, first = generation.usage, generation.first_token_s
        self.requests.labels(model, generation.finish_reason or "").inc()
        self.tokens.labels(model, "reused").inc(usage.reused_tokens)
        if first is not None:
            self.tokens.labels(model, "computed").inc(usage.prompt_tokens - usage.reused_tokens)
            self.first_token.labels(model).observe(first - generation.submitted_s)
        if generation.decode_tok_s:
            self.per_token.labels(model).observe(1 / generation.decode_tok_s)

    def total_requests(self) -> int:
        return int(
            sum(
                sample.value
                for metric in self.requests.collect()
                for sample in metric.samples
                if sample.name.endswith("_total")
            )
        )

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes; its type is `content_type`."""
        return generate_latest(self.registry)
