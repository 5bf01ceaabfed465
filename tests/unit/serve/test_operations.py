"""Log lines, rates, what is counted, and values on the private socket's wire."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from exosuit.engine.batch import Sampled, Sampling
from exosuit.engine.request import Event, Generation, Request
from exosuit.errors import ContextFull, ExosuitError, ServerBusy
from exosuit.serve import metrics as metrics_room
from exosuit.serve.facts import LoadedInfo
from exosuit.serve.log import JsonLines, PlainLines, configure
from exosuit.serve.metrics import Metrics, Rate
from exosuit.serve.wire import (
    error_from,
    error_words,
    event_from,
    event_words,
    request_from,
    request_words,
)


def record(message: str, **facts) -> logging.LogRecord:
    found = logging.LogRecord("exosuit.x", logging.WARNING, __file__, 1, message, (), None)
    vars(found).update(facts)
    return found


def test_a_line_of_json_holds_the_facts():
    line = JsonLines().format(record('broken "line"\nhere', model="m", seconds=1.5, odd={1, 2}))
    assert "\n" not in line
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert found.pop("odd") == "{1, 2}"
    assert found == {
        "level": "warning", "logger": "exosuit.x", "message": 'broken "line"\nhere', "model": "m",
        "seconds": 1.5,
    }  # fmt: skip


def test_exceptions_are_part_of_the_line():
    try:
        raise ValueError("inner")
    except ValueError:
        found = record("outer")
        found.exc_info = sys.exc_info()
    assert "ValueError: inner" in json.loads(JsonLines().format(found))["exception"]
    assert "ValueError: inner" in PlainLines().format(found)


def test_plain_lines_cannot_move_the_terminal():
    line = PlainLines().format(record("a\x1b[2Jb", path="/x\x07"))
    assert "\x1b" not in line
    assert "\x07" not in line
    assert "warning: a [2Jb  path=/x " in line


def test_configured_once_however_often(restored_logging):
    stream = io.StringIO()
    configure("json", stream)
    configure("json", stream)
    logging.getLogger("exosuit.serve.somewhere").info("hello", extra={"model": "m"})
    logging.getLogger("uvicorn.error").info("not told")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "hello"


@pytest.fixture
def restored_logging():
    loggers = [logging.getLogger(name) for name in ("exosuit", "uvicorn")]
    before = [(x.handlers[:], x.level, x.propagate) for x in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_rates_forget(monkeypatch):
    now = 100.0
    monkeypatch.setattr(metrics_room.time, "monotonic", lambda: now)
    rate = Rate(10)
    for second in range(5):
        now = 100.2 + second
        rate.add(30)
    assert rate.per_second() == 15
    now = 112.5
    assert rate.per_second() == 6
    now = 200
    assert rate.per_second() == 0


def test_the_exposition_is_read_by_prometheus_own_parser():
    metrics = Metrics()
    generation = Generation(1, Request((1, 2, 3)), submitted_s=10.0, reused_tokens=1)
    generation.first_token_s, generation.last_token_s = 10.5, 12.5
    for k in range(5):
        generation.tell(Event("x", Sampled(k, 0.0), "stop" if k == 4 else None))
    metrics.step('odd "name"\n', 0.004, 3)
    leaving = LoadedInfo("m", "cpu", 90, 512, 8, 1.0, None, active=3, waiting=0)
    anew = LoadedInfo("m", "cpu", 9, 512, 8, 1.0, None, active=0, waiting=2)
    metrics.watch(lambda: [leaving, anew])
    metrics.generation('odd "name"\n', generation)
    families = {f.name: f for f in text_string_to_metric_families(metrics.exposition().decode())}
    (requests,) = (s for s in families["exosuit_requests"].samples if s.name.endswith("total"))
    assert requests.labels == {"model": 'odd "name"\n', "finish_reason": "stop"}
    tokens = {s.labels["kind"]: s.value for s in families["exosuit_tokens"].samples
              if s.name.endswith("total")}  # fmt: skip
    assert tokens == {"sampled": 3, "reused": 1, "computed": 2}
    assert len(families["exosuit_requests_running"].samples) == 1
    gauges = {n: families[f"exosuit_{n}"].samples[0] for n in
              ("model_bytes", "requests_running", "requests_waiting")}  # fmt: skip
    assert [gauge.value for gauge in gauges.values()] == [99, 3, 2]
    assert gauges["model_bytes"].labels == {"model": "m", "device": "cpu"}
    first = families["exosuit_time_to_first_token_seconds"].samples
    assert next(s.value for s in first if s.name.endswith("sum")) == 0.5
    assert metrics.total_requests() == 1


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.integers(0, 1 << 40), min_size=1, max_size=9),
    st.dictionaries(st.integers(0, 10**6), finite, max_size=4),
    st.none() | st.integers(1, 10**6),
    st.lists(st.text(max_size=5), max_size=3),
    finite,
    st.integers(0, 2**63 - 1),
)
def test_requests_survive_the_wire(prompt, biases, most, stop, temperature, seed):
    sampling = Sampling(temperature=temperature, seed=seed, logit_bias=biases)
    request = Request(tuple(prompt), sampling, most, tuple(stop))
    assert request_from(json.loads(json.dumps(request_words(request)))) == request


def test_a_newer_client_may_know_more():
    words = request_words(Request((1,)))
    words["sampling"]["a_new_sampler"] = 3
    assert request_from(words) == Request((1,))


@pytest.mark.parametrize(
    "event",
    [Event("text"), Event("", Sampled(3, -0.5, ((3, -0.5), (4, -1.5))), "stop"),
     Event("\ud800", None, "cancelled")],
)  # fmt: skip
def test_events_survive_the_wire(event):
    assert event_from(json.loads(json.dumps(event_words(event)))) == event


def test_errors_keep_their_class_where_it_is_known():
    for kind in (ContextFull, ServerBusy, ExosuitError):
        problem = kind("what", cause="why", next="then", context=5, odd=object())
        words = json.loads(json.dumps(error_words(problem)))
        found = error_from(words)
        assert type(found) is kind
        assert (found.what, found.cause, found.next) == ("what", "why", "then")
        assert found.fields == {"context": 5}
        assert type(error_from(words | {"type": "FromTheFuture"})) is ExosuitError
