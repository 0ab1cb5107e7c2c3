"""The wire: what must be known of a body is decoded, everything else stays the client's own bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from router.errors import InvalidRequest, NotFound
from router.gateway.abilities import features_of
from router.gateway.cost_fields import raised
from router.gateway.eligibility import Requirements
from router.gateway.types import Call
from router.http.bodies import (
    ChatBody,
    CommonBody,
    CompletionBody,
    EmbeddingBody,
    MessagesBody,
    Prompt,
    ResponsesBody,
    Routing,
)
from router.http.messages import (
    NOTHING_SEEN,
    Seen,
    last_item_text,
    last_user_text,
    look_through,
    seen_in,
    unescaped,
)
from router.types import NANO_PER_USD, NanoUsd

ALIASES: Final[Mapping[str, float]] = {"cheap": 0.0, "balanced": 0.5, "best": 1.0}  # of auto:NAME, by default

PATHS: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}


MOST_DELAY_S = 86_400


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CHAT = msgspec.json.Decoder(ChatBody)
_COMPLETION = msgspec.json.Decoder(CompletionBody)
_EMBEDDING = msgspec.json.Decoder(EmbeddingBody)
_RESPONSES = msgspec.json.Decoder(ResponsesBody)
_MESSAGES = msgspec.json.Decoder(MessagesBody)
_NO_CAPABILITIES: dict[str, frozenset[str]] = {name: frozenset({name}) for name in PATHS.values()}
_EMPTY = (b"", b"[]", b"null")
_NO_FEATURES, _PREFILL = frozenset[str](), frozenset({"prefill"})  # the answer goes on from the last message
_NO_MODEL = "model_not_found"
MOST_CHOICES = 128


def parse(
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    preference: float | None = None,
    aliases: Mapping[str, float] = ALIASES,
    meaning: Callable[[str], str] = str,
) -> Call:
    """A client's request as the gateway needs it. `meaning` says what a name stands for: a model, auto or auto:NAME.

    The body's own preference comes first, then the alias's, then `preference`, the header's.
    Raises: InvalidRequest naming the parameter at fault; NotFound for an unknown alias.
    """
    try:
        fields = _FIELDS.decode(body)
        plain = unescaped(body)
        call = _PARSERS[path](plain, fields if plain is body else _FIELDS.decode(plain))
        if call.requirements.pinned is not None:
            _rename(call, meaning(call.requirements.pinned))
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from error
    fields.pop("routing", None)
    call.fields, call.headers = fields, headers
    if call.preference is None:
        call.preference = preference if call.alias is None else _preference_of(call.alias, aliases)
    if call.preference is not None and not 0.0 <= call.preference <= 1.0:
        raise InvalidRequest(
            f"preference is {call.preference}, expected 0 (cheapest) … 1 (best)", param="routing.preference"
        )
    return call


def with_field(body: bytes, name: str, value: object, *, replace: bool = True) -> bytes:
    """The body with one field set. Raises: InvalidRequest where it is no JSON object."""
    try:
        fields = _FIELDS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from error
    return body if name in fields and not replace else msgspec.json.encode({**fields, name: value})


def _preference_of(alias: str, aliases: Mapping[str, float]) -> float:
    if alias not in aliases:
        names = ", ".join(f"auto:{name}" for name in aliases)
        raise NotFound(f"there is no alias 'auto:{alias}'; there are auto, {names}", param="model", code=_NO_MODEL)
    return aliases[alias]


def _invalid(message: str) -> InvalidRequest:
    """msgspec's «Expected `str`, got `int` - at `$.model`» with the parameter taken out."""
    text, _, at = message.partition(" - at `$.")
    param = at.rstrip("`") or None
    missing = text.partition("missing required field `")[2].partition("`")[0]
    unknown = text.partition("contains unknown field `")[2].partition("`")[0]
    named = missing or unknown
    if named:
        param = f"{param}.{named}" if param else named
    return InvalidRequest(f"{param}: {text}" if param else text, param=param, code="invalid_value")


