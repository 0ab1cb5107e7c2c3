"""Which fields of a request can raise what it costs, on any API and any kind of engine, and by how much.

Engines read different fields, and some read several: the largest of them counts. What adds tokens that nobody can
foresee is named, and so is what adds fees without a bound. Pure; nothing here is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MOST_CALLS = 1 << 20  # of a provider's tools in one request
UNLIMITED = 1 << 40  # tokens: as many as the context takes
_OWN = {
    "/v1/chat/completions": "messages max_tokens max_completion_tokens functions response_format",
    "/v1/completions": "prompt suffix max_tokens best_of echo",
    "/v1/embeddings": "input dimensions encoding_format",
    "/v1/responses": "input instructions max_output_tokens",
    "/v1/messages": "messages system max_tokens",
}
_HARMLESS = """model stream stream_options routing n user temperature top_p top_k min_p stop stop_sequences seed
presence_penalty frequency_penalty repetition_penalty logit_bias logprobs top_logprobs tool_choice parallel_tool_calls
reasoning_effort verbosity service_tier store metadata safety_identifier prompt_cache_key ignore_eos"""
_PLAIN = {path: _words(own) | _words(_HARMLESS) for path, own in _OWN.items()}

LIMITS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
_TOKENS = LIMITS | _words(
    """n_predict num_predict max_new_tokens max_gen_len max_length max_tokens_to_sample maxOutputTokens
    tokens_to_generate min_tokens min_new_tokens min_length budget_tokens thinking_budget reasoning_budget
    thinking_token_budget max_thinking_tokens max_reasoning_tokens"""
)
_CHOICES = _words(
    """n best_of num_beams beam_width beam_size num_return_sequences candidate_count candidateCount
    num_generations"""
)
_NESTED = _words(
    """options parameters sampling_params generation_config generationConfig extra_body thinking reasoning
    nvext vllm_xargs provider_options"""
)
_UNFORESEEN = _words(
    """previous_response_id conversation conversation_id thread_id assistant_id prompt_id documents
    file_ids files attachments data_sources container session_params chat_template mm_processor_kwargs
    media_io_kwargs prompt_embeds image_data audio_data video_data images template context enable_search"""
)
_TALKS = {"/v1/chat/completions", "/v1/responses", "/v1/messages"}  # where `prompt` names one that a provider keeps
_FEES = frozenset({"web_search_options", "search_parameters", "web_search", "plugins", "mcp_servers"})
# Tools that the client runs itself, by type; those of the second kind have a date behind.
_OWN_TOOLS = _words("function custom computer computer_use_preview local_shell shell apply_patch")
_OWN_FAMILIES = ("bash_", "text_editor_", "computer_", "memory_")
_RAISING = _TOKENS | _CHOICES | _NESTED


class Raised(msgspec.Struct, frozen=True):
    """What some fields add to the worst case of a request."""

    tokens: int = 0  # of a completion, as these fields would have it; 0: they say nothing
    choices: int = 1
    predicted_bytes: int = 0  # that a client predicts: rejected ones are charged beside the completion
    text_bytes: int = 0  # of fields that nobody knows, and that an engine may read
    unforeseen: str = ""  # the first field that adds tokens nobody can foresee
    fee: str = ""  # the first that adds fees without a bound
    searches: int = 0  # calls of tools that the provider runs, at most


NOTHING = Raised()


class _Tool(msgspec.Struct):
    type: Any = None
    max_uses: Any = None


_TOOLS = msgspec.json.Decoder(list[_Tool])


def raised(path: str, fields: Mapping[str, msgspec.Raw]) -> Raised:
    """What a client's fields add beside those that each API knows."""
    if fields.keys() <= _PLAIN[path]:
        return NOTHING
    others = {name: raw for name, raw in fields.items() if name not in _PLAIN[path]}
    found = laid_over({name: msgspec.json.decode(others[name]) for name in others.keys() & _RAISING})
    fee = _hosted_tool(fields) or _first(_FEES, others)
    unforeseen = _first(_UNFORESEEN, others) or fee or _hosted_tool(fields, limited=True)
    if "prompt" in others and path in _TALKS:
        unforeseen = unforeseen or "prompt"
    sizes = {name: len(memoryview(raw)) for name, raw in others.items() if name != "tools" or path not in _TALKS}
    predicted, searches = sizes.get("prediction", 0), 0 if fee else _most_calls(fields)
    return Raised(found.tokens, found.choices, predicted, sum(sizes.values()), unforeseen, fee, searches)


def laid_over(fields: Mapping[str, object]) -> Raised:
    """What fields with plain values add: those an operator lays over every request, or a client's, decoded."""
    if _RAISING.isdisjoint(fields):
        return NOTHING
    tokens, choices = 0, 1
    for name, value in fields.items():
        if name in _TOKENS:
            tokens = max(tokens, _count(value))
        elif name in _CHOICES:
            choices = max(choices, _count(value))
        elif name in _NESTED and isinstance(value, Mapping):
            inner = laid_over({str(key): each for key, each in value.items() if key not in _NESTED})
            tokens, choices = max(tokens, inner.tokens), max(choices, inner.choices)
    return Raised(tokens, choices)


def _count(value: object) -> int:
    """As engines read it that are generous: also "4000" and 4000.0. What is below zero or no number is unlimited."""
    if value is None or isinstance(value, bool):
        return int(value or 0)
    try:
        count = int(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return UNLIMITED
    return count if 0 <= count <= UNLIMITED else UNLIMITED


def _first(known: frozenset[str], fields: Mapping[str, msgspec.Raw]) -> str:
    """The first of these fields that says something."""
    names = [name for name in fields if name in known and bytes(fields[name]) not in _SILENT]
    return names[0] if names else ""


_SILENT = frozenset({b"null", b"false", b"[]", b"{}", b'""'})


def _hosted_tool(fields: Mapping[str, msgspec.Raw], *, limited: bool = False) -> str:
    """The first tool that the provider runs at a fee: one without a limit of calls, or with `limited` any."""
    if not limited and _count_of(fields, "max_tool_calls"):
        return ""
    return next((str(tool.type) for tool in _hosted(fields) if limited or not _bounded(tool.max_uses)), "")


def _most_calls(fields: Mapping[str, msgspec.Raw]) -> int:
    """How often the provider may run its tools, where that has a bound."""
    hosted = list(_hosted(fields))
    if hosted and _count_of(fields, "max_tool_calls"):
        return min(msgspec.json.decode(fields["max_tool_calls"], type=int), MOST_CALLS)
    return min(sum([int(tool.max_uses) for tool in hosted if _bounded(tool.max_uses)]), MOST_CALLS)


def _hosted(fields: Mapping[str, msgspec.Raw]) -> Iterable[_Tool]:
    try:
        tools = _TOOLS.decode(fields["tools"]) if "tools" in fields else []
    except msgspec.DecodeError:
        return
    for tool in tools:
        kind = str(tool.type or "function")
        if kind not in _OWN_TOOLS and not kind.startswith(_OWN_FAMILIES):
            yield tool


def _count_of(fields: Mapping[str, msgspec.Raw], name: str) -> bool:
    return name in fields and _bounded(msgspec.json.decode(fields[name]))


def _bounded(limit: object) -> bool:
    return type(limit) is int and limit >= 0
