"""Tables of benchmarks.routing on budgets for all models: alone, beside models' own, and one for each tenant."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from benchmarks.runs import Fitted, Setup, budgets_of, each_tenant, route
from policies.pacers.remaining import ANSWER, REFUSE
from policies.replay import total_budget
from policies.types import Float

TENANTS = {"large": (0.70, 1.2, 0.0), "middle": (0.22, 2.0, 0.0), "small": (0.08, 4.0, 0.1)}
"""Share of the queries, budget over what the cheapest model takes, and λ in 1 / the mean cost of an answer."""


def cheapest(run: Fitted) -> float:
    """Performance of sending everything to the model that is cheapest on this stream, which its own cost pays."""
    return float(run.scores[:, int(np.argmin(run.costs.sum(axis=0)))].sum())


def one_budget(run: Fitted) -> tuple[Float, str]:
    """((3,) answer, refuse and drop over always-the-cheapest, a line) at factor 1."""
    total, least = total_budget(run.costs), cheapest(run)
    found = [
        route(run, Setup(total=total, when_short=ANSWER)),
        route(run, Setup(total=total, when_short=REFUSE)),
        route(run, Setup(total=total, when_short=REFUSE, always_drops=True)),
    ]
    shown = "   ".join(
        f"{name} {each.performance:.0f} (served {each.throughput})"
        for name, each in zip(("answer", "refuse", "dropping plan"), found, strict=True)
    )
    return np.array([each.performance for each in found]) / least, f"cheapest {least:.0f}   {shown}"


def bounds(run: Fitted) -> str:
    """How far each mode is from what it must not be below."""
    (answer, refuse, drop), line = one_budget(run)
    better = max(1.0, float(drop))
    return f"{line}   answer {100 * (answer - 1):+.2f}%, refuse {100 * (refuse / better - 1):+.2f}% (never below -1)"


def both(run: Fitted, seed: int) -> tuple[float, float]:
    """Performance with models' budgets only, and with a budget for all of them that has as much."""
    budgets = budgets_of(run, "weighted", seed)
    own = route(run, Setup(budgets)).performance
    return own, route(run, Setup(budgets, total=float(budgets.sum()))).performance


def tenants(run: Fitted) -> Iterable[tuple[str, float]]:
    """(tenant, % of what it earns alone that it earns beside the others)."""
    together = each_tenant(run, TENANTS, tuple(TENANTS))
    for name in TENANTS:
        yield name, 100 * together[name] / each_tenant(run, TENANTS, (name,))[name]
