"""How good a new arm is altogether, by item response: what a prompt was to the known arms weighs its label.

A right answer where all others were right says little, and one where they disagreed says much. The logit of an arm's
expected score is a + b · difficulty expected from the text + c · luck of the others on the same prompt. What a, b and c
may be is learned from the known arms, each described by the others (after Rasch and Birnbaum, with partial scores).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.types import Float

COMMON = 3  # coefficients that arms share a prior for: level, difficulty, luck; then one for the luck of each known arm
LEAST_CHANCE = 0.02  # that an expected score keeps to 0 and 1
CALM = 0.25  # answers without luck, added to the others'
COST_NUGGET = 1.0  # squared log cost added to the regression of levels on it: arms that cost alike say nothing of it
NUGGET = 0.02  # variance that every common coefficient keeps, however alike the known arms are
VAGUE = (0.01, 2.0)  # prior precision of common coefficients and of single lucks where a known arm is described
ALONE = 0.25  # variance of level and difficulty where no differences are known; a single arm's luck is its own
LEAST_PULL = 1e-3  # variance of a single arm's luck
LEAST_DISPERSION = 0.5  # a partial score tells no more than two coins: how it bends near 0 and 1 is only guessed
MOST_ROWS = 5_000  # that describe a known arm
STEPS = 12  # of Newton's method
HALVINGS = 12  # of one step, at most


@dataclass(frozen=True, slots=True)
class Population:
    """What the coefficients of an arm may be before any label."""

    mean: Float  # (3,)
    covariance: Float  # (3, 3)
    pull: float  # variance of the coefficient of a single arm's luck
    dispersion: float  # variance of a score over that of a coin with the same mean, ≤ 1


def new_level(
    known: Float,
    expected: Float,
    scores: Float,
    log_costs: Float | None = None,
    reliability: Float | None = None,
) -> tuple[float, float]:
    """(mean score of a new arm over all n prompts, its variance).

    known        (n, E) scores of the known arms, NaN where not observed
    expected     (n, E) what was expected of the known arms, unbiased
    scores       (n,) of the new arm, NaN where not labelled
    log_costs    (E + 1,) logarithms of mean costs, the new arm's last, or None where costs say nothing
    reliability  (n,) of the labels, None: one each
    """
    mean, precision, dispersion = prior_of(known, expected, log_costs)
    inputs, rows = described(known, expected), np.flatnonzero(~np.isnan(scores))
    spread = np.full(len(rows), dispersion) if reliability is None else dispersion / reliability[rows]
    belief, covariance = _posterior(inputs[rows], scores[rows], mean, precision, spread)
    chance = chance_of(inputs @ belief)
    moves = (inputs * (chance * (1.0 - chance))[:, None]).mean(axis=0)
    return float(chance.mean()), float(moves @ covariance @ moves)


def prior_of(known: Float, expected: Float, log_costs: Float | None = None) -> tuple[Float, Float, float]:
    """(mean (3 + E,), precision (3 + E, 3 + E), dispersion) of what a new arm has on described(), before labels."""
    prior, single = _population(known, expected, log_costs), known.shape[1]
    mean, precision = np.zeros(COMMON + single), np.zeros((COMMON + single,) * 2)
    mean[:COMMON], precision[:COMMON, :COMMON] = prior.mean, np.linalg.inv(prior.covariance)
    precision[COMMON:, COMMON:] = np.eye(single) / prior.pull
    return mean, precision, prior.dispersion


def described(known: Float, expected: Float) -> Float:
    """(n, 3 + E): one, difficulty expected, the others' luck on it in logits, then how each one's luck differs."""
    luck = known - expected
    seen = ~np.isnan(luck)
    luck = np.where(seen, luck, 0.0)
    difficulty = expected.mean(axis=1)
    shared = luck.sum(axis=1) / (seen.sum(axis=1) + CALM)
    usual = luck.sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    logit = logit_of(difficulty)
    common = [np.ones(len(known)), logit, logit_of(difficulty + shared) - logit]
    return np.hstack([np.stack(common, axis=1), np.where(seen, luck - usual[:, None], 0.0)])


def _population(known: Float, expected: Float, log_costs: Float | None) -> Population:
    """From the known arms, each described by the others; what more expensive arms are better by moves the mean."""
    arms = known.shape[1]
    if arms == 1 or np.isnan(known).all():
        return Population(np.array([0.0, 1.0, 0.0]), np.diag([ALONE, ALONE, NUGGET]), LEAST_PULL, 1.0)
    some = np.unique(np.linspace(0, len(known) - 1, min(len(known), MOST_ROWS)).astype(np.intp))
    found = [_known_arm(known[some], expected[some], arm) for arm in range(arms)]
    coefficients = np.array([belief[:COMMON] for belief, _ in found])
    mean, left, degrees = coefficients.mean(axis=0), coefficients - coefficients.mean(axis=0), arms - 1.0
    if log_costs is not None:
        apart = log_costs[:-1] - log_costs[:-1].mean()
        squares = apart @ apart + COST_NUGGET
        slope = apart @ left[:, 0] / squares
        mean[0] += slope * (log_costs[-1] - log_costs[:-1].mean())
        left[:, 0] -= slope * apart
        degrees -= (squares - COST_NUGGET) / squares
    covariance = left.T @ left / max(degrees, 1.0) * (1.0 + 1.0 / arms) + NUGGET * np.eye(COMMON)
    pull = np.mean([np.mean(belief[COMMON:] ** 2) for belief, _ in found])
    return Population(mean, covariance, max(float(pull), LEAST_PULL), float(np.mean([each for _, each in found])))


def _known_arm(known: Float, expected: Float, arm: int) -> tuple[Float, float]:
    """(coefficients (2 + E,), dispersion) of a known arm, described by the others."""
    others = np.arange(known.shape[1]) != arm
    seen = ~np.isnan(known[:, arm])
    inputs, scores = described(known[:, others], expected[:, others])[seen], known[seen, arm]
    vague = np.full(inputs.shape[1], VAGUE[1])
    vague[:COMMON] = VAGUE[0]
    start = np.zeros(inputs.shape[1])
    start[1:COMMON] = 1.0
    belief, _ = _posterior(inputs, scores, start, np.diag(vague), np.ones(len(scores)))
    chance = chance_of(inputs @ belief)
    coin = float((chance * (1.0 - chance)).sum())
    dispersion = float(((scores - chance) ** 2).sum()) / max(coin, 1e-9)
    return belief, min(1.0, max(LEAST_DISPERSION, dispersion))


def _posterior(inputs: Float, scores: Float, mean: Float, precision: Float, dispersion: Float) -> tuple[Float, Float]:
    """(most likely coefficients (p,), their covariance) of a logistic regression with this prior, by Newton's method.

    inputs (n, p); scores (n,) in [0, 1], whose variance is `dispersion` (n,) times a coin's. A step is halved until it
    leads upwards: far from the summit whole ones go to and fro over it.
    """

    def height(at: Float) -> float:
        logit, off = inputs @ at, at - mean
        return float(((scores * logit - np.logaddexp(0.0, logit)) / dispersion).sum() - 0.5 * off @ precision @ off)

    belief, reached = mean.copy(), height(mean)
    for _ in range(STEPS):
        chance = chance_of(inputs @ belief)
        slope = inputs.T @ ((scores - chance) / dispersion) - precision @ (belief - mean)
        step = np.linalg.solve(_curvature(inputs, chance, precision, dispersion), slope)
        for _ in range(HALVINGS):
            if (there := height(belief + step)) >= reached:
                belief, reached = belief + step, there
                break
            step *= 0.5
    curvature = _curvature(inputs, chance_of(inputs @ belief), precision, dispersion)
    return belief, np.asarray(np.linalg.inv(curvature), np.float64)


def _curvature(inputs: Float, chance: Float, precision: Float, dispersion: Float) -> Float:
    """(p, p) of the negative log posterior."""
    weights = np.maximum(chance * (1.0 - chance), 1e-4) / dispersion
    return np.asarray((inputs.T * weights) @ inputs + precision)


def chance_of(logit: Float) -> Float:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logit))


def logit_of(chance: Float) -> Float:
    chance = np.clip(chance, LEAST_CHANCE, 1.0 - LEAST_CHANCE)
    return np.asarray(np.log(chance / (1.0 - chance)))
