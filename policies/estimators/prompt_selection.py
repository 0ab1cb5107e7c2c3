"""Which prompts tell most of how good a new arm is, before it has answered any: a design for its level.

An answer tells most where a right one is as likely as a wrong one, and where an arm's strengths matter least. On
prompts of one kind a specialist looks better or worse than it is. Chosen for the variance of the level with the
strengths as a nuisance, prompts are neither easy nor hard. Their kinds come in about the shares they have of all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.estimators.offset import chance_of, described, logit_of, prior_of
from policies.types import Float


def c_optimal_prompts(
    known: Float, expected: Float, *, count: int, offered: NDArray[np.bool_] | None = None
) -> NDArray[np.intp]:
    """(count,) rows that tell most of how good a new arm is, in the order they do.

    known (N, E) scores of the known arms, NaN where not observed. Then expected (N, E), what was expected of these. And
    offered (N,) rows to choose from, None: all. The arm is described as new_level() has it, and by its shape. That is
    how the known arms differ on this prompt, combined as in one more draw from where they came from. Each step takes
    the row that lowers most the variance of the mean score over all N (greedy c-optimal design, by Sherman-Morrison).
    Raises: ValueError where fewer are offered than asked for.
    """
    free = np.ones(len(expected), np.bool_) if offered is None else offered.copy()
    if count > np.count_nonzero(free):
        raise ValueError(f"{count} prompts of {np.count_nonzero(free)} were asked for")
    mean, precision, dispersion = prior_of(known, expected)
    inputs, shapes = described(known, expected), _shapes(expected)
    coin = chance_of(inputs @ mean)
    coin = np.maximum(coin * (1.0 - coin), 1e-4)
    covariance = np.zeros((inputs.shape[1] + shapes.shape[1],) * 2)
    covariance[: len(mean), : len(mean)] = np.linalg.inv(precision)
    covariance[len(mean) :, len(mean) :] = np.eye(shapes.shape[1])
    inputs = np.hstack([inputs, shapes])
    aim = coin @ inputs / len(inputs)  # how the mean score moves with each coefficient
    chosen = []
    for _ in range(count):
        reach = inputs @ covariance
        doubt = dispersion / coin + np.einsum("np,np->n", reach, inputs)
        best = int(np.argmax(np.where(free, (reach @ aim) ** 2 / doubt, -1.0)))
        chosen.append(best)
        free[best] = False
        covariance -= np.outer(reach[best], reach[best]) / doubt[best]
    return np.array(chosen, np.intp)


def _shapes(expected: Float) -> Float:
    """(N, E) how each known arm differs from their mean in logits, less what it does on average; a draw has N(0, 1)."""
    arms = expected.shape[1]
    logits = logit_of(expected)
    apart = (logits - logits.mean(axis=1, keepdims=True)) * np.sqrt((1.0 + 1.0 / arms) / max(arms - 1, 1))
    return np.asarray(apart - apart.mean(axis=0))
