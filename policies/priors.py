"""What to expect of a model nobody has measured: quality from its size and width, wide enough to be overruled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from policies.types import Arm, Float

QUALITY_SIGMA = 0.2  # nobody measured it: Sloth's errors (0.04–0.10) hold within known families and benchmarks only
MEASURED_SIGMA = 0.1  # measured, but on other queries
FORETOLD_SIGMA = 0.15  # families left out lie off by 0.06 a task (research.size_laws); other tasks lie further
LOSS_SLOPE, LOSS_BEND = 1.75, 0.01  # of width_loss
WIDTH_SIGMA = 0.1  # the parent was measured, the width was not
UNKNOWN = 0.5
SLOPE = 0.25  # logit of quality per doubling of weights, a cautious reading of size laws
REFERENCE_PARAMETERS = 8e9


def width_offset(bits: float | None) -> float:
    """Quality lost by a width below 16 bits, ≥ 0: 0.08 at 3 bits, halved by every bit more."""
    if bits is None or bits >= 16:
        return 0.0
    return float(min(0.4, 0.08 * 2.0 ** (3 - bits)))


def width_loss(distance: float) -> float:
    """Quality lost by a width whose next token is, on calibration text, drawn otherwise than the widest's so often.

    Fitted on the packaged family, where it lies within 2 points at every width (`python -m benchmarks.width_losses`).
    Small differences fall on tokens that do not matter, large ones reach the answer.
    """
    return float(min(1.0, LOSS_SLOPE * distance * distance / (distance + LOSS_BEND)))


def size_quality(parameters: float | None) -> float:
    """Quality in (0, 1) from the number of weights: a logistic in log₂ size, one half at 8 billion."""
    if parameters is None or parameters <= 0:
        return UNKNOWN
    return float(1.0 / (1.0 + np.exp(-SLOPE * np.log2(parameters / REFERENCE_PARAMETERS))))


def quality_prior(arm: Arm, known: Mapping[str, float] | None = None) -> tuple[float, float]:
    """(mean, standard deviation) of an arm's quality; `known` holds measured means by name, for its parent."""
    if arm.quality is not None:
        return arm.quality, MEASURED_SIGMA
    lost = width_offset(arm.bits) if arm.width_loss is None else arm.width_loss
    parent = (known or {}).get(arm.parent or "")
    if parent is not None:
        return max(0.0, parent - lost), WIDTH_SIGMA
    if arm.foretold is not None:
        return max(0.0, arm.foretold - lost), FORETOLD_SIGMA
    return max(0.0, size_quality(arm.parameters) - lost), QUALITY_SIGMA


def quality_priors(arms: Sequence[Arm], known: Mapping[str, float] | None = None) -> tuple[Float, Float]:
    """(means (n,), standard deviations (n,)) for these arms."""
    pairs = np.array([quality_prior(arm, known) for arm in arms], dtype=np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
