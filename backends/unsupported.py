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
    rb"|at most 0 |requires? (?:--|setting|enabling)|--enable-auto-tool-choice|reasoning parser"
    rb"|(?:unknown|unrecognized|unexpected|extra|invalid) (?:request )?(?:argument|parameter|field|input|key|keyword)"
    rb"|extra inputs are not permitted|not permitted|is not allowed for this model|multimodal",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    rb"model[^.]{0,120}(?:does not exist|not found|is not found)|model_not_found|no such model", re.IGNORECASE
)


def is_missing_path(status: int, body: bytes) -> bool:
    """Whether the engine has no such route, rather than no such model."""
    return status in _MISSING and _NO_MODEL.search(body[:4096]) is None


def is_unsupported(status: int, body: bytes) -> bool:
    """Whether the engine says that it cannot do what is asked, whatever the request looked like."""
    if status not in _SAYS_SO or _NO_MODEL.search(body[:4096]) is not None:
        return False
    return _WORDS.search(body[:4096]) is not None
