"""How long answers of each model took, from settlements: for engines and providers that do not report their speed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from backends.discovery import Speed
from policies.records import SettlementRecord
from policies.types import Float

DECAY = 0.95  # of what is known of a model at each further answer
LEAST = 3.0  # answers, before anything is said
SHORTEST_S = 1e-6


class AnswerTimes:
    """A line through seconds by completion tokens, (1, prompt tokens, tokens, seconds, tokens², tokens · seconds)."""

    def __init__(self) -> None:
        self._sums: dict[str, Float] = {}

    def settled(self, paid: SettlementRecord) -> None:
        """One answer that was paid for."""
        tokens, seconds = float(paid.completion_tokens), paid.latency_ms / 1000
        if tokens <= 0.0 or seconds <= 0.0:
            return
        one = np.array([1.0, paid.prompt_tokens, tokens, seconds, tokens * tokens, tokens * seconds])
        self._sums[paid.model] = DECAY * self._sums.get(paid.model, np.zeros(6)) + one

    def speed(self, model: str) -> Speed | None:
        """None where too few answers of it were seen. What no token explains is the prompt's."""
        found = self._sums.get(model)
        if found is None or found[0] < LEAST * DECAY**LEAST:
            return None
        _, prompt, tokens, seconds, squares, products = (found / found[0]).tolist()
        spread = squares - tokens * tokens
        slope = (products - tokens * seconds) / spread if spread > 0.01 * tokens * tokens else seconds / tokens
        slope = min(max(slope, 0.0), seconds / tokens)
        begun = max(seconds - slope * tokens, SHORTEST_S)
        return Speed(max(prompt, 1.0) / begun, 1.0 / max(slope, SHORTEST_S), seconds)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        """For a snapshot."""
        return {
            "models": np.array(list(self._sums), np.str_),
            "sums": np.array(list(self._sums.values()), np.float64).reshape(-1, 6),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Inverse of state(). Raises: KeyError, ValueError."""
        pairs = zip(state["models"], np.asarray(state["sums"], np.float64), strict=True)
        self._sums = {str(model): sums for model, sums in pairs}
