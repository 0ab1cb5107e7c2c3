"""Quality from regressors and neighbours, weighted by how well each did on rows it had not seen; cost from charges."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.estimators.charges import Charges
from policies.estimators.cold_start import cold_start_arms, fit_cold_start, known_arms
from policies.estimators.derived import as_one, beside, families, parents
from policies.estimators.forest import Forest, column_means
from policies.estimators.kernel import KernelRidge
from policies.estimators.linear import principal_directions
from policies.estimators.mixture import Kinds, kinds_of, no_kinds
from policies.estimators.online import FARTHEST, NEAREST, SHRINKAGE, OnlineStack, Query
from policies.lazy_module import LazyModule
from policies.types import Arm, Estimates, Float, Float32, History

optimize = LazyModule("scipy.optimize")

FOLDS = 4
DIRECTIONS = 256  # principal directions of the embeddings that the kernel sees; fewer lose what is unlike the history


class Stack:
    """Kernel ridge, a forest and shrunk neighbours. Everything is fitted by fit() and only read afterwards."""

    def __init__(self) -> None:
        self.arms: tuple[str, ...] = ()
        self.kernel = make_kernel()
        self.forest = Forest(trees=60, depth=10, leaf=8, inputs=0.3)
        self.charges = Charges()
        self.means: Float = np.zeros(0)  # (M,)
        # (M, M) column m: the arms that q̂ of arm m is a mixture of; often itself
        self.mixture: Float = np.zeros((0, 0))
        self.offset: Float = np.zeros(0)  # (M,) added to that mixture
        self.tilt: Float32 = np.zeros((0, 0), np.float32)  # (p, M) by which a new arm deviates along smooth inputs;
        # its column of the kernel says what it does by groups of queries
        self.weights: Float = np.zeros(3)  # of kernel, forest and neighbours
        self.spread: Float = np.zeros(0)  # (M,) standard deviation of what the stack leaves
        self.charge_spread: Float = np.zeros(0)  # (M,) standard deviation of log(charge / expected)
        self.id_threshold = 0.0  # similarity below which a query is further out than nearly all of history
        self.usual = 0.0  # mean square of surface features above which it is
        self.directions: Float32 = np.zeros((0, 0), np.float32)  # (r, d) of the embeddings, for the kernel
        self.centre: Float32 = np.zeros(0, np.float32)  # (f,)
        self.scale: Float32 = np.zeros(0, np.float32)  # (f,)
        self._online: OnlineStack | None = None  # of what is fitted
        self._places: dict[str, int] = {}

    def fit(self, history: History, features: Float32) -> Estimates:
        """Fit on history (N rows) and return the rehearsal: what it would have expected of rows it had not seen."""
        new = cold_start_arms(history.scores)
        targets = np.where(new, np.nan, history.scores)
        self.arms = tuple(arm.name for arm in history.arms)
        weights = history.reliability
        self.means = column_means(targets, weights)
        self.centre, self.scale = features.mean(axis=0), features.std(axis=0) + np.float32(1e-6)
        rank = min(DIRECTIONS, history.embeddings.shape[1])
        self.directions = principal_directions(history.embeddings, rank)
        smooth = self.smooth_inputs(history.embeddings, features)
        self.usual = float(np.quantile(self._unusual(smooth), 0.99))
        rough = np.concatenate([history.embeddings, features], axis=1)
        kinds = kinds_of(smooth) if new.any() else no_kinds(smooth)
        by_kernel = out_of_fold(self.kernel, smooth, np.hstack([targets, kinds.groups]), weights)
        members = [
            by_kernel[:, : len(new)],
            out_of_fold(self.forest, rough, targets, weights),
            self._neighbours_of_history(history),
        ]
        self.weights = stack_weights(members, targets, self.means, weights)
        known = self._weigh(members)
        cost = self._fit_charges(history.arms, features, history.prompt_tokens, history.costs)
        here = np.hstack([by_kernel[:, len(new) :], smooth @ kinds.leading.T])
        usual = here.mean(axis=0)
        log_costs = np.log(np.maximum(cost.mean(axis=0), 1e-12))
        tilts = self._relate(known, history, new, log_costs, here - usual)
        quality = np.clip(known @ self.mixture + self.offset + (here - usual) @ tilts, 0.0, 1.0)
        self.spread = _spread(history.scores - quality, weights)
        self.kernel.fit(smooth, np.hstack([targets, kinds.groups]), weights)
        self._tilt(kinds, tilts, usual)
        self.forest.fit(rough, targets, weights)
        self._prepare()
        return Estimates(quality, np.broadcast_to(self.spread, quality.shape), cost)

    def _prepare(self) -> None:
        """What queries need of a fit."""
        self._online = OnlineStack(self)
        self._places = {name: place for place, name in enumerate(self.arms)}

    def columns(self, names: tuple[str, ...]) -> NDArray[np.intp] | None:
        """(n,) columns of these arms, -1 where nothing is fitted for one; None: all of them in order."""
        if names == self.arms:
            return None
        place = self._places.get
        return np.array([place(name, -1) for name in names], np.intp)

    def last_ood_score(self, embedding: Float32) -> float | None:
        """Of the query that expect_one() was last asked about, if this is its embedding."""
        return None if self._online is None else self._online.last_ood_score(embedding)

    def ood_score_one(self, query: Query) -> float:
        """In [0, 1): how far its surface features lie outside of what nearly all of history is like.

        Embeddings say little of it: whatever the text, some of history is near it in directions learned there.
        Raises: ValueError before a fit."""
        if self._online is None:
            raise ValueError("nothing was fitted yet")
        return self._online.ood_score(query)

    def expect_one(self, query: Query) -> Estimates:
        """(M,) each, in the order of `arms`. Raises: ValueError before a fit."""
        if self._online is None:
            raise ValueError("nothing was fitted yet")
        return self._online.expect(query)

    def place(self, embedding: Float32) -> Float32 | None:
        """(r,) where the embedding lies in `directions`, if it is the one that expect_one() was last asked about."""
        return None if self._online is None else self._online.place(embedding)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        parts = {"kernel": self.kernel.state(), "forest": self.forest.state(), "charges": self.charges.state()}
        own = {name: np.array(getattr(self, name)) for name in STACK_STATE} | {"arms": np.array(self.arms, np.str_)}
        return own | {f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        for name in STACK_STATE:
            setattr(self, name, np.array(state[name]))
        self.id_threshold, self.usual = float(self.id_threshold), float(self.usual)
        self.arms = tuple(str(name) for name in state["arms"])
        for part in ("kernel", "forest", "charges"):
            prefix = f"{part}."
            getattr(self, part).restore({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        self._prepare()

    def smooth_inputs(self, embeddings: Float32, features: Float32) -> Float32:
        """(n, p) what the kernel sees of embeddings (n, d) and surface features (n, f)."""
        scaled = np.clip((features - self.centre) / self.scale, -FARTHEST, FARTHEST)
        scaled *= np.float32(1.0 / np.sqrt(max(features.shape[1], 1)))  # all of them weigh what the unit embedding does
        return np.concatenate([embeddings @ self.directions.T, scaled], axis=1)

    def _unusual(self, smooth: Float32) -> Float:
        """(m,) mean squares of the surface features, each in standard deviations and at most FARTHEST."""
        scaled = smooth[:, len(self.directions) :]
        return np.asarray(np.einsum("ij,ij->i", scaled, scaled), np.float64)

    def _weigh(self, members: list[Float]) -> Float:
        weighed = [weight * member for weight, member in zip(self.weights, members, strict=True)]
        return np.asarray(sum(weighed, (1.0 - self.weights.sum()) * self.means))

    @property
    def new(self) -> NDArray[np.bool_]:
        """(M,) arms that are a mixture of the others."""
        return np.asarray(np.diag(self.mixture) == 0.0)

    def _relate(self, known: Float, history: History, new: NDArray[np.bool_], log_costs: Float, kinds: Float) -> Float:
        """Every established arm is itself, every new arm a mixture of these and (K, M) tilts by kind, as returned. An
        arm that is made of another is a mixture of that and itself.

        log_costs (M,) logs of mean costs; kinds (N, K) of each row.
        """
        self.mixture, self.offset = np.diag((~new).astype(np.float64)), np.zeros(len(new))
        tilts = np.zeros((kinds.shape[1], len(new)))
        self._derive(known, history, new)
        alone = self.mixture.sum(axis=0) == 0.0
        if not alone.any():
            return tilts
        others = known_arms(history.scores[:, ~new], known[:, ~new], kinds)
        made = {arm: parent for arm, parent in parents(history.arms, alone).items() if alone[arm]}
        for first, family in families(made, np.flatnonzero(alone).tolist()).items():
            scores, reliability = as_one(history, family, made)
            costs = np.append(log_costs[~new], log_costs[first])
            found = fit_cold_start(others, scores, costs, reliability)
            self.mixture[~new, first], tilts[:, first], self.offset[first] = found
        for arm, parent in made.items():
            expected = known @ self.mixture[:, parent] + self.offset[parent] + kinds @ tilts[:, parent]
            _, added = beside(history, arm, parent, expected, None)
            self.mixture[:, arm], tilts[:, arm] = self.mixture[:, parent], tilts[:, parent]
            self.offset[arm] = self.offset[parent] + added
        return tilts

    def _derive(self, known: Float, history: History, new: NDArray[np.bool_]) -> None:
        """Every arm made of another one is that one, plus what its own labels say, instead of the above."""
        mixture = self.mixture
        for arm, parent in parents(history.arms, ~new).items():
            expected = known @ mixture[:, parent] + self.offset[parent]
            share, added = beside(history, arm, parent, expected, None if new[arm] else known[:, arm])
            mixture[:, arm] = (1.0 - share) * mixture[:, parent]
            mixture[arm, arm] = share
            self.offset[arm] = (1.0 - share) * self.offset[parent] + added

    def _tilt(self, kinds: Kinds, tilts: Float, usual: Float) -> None:
        """Let columns of new arms expect kinds @ tilts (K, M), less what is usual (K,), instead of the kinds."""
        groups = kinds.groups.shape[1]
        self.tilt = np.asarray(kinds.leading.T @ tilts[groups:], np.float32)
        if groups:
            self.kernel.mix(np.vstack([np.diag(~self.new), tilts[:groups]]), -usual @ tilts)

    def _neighbours_of_history(self, history: History, k: int = 100) -> Float:
        """(N, M) what the neighbours of each row say of it, the row itself left out."""
        rows, k = len(history.embeddings), min(k, len(history.embeddings) - 1)
        found, near = np.empty(history.scores.shape), np.empty(rows)
        reliability = history.reliability
        for start in range(0, rows, 512):
            part = slice(start, min(start + 512, rows))
            similarity = history.embeddings[part] @ history.embeddings.T
            similarity[np.arange(part.stop - start), np.arange(start, part.stop)] = -np.inf
            best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
            close = -np.sort(-np.take_along_axis(similarity, best, axis=1), axis=1)
            order = np.take_along_axis(best, np.argsort(-np.take_along_axis(similarity, best, axis=1), axis=1), axis=1)
            found[part] = neighbour_means(close, history.scores[order], self.means, reliability[order])
            near[part] = close[:, :NEAREST].mean(axis=1)
        self.id_threshold = float(np.quantile(near, 0.01))
        return found

    def _fit_charges(self, arms: tuple[Arm, ...], features: Float32, tokens: NDArray[np.int64], costs: Float) -> Float:
        """(N, M) charges expected out of fold; the charges themselves are fitted on all rows."""
        parts, expected = folds(len(features)), np.zeros(costs.shape)
        for part in range(FOLDS):
            held = parts == part
            self.charges.fit(arms, features[~held], tokens[~held], costs[~held])
            expected[held] = self.charges.predict(features[held], tokens[held])
        self.charges.fit(arms, features, tokens, costs)
        seen = ~np.isnan(costs) & (expected > 0.0)  # of an arm that only rows left out know nothing is expected
        ratios = np.log(np.where(seen, np.maximum(costs, 1e-12), 1.0) / np.where(seen, expected, 1.0))
        self.charge_spread = np.sqrt((ratios**2).sum(axis=0) / np.maximum(seen.sum(axis=0), 1))
        return expected


STACK_STATE = (
    "means",
    "mixture",
    "offset",
    "tilt",
    "weights",
    "spread",
    "charge_spread",
    "id_threshold",
    "usual",
    "directions",
    "centre",
    "scale",
)


def neighbour_means(similarity: Float32, scores: Float, means: Float, reliability: Float | None = None) -> Float:
    """(m, M) from similarity (m, k) and scores (m, k, M), NaN where never observed, shrunk to means (M,).

    reliability (m, k) of the scores; None: one each.
    """
    weights = np.maximum(similarity, 0.0).astype(np.float64) ** 2 + 1e-3
    weights /= weights.mean(axis=1, keepdims=True)
    if reliability is not None:
        weights *= reliability
    rows = weights[:, None, :]
    total, weight = rows @ scores, weights.sum(axis=1)[:, None, None]
    if np.isnan(total).any():
        total, weight = rows @ np.fmax(scores, 0.0), rows @ (~np.isnan(scores)).astype(np.float64)
    return np.asarray((total + SHRINKAGE * means) / (weight + SHRINKAGE))[:, 0]


def make_kernel() -> KernelRidge:
    """The stack's, not fitted."""
    return KernelRidge(width=1.0, penalty=3.0, landmarks=640)


