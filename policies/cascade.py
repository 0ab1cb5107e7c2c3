"""Start small and escalate: an answer is returned where its signature is sure enough, else a dearer model is asked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.composed import masked, prices_of, spent
from policies.conformal import NEVER, risk_threshold
from policies.explorers.greedy import point
from policies.machine_pricing import routed
from policies.signature import WIDTH, Head
from policies.types import (
    Estimates,
    Estimator,
    Evidence,
    Float,
    History,
    LoggedContext,
    Outcome,
    Proposal,
    RouteContext,
    Snapshot,
)

KEPT = 2_000  # judged answers of each model that calibrate its threshold, a sliding window
ENOUGH = 50  # judged answers from which a threshold is set; before, every answer is returned
HEAVIEST = 20.0  # no inverse propensity counts more


class Calibration:
    """One model's judged answers, its head and the confidence from which its answers are returned."""

    def __init__(self) -> None:
        self.answers: Float = np.zeros((0, WIDTH + 2))  # signature, score, weight
        self.head = Head()
        self.threshold = -NEVER
        self.passes_right = self.passes_wrong = 1.0  # P(returned | right), P(returned | wrong)

    def add(self, signature: Float, score: float, weight: float) -> None:
        """One judged answer."""
        self.answers = np.vstack([self.answers, [*signature, score, weight]])[-KEPT:]

    def fit(self, *, risk: float, right_from: float) -> None:
        """Head and threshold, from what is kept; as before where that is too little.

        Where all are right or all are wrong there is nothing to tell apart: every answer is returned, or none.
        """
        right, weights = self.answers[:, -2] >= right_from, self.answers[:, -1]
        if len(right) < ENOUGH:
            return
        if right.all() or not right.any():
            self._take_alike(risk_threshold(np.zeros(len(right)), ~right, risk=risk, weights=weights) < NEVER)
            return
        head = Head()
        confidences = head.fit(self.answers[:, :WIDTH], right, weights)
        returned = confidences >= (threshold := risk_threshold(confidences, ~right, risk=risk, weights=weights))
        self.passes_right = float(np.average(returned[right], weights=weights[right]))
        self.passes_wrong = float(np.average(returned[~right], weights=weights[~right]))
        self.head, self.threshold = head, threshold

    def _take_alike(self, returned: bool) -> None:
        """Every answer is returned, or none is."""
        self.threshold = -NEVER if returned else NEVER
        self.passes_right = self.passes_wrong = float(returned)

    def state(self) -> dict[str, NDArray[np.generic]]:
        numbers = np.array([self.threshold, self.passes_right, self.passes_wrong])
        return {"answers": self.answers.copy(), "numbers": numbers, **self.head.state()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self.answers = np.array(state["answers"], np.float64)
        self.threshold, self.passes_right, self.passes_wrong = np.array(state["numbers"], np.float64).tolist()
        self.head.restore(state)


class Cascade:
    """Chooses where to start by what starting there is worth, escalations counted in; decides when to escalate.

    From the dearest arm down: V_i = q̂_i·P(returned | right) − price·ĉ_i + P(escalated)·V_next, where V_next is the
    best start among the dearer arms and the last arm always returns.
    """

    def __init__(self, estimator: Estimator, *, risk: float = 0.1, right_from: float = 0.5) -> None:
        if not 0.0 < risk < 1.0:
            raise ValueError(f"risk is {risk}, expected in (0, 1)")
        if not 0.0 < right_from <= 1.0:
            raise ValueError(f"right_from is {right_from}, expected in (0, 1]")
        self._estimator = estimator
        self._risk, self._right_from = risk, right_from
        self._calibrations: dict[str, Calibration] = {}

    def propose(self, context: RouteContext) -> Proposal:
        evidence = Evidence(expected := self._estimator.estimate(context))
        worth = self._worth(context, routed(context, expected), prices_of(context, evidence))
        return self.distribute(context, Evidence(expected, worth=worth))

    def distribute(self, context: LoggedContext, evidence: Evidence) -> Proposal:
        if evidence.worth is None:
            raise ValueError("the evidence is of another policy: a cascade logs what each start is worth")
        estimates = routed(context, evidence.expected)
        scores = masked(evidence.worth, spent(context, evidence.expected))
        return Proposal(point(scores, estimates.cost), estimates, prices_of(context, evidence), scores, evidence)

    def _worth(self, context: LoggedContext, estimates: Estimates, prices: Float) -> Float:
        """(n,) V of starting at each arm."""
        worth, following = np.zeros(len(context.arms)), 0.0
        for place, at in enumerate(np.argsort(-estimates.cost, kind="stable")):
            quality, price = estimates.quality[at], prices[at] * estimates.cost[at]
            known = self._calibrations.get(context.arms[at].name)
            if place == 0 or known is None:
                worth[at] = quality - price
            else:
                returned = quality * known.passes_right + (1 - quality) * known.passes_wrong
                worth[at] = quality * known.passes_right - price + (1 - returned) * following
            following = max(following, float(worth[at]))
        return worth

    def returns(self, arm: str, signature: Float) -> bool:
        """Whether an answer of this arm with this signature (12,) may be returned; False: ask a dearer arm."""
        known = self._calibrations.get(arm)
        return known is None or known.head.confidence(signature) >= known.threshold

    def confidence(self, arm: str, signature: Float) -> tuple[float, float]:
        """(P(right), how far to believe it as feedback, in [0, 1]); (0.5, 0) of an arm nobody judged."""
        known = self._calibrations.get(arm)
        return (0.5, 0.0) if known is None else (known.head.confidence(signature), known.head.reliability)

    def learn(self, outcome: Outcome) -> None:
        self._estimator.learn(outcome)
        if outcome.signature is None or np.isnan(outcome.score) or not outcome.arm:
            return
        weight = outcome.weight * min(1.0 / outcome.propensity, HEAVIEST)
        self._calibrations.setdefault(outcome.arm, Calibration()).add(outcome.signature, outcome.score, weight)

    def refit(self, history: History) -> None:
        self._estimator.refit(history)
        for known in list(self._calibrations.values()):
            known.fit(risk=self._risk, right_from=self._right_from)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        state: dict[str, NDArray[np.generic]] = {"arms": np.array(list(self._calibrations), np.str_)}
        for place, known in enumerate(self._calibrations.values()):
            state |= {f"arm{place}.{key}": value for key, value in known.state().items()}
        return state | {f"estimator.{key}": value for key, value in self._snapshot().state().items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._calibrations = {}
        for place, name in enumerate(state["arms"]):
            self._calibrations[str(name)] = known = Calibration()
            known.restore(_under(f"arm{place}.", state))
        self._snapshot().restore(_under("estimator.", state))

    def _snapshot(self) -> Snapshot:
        return self._estimator  # type: ignore[return-value]  # every estimator of the package can be stored


def _under(prefix: str, state: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
