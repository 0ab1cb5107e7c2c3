"""`paced` as a whole: budgets, pacing, replicas, and the JSON lines it is scored through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from msgspec.structs import replace

from policies.composed import Composed
from policies.paced import build
from policies.replay import BudgetGate
from policies.simulation import FixedNeighbours, PolicyRun, QueryStream, simulate
from policies.types import BudgetState, History
from tests.policies.worlds import make_arms, make_context, make_history, make_outcome

ARMS = make_arms(3)
WORLD = make_history(ARMS, rows=900)
PAST = slice(0, 500)
COMING = np.arange(500, 900)


def make_past() -> History:
    return History(
        WORLD.embeddings[PAST], ARMS, WORLD.scores[PAST], WORLD.costs[PAST], WORLD.prompt_tokens[PAST],
        WORLD.prompt_characters[PAST],
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted_state() -> dict[str, np.ndarray]:
    policy = build(ARMS, explore=0.0)
    policy.refit(make_past())
    return dict(policy.state())


@pytest.fixture
def policy(fitted_state: dict[str, np.ndarray]) -> Composed:
    made = build(ARMS, explore=0.0)
    made.restore(fitted_state)
    return made


def run(policy: Composed, gate: BudgetGate, order: np.ndarray = COMING) -> PolicyRun:
    stream = QueryStream(
        ARMS, WORLD.embeddings[order], WORLD.scores[order], WORLD.costs[order], WORLD.prompt_tokens[order],
        WORLD.prompt_characters[order],
    )  # fmt: skip
    return simulate(
        policy, stream, FixedNeighbours(stream, make_past()), gate=gate, rng=np.random.default_rng(0), drops=True
    )


def shared_budget() -> float:
    """USD: three times what the cheapest arm costs on everything."""
    return 3.0 * float(WORLD.costs[COMING].sum(axis=0).min())


def test_no_budget_is_ever_exceeded(policy: Composed) -> None:
    budgets = np.full(3, shared_budget() / 3.0)
    gate = BudgetGate(3, budgets=budgets)
    run(policy, gate)
    assert (gate.spent <= budgets).all()
    assert gate.spent.sum() > 0.8 * budgets.sum()


def test_a_shared_budget_lasts_to_the_last_query_and_is_used(policy: Composed) -> None:
    gate = BudgetGate(3, total=shared_budget())
    spent = run(policy, gate).spent
    assert spent[-1] <= shared_budget()
    assert spent[-1] > 0.85 * shared_budget()
    halfway = spent[len(spent) // 2] / shared_budget()
    assert 0.35 < halfway < 0.65


def test_spending_is_paced_when_long_queries_come_first(policy: Composed) -> None:
    order = COMING[np.argsort(-WORLD.prompt_tokens[COMING], kind="stable")]
    mixed = run(policy, BudgetGate(3, total=shared_budget())).result.performance
    blocked = run(policy, BudgetGate(3, total=shared_budget()), order).result.performance
    assert blocked > 0.95 * mixed


def test_it_earns_more_than_any_single_arm_that_fits_the_budget(policy: Composed) -> None:
    result = run(policy, BudgetGate(3, total=shared_budget())).result
    for arm in range(3):
        gate = BudgetGate(3, total=shared_budget())
        served = [gate.admit(arm, float(cost)) for cost in WORLD.costs[COMING, arm]]
        assert result.performance > float(WORLD.scores[COMING, arm][served].sum())


def test_a_higher_preference_never_chooses_a_cheaper_answer(policy: Composed) -> None:
    chosen = []
    for price in (0.0, 1e2, 1e3, 1e4, 1e6):
        proposal = policy.propose(make_context(ARMS, make_past(), preference=price))
        chosen.append(proposal.estimates.cost[np.argmax(proposal.probabilities)])
    assert chosen == sorted(chosen, reverse=True)


def test_replicas_that_learn_the_same_outcomes_agree_to_the_last_bit(
    policy: Composed, fitted_state: dict[str, np.ndarray]
) -> None:
    other = build(ARMS, explore=0.0)
    other.restore(fitted_state)
    past, budget = make_past(), BudgetState(remaining=0.01, limit=1.0, reset_s=500.0, name="acme")
    for seed in range(60):
        context = make_context(ARMS, past, seed=seed, budget=budget)
        outcome = make_outcome(context, ARMS[seed % 3].name, score=(seed % 4) / 3)
        policy.learn(outcome)
        other.learn(outcome)
        ours, theirs = policy.propose(context), other.propose(context)
        np.testing.assert_array_equal(ours.scores, theirs.scores)
        np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)


def test_the_share_that_explores_is_in_the_probabilities(fitted_state: dict[str, np.ndarray]) -> None:
    curious = build(ARMS, explore=0.05)
    curious.restore(fitted_state)
    proposal = curious.propose(make_context(ARMS, make_past()))
    assert (proposal.probabilities > 0).all()
    assert proposal.probabilities.max() > 0.95


def test_it_looks_around_until_its_arms_are_known(policy: Composed) -> None:
    context = make_context(ARMS, make_past())
    unknown = build(ARMS, explore=0.0).propose(context).probabilities
    known = policy.propose(context).probabilities
    assert (unknown > 0).sum() > 1
    assert known.max() == 1.0


@pytest.mark.parametrize("options", [{"resolve": 0}, {"queries_per_s": 0.0}, {"explore": 1.5}])
def test_an_option_out_of_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        build(ARMS, **options)  # type: ignore[arg-type]


def test_a_trace_is_routed_through_json_lines_within_its_budgets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    prompts = [
        f"question {i} about {'algebra' if i % 2 else 'poetry'} {'word ' * int(rng.integers(1, 30))}"
        for i in range(140)
    ]
    costs = np.array([[len(text) * 1e-7, len(text) * 5e-7] for text in prompts])
    scores = np.array([[0.3 + 0.4 * (i % 2), 0.8] for i in range(140)])
    names = ["small", "large"]
    table = pd.DataFrame({"prompt": prompts, "task": "t"})
    for column, name in enumerate(names):
        table[f"score:{name}"], table[f"cost:{name}"] = scores[:, column], costs[:, column]
    table[40:].to_parquet(tmp_path / "history.parquet")
    budgets = [float(costs[:40, 0].sum()) / 2, float(costs[:40, 0].sum()) / 2]
    opening: dict[str, object] = {
        "type": "init",
        "mode": "budget",
        "models": names,
        "budgets": budgets,
        "budget_total": None,
    }
    opening |= {"lambda": None, "N": 40, "history": str(tmp_path / "history.parquet")}
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.stream", "--policy", "paced"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None

        def say(message: dict[str, object]) -> None:
            process.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]

        say(opening)
        assert json.loads(process.stdout.readline()) == {"ready": True}
        spent, served = [0.0, 0.0], 0
        for row in range(40):
            say({"type": "query", "id": str(row), "prompt": prompts[row]})
            answer = json.loads(process.stdout.readline())["model"]
            if answer is None:
                continue
            arm = names.index(answer)
            fits = spent[arm] + costs[row, arm] <= budgets[arm]
            spent[arm] += costs[row, arm] * fits
            served += fits
            outcome = {"score": scores[row, arm], "cost": costs[row, arm]} if fits else {"score": None, "cost": None}
            say({"type": "feedback", "id": str(row), "admitted": bool(fits), **outcome})
        say({"type": "end"})
        assert process.wait(timeout=30) == 0
    assert served >= 18


def test_one_new_arm_does_not_make_a_fitted_fleet_look_around_again() -> None:
    fleet, past = make_arms(4), make_history(make_arms(4), rows=500)
    scores, costs = past.scores.copy(), past.costs.copy()
    scores[10:, 3], costs[10:, 3] = np.nan, np.nan
    settled = build(fleet, explore=0.01)
    settled.refit(replace(past, scores=scores, costs=costs))
    for seed in range(20):
        proposal = settled.propose(make_context(fleet, past, seed=seed))
        assert proposal.probabilities.max() >= 0.99
