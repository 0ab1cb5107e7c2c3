"""What an engine says it used, parsed once: counts from 0 to MOST_TOKENS, and None for whatever is no count.

Nothing an engine can write here is an error: a paid answer is not thrown away over its usage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from backends.types import MOST_TOKENS, Usage

_SEEN = frozenset({"text_tokens", "accepted_prediction_tokens"})  # details that can be read in the text itself


def count_of(value: object) -> int | None:
    """A whole number from 0 to MOST_TOKENS, also where it is written as a float; None for everything else."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def usage_of(said: object) -> Usage | None:
    """The usage object of any dialect; None where there is no object.

    Anthropic counts what was cached beside `input_tokens`, the others within their prompt.
    """
    if not isinstance(said, Mapping):
        return None
    prompt, beside = _first(said, "prompt_tokens"), 0
    inner = _details(said, "prompt_tokens_details", "input_tokens_details")
    if not prompt:
        prompt = _first(said, "input_tokens", "prompt_tokens")
        if inner is None and prompt is not None:
            beside = sum(_counts(said, ("cache_read_input_tokens", "cache_creation_input_tokens")))
    completion = _first(said, "completion_tokens") or _first(said, "output_tokens", "completion_tokens")
    outer = _details(said, "completion_tokens_details", "output_tokens_details") or {}
    cached = _first(inner or {}, "cached_tokens") or _first(said, "cache_read_input_tokens") or 0
    return Usage(
        prompt_tokens=None if prompt is None else min(prompt + beside, MOST_TOKENS),
        completion_tokens=completion,
        cached_tokens=cached,
        unseen_prompt_tokens=min(sum(_unseen(inner or {})) or cached, MOST_TOKENS),
        unseen_completion_tokens=min(sum(_unseen(outer)) or _first(said, "reasoning_tokens") or 0, MOST_TOKENS),
    )


def merged(new: Usage, old: Usage | None) -> Usage:
    """Two reports of one answer: the larger of each part, since streams report as they go."""
    if old is None:
        return new
    return Usage(
        prompt_tokens=_larger(new.prompt_tokens, old.prompt_tokens),
        completion_tokens=_larger(new.completion_tokens, old.completion_tokens),
        cached_tokens=max(new.cached_tokens, old.cached_tokens),
        unseen_prompt_tokens=max(new.unseen_prompt_tokens, old.unseen_prompt_tokens),
        unseen_completion_tokens=max(new.unseen_completion_tokens, old.unseen_completion_tokens),
    )


def _first(said: Mapping[str, object], *names: str) -> int | None:
    """The first of these that is a count."""
    return next(iter(_counts(said, names)), None)


def _counts(said: Mapping[str, object], names: Iterable[str]) -> list[int]:
    return [count for name in names if (count := count_of(said.get(name))) is not None]


def _unseen(details: Mapping[str, object]) -> list[int]:
    """Tokens that no text shows: reasoning, audio, images, what was cached, predictions that were rejected."""
    return _counts(details, [name for name in details if name not in _SEEN])


def _details(said: Mapping[str, object], *names: str) -> Mapping[str, object] | None:
    return next((found for name in names if isinstance(found := said.get(name), Mapping)), None)


def _larger(new: int | None, old: int | None) -> int | None:
    return new if old is None else old if new is None else max(new, old)
