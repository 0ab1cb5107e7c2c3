"""Worlds by their seeds: no promise is broken, each replays to the same line, and a mistake in the money is noticed."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.worlds.command import MEMORY, judged
from benchmarks.worlds.loop import Process, VirtualLoop, close_quietly
from benchmarks.worlds.mutants import MUTANTS
from benchmarks.worlds.world import SeededWorld

pytestmark = pytest.mark.real_time


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder that no disk slows down."""
    folder = Path(tempfile.mkdtemp(dir=MEMORY)) if MEMORY.is_dir() else tmp_path
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("seed", [*range(9001, 9013), *range(10_001, 10_007)])  # the last with prices of caches
def test_no_world_breaks_a_promise(seed: int) -> None:
    _, _, complaints = judged(seed)
    assert complaints == []


def test_a_seed_gives_the_same_lines_each_time_and_another_seed_others(memory: Path) -> None:
    for seed in (18, 19):  # of either store
        first, again, other = (SeededWorld(each, memory).run() for each in (seed, seed, seed + 100))
        assert first.lines == again.lines
        assert first.digest == again.digest != other.digest


def test_a_world_is_full_of_trouble(memory: Path) -> None:
    worlds = [SeededWorld(seed, memory).run() for seed in (41, 57, 15, 2, 3, 22, 6)]
    ends = {(request.ended, request.status) for world in worlds for request in world.requests}
    assert {("answered", 200), ("answered", 429), ("answered", 502), ("reset", 0), ("reset", 200)} <= ends
    kinds = {entry.kind for world in worlds for entry in world.audit}
    assert {"hold.expired", "hold.released", "hold.over", "usage.estimated"} <= kinds
    assert {"hold.recovered", "clock.jumped", "clock.confirmed"} <= kinds
    assert any(world.lost_s for world in worlds)
    assert {"lost", "stall", "cut", "mute", "clock"} <= {why for world in worlds for why in world.away}
    assert {"recorded", "known", "Conflict", "NotFound"} <= {
        each.reported for world in worlds for each in world.feedback
    }
    assert any(gateway.learning._fitted for world in worlds for gateway in world.gateways.values())
    assert any(len(world.versions) > 1 for world in worlds)


def test_what_a_mutant_changes_is_still_there() -> None:
    for mutant in MUTANTS.values():
        assert mutant.changed() != mutant.path().read_text(), mutant.what
    assert len(MUTANTS) >= 10


@pytest.mark.parametrize("name", ["held", "lua-kept", "kinds"])
def test_a_mistake_in_the_money_is_noticed(name: str) -> None:
    first = MUTANTS[name].first
    command = [sys.executable, "-m", "benchmarks.worlds", "run", f"{first}..{first + 39}", "--mutant", name]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stderr
    assert "\t" in found.stdout


def test_a_day_passes_at_once() -> None:
    loop, began = VirtualLoop(), time.monotonic()
    loop.run_until_complete(asyncio.sleep(86_400))
    assert loop.time() == 86_400
    assert time.monotonic() - began < 10
    close_quietly(loop)


def test_who_waits_for_nobody_waits_for_ever_and_is_told() -> None:
    loop = VirtualLoop()
    with pytest.raises(RuntimeError, match="waits for somebody else"):
        loop.run_until_complete(loop.create_future())
    close_quietly(loop)


def test_the_dead_do_nothing_any_more_not_even_at_last() -> None:
    loop, process, done = VirtualLoop(), Process("p"), []

    async def work() -> None:
        try:
            for step in range(100):
                await asyncio.sleep(1)
                done.append(step)
        finally:
            done.append(-1)

    async def live() -> None:
        process.on_death.append(lambda: loop.bury(process))
        loop.spawn(process, work())
        await asyncio.sleep(5.5)
        process.die()
        await asyncio.sleep(100)

    loop.run_until_complete(live())
    assert done == [0, 1, 2, 3, 4]
    close_quietly(loop)
