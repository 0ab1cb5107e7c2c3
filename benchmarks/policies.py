"""What a decision costs: `python -m benchmarks.policies` prints microseconds for every policy, or those named."""

from __future__ import annotations

import sys
import time

import numpy as np

from policies.batch import choose_batch
from policies.estimators.means import Means
from policies.estimators.neighbours import NeighbourMeans
from policies.named import NAMES, build
from policies.types import Arm, History, Neighbours, Outcome, RouteContext, StoredPolicy

ARMS, DIMENSIONS, NEIGHBOURS, ROWS = 16, 384, 100, 5_000
PROPOSALS, BATCH = 2_000, 50_000


def make_history(rng: np.random.Generator) -> History:
    """Random rows: the time does not depend on what they say."""
    embeddings = rng.normal(size=(ROWS, DIMENSIONS)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    arms = tuple(Arm(f"model-{i}", 1e-7 * (i + 1), 2e-7 * (i + 1)) for i in range(ARMS))
    tokens = rng.integers(10, 500, ROWS)
    scores, costs = rng.random((ROWS, ARMS)), rng.uniform(1e-6, 1e-4, (ROWS, ARMS))
    return History(embeddings, arms, scores, costs, tokens, 4 * tokens)


def make_contexts(rng: np.random.Generator, history: History, count: int) -> list[RouteContext]:
    """Queries with their neighbours already found, as the gateway hands them over."""
    contexts = []
    for i in range(count):
        near = rng.integers(0, ROWS, NEIGHBOURS)
        similarity = np.sort(rng.random(NEIGHBOURS).astype(np.float32))[::-1]
        contexts.append(
            RouteContext(
                request_id=str(i),
                tenant="bench",
                preference=100.0,
                embedding=history.embeddings[rng.integers(ROWS)],
                neighbours=Neighbours(similarity, history.scores[near], history.costs[near]),
                arms=history.arms,
                prompt_tokens=100,
                prompt_characters=400,
                max_completion_tokens=512,
                now=float(i),
            )
        )
    return contexts


def make_outcome(context: RouteContext, arm: Arm) -> Outcome:
    """One judged answer."""
    return Outcome(
        request_id=context.request_id,
        tenant=context.tenant,
        arm=arm.name,
        embedding=context.embedding,
        score=0.5,
        cost=1e-5,
        propensity=1.0,
        prompt_tokens=100,
        completion_tokens=50,
        prompt_characters=400,
        now=context.now,
    )


def timings_us(policy: StoredPolicy, contexts: list[RouteContext]) -> tuple[np.ndarray, np.ndarray]:
    """(microseconds of each propose, microseconds of each learn)."""
    proposing, learning = np.empty(len(contexts)), np.empty(len(contexts))
    for i, context in enumerate(contexts):
        outcome = make_outcome(context, context.arms[i % ARMS])
        start = time.perf_counter_ns()
        policy.propose(context)
        proposed = time.perf_counter_ns()
        policy.learn(outcome)
        learning[i], proposing[i] = time.perf_counter_ns() - proposed, proposed - start
    return proposing / 1e3, learning / 1e3


def batched_per_s(rng: np.random.Generator, history: History) -> float:
    """Decisions a second of `neighbours` on a batch whose neighbours are already found."""
    estimator = NeighbourMeans(Means())
    estimator.refit(history)
    near = rng.integers(0, ROWS, (BATCH, NEIGHBOURS))
    similarity = np.sort(rng.random((BATCH, NEIGHBOURS)).astype(np.float32), axis=1)[:, ::-1]
    tokens = rng.integers(10, 500, BATCH)
    start = time.perf_counter()
    found = estimator.estimate_batch(history, near, similarity, tokens=tokens, max_completion_tokens=512)
    choose_batch(found, np.array(100.0))
    return BATCH / (time.perf_counter() - start)


def main() -> None:
    """Print a table."""
    rng = np.random.default_rng(0)
    history = make_history(rng)
    contexts = make_contexts(rng, history, PROPOSALS)
    print(f"{ARMS} models, d = {DIMENSIONS}, {NEIGHBOURS} neighbours, {PROPOSALS} decisions; microseconds")
    print(f"{'policy':12} {'propose p50':>12} {'p99':>8} {'learn p50':>10} {'p99':>8}")
    for name in sys.argv[1:] or NAMES:
        policy = build(name, history.arms, {"arm": "model-3"} if name == "fixed" else None)
        policy.refit(history)
        proposing, learning = timings_us(policy, contexts)
        cells = (*np.percentile(proposing, (50, 99)), *np.percentile(learning, (50, 99)))
        print(f"{name:12} {cells[0]:12.0f} {cells[1]:8.0f} {cells[2]:10.0f} {cells[3]:8.0f}", flush=True)
    print(f"neighbours in a batch of {BATCH}: {batched_per_s(rng, history):,.0f} decisions/s")


if __name__ == "__main__":
    main()
