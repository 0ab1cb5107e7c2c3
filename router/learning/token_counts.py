"""How many tokens each model's engine makes of a prompt, learned from what usage reports; the log alone decides.

A prompt is counted here by its bytes, without what templates and tools' schemas add. What an engine reports of it lies
on a line over that count, which is fitted for each model.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.machine_pricing import LEAST_READ, MOST_READ, UNSEEN, TokenLine
from policies.records import DecisionRecord, SettlementRecord
from router.learning.token_lines import LineSums

DECAY = 0.995  # of what is known of a model at each further answer
DOUBT = 2.0  # answers of which the line is believed by half
MOST_ARMS = 10_000


class TokenCounts:
    """Follows settlements. State: sums of a line for each arm."""

    def __init__(self) -> None:
        self.lines: dict[str, TokenLine] = {}  # tokens reported, by those counted
        self._sums: dict[str, LineSums] = {}

    def settled(self, record: DecisionRecord, paid: SettlementRecord) -> None:
        """One answer that was paid for. What the steps of a program read together says nothing of its prompt."""
        context = record.context
        arm = next((arm for arm in context.arms if arm.name == paid.model), None)
        if arm is None or arm.varies or not paid.prompt_tokens or not context.prompt_tokens:
            return
        counted = float(context.prompt_tokens)
        reported = min(max(float(paid.prompt_tokens), LEAST_READ * counted), MOST_READ * counted + UNSEEN)
        sums = self._sums.get(arm.name, LineSums()).plus(counted, reported, decay=DECAY)
        self._sums[arm.name], self.lines[arm.name] = sums, _line(sums)
        if len(self._sums) > MOST_ARMS:
            oldest = next(iter(self._sums))
            del self._sums[oldest], self.lines[oldest]

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        """For a snapshot."""
        return {
            "names": np.array(list(self._sums), np.str_),
            "sums": np.array(list(self._sums.values()), np.float64).reshape(-1, 5),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Inverse of state(). Raises: KeyError, ValueError."""
        pairs = zip(state["names"], np.asarray(state["sums"], np.float64).tolist(), strict=True)
        self._sums = {str(name): LineSums(*sums) for name, sums in pairs}
        self.lines = {name: _line(sums) for name, sums in self._sums.items()}


def _line(sums: LineSums) -> TokenLine:
    return sums.line(steepest=MOST_READ, doubt=DOUBT)
