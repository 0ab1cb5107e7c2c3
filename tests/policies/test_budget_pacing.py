"""Each budget is paced by its own arrivals, at one price that all limits share, and says what becomes of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from policies.pacers.arrivals import HOUR_S, HOURS, Arrivals
from policies.pacers.dual import joint_dual, smoothed_dual
from policies.pacers.remaining import Remaining
from policies.records import DecisionRecord, context_of, outcome_of
from policies.registry import NAMES, build
from policies.replay import BudgetGate
from policies.simulation import FixedNeighbours, PolicyRun, QueryStream, answered, simulate
from policies.types import Arm, BudgetState, Estimates, Float, History, LoggedContext, Outcome, StoredPolicy
from tests.policies.worlds import make_arms, make_context

RNG = np.random.default_rng(5)
ROWS = 500
ARMS = make_arms(3)
NAMES_OF = tuple(arm.name for arm in ARMS)
REHEARSAL = Estimates(
    np.clip(np.array([0.4, 0.6, 0.8]) + 0.2 * RNG.normal(size=(ROWS, 3)), 0.0, 1.0),
    np.full((ROWS, 3), 0.1),
    np.array([1e-5, 4e-5, 2e-4]) * RNG.lognormal(0.0, 0.3, (ROWS, 3)),
)
PACED = [name for name in ("paced", "neighbours", "linucb", "thompson", "epsilon", "preference") if name in NAMES]


def make_pacer(**more: bool) -> Remaining:
    return Remaining(lambda: (NAMES_OF, REHEARSAL), **more)  # type: ignore[arg-type]


def arrive(pacer: Remaining, name: str, second: float) -> None:
    context = make_context(ARMS, now=second, budget=BudgetState(name=name))
    pacer.learn(Outcome(context, ARMS[0].name, float("nan"), 1e-5, 1.0, 10, second))


def price(pacer: Remaining, name: str, *, usd: float, reset_s: float = 1000.0, preference: float = 0.0) -> float:
    budget = BudgetState(remaining=usd, limit=usd, reset_s=reset_s, name=name)
    context = make_context(ARMS, preference=preference, budget=budget, now=4000.0)
    return pacer.prices(context, REHEARSAL).budget


@pytest.mark.parametrize("share", [0.2, 0.05, 0.02])
def test_a_small_tenant_is_priced_by_its_own_arrivals(share: float) -> None:
    alone, beside = make_pacer(), make_pacer()
    every = round(1.0 / share)
    for second in range(4000):
        if second % every == 0:
            arrive(alone, "small", float(second))
        arrive(beside, "small" if second % every == 0 else "big", float(second))
    usd = 1000.0 * share * 2e-4  # the expensive model for its own queries
    assert price(beside, "small", usd=usd) == pytest.approx(price(alone, "small", usd=usd), abs=1e-9)
    assert price(beside, "big", usd=usd) > price(beside, "small", usd=usd)


def test_a_new_budget_is_expected_to_be_used_as_the_others_are() -> None:
    pacer = make_pacer()
    for each in range(50):
        arrive(pacer, "old", each * 60.0)
    fresh = price(pacer, "fresh", usd=0.002)
    assert fresh <= price(make_pacer(), "fresh", usd=0.002)
    assert fresh == pytest.approx(price(pacer, "old", usd=0.002), rel=0.3, abs=500.0)


def test_a_preference_is_a_price_already() -> None:
    """μ is only what is missing of the price that keeps the budget."""
    pacer = make_pacer()
    alone = price(pacer, "acme", usd=0.03)
    assert alone > 1000.0
    assert price(pacer, "acme", usd=0.03, preference=1000.0) == pytest.approx(alone - 1000.0)
    assert price(pacer, "acme", usd=0.03, preference=2.0 * alone) == 0.0


def test_more_budgets_than_are_kept_forget_the_one_asked_about_longest_ago() -> None:
    pacer = make_pacer()
    for each in range(300):
        arrive(pacer, f"t{each}", float(each))
    assert len(pacer.state()["budgets"]) == 256


# how many come


def test_arrivals_are_forecast_by_the_hour_of_the_week() -> None:
    """Sixty an hour by day, none by night: at six in the evening few are expected before the morning."""
    arrivals, start = Arrivals(1.0), 7 * 24 * HOUR_S * 100
    for day in range(28):
        for minute in range(10 * 60):  # from eight to six
            arrivals.add(start + day * 24 * HOUR_S + 8 * HOUR_S + minute * 60.0)
    evening = start + 28 * 24 * HOUR_S - 6 * HOUR_S
    night, day_after = arrivals.expected(evening, 12 * HOUR_S), arrivals.expected(evening + 14 * HOUR_S, 10 * HOUR_S)
    assert night < 0.45 * day_after
    assert arrivals.expected(evening, 7 * 24 * HOUR_S) == pytest.approx(7 * 600, rel=0.1)


def test_even_traffic_is_forecast_evenly() -> None:
    arrivals = Arrivals(1.0)
    for second in range(5000):
        arrivals.add(float(second))
    assert arrivals.expected(5000.0, 3000.0) == pytest.approx(3000, rel=0.01)


@pytest.mark.parametrize("jump", [-1e6, 1e9, float("inf")])
def test_a_clock_that_jumps_breaks_no_forecast(jump: float) -> None:
    arrivals = Arrivals(1.0)
    for second in range(100):
        arrivals.add(1e9 + second)
    arrivals.add(1e9 + 100 + jump if np.isfinite(jump) else 1e15)
    for second in range(100):
        arrivals.add(1e9 + 101 + second)
    assert arrivals.expected(1e9 + 300, 100.0) == pytest.approx(100, rel=0.15)


def test_a_forecast_is_restored_to_the_last_bit() -> None:
    first, second = Arrivals(0.5), Arrivals(0.5)
    for at in np.cumsum(np.random.default_rng(0).exponential(600.0, 3000)):
        first.add(float(at))
    second.restore({key: np.array(value) for key, value in first.state().items()})
    for hours in (1, HOURS // 3, 2 * HOURS):
        assert first.expected(1e6, hours * HOUR_S) == second.expected(1e6, hours * HOUR_S)


# several limits at once


def test_prices_of_arms_and_of_a_budget_are_solved_as_one() -> None:
    even = np.full(ROWS, 1.0 / ROWS)
    budgets = np.array([2e-6, 8e-6, 4e-5])
    free = joint_dual(REHEARSAL.quality, REHEARSAL.cost, budgets, shared=1.0, weights=even)
    assert free[-1] == pytest.approx(0.0, abs=1.0)
    np.testing.assert_allclose(
        free[:-1], smoothed_dual(REHEARSAL.quality, REHEARSAL.cost, budgets, weights=even), rtol=0.02, atol=5.0
    )
    shared = 0.5 * float(budgets.sum())
    found = joint_dual(REHEARSAL.quality, REHEARSAL.cost, budgets, shared=shared, weights=even)
    spent = spent_at(found[:-1] + found[-1])
    assert (spent <= 1.1 * budgets).all()
    assert 0.9 * shared < spent.sum() <= 1.1 * shared
    apart = smoothed_dual(REHEARSAL.quality, REHEARSAL.cost, budgets, weights=even) + found[-1]
    assert spent_at(apart).sum() < spent.sum()  # what counting a limit twice leaves unspent


def spent_at(prices: Float) -> Float:
    scores = REHEARSAL.quality - prices * REHEARSAL.cost
    chosen = np.where(scores.max(axis=1) > 0, scores.argmax(axis=1), -1)
    return np.array([REHEARSAL.cost[chosen == arm, arm].sum() / ROWS for arm in range(3)])


# over a stream


def world(seed: int, rows: int) -> tuple[History, QueryStream]:
    """More expensive models are better, by more on some queries than on others."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(2 * rows, 16)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    level = np.array([0.45, 0.6, 0.75]) + 0.5 * np.outer(embeddings[:, 0], [0.2, 0.6, 1.0])
    scores = np.clip(level + 0.1 * rng.normal(size=level.shape), 0.0, 1.0)
    costs = np.array([1e-5, 4e-5, 2e-4]) * rng.lognormal(0.0, 0.2, scores.shape)
    tokens = np.full(2 * rows, 50)
    history = History(embeddings[:rows], ARMS, scores[:rows], costs[:rows], tokens[:rows], 4 * tokens[:rows])
    stream = QueryStream(ARMS, embeddings[rows:], scores[rows:], costs[rows:], tokens[rows:], 4 * tokens[rows:])
    return history, stream


