"""How long a model stays loaded when nobody asks for it, in Ollama's words.

Seconds as a number, or text with units as Go writes durations: "5m", "1h30m", "90s", "500ms". Zero
unloads as soon as the answer is done, anything negative never.
Source: Ollama's api documentation, `keep_alive`; Go's time.ParseDuration.
"""

from __future__ import annotations

import math
import re

from exosuit.errors import RequestError

DEFAULT_S = 300.0

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)"


def keep_alive_s(value: object) -> float:
    """Seconds; infinity for ever. RequestError for what is no duration."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _no_duration(value)
    if isinstance(value, str):
        text = value.strip()
        sign = -1.0 if text.startswith("-") else 1.0
        plain = text.lstrip("+-")
        if re.fullmatch(r"\d+(?:\.\d*)?", plain):
            seconds = float(plain)
        elif re.fullmatch(f"(?:{_PART})+", plain):
            seconds = sum(float(n) * _UNITS[unit] for n, unit in re.findall(_PART, plain))
        else:
            raise _no_duration(value)
        seconds *= sign
    else:
        seconds = float(value)
    if math.isnan(seconds):
        raise _no_duration(value)
    return math.inf if seconds < 0 else seconds


def _no_duration(value: object) -> RequestError:
    return RequestError(
        f"keep_alive is {str(value)[:40]!r}",
        cause='it is seconds, or a duration like "5m"; 0 unloads at once, -1 never',
        next="change the request and send it again",
    )
