"""A refit in a process of its own gives what a refit here gives, and loses nothing learned meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from policies import registry as named
from policies.types import Arm, History
from router.learning.follower import Learning
from router.learning.index import FaissIndex
from router.learning.refit_worker import State, refit_aside, refit_elsewhere
from router.learning.views import Views
from router.types import Feedback
from tests.router.conftest import House, Workshop, now_ms, open_house

pytestmark = pytest.mark.anyio
Refit = Callable[[str, State, History], Awaitable[State]]


def history(rows: int = 300) -> History:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(rows, 32)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    arms = (Arm("small", 1e-7, 1e-7), Arm("large", 1e-6, 1e-6))
    return History(
        embeddings=embeddings,
        arms=arms,
        scores=(rng.random((rows, 2)) < [0.5, 0.8]).astype(float),
        costs=rng.lognormal(-10, 0.3, (rows, 2)),
        prompt_tokens=rng.integers(5, 50, rows),
        prompt_characters=rng.integers(20, 200, rows),
    )


def assert_same(found: np.ndarray, wanted: np.ndarray, what: str) -> None:
    np.testing.assert_array_equal(found, wanted, err_msg=what)


@pytest.mark.parametrize("name", ["paced", "linucb"])
async def test_both_ways_give_the_same_state(name: str) -> None:
    known = history()
    state = dict(named.build(name, known.arms, {}).state())
    here = await refit_aside(name, {}, state=state, history=known)
    there = await refit_elsewhere(name, {}, state=state, history=known)
    assert here.keys() == there.keys()
    for key, value in here.items():
        assert_same(value, there[key], key)


async def test_a_refit_that_fails_says_what_the_process_said() -> None:
    with pytest.raises(RuntimeError, match="no policy 'none'"):
        await refit_elsewhere("none", {}, state={}, history=history())


async def test_what_is_learned_during_a_refit_is_in_the_new_state_too(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="linucb") as house:
        learning, gate = house.learning, asyncio.Event()
        refit: Refit = learning._workshop.refit

        async def slow(name: str, state: State, known: History) -> State:
            fitted = await refit(name, state, known)
            await gate.wait()
            return fitted

        learning._workshop = Patched(learning._workshop.arms, slow)  # type: ignore[attr-defined]
        await teach(house, 0, 10)
        refitting = asyncio.ensure_future(learning.refit())
        await house.until(lambda: "linucb" in learning.views.meanwhile)
        await teach(house, 10, 15)
        gate.set()
        await refitting
        await assert_as_if_refitted_at_once(house, refit)


async def test_what_is_learned_while_another_policy_is_refitted_is_not_lost(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="epsilon") as house:
        learning, gate = house.learning, asyncio.Event()
        refit: Refit = learning._workshop.refit

        async def slow(name: str, state: State, known: History) -> State:
            await gate.wait()
            return await refit(name, state, known)

        learning.policy("linucb")
        await teach(house, 0, 10)
        learning._workshop = Patched(learning._workshop.arms, slow)  # type: ignore[attr-defined]
        refitting = asyncio.ensure_future(learning.refit())
        await house.until(lambda: "linucb" in learning.views.meanwhile)
        await teach(house, 10, 15)  # while the first, epsilon, waits
        gate.set()
        await refitting
        await assert_as_if_refitted_at_once(house, refit)


async def test_a_policy_nobody_asked_for_before_answers_at_once_and_is_refitted_aside(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="neighbours") as house:
        learning, refitted = house.learning, asyncio.Event()
        refit: Refit = learning._workshop.refit

        async def aside(name: str, state: State, known: History) -> State:
            if name == "linucb":
                refitted.set()
            return await refit(name, state, known)

        learning._workshop = Patched(learning._workshop.arms, aside)  # type: ignore[attr-defined]
        await teach(house, 0, 10)
        fresh = dict(named.build("linucb", house.gateway.decider.catalogue.arms(), {}).state())
        for key, value in learning.policy("linucb").state().items():
            assert_same(value, fresh[key], key)
        await house.read("and another", model="small")
        await asyncio.wait_for(refitted.wait(), 10)


@dataclass(frozen=True, slots=True)
class Patched(Workshop):
    """A workshop whose refits take as long as a test wants."""

    how: Refit

    async def refit(self, name: str, state: State, history: History) -> State:
        return await self.how(name, state, history)


class Replayed(Learning):
    """Follows a log by hand and knows whether it was refitted."""

    refitted = False

    async def refit(self) -> None:
        self.refitted = True
        await super().refit()


def learning_of(house: House, refit: Refit) -> Replayed:
    arms = house.gateway.decider.catalogue.arms
    views = Views(FaissIndex(256), {"linucb": named.build("linucb", arms(), {})})
    return Replayed(house.stores.log, views, Patched(arms, refit), arms=arms, folder=None)


async def assert_as_if_refitted_at_once(house: House, refit: Refit) -> None:
    """linucb knows what following the log and refitting in no time after ten judgements would have taught it."""
    late = dict(house.learning.policy("linucb").state())
    at_once = learning_of(house, refit)
    async for _, entry in house.stores.log.tail("", follow=False):
        at_once.views.take(entry)
        if at_once.learned == 10 and not at_once.refitted:
            await at_once.refit()
    for key, value in at_once.policy("linucb").state().items():
        assert_same(value, late[key], key)


async def teach(house: House, first: int, last: int) -> None:
    for i in range(first, last):
        answer, _ = await house.read(f"question {i}", model="small")
        await house.stores.log.judge(
            Feedback(answer.attempt.decision.decision_id, now_ms(), (i % 3) / 2, tenant="acme")
        )
    await house.until(lambda: house.learning.learned == last)
