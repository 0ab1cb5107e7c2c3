"""Policies are refitted soon while little is known of a model, then seldom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from policies.types import Arm, LoggedContext
from router.learning.refit_schedule import next_refit, refit_soon
from router.learning.table import OutcomeTable

SMALL, LARGE, LATE = (Arm(name, 0.0, 0.0) for name in ("small", "large", "late"))


def judge(table: OutcomeTable, arm: Arm, count: int) -> None:
    """So many new answers of an arm."""
    for _ in range(count):
        row = table.append(LoggedContext("", "one", 0.0, np.ones(4, np.float32), (arm,), 1, 1, 1, 0.0))
        table.observe(row, arm, score=1.0, cost=1.0)


def refits(table: OutcomeTable, turns: list[Arm]) -> list[int]:
    """Judgements at which a refit came, while these arms are judged one after the other."""
    found, fitted_on = [], len(table)
    due = next_refit(fitted_on) if fitted_on else 200
    for arm in turns:
        judge(table, arm, 1)
        if len(table) >= due or refit_soon(table, len(table), fitted_on):
            table.fitted()
            fitted_on, due = len(table), next_refit(len(table))
            found.append(fitted_on)
    return found


def test_a_gateway_that_knows_nothing_is_fitted_after_twenty_judgements_of_a_model_and_as_they_double() -> None:
    assert refits(OutcomeTable(4), [SMALL] * 800) == [20, 40, 80, 160, 320, 520, 720]


def test_a_model_that_joins_many_judgements_is_fitted_soon_and_the_others_do_not_hasten_it() -> None:
    table = OutcomeTable(4)
    judge(table, SMALL, 1_000)
    judge(table, LARGE, 1_000)
    table.fitted()
    assert refits(table, [SMALL, LARGE] * 249) == []
    table.fitted()
    assert refits(table, [LATE, LARGE] * 210) == [2_698, 2_898]


def test_what_was_fitted_is_not_counted_again() -> None:
    table = OutcomeTable(4)
    judge(table, SMALL, 19)
    assert not table.has_doubled(20, established=200)
    judge(table, SMALL, 1)
    assert table.has_doubled(20, established=200)
    table.fitted()
    judge(table, SMALL, 19)
    assert not table.has_doubled(20, established=200)


@pytest.mark.parametrize("at", [0, 10, 35, 90])
def test_a_restart_brings_no_refit_forward_and_puts_none_off(tmp_path: Path, at: int) -> None:
    """What was fitted on, and what was judged since, is in the snapshot."""
    table = OutcomeTable(4)
    turns = [SMALL] * 200
    whole = refits(table, turns)
    table = OutcomeTable(4)
    before = refits(table, turns[:at])
    table.save(tmp_path)
    again = OutcomeTable(4)
    again.load(tmp_path)
    found, fitted_on = list(before), before[-1] if before else 0
    for _ in turns[at:]:
        judge(again, SMALL, 1)
        if refit_soon(again, len(again), fitted_on):
            again.fitted()
            fitted_on = len(again)
            found.append(fitted_on)
    assert found == whole
