"""What a request asks beyond plain text, and which models were found unable to do it, for a while.

Nothing is known of an engine at first: it is believed to be able until it refuses. A refusal is no failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from router.types import Model

REMEMBERED_S = 600.0
MOST_REMEMBERED = 10_000
PROMPT_CACHE = "prompt_cache"  # that a provider keeps the prompt, perhaps at a price
_NOTHING = (b"", b"null", b"[]", b"{}", b"false")
_BY_FIELD = {
    "tools": "tools",
    "functions": "tools",
    "tool_choice": "tool_choice",
    "logprobs": "logprobs",
    "top_logprobs": "logprobs",
    "logit_bias": "logit_bias",
    "seed": "seed",
    "n": "n",
    "best_of": "n",
    "audio": "audio",
    "modalities": "audio",
    "reasoning_effort": "reasoning",
    "reasoning": "reasoning",
    "thinking": "reasoning",
    "prediction": "prediction",
    "echo": "echo",
    "suffix": "suffix",
    "web_search_options": "web_search",
    "parallel_tool_calls": "parallel_tool_calls",
    "cache_control": PROMPT_CACHE,
    "cache_control_injection_points": PROMPT_CACHE,
}
_MARK, _MARKED = b'"cache_control"', ("messages", "system", "tools", "input")
_PLAIN = {"tool_choice": (b'"auto"', b'"none"'), "n": (b"1",), "best_of": (b"1",), "modalities": (b'["text"]',)}
_WORDS = {
    "tool_choice": ("tool_choice", "tool choice"),
    "tools": ("tool", "function"),
    "json_schema": ("schema", "response_format", "guided", "structured", "grammar", "json"),
    "json_object": ("response_format", "json"),
    "logprobs": ("logprob",),
    "logit_bias": ("logit_bias", "logit bias"),
    "images": ("image", "vision", "multimodal", "multi-modal"),
    "audio": ("audio",),
    "files": ("file", "document", "pdf"),
    "reasoning": ("reasoning", "thinking"),
    "prefill": ("prefill", "last message", "assistant message"),
    "seed": ("seed",),
    "n": ("'n'", "`n`", "n >", "best_of"),
    "prediction": ("prediction",),
    "echo": ("echo",),
    "suffix": ("suffix",),
    "web_search": ("web_search", "web search"),
    "parallel_tool_calls": ("parallel",),
    PROMPT_CACHE: ("cache_control", "cache control"),
}


def features_of(fields: Mapping[str, msgspec.Raw]) -> frozenset[str]:
    """What the fields of a request ask for beyond plain text."""
    found = fields.keys() & _BY_FIELD.keys()
    form = next((bytes(fields[name]) for name in ("response_format", "text") if name in fields), b"")
    marked = any(_MARK in bytes(fields[name]) for name in _MARKED if name in fields)
    if not found and not form and not marked:
        return frozenset()
    asked = {PROMPT_CACHE} if marked else set()
    asked |= {_BY_FIELD[name] for name in found if _asks(name, bytes(fields[name]))}
    return frozenset(asked | {kind for kind in ("json_schema", "json_object") if b'"%b"' % kind.encode() in form})


def _asks(name: str, raw: bytes) -> bool:
    return raw not in _NOTHING and raw not in _PLAIN.get(name, ())


class Inabilities:
    """What models refused to do, each remembered for `remembered_s`, and for the tenant whose request it was.

    A tenant can so never talk a model out of another's requests by provoking refusals.
    """

    def __init__(self, clock: Callable[[], float], *, remembered_s: float = REMEMBERED_S) -> None:
        self._clock = clock
        self._remembered_s = remembered_s
        self._until: dict[tuple[str, str, frozenset[str]], float] = {}

    def __bool__(self) -> bool:
        return bool(self._until)

    def note(self, tenant: str, model: str, asked: frozenset[str], said: str) -> None:
        """A model refused a tenant's request for these features with these words."""
        if len(self._until) >= MOST_REMEMBERED:
            self._until.clear()
        if asked:
            self._until[tenant, model, _blamed(asked, said.lower())] = self._clock() + self._remembered_s

    def reason(self, tenant: str, model: str, asked: frozenset[str]) -> str | None:
        """Why a model is not asked for these features, or None."""
        if not self._until or not asked:
            return None
        for key, until in list(self._until.items()):
            refused = key[2]
            if until < self._clock():
                del self._until[key]
            elif key[:2] == (tenant, model) and refused <= asked:
                return f"refused {', '.join(sorted(refused))} a while ago"
        return None

    def spared(
        self, tenant: str, models: tuple[Model, ...], asked: frozenset[str], refusals: dict[str, str]
    ) -> tuple[tuple[Model, ...], dict[str, str]]:
        """Without those that lack what is asked, or refused the like a while ago, unless there is no other: its own
        words are better."""
        if not asked:
            return models, refusals
        found = {model.name: self._inability(tenant, model, asked) for model in models}
        able = tuple([model for model in models if found[model.name] is None])
        if not able:
            return models, refusals
        return able, {**refusals, **{name: why for name, why in found.items() if why is not None}}

    def _inability(self, tenant: str, model: Model, asked: frozenset[str]) -> str | None:
        if lacking := model.lacks & asked:
            return f"is known to lack {', '.join(sorted(lacking))}"
        return self.reason(tenant, model.name, asked)


def _blamed(asked: frozenset[str], said: str) -> frozenset[str]:
    """The features that the words name; all that were asked for where they name none."""
    named = [feature for feature in _WORDS if feature in asked and any(word in said for word in _WORDS[feature])]
    return frozenset(named[:1]) if named else asked
