"""What an answer is charged for: what the engine reported where that can be, our own count where it cannot.

Pure. A reported part stands while it is from 0 to the model's context and not below a quarter of what can be seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from backends.types import NO_PARTS, Report, TokenParts, Usage
from router.gateway.cost_fields import MOST_CALLS
from router.gateway.eligibility import expected_prompt_tokens, writes_cache
from router.gateway.types import Attempt, Call
from router.types import Model, NanoUsd, Spend

TIMES = 4  # believed from a quarter of our own count; up to four times it nobody wonders
SLACK_TOKENS = 16  # a template's and an end's, which nobody sees
_NO_USAGE = Usage()
_PROMPT = ("messages", "prompt", "input", "system", "instructions")
_CUT = frozenset({"truncate_prompt_tokens", "truncation", "truncate", "context_management"})  # less is read than sent


class Doubt(msgspec.Struct, frozen=True):
    """Something an engine said that did not fit, for the audit log."""

    kind: str  # "usage.estimated", "usage.unexplained", "usage.searches", "hold.over"
    detail: Mapping[str, object]


class Bill(msgspec.Struct, frozen=True):
    """What is charged, and what was doubtful about it."""

    spend: Spend
    doubts: tuple[Doubt, ...] = ()


class CountedPart(msgspec.Struct, frozen=True):
    """The prompt or the completion: what was reported of it, what we count, and what is made of both."""

    reported: int | None
    unseen: int  # of these, those that the engine says no text shows
    counted: int
    is_believed: bool  # whether the report stands
    tokens: int  # that are charged

    @classmethod
    def of(cls, reported: int | None, unseen: int, counted: int, *, least: float, most: int) -> CountedPart:
        """Judged by the bounds that a report must keep. Nothing reported of nothing is 0."""
        stands = counted == 0 if reported is None else least <= reported <= most
        return cls(reported, unseen, counted, stands, (reported or 0) if stands else min(counted, most))

    @property
    def is_far_above(self) -> bool:
        """Whether it stands though neither the text nor the rest of the report explains it."""
        return self.is_believed and self.tokens - self.unseen > TIMES * (self.counted + SLACK_TOKENS)


def billed(attempt: Attempt, report: Report) -> Bill:
    """What this answer costs, in full, whatever was held for it."""
    if attempt.run is not None:
        return attempt.run.bill()
    call, model = attempt.call, attempt.model
    usage = report.usage or _NO_USAGE
    prompt, completion = _prompt(call, model, usage), _completion(call, model, usage, report.shown.bytes)
    most_searches = MOST_CALLS if call.requirements.fee else call.requirements.searches
    parts = _believed(usage.parts, prompt, completion, most_searches=most_searches)
    price, writes = model.price_at(report.served_by), writes_cache(model, call.requirements)
    cost = price.of(prompt.tokens, completion.tokens, parts, writes=writes)
    estimated = not (prompt.is_believed and completion.is_believed)
    uncached = NanoUsd(0)
    if parts.cached or parts.cache_write or parts.cache_write_1h:
        plain = msgspec.structs.replace(parts, cached=0, cache_write=0, cache_write_1h=0)
        uncached = price.of(prompt.tokens, completion.tokens, plain)
    spend = Spend(cost, prompt.tokens, completion.tokens, "settled", estimated, parts, uncached)
    doubts = []
    if estimated and report.complete:  # who was cut off could not report
        doubts.append(_doubt("usage.estimated", prompt, completion))
    if (
        prompt.is_far_above and not call.requirements.images and not call.requirements.unforeseen
    ) or completion.is_far_above:
        doubts.append(_doubt("usage.unexplained", prompt, completion))
    if parts.searches != usage.parts.searches:
        doubts.append(Doubt("usage.searches", {"reported": usage.parts.searches, "charged": parts.searches}))
    if cost > attempt.hold.amount:
        doubts.append(Doubt("hold.over", {"held": attempt.hold.amount, "charged": cost}))
    return Bill(spend, tuple(doubts))


def _believed(parts: TokenParts, prompt: CountedPart, completion: CountedPart, *, most_searches: int) -> TokenParts:
    """Kinds of tokens of a side whose report stands, and no more searches than the request allowed."""
    if parts is NO_PARTS or (prompt.is_believed and completion.is_believed and parts.searches <= most_searches):
        return parts
    read = () if prompt.is_believed else ("cached", "cache_write", "cache_write_1h", "audio_prompt", "image_prompt")
    made = () if completion.is_believed else ("reasoning", "audio_completion", "image_completion")
    doubted = dict.fromkeys((*read, *made), 0)
    return msgspec.structs.replace(parts, **doubted, searches=min(parts.searches, most_searches))


def _prompt(call: Call, model: Model, usage: Usage) -> CountedPart:
    counted, least = expected_prompt_tokens(model, call.requirements), 0.0
    if usage.prompt_tokens is not None and usage.prompt_tokens * TIMES < counted:
        least = _shown_tokens(call, model) / TIMES
    most = model.context_tokens * call.requirements.prompts
    return CountedPart.of(usage.prompt_tokens, usage.unseen_prompt_tokens, counted, least=least, most=most)


def _completion(call: Call, model: Model, usage: Usage, shown_bytes: int) -> CountedPart:
    if shown_bytes and bytes(call.fields.get("echo", b"")) == b"true":
        shown_bytes = max(0, shown_bytes - int(_shown_tokens(call, model) * model.bytes_per_token))
    counted = -int(-shown_bytes // model.bytes_per_token)
    most = model.context_tokens * call.requirements.choices
    reported, unseen = usage.completion_tokens, usage.unseen_completion_tokens
    return CountedPart.of(reported, unseen, counted, least=counted / TIMES, most=most)


def _shown_tokens(call: Call, model: Model) -> float:
    """Tokens of the prompt's own text, without tools, schemas and images; 0 where the engine may read less of it."""
    if not _CUT.isdisjoint(call.fields):
        return 0.0
    try:
        return sum([_tokens(msgspec.json.decode(call.fields[n]), model) for n in _PROMPT if n in call.fields])
    except (msgspec.DecodeError, RecursionError):
        return 0.0


def _tokens(said: Any, model: Model) -> float:
    """Of a text, a token's id, or the texts of messages and their parts."""
    if isinstance(said, str):
        return len(said.encode(errors="replace")) / model.bytes_per_token
    if isinstance(said, int):
        return 1.0
    if isinstance(said, list):
        return sum([_tokens(each, model) for each in said])
    if isinstance(said, dict):
        return _tokens(said.get("content"), model) + _tokens(said.get("text"), model)
    return 0.0


def _doubt(kind: str, prompt: CountedPart, completion: CountedPart) -> Doubt:
    detail = {
        "prompt_reported": prompt.reported,
        "prompt_counted": prompt.counted,
        "completion_reported": completion.reported,
        "completion_counted": completion.counted,
    }
    return Doubt(kind, detail)
