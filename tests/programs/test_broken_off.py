"""Wherever a program breaks off between its reservation and its settlement, nothing stays held and no step is lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.breaker import Breaker
from backends.scripted import Line, Trouble
from router.errors import InvalidRequest, PointsmanError, StoreUnavailable
from router.gateway.types import Catalogue
from router.programs.program import NamedProgram
from router.types import SettlementRecord
from tests.programs.conftest import DAY, programs_in
from tests.router.conftest import House

pytestmark = pytest.mark.anyio
PROGRAMS: Mapping[str, Any] = {
    "sure": {"kind": "escalate", "of": ["small", "large"], "risk": 0.1},
    "vote3": {"kind": "vote", "of": "small", "n": 3},
    "best3": {"kind": "best_of", "of": "small", "n": 3},
    "digest": {"kind": "map_reduce", "map": "small", "reduce": "large", "chunk": 200, "part_tokens": 16},
    "draft": {"kind": "refine", "draft": "small", "critic": "large"},
    "agent": {"kind": "roles", "plan": "large", "call": "small", "summarise": "small"},
    "nested": {"kind": "vote", "of": "draft", "n": 3},
}
TEXT = "The rain fell on the harbour.\n" * 60 + "\nHow was it?"
STEPS = 40  # places at which a run is broken off, more than any of these has
AWAY = StoreUnavailable("the store is away")


@asynccontextmanager
async def opened(folder: Path, **lines: Line) -> AsyncIterator[House]:
    async with programs_in(folder, PROGRAMS, lines=lines) as house:
        yield house


async def asked(house: House, name: str, *, stream: bool = False) -> None:
    """One request, read to its end, whatever becomes of it."""
    answer = await house.ask(TEXT, model=name, stream=stream, max_tokens=16)
    try:
        async for _ in answer:
            pass
    finally:
        await answer.close()


async def is_all_settled(house: House) -> None:
    """Nothing is held, and what was spent is what the log says that steps cost."""
    async with asyncio.timeout(10):
        while (await house.spent(DAY))[1]:
            await asyncio.sleep(0.005)
    spent, _ = await house.spent(DAY)
    log = [entry async for _, entry in house.stores.log.tail("", follow=False)]
    arms = {"small", "large"}
    paid = {e.decision_id: e.cost for e in log if isinstance(e, SettlementRecord) and e.model in arms}
    assert sum(paid.values()) == spent


@pytest.mark.parametrize("problem", [RuntimeError("a bug"), PointsmanError("not now"), asyncio.CancelledError()])
async def test_a_program_that_cannot_begin_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: BaseException
) -> None:
    def begin(*_: object) -> None:
        raise problem

    async with opened(tmp_path) as house:
        monkeypatch.setattr(NamedProgram, "begin", begin)
        with pytest.raises(type(problem)):
            await asked(house, "vote3")
        await is_all_settled(house)


async def test_a_model_whose_engine_has_gone_meanwhile_holds_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        decider = house.gateway.decider
        decider.catalogue = Catalogue(decider.catalogue.models, {})
        for name in ("small", "vote3", "sure"):
            with pytest.raises((PointsmanError, KeyError)):
                await asked(house, name)
            await is_all_settled(house)


class AwayOnce:
    """A store's method that fails once, at the call of this number."""

    def __init__(self, real: Callable[..., Awaitable[Any]], at: int) -> None:
        self._real, self._left, self.was_away = real, at, False

    async def __call__(self, *arguments: Any, **more: Any) -> Any:
        self._left -= 1
        if self._left == -1:
            self.was_away = True
            raise AWAY
        return await self._real(*arguments, **more)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_log_that_is_away_at_any_moment_leaves_no_hold(tmp_path: Path, name: str, stream: bool) -> None:
    async with opened(tmp_path) as house:
        log, real = house.gateway._log, house.gateway._log.remember
        for at in range(STEPS):
            away = AwayOnce(real, at)
            log.remember = away  # type: ignore[method-assign]
            with contextlib.suppress(PointsmanError):
                await asked(house, name, stream=stream)
            log.remember = real  # type: ignore[method-assign]
            async with asyncio.timeout(10):
                while (await house.spent(DAY))[1]:
                    await asyncio.sleep(0.005)
            if not away.was_away:
                return
        raise AssertionError("more entries than there are places")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_client_who_goes_at_any_moment_leaves_no_hold(tmp_path: Path, name: str, stream: bool) -> None:
    async with opened(tmp_path) as house:
        for turns in range(0, 10 * STEPS, 3):
            task = asyncio.ensure_future(asked(house, name, stream=stream))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(PointsmanError, asyncio.CancelledError):
                await task
                await is_all_settled(house)
                return
        await is_all_settled(house)


@pytest.mark.parametrize("trouble", ["refuse", "500", "busy", "reset", "garbage", "down"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", PROGRAMS)
async def test_an_engine_in_trouble_at_any_step_leaves_no_hold(
    tmp_path: Path, name: str, stream: bool, trouble: Trouble
) -> None:
    async with opened(tmp_path) as house:
        for at in range(STEPS):
            sent = 0

            def line(_model: str, _body: Mapping[str, Any], *, at: int = at) -> Line:
                nonlocal sent
                sent += 1
                return Line(text="1. Think.", trouble=trouble if sent == at + 1 else None)

            for script in house.scripts.values():
                script._script = line
            for backend in house.gateway.decider.catalogue.backends.values():
                for replica in backend.replicas:
                    replica.breaker = Breaker(time.monotonic)
            house.gateway.decider.down.clear()
            with contextlib.suppress(PointsmanError):
                await asked(house, name, stream=stream)
            await is_all_settled(house)
            if sent <= at:
                return
        raise AssertionError("more calls than there are places")


async def test_a_text_that_cannot_be_split_holds_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        with pytest.raises(InvalidRequest):
            await house.ask(
                "word " * 3_000, model="digest", tools=[{"type": "function", "function": {"name": "x" * 900}}]
            )
        await is_all_settled(house)