def played(name: str, *, factor: float, when_short: str = "answer", rows: int = 300) -> tuple[PolicyRun, QueryStream]:
    """One budget of `factor` times what the cheapest model takes for all queries."""
    history, stream = world(1, rows)
    more = {} if name.endswith("-bare") else {"when_short": when_short}
    policy = build(name, ARMS, more)
    policy.refit(history)
    total = factor * float(stream.costs[:, 0].sum())
    gate = BudgetGate(3, total=total)
    view, rng = FixedNeighbours(stream, history), np.random.default_rng(0)
    return simulate(policy, stream, view, gate=gate, rng=rng, drops=when_short == "refuse"), stream


@pytest.mark.parametrize("name", PACED)
def test_every_named_policy_keeps_a_budget_to_its_end(name: str) -> None:
    run, stream = played(name, factor=3.0)
    cheapest = float(stream.scores[:, 0].sum())
    assert run.result.throughput >= 0.97 * len(stream)
    assert run.result.performance > cheapest


def test_the_bare_form_takes_the_best_model_until_the_money_is_gone() -> None:
    run, stream = played("neighbours-bare", factor=3.0)
    assert run.result.throughput < 0.7 * len(stream)


@pytest.mark.parametrize("name", ["paced", "neighbours"])
@pytest.mark.parametrize("factor", [1.0, 1.05])
def test_answering_all_is_never_much_worse_than_the_cheapest_model(name: str, factor: float) -> None:
    run, stream = played(name, factor=factor)
    assert (run.choices >= 0).all()
    assert run.result.performance >= 0.99 * float(stream.scores[:, 0].sum())


