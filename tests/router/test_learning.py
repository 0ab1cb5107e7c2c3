"""A snapshot is the log up to its position, whatever goes on while it is taken."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from router.errors import StoreUnavailable
from router.learning import follower
from router.learning.follower import Learning
from router.types import Feedback, LogEntry
from tests.policies.worlds import make_record
from tests.router.conftest import House, now_ms, open_house

pytestmark = pytest.mark.anyio


async def asked(house: House, text: str) -> str:
    """The decision id of an answered question."""
    answer, _ = await house.read(text, model="small")
    return answer.attempt.decision.decision_id


async def judged(house: House, decision_id: str, score: float = 1.0) -> None:
    await house.stores.log.judge(Feedback(decision_id, now_ms(), score, tenant="acme"))


async def test_what_comes_in_while_a_snapshot_is_written_belongs_to_the_next(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="neighbours") as house:
        learning, writing, go_on = house.learning, threading.Event(), threading.Event()
        save_index = learning.views.index.save

        def slowly(folder: Path) -> None:
            save_index(folder)
            writing.set()
            assert go_on.wait(10)

        learning.views.index.save = slowly  # type: ignore[method-assign]
        await judged(house, await asked(house, "before"))
        await house.until(lambda: learning.learned == 1)
        snapshot = asyncio.ensure_future(learning.snapshot())
        await house.until(writing.is_set)
        await judged(house, await asked(house, "meanwhile"))
        await asyncio.sleep(0.3)  # longer than a follower waits
        go_on.set()
        await snapshot
        await house.until(lambda: learning.learned == 2)
    async with open_house(tmp_path, policy="neighbours") as house:
        await house.until(lambda: house.learning.learned == 2)  # by the log alone
        again = house.learning
        assert again.load()
        assert (again.learned, len(again.views.table), len(again.views.index)) == (1, 1, 1)
        await again.catch_up()
        assert (again.learned, len(again.views.table), len(again.views.index)) == (2, 2, 2)
        assert again.views.table.texts == ["before", "meanwhile"]


async def test_feedback_after_a_restart_teaches_of_decisions_before_the_snapshot(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="neighbours") as house:
        early, twice = [await asked(house, text) for text in ("judged later", "judged again")]
        await judged(house, twice, 0.25)
        await house.until(lambda: house.learning.learned == 1)
        await house.learning.snapshot()
    async with open_house(tmp_path, policy="neighbours") as house:
        again = house.learning
        await house.until(lambda: again.learned == 1)
        assert again.load()
        await judged(house, early, 0.75)
        await house.stores.log.judge(Feedback(twice, now_ms(), 0.5, replace=True, tenant="acme"))
        await house.until(lambda: again.learned == 3)
        assert again.views.table.texts == ["judged again", "judged later"]
        scores = again.views.table.history(house.gateway.decider.catalogue.arms()).scores
        np.testing.assert_array_equal(scores[:, 0], [0.5, 0.75])


async def test_two_snapshots_at_once_leave_one_that_can_be_read(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="neighbours") as house:
        await judged(house, await asked(house, "one"))
        await house.until(lambda: house.learning.learned == 1)
        await asyncio.gather(
            house.learning.snapshot(), asyncio.to_thread(house.learning.save), house.learning.snapshot()
        )
        assert house.learning.load()
        assert house.learning.learned == 1


@pytest.mark.parametrize("missing", ["weights", "index.faiss", "position.json", "texts.jsonl"])
async def test_a_snapshot_that_lacks_something_costs_a_replay_of_the_log(missing: str, tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="neighbours") as house:
        await judged(house, await asked(house, "one"))
        await house.until(lambda: house.learning.learned == 1)
        await house.learning.snapshot()
    lose(tmp_path / "views", missing)
    async with open_house(tmp_path, policy="neighbours") as house:
        assert not house.learning.load()
        await house.until(lambda: house.learning.learned == 1)
        assert house.learning.views.table.texts == ["one"]


@pytest.mark.parametrize("regrown", [False, True])
async def test_a_snapshot_of_entries_that_the_log_has_lost_costs_a_replay(tmp_path: Path, *, regrown: bool) -> None:
    """After a power cut others may stand where they stood, and nobody may pass them over."""
    async with open_house(tmp_path, policy="neighbours") as house:
        await judged(house, await asked(house, "kept"))
        await house.until(lambda: house.learning.learned == 1)
        kept = house.learning.position
        await judged(house, await asked(house, "lost"))
        await house.until(lambda: house.learning.learned == 2)
        await house.learning.snapshot()
    with contextlib.closing(sqlite3.connect(tmp_path / "pointsman.db", isolation_level=None)) as database:
        database.execute("DELETE FROM log WHERE seq > ?", (int(kept),))
    async with open_house(tmp_path, policy="neighbours") as house:
        for text in ("new", "newer") if regrown else ():
            await judged(house, await asked(house, text))
        await house.until(lambda: house.learning.learned == (3 if regrown else 1))
        await house.learning.compare()
        assert not house.learning.load()
        assert house.learning.views.table.texts == ["kept", *(["new", "newer"] if regrown else [])]


async def test_a_snapshot_of_a_log_that_was_shortened_since_is_kept(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="neighbours") as house:
        await judged(house, await asked(house, "one"))
        await house.until(lambda: house.learning.learned == 1)
        await house.learning.snapshot()
        at = int(house.learning.position)
        await judged(house, await asked(house, "two"))
        await house.until(lambda: house.learning.learned == 2)
    with contextlib.closing(sqlite3.connect(tmp_path / "pointsman.db", isolation_level=None)) as database:
        database.execute("DELETE FROM log WHERE seq <= ?", (at,))
    async with open_house(tmp_path, policy="neighbours") as house:
        await house.learning.compare()
        assert house.learning.load()


def lose(folder: Path, missing: str) -> None:
    if missing != "weights":
        (folder / missing).unlink()
        return
    with np.load(folder / "table.npz") as stored:
        known = {key: stored[key] for key in stored.files if key != missing}
    np.savez(folder / "table.npz", **known)  # type: ignore[arg-type]


async def test_a_restart_changes_no_decision_of_a_policy_that_a_request_named(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="neighbours") as house:
        house.learning.policy("linucb")
        for i in range(6):
            await judged(house, await asked(house, f"question {i}"), score=i / 6)
        await house.until(lambda: house.learning.learned == 6)
        await house.learning.snapshot()
        before = house.learning.policy("linucb").state()
    async with open_house(tmp_path, policy="neighbours") as house:
        house.learning.views.policies.pop("linucb", None)
        assert house.learning.load()
        after = house.learning.views.policies["linucb"].state()
        for key, value in before.items():
            np.testing.assert_array_equal(after[key], value)


async def test_vectors_of_another_embedder_in_the_log_are_passed_over(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="neighbours") as house:
        other = make_record("of-then", house.gateway.decider.catalogue.arms(), vector=np.ones(8, np.float32))
        await house.stores.log.remember(other)
        await judged(house, await asked(house, "one"))
        await house.until(lambda: house.learning.learned == 1)
        assert len(house.learning.views.table) == len(house.learning.views.index) == 1


async def test_learning_goes_on_after_the_store_was_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "AGAIN_S", 0.01)
    async with open_house(tmp_path, policy="neighbours") as house:
        found, log, is_away = asyncio.Event(), house.stores.log, [True]

        async def tail(after: str, *, follow: bool = True) -> AsyncIterator[tuple[str, LogEntry]]:
            async for each in log.tail(after, follow=follow):
                yield each
                if is_away.pop() if is_away else False:
                    found.set()
                    raise StoreUnavailable("nobody answers")

        learning = Learning(_Tail(tail), house.learning.views, house.learning._workshop, arms=tuple, folder=None)  # type: ignore[arg-type]
        running = asyncio.ensure_future(learning.run())
        await judged(house, await asked(house, "before"))
        await asyncio.wait_for(found.wait(), 10)
        await house.until(lambda: learning.position == house.learning.position != "")
        running.cancel()


class _Tail:
    def __init__(self, tail: object) -> None:
        self.tail = tail
