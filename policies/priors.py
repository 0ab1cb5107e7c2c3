"""What to expect of a model nobody has measured: quality from its size and width, wide enough to be overruled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from policies.types import Arm, Float

QUALITY_SIGMA = 0.2  # nobody measured it: Sloth's errors (0.04–0.10) hold within known families and benchmarks only
MEASURED_SIGMA = 0.1  # measured, but on other queries
WIDTH_SIGMA = 0.1  # the parent was measured, the width was not
UNKNOWN = 0.5
SLOPE = 0.25  # logit of quality per doubling of weights, a cautious reading of size laws
REFERENCE_PARAMETERS = 8e9


def width_offset(bits: float | None) -> float:
    """Quality lost by a width below 16 bits, ≥ 0: 0.08 at 3 bits, halved by every bit more."""
    if bits is None or bits >= 16:
        return 0.0
    return float(min(0.4, 0.08 * 2.0 ** (3 - bits)))


def size_quality(parameters: float | None) -> float:
    """Quality in (0, 1) from the number of weights: a logistic in log₂ size, one half at 8 billion."""
    if parameters is None or parameters <= 0:
        return UNKNOWN
    return float(1.0 / (1.0 + np.exp(-SLOPE * np.log2(parameters / REFERENCE_PARAMETERS))))


def quality_prior(arm: Arm, known: Mapping[str, float] | None = None) -> tuple[float, float]:
    """(mean, standard deviation) of an arm's quality; `known` holds measured means by name, for its parent."""
    if arm.quality is not None:
        return arm.quality, MEASURED_SIGMA
    parent = (known or {}).get(arm.parent or "")
    if parent is not None:
        return max(0.0, parent - width_offset(arm.bits)), WIDTH_SIGMA
    return max(0.0, size_quality(arm.parameters) - width_offset(arm.bits)), QUALITY_SIGMA


def quality_priors(arms: Sequence[Arm], known: Mapping[str, float] | None = None) -> tuple[Float, Float]:
    """(means (n,), standard deviations (n,)) for these arms."""
    pairs = np.array([quality_prior(arm, known) for arm in arms], dtype=np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
