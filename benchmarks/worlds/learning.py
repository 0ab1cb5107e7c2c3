"""What gateways of a world learn: feedback of clients, and what the views of the past say, as one number to compare."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies import registry
from policies.types import Arm, History, StoredPolicy
from router.errors import PointsmanError
from router.learning.views import Views
from router.stores.open import Stores
from router.types import Feedback

POLICIES = ("cheapest", "neighbours", "epsilon", "linucb", "paced")
REFIT_EVERY = 6  # judgements


class WorldWorkshop:
    """Policies with their defaults, refitted at once."""

    def __init__(self, arms: Sequence[Arm]) -> None:
        self._arms = arms

    def build(self, name: str) -> StoredPolicy:
        """Raises: ValueError."""
        return registry.build(name, self._arms, {})

    def options_of(self, name: str) -> Mapping[str, object]:
        """None."""
        return {}

    async def refit(self, name: str, state: dict[str, Any], history: History) -> dict[str, Any]:
        """The state after a refit."""
        policy = registry.build(name, history.arms, {})
        policy.restore(state)
        policy.refit(history)
        return dict(policy.state())


@dataclass(slots=True)
class SentFeedback:
    """A judgement that a client sent, and what it was told."""

    nonce: str
    judged: str  # a decision id, or a response id
    tenant: str  # of who judges
    owner: str  # of the decision
    score: float
    at_s: float
    reported: str = "nothing"  # or "recorded", "known", or the name of the error

    async def send(self, stores: Stores, now_ms: int) -> None:
        """As POST /v1/feedback does with it."""
        given = Feedback(self.judged, now_ms, self.score, tenant=self.tenant, key_id=self.nonce)
        try:
            self.reported = "recorded" if await stores.log.judge(given) else "known"
        except PointsmanError as error:
            self.reported = type(error).__name__


def seen_by(views: Views, arms: Sequence[Arm]) -> str:
    """Of all that these views hold; the policies' states depend on when they were refitted, and are left out."""
    found = hashlib.sha256(f"{views.learned} {len(views.index)} {len(views.open)}".encode())
    history = views.history(arms)
    for rows in (history.embeddings, history.scores, history.costs, history.weights, history.prompt_tokens):
        found.update(b"" if rows is None else np.nan_to_num(np.asarray(rows), nan=-1.0).tobytes())
    for name, values in sorted(views.trust.state().items()):
        found.update(name.encode() + (repr(values.tolist()).encode()))
    for owner, name, each in views.open.items():
        found.update(f"{owner} {name} {each.row} {each.taught} {each.cost}".encode())
    return found.hexdigest()[:12]