def _chat(body: bytes, fields: dict[str, msgspec.Raw]) -> Call:
    chat = _CHAT.decode(body)
    seen = look_through(chat.messages)
    requirements = {"chat"}
    if bytes(chat.tools) not in _EMPTY or bytes(chat.functions) not in _EMPTY:
        requirements.add("tools")
    if seen.images:
        requirements.add("vision")
    if chat.logprobs:
        requirements.add("logprobs")
    limits = [each for each in (chat.max_completion_tokens, chat.max_tokens) if each is not None]
    return _call(
        "/v1/chat/completions",
        chat,
        fields,
        capabilities=_NO_CAPABILITIES["chat"] if len(requirements) == 1 else frozenset(requirements),
        text=last_user_text(chat.messages),
        prompt_bytes=_size(fields, "messages", "tools", "functions", "response_format"),
        completion_tokens=_at_least(max(limits, default=None), 1, "max_tokens"),
        seen=seen,
        messages=len(chat.messages),
        last=chat.messages[-1].role,
    )


def _completion(body: bytes, fields: dict[str, msgspec.Raw]) -> Call:
    completion = _COMPLETION.decode(body)
    if completion.prompt in ("", []):
        raise InvalidRequest("prompt is empty", param="prompt")
    prompts = len(completion.prompt) if _is_batch(completion.prompt) else 1
    asked = completion.max_tokens if completion.max_tokens is not None else 16  # OpenAI's default for this route
    return _call(
        "/v1/completions",
        completion,
        fields,
        capabilities=_NO_CAPABILITIES["completions"],
        text=_text_of(completion.prompt),
        prompt_bytes=_size(fields, "prompt", "suffix"),
        completion_tokens=_at_least(asked, 0, "max_tokens"),
        choices=max(completion.n or 1, completion.best_of or 1),
        prompts=prompts,
    )


def _embedding(body: bytes, fields: dict[str, msgspec.Raw]) -> Call:
    embedding = _EMBEDDING.decode(body)
    if embedding.input in ("", []):
        raise InvalidRequest("input is empty", param="input")
    return _call(
        "/v1/embeddings",
        embedding,
        fields,
        capabilities=_NO_CAPABILITIES["embeddings"],
        text=_text_of(embedding.input),
        prompt_bytes=_size(fields, "input"),
        completion_tokens=0,
        prompts=len(embedding.input) if _is_batch(embedding.input) else 1,
    )


def _responses(body: bytes, fields: dict[str, msgspec.Raw]) -> Call:
    response = _RESPONSES.decode(body)
    if response.input in ("", []):
        raise InvalidRequest("input is empty", param="input")
    requirements = {"responses"} if bytes(response.tools) in _EMPTY else {"responses", "tools"}
    return _call(
        "/v1/responses",
        response,
        fields,
        capabilities=frozenset(requirements),
        text=response.input if isinstance(response.input, str) else last_item_text(response.input),
        prompt_bytes=_size(fields, "input", "instructions", "tools"),
        completion_tokens=_at_least(response.max_output_tokens, 1, "max_output_tokens"),
        seen=Seen() if isinstance(response.input, str) else seen_in(response.input, Seen()),
    )


def _messages(body: bytes, fields: dict[str, msgspec.Raw]) -> Call:
    messages = _MESSAGES.decode(body)
    seen = look_through(messages.messages)
    requirements = {"messages"}
    if bytes(messages.tools) not in _EMPTY:
        requirements.add("tools")
    if seen.images:
        requirements.add("vision")
    return _call(
        "/v1/messages",
        messages,
        fields,
        capabilities=frozenset(requirements),
        text=last_user_text(messages.messages),
        prompt_bytes=_size(fields, "messages", "system", "tools"),
        completion_tokens=_at_least(messages.max_tokens, 1, "max_tokens"),
        seen=seen,
        messages=len(messages.messages),
        last=messages.messages[-1].role,
    )


_PARSERS = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/embeddings": _embedding,
    "/v1/responses": _responses,
    "/v1/messages": _messages,
}


