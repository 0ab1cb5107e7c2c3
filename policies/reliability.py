"""How far each source of judgements is believed: the share of the truth's variance that its judgements explain.

It is learned on answers that a source judged and a better one judged too, a person or a known answer. A verdict is read
as the truth that is expected given it, by least squares, so that a lenient judge flatters nobody. Several sources on
one answer count by the precision that such a share stands for, ρ / (1 − ρ), as independent Gaussian readings.
Arithmetic only; fails nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MOST_BELIEVED = 0.98  # of a source that is no person
WINDOW = 2_000.0  # pairs remembered of each source, the latest most
PRIOR_PAIRS = 10.0  # that what is believed of an unknown source is worth
PRIOR = 0.3  # the share of variance that an unknown judge is believed to explain
CALIBRATED_FROM = 30.0  # pairs at which a verdict counts half as it is, half as what it was worth
MOST_SOURCES = 1_000  # whichever was compared longest ago is forgotten first
MOST_INVERSE = 4.0  # no verdict counts more than so many usual ones for having been unlikely to be asked for
Judgement = tuple[float, float]  # score and reliability, both in [0, 1]


def combined(judgements: Sequence[Judgement]) -> Judgement:
    """(score, reliability) of several sources on one answer. Raises: ValueError where there is none."""
    if not judgements:
        raise ValueError("nobody judged this answer")
    if len(judgements) == 1:
        return judgements[0]
    precision = [believed / (1.0 - believed) for _, each in judgements for believed in (min(each, MOST_BELIEVED),)]
    total = sum(precision)
    score = sum([p * score for p, (score, _) in zip(precision, judgements, strict=True)]) / total
    return score, total / (1.0 + total)


class SourceReliability:
    """Weighted moments of verdicts and truths by source, and how likely its verdicts were asked for."""

    def __init__(self) -> None:
        self._moments: dict[str, NDArray[np.float64]] = {}  # (7,): w, wx, wy, wxx, wyy, wxy, ww
        self._asked: dict[str, NDArray[np.float64]] = {}  # (2,): verdicts, 1 / P summed

    def asked(self, source: str, propensity: float) -> float:
        """What a verdict that was asked for with this probability counts, beside the usual one of its source: the
        inverse over the mean inverse, at most MOST_INVERSE."""
        known = _kept(self._asked, source, 2) * (1.0 - 1.0 / WINDOW) + np.array([1.0, 1.0 / propensity])
        weight = (1.0 / propensity) * known[0] / known[1]
        self._asked[source] = known
        return float(min(weight, MOST_INVERSE))

    def compared(self, source: str, verdict: float, truth: float, *, weight: float = 1.0) -> None:
        """A better source judged the same answer; the verdict counts by `weight`, see asked()."""
        seen = np.array([1.0, verdict, truth, verdict * verdict, truth * truth, verdict * truth, weight])
        self._moments[source] = _kept(self._moments, source, 7) * (1.0 - 1.0 / WINDOW) + weight * seen

    def of(self, source: str) -> float:
        """In (0, 1): the share of the truth's variance that its verdicts explain."""
        found = self._spread(source)
        if found is None:
            return PRIOR
        pairs, _, _, verdicts, truths, both = found
        share = both * both / (verdicts * truths) if verdicts * truths > 0.0 and both > 0.0 else 0.0
        weight = (pairs * share + PRIOR_PAIRS * PRIOR) / (pairs + PRIOR_PAIRS)
        return float(min(max(weight, 0.001), MOST_BELIEVED))

    def calibrated(self, source: str, verdict: float) -> float:
        """The truth expected given this verdict, in [0, 1]; the verdict itself while little is known of the source."""
        found = self._spread(source)
        if found is None:
            return verdict
        pairs, middle, truth, verdicts, _, both = found
        slope = max(both / verdicts, 0.0) if verdicts > 1e-6 else 0.0
        moved = min(max(truth + slope * (verdict - middle), 0.0), 1.0)
        known = pairs / (pairs + CALIBRATED_FROM)
        return float(known * moved + (1.0 - known) * verdict)

    def _spread(self, source: str) -> tuple[float, float, float, float, float, float] | None:
        """(effective pairs, mean verdict, mean truth, their variances, covariance); None of a source never compared."""
        found = self._moments.get(source)
        if found is None:
            return None
        total, *sums, squares = found.tolist()
        x, y, xx, yy, xy = (each / total for each in sums)
        return total * total / squares, x, y, max(xx - x * x, 0.0), max(yy - y * y, 0.0), xy - x * y

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        """Arrays that restore() turns back into this exact state."""
        found: dict[str, NDArray[np.generic]] = {}
        for key, rows, width in (("moments", self._moments, 7), ("asked", self._asked, 2)):
            found[f"{key}.sources"] = np.array(list(rows), np.str_)
            found[key] = np.array(list(rows.values()), np.float64).reshape(-1, width)
        return found

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Inverse of state(). Raises: ValueError, KeyError where it is of another shape."""
        self._moments, self._asked = _rows(state, "moments", 7), _rows(state, "asked", 2)


def _kept(rows: dict[str, NDArray[np.float64]], source: str, width: int) -> NDArray[np.float64]:
    """What is known of a source, taken out so that it comes last; room is made for a new one."""
    if source not in rows and len(rows) >= MOST_SOURCES:
        del rows[next(iter(rows))]
    return rows.pop(source, np.zeros(width))


def _rows(state: Mapping[str, NDArray[np.generic]], key: str, width: int) -> dict[str, NDArray[np.float64]]:
    rows = np.array(state[key], np.float64).reshape(-1, width)
    return {str(name): row.copy() for name, row in zip(state[f"{key}.sources"].tolist(), rows, strict=True)}