def _spread(residuals: Float, weights: Float) -> Float:
    """(M,) root mean square of residuals (n, M), by weights (n,); the mean of the others where an arm has none."""
    seen = ~np.isnan(residuals) * weights[:, None]
    squares = np.where(seen > 0.0, residuals, 0.0) ** 2 * seen
    overall = squares.sum() / max(float(seen.sum()), 1e-9)
    spread: Float = np.sqrt((squares.sum(axis=0) + overall) / (seen.sum(axis=0) + 1.0))
    return spread


def folds(rows: int) -> NDArray[np.int64]:
    """(rows,) which of FOLDS parts each row is held out in."""
    return np.random.default_rng(0).permutation(rows) % FOLDS


def stack_weights(members: list[Float], targets: Float, means: Float, reliability: Float) -> Float:
    """(members,) ≥ 0, least squares of targets − means on predictions − means over all observed cells, by reliability
    (n,) of the rows, sum ≤ 1."""
    seen = ~np.isnan(targets)
    columns = np.stack([(each - means)[seen] for each in members], axis=1)
    weighed = columns * np.broadcast_to(reliability[:, None], targets.shape)[seen][:, None]
    gram = weighed.T @ columns
    factor = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) * np.eye(len(gram)) + 1e-12 * np.eye(len(gram)))
    weights, _ = optimize.nnls(factor.T, np.linalg.solve(factor, weighed.T @ (targets - means)[seen]))
    return np.asarray(weights / max(1.0, float(weights.sum())))


def out_of_fold(member: KernelRidge | Forest, inputs: Float32, targets: Float, weights: Float) -> Float:
    """(N, M) predictions for every row by a fit that did not see it."""
    parts, expected = folds(len(inputs)), np.zeros(targets.shape)
    for part in range(FOLDS):
        held = parts == part
        member.fit(inputs[~held], targets[~held], weights[~held])
        expected[held] = member.predict(inputs[held])
    return expected
