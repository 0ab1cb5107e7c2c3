"""Who may serve a request at all: one pure function, and the reason for every no."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from backends.dialects import ABILITIES
from backends.tags import admitted
from router.errors import InvalidRequest, NoCandidate, NotFound, PointsmanError
from router.gateway.abilities import PROMPT_CACHE
from router.gateway.cost_fields import LIMITS, UNLIMITED, Raised, laid_over
from router.types import Model, NanoUsd, Offer, Principal, show_usd

NONE: Mapping[str, str] = MappingProxyType({})
MOST_NAMED = 6  # models, where a reason is that of many
MOST_REASONS = 6  # that are told


class Requirements(msgspec.Struct, frozen=True):
    """What one request asks of a model."""

    capabilities: frozenset[str]
    prompt_bytes: int  # bytes of the text the model will read, without images
    completion_tokens: int | None  # asked for by the client; None: as many as the model gives
    choices: int = 1  # `n`, times the prompts
    prompts: int = 1  # texts that are read each for itself
    most_tokens: int = 0  # of a completion, by fields that some engines read in place of the usual one
    predicted_bytes: int = 0  # of the completion as the client predicts it, which may be charged beside it
    unknown_bytes: int = 0  # of fields that nobody knows and an engine may read
    unforeseen: str = ""  # what adds tokens nobody can foresee: the whole context is held
    fee: str = ""  # what adds fees without a bound
    searches: int = 0  # that the provider may make, at most
    pinned: str | None = None  # the client named this model
    allowed: frozenset[str] | None = None  # None: all
    local_only: bool = False
    max_cost: NanoUsd | None = None
    max_delay_s: float | None = None  # until the whole answer is there, as expected
    images: int = 0
    messages: int = 1
    features: frozenset[str] = frozenset()  # what is asked beyond plain text: see abilities
    repeats: bool = False  # asked again, a model would say the same: the temperature is 0
    tags: frozenset[str] = frozenset()  # by which some models choose among their servers
    may_shorten: bool = False  # no context holds the whole answer that is asked for: what is left will do


OVER_CHAT = frozenset(ABILITIES.values())  # protocols that a model which can chat can be asked in
TEMPLATE_TOKENS = 16  # a message's share of a chat template, generously
SYSTEM_TOKENS = 128  # what templates say before the first message
TOOLS_TOKENS = 512  # … and where there are tools
MESSAGE_JSON_BYTES = 30  # {"role":"user","content":""} and a comma
IMAGE_TOKENS = 16_384  # the most one image takes in the engines served here, at their own settings
USUAL_IMAGE_TOKENS = 1024


def text_bytes(requirements: Requirements) -> int:
    """Bytes of the prompt's own text: what was sent, without the JSON around each message."""
    return max(1, requirements.prompt_bytes - MESSAGE_JSON_BYTES * requirements.messages)


def expected_prompt_tokens(model: Model, requirements: Requirements) -> int:
    """Prompt tokens of this request in the model's own tokenizer, as a mean."""
    return (
        int(text_bytes(requirements) / model.bytes_per_token)
        + 4 * requirements.messages
        + requirements.images * USUAL_IMAGE_TOKENS
    )


def worst_tokens(model: Model, requirements: Requirements) -> tuple[int, int]:
    """(prompt, completion) tokens that the answer cannot exceed: a token covers at least one byte of what is read."""
    context, asked, choices = model.context_tokens, requirements.completion_tokens, requirements.choices
    if asked is None:
        asked = model.max_output_tokens
    if model.extra_body or model.defaults or model.drop_fields:
        laid = _laid_over(model)
        asked, choices = max(asked, laid.tokens), max(choices, laid.choices * requirements.prompts)
    prompt = (
        requirements.prompt_bytes + requirements.unknown_bytes + TEMPLATE_TOKENS * requirements.messages + SYSTEM_TOKENS
    )
    prompt += IMAGE_TOKENS * requirements.images + (TOOLS_TOKENS if "tools" in requirements.capabilities else 0)
    if requirements.unforeseen or prompt > context * requirements.prompts:
        prompt = context * requirements.prompts  # an engine refuses more
    return prompt, min(max(asked, requirements.most_tokens) + requirements.predicted_bytes, context) * choices


