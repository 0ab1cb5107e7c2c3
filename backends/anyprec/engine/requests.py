"""What a client may ask of the engine: OpenAI's request bodies with vLLM's additions, checked and made precise.

Fails with Rejected, which carries the status and OpenAI's error body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from backends.anyprec.engine.sampling import Sampling
from backends.anyprec.errors import AnyprecError
from backends.anyprec.names import WIDTH_KEY, parsed_width, width_of

MOST_CHOICES = 16
MOST_LOGPROBS = 20
_WHERE = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


class Rejected(AnyprecError):
    """The request cannot be served as it is."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "not_found_error" if status == 404 else "invalid_request_error"
        self.body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


class StreamOptions(msgspec.Struct):
    """`stream_options`."""

    include_usage: bool = False


class Common(msgspec.Struct, kw_only=True):
    """What both kinds of request share. Unknown keys are ignored, as vLLM does."""

    model: str = ""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    n: int | None = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    vllm_xargs: dict[str, Any] | None = None

    def alternatives(self) -> int | None:
        """How many log-probabilities a token; None: none at all."""
        raise NotImplementedError

    def asked_tokens(self) -> int | None:
        """The client's own bound on the answer."""
        return self.max_tokens


class ChatAsk(Common, kw_only=True):
    """A body of /v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None

    def alternatives(self) -> int | None:
        """`top_logprobs` where `logprobs` is on."""
        if self.top_logprobs and not self.logprobs:
            raise Rejected("top_logprobs needs logprobs to be true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    def asked_tokens(self) -> int | None:
        """`max_completion_tokens`, or its older name."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class TextAsk(Common, kw_only=True):
    """A body of /v1/completions."""

    prompt: str | list[str | int | list[int]]
    max_tokens: int | None = 16
    logprobs: int | None = None
    echo: bool = False
    suffix: str | None = None
    best_of: int | None = None

    def alternatives(self) -> int | None:
        """`logprobs`."""
        return self.logprobs

    def prompts(self) -> list[str | list[int]]:
        """One text or list of token ids for each prompt. Raises: Rejected for a mixture."""
        given: list[Any] = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        kinds = {type(each) for each in given}
        if len(kinds) > 1:
            raise Rejected("prompt must be texts or token ids, not both", param="prompt", code="invalid_type")
        return [given] if kinds == {int} else given


