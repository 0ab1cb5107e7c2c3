"""What a view of the page costs the store does not grow with the log: counted in SQLite's instructions, not in time."""

from __future__ import annotations

import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.http.app import other_routes, readiness
from router.http.auth import Authentication
from router.http.conversations import ResponsesKept
from router.http.stopping import Stopping
from router.settings import build
from router.stores.open import open_stores
from router.types import Feedback
from router.wiring import open_runtime
from tests.policies.test_judgement import make_entries

pytestmark = pytest.mark.anyio
ADMIN = {"authorization": "Bearer sk-admin-of-the-views"}
VIEWS = (
    *("engines", "balances", "refusals", "decisions", "settings", "proof", "tenants", "keys", "prices"),
    *(f"spend?by={by}" for by in ("tenant", "team", "key", "model", "width", "program", "day")),
)
FEW, MANY = 200, 4_000  # decisions
EVERY = 10  # instructions


class Counting(sqlite3.Connection):
    """Counts the instructions of every statement, in tens."""

    count = 0

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.set_progress_handler(self._counted, EVERY)

    @staticmethod
    def _counted() -> int:
        Counting.count += 1
        return 0


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Counting))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def work_of_views(folder: Path, decisions: int) -> dict[str, int]:
    """By view: the least count of three looks, with so many decisions in the log."""
    (folder / "state").mkdir(parents=True)
    async with open_stores(f"sqlite:///{folder}/state/pointsman.db", clock=lambda: time.time_ns() // 10**6) as stores:
        for entry in make_entries(decisions):
            if not isinstance(entry, Feedback):
                await stores.log.remember(entry)
    settings = build(
        {
            "state_dir": str(folder / "state"),
            "auth": {"admin_key": "sk-admin-of-the-views"},
            "policy": {"name": "cheapest"},
        },
        {},
    )
    async with open_runtime(settings, None) as runtime:
        assert await runtime.learning.catch_up(within_s=120)
        kept = ResponsesKept(runtime.stores.conversations, settings.responses)
        authentication = Authentication(runtime.keys, clock=runtime.clock)
        app = other_routes(runtime, authentication, kept, readiness(runtime, Stopping(0)))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", headers=ADMIN) as client:
            return {view: min([await looked_at(client, view) for _ in range(3)]) for view in VIEWS}


async def looked_at(client: httpx.AsyncClient, view: str) -> int:
    before = Counting.count
    answer = await client.get(f"/admin/v1/{view}")
    assert answer.status_code == 200, (view, answer.text)
    return Counting.count - before


async def test_no_view_reads_more_where_the_log_is_twenty_times_as_long(tmp_path: Path) -> None:
    few, many = await work_of_views(tmp_path / "few", FEW), await work_of_views(tmp_path / "many", MANY)
    assert few["decisions"] > 0  # what counts is counted
    grown = {view: (few[view], many[view]) for view in VIEWS if many[view] > 1.1 * few[view] + 20}
    assert grown == {}