def _laid_over(model: Model) -> Raised:
    """What the operator's own fields for this model allow; without the client's limit there is none."""
    raised = laid_over({**model.defaults, **model.extra_body})
    return raised if model.drop_fields.isdisjoint(LIMITS) else replace(raised, tokens=UNLIMITED)


def worst_case(model: Model, requirements: Requirements) -> tuple[NanoUsd, int]:
    """The most this request can cost on this model, whatever kind its tokens are, and how many they may be."""
    prompt, completion = worst_tokens(model, requirements)
    return model.worst(
        prompt, completion, requirements.searches, writes=writes_cache(model, requirements)
    ), prompt + completion


def writes_cache(model: Model, requirements: Requirements) -> bool:
    """Whether the client, or the operator for this model, asks that a provider keep the prompt."""
    if PROMPT_CACHE in requirements.features:
        return True
    return any(name.startswith("cache_control") for name in (*model.extra_body, *model.defaults))


def offer_of(model: Model, requirements: Requirements) -> Offer:
    """The most this request can cost on this model, and can read and write there."""
    if model.program is not None:
        return model.program.offer(model, requirements)
    worst, tokens = worst_case(model, requirements)
    return Offer(model.name, worst, tokens, model.budgets, model.limits)


def worst_cost(model: Model, requirements: Requirements) -> NanoUsd:
    """The most this request can cost on this model."""
    return offer_of(model, requirements).worst


def bounded(requirements: Requirements, principal: Principal) -> Requirements:
    """The requirements with what the principal's own terms leave: who a program may ask."""
    own, asked = principal.allowed_models, requirements.allowed
    allowed = asked if own is None else own if asked is None else own & asked
    return replace(requirements, allowed=allowed, local_only=requirements.local_only or principal.local_only)


def is_usual(requirements: Requirements, principal: Principal) -> bool:
    """Whether nothing but the length and what a model can do decides: no name, no list, no limit of cost or place."""
    free = (
        requirements.pinned is None
        and requirements.allowed is None
        and requirements.max_cost is None
        and not requirements.local_only
    )
    free = free and requirements.max_delay_s is None and not requirements.tags
    return free and not requirements.unforeseen and principal.allowed_models is None and not principal.local_only


def all_hold(models: Sequence[Model], requirements: Requirements) -> bool:
    """Whether the context of every one of these models holds the request, as far as is expected."""
    text, beside = text_bytes(requirements), 4 * requirements.messages + requirements.images * USUAL_IMAGE_TOKENS
    beside += requirements.completion_tokens or 1
    for model in models:
        if int(text / model.bytes_per_token) + beside > model.context_tokens * requirements.prompts:
            return False
    return True


DOWN, DRAINING, FAILED = "its backend is down", "draining", "failed on this request"


def ineligible_reason(
    model: Model, requirements: Requirements, principal: Principal, is_up: Callable[[str], bool]
) -> str | None:
    """The first reason why this model may not serve this request, or None. `is_up` takes a backend's name."""
    if requirements.pinned is not None and model.name != requirements.pinned:
        return "the request names another model"
    why = _not_allowed(model, requirements, principal) or _not_able(model, requirements)
    if why is None and model.program is not None:
        return model.program.reason(requirements, principal, is_up)
    return why or not_up(model, is_up)


def _not_allowed(model: Model, requirements: Requirements, principal: Principal) -> str | None:
    if principal.allowed_models is not None and principal.allowed_models.isdisjoint((model.name, model.wildcard)):
        return "the key does not allow this model"
    if requirements.allowed is not None and requirements.allowed.isdisjoint((model.name, model.wildcard)):
        return "not in the request's allowed_models"
    if (principal.local_only or requirements.local_only) and not model.local:
        return "the request must stay local and this model is remote"
    if model.tags and not admitted(enumerate(model.tags), requirements.tags):
        return "its servers are for requests with other tags"
    return None


