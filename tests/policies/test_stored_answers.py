"""A stored answer is an arm: free, as good as its maker or its judgements, and no estimator hears of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from policies.records import DecisionRecord, Feedback, SettlementRecord, packed, unpacked
from policies.registry import NAMES, build
from policies.stored_answers import without_stored
from policies.types import Arm, LoggedContext, MeasuredCost, Neighbours, Outcome, RouteContext
from router.learning.judgement import judge_policy

SMALL, LARGE = Arm("small", 1e-7, 1e-7), Arm("large", 1e-5, 1e-5)
NONE = Neighbours(np.empty(0, np.float32), np.empty((0, 3)), np.empty((0, 3)))
OPTIONS: dict[str, dict[str, Any]] = {"fixed": {"arm": "large"}}


def asked(fits: float = 1.0, judged: float | None = None, maker: str = "large", **more: Any) -> RouteContext:
    again = Arm(f"stored:{maker}", 0.0, 0.0, parent=maker, quality=judged)
    stored = np.array([np.nan, np.nan, fits])
    common = LoggedContext("d", "t", 100.0, np.full(4, 0.5, np.float32), (SMALL, LARGE, again), 100, 400, 100, 1.0)
    base = {name: getattr(common, name) for name in LoggedContext.__struct_fields__}
    return RouteContext(**{**base, "stored": stored, **more}, neighbours=NONE)


@pytest.mark.parametrize("name", [each for each in NAMES if each not in ("random", "cheapest")])
def test_whoever_would_ask_its_maker_again_gets_the_stored_answer(name: str) -> None:
    policy = build(name, (SMALL, LARGE), OPTIONS.get(name))
    proposal = policy.propose(asked())
    assert proposal.probabilities[1] == 0.0
    assert proposal.probabilities.sum() == pytest.approx(1.0)
    assert proposal.estimates.cost[2] == 0.0
    assert proposal.estimates.quality[2] == proposal.estimates.quality[1]
    drawn = policy.distribute(asked(), proposal.evidence)
    assert drawn.probabilities.tolist() == proposal.probabilities.tolist()


def test_it_is_worth_what_its_judgements_and_its_likeness_say() -> None:
    policy = build("neighbours", (SMALL, LARGE))
    made = policy.propose(asked()).estimates.quality[1]
    assert policy.propose(asked(fits=0.5)).estimates.quality[2] == pytest.approx(0.5 * made)
    assert policy.propose(asked(judged=0.9)).estimates.quality[2] == pytest.approx(0.9)
    wrong = policy.propose(asked(judged=0.1))
    assert wrong.probabilities[2] == 0.0


def test_capacities_rents_caches_and_waiting_are_those_of_the_other_arms() -> None:
    measured_cost = MeasuredCost(
        np.array([1e-7, 1e-7, np.nan]), np.array([1e-7, 1e-7, np.nan]), np.array([9.0, 9.0, np.nan])
    )
    rows: dict[str, Any] = {"capacity": np.array([0.0, 0.0, np.inf]), "cached": np.zeros(3), "waiting": np.zeros(3)}
    for name in ("paced", "neighbours", "port"):
        proposal = build(name, (SMALL, LARGE)).propose(asked(measured_cost=measured_cost, **rows))
        assert proposal.probabilities[2] == pytest.approx(1.0)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_given_again_teaches_nothing_and_beside_it_everything_is_learned(name: str) -> None:
    stored, plain = (build(name, (SMALL, LARGE), OPTIONS.get(name)) for _ in range(2))
    context = asked()
    keep = np.array([True, True, False])
    bare = replace(context, arms=context.arms[:2], stored=None, neighbours=replace(NONE, scores=NONE.scores[:, keep]))
    again = Outcome(context, "stored:large", 0.0, 0.0, 1.0, 0, 1.0)
    stored.learn(again)
    stored.learn(replace(again, arm="small", score=0.7, cost=1e-5, completion_tokens=50))
    plain.learn(Outcome(bare, "small", 0.7, 1e-5, 1.0, 50, 1.0))
    left, right = stored.state(), plain.state()
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert np.array_equal(value, right[key], equal_nan=value.dtype.kind == "f"), key


def test_a_record_with_a_stored_answer_comes_back_to_the_last_bit() -> None:
    policy, context = build("paced", (SMALL, LARGE)), asked()
    proposal = policy.propose(context)
    logged = LoggedContext(*[getattr(context, name) for name in LoggedContext.__struct_fields__])
    record = DecisionRecord(logged, proposal.evidence, proposal.probabilities, "stored:large", "paced")
    found = unpacked(packed(record))
    assert found == record
    assert found.context.stored is not None
    assert np.isnan(found.context.stored).tolist() == [True, True, False]


def decided(number: int, policy: Any, *, stored: bool) -> list[Any]:
    """A decision, what it cost and how it was judged."""
    context = asked() if stored else without_stored(asked())
    proposal = policy.propose(context)
    fields = {name: getattr(context, name) for name in LoggedContext.__struct_fields__}
    logged = LoggedContext(**{**fields, "decision_id": f"d{number}", "now": float(number)})
    model = "stored:large" if stored else ("small", "large")[number // 2 % 2]
    record = DecisionRecord(logged, proposal.evidence, np.full(len(logged.arms), 1 / len(logged.arms)), model, "random")
    paid = SettlementRecord(f"d{number}", number * 1000, model, 0 if stored else 1000, 9, 9, "settled", tenant="t")
    return [record, paid, Feedback(f"d{number}", number * 1000, float(number % 3 > 0), tenant="t")]


def test_another_policy_is_judged_on_a_log_that_holds_stored_answers() -> None:
    policy = build("random", (SMALL, LARGE))
    entries = [each for number in range(400) for each in decided(number, policy, stored=number % 2 == 1)]
    for name in ("neighbours", "cheapest"):
        quality = judge_policy(build(name, ()), entries)["quality"]
        assert quality.keys() == {"ips", "snips", "dr"}, quality
        assert 0.0 <= quality["snips"].mean <= 1.0  # type: ignore[union-attr]
