"""One row down all trees of several forests at once, three levels a step: a dozen numpy calls instead of a hundred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.types import Float32

Nodes = NDArray[np.int64]

LEVELS = 3
ENDS = 2**LEVELS  # nodes below a step; one test fewer decides between them, the place left over always says no


@dataclass(frozen=True, slots=True)
class Trees:
    """A forest as arrays. The right child follows the left one; a leaf is its own left child and never goes right."""

    roots: Nodes  # (T,)
    input: Nodes  # (nodes,) which input is compared
    threshold: Float32  # (nodes,) go right above it; +inf at a leaf
    left: Nodes  # (nodes,)
    values: Float32  # (nodes, M) what a leaf predicts


class Walk:
    """Forests side by side; predict() says what each expects of one row.

    A step reads the seven tests of a node and of its next two levels, whether they are needed or not, packs the
    answers into a byte and looks up which of the eight nodes below it leads to. Leaves are numbered above all steps.
    """

    def __init__(self, forests: Sequence[Trees], offsets: Sequence[int]) -> None:
        """Input j of forest f is place offsets[f] + j of the row."""
        trees = _joined(forests, offsets)
        leaf = np.isinf(trees.threshold)
        leaves = np.flatnonzero(leaf)
        levels, ends = _steps(trees, leaf)
        steps = np.concatenate(levels)
        numbers = np.zeros(len(leaf), np.int64)
        numbers[steps] = np.arange(len(steps))
        numbers[leaves] = len(steps) + 1 + np.arange(len(leaves))
        below = _below(steps, trees.left)
        self._last = len(steps)  # a step that leads nowhere: where a leaf is looked up
        self._input = np.vstack([trees.input[below], np.zeros((1, ENDS), np.int64)])  # (S + 1, 8)
        self._threshold = np.vstack([trees.threshold[below], np.zeros((1, ENDS), np.float32)])
        self._threshold[:, -1] = np.inf
        self._end = np.concatenate([numbers[ends].ravel(), np.zeros(ENDS, np.int64)])  # (8 · (S + 1),)
        self._roots = numbers[trees.roots]
        self._depth = len(levels)  # steps that a row needs at most
        self._values = trees.values[leaves]
        counts = [len(each.roots) for each in forests]
        self._shares = np.zeros((len(forests), len(trees.roots)), np.float32)  # (F, T) one over the trees of each
        for forest, (end, count) in enumerate(zip(np.cumsum(counts), counts, strict=True)):
            self._shares[forest, end - count : end] = 1.0 / count

    def predict(self, row: Float32) -> Float32:
        """(F, M) means over the trees of each forest, for one row."""
        at = self._roots
        for _ in range(self._depth):
            asked = row.take(self._input.take(at, axis=0, mode="clip"), mode="clip")
            right = np.packbits(asked > self._threshold.take(at, axis=0, mode="clip"))
            end = WHERE.take(right, mode="clip")
            end += at << LEVELS
            at = np.maximum(at, self._end.take(end, mode="clip"))  # numbers rise downwards, so a leaf stays
        means: Float32 = self._shares @ self._values.take(at - (self._last + 1), axis=0)
        return means


def _joined(forests: Sequence[Trees], offsets: Sequence[int]) -> Trees:
    """All trees in one numbering."""
    starts = np.cumsum([0, *(len(each.left) for each in forests)])[:-1]
    return Trees(
        roots=np.concatenate([each.roots + start for each, start in zip(forests, starts, strict=True)]),
        input=np.concatenate([each.input + offset for each, offset in zip(forests, offsets, strict=True)]),
        threshold=np.concatenate([each.threshold for each in forests]),
        left=np.concatenate([each.left + start for each, start in zip(forests, starts, strict=True)]),
        values=np.concatenate([each.values for each in forests]),
    )


def _steps(trees: Trees, leaf: NDArray[np.bool_]) -> tuple[list[Nodes], Nodes]:
    """Nodes at which a step begins, those of the first step first, S in all; (S, 8) where each may end."""
    found, ends, level = [], [], trees.roots
    while len(level):
        below = _children(_children(_children(level[:, None], trees.left), trees.left), trees.left)
        found.append(level)
        ends.append(below)
        level = below[~leaf[below]]
    return found, np.concatenate(ends)


def _children(nodes: Nodes, left: Nodes) -> Nodes:
    """(n, 2k) both children of nodes (n, k); a leaf's are itself."""
    first = left[nodes]
    return np.stack([first, np.where(first == nodes, nodes, first + 1)], axis=2).reshape(len(nodes), -1)


def _below(steps: Nodes, left: Nodes) -> Nodes:
    """(S, 8) the nodes whose tests a step reads, level by level; the last place is filled with the first."""
    second = _children(steps[:, None], left)
    return np.concatenate([steps[:, None], second, _children(second, left), steps[:, None]], axis=1)


def _where() -> Nodes:
    """(256,) which of the eight ends the packed answers of a step lead to; the first test is the highest bit."""
    answers = (np.arange(256)[:, None] >> np.arange(7, -1, -1)) & 1
    place = np.zeros(256, np.int64)
    for _ in range(LEVELS):
        place = 2 * place + 1 + answers[np.arange(256), place]
    return np.asarray(place - (ENDS - 1))


WHERE = _where()
