"""What a few labelled prompts say of a new arm, through the arms that are known well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.estimators.offset import MOST_ROWS, new_level
from policies.types import Float

ESTABLISHED = 200  # labelled rows from which an arm is fitted on its own
LEVEL_SPREAD = 0.03  # standard deviation of a new arm's level beyond what the known arms' differences span
SLOPE_SPREAD = 0.15  # the same of how much more than they it gains where all of them are good
ALONE = (0.1, 0.5)  # both, where a single known arm shows no differences
CAUTION = 8.0  # quality a new arm is held down for each unit of its level's variance: 0.02 for ± 0.05
COMPLETE = 50  # rows that every known arm answered, from which shared noise is learned
FEWEST = 3  # known arms from which deviations are learned, each arm beside at least two
DRAWS = 4.0  # arms that deviate in each kind as in all, beside those known
LEAST_SPREAD = 1e-6  # standard deviation of a coefficient that is as good as zero
LEAST_DOUBT = 0.1  # of the usual variance, which a label keeps wherever the known arms agreed
STEPS = 30  # of expectation maximisation


def cold_start_arms(scores: Float) -> NDArray[np.bool_]:
    """(M,) whether a column of scores (n, M) has too few labels to be fitted alone; none where all have."""
    labels = (~np.isnan(scores)).sum(axis=0)
    few = labels < min(ESTABLISHED, 0.5 * float(labels.max(initial=0)))
    return np.asarray(few & ~few.all(), dtype=np.bool_)


class ColdStartArm(NamedTuple):
    """q̂ of a new arm is weights · q̂ of the known ones + tilt · kinds + offset."""

    weights: Float  # (E,)
    tilt: Float  # (K,)
    offset: float


@dataclass(frozen=True, slots=True)
class KnownArms:
    """What new arms are compared with: the arms that are known well, on all of history."""

    scores: Float  # (n, E), NaN where not observed
    expected: Float  # (n, E) out of fold
    unbiased: Float  # (n, E) the same with the mean of what was observed
    kinds: Float  # (n, K) what kinds of query these are, with column means 0
    strengths: Strengths


def known_arms(scores: Float, expected: Float, kinds: Float | None = None) -> KnownArms:
    """Their fields as in KnownArms, kinds None where nobody knows them."""
    kinds = np.zeros((len(scores), 0)) if kinds is None else kinds
    luck = scores - expected
    unbiased = expected + np.nan_to_num(luck).sum(axis=0) / np.maximum((~np.isnan(luck)).sum(axis=0), 1)
    return KnownArms(scores, expected, unbiased, kinds, learn_strengths(scores - unbiased, unbiased, kinds))


def fit_cold_start(
    known: KnownArms, scores: Float, log_costs: Float | None = None, reliability: Float | None = None
) -> ColdStartArm:
    """What a few labels say of a new arm.

    scores (n,) of the new arm, NaN where not labelled; log_costs (E + 1,) logarithms of mean costs, the new arm's last;
    reliability (n,) of the rows' labels, None: one each.
    How good it is altogether is judged by item response, see offset.py; where it is good, by shape(). Then it is
    held down by CAUTION times the variance of its level and at most a standard deviation, since among many arms the
    one overrated is the one chosen.
    """
    reliability = np.ones(len(scores)) if reliability is None else reliability
    level, variance = new_level(known.scores, known.unbiased, scores, log_costs, reliability)
    weights, tilt = shape(known, scores, level=level, variance=variance, reliability=reliability)
    offset = level - float((known.expected @ weights).mean())
    return ColdStartArm(weights, tilt, offset - min(CAUTION * variance, float(np.sqrt(variance))))


def shape(
    known: KnownArms, scores: Float, *, level: float, variance: float, reliability: Float | None = None
) -> tuple[Float, Float]:
    """((E,) weights of the known arms, (K,) of kinds of query) that say where a new arm is better than elsewhere.

    scores (n,) of the new arm, NaN where not labelled; its level with the variance. Before any label the new arm is one
    more draw from where the known ones came from. It has their mean, give or take their differences, and how they
    deviate from each other by kind. Labels move it by Bayesian linear regression, in which the luck of the known arms
    on the same prompts explains part of its own. They count by how they differ from each other; what they say
    together is in the level, one more observation. It takes more than ten lines because each builds on those before.
    """
    expected, strengths, arms = known.unbiased, known.strengths, known.scores.shape[1]
    rows = np.flatnonzero(~np.isnan(scores))
    luck, mean = known.scores - expected, expected.mean(axis=0)
    inputs, base = inputs_of(luck, expected, known.kinds, strengths.noise.shared)
    overall = np.concatenate([mean @ _apart(arms), [1.0, 0.0], np.zeros(arms), known.kinds.mean(axis=0)])
    usual = float(_coin(mean).mean() / _coin(np.array(level)))
    precise = usual / strengths.variances[rows]
    precise *= 1.0 if reliability is None else reliability[rows]
    inputs, target = inputs[rows], (scores - base)[rows]
    if len(rows):
        inputs, target = (each - precise @ each / precise.sum() for each in (inputs, target))
    precision = (inputs.T * precise) @ inputs + np.diag(strengths.spreads**-2.0) + np.outer(overall, overall) / variance
    moment = inputs.T @ (precise * target) + overall * (level - mean.mean()) / variance
    belief = np.linalg.solve(precision, moment)
    return (1.0 + belief[arms + 1]) / arms + _apart(arms) @ belief[:arms], belief[2 * arms + 2 :]


def _apart(arms: int) -> Float:
    """(E, E) that makes a draw of expected @ apart @ z, z normal, differ from the arms' mean as they do."""
    return np.asarray((np.eye(arms) - 1.0 / arms) * np.sqrt((1.0 + 1.0 / arms) / max(arms - 1, 1)))