def _not_able(model: Model, requirements: Requirements) -> str | None:
    missing = requirements.capabilities - model.capabilities
    if missing and "chat" in model.capabilities:
        missing -= OVER_CHAT
    if missing:
        return f"cannot do {', '.join(sorted(missing))}"
    answer = 1 if requirements.may_shorten else requirements.completion_tokens or 1
    expected = expected_prompt_tokens(model, requirements) + answer
    if expected > model.context_tokens * requirements.prompts:
        return f"the request needs about {expected} tokens and the context holds {model.context_tokens}"
    if requirements.max_cost is not None and (worst := worst_cost(model, requirements)) > requirements.max_cost:
        return (
            f"may cost {show_usd(worst)} USD, over the request's max_cost_usd of {show_usd(requirements.max_cost)} USD"
        )
    return None


def shortened(requirements: Requirements) -> Requirements:
    """The same, of which less than all may be answered."""
    return replace(requirements, may_shorten=True)


def room(model: Model, requirements: Requirements, prompt: int) -> int | None:
    """Tokens left for an answer where more are asked for than the context holds beside so long a prompt, with a margin
    for what those are estimated at. None where the client named the model: its engine then says what it thinks."""
    if requirements.pinned is not None or requirements.completion_tokens is None:
        return None
    return max(1, model.context_tokens - prompt // requirements.prompts * 5 // 4 - TEMPLATE_TOKENS)


def unbounded_reason(model: Model, requirements: Requirements, principal: Principal, *, refuse: bool) -> str | None:
    """Why a hard budget cannot bound this request on this model, or None. `refuse`: also what could be held."""
    if not any(budget.hard for budget in (*principal.budgets, *model.budgets)):
        return None
    if requirements.fee and not model.local:
        return (
            f"{requirements.fee} adds fees without a bound, and a hard budget holds: limit its calls (max_tool_calls)"
        )
    if requirements.unforeseen and refuse:
        return f"{requirements.unforeseen} adds tokens nobody can foresee, and a hard budget holds (budgets.unbounded)"
    return None


def nobody(pinned: str | None, refusals: Mapping[str, str], unroutable: Mapping[str, str] = NONE) -> PointsmanError:
    """The error that says best why no model may serve. `unroutable`: why, of names that nothing can be sent to."""
    if pinned is not None and pinned not in refusals:
        said = f"not routable: {unroutable[pinned]}" if pinned in unroutable else f"there is no model {pinned!r}"
        return NotFound(said, param="model", code="model_not_found")
    reasons = {pinned: refusals[pinned]} if pinned is not None else refusals
    detail = "; ".join(_grouped(reasons)) or "no models are configured"
    if reasons and all("context holds" in why for why in reasons.values()):
        return InvalidRequest(f"the request is too long: {detail}", param="messages", code="context_length_exceeded")
    if reasons and not any("down" in why or "draining" in why or "failed" in why for why in reasons.values()):
        return InvalidRequest(f"no model may serve this request: {detail}", param="model", code="no_eligible_model")
    return NoCandidate(f"no model can serve this request now: {detail}", retry_after_s=5.0)


def _grouped(reasons: Mapping[str, str]) -> Iterator[str]:
    """Each reason once, behind the models that have it; of many reasons the first, and how many models have others."""
    names: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names.setdefault(why, []).append(name)
    for why, those in islice(names.items(), MOST_REASONS):
        yield f"{_some(those)}: {why}"
    if others := sum(len(those) for those in islice(names.values(), MOST_REASONS, None)):
        yield f"and {others} more"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"


def one_space(models: tuple[Model, ...]) -> InvalidRequest:
    """Vectors of different models do not compare, so embeddings are never routed."""
    names = _some([model.name for model in models])
    return InvalidRequest(f"embeddings need a model's own name; there are {names}", param="model")


def makers(
    models: Sequence[Model], names: Sequence[str], refusals: Mapping[str, str], spared: Iterable[str]
) -> Iterator[Model]:
    """Whose stored answers may be given: candidates, and those that were refused only as their engines cannot now."""
    silent = {DOWN, DRAINING, FAILED, *spared}
    return (model for model in models if model.name in names or refusals.get(model.name) in silent)


def not_up(model: Model, is_up: Callable[[str], bool]) -> str | None:
    """Why nobody is sent to this model now, or None."""
    if model.draining:
        return DRAINING
    if not model.admitted:
        return f"a variant not admitted yet: run `pointsman admit {model.name}`"
    return None if is_up(model.backend) else DOWN
