"""10,000 random programs with failures, lies, hang-ups and kills: nothing is overspent, and no hold stays."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backends.breaker import Breaker
from backends.scripted import Line, Trouble
from router.errors import PointsmanError
from router.stores.open import open_stores
from router.types import Budget, DecisionRecord, LogEntry, NanoUsd, Principal, SettlementRecord
from tests.programs.conftest import DAY, programs_in, with_programs
from tests.router.conftest import House, model, now_ms

pytestmark = pytest.mark.anyio
PROGRAMS = 1_000  # of each of ten batches
AT_ONCE = 25
TROUBLES: tuple[Trouble | None, ...] = (*[None] * 12, "500", "reset", "busy", "garbage", "refuse", "down")
ARMS = ("small", "large", "auto", "auto:cheap", "auto:best")
WORDS = ("eight", "Eight.", "nine", "none", "OK", "1. Think.\n2. Write.", "word " * 60, "日本" * 30, "")


def section(chance: random.Random, arms: tuple[str, ...]) -> dict[str, Any]:
    """A program of a random kind."""

    def arm() -> str:
        return chance.choice(arms)

    n = chance.randrange(1, 5)
    kinds: list[dict[str, Any]] = [
        {"kind": "vote", "of": arm(), "n": n, "stop": chance.choice(["majority", "never"])},
        {"kind": "best_of", "of": arm(), "n": n, "pick": chance.choice(["b4", "codet", "majority"])},
        {"kind": "escalate", "of": [arm(), arm()], "buffer_tokens": chance.choice([1, 512])},
        {"kind": "map_reduce", "map": arm(), "reduce": arm(), "part_tokens": 16},
        {"kind": "map_reduce", "map": arm(), "reduce": arm(), "part_tokens": 16, "exact": "max"},
        {"kind": "refine", "draft": arm(), "critic": arm(), "rounds": chance.randrange(1, 3)},
        {"kind": "roles", "plan": arm(), "call": arm(), "summarise": arm(), "rounds": chance.randrange(1, 3)},
    ]
    return {**chance.choice(kinds), "at_once": chance.randrange(1, 4)}


def programs(chance: random.Random) -> dict[str, Any]:
    """Some of models, and some of those."""
    first = {f"p{i}": section(chance, ARMS) for i in range(8)}
    return first | {f"q{i}": section(chance, (*ARMS, *first)) for i in range(6)}


def line(chance: random.Random) -> Line:
    """An answer of an engine that fails at times, and understates at times."""
    trouble = chance.choice(TROUBLES)
    usage = chance.choice([None, None, None, {"prompt_tokens": 0, "completion_tokens": -3}, "much"])
    after = chance.randrange(3)
    delay_s = chance.choice([0, 0, 0.002])
    return Line(text=chance.choice(WORDS), usage=usage, trouble=trouble, trouble_after=after, delay_s=delay_s)


async def one(house: House, chance: random.Random, names: list[str]) -> int:
    """One request by a client who may hang up; what it says that it cost."""
    text = "word " * chance.choice([1, 5, 400, 3000]) + "\n\nWhich?"
    more: dict[str, Any] = {"stream": chance.random() < 0.5, "max_tokens": chance.choice([1, 8, 64])}
    if chance.random() < 0.2:
        more["response_format"] = {"type": "json_object"}
    task = asyncio.ensure_future(house.ask(text, model=chance.choice([*names, "auto"]), **more))
    if chance.random() < 0.15:
        await asyncio.sleep(chance.random() * 0.004)
        task.cancel()
    try:
        answer = await task
    except (PointsmanError, asyncio.CancelledError):
        return 0
    left = chance.randrange(6) if chance.random() < 0.2 else 10**6
    with contextlib.suppress(PointsmanError):
        async for _ in answer:
            left -= 1
            if left < 0:
                break
    await answer.close()
    assert answer.total <= answer.attempt.hold.amount, answer.attempt.model.name
    return answer.total


def rest(house: House) -> None:
    """No engine is banned for what it did in the world before."""
    for backend in house.gateway.decider.catalogue.backends.values():
        for replica in backend.replicas:
            replica.breaker = Breaker(time.monotonic)
    house.gateway.decider.down.clear()


async def settled(house: House, budget: Budget) -> int:
    """What was spent once nothing is held: who hung up is settled behind its back, long before a lease ends."""
    async with asyncio.timeout(25):
        while (found := await house.spent(budget))[1]:
            await asyncio.sleep(0.01)
    return found[0]


@pytest.mark.parametrize("batch", range(10))
async def test_ten_thousand_random_programs_leave_no_hold_and_overspend_nothing(tmp_path: Path, batch: int) -> None:
    small = model("small", 10**8, context_tokens=2048, max_output_tokens=128)
    large = model("large", 10**9, context_tokens=8192, max_output_tokens=256)
    async with programs_in(tmp_path, {}, small=small, large=large) as house:
        for world in range(batch * PROGRAMS // 250, (batch + 1) * PROGRAMS // 250):
            chance = random.Random(world)
            made = programs(chance)
            with_programs(house, made)
            for script in house.scripts.values():
                script._script = lambda _m, _b, chance=chance: line(chance)  # type: ignore[misc]
            budget = Budget(f"tenant:w{world}", NanoUsd(chance.choice([10**12, 20_000_000])), 86_400)
            house.principal = Principal(f"k_{world}", "acme", budgets=(budget,))
            rest(house)
            reported = 0
            for _ in range(250 // AT_ONCE):
                reported += sum(await asyncio.gather(*(one(house, chance, list(made)) for _ in range(AT_ONCE))))
            spent = await settled(house, budget)
            assert reported <= spent <= budget.limit, f"world {world}"
            assert reported > 0, f"world {world} served nobody"


async def whole_log(house: House) -> list[LogEntry]:
    """Once every decision is settled: what was cut off is logged behind its client's back."""
    async with asyncio.timeout(25):
        while True:
            log = [entry async for _, entry in house.stores.log.tail("", follow=False)]
            ended = {entry.decision_id for entry in log if isinstance(entry, SettlementRecord)}
            if all(entry.decision_id in ended for entry in log if isinstance(entry, DecisionRecord)):
                return log
            await asyncio.sleep(0.1)