def inputs_of(luck: Float, expected: Float, kinds: Float, shared: float) -> tuple[Float, Float]:
    """((n, 2E + 2 + K) what may say more of an arm, (n,) what is expected of it before that).

    Of each prompt: how the known arms differ, one, how good they are on it against elsewhere, their luck, its kinds.
    """
    mean, complete = expected.mean(axis=1), ~np.isnan(luck).any(axis=1, keepdims=True)
    beside = np.where(complete, luck, 0.0)
    alike = np.ones(len(luck)), mean - mean.mean()
    inputs = np.column_stack([expected @ _apart(luck.shape[1]), *alike, beside, kinds])
    return inputs, mean + shared * beside.mean(axis=1)


@dataclass(frozen=True, slots=True)
class Strengths:
    """What is known of a new arm's strengths and of its labels before there are any."""

    noise: SharedNoise
    variances: Float  # (n,) of a label on each prompt
    spreads: Float  # (2E + 2 + K,) prior standard deviations of the coefficients of inputs_of()


def learn_strengths(luck: Float, expected: Float, kinds: Float) -> Strengths:
    """From luck (n, E), NaN where not observed, expected (n, E) and kinds (n, K), each known arm beside the others.

    Fewer than FEWEST arms do not show how they deviate by kind: kinds say nothing then.
    """
    arms, noise = luck.shape[1], shared_noise(luck)
    variances = np.where(np.isnan(luck).any(axis=1), noise.whole, noise.left * _doubts(luck, noise.shared))
    level, slope = ALONE if arms == 1 else (LEVEL_SPREAD, SLOPE_SPREAD)
    by_kind = np.full(kinds.shape[1], LEAST_SPREAD)
    if arms >= FEWEST and kinds.shape[1]:
        slope, by_kind = _deviations(luck, expected, kinds, noise, variances)
    return Strengths(
        noise, variances, np.concatenate([np.ones(arms), [level, slope], np.full(arms, noise.pulls), by_kind])
    )


def _doubts(luck: Float, shared: float) -> Float:
    """(n,) how much more than usual a label on a prompt varies: as much as the known arms' own do on it, as far as
    one's tells of another's. 1 where not all of luck (n, E) was observed."""
    arms = luck.shape[1]
    complete = np.asarray(~np.isnan(luck).any(axis=1))
    doubts = np.ones(len(luck))
    if arms < FEWEST or np.count_nonzero(complete) < COMPLETE:
        return doubts
    rows = luck[complete]
    squares = (rows - shared * _others(rows)) ** 2
    usual, others = max(float(squares.mean()), 1e-9), _others(squares)
    across = ((others - usual) * (squares - usual)).mean() / max(float(others.var()), 1e-12)
    doubts[complete] = np.maximum(1.0 + across * (squares.mean(axis=1) / usual - 1.0), LEAST_DOUBT)
    return doubts


def _others(values: Float) -> Float:
    """(n, E) mean over the other columns."""
    return np.asarray((values.sum(axis=1, keepdims=True) - values) / (values.shape[1] - 1))


