"""Names that stand for several models where it is said who may use what. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from router.settings.sections import ModelSection
from router.terms import Level, Terms


def groups_of(models: Iterable[ModelSection]) -> frozenset[str]:
    """Every group's name."""
    return frozenset(group for model in models for group in model.groups)


def spread(allowed: frozenset[str] | None, models: Iterable[ModelSection]) -> frozenset[str] | None:
    """Names that may be used, with the models of those that are groups."""
    if allowed is None:
        return None
    return allowed.union(model.name for model in models if not model.groups.isdisjoint(allowed))


def grouped(scope: str, terms: Terms, models: Iterable[ModelSection]) -> Level:
    """Terms as a level, with the models of each group that they allow."""
    allowed = spread(terms.allowed_models, models)
    return Level(
        scope, terms if allowed == terms.allowed_models else terms.model_copy(update={"allowed_models": allowed})
    )
