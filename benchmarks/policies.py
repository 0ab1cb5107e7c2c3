"""What a decision costs: `python -m benchmarks.policies [NAME …] [--index ROWS]`.

Microseconds of propose() and learn() for every policy, or those named, by the clock and of CPU time, which other
processes on the machine disturb less. Decisions a second in batch; with --index also one decision whose neighbours are
searched among so many vectors (100,000 take minutes to build).
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
from msgspec.structs import replace

from policies.registry import NAMES, build
from policies.types import Arm, Float, History, Neighbours, Outcome, RouteContext, StoredPolicy
from research.provenance import provenance
from router.learning.index import FaissIndex

ARMS, DIMENSIONS, NEIGHBOURS, ROWS, FEATURES = 16, 384, 100, 5_000, 49
PROPOSALS, BATCH, PAIRED = 2_000, 50_000, 4_096
TOPICS, WIDTH = 500, 0.7  # of the indexed vectors: how many clusters, and how far a row lies from its centre


def make_history(rng: np.random.Generator) -> History:
    """Random rows: the time does not depend on what they say."""
    embeddings = rng.normal(size=(ROWS, DIMENSIONS)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    arms = tuple(Arm(f"model-{i}", 1e-7 * (i + 1), 2e-7 * (i + 1)) for i in range(ARMS))
    tokens = rng.integers(10, 500, ROWS)
    scores, costs = rng.random((ROWS, ARMS)), rng.uniform(1e-6, 1e-4, (ROWS, ARMS))
    features = rng.random((ROWS, FEATURES)).astype(np.float32)
    return History(embeddings, arms, scores, costs, tokens, 4 * tokens, features)


def make_contexts(rng: np.random.Generator, history: History, count: int) -> list[RouteContext]:
    """Queries with their neighbours already found, as the gateway hands them over."""
    contexts = []
    for i in range(count):
        near = rng.integers(0, ROWS, NEIGHBOURS)
        similarity = np.sort(rng.random(NEIGHBOURS).astype(np.float32))[::-1]
        row = rng.integers(ROWS)
        contexts.append(
            RouteContext(
                decision_id=str(i),
                tenant="bench",
                preference=100.0,
                embedding=history.embeddings[row],
                neighbours=Neighbours(similarity, history.scores[near], history.costs[near]),
                arms=history.arms,
                prompt_tokens=100,
                prompt_characters=400,
                max_completion_tokens=512,
                now=float(i),
                features=None if history.features is None else history.features[row],
            )
        )
    return contexts


def make_outcome(context: RouteContext, arm: Arm) -> Outcome:
    """One judged answer."""
    return Outcome(context, arm.name, score=0.5, cost=1e-5, propensity=1.0, completion_tokens=50, now=context.now)


def timings_us(policy: StoredPolicy, contexts: list[RouteContext]) -> Float:
    """(decisions, 4) microseconds of each propose and each learn by the clock, then of CPU time."""
    taken = np.empty((len(contexts), 4))
    for i, context in enumerate(contexts):
        outcome = make_outcome(context, context.arms[i % ARMS])
        marks = [(time.perf_counter_ns(), time.thread_time_ns())]
        policy.propose(context)
        marks.append((time.perf_counter_ns(), time.thread_time_ns()))
        policy.learn(outcome)
        marks.append((time.perf_counter_ns(), time.thread_time_ns()))
        taken[i] = np.diff(np.array(marks), axis=0).T.ravel()
    return taken / 1e3


def decisions_us(rng: np.random.Generator, history: History, policy: StoredPolicy, index: FaissIndex) -> Float:
    """(decisions, 2) microseconds of one search and one propose() together, by the clock and of CPU time."""
    taken = np.empty((PROPOSALS, 2))
    asked = clustered(rng, PROPOSALS)
    for i, context in enumerate(make_contexts(rng, history, PROPOSALS)):
        start = time.perf_counter_ns(), time.thread_time_ns()
        hits = index.search(asked[i : i + 1], NEIGHBOURS)
        rows = hits.ids[0] % ROWS  # the time does not depend on what the neighbours say
        near = Neighbours(hits.similarity[0], history.scores[rows], history.costs[rows])
        policy.propose(replace(context, embedding=asked[i], neighbours=near))
        taken[i] = time.perf_counter_ns() - start[0], time.thread_time_ns() - start[1]
    return taken / 1e3


def clustered(rng: np.random.Generator, rows: int) -> np.ndarray:
    """(rows, d) unit vectors around the same TOPICS centres every time, as texts lie around their topics."""
    centres = np.random.default_rng(1).normal(size=(TOPICS, DIMENSIONS))
    vectors = centres[rng.integers(0, TOPICS, rows)] + WIDTH * rng.normal(size=(rows, DIMENSIONS))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def indexed(rng: np.random.Generator, rows: int) -> FaissIndex:
    """The gateway's index over so many vectors."""
    index = FaissIndex(DIMENSIONS, build_threads=os.cpu_count() or 1)
    for start in range(0, rows, 10_000):
        count = min(10_000, rows - start)
        index.add(clustered(rng, count), np.arange(start, start + count))
    index.settle()
    return index


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NAMES), metavar="NAME")
    parser.add_argument("--index", type=int, default=0, metavar="ROWS", help="also search among so many vectors")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    history = make_history(rng)
    contexts = make_contexts(rng, history, PROPOSALS)
    index = indexed(rng, arguments.index) if arguments.index else None
    print(f"{ARMS} models, d = {DIMENSIONS}, {NEIGHBOURS} neighbours, {PROPOSALS} decisions; µs by the clock | of CPU")
    print(
        f"{'policy':12} {'propose p50':>14} {'p99':>14} {'learn p50':>14} {'p99':>14}{' with search' if index else ''}"
    )
    for name in arguments.names:
        policy = build(name, history.arms, {"arm": "model-3"} if name == "fixed" else None)
        policy.refit(history)
        p50, p99 = np.percentile(timings_us(policy, contexts), (50, 99), axis=0)
        cells = [f"{values[i]:7.0f} |{values[i + 2]:5.0f}" for i in (0, 1) for values in (p50, p99)]
        if index is not None:
            p50, p99 = np.percentile(decisions_us(rng, history, policy, index), (50, 99), axis=0)
            cells.append(f"p50 {p50[0]:.0f} | {p50[1]:.0f}, p99 {p99[0]:.0f} | {p99[1]:.0f}")
        print(f"{name:12} {'  '.join(cells)}", flush=True)
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
