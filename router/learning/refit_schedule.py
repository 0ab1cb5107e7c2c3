"""When policies are refitted: soon while little is known of a model, then seldom."""

from __future__ import annotations

from router.learning.table import OutcomeTable

REFIT_FIRST = 200  # judgements


def next_refit(learned: int, every: int = REFIT_FIRST) -> int:
    """Judgements after which policies are refitted again, when they were refitted on so many."""
    return learned + max(every, learned // 4)


def refit_soon(table: OutcomeTable, learned: int, fitted_on: int, every: int = REFIT_FIRST) -> bool:
    """Whether a refit cannot wait for that: of a model of which little was known twice as much is known now."""
    few = max(1, every // 10)
    soonest = fitted_on + max(few, min(every, fitted_on // 5))
    return learned >= soonest and table.has_doubled(few, established=every)
