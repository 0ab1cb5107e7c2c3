"""What an engine says it used, parsed once: counts from 0 to MOST_TOKENS, and None for whatever is no count.

Nothing an engine can write here is an error: a paid answer is not thrown away over its usage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from backends.types import MOST_TOKENS, NO_PARTS, TokenParts, Usage

_Tree = Mapping[str, object]
_PLAIN = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
_PROMPT = ("prompt_tokens", "input_tokens")
_COMPLETION = ("completion_tokens", "output_tokens")
_READ = ("prompt_tokens_details", "input_tokens_details")
_MADE = ("completion_tokens_details", "output_tokens_details")
_BESIDE = ("cache_read_input_tokens", "cache_creation_input_tokens")
_CACHED = ("cache_read_input_tokens", "prompt_cache_hit_tokens", "cached_tokens")
_WRITTEN = ("cache_creation_tokens", "cache_write_tokens")
_SEARCHED = ("num_search_queries", "num_server_side_tools_used", "num_sources_used")
_USUAL_TIERS = frozenset({"auto", "default", "standard", "global", "not_available"})
_TIER = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_SEEN = frozenset({"text_tokens", "accepted_prediction_tokens"})  # details that can be read in the text itself


def count_of(value: object) -> int | None:
    """A whole number from 0 to MOST_TOKENS, also where it is written as a float; None for everything else."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def usage_of(said: object, service_tier: object = None) -> Usage | None:
    """The usage object of any dialect; None where there is no object.

    Anthropic counts what was cached beside `input_tokens`, the others within their prompt. xAI and Gemini count what
    was thought beside the completion: only the total has it. Perplexity counts it beside the total, and citations
    too; Mistral counts audio beside the prompt.
    """
    if not isinstance(said, Mapping):
        return None
    plain = said.keys() <= _PLAIN
    prompt, completion = _first(said, *_PROMPT), _first(said, *_COMPLETION)
    parts = NO_PARTS if plain and not service_tier else _parts(said, service_tier)
    if plain:
        beside = _beside(said, prompt, completion, parts)
        return Usage(prompt, _more(completion, beside), parts, unseen_completion_tokens=beside)
    inner, outer = _details(said, *_READ), _details(said, *_MADE)
    if inner is None and prompt is not None and not _first(said, "prompt_tokens"):
        prompt = _more(prompt, sum(_counts(said, _BESIDE)))
    prompt = _more(prompt, _heard(said, prompt, completion, parts))
    prompt = _more(prompt, _kept_beside(prompt, parts))
    beside, cited = _beside(said, prompt, completion, parts), _first(said, "citation_tokens") or 0
    return Usage(
        _more(prompt, cited),
        _more(completion, beside),
        parts,
        unseen_prompt_tokens=min((sum(_unseen(inner or {})) or parts.cached) + cited, MOST_TOKENS),
        unseen_completion_tokens=max(min(sum(_unseen(outer or {})) or parts.reasoning, MOST_TOKENS), beside),
    )


def _beyond(said: _Tree, prompt: int | None, completion: int | None) -> int:
    """Tokens that the total has and neither side counts."""
    return max(0, (_first(said, "total_tokens") or 0) - (prompt or 0) - (completion or 0))


def _heard(said: _Tree, prompt: int | None, completion: int | None, parts: TokenParts) -> int:
    """Tokens of audio and images beside the prompt, as Mistral counts them: more than the prompt has."""
    seen = parts.audio_prompt + parts.image_prompt
    return min(seen, _beyond(said, prompt, completion)) if seen > (prompt or 0) else 0


def _kept_beside(prompt: int | None, parts: TokenParts) -> int:
    """Tokens of a cache that the prompt does not count: those of engines that report in two dialects at once."""
    kept = parts.cached + parts.cache_write + parts.cache_write_1h
    return kept if prompt and kept > prompt else 0


