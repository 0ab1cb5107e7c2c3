"""Thresholds with a bounded risk: how sure to be before an answer is returned instead of escalated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.types import Float

NEVER = float("inf")


def risk_threshold(confidences: Float, wrong: NDArray[np.bool_], *, risk: float, weights: Float | None = None) -> float:
    """The smallest τ with (Σ w·[wrong and confidence ≥ τ] + w_max) / (Σ w + w_max) ≤ risk; NEVER where there is none.

    Conformal risk control (arXiv 2208.02814) for the loss "a wrong answer was returned": on exchangeable answers the
    expected share of wrong answers among all that this threshold lets through is at most `risk`. confidences and wrong
    (n,) must not come from the fit that made the confidences; weights (n,), inverse propensities, repair a log that was
    not drawn evenly. Needs n ≥ 1/risk. Raises: ValueError where risk is outside (0, 1).
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