def _call(
    path: str,
    common: CommonBody,
    fields: dict[str, msgspec.Raw],
    *,
    capabilities: frozenset[str],
    text: str,
    prompt_bytes: int,
    completion_tokens: int | None,
    choices: int | None = None,
    prompts: int = 1,
    seen: Seen = NOTHING_SEEN,
    messages: int = 1,
    last: str = "",
) -> Call:
    routing = common.routing or _NO_ROUTING
    pinned, alias = _named(common.model)
    more = raised(path, fields)
    choices = _choices(path, max(choices or _at_least(common.n, 1, "n") or 1, more.choices), prompts)
    requirements = Requirements(
        capabilities=capabilities,
        prompt_bytes=prompt_bytes - seen.image_bytes,
        completion_tokens=completion_tokens,
        choices=choices * prompts,
        prompts=prompts,
        most_tokens=more.tokens,
        predicted_bytes=more.predicted_bytes,
        unknown_bytes=more.text_bytes,
        unforeseen=more.unforeseen or seen.unforeseen,
        fee=more.fee,
        searches=more.searches,
        pinned=pinned,
        allowed=None if routing.allowed_models is None else frozenset(routing.allowed_models),
        local_only=routing.local_only,
        max_cost=_max_cost(routing.max_cost_usd),
        max_delay_s=_max_delay_s(routing.max_delay_s),
        images=seen.images,
        messages=messages,
        repeats=bytes(fields.get("temperature", b"")) in (b"0", b"0.0"),
        features=features_of(fields) | seen.features | (_PREFILL if last == "assistant" else _NO_FEATURES),
    )
    return Call(
        path=path,
        fields=fields,
        text=text,
        requirements=requirements,
        stream=bool(common.stream),
        wants_usage=common.stream_options is not None and common.stream_options.include_usage,
        preference=routing.preference,
        alias=alias,
        policy=routing.policy,
        session=common.user,
    )


_NO_ROUTING = Routing()


def _choices(path: str, choices: int, prompts: int) -> int:
    answers = choices * prompts if path == "/v1/completions" else choices
    if answers > MOST_CHOICES:
        raise InvalidRequest(f"n is {answers}, at most {MOST_CHOICES} are allowed", param="n")
    return choices


def _max_delay_s(asked: float | None) -> float | None:
    if asked is not None and not 0 < asked <= MOST_DELAY_S:
        said = f"routing.max_delay_s is {asked}; it must be above 0 and at most {MOST_DELAY_S}"
        raise InvalidRequest(said, param="routing.max_delay_s")
    return asked


def _named(model: str) -> tuple[str | None, str | None]:
    """(pinned model, alias) that the body's `model` stands for."""
    if model == "auto":
        return None, None
    if model.startswith("auto:"):
        return None, model[5:]
    if not model:
        raise InvalidRequest("model is empty; ask for 'auto' or for a name of GET /v1/models", param="model")
    return model, None


def _rename(call: Call, meant: str) -> None:
    """Take the model, `auto` or `auto:NAME` in place of the name the client used."""
    if meant != call.requirements.pinned:
        pinned, call.alias = _named(meant)
        call.requirements = msgspec.structs.replace(call.requirements, pinned=pinned)


def _max_cost(usd: float | None) -> NanoUsd | None:
    if usd is None:
        return None
    if not 0.0 <= usd < 1e9:
        raise InvalidRequest(f"max_cost_usd is {usd}, expected 0 or more", param="routing.max_cost_usd")
    return NanoUsd(int(usd * NANO_PER_USD))


def _at_least(value: int | None, least: int, param: str) -> int | None:
    if value is not None and not least <= value <= 10_000_000:
        raise InvalidRequest(f"{param} is {value}, expected {least} … 10000000", param=param)
    return value


def _size(fields: Mapping[str, msgspec.Raw], *names: str) -> int:
    """Bytes of these fields as an engine reads them: no tokenizer makes more tokens of them than this."""
    return sum([len(memoryview(fields[name])) for name in names if name in fields])


def _is_batch(prompt: Prompt) -> bool:
    return isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)


def _text_of(prompt: Prompt) -> str:
    """The text of a prompt; token ids have none."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join([each for each in prompt if isinstance(each, str)])