def _beside(said: _Tree, prompt: int | None, completion: int | None, parts: TokenParts) -> int:
    """Tokens that were made and that the completion does not count: what the total has more, or more thoughts than the
    completion has tokens. What a total has beyond both sides is read as the more expensive of them."""
    if completion is None:
        return 0
    more = _beyond(said, prompt, completion)
    return min(more or (parts.reasoning if parts.reasoning > completion else 0), MOST_TOKENS)


def _more(count: int | None, more: int) -> int | None:
    return count if count is None or not more else min(count + more, MOST_TOKENS)


def _parts(said: _Tree, service_tier: object) -> TokenParts:
    """What has a price of its own, by the names that providers and litellm use. Anthropic's speed and region have one,
    too: they are said as parts of the service tier."""
    read, made = _details(said, *_READ) or {}, _details(said, *_MADE) or {}
    kept = _details(said, "cache_creation") or _details(read, "cache_creation_token_details") or {}
    for_long = _first(kept, "ephemeral_1h_input_tokens") or 0
    written = _first(said, "cache_creation_input_tokens") or _first(read, *_WRITTEN)
    if written is None:
        written = (_first(kept, "ephemeral_5m_input_tokens") or 0) + for_long
    found = (
        _first(read, "cached_tokens") or _first(said, *_CACHED) or 0,
        max(0, written - for_long),
        for_long,
        _first(read, "audio_tokens") or 0,
        _first(read, "image_tokens") or 0,
        _first(made, "reasoning_tokens") or _first(said, "reasoning_tokens") or 0,
        _first(made, "audio_tokens") or 0,
        _first(made, "image_tokens") or 0,
        _first(_details(said, "server_tool_use") or read, "web_search_requests") or _first(said, *_SEARCHED) or 0,
    )
    tier = tier_name(said.get("service_tier") or service_tier, said.get("speed"), said.get("inference_geo"))
    return TokenParts(*found, tier) if any(found) or tier else NO_PARTS


def tier_name(*tiers: object) -> str:
    """Of all of these that are not what everybody gets: "fast+us"; empty where there are none."""
    unusual = {tier for tier in tiers if isinstance(tier, str) and _TIER.fullmatch(tier) and tier not in _USUAL_TIERS}
    return "+".join(sorted(unusual))


def merged(new: Usage, old: Usage | None) -> Usage:
    """Two reports of one answer: the larger of each part, since streams report as they go."""
    if old is None:
        return new
    return Usage(
        prompt_tokens=_larger(new.prompt_tokens, old.prompt_tokens),
        completion_tokens=_larger(new.completion_tokens, old.completion_tokens),
        parts=_larger_parts(new.parts, old.parts),
        unseen_prompt_tokens=max(new.unseen_prompt_tokens, old.unseen_prompt_tokens),
        unseen_completion_tokens=max(new.unseen_completion_tokens, old.unseen_completion_tokens),
    )


def _larger_parts(new: TokenParts, old: TokenParts) -> TokenParts:
    if old is NO_PARTS or new is NO_PARTS:
        return new if old is NO_PARTS else old
    larger = TokenParts(*map(max, msgspec.structs.astuple(new), msgspec.structs.astuple(old)))
    tier = tier_name(*new.service_tier.split("+"), *old.service_tier.split("+"))
    return msgspec.structs.replace(larger, service_tier=tier)


def _first(said: Mapping[str, object], *names: str) -> int | None:
    """The first of these that is a count, and not 0 where a later one is."""
    found = None
    for name in names:
        if name in said and (count := count_of(said[name])) is not None and not found:
            found = count
    return found


def _counts(said: Mapping[str, object], names: Iterable[str]) -> list[int]:
    return [count for name in names if (count := count_of(said.get(name))) is not None]


def _unseen(details: Mapping[str, object]) -> list[int]:
    """Tokens that no text shows: reasoning, audio, images, what was cached, predictions that were rejected."""
    return _counts(details, [name for name in details if name not in _SEEN])


def _details(said: Mapping[str, object], *names: str) -> Mapping[str, object] | None:
    return next((found for name in names if isinstance(found := said.get(name), Mapping)), None)


def _larger(new: int | None, old: int | None) -> int | None:
    return new if old is None else old if new is None else max(new, old)
