"""Who may serve a request at all: one pure function, and the reason for every no."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from router.types import Model, NanoUsd, Principal


class Requirements(msgspec.Struct, frozen=True):
    """What one request asks of a model."""

    capabilities: frozenset[str]
    prompt_bytes: int  # bytes of the text the model will read
    completion_tokens: int | None  # asked for by the client; None: as many as the model gives
    choices: int = 1  # `n`
    pinned: str | None = None  # the client named this model
    allowed: frozenset[str] | None = None  # None: all
    local_only: bool = False
    max_cost: NanoUsd | None = None
    images: int = 0
    messages: int = 1


TEMPLATE_TOKENS = 16  # a message's share of a chat template, generously
MESSAGE_JSON_BYTES = 30  # {"role":"user","content":""} and a comma
IMAGE_TOKENS = 4096  # the most one image takes in the engines served here, generously


def text_bytes(needs: Requirements) -> int:
    """Bytes of the prompt's own text: what was sent, without the JSON around each message."""
    return max(1, needs.prompt_bytes - MESSAGE_JSON_BYTES * needs.messages)


def expected_prompt_tokens(model: Model, needs: Requirements) -> int:
    """Prompt tokens of this request in the model's own tokenizer, as a mean."""
    return int(text_bytes(needs) / model.bytes_per_token) + 4 * needs.messages + needs.images * IMAGE_TOKENS // 4


def worst_tokens(model: Model, needs: Requirements) -> tuple[int, int]:
    """(prompt, completion) tokens that the answer cannot exceed: a token covers at least one byte of what is read."""
    prompt = needs.prompt_bytes + TEMPLATE_TOKENS * (needs.messages + 1) + IMAGE_TOKENS * needs.images
    prompt = min(prompt, model.context_tokens)  # an engine refuses more
    asked = needs.completion_tokens if needs.completion_tokens is not None else model.max_output_tokens
    return prompt, min(asked, model.context_tokens) * needs.choices


def worst_cost(model: Model, needs: Requirements) -> NanoUsd:
    """The most this request can cost on this model."""
    prompt, completion = worst_tokens(model, needs)
    return model.price.of(prompt, completion)


def is_usual(needs: Requirements, principal: Principal) -> bool:
    """Whether nothing but the length and what a model can do decides: no name, no list, no limit of cost or place."""
    free = needs.pinned is None and needs.allowed is None and needs.max_cost is None and not needs.local_only
    return free and principal.allowed_models is None and not principal.local_only


def all_hold(models: Sequence[Model], needs: Requirements) -> bool:
    """Whether the context of every one of these models holds the request, as far as is expected."""
    text, beside = text_bytes(needs), 4 * needs.messages + needs.images * IMAGE_TOKENS // 4
    beside += needs.completion_tokens or 1
    for model in models:  # noqa: SIM110  (a generator costs more than the comparison)
        if int(text / model.bytes_per_token) + beside > model.context_tokens:
            return False
    return True


def ineligible_reason(
    model: Model, needs: Requirements, principal: Principal, is_up: Callable[[str], bool]
) -> str | None:
    """The first reason why this model may not serve this request, or None. `is_up` takes a backend's name."""
    if needs.pinned is not None and model.name != needs.pinned:
        return "the request names another model"
    return _not_allowed(model, needs, principal) or _not_able(model, needs) or _not_up(model, is_up)


def _not_allowed(model: Model, needs: Requirements, principal: Principal) -> str | None:
    if principal.allowed_models is not None and model.name not in principal.allowed_models:
        return "the key does not allow this model"
    if needs.allowed is not None and model.name not in needs.allowed:
        return "not in the request's allowed_models"
    if (principal.local_only or needs.local_only) and not model.local:
        return "the request must stay local and this model is remote"
    return None


def _not_able(model: Model, needs: Requirements) -> str | None:
    missing = needs.capabilities - model.capabilities
    if missing:
        return f"cannot do {', '.join(sorted(missing))}"
    expected = expected_prompt_tokens(model, needs) + (needs.completion_tokens or 1)
    if expected > model.context_tokens:
        return f"the request needs about {expected} tokens and the context holds {model.context_tokens}"
    if needs.max_cost is not None and (worst := worst_cost(model, needs)) > needs.max_cost:
        return f"may cost {worst} nano-USD, over the request's max_cost_usd of {needs.max_cost} nano-USD"
    return None


def _not_up(model: Model, is_up: Callable[[str], bool]) -> str | None:
    if model.draining:
        return "draining"
    if not model.admitted:
        return f"a variant not admitted yet: run `pointsman admit {model.name}`"
    return None if is_up(model.backend) else "its backend is down"
