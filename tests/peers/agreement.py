"""How well two sets of logits agree, in numbers that a test can put limits on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Agreement:
    """One answer against a reference.

    `error` is the root mean square difference as a share of the reference's own spread; `same` the
    share of positions with the same best token; `widest_miss` the largest gap between best and
    second best in the reference at a position where the best token differs.
    """

    error: float
    same: float
    widest_miss: float


def compare(logits: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> Agreement:
    """Compare logits [tokens, n_vocab] with those of a reference."""
    assert logits.shape == reference.shape, f"{logits.shape} against {reference.shape}"
    difference = (logits - reference).astype(np.float64)
    same = logits.argmax(1) == reference.argmax(1)
    return Agreement(
        error=float(np.sqrt(np.mean(difference**2)) / reference.std(dtype=np.float64)),
        same=float(same.mean()),
        widest_miss=float(gaps(reference)[~same].max(initial=0.0)),
    )


def gaps(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """By how much the best token beats the second best at each position: [tokens]."""
    top = np.partition(logits, -2, axis=1)
    return top[:, -1] - top[:, -2]
