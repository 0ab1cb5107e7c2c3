"""Routers of other people as policies, for replays beside ours; fails with SettingsError where one is not installed."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from policies.estimators.linear import principal_directions
from policies.types import Estimates, Evidence, Float, Float32, History, Outcome, Proposal, RouteContext
from router.errors import SettingsError
from router.settings.extras import install_line

DIRECTIONS = 25  # principal directions the package uses by default
WARM_ROWS = 500  # history rows it learns from before the stream, every model's score on each


class ParetoBandit:
    """ParetoBandit (arXiv 2604.00136, PyPI `paretobandit`): LinUCB with forgetting and a primal-dual budget pacer.

    It is given a vector, one blended price a model and a budget a request, as it asks for. The price is the mean cost
    of an answer, taken as that of a thousand tokens. It hears each answer's cost. Raises: SettingsError.
    """

    def __init__(self, *, budget_usd: float, seed: int) -> None:
        try:
            import pareto_bandit  # noqa: PLC0415  # an extra: only replays compare
        except ImportError as error:
            raise SettingsError(f"ParetoBandit is not installed: {install_line(['paretobandit'])}") from error
        logging.getLogger("pareto_bandit").setLevel(logging.ERROR)  # it warns at every cold start
        self._package: Any = pareto_bandit
        self._budget_usd, self._seed = budget_usd, seed
        self._router: Any = None
        self._directions: Float32 = np.zeros((0, 0), np.float32)
        self._costs: dict[str, float] = {}

    def refit(self, history: History) -> None:
        """Make the router and let it learn from the last rows of history."""
        from pareto_bandit.budget_pacer import BudgetPacer  # noqa: PLC0415
        from pareto_bandit.feature_service import FeatureService  # noqa: PLC0415

        means = np.nanmean(history.costs, axis=0)
        self._costs = {arm.name: float(usd) for arm, usd in zip(history.arms, means, strict=True)}
        prices = {name: usd * 1e3 for name, usd in self._costs.items()}  # USD per million tokens
        self._router = self._package.BanditRouter.create(
            model_registry={name: {"input_cost_per_m": usd, "output_cost_per_m": usd} for name, usd in prices.items()},
            priors="none",
            feature_service=FeatureService.for_precomputed(DIRECTIONS + 1),
            budget_pacer=BudgetPacer(self._budget_usd) if np.isfinite(self._budget_usd) else None,
            bandit_seed=self._seed,
        )
        self._directions = principal_directions(history.embeddings, DIRECTIONS)
        for row in range(max(0, len(history.scores) - WARM_ROWS), len(history.scores)):
            vector = self._vector(history.embeddings[row])
            for column, arm in enumerate(history.arms):
                if not np.isnan(history.scores[row, column]):
                    self._router.update(arm.name, vector, float(history.scores[row, column]))

    def propose(self, context: RouteContext) -> Proposal:
        chosen, _ = self._router.route(self._vector(context.embedding), input_tokens=500, output_tokens=500)
        probabilities = np.array([float(arm.name == chosen) for arm in context.arms])
        costs = np.array([self._costs[arm.name] for arm in context.arms])
        unknown = np.full(len(costs), 0.5)
        expected = Estimates(unknown, unknown, costs)
        return Proposal(probabilities, expected, np.zeros(len(costs)), probabilities, Evidence(expected))

    def learn(self, outcome: Outcome) -> None:
        if not outcome.arm or np.isnan(outcome.score):
            return
        self._router.update(outcome.arm, self._vector(outcome.context.embedding), outcome.score)
        if self._router.budget_pacer is not None:
            self._router.budget_pacer.observe(outcome.cost)

    def _vector(self, embedding: Float32) -> Float:
        """(26,) projections and a bias."""
        return np.append(self._directions @ embedding, 1.0).astype(np.float64)
