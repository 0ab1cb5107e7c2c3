"""How sure an answer must be before a program returns it in place of asking the next arm, from judged answers.

Not a policy that chooses: it learns, is refitted and is stored as policies are, and tells a threshold with a bounded
risk. Answers that were returned by chance alone weigh 1 / that chance, so that the threshold judges all answers and
not only those it let through.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.conformal import NEVER, risk_threshold
from policies.signature import FEATURES, WIDTH, Head
from policies.types import Evidence, Float, History, LoggedContext, Outcome, Proposal, RouteContext

KEPT = 2_000  # judged answers of each arm that calibrate its threshold, a sliding window
ENOUGH = 50  # judged answers from which a threshold is set; before, the answer's own probabilities are believed
RIGHT_FROM = 0.5  # a score
MEAN_LOGPROB = FEATURES.index("mean_logprob")


def believed(signature: Float, *, risk: float) -> bool:
    """Whether the geometric mean of an answer's token probabilities is at least 1 − risk / 2."""
    return bool(np.exp(signature[MEAN_LOGPROB]) >= 1.0 - risk / 2.0)


class Calibration:
    """One arm's judged answers, its head and how sure the head was of each, told by the others."""

    def __init__(self) -> None:
        self.answers: Float = np.zeros((0, WIDTH + 2))  # signature, score, weight
        self.fitted: Float = np.zeros((0, 3))  # of those at the last refit: confidence, wrong, weight
        self.head = Head()
        self._thresholds: dict[float, float] = {}  # by risk, of what is fitted

    def add(self, signature: Float, score: float, weight: float) -> None:
        """One judged answer."""
        self.answers = np.vstack([self.answers, [*signature, score, weight]])[-KEPT:]

    def fit(self) -> None:
        """From what is kept; as before where that is too little. Where all are right, or all wrong, all are alike."""
        right, weights = self.answers[:, -2] >= RIGHT_FROM, self.answers[:, -1]
        if len(right) < ENOUGH:
            return
        head, confidences = Head(), np.full(len(right), float(right[0]))
        if right.any() and not right.all():
            confidences = head.fit(self.answers[:, :WIDTH], right.astype(np.float64), weights)
            self.head = head
        self.fitted = np.stack([confidences, (~right).astype(np.float64), weights], axis=1)
        self._thresholds = {}

    def returns(self, signature: Float, *, risk: float) -> bool:
        """Whether an answer with this signature (f,) may be returned at this risk."""
        if not len(self.fitted):
            return believed(signature, risk=risk)
        if risk not in self._thresholds:
            self._thresholds[risk] = self._threshold(risk)
        threshold = self._thresholds[risk]
        return threshold == -NEVER or (threshold < NEVER and self.head.confidence(signature) >= threshold)

    def _threshold(self, risk: float) -> float:
        """How sure is sure enough: -NEVER for every answer."""
        confidences, wrong, weights = self.fitted.T
        threshold = risk_threshold(confidences, wrong > 0, risk=risk, weights=weights)
        alike = bool((wrong == wrong[0]).all())
        return -NEVER if alike and threshold < NEVER else threshold

    def state(self) -> dict[str, NDArray[np.generic]]:
        return {"answers": self.answers.copy(), "fitted": self.fitted.copy(), **self.head.state()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self.answers = np.array(state["answers"], np.float64)
        self.fitted = np.array(state["fitted"], np.float64)
        self.head.restore(state)
        self._thresholds = {}


class Escalation:
    """A calibration for each arm of each program that escalates."""

    def __init__(self) -> None:
        self._calibrations: dict[str, Calibration] = {}

    def returns(self, program: str, arm: str, signature: Float, *, risk: float) -> bool:
        """Whether this arm's answer may be returned; False: ask the next."""
        known = self._calibrations.get(f"{program} {arm}")
        return believed(signature, risk=risk) if known is None else known.returns(signature, risk=risk)

    def learn(self, outcome: Outcome) -> None:
        if outcome.signature is None or np.isnan(outcome.score) or not outcome.answered:
            return
        weight = outcome.weight / outcome.returned
        known = self._calibrations.setdefault(f"{outcome.arm} {outcome.answered}", Calibration())
        known.add(outcome.signature, outcome.score, weight)

    def refit(self, history: History) -> None:
        for known in list(self._calibrations.values()):
            known.fit()

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        state: dict[str, NDArray[np.generic]] = {"arms": np.array(list(self._calibrations), np.str_)}
        for place, known in enumerate(self._calibrations.values()):
            state |= {f"arm{place}.{key}": value for key, value in known.state().items()}
        return state

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._calibrations = {}
        for place, name in enumerate(state["arms"]):
            self._calibrations[str(name)] = known = Calibration()
            prefix = f"arm{place}."
            known.restore({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})

    def propose(self, context: RouteContext) -> Proposal:
        """Raises: ValueError, always."""
        raise ValueError("escalation chooses no model: it is part of programs of the kind escalate")

    def distribute(self, context: LoggedContext, evidence: Evidence) -> Proposal:
        """Raises: ValueError, always."""
        raise ValueError("escalation chooses no model: it is part of programs of the kind escalate")
