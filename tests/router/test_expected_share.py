"""ĉ of a conversation's next turn is what is charged in the mean: at any worker, and after a restart."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from policies.records import SettlementRecord
from router.learning.prompt_caches import SESSION, PromptCaches

PRICE, CACHED, MADE = 3.0, 0.3, 15.0  # micro-USD a token
SESSIONS, TURNS, WARM = 240, 20, 60
FINDS = {"keeps": (1.0, 0.97), "forgets": (0.9, 0.7), "plain": (0.0, 0.0)}  # of what is held; how often at all


@dataclass
class Bias:
    """Of one worker."""

    expected: float = 0.0
    charged: float = 0.0

    @property
    def share(self) -> float:
        return self.expected / self.charged - 1.0


@dataclass
class Replay:
    """Sessions of agents, that take turns, over arms that keep caches more or less well."""

    rng: np.random.Generator
    workers: list[PromptCaches]
    edited: float  # chance that a turn changes what stands in the middle
    counted: float  # own count of a token that an engine reports
    biases: dict[str, list[Bias]] = field(default_factory=dict)

    def turn(self, arm: str, session: str, held: int, now: float, *, counts: bool) -> int:
        """How much the arm holds of the session after one more."""
        prompt = held + int(self.rng.integers(50, 600))
        part, often = FINDS[arm]
        found = held * part if self.rng.random() < often else 0.0
        if self.rng.random() < self.edited:
            found *= self.rng.random()  # only what stands before the edit
        made = int(self.rng.integers(20, 300))
        charged = (prompt - int(found)) * PRICE + int(found) * CACHED + made * MADE
        for bias, worker in zip(self.biases.setdefault(arm, [Bias() for _ in self.workers]), self.workers, strict=True):
            own = int(prompt * self.counted)
            share = float(worker.shares(session, [arm], [own], now)[0])
            if counts:
                bias.expected += prompt * PRICE - share * own * (PRICE - CACHED) + made * MADE
                bias.charged += charged
        paid = SettlementRecord("d", int(now * 1000), arm, 0, prompt, made, "settled", parts={"cached": int(found)})
        record: Any = SimpleNamespace(metadata={SESSION: session})
        for worker in self.workers:
            worker.settled(record, paid)
        return prompt + made


@pytest.mark.parametrize("edited", [0.0, 0.2])
@pytest.mark.parametrize("counted", [1.0, 1.3])
def test_the_expected_cost_of_turns_is_what_they_are_charged(edited: float, counted: float) -> None:
    """At most 3 % apart, of each arm. One worker decided all the time, one only followed, and one is started anew."""
    replay = Replay(np.random.default_rng(7), [PromptCaches() for _ in range(3)], edited, counted)
    held: dict[int, int] = {}
    for round_ in range(SESSIONS * TURNS // 8):
        for slot in range(8):  # so many go on at once
            number = round_ // TURNS * 8 + slot
            arm = list(FINDS)[number % len(FINDS)]
            now = round_ * 20.0 + slot
            held[number] = replay.turn(arm, f"s{number}", held.get(number, 0), now, counts=number >= WARM)
        if round_ % 37 == 36:
            fresh = PromptCaches()
            fresh.restore(replay.workers[2].state())
            replay.workers[2] = fresh
    for arm, biases in replay.biases.items():
        assert all(abs(bias.share) <= 0.03 for bias in biases), (arm, [bias.share for bias in biases])
        assert biases[0] == biases[1] == biases[2], arm
