"""Public routing traces, split and embedded as the rules of the benchmark say.

They lie in the folder that POINTSMAN_TRACES names; docs/replay.md says where they come from.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.embedders.hashing import HashingEmbedder
from evaluation.traces import read_trace
from policies.estimators.stacked_or_neighbours import surface
from policies.replay import Rows, split
from policies.types import Arm, Float, Float32, History, Neighbours, RouteContext

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "routing_data"
FOLDER = Path(os.environ.get("POINTSMAN_TRACES") or BESIDE)
STREAMS = {"routerbench_subset": 600, "routerdc7": 5000, "routellm_mmlu_gsm8k": 4000}
SEEDS = {"routerbench_subset": 10, "routerdc7": 5, "routellm_mmlu_gsm8k": 5}
NEIGHBOURS = 100


@dataclass(frozen=True)
class PublicTrace:
    """Queries answered by every model."""

    name: str
    prompts: list[str]  # N
    tasks: NDArray[np.str_]  # (N,)
    models: tuple[str, ...]  # M
    scores: Float  # (N, M), in [0, 1]
    costs: Float  # (N, M), USD
    features: Float32  # (N, f)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Models without list prices: their charges are learned."""
        return tuple(Arm(name, 0.0, 0.0) for name in self.models)


def load_trace(name: str, folder: Path = FOLDER) -> PublicTrace:
    """One of STREAMS, or the trace in a file. Raises: SystemExit where it is not there."""
    path = folder / f"{name}.parquet" if name in STREAMS else Path(name)
    if not path.exists():
        raise SystemExit(f"no trace {path}: POINTSMAN_TRACES names the folder, docs/replay.md where to get them")
    trace = read_trace(path)
    return PublicTrace(
        name=trace.name,
        prompts=list(trace.prompts),
        tasks=trace.tasks,
        models=trace.models,
        scores=trace.scores,
        costs=trace.costs,
        features=np.stack([HashingEmbedder(1).features(text) for text in trace.prompts]),
    )


def trace_split(trace: PublicTrace, seed: int) -> tuple[Rows, Rows]:
    """(stream rows in order, history rows)."""
    return split(len(trace.prompts), stream=STREAMS[trace.name], seed=seed)


@dataclass(frozen=True)
class Embedded:
    """A trace in the space that an embedder fitted on some of its rows makes."""

    trace: PublicTrace
    vectors: Float32  # (N, d)

    def history(self, rows: Rows) -> History:
        """All labels of these rows."""
        lengths = self._lengths(rows)
        trace = self.trace
        return History(
            embeddings=self.vectors[rows],
            arms=trace.arms,
            scores=trace.scores[rows],
            costs=trace.costs[rows],
            prompt_tokens=lengths // 4 + 1,
            prompt_characters=lengths,
            features=trace.features[rows],
        )

    def contexts(self, rows: Rows, history: History) -> list[RouteContext]:
        """These rows as a policy with that history sees them."""
        lengths = self._lengths(rows)
        near, similarity = nearest(self.vectors[rows], history.embeddings, NEIGHBOURS)
        return [
            RouteContext(
                decision_id=str(at),
                tenant="trace",
                preference=0.0,
                embedding=self.vectors[row],
                arms=history.arms,
                prompt_tokens=int(lengths[at]) // 4 + 1,
                prompt_characters=int(lengths[at]),
                max_completion_tokens=4096,
                now=float(at),
                features=self.trace.features[row],
                neighbours=Neighbours(similarity[at], history.scores[near[at]], history.costs[near[at]]),
            )
            for at, row in enumerate(rows)
        ]

    def surface(self, rows: Rows) -> tuple[Float32, Float32]:
        """Embeddings and surface features of these rows, as the stack takes them."""
        lengths = self._lengths(rows)
        return self.vectors[rows], surface(self.trace.features[rows], lengths, lengths // 4 + 1)

    def _lengths(self, rows: Rows) -> NDArray[np.int64]:
        return np.array([len(self.trace.prompts[row]) for row in rows], np.int64)


def embed_trace(trace: PublicTrace, fitted_on: Rows) -> Embedded:
    """With the embedder fitted on these rows only."""
    embedder = HashingEmbedder()
    embedder.fit([trace.prompts[row] for row in fitted_on])
    return Embedded(trace, embedder.embed_now(trace.prompts))


def nearest(queries: Float32, rows: Float32, k: int) -> tuple[Rows, Float32]:
    """(m, k) rows most similar to each query and (m, k) their cosines, descending."""
    k = min(k, len(rows))
    found, similarity = np.empty((len(queries), k), np.intp), np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), 512):
        part = slice(start, start + 512)
        cosines = queries[part] @ rows.T
        best = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        close = np.take_along_axis(cosines, best, axis=1)
        order = np.argsort(-close, axis=1)
        found[part] = np.take_along_axis(best, order, axis=1)
        similarity[part] = np.take_along_axis(close, order, axis=1)
    return found, similarity


RESERVE = 0.005  # of the planned queries' money, kept until they have all come
OVERTIME = 0.3  # of the planned queries, expected once they have all come


def queries_left(planned: int, arrived: int) -> float:
    """Queries still to be paid for when `planned` is only a guess of how many come.

    A little money is kept back while they come, and spread over more than were planned afterwards. It costs little
    where the guess is right and earns much where it is low, since a query's first dollar buys the most.
    """
    if arrived >= planned:
        return max(1.0, OVERTIME * planned)
    return max(1.0, (planned - arrived) + RESERVE * planned)
