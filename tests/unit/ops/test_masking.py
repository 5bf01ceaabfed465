"""Masked logits, at vocabularies that fill words, vectors and chunks and at some that do not."""

from __future__ import annotations

import numpy as np
import pytest

from exosuit.kernel import Target, compile_kernel
from exosuit.ops.masking import (
    CHUNK,
    mask_groups,
    mask_logits,
    mask_logits_reference,
    mask_words,
)

RNG = np.random.default_rng(8)


@pytest.mark.parametrize("vocabulary", [1, 31, 32, 33, 512, CHUNK, CHUNK + 1, 2 * CHUNK + 1003])
def test_masked(run, vocabulary):
    logits = RNG.normal(size=(3, vocabulary)).astype(np.float32)
    masks = RNG.integers(0, 2**32, (3, mask_words(vocabulary)), np.uint32)
    masks[1] = 2**32 - 1
    expected = mask_logits_reference(logits, masks)
    for row in range(3):  # the reference against plain Python
        for token in (0, vocabulary // 2, vocabulary - 1):
            allowed = int(masks[row, token // 32]) >> (token % 32) & 1
            assert (expected[row, token] == logits[row, token]) == bool(allowed)
    np.testing.assert_array_equal(expected[1], logits[1])
    run(mask_logits, mask_groups(3, vocabulary), logits, masks, vocabulary=vocabulary)
    np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("target", ["gfx1100", "gfx1201", "sm_80", "aarch64-neon"])
def test_compiles_for_cards(target):
    assert compile_kernel(mask_logits, Target.named(target), None, vocabulary=49152).code
