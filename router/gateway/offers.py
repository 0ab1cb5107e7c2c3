"""What a request asks the ledger for: the model drawn, or else the best other one that fits."""

from __future__ import annotations

from collections.abc import Iterator

from policies.types import Proposal
from router.gateway.eligibility import Requirements, offer_of
from router.gateway.types import Decision
from router.types import Offer


class Offers:
    """The offers of one decision, best first; each is made when it is looked at, since nearly always the first fits."""

    __slots__ = ("_choice", "_models", "_needs", "_proposal")

    def __init__(self, decision: Decision, needs: Requirements) -> None:
        self._models, self._proposal, self._needs = decision.models, decision.proposal, needs
        self._choice = decision.models.index(decision.model)  # which changes once another model was taken

    def __iter__(self) -> Iterator[Offer]:
        yield offer_of(self._models[self._choice], self._needs)
        if len(self._models) == 1:
            return
        for i in _others(self._proposal, self._choice):
            yield offer_of(self._models[i], self._needs)


def _others(proposal: Proposal, choice: int) -> list[int]:
    """All but the drawn model by score, best first."""
    scores = proposal.scores.tolist()
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    order.remove(choice)
    return order
