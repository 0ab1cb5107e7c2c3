"""What is known of models before their first answer, as the quality it lets expect."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from policies.size_laws import anchored, family_key, foretold_logit
from router.types import Model

FACTS = ("family", "parameters", "trained_tokens", "released")


def with_foretold(models: Collection[Model]) -> list[Model]:
    """The models, each with what its size, training tokens, date and family let expect.

    A variant inherits these facts from its parent; a family moves by what its members' measured quality lies off.
    """
    named = {model.name: model for model in models}
    known = {name: _inherited(model, named.get(model.parent or "")) for name, model in named.items()}
    logits = {name: logit for name, model in known.items() if (logit := _logit(model)) is not None}
    measured = {name: model.quality for name, model in known.items() if model.quality is not None}
    families = {name: family_key(model.family or "") for name, model in known.items()}
    expected = anchored(logits, measured, families)
    return [replace(model, foretold=expected.get(name, model.foretold)) for name, model in named.items()]


def _inherited(model: Model, parent: Model | None) -> Model:
    if parent is None:
        return model
    missing = {fact: getattr(parent, fact) for fact in FACTS if getattr(model, fact) is None}
    return replace(model, **missing)


def _logit(model: Model) -> float | None:
    return foretold_logit(
        model.name,
        parameters=model.parameters,
        family=model.family,
        trained_tokens=model.trained_tokens,
        released=model.released,
    )
