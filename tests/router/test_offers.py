"""What a request asks the ledger for."""

from __future__ import annotations

import numpy as np
import pytest

from policies.types import BudgetState, Estimates, Proposal
from router.gateway import offers as module
from router.gateway.eligibility import Requirements
from router.gateway.offers import Offers
from router.gateway.types import Decision
from router.types import Model, NanoUsd, Price

MODELS = tuple(
    Model(name, "b", name, Price(NanoUsd(10**9), NanoUsd(10**9)), 8192, 512, False) for name in ("a", "b", "c", "d")
)
NEEDS = Requirements(frozenset(), 100, 50)


def make_decision(choice: int, *scores: float) -> Decision:
    n = np.zeros(len(scores))
    proposal = Proposal(n, Estimates(n, n, n), n, np.array(scores))
    embedding, rows = np.zeros(2, np.float32), np.zeros(0, np.int64)
    return Decision("d", "p", 1.0, MODELS, {}, proposal, choice, embedding, rows, embedding, BudgetState())


def test_the_drawn_model_comes_first_and_the_others_by_score() -> None:
    assert [offer.model for offer in Offers(make_decision(2, 0.1, 0.9, 0.2, 0.5), NEEDS)] == ["c", "b", "d", "a"]


def test_offers_stay_the_same_when_another_model_was_taken() -> None:
    decision = make_decision(0, 0.1, 0.9, 0.2, 0.5)
    offers = Offers(decision, NEEDS)
    before = list(offers)
    decision.choice = 1
    assert list(offers) == before


def test_where_the_first_offer_fits_no_other_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = module._offer
    monkeypatch.setattr(module, "_offer", lambda model, needs: made.append(model.name) or make(model, needs))
    next(iter(Offers(make_decision(3, 0.1, 0.9, 0.2, 0.5), NEEDS)))
    assert made == ["d"]
