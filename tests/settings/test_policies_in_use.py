"""What a policy reads of a query is there whoever names the policy."""

from __future__ import annotations

import pytest

from router.catalogue.factories import features_of
from router.settings.loading import build


@pytest.mark.parametrize(
    "tree",
    [
        {"policy": {"name": "paced"}},
        {"policy": {"name": "neighbours", "options": {"paced": {}}}},
        {"policy": {"name": "neighbours", "on_request": ["paced"]}},
        {"policy": {"name": "neighbours"}, "tenants": {"acme": {"policy": "paced"}}},
    ],
)
def test_surface_features_are_computed_wherever_paced_may_be_asked(tree: dict[str, object]) -> None:
    features = features_of(build(tree, {}))
    assert features is not None
    assert features("What is 2 + 2?").ndim == 1


def test_nobody_computes_what_no_policy_reads() -> None:
    assert features_of(build({"policy": {"name": "neighbours", "on_request": ["best"]}}, {})) is None