def read_ask(fields: Mapping[str, object], kind: type[Common]) -> Common:
    """A body, as its top-level fields (values may be raw JSON). Raises: Rejected, naming the field."""
    try:
        ask = msgspec.json.decode(msgspec.json.encode(fields), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        where = _WHERE.search(str(error))
        raise Rejected(str(error), param=where["path"] or None if where else None, code="invalid_type") from error
    _check_numbers(ask)
    _check_supported(ask)
    return ask


def _check_numbers(ask: Common) -> None:
    limits: dict[str, tuple[float | None, float, float]] = {
        "n": (ask.n, 1, MOST_CHOICES),
        "temperature": (ask.temperature, 0, 100),
        "top_k": (ask.top_k, -1, 1e9),
        "min_p": (ask.min_p, 0, 1),
        "presence_penalty": (ask.presence_penalty, -2, 2),
        "frequency_penalty": (ask.frequency_penalty, -2, 2),
        "max_tokens": (ask.asked_tokens(), 1, 1e9),
        "min_tokens": (ask.min_tokens, 0, 1e9),
        "seed": (ask.seed, -(2**63), 2**63 - 1),
        "logprobs": (ask.alternatives(), 0, MOST_LOGPROBS),
    }
    for name, (value, low, high) in limits.items():
        if value is not None and not low <= value <= high:
            raise Rejected(
                f"{name} must be between {low:g} and {high:g}, got {value}", param=name, code="invalid_value"
            )
    if ask.top_p is not None and not 0 < ask.top_p <= 1:
        raise Rejected(f"top_p must be in (0, 1], got {ask.top_p}", param="top_p", code="invalid_value")
    if "" in stops_of(ask):
        raise Rejected("stop must not hold an empty string", param="stop", code="invalid_value")


def _check_supported(ask: Common) -> None:
    """Refuse what would change the answer and is not built, rather than ignore it."""
    unsupported = {"logit_bias": bool(ask.logit_bias)}
    if ask.response_format is not None:
        unsupported["response_format"] = ask.response_format.get("type") != "text"
    if isinstance(ask, TextAsk):
        unsupported |= {"echo": ask.echo, "suffix": bool(ask.suffix), "best_of": ask.best_of not in (None, 1, ask.n)}
    if isinstance(ask, ChatAsk):
        unsupported["tool_choice"] = ask.tool_choice not in (None, "auto", "none")
    for name, asked in unsupported.items():
        if asked:
            raise Rejected(f"{name} is not supported by the embedded engine", param=name, code="unsupported_parameter")


def stops_of(ask: Common) -> tuple[str, ...]:
    """`stop` as strings."""
    return (ask.stop,) if isinstance(ask.stop, str) else tuple(ask.stop or ())


def split_name(name: str, xargs: Mapping[str, Any] | None) -> tuple[str, float | None, str]:
    """ "small@3bit+eora" to its model, width and adapter; the width may come from vllm_xargs instead.

    Raises: Rejected for what is no width, or two that differ.
    """
    found = parsed_width(name)
    model, bits, adapter = (name, None, "") if found is None else (found.model, found.bits, found.adapter)
    asked = (xargs or {}).get(WIDTH_KEY)
    if asked is None:
        return model, bits, adapter
    width = width_of(asked)
    if width is None:
        message = f"{WIDTH_KEY} must be a width such as 3 or 3.25, got {asked!r}"
        raise Rejected(message, param="vllm_xargs", code="invalid_type")
    if bits is not None and bits != width:
        raise Rejected(f"{name} and {WIDTH_KEY} {asked} are two widths", param="vllm_xargs", code="invalid_value")
    return model, width, adapter


def sampling_of(ask: Common, *, defaults: Mapping[str, Any], prompt_tokens: int, context: int) -> Sampling:
    """How to draw, with the model's own defaults. Raises: Rejected where the context is too short."""
    asked = ask.asked_tokens()
    room = context - prompt_tokens
    if room < 1 or (asked is not None and asked > room):
        raise Rejected(
            f"This model's maximum context length is {context} tokens. However, you requested "
            f"{prompt_tokens + (asked or 1)} tokens ({prompt_tokens} in the prompt, {asked or 1} for the completion).",
            param="messages" if isinstance(ask, ChatAsk) else "prompt",
            code="context_length_exceeded",
        )
    return Sampling(
        max_tokens=asked or min(room, int(defaults.get("max_new_tokens") or room)),
        temperature=_first(ask.temperature, _temperature(defaults)),
        top_p=_first(ask.top_p, defaults.get("top_p"), 1.0),
        top_k=max(0, int(_first(ask.top_k, defaults.get("top_k"), 0))),
        min_p=_first(ask.min_p, defaults.get("min_p"), 0.0),
        presence_penalty=ask.presence_penalty or 0.0,
        frequency_penalty=ask.frequency_penalty or 0.0,
        seed=ask.seed,
        stop=stops_of(ask),
        stop_tokens=frozenset(ask.stop_token_ids or ()),
        include_stop=ask.include_stop_str_in_output,
        ignore_eos=ask.ignore_eos,
        min_tokens=ask.min_tokens,
        logprobs=ask.alternatives(),
    )


def _temperature(defaults: Mapping[str, Any]) -> float:
    """What generation_config.json means: greedy where it says not to sample."""
    return 0.0 if defaults.get("do_sample") is False else float(defaults.get("temperature") or 1.0)


def _first(*values: float | None) -> float:
    return next(float(value) for value in values if value is not None)
