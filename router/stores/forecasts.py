"""When a budget will be used up if it is spent on as it was so far. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from router.types import NANO_PER_USD, Balance

LEAST = 0.02  # of its period: before that nothing is foretold


@dataclass(frozen=True, slots=True)
class BudgetForecast:
    """At the pace of the period so far. Where too little is known the numbers are None, and `says` tells why."""

    says: str
    exhausted_in_s: float | None = None
    spent_at_reset_usd: float | None = None


def forecast(balance: Balance) -> BudgetForecast:
    """Of a calendar budget from what was spent since its period began; of a rolling one from a whole period."""
    budget = balance.budget
    used = balance.spent + balance.held
    if used >= budget.limit:
        return BudgetForecast("used up", 0.0, budget.limit / NANO_PER_USD)
    if used == 0:
        return BudgetForecast("nothing is spent")
    if budget.calendar is None:  # what is spent now leaves again a period later
        return BudgetForecast("rolling: holds at the pace of the last period")
    reset_s = balance.reset_ms / 1000.0
    elapsed_s = budget.period_s - reset_s
    if elapsed_s < LEAST * budget.period_s:
        return BudgetForecast("too early in its period to say")
    pace = used / elapsed_s  # nano-USD a second
    at_reset = (used + pace * reset_s) / NANO_PER_USD
    in_s = (budget.limit - used) / pace
    if in_s < reset_s:
        return BudgetForecast("will be used up before its reset", in_s, budget.limit / NANO_PER_USD)
    return BudgetForecast("holds until its reset", None, at_reset)
