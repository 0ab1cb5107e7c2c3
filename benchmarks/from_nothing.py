"""What a gateway that knows nothing learns from its own answers: `python -m benchmarks.from_nothing TRACE …`.

A trace goes through the views that a gateway has (index, table, sources, policies), which refit and fit the embedder
as often as there. Scores are told of a share of the answers, or by a judge that is right so often. The table says by
how many points the mean utility of each thousand requests lies above that of the best single model in hindsight.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from backends.embedders.hashing import HashingEmbedder
from benchmarks.live_run import TOKENS
from benchmarks.traces import STREAMS, PublicTrace, load_trace
from policies.intervals import Interval, interval_of
from policies.records import NANO_PER_USD, DecisionRecord, Feedback, SettlementRecord, to_half
from policies.registry import build
from policies.reliability import PRIOR
from policies.replay import Rows
from policies.types import Arm, Float, LoggedContext, StoredPolicy, draw
from router.learning.index import FaissIndex
from router.learning.spaces import FIRST_FIT
from router.learning.views import REFIT_FIRST, Moved, Views, next_refit

WINDOW = 1_000  # requests of one column
NEIGHBOURS = 100
LATE, LATE_WHERE_FEW = (
    1_000,
    2_000,
)  # requests from which the best single model is reached; where half or fewer are judged


@dataclass(frozen=True)
class Told:
    """Which answers are judged, and how well."""

    share: float = 1.0
    right: float = 1.0  # of the judgements; below 1 they are a judge's, and believed as a judge's are at first

    def feedback(self, decision_id: str, at_ms: int, score: float, rng: np.random.Generator) -> Feedback | None:
        """What is said of this answer, if anything is."""
        if rng.random() >= self.share:
            return None
        if self.right == 1.0:
            return Feedback(decision_id, at_ms, score)
        said = score if rng.random() < self.right else 1.0 - score
        return Feedback(decision_id, at_ms, said, source="judge:scripted", reliability=PRIOR)


class Gateway:
    """The views of one gateway over one policy, without HTTP."""

    def __init__(self, policy: str, trace: PublicTrace) -> None:
        prices = trace.costs.mean(axis=0) / TOKENS
        self.trace, self.prices = trace, prices
        self.arms = tuple(Arm(name, 0.0, float(usd)) for name, usd in zip(trace.models, prices, strict=True))
        self.policy: StoredPolicy = build(policy, self.arms)
        self.embedder = HashingEmbedder()
        self.views = Views(FaissIndex(self.embedder.dim), {policy: self.policy})
        self.texts: list[int] = []  # rows asked, in order
        self.next_refit, self.next_fit = REFIT_FIRST, FIRST_FIT

    def ask(self, row: int, price: float, rng: np.random.Generator) -> tuple[int, DecisionRecord]:
        """The model that answers and the record of it."""
        trace, at = self.trace, len(self.texts)
        text = trace.prompts[row]
        logged = LoggedContext(
            decision_id=str(at),
            tenant="one",
            preference=price,
            embedding=to_half(self.embedder.embed_one(text)),
            arms=self.arms,
            prompt_tokens=len(text) // 4 + 1,
            prompt_characters=len(text),
            max_completion_tokens=1 << 30,
            now=float(at),
            features=trace.features[row],
            neighbours_asked=NEIGHBOURS,
        )
        proposal = self.policy.propose(self.views.context(logged))
        arm = draw(proposal.probabilities, rng.random())
        record = DecisionRecord(logged, proposal.evidence, proposal.probabilities, self.arms[arm].name, policy="")
        self.views.take(record)
        self.texts.append(row)
        return arm, record

    def settle(self, record: DecisionRecord, arm: int, cost: float, said: Feedback | None) -> None:
        """The answer's cost, what was said of it, and what is due then."""
        nano, tokens = round(cost * NANO_PER_USD), round(cost / self.prices[arm])
        prompt = record.context.prompt_tokens
        self.views.take(
            SettlementRecord(record.decision_id, record.at_ms, record.model, nano, prompt, tokens, "settled")
        )
        if said is not None:
            self.views.take(said)
        if len(self.texts) >= self.next_fit:
            self._fit()
        elif self.views.learned >= self.next_refit and len(self.views.table):
            self._refit()

    def _fit(self) -> None:
        """The embedder's space is made of all texts so far; everything is embedded anew."""
        self.next_fit = 2 * len(self.texts)
        self.embedder.fit([self.trace.prompts[row] for row in self.texts])
        views = self.views
        judged = [(known, known.record) for _, _, known in views.open.items()]
        vectors = np.zeros((len(views.table), views.index.dim), np.float32)
        for known, record in judged:
            if known.row >= 0:
                vectors[known.row] = self.embedder.embed_one(self.trace.prompts[self.texts[int(record.decision_id)]])
        views.move(Moved(views.space, len(self.texts), *views.at(vectors)))
        if len(views.table):
            self._refit()

    def _refit(self) -> None:
        self.next_refit = next_refit(self.views.learned)
        self.policy.refit(self.views.prepared(self.arms))


