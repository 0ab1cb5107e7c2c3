"""Which of n answers to return, by m weak checks of each: B4's posterior, CodeT's score, or the most checks passed.

B4: Chen et al., ASE 2024, from its formulas. A passing matrix is (n, m) booleans: answer i passed check j.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from policies.lazy_module import LazyModule
from policies.types import Float

special = LazyModule("scipy.special")

Passed = NDArray[np.bool_]
Pick = Literal["b4", "codet", "majority"]
ALPHA = 10.0  # α_xy: how rarely right answers are met, and checks are right
BETA = 10.0  # β₀: how rarely a wrong answer passes a wrong check
FEWEST = 5  # answers: below that B4 has nothing over CodeT [METHODS]


def pick(passed: Passed, how: Pick, *, alpha: float = ALPHA, beta: float = BETA) -> int:
    """The row (n, m) to return; the first among equals."""
    if len(passed) == 0:
        raise ValueError("there is no answer to pick from")
    if how == "majority" or passed.shape[1] == 0:
        return int(np.argmax(passed.sum(axis=1)))
    return int(np.argmax(codet(passed) if how == "codet" or len(passed) < FEWEST else b4(passed, alpha, beta)))


def codet(passed: Passed) -> Float:
    """(n,) √(answers that pass the same checks) × checks they pass."""
    same = (passed[:, None, :] == passed[None, :, :]).all(axis=2).sum(axis=1)
    return np.asarray(np.sqrt(same) * passed.sum(axis=1), np.float64)


def b4(passed: Passed, alpha: float = ALPHA, beta: float = BETA) -> Float:
    """(n,) log posterior, up to a constant, that an answer and those which pass the same checks are the right ones.


        ln B(|x|+α, n−|x|+1) + ln B(|y|+α, m−|y|+1) + ln B(e₁+1, |E₁|−e₁+1) + ln B(e₀+1, |E₀|−e₀+β₀)

    x are the answers of one row pattern y, and E₁, E₀ the others' results on the checks that y passes and fails.
    """
    n, m = passed.shape
    scores = np.zeros(n)
    known: dict[bytes, float] = {}
    for row in range(n):
        pattern = passed[row]
        if (key := pattern.tobytes()) not in known:
            others = passed[~(passed == pattern).all(axis=1)]
            on, off = others[:, pattern], others[:, ~pattern]
            x, y, e1, e0 = n - len(others), int(pattern.sum()), int(on.sum()), int(off.sum())
            known[key] = float(
                special.betaln(x + alpha, n - x + 1.0)
                + special.betaln(y + alpha, m - y + 1.0)
                + special.betaln(e1 + 1.0, on.size - e1 + 1.0)
                + special.betaln(e0 + 1.0, off.size - e0 + beta)
            )
        scores[row] = known[key]
    return scores


def decided(votes: Sequence[str], n: int) -> bool:
    """Whether no answer still to come, of n in all, could change which vote wins."""
    counts = [count for _, count in Counter(votes).most_common(2)] + [0, 0]
    return counts[0] - counts[1] > n - len(votes)


def winner(votes: Mapping[int, str]) -> int:
    """The place of the first vote for what most voted for; among equals what was said first."""
    counts = Counter(votes[place] for place in sorted(votes))
    best = max(counts.values())
    return next(place for place in sorted(votes) if counts[votes[place]] == best)
