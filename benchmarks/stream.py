"""A policy behind JSON lines: `python -m benchmarks.stream --policy NAME` routes any trace piped into it.

In: {"type": "init", mode, models, budgets, budget_total, lambda, N, history, when_short}, then query and feedback
lines, then end.
Out: {"ready": true}, then {"model": NAME or null} for each query. Fails by a traceback on a malformed line.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
import pandas as pd
from msgspec.structs import replace
from threadpoolctl import threadpool_limits

from backends.embedders.hashing import HashingEmbedder
from benchmarks.traces import queries_left
from policies.pacers.remaining import REFUSE
from policies.records import DecisionRecord, context_of, outcome_of, to_half
from policies.registry import NAMES, build, options_of
from policies.simulation import answered
from policies.types import Arm, BudgetState, History, LoggedContext, Neighbours, Policy, RouteContext, draw
from router.learning.index import FaissIndex

NEIGHBOURS = 100
TENANT = "stream"


class Driver:
    """One policy on the live embedder and index, with the clock of the stream: one query a second."""

    def __init__(self, policy: str, opening: dict[str, Any]) -> None:
        self.models: list[str] = opening["models"]
        self.arms = tuple(Arm(name, 0.0, 0.0) for name in self.models)
        self._horizon = int(opening["N"])
        budgets, total = opening.get("budgets"), opening.get("budget_total")
        self._left = None if budgets is None else np.array(_in_order(budgets, self.models), float)
        self._total = float("inf") if total is None else float(total)
        self._lambda = float(opening.get("lambda") or 0.0)
        self._paced = opening["mode"] == "budget"
        self._when_short = opening.get("when_short") or REFUSE
        table = pd.read_parquet(opening["history"])
        self._embedder = HashingEmbedder()
        self._embedder.fit(list(table["prompt"]))
        self.history = self._read(table)
        self._index = FaissIndex(self._embedder.dim)
        self._index.add(self.history.embeddings, np.arange(len(table)))
        self._index.settle()
        self._policy = self._build(policy)
        self._policy.refit(self.history)
        self.open: dict[str, DecisionRecord] = {}
        self._arrived = 0
        self._drops = policy != "port" and self._when_short == REFUSE  # the paper's own never drops a query
        self._rng = np.random.default_rng(0)

    def _build(self, name: str) -> Policy:
        known = options_of(name)
        offered: dict[str, object] = {"horizon": self._horizon, "when_short": self._when_short}
        if name == "paced":
            offered["explore"] = 0.0  # every arm is labelled in the history, there is nothing to find out
        if self._paced and self._left is not None:
            offered["budgets"] = dict(zip(self.models, self._left.tolist(), strict=True))
        if self._paced and np.isfinite(self._total):
            offered["budget"] = self._total
        return build(name, self.arms, {key: value for key, value in offered.items() if key in known})

    def _read(self, table: pd.DataFrame) -> History:
        texts = list(table["prompt"])
        lengths = np.array([len(text) for text in texts], np.int64)
        return History(
            embeddings=to_half(self._embedder.embed_now(texts)),
            arms=self.arms,
            scores=table[[f"score:{name}" for name in self.models]].to_numpy(np.float64),
            costs=table[[f"cost:{name}" for name in self.models]].to_numpy(np.float64),
            prompt_tokens=lengths // 4 + 1,
            prompt_characters=lengths,
            features=np.stack([self._embedder.features(text) for text in texts]),
        )

    def choose(self, query_id: str, prompt: str) -> str | None:
        """The model for this prompt, or None where every answer costs more than it is worth."""
        context = self._context(query_id, prompt)
        proposal = self._policy.propose(context)
        chosen = draw(proposal.probabilities, self._rng.random())
        self._arrived += 1
        record = DecisionRecord(context, proposal.evidence, proposal.probabilities, self.models[chosen], "")
        if self._drops and self._paced and proposal.evidence.refuses and proposal.scores[chosen] < 0.0:
            self._policy.learn(outcome_of(record, None))
            return None
        self.open[query_id] = record
        return record.model

    def learn(self, query_id: str, *, admitted: bool, score: float | None, cost: float | None) -> None:
        """Take in what came of one choice."""
        record = self.open.pop(query_id)
        chosen = self.models.index(record.model)
        if not admitted or cost is None:
            left = min(self._total, float("inf") if self._left is None else float(self._left[chosen]))
            self._policy.learn(replace(outcome_of(record, None), refused=record.model, left=left))
            return
        if self._left is not None:
            self._left[chosen] -= cost
        self._total -= cost
        paid, judged = answered(record, cost=cost, score=score or 0.0)
        self._policy.learn(outcome_of(record, paid, None if score is None else judged))

    def _context(self, query_id: str, prompt: str) -> RouteContext:
        embedding = to_half(self._embedder.embed_one(prompt))
        hits = self._index.search(embedding[None], NEIGHBOURS)
        ids = hits.ids[0]
        logged = LoggedContext(
            decision_id=query_id,
            tenant=TENANT,
            preference=self._lambda,
            embedding=embedding,
            arms=self.arms,
            prompt_tokens=len(prompt) // 4 + 1,
            prompt_characters=len(prompt),
            max_completion_tokens=4096,
            now=float(self._arrived),
            budget=self._budget(),
            capacity=None if self._left is None or not self._paced else self._left.copy(),
            features=self._embedder.features(prompt),
        )
        return context_of(logged, Neighbours(hits.similarity[0], self.history.scores[ids], self.history.costs[ids]))

    def _budget(self) -> BudgetState:
        if not self._paced:
            return BudgetState()
        return BudgetState(remaining=self._total, reset_s=queries_left(self._horizon, self._arrived), name=TENANT)


def _in_order(budgets: object, models: list[str]) -> list[float]:
    """Budgets as a list in the order of the models, given as one or by name."""
    return [budgets[name] for name in models] if isinstance(budgets, dict) else list(budgets)  # type: ignore[call-overload]


def main() -> None:
    """Read JSON lines until `end`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="paced", choices=NAMES)
    arguments = parser.parse_args()
    threadpool_limits(1)  # on a busy machine the threads of small products wait for each other
    driver: Driver | None = None
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "init":
            driver = Driver(arguments.policy, message)
            _answer({"ready": True})
        elif message["type"] == "end":
            break
        elif driver is None:
            raise ValueError(f"{message['type']} before init")
        elif message["type"] == "query":
            _answer({"model": driver.choose(message["id"], message["prompt"])})
        elif message["type"] == "feedback" and message["id"] in driver.open:
            driver.learn(message["id"], **{key: message[key] for key in ("admitted", "score", "cost")})


def _answer(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
