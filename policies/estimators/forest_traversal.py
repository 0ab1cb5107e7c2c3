"""One row down all trees of several forests at once, four levels and then three a step: two dozen numpy calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.types import Float32

Nodes = NDArray[np.int64]

FIRST = 4  # levels of the first step, whose tests are the same for every row
LEVELS = 3  # of all others
ENDS = 2**LEVELS  # nodes below a step; one test fewer decides between them, the place left over always says no


@dataclass(frozen=True, slots=True)
class Trees:
    """A forest as arrays. The right child follows the left one; a leaf is its own left child and never goes right."""

    roots: Nodes  # (T,)
    input: Nodes  # (nodes,) which input is compared
    threshold: Float32  # (nodes,) go right above it; +inf at a leaf
    left: Nodes  # (nodes,)
    values: Float32  # (nodes, M) what a leaf predicts


class ForestTraversal:
    """Forests side by side; predict() says what each expects of one row.

    A step reads the tests of a node and of its next levels, whether these are needed or not. It packs the answers into
    a number and looks up which of the nodes below comes next. It reads seven tests and a byte, fifteen and two bytes in
    the first step. Leaves are numbered above all steps.
    """

    def __init__(self, forests: Sequence[Trees], offsets: Sequence[int]) -> None:
        """Input j of forest f is place offsets[f] + j of the row."""
        trees = _joined(forests, offsets)
        leaf = np.isinf(trees.threshold)
        leaves = np.flatnonzero(leaf)
        tests, starts = _below(trees.roots, trees.left, FIRST)
        levels, ends = _steps(starts[~leaf[starts]], trees.left, leaf)
        steps = np.concatenate(levels)
        numbers = np.zeros(len(leaf), np.int64)
        numbers[steps] = np.arange(len(steps))
        numbers[leaves] = len(steps) + 1 + np.arange(len(leaves))
        self._first_input = trees.input[tests]  # (T, 16)
        self._first_threshold = trees.threshold[tests]
        self._first_threshold[:, -1] = np.inf
        self._first_end = numbers[starts].ravel()  # (16 · T,)
        self._places = np.arange(len(trees.roots)) << FIRST
        below = _below(steps, trees.left, LEVELS)[0]
        self._last = len(steps)  # a step that leads nowhere: where a leaf is looked up
        self._input = np.vstack([trees.input[below], np.zeros((1, ENDS), np.int64)])  # (S + 1, 8)
        self._threshold = np.vstack([trees.threshold[below], np.zeros((1, ENDS), np.float32)])
        self._threshold[:, -1] = np.inf
        self._end = np.concatenate([numbers[ends].ravel(), np.zeros(ENDS, np.int64)])  # (8 · (S + 1),)
        self._depth = len(levels)  # steps that a row needs at most after the first
        self._values = trees.values[leaves]
        counts = [len(each.roots) for each in forests]
        self._shares = np.zeros((len(forests), len(trees.roots)), np.float32)  # (F, T) one over the trees of each
        for forest, (end, count) in enumerate(zip(np.cumsum(counts), counts, strict=True)):
            self._shares[forest, end - count : end] = 1.0 / count

    def predict(self, row: Float32) -> Float32:
        """(F, M) means over the trees of each forest, for one row."""
        right = np.packbits(row.take(self._first_input, mode="clip") > self._first_threshold)
        at = self._first_end.take(FIRST_WHERE.take(right.view(np.uint16), mode="clip") + self._places, mode="clip")
        for _ in range(self._depth):
            asked = row.take(self._input.take(at, axis=0, mode="clip"), mode="clip")
            right = np.packbits(asked > self._threshold.take(at, axis=0, mode="clip"))
            end = WHERE.take(right, mode="clip")
            end += at << LEVELS
            at = np.maximum(at, self._end.take(end, mode="clip"))  # numbers rise downwards, so a leaf stays
        at -= self._last + 1
        means: Float32 = self._shares @ self._values.take(at, axis=0, mode="clip")
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


def _steps(level: Nodes, left: Nodes, leaf: NDArray[np.bool_]) -> tuple[list[Nodes], Nodes]:
    """Nodes at which a step begins, those of the first step first, S in all; (S, 8) where each may end."""
    found, ends = [], []
    while len(level):
        below = _below(level, left, LEVELS)[1]
        found.append(level)
        ends.append(below)
        level = below[~leaf[below]]
    return found or [level], np.concatenate(ends or [np.zeros((0, ENDS), np.int64)])


def _children(nodes: Nodes, left: Nodes) -> Nodes:
    """(n, 2k) both children of nodes (n, k); a leaf's are itself."""
    first = left[nodes]
    return np.stack([first, np.where(first == nodes, nodes, first + 1)], axis=2).reshape(len(nodes), 2 * nodes.shape[1])


def _below(nodes: Nodes, left: Nodes, levels: int) -> tuple[Nodes, Nodes]:
    """(n, 2^levels) nodes whose tests a step from nodes (n,) reads, level by level, the last place filled with the
    first; (n, 2^levels) where it may end."""
    read = [nodes[:, None]]
    for _ in range(levels):
        read.append(_children(read[-1], left))
    return np.concatenate([*read[:-1], read[0]], axis=1), read[-1]


def _where(levels: int) -> Nodes:
    """(2^2^levels,) which end the answers of a step lead to; of the packed bits the first test is the highest."""
    tests = 2**levels
    answers = (np.arange(2**tests)[:, None] >> np.arange(tests - 1, -1, -1)) & 1
    place = np.zeros(len(answers), np.int64)
    for _ in range(levels):
        place = 2 * place + 1 + answers[np.arange(len(answers)), place]
    return np.asarray(place - (tests - 1))


WHERE = _where(LEVELS)
FIRST_WHERE = _where(FIRST).astype(np.uint8)  # by the two bytes as this machine reads them
FIRST_WHERE = FIRST_WHERE[np.arange(len(FIRST_WHERE), dtype=np.uint16).view(np.uint8).reshape(-1, 2) @ [256, 1]]
