"""The estimators of `paced`: trees, kernels, charges, new arms, the stack and what watches it."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from policies.estimators.charges import Charges
from policies.estimators.cold_start import cold_start_arms, fit_cold_start, known_arms
from policies.estimators.drift import Health, Residuals, Tariff
from policies.estimators.drift_corrected import DriftCorrected
from policies.estimators.forest import Forest
from policies.estimators.kernel import KernelRidge
from policies.estimators.means import Means
from policies.estimators.neighbours import NeighbourMeans
from policies.estimators.stack import stack_weights
from policies.estimators.stacked_or_neighbours import StackedOrNeighbours
from policies.priors import width_offset
from policies.types import Arm, History, Neighbours, RouteContext
from tests.policies.worlds import make_arms, make_context, make_history, make_outcome

ARMS = make_arms(4)
HISTORY = make_history(ARMS, rows=500)


def small_forest() -> Forest:
    return Forest(trees=12, depth=8, leaf=5, inputs=0.5)


def make_drift_corrected(history: History = HISTORY) -> DriftCorrected:
    estimator = DriftCorrected(StackedOrNeighbours(NeighbourMeans(Means())))
    estimator.refit(history)
    return estimator


@pytest.fixture(scope="module")
def fitted_state() -> dict[str, np.ndarray]:
    return dict(make_drift_corrected().state())


@pytest.fixture
def estimator(fitted_state: dict[str, np.ndarray]) -> DriftCorrected:
    estimator = DriftCorrected(StackedOrNeighbours(NeighbourMeans(Means())))
    estimator.restore(fitted_state)
    return estimator


def query(seed: int = 1, **changes: object) -> RouteContext:
    return make_context(ARMS, HISTORY, seed=seed, **changes)


@pytest.mark.parametrize("member", [small_forest(), KernelRidge(width=1.0, penalty=1.0, landmarks=100)])
class TestRegressor:
    def test_one_row_is_predicted_as_in_a_batch(self, member: Forest | KernelRidge) -> None:
        member.fit(HISTORY.embeddings, HISTORY.scores)
        batch = member.predict(HISTORY.embeddings[:50])
        single = np.concatenate([member.predict(row[None]) for row in HISTORY.embeddings[:50]])
        np.testing.assert_allclose(single, batch, rtol=1e-4, atol=1e-5)

    def test_it_beats_the_mean_on_rows_it_has_not_seen(self, member: Forest | KernelRidge) -> None:
        member.fit(HISTORY.embeddings[:400], HISTORY.scores[:400])
        errors = (member.predict(HISTORY.embeddings[400:]) - HISTORY.scores[400:]) ** 2
        assert errors.mean() < 0.9 * HISTORY.scores[400:].var(axis=0).mean()

    def test_gaps_are_not_taken_for_zeros(self, member: Forest | KernelRidge) -> None:
        gappy = HISTORY.scores.copy()
        gappy[np.random.default_rng(0).random(gappy.shape) < 0.6] = np.nan
        member.fit(HISTORY.embeddings, gappy)
        mean = member.predict(HISTORY.embeddings).mean(axis=0)
        np.testing.assert_allclose(mean, HISTORY.scores.mean(axis=0), atol=0.06)

    def test_fitting_twice_gives_the_same(self, member: Forest | KernelRidge) -> None:
        member.fit(HISTORY.embeddings, HISTORY.scores)
        first = member.predict(HISTORY.embeddings[:20])
        member.fit(HISTORY.embeddings, HISTORY.scores)
        np.testing.assert_array_equal(first, member.predict(HISTORY.embeddings[:20]))


def test_a_listed_price_is_charged_by_the_token() -> None:
    charges = Charges()
    features = np.log1p(np.stack([HISTORY.prompt_tokens, HISTORY.prompt_characters], 1)).astype(np.float32)
    charges.fit(ARMS, features, HISTORY.prompt_tokens, HISTORY.costs)
    short, long = charges.predict(features[[0, 0]], np.array([100, 10_100]))
    np.testing.assert_allclose(long - short, [10_000 * arm.prompt_price for arm in ARMS])


@pytest.mark.parametrize("listed", [True, False])
def test_expected_charges_are_right_in_the_mean(listed: bool) -> None:
    arms = ARMS if listed else tuple(Arm(arm.name, 0.0, 0.0) for arm in ARMS)
    charges = Charges()
    features = np.log1p(np.stack([HISTORY.prompt_tokens, HISTORY.prompt_characters], 1)).astype(np.float32)
    charges.fit(arms, features, HISTORY.prompt_tokens, HISTORY.costs)
    expected = charges.predict(features, HISTORY.prompt_tokens)
    np.testing.assert_allclose(expected.mean(axis=0), HISTORY.costs.mean(axis=0), rtol=0.03)


def test_the_better_member_gets_the_weight() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((400, 3))
    near, far = truth + 0.05 * rng.normal(size=truth.shape), truth + 0.8 * rng.normal(size=truth.shape)
    weights = stack_weights([near, far], truth, truth.mean(axis=0), np.ones(len(truth)))
    assert weights[0] > 0.8
    assert 0.0 <= weights[1] < 0.2
    assert weights.sum() <= 1.0


def test_an_arm_with_few_labels_beside_well_known_ones_is_a_new_arm() -> None:
    scores = HISTORY.scores.copy()
    scores[30:, 2] = np.nan
    assert cold_start_arms(scores).tolist() == [False, False, True, False]
    assert not cold_start_arms(scores[:30]).any()


def test_a_new_arm_is_held_below_its_labels_and_the_more_so_the_fewer_they_are() -> None:
    rng = np.random.default_rng(0)
    known = np.clip(rng.normal(0.5, 0.3, (1000, 3)) + np.array([-0.1, 0.0, 0.1]), 0.0, 1.0)
    truth = np.clip(known.mean(axis=1) + 0.1 + 0.2 * rng.normal(size=1000), 0.0, 1.0)

    def level(labels: int) -> float:
        seen = np.where(np.arange(1000) < labels, truth, np.nan)
        weights, _, offset = fit_cold_start(known_arms(known, known), seen)
        return float((known @ weights + offset).mean())

    assert level(0) < level(20) < level(500) < truth.mean()


def test_easy_prompts_do_not_make_a_new_arm_look_good() -> None:
    rng = np.random.default_rng(0)
    expected = np.full((1000, 4), 0.5) + np.array([-0.05, 0.0, 0.05, 0.1])
    luck = 0.3 * rng.normal(size=(1000, 1)) + 0.05 * rng.normal(size=(1000, 5))  # all arms share it
    known, truth = np.clip(expected + luck[:, :4], 0.0, 1.0), np.clip(0.55 + luck[:, 4], 0.0, 1.0)

    def level(rows: np.ndarray) -> float:
        seen = np.full(1000, np.nan)
        seen[rows] = truth[rows]
        weights, _, offset = fit_cold_start(known_arms(known, expected), seen)
        return float((expected @ weights + offset).mean())

    order = np.argsort(luck.mean(axis=1))
    hard, easy = order[:40], order[-40:]
    assert truth[easy].mean() - truth[hard].mean() > 0.98
    assert abs(level(easy) - level(hard)) < 0.1


def test_a_new_arm_is_believed_good_where_the_known_arms_it_resembles_are() -> None:
    rng = np.random.default_rng(0)
    kind = rng.random(1000) < 0.5  # two kinds of query, each the strength of two arms
    expected = np.where(kind[:, None], [0.8, 0.7, 0.3, 0.4], [0.3, 0.4, 0.8, 0.7]).astype(np.float64)
    known = (rng.random((1000, 4)) < expected).astype(np.float64)
    seen = np.full(1000, np.nan)
    seen[:50] = rng.random(50) < np.where(kind[:50], 0.8, 0.3)
    weights, _, offset = fit_cold_start(known_arms(known, expected), seen)
    believed = expected @ weights + offset
    assert believed[kind].mean() > believed[~kind].mean() + 0.2


def test_sparse_labels_of_the_known_arms_are_enough_to_place_a_new_arm() -> None:
    rng = np.random.default_rng(0)
    expected = np.full((1000, 3), 0.5) + np.array([-0.1, 0.0, 0.1])
    known = (rng.random((1000, 3)) < expected).astype(np.float64)
    known[rng.random((1000, 3)) < 0.7] = np.nan
    seen = np.full(1000, np.nan)
    seen[:150] = rng.random(150) < 0.6
    weights, _, offset = fit_cold_start(known_arms(known, expected), seen)
    assert 0.45 < (expected @ weights + offset).mean() < 0.65


def test_a_new_arm_joins_with_fifty_labels() -> None:
    scores, costs = HISTORY.scores.copy(), HISTORY.costs.copy()
    scores[50:, 3], costs[50:, 3] = np.nan, np.nan
    estimates = make_drift_corrected(replace(HISTORY, scores=scores, costs=costs)).estimate(query())
    assert 0.4 < estimates.quality[3] < 1.0
    assert estimates.cost[3] == pytest.approx(make_drift_corrected().estimate(query()).cost[3], rel=0.5)


def test_a_query_far_from_everything_falls_back_to_the_means_and_is_less_sure(estimator: DriftCorrected) -> None:
    near = query()
    similarity = np.full_like(near.neighbours.similarity, 1e-3)
    far = replace(near, neighbours=replace(near.neighbours, similarity=similarity))
    means = HISTORY.scores.mean(axis=0)
    close, outside = estimator.estimate(near), estimator.estimate(far)
    assert np.abs(outside.quality - means).max() < 0.1 * np.abs(close.quality - means).max()
    assert (outside.sigma > close.sigma).all()


def far_query(seed: int = 1, **changes: object) -> RouteContext:
    """Near some of history by its embedding, and a thousand times as long as anything in it."""
    return query(seed, prompt_tokens=100_000, prompt_characters=400_000, **changes)


def test_a_prompt_unlike_any_in_its_surface_falls_back_to_the_means_though_its_embedding_is_near(
    estimator: DriftCorrected,
) -> None:
    means = HISTORY.scores.mean(axis=0)
    close, outside = estimator.estimate(query()), estimator.estimate(far_query())
    assert np.abs(outside.quality - means).max() < 0.5 * np.abs(close.quality - means).max()
    assert (outside.sigma > 1.4 * close.sigma).all()


def test_what_one_far_query_earned_is_expected_of_the_next_and_not_of_ordinary_ones(
    estimator: DriftCorrected,
) -> None:
    before, ordinary = estimator.estimate(far_query(99)).quality[3], estimator.estimate(query(99)).quality[3]
    for seed in range(12):
        estimator.learn(make_outcome(far_query(seed), ARMS[3].name, score=0.0, cost=float("nan")))
    assert estimator.estimate(far_query(99)).quality[3] < 0.6 * before
    assert estimator.estimate(query(99)).quality[3] > 0.9 * ordinary


def test_expensive_answers_out_of_distribution_are_no_new_tariff(estimator: DriftCorrected) -> None:
    before = estimator.estimate(query(99)).cost[3]
    for seed in range(12):
        asked = far_query(seed)
        cost = 6.0 * float(estimator.estimate(asked).cost[3])
        estimator.learn(make_outcome(asked, ARMS[3].name, score=float("nan"), cost=cost))
    assert estimator.estimate(query(99)).cost[3] < 1.2 * before


def test_an_arm_whose_answers_cost_more_than_its_budget_holds_is_thought_more_expensive_with_each(
    estimator: DriftCorrected,
) -> None:
    costs = []
    for seed in range(6):
        asked = query(1, decision_id=f"r{seed}")
        costs.append(float(estimator.estimate(asked).cost[3]))
        nobody = make_outcome(asked, "", score=float("nan"), cost=float("nan"))
        estimator.learn(replace(nobody, refused=ARMS[3].name, left=1.5 * costs[0]))
    assert costs == sorted(costs)
    assert costs[-1] > 1.3 * costs[0]


def test_one_arm_s_many_failures_at_a_place_say_less_of_another_arm_than_two_arms_do() -> None:
    alone, together = Residuals(), Residuals()
    here = np.eye(8, dtype=np.float32)[0]
    for each in (alone, together):
        for _ in range(3):
            each.grow()
    for answer in range(40):
        alone.add(here, 0, 0, -0.4, 1.0)
        together.add(here, answer % 2, 0, -0.4, 1.0)
    assert together.shift(here)[2, 0] < 1.2 * alone.shift(here)[2, 0] < 0.0
    assert alone.shift(here)[2, 0] >= -0.2


def test_neighbours_that_contradict_the_fit_make_it_less_sure(estimator: DriftCorrected) -> None:
    context = query()
    agreeing = replace(context.neighbours, scores=np.broadcast_to(estimator.estimate(context).quality, (60, 4)))
    contradicting = replace(agreeing, scores=1.0 - np.round(agreeing.scores))
    sure, unsure = (estimator.estimate(replace(context, neighbours=each)) for each in (agreeing, contradicting))
    assert (unsure.sigma > sure.sigma).all()


def test_estimates_follow_the_arms_of_the_context(estimator: DriftCorrected) -> None:
    context = query()
    some = replace(
        context,
        arms=(ARMS[2], ARMS[0]),
        neighbours=Neighbours(
            context.neighbours.similarity, context.neighbours.scores[:, [2, 0]], context.neighbours.costs[:, [2, 0]]
        ),
    )
    np.testing.assert_allclose(estimator.estimate(some).cost, estimator.estimate(context).cost[[2, 0]])


def test_an_arm_nobody_fitted_is_met_with_its_neighbours_and_prior(estimator: DriftCorrected) -> None:
    estimates = estimator.estimate(make_context(make_arms(5), HISTORY))
    assert np.isfinite(estimates.quality).all()
    assert np.isfinite(estimates.cost).all()


def test_a_width_nobody_measured_follows_its_parent_from_query_to_query_less_what_bits_cost(
    estimator: DriftCorrected,
) -> None:
    narrow = Arm("model-3@4", 1e-7, 3e-7, parent="model-3", bits=4)
    apart = []
    for seed in range(20):
        found = estimator.estimate(make_context((*ARMS, narrow), HISTORY, seed=seed)).quality
        if 0.1 < found[3] < 0.99:
            apart.append(found[3] - found[4])
    assert len(apart) > 5
    np.testing.assert_allclose(apart, width_offset(4), atol=0.02)


def test_an_arm_that_stops_answering_is_noticed_within_a_dozen_answers(estimator: DriftCorrected) -> None:
    before = estimator.estimate(query()).quality[3]
    for seed in range(12):
        estimator.learn(make_outcome(query(seed), ARMS[3].name, score=0.0, cost=float("nan")))
    assert estimator.estimate(query()).quality[3] < 0.2 * before


def test_an_arm_that_failed_is_tried_again_once_time_has_passed() -> None:
    health = Health()
    health.grow()
    for _ in range(20):
        health.observe(0, 0.0, 0.8, 1.0)
    down = float(health.factors[0])
    for _ in range(3000):
        health.pass_time()
    assert down < 0.1
    assert health.factors[0] > 0.9


def test_doubting_an_arm_that_is_as_good_as_expected_costs_less_than_a_hundredth() -> None:
    rng, health = np.random.default_rng(0), Health()
    health.grow()
    factors = []
    for _ in range(3000):
        health.pass_time()
        health.observe(0, float(rng.random() < 0.7), 0.7, 1.0)
        factors.append(health.factors[0])
    assert np.mean(factors) > 0.99


def test_a_higher_tariff_is_noticed_within_ten_charges_and_believed_exactly() -> None:
    rng, tariff = np.random.default_rng(0), Tariff()
    tariff.grow()
    for _ in range(500):
        tariff.observe(0, 0.2 * rng.normal())
    assert tariff.level[0] == 0.0
    for _ in range(10):
        tariff.observe(0, np.log(3.0) + 0.2 * rng.normal())
    assert np.exp(tariff.level[0]) == pytest.approx(3.0, rel=0.2)


def test_residuals_correct_near_queries_and_leave_far_ones() -> None:
    residuals = Residuals()
    residuals.grow()
    here, there = np.eye(8, dtype=np.float32)[:2]
    for _ in range(50):
        residuals.add(here, 0, 0, -0.3, 1.0)
    near, far = (np.add(*residuals.shifts(vector))[0, 0] for vector in (here, there))
    assert near < -0.2
    assert abs(far) < 0.01


def test_a_stack_that_was_stored_expects_the_same_to_the_last_bit(estimator: DriftCorrected) -> None:
    for seed in range(30):
        estimator.learn(make_outcome(query(seed), ARMS[seed % 4].name, score=0.3, cost=3e-5))
    other = DriftCorrected(StackedOrNeighbours(NeighbourMeans(Means())))
    other.restore(estimator.state())
    for seed in range(20):
        ours, theirs = estimator.estimate(query(seed)), other.estimate(query(seed))
        for part in ("quality", "sigma", "cost"):
            np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))


def test_a_model_that_nobody_asked_is_expected_to_charge_what_others_do_also_in_a_log_with_one_answer_a_row() -> None:
    rng = np.random.default_rng(0)
    arms = tuple(Arm(name, 0.0, 1e-6) for name in ("often", "seldom", "never"))
    inputs, costs = rng.normal(size=(200, 3)).astype(np.float32), np.full((200, 3), np.nan)
    costs[:150, 0], costs[150:190, 0], costs[190:, 1] = 100e-6, 110e-6, 300e-6
    charges = Charges()
    charges.fit(arms, inputs, np.ones(200, np.int64), costs)
    often, seldom, never = charges.predict(inputs, np.ones(200, np.int64)).mean(axis=0)
    assert never == pytest.approx(often, rel=0.1)
    assert seldom == pytest.approx(300e-6, rel=0.2)
