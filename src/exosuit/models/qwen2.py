"""qwen2: Qwen 2 and 2.5, their coders, the DeepSeek-R1 distills on Qwen."""

from __future__ import annotations

from exosuit.models.llama import Llama


class Qwen2(Llama):
    """As Llama, but pairs are halves of a head, and queries, keys and values have biases."""

    pairing = "halves"
