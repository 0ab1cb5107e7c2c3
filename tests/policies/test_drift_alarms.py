"""An alarm comes where a model's quality moved, seldom where nothing did, and not where queries became harder."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from policies.change_points import change_of
from router.learning.judgement import judged_answers
from router.learning.quality_drift import drift_of
from router.types import LogEntry
from tests.policies.test_judgement import MODELS, make_answer, make_entries

CHANCES = np.array([0.6, 0.9])  # of a right answer, of the small and the large model
HARD = 0.4  # less, on hard queries


def made(
    seed: int, *, count: int = 600, moved: float = 0.0, harder: bool = False, judges: bool = False
) -> list[LogEntry]:
    """The large model's quality falls by `moved` after half; queries become hard; a stricter judge comes."""
    rng = np.random.default_rng(seed)
    entries: list[LogEntry] = []
    for i in range(count):
        late, chosen = i >= count // 2, int(rng.random() < 0.5)
        hard = rng.random() < (0.9 if harder and late else 0.1)
        strict = judges and late
        chance = CHANCES[chosen] - HARD * hard - moved * (late and chosen == 1) - 0.3 * strict
        vector = rng.normal(scale=0.2, size=8) + (np.eye(8)[0] if hard else -np.eye(8)[0])
        vector /= np.linalg.norm(vector)
        score = float(rng.random() < max(0.0, chance))
        *first, feedback = make_answer(f"{i:06d}", i, chosen, (0.5, 0.5), score, vector.astype("<f2"))
        entries += [*first, replace(feedback, source="judge:strict") if strict else feedback]
    return entries


def alarms(entries: list[LogEntry]) -> set[object]:
    return {each["model"] for each in drift_of(judged_answers(entries)) if each.get("moved")}


def test_a_model_that_became_worse_is_named_with_the_time_and_the_size() -> None:
    found = {each["model"]: each for each in drift_of(judged_answers(made(1, moved=0.5)))}
    assert alarms(made(1, moved=0.5)) == {"large"}
    large = found["large"]
    assert 250 <= int(str(large["since_ms"])) <= 350
    assert float(str(large["shift_low"])) <= -0.5 <= float(str(large["shift_high"]))
    assert float(str(large["before"])) - float(str(large["after"])) > 0.3


def test_a_model_that_became_better_is_named_too() -> None:
    assert alarms(made(2, moved=-0.1)) <= {"large"}
    better = [replace(e, score=1.0 - e.score) if hasattr(e, "score") else e for e in made(3, moved=0.5)]
    assert alarms(better) == {"large"}


def test_where_nothing_moved_one_report_in_a_hundred_has_an_alarm_at_most() -> None:
    assert sum(bool(alarms(made(seed, count=300))) for seed in range(200)) <= 5  # P(more | 0.01) = 0.016


@pytest.mark.parametrize("what", ["harder", "judges"])
def test_harder_queries_and_a_stricter_judge_are_no_worse_model(what: str) -> None:
    assert sum(bool(alarms(made(seed, **{what: True}))) for seed in range(60)) <= 3  # P(more | 0.01) = 0.003


def test_too_few_answers_are_said_in_place_of_a_test() -> None:
    found = drift_of(judged_answers(make_entries(150)))
    assert {str(each["model"]) for each in found} == set(MODELS)
    (few,) = [each for each in found if "refused" in each]
    assert few["refused"] == f"{few['answers']} answers of large were judged, 100 are needed"
    assert drift_of([]) == []


def test_a_series_without_spread_has_not_moved_and_a_short_one_is_refused() -> None:
    assert change_of(np.ones(50)).p == 1.0
    with pytest.raises(ValueError, match="3 values cannot show a change"):
        change_of(np.ones(3))
