"""What a gateway that knows nothing learns from its own answers: `python -m benchmarks.from_nothing TRACE …`.

A trace goes through the views that a gateway has (index, table, sources, policies), which refit and fit the embedder
as often as there. Scores are told of a share of the answers, or by a judge that is right so often. The table says by
how many points the mean utility of each thousand requests lies above that of the best single model in hindsight.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType

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
from policies.types import Arm, Float, LoggedContext, Proposal, StoredPolicy, draw
from research.provenance import provenance
from router.learning.index import FaissIndex
from router.learning.refit_schedule import REFIT_FIRST, next_refit, refit_soon
from router.learning.spaces import FIRST_FIT
from router.learning.views import Moved, Views

WINDOW = 1_000  # requests of one column
NEIGHBOURS = 100
LATE, LATE_WHERE_FEW = (
    1_000,
    2_000,
)  # requests from which the best single model is reached; where half or fewer are judged


NOBODY: Mapping[str, int] = MappingProxyType({})
JOINED_AFTER = 200  # requests from which on a model that joined must earn …


@dataclass(frozen=True)
class JudgedShare:
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


class ColdGateway:
    """The views of one gateway over one policy, without HTTP."""

    def __init__(self, policy: str, trace: PublicTrace, joins: Mapping[str, int] = NOBODY) -> None:
        prices = trace.costs.mean(axis=0) / TOKENS
        self.trace, self.prices = trace, prices
        self.all = tuple(Arm(name, 0.0, float(usd)) for name, usd in zip(trace.models, prices, strict=True))
        self.joins = joins  # requests before which a model is not there
        self.policy: StoredPolicy = build(policy, self.arms_at(0))
        self.embedder = HashingEmbedder()
        self.views = Views(FaissIndex(self.embedder.dim), {policy: self.policy})
        self.texts: list[int] = []  # rows asked, in order
        self.fitted_on, self.next_fit = 0, FIRST_FIT

    def arms_at(self, request: int) -> tuple[Arm, ...]:
        """The models that are there then."""
        return tuple(arm for arm in self.all if request >= self.joins.get(arm.name, 0))

    def logged(self, row: int, price: float) -> LoggedContext:
        """A request for this row, as it is logged."""
        trace, at = self.trace, len(self.texts)
        text = trace.prompts[row]
        return LoggedContext(
            decision_id=str(at),
            tenant="one",
            preference=price,
            embedding=to_half(self.embedder.embed_one(text)),
            arms=self.arms_at(at),
            prompt_tokens=len(text) // 4 + 1,
            prompt_characters=len(text),
            max_completion_tokens=1 << 30,
            now=float(at),
            features=trace.features[row],
            neighbours_asked=NEIGHBOURS,
        )

    def proposal(self, logged: LoggedContext) -> Proposal:
        """What the policy proposes for it now."""
        return self.policy.propose(self.views.context(logged))

    def ask(self, row: int, price: float, rng: np.random.Generator) -> tuple[int, DecisionRecord]:
        """The model that answers and the record of it."""
        logged = self.logged(row, price)
        proposal = self.proposal(logged)
        arm = draw(proposal.probabilities, rng.random())
        name = logged.arms[arm].name
        record = DecisionRecord(logged, proposal.evidence, proposal.probabilities, name, policy="")
        self.views.take(record)
        self.texts.append(row)
        return self.trace.models.index(name), record

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
        elif len(self.views.table) and self._is_due():
            self._refit()

    def _is_due(self) -> bool:
        learned, seldom = self.views.learned, next_refit(self.fitted_on) if self.fitted_on else REFIT_FIRST
        return learned >= seldom or refit_soon(self.views.table, learned, self.fitted_on)

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
        self.fitted_on = self.views.learned
        self.policy.refit(self.views.prepared(self.arms_at(len(self.texts))))
        self.views.table.fitted()


def run(
    policy: str,
    trace: PublicTrace,
    rows: Rows,
    price: float,
    judge: JudgedShare,
    *,
    seed: int,
    joins: Mapping[str, int] = NOBODY,
) -> Float:
    """(n,) score − λ · cost of each request."""
    gateway, rng, asked = (
        ColdGateway(policy, trace, joins),
        np.random.default_rng(seed),
        np.random.default_rng(seed + 1),
    )
    worth = np.zeros(len(rows))
    for at, row in enumerate(rows):
        arm, record = gateway.ask(int(row), price, rng)
        score, cost = float(trace.scores[row, arm]), float(trace.costs[row, arm])
        worth[at] = score - price * cost
        gateway.settle(record, arm, cost, judge.feedback(record.decision_id, record.at_ms, score, asked))
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


def joined(
    policy: str, trace: PublicTrace, rows: Rows, price: float, judge: JudgedShare, *, seed: int, late: str
) -> Float:
    """(2,) points of utility a request that a model adds from JOINED_AFTER requests after the middle on. The first is
    of a model that joins in the middle, the second of one that was always there."""
    at = len(rows) // 2

    def after(joins: Mapping[str, int]) -> float:
        worth = run(policy, trace, rows, price, judge, seed=seed, joins=joins)
        return 100.0 * float(worth[at + JOINED_AFTER :].mean())

    without, late_one, always = after({late: len(rows)}), after({late: at}), after({})
    return np.array([late_one - without, always - without])


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*", default=list(STREAMS), help="names, or files with a trace")
    parser.add_argument("--processes", type=int, default=1, help="orders at once")
    parser.add_argument("--policy", nargs="*", default=["paced"])
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--price", type=float, nargs="*", default=[0.1], help="λ times the mean cost of an answer")
    parser.add_argument("--share", type=float, nargs="*", default=[1.0], help="of the answers that are judged")
    parser.add_argument("--right", type=float, default=1.0, help="of the judgements; below 1: of a judge")
    parser.add_argument("--join", nargs="*", default=[], help="models that join in the middle, one at a time")
    arguments = parser.parse_args()
    threadpool_limits(1)
    if arguments.join:
        return late_joiners(arguments)
    for name in arguments.traces:
        for policy in arguments.policy:
            for part in arguments.price:
                for share in arguments.share:
                    started = time.perf_counter()
                    with ProcessPoolExecutor(arguments.processes) as pool:
                        order = partial(_gained, name, policy, part, JudgedShare(share, arguments.right))
                        gains = list(pool.map(partial(order, arguments.requests), range(arguments.orders)))
                    start = LATE if share > 0.5 else LATE_WHERE_FEW
                    cells = "  ".join(
                        f"{label} {each.mean:+.1f} ± {each.high - each.mean:.1f}"
                        for label, each in windows(np.array(gains), start)
                    )
                    what = f"{name} {policy} λ {part:g} judged {share:g} right {arguments.right:g}"
                    print(f"{what}: {cells}  ({time.perf_counter() - started:.0f} s)", flush=True)
    print(f"\n{provenance()}")
    return 0


def _gained(name: str, policy: str, part: float, judge: JudgedShare, requests: int, seed: int) -> Float:
    """(n,) utility of each request of one order beyond that of the best single model in hindsight."""
    threadpool_limits(1)
    trace = _loaded(name)
    price, rows = part / float(trace.costs.mean()), _order(trace, requests, seed)
    return run(policy, trace, rows, price, judge, seed=seed) - best_single(trace, rows, price)


def _order(trace: PublicTrace, requests: int, seed: int) -> Rows:
    return np.random.default_rng(1000 + seed).permutation(len(trace.prompts))[:requests]


@lru_cache(maxsize=1)
def _loaded(name: str) -> PublicTrace:
    return load_trace(name)


def late_joiners(arguments: argparse.Namespace) -> int:
    """Print what each model earns that joins in the middle."""
    trace = load_trace(arguments.traces[0])
    price, judge = arguments.price[0] / float(trace.costs.mean()), JudgedShare(arguments.share[0], arguments.right)
    for late in arguments.join:
        found = []
        for seed in range(arguments.orders):
            rows = _order(trace, arguments.requests, seed)
            found.append(joined(arguments.policy[0], trace, rows, price, judge, seed=seed, late=late))
        got, worth = np.array(found).mean(axis=0)
        each = ", ".join(f"{a:+.1f} of {b:+.1f}" for a, b in found)
        print(f"{trace.name} {late}: {got:+.2f} of {worth:+.2f} points ({100 * got / worth:.0f}%): {each}", flush=True)
    print(f"\n{provenance()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
