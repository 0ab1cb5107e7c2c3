"""Which model made the calls of tools and signed the thoughts that conversations go on from; the log alone decides."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from policies.records import SettlementRecord

MOST = 100_000  # marks that are remembered


class TurnHolders:
    """Follows settlements. State: the model of each mark of an answer; marks are digests that name their tenant."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, str] = OrderedDict()

    def settled(self, paid: SettlementRecord) -> None:
        """One answer that left marks."""
        self.take(paid.marks, paid.model)

    def take(self, marks: Iterable[str], model: str) -> None:
        """These are a model's."""
        for mark in marks:
            self._models[mark] = model
        while len(self._models) > MOST:
            self._models.popitem(last=False)

    def holder(self, marks: Iterable[str]) -> str | None:
        """The model that made one of these; None where nobody knows."""
        return next((self._models[mark] for mark in marks if mark in self._models), None)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        """For a snapshot."""
        return {
            "marks": np.array(list(self._models), np.str_),
            "models": np.array(list(self._models.values()), np.str_),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Inverse of state(). Raises: KeyError, ValueError."""
        pairs = zip(state["marks"], state["models"], strict=True)
        self._models = OrderedDict((str(mark), str(model)) for mark, model in pairs)
