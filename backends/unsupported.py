"""Tells a refusal of what an engine cannot do at all from a mistake in the request. Pure.

Engines have no common code for it, so their words are read: vLLM's, SGLang's, Ollama's, llama.cpp's, the providers'.
"""

from __future__ import annotations

import re

_MISSING = frozenset({404, 405, 415, 501})  # of a path or a method, where no model is named
_SAYS_SO = frozenset({400, 403, 404, 405, 415, 422, 500, 501})
_WORDS = re.compile(
    rb"unsupported|not (?:currently |yet )?(?:supported|implemented|available|enabled|a multimodal)"
    rb"|(?:does not|doesn't|do not|cannot|can't|can not) (?:support|serve|accept|handle|process|run|use|read)"
    rb"|no (?:support|endpoints?) (?:for|found that support)|isn't supported|only supports?\b"
    rb"|at most \d+ [\w-]+(?:\(s\))? may be|requires? (?:setting|enabling)|reasoning parser"
    rb"|(?:^|[\s\"'`(\\])--[a-z]+-?[a-z-]+"
    rb"|greater than max allowed|to increase this limit|greedy sampling|encoder cache size|structured outputs or tools"
    rb"|no compatible|chat template|roles must alternate|nested too deeply"
    rb"|(?:unknown|unrecognized|unexpected|extra|invalid) (?:request )?(?:argument|parameter|field|input|key|keyword)"
    rb"|extra inputs are not permitted|not permitted|is not allowed for this model|multimodal",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(  # vLLM's, SGLang's, llama.cpp's, TGI's, Anthropic's, Gemini's
    rb"context[ _](?:length|window|size)|context_length_exceeded|maximum context|maximum (?:model|prompt|input) length"
    rb"|prompt is too long|input is too long|max_new_tokens` must be|exceeds the maximum number of tokens",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    rb"(?:model|lora adapter)[^.]{0,120}(?:does not exist|not found|is not found)|model_not_found|no such model",
    re.IGNORECASE,
)


def is_missing_path(status: int, body: bytes) -> bool:
    """Whether the engine has no such route, rather than no such model."""
    return status in _MISSING and _NO_MODEL.search(body[:4096]) is None


def is_too_long(body: bytes) -> bool:
    """Whether a refusal says that the request does not fit this model's context."""
    return _TOO_LONG.search(body[:4096]) is not None


def is_unsupported(status: int, body: bytes) -> bool:
    """Whether the engine says that it cannot do what is asked, whatever the request looked like."""
    if status not in _SAYS_SO or _NO_MODEL.search(body[:4096]) is not None or is_too_long(body):
        return False
    return _WORDS.search(body[:4096]) is not None
