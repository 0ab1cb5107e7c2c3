"""One record of a decision: what is logged is what was decided, and gives it back in any later process."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from policies import registry as named
from policies.records import DecisionRecord, to_half
from policies.types import Arm, BudgetState, LoggedContext, MeasuredCost, StoredPolicy
from router.learning.index import FaissIndex
from router.learning.table import OutcomeTable
from router.learning.views import Views
from router.stores.codec import decode, encode
from router.stores.open import Stores, open_stores
from router.types import LogEntry
from tests.stores.conftest import Clock

pytestmark = pytest.mark.anyio
DIM, ROWS, DECISIONS = 16, 120, 25


def some_arms(rng: np.random.Generator) -> tuple[Arm, ...]:
    """Two to nine arms, some of them free, some of them widths of another."""
    count = int(rng.integers(2, 10))
    prices = np.where(rng.random((count, 2)) < 0.1, 0.0, rng.lognormal(-14, 2, (count, 2)))
    arms = [Arm(f"m{i}", float(p), float(c), parameters=float(rng.lognormal(20))) for i, (p, c) in enumerate(prices)]
    if count > 3:
        arms[-1] = replace(arms[-1], parent="m0", bits=int(rng.integers(2, 8)))
    arms[0] = replace(arms[0], cached_price=arms[0].prompt_price / 10)
    return tuple(arms)


def some_context(name: str, arms: tuple[Arm, ...], rng: np.random.Generator) -> LoggedContext:
    """With and without a budget, capacities, measured machines and features."""
    vector = rng.normal(size=DIM).astype(np.float32)
    n = len(arms)
    left = float(rng.choice([0.0, 1e-7, 1e-4, 10.0, np.inf]))
    capacity = np.where(rng.random(n) < 0.5, rng.lognormal(-12, 4, n), np.inf)
    usd = np.where(rng.random(n) < 0.3, np.nan, rng.lognormal(-14, 1, n))
    return LoggedContext(
        name,
        "acme",
        float(rng.choice([0.0, 80.0, 1e12])),
        to_half(vector / np.linalg.norm(vector)),
        arms,
        int(rng.integers(1, 5000)),
        int(rng.integers(1, 20_000)),
        int(rng.integers(1, 4096)),
        round(1.7e9 + rng.random() * 1e6, 3),
        BudgetState()
        if np.isinf(left)
        else BudgetState(left, left + 1.0, float(rng.integers(1, 10**6)), "tenant:acme"),
        capacity if rng.random() < 0.5 else None,
        rng.normal(size=5).astype(np.float32) if rng.random() < 0.5 else None,
        MeasuredCost(usd, usd * 2.0, np.full(n, 200.0)) if rng.random() < 0.3 else None,
        20,
        rng.random(n) if rng.random() < 0.5 else None,
        rng.lognormal(-10, 2, n) if rng.random() < 0.5 else None,
        counted=rng.lognormal(0, 0.5, n) if rng.random() < 0.5 else None,
    )


def taught(name: str, arms: tuple[Arm, ...], rng: np.random.Generator) -> tuple[StoredPolicy, Views]:
    """A policy that was refitted on some history and has learned since."""
    policy = named.build(name, arms, OPTIONS.get(name))
    views = Views(FaissIndex(DIM), {name: policy})
    for row in range(ROWS):
        context = some_context(f"past-{row}", arms, rng)
        views.table.append(context)
        views.index.add(context.embedding[None], np.array([row]))
        weight = float(rng.choice([0.2, 1.0]))
        arm = arms[int(rng.integers(len(arms)))]
        views.table.observe(row, arm, score=float(rng.random()), cost=1e-5, tokens=100, weight=weight)
    policy.refit(views.table.history(arms))
    return policy, views


OPTIONS: dict[str, dict[str, object]] = {"fixed": {"arm": "m1"}, "neighbours": {"explore": 0.05}}


def some_record(name: str, context: LoggedContext, policy: StoredPolicy, views: Views) -> DecisionRecord:
    proposal = policy.propose(views.context(context))
    model = context.names[int(np.argmax(proposal.probabilities))]
    return DecisionRecord(context, proposal.evidence, proposal.probabilities, model, name)


@pytest.mark.parametrize("name", named.NAMES)
async def test_any_later_process_gives_back_the_logged_distribution(name: str, stores: Stores) -> None:
    """From the estimates and prices in the log alone, by a policy that learned nothing."""
    rng = np.random.default_rng(named.NAMES.index(name))
    arms = some_arms(rng)
    policy, views = taught(name, arms, rng)
    given = [some_record(name, some_context(f"d{i}", arms, rng), policy, views) for i in range(DECISIONS)]
    for record in given:
        await stores.log.remember(record)
    back = [entry async for _, entry in stores.log.tail("", follow=False)]
    assert len(back) == DECISIONS
    later = named.build(name, (), OPTIONS.get(name))
    for record in map(read_again, back):
        again = later.distribute(record.context, record.evidence).probabilities
        np.testing.assert_array_equal(again, record.probabilities)
        assert again.tobytes() == record.probabilities.tobytes()


LATER = """
import asyncio, json, sys, time
from policies import registry
from router.stores.open import open_stores

async def main(url, options):
    async with open_stores(url, clock=lambda: time.time_ns() // 1_000_000) as stores:
        async for _, record in stores.log.tail("", follow=False):
            policy = registry.build(record.policy, (), options.get(record.policy))
            again = policy.distribute(record.context, record.evidence).probabilities
            print(record.decision_id, again.tobytes() == record.probabilities.tobytes())

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""


async def test_another_process_draws_up_what_is_in_the_log_to_the_last_bit(url: str, clock: Clock) -> None:
    """Over catalogues, budgets and policies drawn anew for each run."""
    seed = secrets.randbits(32)
    rng = np.random.default_rng(seed)
    expected = []
    async with open_stores(url, clock=clock) as stores:
        for world, name in enumerate(rng.choice(named.NAMES, 6)):
            arms = some_arms(rng)
            policy, views = taught(str(name), arms, rng)
            for i in range(5):
                record = some_record(str(name), some_context(f"{world}-{i}", arms, rng), policy, views)
                await stores.log.remember(record)
                expected.append(f"{record.decision_id} True")
    command = [sys.executable, "-c", LATER, url, json.dumps(OPTIONS)]
    later = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert later.stdout.split("\n")[:-1] == expected, f"seed {seed}: {later.stderr}"


def read_again(entry: LogEntry) -> DecisionRecord:
    """As a process reads it that did not write it."""
    record = decode("d", encode(entry))
    assert isinstance(record, DecisionRecord)
    return record


@pytest.mark.parametrize("name", named.NAMES)
def test_a_policy_restored_at_its_version_decides_the_same_from_the_logged_context(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(100 + named.NAMES.index(name))
    arms = some_arms(rng)
    policy, views = taught(name, arms, rng)
    given = [some_record(name, some_context(f"d{i}", arms, rng), policy, views) for i in range(DECISIONS)]
    restored = Views(FaissIndex(DIM), {name: named.build(name, (), OPTIONS.get(name))})
    restored.policies[name].restore({key: np.array(value) for key, value in policy.state().items()})
    restored.table = saved_and_loaded(views, tmp_path)
    restored.index.load(tmp_path, rows=ROWS)
    for record in map(read_again, given):
        again = restored.policies[name].propose(restored.context(record.context)).probabilities
        assert again.tobytes() == record.probabilities.tobytes()


def saved_and_loaded(views: Views, folder: Path) -> OutcomeTable:
    views.table.save(folder)
    views.index.save(folder)
    table = OutcomeTable(DIM)
    table.load(folder)
    return table
