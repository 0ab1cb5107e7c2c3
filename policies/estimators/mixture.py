"""What kinds of query history has, found without labels: groups and leading directions of the inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.estimators.linear import principal_directions
from policies.types import Float, Float32

GROUPS = 8
LEADING = 8  # principal directions
STARTS = 4  # of Lloyd's algorithm, of which the closest is kept
ROUNDS = 50


@dataclass(frozen=True, slots=True)
class Kinds:
    """Groups as members, to be expected of other rows by a regressor; leading directions, which any row has itself."""

    groups: Float  # (N, GROUPS), 1 for the group that a row is in and 0 elsewhere
    leading: Float32  # (LEADING, p), scaled so that history's variance along the first is 1


def kinds_of(inputs: Float32) -> Kinds:
    """Of all rows (N, p) of history."""
    directions = principal_directions(inputs - inputs.mean(axis=0), LEADING)
    scale = max(float((inputs @ directions[0]).std()), 1e-9)
    return Kinds(np.eye(GROUPS)[_groups(inputs)], directions / np.float32(scale))


def no_kinds(inputs: Float32) -> Kinds:
    """Where nobody asks."""
    return Kinds(np.zeros((len(inputs), 0)), np.zeros((0, inputs.shape[1]), np.float32))


def _groups(inputs: Float32) -> NDArray[np.intp]:
    """(N,) by k-means: of several starts the one whose rows lie nearest to their centres."""
    rng = np.random.default_rng(0)
    found = [_lloyd(inputs, _spread_out(inputs, rng)) for _ in range(STARTS)]
    return min(found, key=lambda each: each[1])[0]


def _spread_out(inputs: Float32, rng: np.random.Generator) -> Float32:
    """(GROUPS, p) rows drawn in proportion to their squared distance from those drawn before (k-means++)."""
    drawn = [int(rng.integers(len(inputs)))]
    nearest = _squares(inputs, inputs[drawn])[:, 0]
    while len(drawn) < GROUPS:
        chance = np.maximum(nearest, 1e-9)
        drawn.append(int(rng.choice(len(inputs), p=chance / chance.sum())))
        nearest = np.minimum(nearest, _squares(inputs, inputs[drawn[-1:]])[:, 0])
    return inputs[drawn]


def _lloyd(inputs: Float32, centres: Float32) -> tuple[NDArray[np.intp], float]:
    """((N,) nearest of the centres (k, p) once each is the mean of its rows, sum of squared distances to them)."""
    nearest = np.full(len(inputs), -1)
    for _ in range(ROUNDS):
        squares = _squares(inputs, centres)
        before, nearest = nearest, squares.argmin(axis=1)
        if np.array_equal(before, nearest):
            break
        member = np.eye(len(centres), dtype=np.float32)[nearest]
        sizes = member.sum(axis=0)[:, None]
        centres = np.where(sizes > 0, member.T @ inputs / np.maximum(sizes, 1.0), centres)
    return nearest, float(squares.min(axis=1).sum())


def _squares(inputs: Float32, centres: Float32) -> Float:
    """(N, k) squared distances."""
    lengths = np.einsum("np,np->n", inputs, inputs)[:, None] + np.einsum("kp,kp->k", centres, centres)
    return np.asarray(lengths - 2.0 * (inputs @ centres.T), np.float64)
