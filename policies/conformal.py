"""Thresholds with a bounded risk: how sure to be before an answer is returned instead of escalated."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from policies.types import Float

NEVER = float("inf")
STEP = 1.05  # between thresholds that are tried: answers above one, by those above the one before


def risk_threshold(confidences: Float, wrong: NDArray[np.bool_], *, risk: float, weights: Float | None = None) -> float:
    """The smallest τ with (Σ w·[wrong and confidence ≥ τ] + w_max) / (Σ w + w_max) ≤ risk; NEVER where there is none.

    Conformal risk control (arXiv 2208.02814) for the loss "a wrong answer was returned". On exchangeable answers the
    expected share of wrong answers among all that this threshold lets through is at most `risk`. Here confidences and
    wrong (n,) must not come from the fit that made the confidences. The weights (n,), inverse propensities, repair a
    log that was not drawn evenly. Needs n ≥ 1/risk. Raises: ValueError where risk is outside (0, 1).
    """
    if not 0.0 < risk < 1.0:
        raise ValueError(f"risk is {risk}, expected in (0, 1)")
    weights = np.ones(len(confidences)) if weights is None else weights
    if len(confidences) == 0:
        return NEVER
    heaviest = float(weights.max())
    order = np.argsort(-confidences, kind="stable")
    lost = np.cumsum(np.where(wrong[order], weights[order], 0.0))
    bound = (lost + heaviest) / (float(weights.sum()) + heaviest)
    last_of_tie = np.append(np.diff(confidences[order]) != 0, True)
    fits = np.flatnonzero((bound <= risk) & last_of_tie)
    if len(fits) == 0:
        return NEVER
    return float(confidences[order][fits[-1]])


def selective_threshold(confidences: Float, wrong: NDArray[np.bool_], *, risk: float, miss: float) -> float:
    """The smallest τ that tests show to have P(wrong | confidence ≥ τ) ≤ risk; NEVER where none is shown.

    Learn then test (arXiv 2110.01052), in a fixed sequence. Thresholds are tried from the surest answer down, where
    enough answers lie above to show anything. The first that exact binomial tails do not reject ends the sequence. The
    share of data that yield a τ which does worse is at most `miss`. confidences and wrong (n,).

    Raises: ValueError where risk or miss is outside (0, 1).
    """
    if not (0.0 < risk < 1.0 and 0.0 < miss < 1.0):
        raise ValueError(f"risk is {risk} and miss is {miss}, expected both in (0, 1)")
    order = np.argsort(-confidences, kind="stable")
    sure, lost = confidences[order], np.cumsum(wrong[order])
    last_of_tie = np.flatnonzero(np.append(np.diff(sure) != 0, True))
    found, tried = NEVER, math.ceil(math.log(miss) / math.log1p(-risk))
    for place in last_of_tie.tolist():
        if place + 1 < tried:
            continue
        if _binomial_tail(place + 1, int(lost[place]), risk) > miss:
            break
        found, tried = float(sure[place]), math.ceil((place + 1) * STEP)
    return found


def _binomial_tail(n: int, k: int, p: float) -> float:
    """P(X ≤ k) of n draws with probability p."""
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k + 1)]
    return sum(math.exp(log + i * math.log(p) + (n - i) * math.log1p(-p)) for i, log in enumerate(logs))
