"""The outcome log as parquet."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from evaluation.export import export, imported, is_export
from policies.types import Arm
from router.errors import SettingsError
from router.learning.judgement import judged_answers
from router.stores.open import Stores
from router.types import Feedback
from tests.policies.worlds import make_record
from tests.stores.test_log import ARMS, decision, entries, settlement

pytestmark = pytest.mark.anyio


async def test_an_export_has_the_columns_of_a_trace_and_the_propensities(stores: Stores, tmp_path: Path) -> None:
    await stores.log.remember(decision("a"))
    await stores.log.remember(settlement("a"))
    await stores.log.judge(Feedback("a", 9, 0.75, tenant="acme"))
    assert await export(stores.log.tail("", follow=False), tmp_path / "log.parquet") == 1
    row = pd.read_parquet(tmp_path / "log.parquet").iloc[0]
    assert (row["prompt"], row["model"], row["propensity"]) == ("why?", "small", 1.0)
    assert (row["score:small"], row["cost:small"], row["probability:large"]) == (0.75, 5e-9, 0.75)


async def test_what_was_exported_is_judged_like_the_log(stores: Stores, tmp_path: Path) -> None:
    other = make_record("b", (ARMS[0], Arm("tiny", 0.0, 0.0)))
    for record in (decision("a"), settlement("a"), other, settlement("b"), decision("c")):
        await stores.log.remember(record)
    for name, score in (("a", 0.0), ("b", 1.0)):
        await stores.log.judge(Feedback(name, 9, score, tenant="acme"))
    await export(stores.log.tail("", follow=False), tmp_path / "log.parquet")
    back = judged_answers(imported(tmp_path / "log.parquet"))
    there = judged_answers(await entries(stores))  # type: ignore[arg-type]
    assert [(a.record.decision_id, a.record.context.names, a.score, a.cost) for a in back] == [
        (a.record.decision_id, a.record.context.names, a.score, a.cost) for a in there
    ]
    assert back[0].record == there[0].record


async def test_a_decision_comes_back_as_it_was_exported(stores: Stores, tmp_path: Path) -> None:
    """Where machines are rented, with what was expected at list prices beside what it costs to run."""
    for record in (decision("a"), make_record("b", ARMS)):
        await stores.log.remember(record)
    await export(stores.log.tail("", follow=False), tmp_path / "log.parquet")
    assert imported(tmp_path / "log.parquet") == [*await entries(stores)]


async def test_every_judgement_comes_back_with_its_reliability(stores: Stores, tmp_path: Path) -> None:
    await stores.log.remember(decision("a"))
    for source, reliability in (("validator:schema", 0.2), ("user", 1.0)):
        await stores.log.judge(Feedback("a", 9, 0.75, source, reliability, tenant="acme"))
    await export(stores.log.tail("", follow=False), tmp_path / "log.parquet")
    assert imported(tmp_path / "log.parquet") == [*await entries(stores)]


async def test_an_export_with_damaged_records_is_refused(stores: Stores, tmp_path: Path) -> None:
    await stores.log.remember(decision("a"))
    await export(stores.log.tail("", follow=False), tmp_path / "log.parquet")
    table = pd.read_parquet(tmp_path / "log.parquet")
    table["decision"] = [body[:-3] for body in table["decision"]]
    table.to_parquet(tmp_path / "log.parquet")
    with pytest.raises(SettingsError, match="a, decision"):
        imported(tmp_path / "log.parquet")


async def test_a_trace_is_no_export(tmp_path: Path) -> None:
    pd.DataFrame({"prompt": ["x"], "score:a": [1.0]}).to_parquet(tmp_path / "trace.parquet")
    assert not is_export(tmp_path / "trace.parquet")
    with pytest.raises(SettingsError):
        imported(tmp_path / "trace.parquet")
