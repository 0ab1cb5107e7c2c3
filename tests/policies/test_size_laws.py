"""What size, tokens, date and family foretell of a model nobody has asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policies.priors import FORETOLD_SIGMA, quality_prior, width_loss
from policies.size_laws import FILE, anchored, family_key, fitted, foretold_logit, logit_of, quality_of
from policies.types import Arm

UNKNOWN: dict[str, Any] = {"parameters": None, "family": None, "trained_tokens": None, "released": None}


def foretold(name: str = "m", **facts: Any) -> float:
    """Quality; NaN where nothing is foretold."""
    logit = foretold_logit(name, **{**UNKNOWN, **facts})
    return float("nan") if logit is None else quality_of(logit)


def test_more_weights_more_tokens_and_a_later_date_promise_more() -> None:
    plain: dict[str, Any] = {"parameters": 7e9, "trained_tokens": 2e12, "released": "2024-01"}
    for change in ({"parameters": 70e9}, {"trained_tokens": 15e12}, {"released": "2024-12"}):
        assert foretold(**{**plain, **change}) > foretold(**plain)


def test_a_published_family_is_known_by_its_name_and_size_alone() -> None:
    assert 0.2 < foretold(family="Qwen2", parameters=0.5e9) < foretold(family="qwen-2", parameters=72e9) < 0.8
    assert np.isnan(foretold(family="unheard-of", parameters=7e9))


def test_published_models_are_foretold_to_within_a_few_points() -> None:
    """Means over the twelve tasks, from the tables that were fitted."""
    assert foretold(family="meta-llama-3", parameters=8e9) == pytest.approx(0.45, abs=0.06)
    assert foretold(family="pythia", parameters=1.4e9) == pytest.approx(0.27, abs=0.06)


def test_a_measured_sibling_moves_its_family_and_nobody_else() -> None:
    logits = {"a-7b": -0.5, "a-70b": 0.5, "b-7b": -0.5}
    families = {"a-7b": "a", "a-70b": "a", "b-7b": "b"}
    before, after = anchored(logits, {}, families), anchored(logits, {"a-7b": 0.6}, families)
    assert after["a-70b"] > before["a-70b"]
    assert after["b-7b"] == before["b-7b"]


def test_quality_and_logit_are_each_others_inverse() -> None:
    chance = fitted()["law"]["chance"]
    for quality in (0.3, 0.5, 0.9):
        assert quality_of(float(logit_of(quality, chance=chance))) == pytest.approx(quality)


def test_the_coefficients_are_a_few_kilobytes_and_name_their_source() -> None:
    assert FILE.stat().st_size < 8000
    assert "felipemaiapolo/sloth" in fitted()["source"]
    assert family_key("Qwen 2") == family_key("qwen-2") == "qwen2"


def test_what_is_foretold_is_the_prior_and_a_measured_width_takes_its_own_loss() -> None:
    assert quality_prior(Arm("m", 0, 0, foretold=0.6)) == (0.6, FORETOLD_SIGMA)
    narrow = Arm("m@3bit", 0, 0, bits=3, foretold=0.6, width_loss=0.02)
    assert quality_prior(narrow)[0] == pytest.approx(0.58)
    assert quality_prior(Arm("m@3bit", 0, 0, bits=3, parent="m", width_loss=0.02), {"m": 0.7})[0] == pytest.approx(0.68)


def test_a_widths_loss_grows_with_its_distance_and_stays_a_share() -> None:
    losses = [width_loss(float(each)) for each in np.linspace(0, 1, 50)]
    assert losses == sorted(losses)
    assert (losses[0], max(losses)) == (0.0, 1.0)
