"""False feedback moves its own tenant and hardly anybody else, and who is of another taste gets its own way."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from benchmarks.poison import Earned, PoisonedWorld, played
from policies.tenant_effects import TenantEffects
from policies.trust import LEAST, Trust
from router.learning import views

QUERIES = 2_400


@cache
def earned(seed: int, share: float) -> Earned:
    return played(PoisonedWorld.of(seed), "neighbours", share=share, queries=QUERIES, seed=seed)


@cache
def silent(seed: int, share: float) -> float:
    """What the honest get where the attacker says nothing."""
    return played(PoisonedWorld.of(seed), "neighbours", share=share, queries=QUERIES, seed=seed, lies=False).honest


def taught(trust: Trust, tenant: str, key: str, scores: list[tuple[float, float]]) -> None:
    for score, expected in scores:
        trust.judged(tenant, key, score=score, expected=expected)


def said(rng: np.random.Generator, count: int, *, truth: float, expected: float) -> list[tuple[float, float]]:
    return [(float(rng.random() < truth), expected) for _ in range(count)]


def test_a_tenant_that_says_the_opposite_is_hardly_believed_and_the_honest_wholly() -> None:
    rng, trust = np.random.default_rng(0), Trust()
    for name in "abcdef":
        taught(trust, name, "k", said(rng, 60, truth=0.9, expected=0.85))
    taught(trust, "mallory", "k", said(rng, 60, truth=0.1, expected=0.9))
    assert trust.of("mallory") < 0.05
    assert min(trust.of(name) for name in "abcdef") > 0.5
    assert trust.of("new") == 1.0


def test_one_key_that_lies_is_doubted_beside_its_tenant() -> None:
    rng, trust = np.random.default_rng(0), Trust()
    for name in "abcdef":
        taught(trust, name, "good", said(rng, 60, truth=0.9, expected=0.85))
    taught(trust, "a", "bad", said(rng, 60, truth=0.1, expected=0.85))
    assert trust.of_key("a", "bad") < 0.05
    assert trust.of_key("a", "good") > 0.5


def test_two_tenants_cannot_tell_who_lies() -> None:
    rng, trust = np.random.default_rng(0), Trust()
    taught(trust, "a", "k", said(rng, 60, truth=0.9, expected=0.1))
    taught(trust, "b", "k", said(rng, 60, truth=0.1, expected=0.9))
    assert trust.of("a") == trust.of("b") == 1.0


def test_a_weight_is_never_zero_and_who_comes_round_is_believed_again() -> None:
    rng, trust = np.random.default_rng(0), Trust()
    for name in "abc":
        taught(trust, name, "k", said(rng, 60, truth=0.9, expected=0.85))
    taught(trust, "d", "k", [(0.0, 1.0)] * 400)
    assert trust.of("d") == LEAST
    taught(trust, "d", "k", said(rng, 3_000, truth=0.9, expected=0.85))
    assert trust.of("d") > 0.9


def test_trust_and_effects_come_back_whole() -> None:
    rng, trust, again = np.random.default_rng(0), Trust(), Trust()
    for name in ("a", "b", "c\u00e9"):
        taught(trust, name, "k", said(rng, 37, truth=0.9, expected=0.5))
    again.restore(trust.state())
    assert [again.of(name) for name in "ab"] == [trust.of(name) for name in "ab"]
    assert again.state()["errors"].tolist() == trust.state()["errors"].tolist()
    effects = TenantEffects()
    effects.restore(TenantEffects().state())
    assert effects.state()["sums"].shape == (0, 2)


@pytest.mark.parametrize(("share", "allowed"), [(0.2, 0.01), (0.4, 0.03)])
def test_an_attacker_takes_hardly_anything_from_the_honest(share: float, allowed: float) -> None:
    lost = [silent(seed, share) - earned(seed, share).honest for seed in (0, 1, 2)]
    assert float(np.mean(lost)) <= allowed


def test_the_same_attacker_takes_much_where_everybody_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Credulous(Trust):
        def _look(self) -> None: ...

    monkeypatch.setattr(views, "Trust", Credulous)
    lost = [silent(seed, 0.4) - earned.__wrapped__(seed, 0.4).honest for seed in (0, 1, 2)]
    assert float(np.mean(lost)) > 0.03


def test_the_more_others_differ_from_a_tenant_the_fewer_of_its_own_judgements_they_are_worth() -> None:
    rng, trust = np.random.default_rng(0), Trust()
    assert trust.rows_for("a") == np.inf
    for name, truth in (*((name, 0.9) for name in "abcdef"), ("other", 0.6), ("opposite", 0.1)):
        taught(trust, name, "k", said(rng, 200, truth=truth, expected=0.9))
    assert trust.rows_for("a") > trust.rows_for("other") > trust.rows_for("opposite") > 0.0
    assert trust.rows_for("opposite") < 1.0


def test_where_nobody_lies_a_tenant_of_another_taste_is_served_far_better_than_the_crowd_would_have_it() -> None:
    worlds = [PoisonedWorld.of(seed) for seed in range(6)]
    other = [earned(seed, 0.0).other for seed in range(6)]
    crowds = [np.mean([np.roll(row, 1)[row.argmax()] for row in w.quality]) for w in worlds]
    assert float(np.mean(other)) > float(np.mean(crowds)) + 0.08


def test_a_tenant_of_another_taste_gets_its_own_way() -> None:
    worlds = [PoisonedWorld.of(seed) for seed in (0, 1, 2)]
    other = [earned(seed, 0.2).other for seed in (0, 1, 2)]
    crowds = [np.mean([np.roll(row, 1)[row.argmax()] for row in w.quality]) for w in worlds]
    assert float(np.mean(other)) > float(np.mean(crowds)) + 0.03  # than what the crowd finds best would give it
