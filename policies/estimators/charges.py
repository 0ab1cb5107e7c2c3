"""What an answer will cost: prompt tokens at list price and a predicted completion, or a predicted charge."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.estimators.cold_start import cold_start_arms
from policies.estimators.forest import Forest
from policies.estimators.forest_traversal import Trees
from policies.types import Arm, Float, Float32

AT_LIST = 4.0  # answers that the usual price of an arm whose charge varies counts for


class Charges:
    """Log-linear in the surface of the prompt, and trees on what that leaves; unbiased in the mean, not the log.

    An arm with list prices is charged its prompt tokens exactly and its predicted completion tokens; for an arm
    without, or whose charge varies, the whole charge is predicted.
    """

    def __init__(self, *, trees: int = 20, depth: int = 8, leaf: int = 5) -> None:
        self._forest = Forest(trees=trees, depth=depth, leaf=leaf, inputs=0.5)
        self._centre: Float = np.zeros(0)  # (p,)
        self._slopes: Float = np.zeros((0, 0))  # (p, M)
        self._offset: Float = np.zeros(0)  # (M,), what makes the mean right included
        self._prices: Float = np.zeros((0, 2))  # (M, 2) USD per prompt and completion token; zero where unlisted

    def fit(self, arms: tuple[Arm, ...], inputs: Float32, prompt_tokens: NDArray[np.int64], costs: Float) -> None:
        """inputs (n, p) surface features; prompt_tokens (n,); costs (n, M) USD, NaN where never observed."""
        prices = np.array([(arm.prompt_price, arm.completion_price) for arm in arms]).reshape(-1, 2)
        varying = np.array([arm.varies for arm in arms], np.bool_)
        self._prices = np.where(varying[:, None], 0.0, prices)
        logs = self._likened(self._logs(prompt_tokens, costs))
        self._liken_varying(logs, prompt_tokens, prices, varying)
        self._centre = inputs.mean(axis=0, dtype=np.float64)
        self._regress(inputs - self._centre, logs)
        residuals = logs - self._linear(inputs)
        self._forest.fit(inputs, residuals)
        left = residuals - self._forest.predict(inputs)
        seen = ~np.isnan(left)
        smeared = np.where(seen, np.exp(np.where(seen, left, 0.0)), 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        self._offset = self._offset + np.where(smeared > 0, np.log(np.maximum(smeared, 1e-12)), 0.0)

    def predict(self, inputs: Float32, prompt_tokens: NDArray[np.int64]) -> Float:
        """(m, M) USD for inputs (m, p) and prompt tokens (m,)."""
        level = np.exp(self._linear(inputs) + self._forest.predict(inputs))
        prompt, completion = self._prices.T
        listed = np.outer(prompt_tokens, prompt) + completion * np.maximum(level - 1.0, 0.0)
        return np.asarray(np.where(completion > 0, listed, level))

    @property
    def trees(self) -> Trees:
        """The forest's arrays, for a ForestTraversal."""
        return self._forest.trees

    def online(self) -> OnlineCharge:
        """predict() for one query whose trees somebody else walks."""
        return OnlineCharge(self._slopes, self._offset - self._centre @ self._slopes, *self._prices.T)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        own = {name: getattr(self, f"_{name}").copy() for name in CHARGES_STATE}
        return own | {f"forest.{name}": value for name, value in self._forest.state().items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        for name in CHARGES_STATE:
            setattr(self, f"_{name}", np.array(state[name]))
        self._forest.restore({k.removeprefix("forest."): v for k, v in state.items() if k.startswith("forest.")})

    def _logs(self, prompt_tokens: NDArray[np.int64], costs: Float) -> Float:
        """(n, M) log of completion tokens + 1 where listed, of the charge where not."""
        prompt, completion = self._prices.T
        tokens = (costs - np.outer(prompt_tokens, prompt)) / np.where(completion > 0, completion, 1.0)
        return np.log(np.where(completion > 0, np.maximum(tokens, 0.0) + 1.0, np.maximum(costs, 1e-12)))

    def _likened(self, logs: Float) -> Float:
        """(n, M) logs. A new arm's gaps are filled by the row's mean over like arms and the arm's distance to that.
        Where no row knows both, as in a log with one answer a row, it is the distance to their mean."""
        new, listed = cold_start_arms(logs), self._prices[:, 1] > 0
        filled, seen = logs.copy(), ~np.isnan(logs)
        for arm in np.flatnonzero(new):
            like = ~new & (listed == listed[arm])
            near = seen[:, like].any(axis=1)  # (n,) whether a like arm answered
            if not near.any():
                continue
            usual = np.nanmean(logs[np.ix_(near, like)], axis=1)
            both, own = seen[near, arm], logs[seen[:, arm], arm]
            distances = (logs[near, arm] - usual)[both] if both.any() else own - usual.mean()
            filled[near, arm] = np.where(both, logs[near, arm], usual + (distances.mean() if len(distances) else 0.0))
        return filled

    def _liken_varying(
        self, logs: Float, prompt_tokens: NDArray[np.int64], prices: Float, varying: NDArray[np.bool_]
    ) -> None:
        """Fills the gaps in logs (n, M) of new arms whose charge varies: the row's tokens at their usual prices, times
        what they were found to charge of that."""
        new, reported = cold_start_arms(logs), logs[:, self._prices[:, 1] > 0]
        near = ~np.isnan(reported).all(axis=1)
        if not near.any():
            return
        tokens = np.full(len(logs), np.nan)
        tokens[near] = np.expm1(np.nanmean(reported[near], axis=1))
        tokens[~near] = tokens[near].mean()
        for arm in np.flatnonzero(new & varying):
            usual = np.log(np.maximum(prices[arm, 0] * prompt_tokens + prices[arm, 1] * tokens, 1e-12))
            own = ~np.isnan(logs[:, arm])
            found = (logs[own, arm] - usual[own]).sum() / (own.sum() + AT_LIST)
            logs[:, arm] = np.where(own | ~near, logs[:, arm], usual + found)

    def _regress(self, centred: Float, logs: Float) -> None:
        self._slopes = np.zeros((centred.shape[1], logs.shape[1]))
        self._offset = np.zeros(logs.shape[1])
        for column, target in enumerate(logs.T):
            rows = ~np.isnan(target)
            if not rows.any():
                continue
            inputs = centred[rows]
            gram = inputs.T @ inputs
            gram[np.diag_indices_from(gram)] += 1.0 + 1e-4 * np.diag(gram)
            self._offset[column] = target[rows].mean()
            self._slopes[:, column] = np.linalg.solve(gram, inputs.T @ (target[rows] - self._offset[column]))

    def _linear(self, inputs: Float32) -> Float:
        return np.asarray((inputs - self._centre) @ self._slopes + self._offset)


class OnlineCharge:
    """Charges.predict() for one query, given what the trees say."""

    def __init__(self, slopes: Float, offset: Float, prompt: Float, completion: Float) -> None:
        """slopes (p, M), offset (M,), list prices (M,) in USD, zero where unlisted."""
        self._slopes, self._offset = slopes, offset
        self._prompt, self._completion = prompt, completion
        listed = completion > 0
        self._listed = listed if bool(listed.any()) else None
        self._all_listed = bool(listed.all())

    def expect(self, inputs: Float32, left: Float32, prompt_tokens: int) -> Float:
        """(M,) USD for inputs (p,), what the trees say of the logarithm (M,) and prompt tokens."""
        level: Float = inputs @ self._slopes
        level += self._offset
        level += left
        np.exp(level, out=level)
        if self._listed is None:
            return level
        listed = level - 1.0
        np.maximum(listed, 0.0, out=listed)
        listed *= self._completion
        listed += prompt_tokens * self._prompt
        return listed if self._all_listed else np.where(self._listed, listed, level)


CHARGES_STATE = ("centre", "slopes", "offset", "prices")
