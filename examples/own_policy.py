"""A policy of one's own, judged beside the packaged ones on a small trace before it sees traffic.

python examples/own_policy.py
"""

import numpy as np

from policies.composed import Composed
from policies.estimators.means import Means
from policies.estimators.neighbours import NeighbourMeans
from policies.explorers.greedy import Greedy
from policies.pacers.flat import Flat
from policies.registry import build
from policies.types import Arm, History, Neighbours, Policy, RouteContext

RNG = np.random.default_rng(0)
ARMS = (Arm("small", 1e-7, 2e-7), Arm("large", 2e-6, 4e-6))
KINDS, ROWS, DIM = 2, 400, 16


def cautious(arms: tuple[Arm, ...], /, *, k: int = 20) -> Policy:
    """Few neighbours, mixed with much of each model's mean."""
    return Composed(NeighbourMeans(Means(), k=k, shrinkage=40.0), Flat(), Greedy())


def make_trace() -> History:
    """Two kinds of query: the small model is good at one of them."""
    kind = RNG.integers(0, KINDS, ROWS)
    vectors = RNG.normal(size=(KINDS, DIM))[kind] + 0.3 * RNG.normal(size=(ROWS, DIM))
    scores = (RNG.random((ROWS, 2)) < np.array([[0.9, 0.95], [0.2, 0.95]])[kind]).astype(float)
    costs = np.tile([2e-5, 4e-4], (ROWS, 1))
    tokens = np.full(ROWS, 50)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return History(unit.astype(np.float32), ARMS, scores, costs, tokens, tokens * 4)


def asked(trace: History, row: int, past: slice) -> RouteContext:
    """The query of a row, with its nearest past queries."""
    similarity = trace.embeddings[past] @ trace.embeddings[row]
    near = np.argsort(-similarity)[:40]
    found = Neighbours(similarity[near], trace.scores[past][near], trace.costs[past][near])
    return RouteContext(
        decision_id=f"dec-{row}",
        tenant="acme",
        preference=200.0,
        embedding=trace.embeddings[row],
        arms=ARMS,
        prompt_tokens=50,
        prompt_characters=200,
        max_completion_tokens=100,
        now=float(row),
        neighbours=found,
    )


def judged(policy: Policy, trace: History, past: int) -> tuple[float, float]:
    """(mean quality, USD) over the rows after `past`, by what the policy's distribution expects."""
    policy.refit(History(*(getattr(trace, f)[:past] if f != "arms" else ARMS for f in trace.__struct_fields__[:6])))
    drawn = [policy.propose(asked(trace, row, slice(0, past))).probabilities for row in range(past, ROWS)]
    weights = np.array(drawn)
    return float((weights * trace.scores[past:]).sum(axis=1).mean()), float((weights * trace.costs[past:]).sum())


if __name__ == "__main__":
    trace = make_trace()
    for name, policy in {
        "cautious": cautious(ARMS),
        "neighbours": build("neighbours", ARMS),
        "cheapest": build("cheapest", ARMS),
    }.items():
        quality, cost = judged(policy, trace, past=300)
        print(f"{name:12} quality {quality:.2f}  {cost:.4f} USD")
