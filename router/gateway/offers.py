"""What a request asks the ledger for: balances to decide by, then the model drawn, or the best other one that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from policies.types import BudgetState, Proposal
from router.gateway.eligibility import Requirements, offer_of
from router.gateway.types import Candidates, Decision
from router.ports import Ledger
from router.types import NANO_PER_USD, Balance, Budget, Offer, Principal

NO_BUDGET = BudgetState()
MOST_KEPT = 10_000  # balances at once


class Offers:
    """The offers of one decision, best first; each is made when it is looked at, since nearly always the first fits."""

    __slots__ = ("_choice", "_models", "_needs", "_proposal")

    def __init__(self, decision: Decision, requirements: Requirements) -> None:
        self._models, self._proposal, self._needs = decision.models, decision.proposal, requirements
        self._choice = decision.models.index(decision.model)  # which changes once another model was taken

    def __iter__(self) -> Iterator[Offer]:
        yield offer_of(self._models[self._choice], self._needs)
        if len(self._models) == 1:
            return
        for i in _others(self._proposal, self._choice):
            yield offer_of(self._models[i], self._needs)


def _others(proposal: Proposal, choice: int) -> list[int]:
    """All but the drawn model by score, best first."""
    scores = proposal.scores.tolist()
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    order.remove(choice)
    return order


class RecentBalances:
    """Reads at most every `ttl_s`, which each call says. Raises: StoreUnavailable."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._ledger, self._clock = ledger, clock
        self._read: dict[tuple[Budget, ...], tuple[float, list[Balance]]] = {}
        self._tightest: dict[str, tuple[float, tuple[Budget, ...], BudgetState]] = {}  # by key: when, of which budgets

    async def tightest(self, principal: Principal, ttl_s: float) -> BudgetState:
        """The caller's budget with the smallest share left."""
        known, now = self._tightest.get(principal.key_id), self._clock()
        if known is None or known[1] is not principal.budgets or now - known[0] > ttl_s:
            if len(self._tightest) > MOST_KEPT:
                self._tightest.clear()
            known = now, principal.budgets, _tightest(await self._of(principal.budgets, ttl_s))
            self._tightest[principal.key_id] = known
        return known[2]

    async def capacity(
        self, candidates: Candidates, budget: BudgetState, ttl_s: float
    ) -> tuple[NDArray[np.float64], BudgetState]:
        """((n,) USD left of each model's tightest budget, inf where none; the caller's budget, or the first reset)."""
        balances = await self._of(candidates.budgets, ttl_s)
        left = {each.budget: each.remaining / NANO_PER_USD for each in balances}
        tightest = [min([left[each] for each in model.budgets], default=np.inf) for model in candidates.models]
        until = BudgetState(reset_s=min([each.reset_ms for each in balances]) / 1000)
        return np.array(tightest), until if budget is NO_BUDGET else budget

    async def _of(self, budgets: tuple[Budget, ...], ttl_s: float) -> list[Balance]:
        now = self._clock()
        known = self._read.get(budgets)
        if known is None or now - known[0] > ttl_s:
            if len(self._read) > MOST_KEPT:
                self._read.clear()
            known = now, await self._ledger.balances(budgets, int(now * 1000))
            self._read[budgets] = known
        return known[1]


def _tightest(balances: Sequence[Balance]) -> BudgetState:
    """The hard budget with the smallest share left."""
    hard = [balance for balance in balances if balance.budget.hard]
    if not hard:
        return NO_BUDGET
    tight = min(hard, key=lambda b: b.remaining / max(1, b.budget.limit))
    return BudgetState(
        remaining=tight.remaining / NANO_PER_USD,
        limit=tight.budget.limit / NANO_PER_USD,
        reset_s=tight.reset_ms / 1000,
        name=f"{tight.budget.scope}/{tight.budget.period_s}",
    )
