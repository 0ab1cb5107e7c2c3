"""An arm that is made of another, a width or a program: what is expected of it and of what it charges."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from policies.estimators.charges import Charges
from policies.estimators.derived import beside_parent, parents, usual_difference
from policies.estimators.means import Means
from policies.estimators.neighbours import NeighbourMeans
from policies.estimators.stack import Stack
from policies.estimators.stacked_or_neighbours import StackedOrNeighbours, surface
from policies.types import Arm, Float, History
from tests.policies.worlds import make_arms, make_context, make_history

ARMS = make_arms(3)
ROWS = 600
WORLD = make_history(ARMS, rows=ROWS)
PROGRAM = Arm("sure", 4e-6, 4e-6, parent=ARMS[2].name, quality=ARMS[2].quality, varies=True)


def with_program(scores: Float, *, labels: int, charge: float = 0.5) -> History:
    """The world with a program that earned these scores (N,), known on its first rows; it charges that share of what
    its prices say of a hundred tokens."""
    seen = np.where(np.arange(ROWS) < labels, scores, np.nan)
    listed = PROGRAM.prompt_price * WORLD.prompt_tokens + PROGRAM.completion_price * 100
    paid = np.where(np.arange(ROWS) < labels, charge * listed, np.nan)
    columns = np.column_stack([WORLD.scores, seen]), np.column_stack([WORLD.costs, paid])
    return replace(WORLD, arms=(*ARMS, PROGRAM), scores=columns[0], costs=columns[1])


def expected(history: History) -> Float:
    """(N, M) what a fit expects of rows that it had not seen."""
    inputs = surface(history.features, history.prompt_characters, history.prompt_tokens)
    return Stack().fit(history, inputs).quality


@pytest.mark.parametrize("labels", [0, 20, 100, 400])
def test_a_program_as_good_as_its_last_model_is_expected_to_be_from_the_start(labels: int) -> None:
    found = expected(with_program(WORLD.scores[:, 2], labels=labels))
    assert np.abs(found[:, 3] - found[:, 2]).mean() < 0.03


@pytest.mark.parametrize("worse", [0.1, 0.3])
def test_what_a_program_earns_moves_it_away_from_its_model(worse: float) -> None:
    off = [
        (found[:, 3] - found[:, 2]).mean()
        for found in (expected(with_program(WORLD.scores[:, 2] - worse, labels=n)) for n in (10, 400))
    ]
    assert -0.8 * worse < off[0] < 0.0
    assert off[1] == pytest.approx(-worse, abs=0.25 * worse)


def test_with_many_labels_a_programs_own_fit_counts_most() -> None:
    """It is good where its model is bad."""
    rng = np.random.default_rng(0)
    parent, own = rng.random((2, 2_000))
    scores = own + 0.1 * rng.standard_normal(2_000)
    share, added = beside_parent(scores, parent, own, usual=0.0, reliability=np.ones(2_000))
    assert share > 0.95
    assert abs(added) < 0.02
    few = np.where(np.arange(2_000) < 10, scores, np.nan)
    assert beside_parent(few, parent, own, usual=0.0, reliability=np.ones(2_000))[0] < 0.9


@pytest.mark.parametrize("seed", range(4))
def test_few_labels_of_a_model_and_of_what_is_made_of_it_are_told_by_all_of_them(seed: int) -> None:
    """Neither is known well: whose few labels were lucky is not taken to be better."""
    rng, truth = np.random.default_rng(seed), WORLD.scores[:, 1]
    scores = np.full((2, ROWS), np.nan)
    for row, labels in zip(scores, (12, 60), strict=True):
        some = rng.permutation(ROWS)[:labels]
        row[some] = rng.random(labels) < truth[some]
    program = Arm("vote", 3e-6, 3e-6, parent=ARMS[1].name, varies=True)
    columns = np.column_stack([WORLD.scores[:, 0], scores[0], WORLD.scores[:, 2], scores[1]])
    costs = np.column_stack([WORLD.costs, np.where(np.isnan(scores[1]), np.nan, 1e-4)])
    found = expected(replace(WORLD, arms=(*ARMS, program), scores=columns, costs=costs))
    assert np.abs(found[:, 3] - found[:, 1]).mean() < 0.04
    assert found[:, 1].mean() == pytest.approx(truth.mean(), abs=0.1)


def test_a_parent_comes_before_what_is_made_of_it_and_arms_that_name_each_other_stand_alone() -> None:
    made = {"a": None, "c": "b", "b": "a", "d": "e", "e": "d", "f": "nobody", "g": "g"}
    arms = [Arm(name, 1e-6, 1e-6, parent=parent) for name, parent in made.items()]
    found = parents(arms, np.ones(len(arms), np.bool_))
    assert list(found.items()) == [(2, 0), (1, 2)]
    assert parents(arms, np.zeros(len(arms), np.bool_)) == {}


def test_nobody_waits_for_a_program_that_may_not_be_asked() -> None:
    """Votes are for no request at temperature 0."""
    rows = replace(with_program(WORLD.scores[:, 2], labels=0))
    few = History(
        rows.embeddings[:190],
        rows.arms,
        rows.scores[:190],
        rows.costs[:190],
        rows.prompt_tokens[:190],
        rows.prompt_characters[:190],
    )
    estimator = StackedOrNeighbours(NeighbourMeans(Means()))
    estimator.refit(few)
    found = estimator.estimate(make_context(rows.arms, rows))
    assert estimator.rehearsal is not None
    assert found.quality[3] == pytest.approx(found.quality[2], abs=0.03)


@pytest.mark.parametrize("labels", [0, 10, 100, 500])
def test_a_programs_charge_is_its_list_price_until_it_charged_something_else(labels: int) -> None:
    history, charges = with_program(WORLD.scores[:, 2], labels=labels, charge=0.3), Charges()
    inputs = surface(history.features, history.prompt_characters, history.prompt_tokens)
    charges.fit(history.arms, inputs, history.prompt_tokens, history.costs)
    listed = PROGRAM.prompt_price * WORLD.prompt_tokens + PROGRAM.completion_price * 100
    share = charges.predict(inputs, history.prompt_tokens)[:, 3].sum() / listed.sum()
    assert share == pytest.approx({0: 1.0}.get(labels, 0.3), rel=0.6 if labels <= 10 else 0.15)


@pytest.mark.parametrize("answers", [0, 100])
def test_before_a_fit_too_a_programs_charge_follows_what_it_charged(answers: int) -> None:
    history = with_program(WORLD.scores[:, 2], labels=answers, charge=0.3)
    means = Means()
    means.refit(history)
    context = make_context(history.arms, history, prompt_tokens=int(WORLD.prompt_tokens.mean()))
    listed = Means().costs(context)[3]
    assert means.costs(context)[3] <= listed
    if answers:
        paid = np.nanmean(history.costs[:, 3])
        assert means.costs(context)[3] == pytest.approx(paid, rel=0.25)


@pytest.mark.parametrize(
    ("arm", "parent", "difference"),
    [
        ({}, {}, 0.0),
        ({"quality": 0.9}, {}, 0.0),  # measured alone, it compares with nothing
        ({}, {"quality": 0.9}, 0.0),
        ({"quality": 0.7}, {"quality": 0.9}, -0.2),
        ({"bits": 3.0}, {}, -0.08),
        ({"bits": 3.0, "quality": 0.9}, {}, -0.08),
        ({"bits": 3.0, "width_loss": 0.02}, {"quality": 0.9}, -0.02),
    ],
)
def test_what_is_usual_between_an_arm_and_its_parent(
    arm: dict[str, float], parent: dict[str, float], difference: float
) -> None:
    made = Arm("made", 1e-6, 1e-6, parent="parent", **arm)  # type: ignore[arg-type]
    found = usual_difference(made, Arm("parent", 1e-6, 1e-6, **parent))  # type: ignore[arg-type]
    assert found == pytest.approx(difference)
