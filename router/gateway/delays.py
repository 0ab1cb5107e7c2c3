"""How long an answer would take: by what the engines say of their load and speed, or by what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from backends.discovery import Speed
from backends.pool import Replicas
from policies.estimators.means import PRIOR_COMPLETION_TOKENS
from policies.types import Float
from router.gateway.eligibility import Requirements, expected_prompt_tokens
from router.gateway.machine_pricing import prior_speed
from router.types import Model


class Delays:
    """Seconds until a whole answer would be there; before anything is measured, from the roofline of a usual machine.
    `program_s` is asked for programs."""

    def __init__(self, backend: Callable[[str], Replicas], measured: Callable[[str], Speed | None]) -> None:
        self.program_s: Callable[[Model, Requirements], float] = lambda _model, _needs: 0.0
        self._backend = backend
        self._measured = measured

    def of_tokens(self, model: Model, *, prompt_tokens: float, completion_tokens: float) -> float:
        """Of an answer of so many tokens to so many."""
        prior = self._measured(model.name) or prior_speed(model)
        backend = self._backend(model.backend)
        return backend.delay_s(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, prior=prior)

    def of(self, model: Model, requirements: Requirements) -> float:
        """Of the answer to a request."""
        if model.program is not None:
            return self.program_s(model, requirements)
        tokens = min(requirements.completion_tokens or PRIOR_COMPLETION_TOKENS, model.max_output_tokens)
        return self.of_tokens(
            model, prompt_tokens=expected_prompt_tokens(model, requirements), completion_tokens=tokens
        )

    def worth(self, usd_per_s: float, models: Sequence[Model], requirements: Requirements) -> Float:
        """(n,) USD that not having to wait for each of them is worth."""
        return usd_per_s * np.array([self.of(model, requirements) for model in models])

    def too_long(self, model: Model, requirements: Requirements, most_s: float) -> str | None:
        """Why a model is too slow for a request, or None."""
        expected = self.of(model, requirements)
        if expected <= most_s:
            return None
        return f"takes about {expected:.3g} s, over the request's max_delay_s of {most_s:g} s"
