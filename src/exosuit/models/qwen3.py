"""qwen3: the dense Qwen 3 models."""

from __future__ import annotations

from exosuit.models.qwen2 import Qwen2


class Qwen3(Qwen2):
    """As Qwen2 without biases; each query and key head is normalised before it is turned."""

    head_norms = True
