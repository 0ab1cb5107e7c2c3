"""How stored answers were judged, by whoever got them; the log alone decides. Nothing here waits or reads the world."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.records import DecisionRecord, Feedback
from policies.stored_answers import is_stored

ANSWER, MADE_BY = "answer", "made_by"  # keys in a decision's metadata: of an answer, and of the decision that made it
MOST = 50_000  # answers whose judgements are remembered
FAILED = 0.5  # below which an answer is given to nobody again
NOBODY = (0.0, 0.0, float("inf"))


class AnswerJudgements:
    """Follows judgements. State: the sums of each answer's, by the decision that made it."""

    def __init__(self) -> None:
        # by answer: weights, weights times scores, and the lowest score that a person gave
        self._sums: OrderedDict[str, tuple[float, float, float]] = OrderedDict()

    def judged(self, record: DecisionRecord, entry: Feedback) -> bool:
        """Take in one judgement; whether it was of a stored answer, and says nothing of a model."""
        again = is_stored(record.context, record.model)
        if ANSWER in record.metadata:
            made_by = record.metadata.get(MADE_BY, "") if again else record.decision_id
            weight, total, lowest = self._sums.pop(made_by, NOBODY)
            lowest = min(lowest, entry.score) if entry.source == "user" else lowest
            self._sums[made_by] = weight + entry.reliability, total + entry.reliability * entry.score, lowest
            while len(self._sums) > MOST:
                self._sums.popitem(last=False)
        return again

    def mean(self, made_by: str) -> float | None:
        """Of the judgements of an answer; None where nobody judged it."""
        weight, total, _ = self._sums.get(made_by, NOBODY)
        return total / weight if weight > 0.0 else None

    def failed(self, made_by: str) -> bool:
        """Whether a person found it wrong, or nobody did anything else."""
        mean, lowest = self.mean(made_by), self._sums.get(made_by, NOBODY)[2]
        return lowest < FAILED or (mean is not None and mean < FAILED)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        """For a snapshot."""
        return {
            "answers": np.array(list(self._sums), np.str_),
            "sums": np.array(list(self._sums.values()), np.float64).reshape(-1, 3),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Inverse of state(). Raises: KeyError, ValueError."""
        pairs = zip(state["answers"], state["sums"], strict=True)
        self._sums = OrderedDict((str(name), (float(a), float(b), float(c))) for name, (a, b, c) in pairs)