async def test_the_log_of_steps_adds_up_to_the_bills(tmp_path: Path) -> None:
    small = model("small", 10**8, context_tokens=2048, max_output_tokens=128)
    async with programs_in(tmp_path, {}, small=small, large=model("large", 10**9)) as house:
        chance = random.Random(7)
        made = programs(chance)
        with_programs(house, made)
        for script in house.scripts.values():
            script._script = lambda _m, _b: line(chance)
        for _ in range(150):
            await one(house, chance, list(made))
        log = await whole_log(house)
        marks = {e.decision_id: e.metadata for e in log if isinstance(e, DecisionRecord)}
        arms = {e.decision_id: e.model for e in log if isinstance(e, DecisionRecord)}
        paid: dict[str, int] = {}
        for entry in log:
            if isinstance(entry, SettlementRecord):
                paid[entry.decision_id] = paid.get(entry.decision_id, 0) + entry.cost
        single = {name for name in paid if "asked" in marks[name]}  # a run of one step is its step
        leaves = {name for name in paid if "run" in marks[name] and (arms[name] not in made or name in single)}
        steps = sum(paid[name] for name in leaves)
        runs = sum(cost for name, cost in paid.items() if marks[name].get("run", name) == name and arms[name] in made)
        assert steps == runs > 0


KILLED = """
import asyncio, sys
from pathlib import Path
from backends.breaker import Breaker
from backends.scripted import Line
from router.types import Principal
from tests.programs.conftest import DAY, programs_in

async def main(folder, stream):
    program = {"draft": {"kind": "refine", "draft": "small", "critic": "large"}}
    async with programs_in(folder, program, lines={"large": Line(text="no", delay_s=60)}) as house:
        task = asyncio.ensure_future(house.ask("Write.", model="draft", stream=stream))
        await house.until(lambda: len(house.scripts["large"].sent) == 1)
        if stream:
            answer = await task
            await anext(answer.__aiter__())
        print("under way", flush=True)
        await asyncio.sleep(60)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2] == "stream"))
"""


@pytest.mark.parametrize("how", ["plain", "stream"])
async def test_a_gateway_killed_within_a_program_leaves_a_lease_that_ends_as_the_money_page_says(
    tmp_path: Path, how: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(tmp_path), how, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"under way\n"
    process.kill()
    await process.wait()
    later = [now_ms()]
    async with open_stores(f"sqlite:///{tmp_path}/pointsman.db", clock=lambda: later[0]) as stores:
        before = (await stores.ledger.balances([DAY], later[0]))[0]
        assert before.held > 0
        later[0] += 40_000  # beyond the lease
        await asyncio.sleep(0)
        after = (await stores.ledger.balances([DAY], later[0]))[0]
    assert after.held == 0
    assert after.spent == (before.held if how == "stream" else 0)
