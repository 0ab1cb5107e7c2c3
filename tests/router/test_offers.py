"""What a request asks the ledger for."""

from __future__ import annotations

import numpy as np
import pytest

from policies.types import Arm, Estimates, Evidence, Proposal
from router.gateway import offers as module
from router.gateway.eligibility import Requirements
from router.gateway.offers import Offers
from router.gateway.types import Decision
from router.types import Model, NanoUsd, Price
from tests.policies.worlds import make_record

MODELS = tuple(
    Model(name, "b", name, Price(NanoUsd(10**9), NanoUsd(10**9)), 8192, 512, False) for name in ("a", "b", "c", "d")
)
NEEDS = Requirements(frozenset(), 100, 50)


def make_decision(choice: int, *scores: float) -> Decision:
    n = np.zeros(len(scores))
    estimates = Estimates(n, n, n)
    proposal = Proposal(n, estimates, n, np.array(scores), Evidence(estimates))
    arms = tuple(Arm(model.name, 0.0, 0.0) for model in MODELS)
    record = make_record("d", arms, model=MODELS[choice].name)
    return Decision(record, proposal, MODELS, {})


def test_the_drawn_model_comes_first_and_the_others_by_score() -> None:
    assert [offer.model for offer in Offers(make_decision(2, 0.1, 0.9, 0.2, 0.5), NEEDS)] == ["c", "b", "d", "a"]


def test_offers_stay_the_same_when_another_model_was_taken() -> None:
    decision = make_decision(0, 0.1, 0.9, 0.2, 0.5)
    offers = Offers(decision, NEEDS)
    before = list(offers)
    decision.fall_to("b")
    assert list(offers) == before


def test_where_the_first_offer_fits_no_other_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = module.offer_of
    monkeypatch.setattr(
        module, "offer_of", lambda model, requirements: made.append(model.name) or make(model, requirements)
    )
    next(iter(Offers(make_decision(3, 0.1, 0.9, 0.2, 0.5), NEEDS)))
    assert made == ["d"]
