"""Forbidding tokens: what a grammar does not allow next gets a logit of minus infinity.

The mask is one bit for each token, made on the host while it waits for nothing else. Recordings
launch this between the logits and the sampling, and only where a request needs it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from exosuit.kernel import In, InOut, each, f32, group, i64, kernel, minimum, select, u32

CHUNK = 4096
"""Tokens of one workgroup; a multiple of 32."""


def mask_words(vocabulary: int) -> int:
    """u32 words of a row's mask."""
    return -(-vocabulary // 32)


def mask_groups(rows: int, vocabulary: int) -> int:
    return rows * -(-vocabulary // CHUNK)


@kernel
def mask_logits(logits: InOut[f32], masks: In[u32], *, vocabulary: int) -> None:
    """`logits[row, t] = -inf` where bit `t % 32` of word `t // 32` is not set.

    logits  f32[R, vocabulary]    masks  u32[R, mask_words(vocabulary)]
    `mask_groups(R, vocabulary)` groups.
    """
    parts = -(-vocabulary // CHUNK)
    row, first = (group() // parts).to(i64), group() % parts * CHUNK
    line = logits.at(row * vocabulary).at(first)
    words = masks.at(row * mask_words(vocabulary)).at(first // 32)
    for i in each(minimum(vocabulary - first, CHUNK)):
        is_allowed = (words[i >> 5] >> (i & 31).to(u32) & 1).ne(0)
        line[i] = select(is_allowed, line[i], float("-inf"))


def mask_logits_reference(logits: NDArray[Any], masks: NDArray[np.uint32]) -> NDArray[np.float32]:
    """A new array; logits f32[R, vocabulary], masks u32[R, words]."""
    bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little")
    allowed = bits[:, : logits.shape[1]].astype(bool)
    return np.where(allowed, logits, np.float32("-inf")).astype(np.float32)