def _deviations(
    luck: Float, expected: Float, kinds: Float, noise: SharedNoise, variances: Float
) -> tuple[float, Float]:
    """(spread of slopes, (K,) spreads by kind) among the known arms, each described by the others.

    By expectation maximisation, all coefficients of one part of inputs_of() alike; what single kinds show of
    themselves counts beside DRAWS arms that deviate there as everywhere.
    """
    some = np.unique(np.linspace(0, len(luck) - 1, min(len(luck), MOST_ROWS)).astype(np.intp))
    luck, expected, kinds, variances = luck[some], expected[some], kinds[some], variances[some]
    arms = luck.shape[1]
    known = [_known_arm(luck, expected, kinds, variances, arm, noise.shared) for arm in range(arms)]
    first = 2 * arms  # coefficients before those of kinds, of an arm beside arms - 1 others
    parts = slice(0, arms - 1), slice(arms - 1, arms), slice(arms, arms + 1), slice(arms + 1, first)
    squares = np.concatenate([np.ones(arms - 1), [0.1**2, SLOPE_SPREAD**2], np.full(arms - 1, noise.pulls**2)])
    squares = np.concatenate([squares, np.full(kinds.shape[1], 0.05**2)])
    for _ in range(STEPS):
        found = np.mean([_second_moments(*each, squares) for each in known], axis=0)
        for part in parts:
            squares[part] = found[part].mean()
        squares[first:] = (arms * found[first:] + DRAWS * found[first:].mean()) / (arms + DRAWS)
        squares = np.maximum(squares, LEAST_SPREAD**2)
    return float(np.sqrt(squares[arms])), np.sqrt(squares[first:])


def _known_arm(
    luck: Float, expected: Float, kinds: Float, variances: Float, arm: int, shared: float
) -> tuple[Float, Float]:
    """(p, p) precision and (p,) moment of its own answers in the regression on the others."""
    others = np.arange(luck.shape[1]) != arm
    seen = ~np.isnan(luck[:, arm])
    inputs, base = inputs_of(luck[:, others], expected[:, others], kinds, shared)
    precise = inputs[seen].T / variances[seen]
    return precise @ inputs[seen], precise @ (luck[:, arm] + expected[:, arm] - base)[seen]


def _second_moments(precision: Float, moment: Float, squares: Float) -> Float:
    """(p,) expected squares of coefficients whose prior variances are squares (p,)."""
    covariance = np.linalg.inv(precision + np.diag(1.0 / squares))
    return np.asarray((covariance @ moment) ** 2 + np.diag(covariance))


def _coin(mean: Float) -> Float:
    """Variances of coins with these means, which a score in [0, 1] cannot exceed; an arm that is good varies less."""
    return np.asarray(np.maximum(mean * (1.0 - mean), 0.02))


@dataclass(frozen=True, slots=True)
class SharedNoise:
    """How the luck of arms on one query hangs together."""

    shared: float  # of the others' mean luck is also an arm's own
    pulls: float  # standard deviation of what a single other arm's luck adds to that
    left: float  # variance of an arm's luck where the others' is known
    whole: float  # variance where it is not


def shared_noise(luck: Float) -> SharedNoise:
    """From luck (n, E), score less what was expected, NaN where not observed: each known arm against the others.

    Without enough rows that all arms answered nothing is taken as shared.
    """
    arms, observed = luck.shape[1], luck[~np.isnan(luck)]
    whole = max(float((observed**2).mean()) if len(observed) else 0.25, 1e-4)
    rows = luck[~np.isnan(luck).any(axis=1)]
    if arms < 2 or len(rows) < COMPLETE:
        return SharedNoise(0.0, 1e-3, whole, whole)
    gram = rows.T @ rows / len(rows)
    covariance = (gram.sum() - np.trace(gram)) / (arms * (arms - 1))
    shared = float(np.clip(covariance / _variance_of_mean(gram), 0.0, 1.0))
    parts = [_beside(gram, arm, shared) for arm in range(arms)]
    pulls, left = np.mean(parts, axis=0)
    return SharedNoise(shared, max(float(np.sqrt(pulls)), 1e-3), max(float(left), 1e-4), whole)


def _variance_of_mean(gram: Float) -> float:
    """Variance of the mean luck of all arms but one, averaged over that one."""
    arms = len(gram)
    without = [np.delete(np.delete(gram, arm, 0), arm, 1).sum() for arm in range(arms)]
    return max(float(np.mean(without)) / (arms - 1) ** 2, 1e-9)


def _beside(gram: Float, arm: int, shared: float) -> tuple[float, float]:
    """(mean square of how its regression on the others differs from an even one, variance an even one leaves)."""
    others = np.arange(len(gram)) != arm
    inner, across = gram[np.ix_(others, others)], gram[others, arm]
    even = np.full(len(across), shared / len(across))
    best = np.linalg.solve(inner + 1e-6 * np.eye(len(across)), across)
    return float(((best - even) ** 2).mean()), float(gram[arm, arm] - 2.0 * even @ across + even @ inner @ even)
