"""Tells what an engine cannot do at all, and what is its operator's to mend, from a mistake in the request. Pure.

Engines have no common code for it, so their words are read: vLLM's, SGLang's, Ollama's, llama.cpp's, the providers'.
"""

from __future__ import annotations

import re

_MISSING = frozenset({404, 405, 415, 501})  # of a path or a method, where no model is named
_SAYS_SO = frozenset({400, 403, 404, 405, 415, 422, 500, 501})
_OF_THE_REQUEST = frozenset({400, 413, 414, 415, 422, 424, 431, 451})  # others are of the account, the model, the path
_BUSY = frozenset({429, 498, 503, 529})  # 498 of Groq, 529 of Anthropic: no room now
_WORDS = re.compile(
    rb"unsupported|not (?:currently |yet )?(?:supported|implemented|available|enabled|a multimodal)"
    rb"|(?:does not|doesn't|do not|cannot|can't|can not) (?:support|serve|accept|handle|process|run|use|read)"
    rb"|no (?:support|endpoints?) (?:for|found that support)|isn't supported|only supports?\b"
    rb"|at most \d+ [\w-]+(?:\(s\))? may be|requires? (?:setting|enabling)|reasoning parser"
    rb"|(?:^|[\s\"'`(\\])--[a-z]+-?[a-z-]+"
    rb"|greater than max allowed|to increase this limit|greedy sampling|encoder cache size|structured outputs or tools"
    rb"|no compatible|chat template|roles must alternate|nested too deeply"
    rb"|(?:unknown|unrecognized|unexpected|extra|invalid) (?:request )?(?:argument|parameter|field|input|key|keyword)"
    rb"|extra inputs are not permitted|not permitted|is not allowed for this model|multimodal"
    rb"|no longer (?:supported|available)|decommissioned",
    re.IGNORECASE,
)
_ACCOUNT = re.compile(
    rb"credit balance|insufficient[ _](?:balance|credits?|funds|quota)|\bbilling|account is not active"
    rb"|api[ _]key (?:is |has )?(?:not (?:valid|found)|invalid|expired)|invalid api[ _]key",
    re.IGNORECASE,
)
_NARROW = re.compile(  # what one engine is narrower in than others: roles, parts, addresses, schemas, lengths
    rb"unexpected (?:message )?role|unknown variant|untagged enum|input should be (?:\\?'system'|a valid string)"
    rb"|expected a string, but got an array|content must be a string|unknown (?:content )?part type"
    rb"|only base64|remote images are|must be from one of the allowed|is only supported by|format type is unavailable"
    rb"|too many stop|stop sequences should not exceed|supports? (?:up to|at most) \d+|'stop': array too long"
    rb"|unimplemented keys|(?:parse|compile) grammar|schema conversion failed|invalid schema for response_format"
    rb"|tool_choice\W+must either be|only 'auto' is|cannot be (?:combined|used) with tool|parallel_tool_calls must be"
    rb"|(?:\bn|'n'|best_of|candidate_?count) must be 1|\bn: input should be less|only one candidate"
    rb"|cannot find field|is not a valid parameter|are not allowed for|supported values are"
    rb"|last message must be from|expected last role|2 or more assistant messages"
    rb"|maximum allowed number of output tokens|maximum value for `max_tokens`|tokens: must be at most",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(  # vLLM's, SGLang's, llama.cpp's, TGI's, Anthropic's, Gemini's
    rb"context[ _](?:length|window|size)(?!` for)|context_length_exceeded|maximum context"
    rb"|maximum (?:model|prompt|input) length|prompt is too long|input is too long|max_new_tokens` must be"
    rb"|exceeds the maximum number of tokens",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    rb"(?:model|lora adapter)[^.]{0,120}(?:not exist|not found|is not a valid model)|model_not_found|no such model"
    rb"|(?:invalid|unknown) model\b|is not a valid model",
    re.IGNORECASE,
)


def is_busy(status: int) -> bool:
    """Whether an engine has no room now."""
    return status in _BUSY


def is_of_the_request(status: int) -> bool:
    """Whether the caller's request is at fault, rather than a key, an account, a model's name or an address."""
    return status in _OF_THE_REQUEST


def is_missing_path(status: int, body: bytes) -> bool:
    """Whether the engine has no such route, rather than no such model."""
    return status in _MISSING and _NO_MODEL.search(body[:4096]) is None


def is_too_long(body: bytes) -> bool:
    """Whether a refusal says that the request does not fit this model's context."""
    return _TOO_LONG.search(body[:4096]) is not None


def is_of_the_account(body: bytes) -> bool:
    """Whether a refusal speaks of the operator's own account or key at a provider."""
    return _ACCOUNT.search(body[:4096]) is not None


def is_unsupported(status: int, body: bytes) -> bool:
    """Whether the engine says that it cannot do what is asked, whatever the request looked like.

    An account without credit and a model that is gone are such, too. A client may have provoked the words, so that they
    are no failure of the engine.
    """
    if status not in _SAYS_SO or is_too_long(body):
        return False
    if _NO_MODEL.search(body[:4096]) is not None:
        return is_of_the_request(status)
    return any(words.search(body[:4096]) is not None for words in (_WORDS, _ACCOUNT, _NARROW))
