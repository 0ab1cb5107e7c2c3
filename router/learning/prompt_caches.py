"""What of a prompt each model is likely to have in its cache, learned from what usage reports; the log alone decides.

A conversation's next turn begins with what a model read and wrote at its last one. How much of that a provider or an
engine really finds again is measured for each model, and so is what it finds of prompts that begin anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from policies.records import DecisionRecord, SettlementRecord
from policies.types import Float
from router.learning.token_lines import LineSums

SESSION = "session"  # key of a conversation's digest in a decision's metadata
MOST = 20_000  # conversations that are remembered
KEPT_S = 600.0  # since their last turn
DECAY = 0.98  # of what is known of a model at each further answer
DOUBT = 1.0  # answers of which what they found is believed by half
NOTHING = LineSums()


class PromptCaches:
    """Follows settlements. State: who holds which conversation, and how much of a held prompt is found again."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, dict[str, tuple[float, int]]] = OrderedDict()  # session -> arm -> (when, tokens)
        self._again: dict[str, LineSums] = {}  # by arm: tokens found of those held, of turns that go on …
        self._anew: dict[str, LineSums] = {}  # … and of those read, of prompts that begin

    def settled(self, record: DecisionRecord, paid: SettlementRecord) -> None:
        """One answer that was paid for."""
        session, now = record.metadata.get(SESSION), paid.at_ms / 1000
        if session is None or not paid.prompt_tokens:
            return
        held = self._held_by(session, paid.model, now)
        found, base = paid.parts.get("cached", 0), min(held, paid.prompt_tokens) or paid.prompt_tokens
        known = self._again if held else self._anew
        before = known.get(paid.model, NOTHING)
        known[paid.model] = before.plus(float(base), float(min(found, base)), decay=DECAY)
        self._held.setdefault(session, {})[paid.model] = (now, paid.prompt_tokens + paid.completion_tokens)
        self._held.move_to_end(session)
        while len(self._held) > MOST:
            self._held.popitem(last=False)

    def shares(self, session: str, arms: Sequence[str], tokens: Sequence[int], now: float) -> Float:
        """(n,) of the prompt that each arm is expected to find in its cache; `tokens` are the prompt's for each arm."""
        return np.array([self._share(session, arm, most, now) for arm, most in zip(arms, tokens, strict=True)])

    def _share(self, session: str, arm: str, tokens: int, now: float) -> float:
        held = self._held_by(session, arm, now)
        sums = (self._again if held else self._anew).get(arm)
        if sums is None or tokens <= 0:
            return 0.0
        base, line = min(held or tokens, tokens), sums.line(steepest=1.0, doubt=DOUBT)
        return line.sure * min(max(line.constant + line.slope * base, 0.0), base) / tokens

    def _held_by(self, session: str, arm: str, now: float) -> int:
        at, tokens = self._held.get(session, {}).get(arm, (-KEPT_S, 0))
        return tokens if now - at < KEPT_S else 0

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        """For a snapshot."""
        turns = [(session, arm, *turn) for session, arms in self._held.items() for arm, turn in arms.items()]
        known = [(arm, *sums, again) for again, of in ((1, self._again), (0, self._anew)) for arm, sums in of.items()]
        return {
            "turns": np.array([turn[:2] for turn in turns], np.str_).reshape(-1, 2),
            "turn_numbers": np.array([turn[2:] for turn in turns], np.float64).reshape(-1, 2),
            "arms": np.array([each[0] for each in known], np.str_),
            "sums": np.array([each[1:] for each in known], np.float64).reshape(-1, 6),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Inverse of state(). Raises: KeyError, ValueError."""
        self._held, self._again, self._anew = OrderedDict(), {}, {}
        for (session, arm), (at, tokens) in zip(state["turns"], state["turn_numbers"], strict=True):
            self._held.setdefault(str(session), {})[str(arm)] = (float(at), int(tokens))
        if state["sums"].shape[-1] != len(NOTHING) + 1:
            return  # of an earlier form: it is soon known again
        for arm, (*sums, again) in zip(state["arms"], state["sums"].tolist(), strict=True):
            (self._again if again else self._anew)[str(arm)] = LineSums(*sums)