def run(policy: str, trace: PublicTrace, rows: Rows, price: float, told: Told, *, seed: int) -> Float:
    """(n,) score − λ · cost of each request."""
    gateway, rng, asked = Gateway(policy, trace), np.random.default_rng(seed), np.random.default_rng(seed + 1)
    worth = np.zeros(len(rows))
    for at, row in enumerate(rows):
        arm, record = gateway.ask(int(row), price, rng)
        score, cost = float(trace.scores[row, arm]), float(trace.costs[row, arm])
        worth[at] = score - price * cost
        gateway.settle(record, arm, cost, told.feedback(record.decision_id, record.at_ms, score, asked))
    return worth


def best_single(trace: PublicTrace, rows: Rows, price: float) -> Float:
    """(n,) of the model whose sum is the largest in hindsight."""
    worth = trace.scores[rows] - price * trace.costs[rows]
    return np.asarray(worth[:, int(np.argmax(worth.sum(axis=0)))])


def windows(gains: Float, start: int) -> Iterator[tuple[str, Interval]]:
    """Points gained in each thousand of requests (orders, n), and from `start` on, with intervals over orders."""
    n = gains.shape[1]
    for first in range(0, n, WINDOW):
        last = min(first + WINDOW, n)
        if last - first >= WINDOW // 2:
            yield f"{first}–{last}", interval_of(100.0 * gains[:, first:last].mean(axis=1))
    if start < n:
        yield f"from {start}", interval_of(100.0 * gains[:, start:].mean(axis=1))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*", default=list(STREAMS))
    parser.add_argument("--policy", nargs="*", default=["paced"])
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--price", type=float, nargs="*", default=[0.1], help="λ times the mean cost of an answer")
    parser.add_argument("--share", type=float, nargs="*", default=[1.0], help="of the answers that are judged")
    parser.add_argument("--right", type=float, default=1.0, help="of the judgements; below 1: of a judge")
    arguments = parser.parse_args()
    threadpool_limits(1)
    for name in arguments.traces:
        trace = load_trace(name)
        for policy in arguments.policy:
            for part in arguments.price:
                for share in arguments.share:
                    started, told = time.perf_counter(), Told(share, arguments.right)
                    price, gains = part / float(trace.costs.mean()), []
                    for seed in range(arguments.orders):
                        rows = np.random.default_rng(1000 + seed).permutation(len(trace.prompts))[: arguments.requests]
                        single = best_single(trace, rows, price)
                        gains.append(run(policy, trace, rows, price, told, seed=seed) - single)
                    start = LATE if share > 0.5 else LATE_WHERE_FEW
                    cells = "  ".join(
                        f"{label} {each.mean:+.1f} ± {each.high - each.mean:.1f}"
                        for label, each in windows(np.array(gains), start)
                    )
                    what = f"{name} {policy} λ {part:g} judged {share:g} right {arguments.right:g}"
                    print(f"{what}: {cells}  ({time.perf_counter() - started:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
