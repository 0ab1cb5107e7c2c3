"""What engines say that their models can do: on their lists of models, and on pages that some servers have. Pure.

Nobody need say anything, and what is no such statement is passed over. A denial makes a model second choice for what it
denies and never the last word, so an engine that lies harms itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from backends.usage import count_of

EMBEDS = frozenset({"embeddings"})
PAGES = ("/props", "/get_server_info", "/get_model_info", "/info", "/openapi.json")
"""llama.cpp's, SGLang's twice, TGI's, FastAPI's."""
SHOW = "/api/show"  # Ollama's, asked of one model
_CONTEXTS = ("max_model_len", "context_length", "context_window", "max_context_length", "n_ctx")
_NAMED = {  # an ability's names in lists and mappings of them: Mistral's, LM Studio's, Ollama's, llama.cpp's
    "tools": "tools",
    "tool_use": "tools",
    "function_calling": "tools",
    "supports_tools": "tools",
    "supports_tool_calls": "tools",
    "vision": "images",
    "image": "images",
    "has_image_understanding": "images",
    "audio": "audio",
    "has_audio_understanding": "audio",
    "file": "files",
}
_OLLAMAS = {"tools": "tools", "vision": "images", "thinking": "reasoning"}
_PARAMETERS = {  # of a request, and the feature that needs one of them: OpenRouter's
    "tools": ("tools",),
    "tool_choice": ("tool_choice",),
    "json_schema": ("structured_outputs", "response_format"),
    "json_object": ("response_format",),
    "logprobs": ("logprobs",),
    "logit_bias": ("logit_bias",),
    "seed": ("seed",),
    "reasoning": ("reasoning", "reasoning_effort", "include_reasoning"),
}


@dataclass(frozen=True, slots=True)
class Declared:
    """Features as requests ask for them: tools, images, json_schema, …"""

    able: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    only: frozenset[str] | None = None  # APIs, where it has no others
    context_tokens: int | None = None
    sources: tuple[str, ...] = ()  # pages that spoke of abilities

    def over(self, other: Declared) -> Declared:
        """Both; this one counts where they differ."""
        return Declared(
            self.able | (other.able - self.lacks),
            self.lacks | (other.lacks - self.able),
            other.only if self.only is None else self.only,
            self.context_tokens or other.context_tokens,
            (*self.sources, *other.sources),
        )


NOTHING = Declared()


def declared_by(source: str, *parts: Declared) -> Declared:
    """All of it, with the page that says so."""
    found = NOTHING
    for part in parts:
        found = found.over(part)
    says = found.able or found.lacks or found.only
    return replace(found, sources=(source,)) if says else found


def of_card(card: Mapping[str, Any]) -> Declared:
    """What an entry of /v1/models says."""
    kind = card.get("type")
    only = EMBEDS if kind in ("embedding", "embeddings") else None
    return declared_by(
        "/v1/models",
        Declared(able=frozenset({"images"} if kind == "vlm" else ()), only=only),
        Declared(context_tokens=_context(card, card.get("meta"), card.get("top_provider"))),
        _switches(card.get("capabilities")),
        _modalities(_under(card, "architecture").get("input_modalities")),
        _parameters(card.get("supported_parameters")),
    )


def of_page(path: str, body: bytes) -> Declared:
    """What a page of an engine says of its model; nothing where it is no such page."""
    try:
        page = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOTHING
    if path == "/props":
        settings = _under(page, "default_generation_settings")
        context = Declared(context_tokens=_context(settings))
        return declared_by(path, context, _switches(page.get("modalities")), _switches(page.get("chat_template_caps")))
    if path == "/openapi.json":
        return declared_by(path, _paths(page.get("paths")))
    if path == "/info":
        return declared_by(path, _of_tgi(page))
    denied = {"tools"} if "tool_call_parser" in page and page["tool_call_parser"] is None else set()
    embeds = page.get("is_generation") is False or page.get("is_embedding") is True
    said = Declared(frozenset(), frozenset(denied), EMBEDS if embeds else None, _context(page))
    return declared_by(path, said, _switches(page))


def is_ollamas(card: Mapping[str, Any]) -> bool:
    """Whether an entry of /v1/models is of an engine that has /api/show."""
    return card.get("owned_by") == "library"


def of_show(body: bytes) -> Declared:
    """What Ollama says of one model. Its list of capabilities is whole, so what it leaves out the model has not.

    The context is what the model is set to: `model_info` has what it could have, which Ollama does not give it.
    """
    try:
        page = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOTHING
    listed, set_to = page.get("capabilities"), re.search(r"^num_ctx\s+(\d{1,12})$", str(page.get("parameters")), re.M)
    context = Declared(context_tokens=_context({"n_ctx": int(set_to[1])} if set_to else {}))
    names = {each for each in listed if isinstance(each, str)} if isinstance(listed, list) else set()
    if not names:
        return context
    able = frozenset(feature for name, feature in _OLLAMAS.items() if name in names)
    only = EMBEDS if "embedding" in names and "completion" not in names else None
    return declared_by(SHOW, context, Declared(able, frozenset(_OLLAMAS.values()) - able, only))


def _of_tgi(page: Mapping[str, Any]) -> Declared:
    """Of Text Generation Inference, and of its sibling that only embeds."""
    if not isinstance(page.get("model_id"), str):
        return NOTHING
    embeds = "embedding" in _under(page, "model_type")
    longest = page.get("max_input_length") if embeds else page.get("max_total_tokens")
    return Declared(only=EMBEDS if embeds else None, context_tokens=_context({"n_ctx": longest}))


def _switches(said: object) -> Declared:
    """Of {name: whether} or [name]; a list says nothing of what it leaves out."""
    if isinstance(said, list):
        return Declared(able=_features(each for each in said if isinstance(each, str)))
    if not isinstance(said, Mapping):
        return NOTHING
    able, lacks = (_features(name for name, value in said.items() if value is way) for way in (True, False))
    return Declared(able, lacks - able)


def _features(names: Iterable[str]) -> frozenset[str]:
    return frozenset(_NAMED[name] for name in names if name in _NAMED)


def _modalities(said: object) -> Declared:
    if not isinstance(said, list) or "text" not in said:
        return NOTHING
    able = _features(each for each in said if isinstance(each, str))
    return Declared(able, frozenset({"images", "audio", "files"}) - able)


def _parameters(said: object) -> Declared:
    if not isinstance(said, list) or not (names := {each for each in said if isinstance(each, str)}):
        return NOTHING
    able = frozenset(feature for feature, those in _PARAMETERS.items() if not names.isdisjoint(those))
    return Declared(able, frozenset(_PARAMETERS) - able)


def _paths(said: object) -> Declared:
    """A server that describes its paths has no others; one that only embeds has no path for chat."""
    paths = said if isinstance(said, Mapping) else {}
    embeds = "/v1/embeddings" in paths and not {"/v1/chat/completions", "/v1/completions"} & paths.keys()
    return Declared(only=EMBEDS if embeds else None)


def _context(*places: object) -> int | None:
    """The first count of tokens, 1 to 2^40, that one of these mappings has."""
    for place in places:
        for name in _CONTEXTS if isinstance(place, Mapping) else ():
            tokens = count_of(place.get(name))  # type: ignore[attr-defined]
            if tokens:
                return tokens
    return None


def _under(page: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = page.get(key)
    return found if isinstance(found, Mapping) else {}