def test_refusing_is_planned_only_where_it_earns_more() -> None:
    for factor in (0.5, 1.05):
        refusing, stream = played("neighbours", factor=factor, when_short="refuse")
        answering, _ = played("neighbours", factor=factor)
        assert refusing.result.performance >= 0.99 * answering.result.performance
    assert len(stream) == 300


def test_a_sample_of_the_queries_to_come_is_as_expensive_as_all_of_them() -> None:
    """Costs with long tails: the mean of some hundred rows is far off."""
    rng = np.random.default_rng(3)
    cost = np.array([1e-5, 4e-5, 2e-4]) * rng.lognormal(0.0, 1.5, (20_000, 1))
    rehearsal = Estimates(rng.random((20_000, 3)), np.zeros((20_000, 3)), cost)
    pacer = Remaining(lambda: (NAMES_OF, rehearsal))
    curve = pacer._curve(pacer._paced("acme"), NAMES_OF)
    assert curve.spent[-1] == pytest.approx(cost.min(axis=1).mean(), rel=0.01)


def test_a_short_stream_ends_without_money_left() -> None:
    run, _ = played("neighbours", factor=1.5, when_short="refuse", rows=200)
    assert run.result.throughput >= 198


def test_what_becomes_of_queries_while_money_is_short_is_one_of_two_words() -> None:
    with pytest.raises(ValueError, match="when_short is 'drop', expected answer or refuse"):
        build("paced", ARMS, {"when_short": "drop"})


# many tenants behind one gateway

TENANTS = {"big": (1, 2.0, 0.0), "middle": (5, 6.0, 0.0), "small": (20, 12.0, 500.0)}
"""Every how many seconds a tenant asks, its budget over what the cheapest model takes, and its λ."""


def earned(tenants: tuple[str, ...], seconds: int = 2400) -> dict[str, float]:
    """Mean score less λ · cost of each tenant's queries, served by one policy that all of these share."""
    history, stream = world(2, seconds)
    policy = build("neighbours", ARMS)
    policy.refit(history)
    view, gates = FixedNeighbours(stream, history), {}
    for name in tenants:
        every, factor, _ = TENANTS[name]
        gates[name] = BudgetGate(3, total=factor * float(stream.costs[::every, 0].sum()))
    found: dict[str, list[float]] = {name: [] for name in tenants}
    for second in range(seconds):
        for name in tenants:
            every, _, preference = TENANTS[name]
            if second % every == 0:
                found[name].append(ask(policy, stream, view, second, name, gates[name], preference))
    return {name: float(np.mean(each)) for name, each in found.items()}


def ask(
    policy: StoredPolicy,
    stream: QueryStream,
    view: FixedNeighbours,
    second: int,
    name: str,
    gate: BudgetGate,
    preference: float,
) -> float:
    budget = BudgetState(gate.remaining(), gate.total, float(len(stream) - second), name)
    vector = stream.embeddings[second]
    logged = LoggedContext(f"{name}{second}", name, preference, vector, ARMS, 50, 200, 512, float(second), budget)
    proposal = policy.propose(context_of(logged, view.near(second, np.arange(3))))
    arm = int(np.argmax(proposal.probabilities))
    record = DecisionRecord(logged, proposal.evidence, proposal.probabilities, ARMS[arm].name, "neighbours")
    cost, score = float(stream.costs[second, arm]), float(stream.scores[second, arm])
    if not gate.admit(arm, cost):
        policy.learn(outcome_of(record, None))
        return 0.0
    policy.learn(outcome_of(record, *answered(record, cost=cost, score=score)))
    return score - preference * cost


def test_each_of_many_tenants_fares_as_it_would_alone() -> None:
    together = earned(tuple(TENANTS))
    for name in TENANTS:
        assert together[name] >= 0.97 * earned((name,))[name]


def test_queries_that_only_other_models_could_answer_spoil_no_price() -> None:
    pacer = Remaining(lambda: None)
    for second in range(300):
        arms = ARMS[:1] if second % 2 else ARMS[1:2]  # pinned, or one of them was away
        learn_from(pacer, arms, float(second))
    for arms in (ARMS[:1], ARMS[1:2], ARMS[:2]):
        estimates = Estimates(np.full(len(arms), 0.5), np.full(len(arms), 0.1), np.full(len(arms), 1e-5))
        budget = BudgetState(remaining=1e-3, limit=2e-3, reset_s=1000.0, name="budget")
        assert np.isfinite(pacer.prices(make_context(arms, now=300.0, budget=budget), estimates).budget)


def learn_from(pacer: Remaining, arms: tuple[Arm, ...], second: float) -> None:
    context = make_context(arms, now=second, budget=BudgetState(name="budget"))
    expected = Estimates(np.full(len(arms), 0.5), np.full(len(arms), 0.1), np.full(len(arms), 1e-5))
    pacer.learn(Outcome(context, arms[0].name, float("nan"), 1e-5, 1.0, 10, second, expected=expected))
