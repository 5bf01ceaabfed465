"""Durations as Ollama takes them."""

import math

import pytest

from exosuit.errors import RequestError
from exosuit.serve.keep_alive import keep_alive_s


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0), (30, 30), (2.5, 2.5), (-1, math.inf), (-0.5, math.inf), ("5m", 300),
        ("1h30m", 5400),
        ("90s", 90), ("500ms", 0.5), ("1.5h", 5400), ("0", 0), ("0s", 0), ("-1", math.inf),
        ("-1m", math.inf), ("10", 10), (" 5m ", 300), ("24h", 86400), (".5s", 0.5),
        ("250us", 250e-6),
        ("+3s", 3), (math.inf, math.inf),
    ],
)  # fmt: skip
def test_durations(value, seconds):
    assert keep_alive_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    ["", "5x", "m", "5 m", "1h-3m", "NaN", math.nan, "1e3", None, True, [], "5m" * 99 + "x"],
)
def test_what_is_no_duration(value):
    with pytest.raises(RequestError, match="keep_alive"):
        keep_alive_s(value)
