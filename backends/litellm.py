"""Any provider through litellm's SDK (extra `providers`), imported only when a backend is constructed.

Only parameters of each API reach litellm as such; all else a client sends goes into the provider's body. A client
can therefore not set litellm's own arguments (`api_base`, `mock_response`, …) and lead the operator's key elsewhere.
Messages go to Anthropic as they came, Responses to providers that have them; for others both are translated to chat.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Mapping
from time import time
from typing import Any, cast

import msgspec

from backends.dialects import CLAUDE, DIALECTS, send_over_chat
from backends.dialects.chat import event
from backends.errors import BackendError, Failed, Overloaded, Refused, TimedOut, Unreachable, UnsupportedRequest
from backends.openai import FEATURES, OpenAIBackend, decoded, merged_fields, retry_after_s
from backends.sse import EventStream
from backends.types import Limits, Reply, Request
from backends.unsupported import is_busy, is_missing_path, is_of_the_request, is_unsupported
from backends.whole import whole

_CALLS = {  # litellm's function and the field it cannot do without
    "/v1/chat/completions": ("acompletion", "messages"),
    "/v1/completions": ("atext_completion", "prompt"),
    "/v1/embeddings": ("aembedding", "input"),
    "/v1/messages": ("", "messages"),  # of Anthropic without litellm, whose streams need its proxy
    "/v1/responses": ("aresponses", "input"),
}
_OPTIONAL = """tools tool_choice parallel_tool_calls temperature top_p n stop seed max_tokens max_completion_tokens
presence_penalty frequency_penalty logit_bias logprobs top_logprobs response_format user reasoning_effort modalities
audio prediction echo best_of suffix encoding_format dimensions stream stream_options"""
_OF_RESPONSES = """include instructions max_output_tokens metadata parallel_tool_calls previous_response_id reasoning
store stream temperature text tool_choice tools top_p truncation user service_tier safety_identifier"""
_RESPONSES, _USUAL = frozenset(_OF_RESPONSES.split()), frozenset(_OPTIONAL.split())
_ASKED_ASIDE = ("logprobs", "top_logprobs")  # of every model, on the gateway's own account
_ANTHROPIC, _VERSION = "https://api.anthropic.com", "2023-06-01"
_CLAUDES = frozenset({"bedrock", "vertex_ai", "azure_ai"})  # where it is, beside Anthropic


class LiteLLMBackend:
    """A provider that litellm knows. `options` are litellm's own arguments (api_version, aws_region_name, …).

    Raises (on construction): ImportError where the extra is not installed.
    """

    def __init__(
        self,
        *,
        name: str = "litellm",
        api_key: str | None = None,
        api_base: str | None = None,
        options: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.name = name
        self._litellm = _litellm()
        self._limits = limits or Limits()
        self._secret = api_key
        given = {"api_key": api_key, "api_base": api_base}
        self._own: OpenAIBackend | None = None
        self._options = {**(options or {}), **{key: value for key, value in given.items() if value}}

    async def send(self, request: Request) -> Reply:
        """Returns when the first event, or the whole of a plain answer, is there. Raises: BackendError."""
        call, needed = _CALLS.get(request.path, ("", ""))
        if needed not in request.fields:
            said = f"This model does not serve {request.path} without {needed or 'an engine of its own'}."
            body = msgspec.json.encode({"error": {"message": said, "type": "invalid_request_error"}})
            raise UnsupportedRequest(said, backend=self.name, status=400, body=body, no_path=not call)
        if (dialect := DIALECTS.get(request.path)) is not None:
            model, provider = self._provider(request.model)
            if not call and provider == "anthropic":
                headers = {"anthropic-version": _VERSION, **self._headers(request)}
                return await self._anthropic().send(msgspec.structs.replace(request, model=model, headers=headers))
            if not call or not self._has_responses(model, provider):
                claude = request.path == "/v1/messages" and _is_claude(model, provider)
                return await send_over_chat(self, _with_limit(request), CLAUDE if claude else dialect)
        try:
            answer = await getattr(self._litellm, call)(**self._arguments(request, needed))
        except Exception as problem:
            error = self._translated(problem)
            if dialect is not None and is_missing_path(getattr(problem, "status_code", 0), str(error).encode()):
                error = UnsupportedRequest(str(error), backend=self.name, status=400, body=b"", no_path=True)
            raise error from None  # litellm's chain may quote the key
        if request.stream:
            return await self._stream(answer, request)
        return whole(_body(answer, request.path), request=request, backend=self.name)

    async def ping(self) -> bool:
        """True: asking a provider costs money, so only requests tell."""
        return True

    async def aclose(self) -> None:
        """litellm shares its connections between all backends of the process and closes them at its end."""
        if self._own is not None:
            await self._own.aclose()

    def _arguments(self, request: Request, needed: str) -> dict[str, Any]:
        fields = decoded(merged_fields(self._answerable(request)), backend=self.name)
        del fields["model"]
        named = _RESPONSES if request.path in DIALECTS else _USUAL
        if "thinking" in fields and _is_claude(*self._provider(request.model)):
            named |= {"thinking"}
        known = {key: fields.pop(key) for key in tuple(fields) if key in named or key == needed}
        return {
            **known,
            **({"extra_body": fields} if fields else {}),
            **self._options,
            **({"extra_headers": headers} if (headers := self._headers(request)) else {}),
            "model": request.model,
            "timeout": self._limits.first_byte_s,
            "num_retries": 0,  # the gateway decides who is tried next
            "max_retries": 0,
        }

    def _provider(self, model: str) -> tuple[str, str]:
        """(the model's own name, its provider); of one that litellm does not know, which its call then says, ""."""
        try:
            name, provider, _, _ = self._litellm.get_llm_provider(model, self._options.get("custom_llm_provider"))
        except self._litellm.exceptions.BadRequestError:
            return model, ""
        return str(name), str(provider)

    def _has_responses(self, model: str, provider: str) -> bool:
        """Whether a provider speaks Responses itself."""
        configs, known = (
            self._litellm.utils.ProviderConfigManager,
            {each.value: each for each in self._litellm.LlmProviders},
        )
        found = known.get(provider)
        return found is not None and configs.get_provider_responses_api_config(model=model, provider=found) is not None

    def _anthropic(self) -> OpenAIBackend:
        """Anthropic's own API, where litellm would find it."""
        if self._own is None:
            environ = os.environ
            base = (
                self._options.get("api_base") or environ.get("ANTHROPIC_API_BASE") or environ.get("ANTHROPIC_BASE_URL")
            )
            key = self._options.get("api_key") or environ.get("ANTHROPIC_API_KEY", "")
            url = str(base or _ANTHROPIC).rstrip("/").removesuffix("/v1/messages")
            self._own = OpenAIBackend(url, name=self.name, headers={"x-api-key": str(key)}, limits=self._limits)
        return self._own

    def _headers(self, request: Request) -> dict[str, str]:
        """The client's and the operator's, whose own word counts; both name features of a protocol."""
        own = self._options.get("extra_headers")
        sent = {name.lower(): str(value) for name, value in own.items()} if isinstance(own, Mapping) else {}
        if "organization" in self._options:
            sent.setdefault("openai-organization", str(self._options["organization"]))
        for name, value in request.headers.items():
            both = name in FEATURES and name in sent
            sent[name] = f"{sent[name]},{value}" if both else sent.get(name, value)
        return sent

    def _answerable(self, request: Request) -> Request:
        """The request without token probabilities that only the gateway asked for, where the provider has none."""
        if not any(key in request.extra for key in _ASKED_ASIDE):
            return request
        provider = self._options.get("custom_llm_provider")
        able = self._litellm.get_supported_openai_params(model=request.model, custom_llm_provider=provider) or ()
        kept = {key: value for key, value in request.extra.items() if key not in _ASKED_ASIDE or key in able}
        return msgspec.structs.replace(request, extra=kept)

    async def _stream(self, answer: Any, request: Request) -> Reply:
        events = self._events(answer)

        async def read() -> bytes:
            try:
                async with asyncio.timeout(self._limits.idle_s):
                    return await anext(events, b"")
            except TimeoutError:
                raise TimedOut(f"sent nothing for {self._limits.idle_s:g} s", backend=self.name) from None

        reply = EventStream(
            read,
            lambda: None,
            request=request,
            backend=self.name,
            aclose=_closer(answer),
        )
        await reply.start(read)
        return reply

    async def _events(self, answer: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        is_chat = True
        try:
            async for chunk in answer:
                yield chunk if isinstance(chunk, bytes) else _event(chunk)
                is_chat = is_chat and not isinstance(chunk, bytes) and not hasattr(chunk, "type")
        except BackendError:
            raise
        except Exception as problem:
            raise self._translated(problem) from None
        if is_chat:
            yield b"data: [DONE]\n\n"

    def _translated(self, problem: Exception) -> BackendError:
        status = getattr(problem, "status_code", None)
        said = self._safe(str(problem))
        errors = self._litellm.exceptions
        if isinstance(problem, errors.Timeout):
            return TimedOut(said, backend=self.name)
        if isinstance(problem, errors.APIConnectionError) or "Connection error" in said:
            return Unreachable(said, backend=self.name)
        if isinstance(status, int) and is_busy(status):
            headers = getattr(getattr(problem, "response", None), "headers", None) or {}
            wait_s = retry_after_s(headers.get("retry-after"), time())
            return Overloaded(said, backend=self.name, retry_after_s=wait_s, limited=status == 429)
        if isinstance(status, int) and is_of_the_request(status):
            body = msgspec.json.encode({"error": {"message": said, "type": "invalid_request_error"}})
            kind = UnsupportedRequest if is_unsupported(status, said.encode()) else Refused
            return kind(said, backend=self.name, status=status, body=body)
        if status in {401, 403}:
            return Failed(f"answered {status}: it does not accept the gateway's own key", backend=self.name)
        return Failed(said, backend=self.name)

    def _safe(self, text: str) -> str:
        return (text.replace(self._secret, "…") if self._secret else text)[:500]


def _is_claude(model: str, provider: str) -> bool:
    """Whether litellm's chat says all to it that Messages can."""
    return provider in _CLAUDES and "claude" in model.lower()


def _with_limit(request: Request) -> Request:
    """The request with the longest answer that the gateway allows among its own fields, which are translated."""
    limits = {key: value for key, value in request.extra.items() if key in ("max_tokens", "max_output_tokens")}
    fields = {**request.fields, **{key: msgspec.Raw(msgspec.json.encode(value)) for key, value in limits.items()}}
    rest = {key: value for key, value in request.extra.items() if key not in limits}
    return msgspec.structs.replace(request, fields=fields, extra=rest)


def _body(answer: Any, path: str) -> bytes:
    """The whole answer as its API writes it."""
    if path in DIALECTS:  # as the provider wrote it: litellm adds what it does not know as null
        said = answer if isinstance(answer, dict) else answer.model_dump(mode="json", exclude_unset=True)
        return msgspec.json.encode(said)
    return msgspec.json.encode(_whole(answer.model_dump(mode="json", exclude_none=True)))


def _event(chunk: Any) -> bytes:
    """A chunk of chat, or an event of Responses, which has its kind."""
    if (kind := getattr(chunk, "type", None)) is None:
        return b"data: " + msgspec.json.encode(_tidied(chunk.model_dump(exclude_none=True))) + b"\n\n"
    kind = getattr(kind, "value", kind)
    return event(str(kind), chunk.model_dump(mode="json", exclude_unset=True))


def _closer(answer: Any) -> Any:
    """What cuts a stream off: litellm wraps some, and leaves others to be closed by their connection."""
    inner = next(
        (each for each in (answer, getattr(answer, "completion_stream", None)) if hasattr(each, "aclose")), None
    )
    if inner is not None:
        return inner.aclose
    response = getattr(answer, "response", None)
    return getattr(response, "aclose", None)


def _whole(answer: dict[str, Any]) -> dict[str, Any]:
    """litellm's answer as OpenAI writes it, where a null is said and not left out."""
    for choice in answer.get("choices", []):
        choice.setdefault("logprobs", None)
        if "message" in choice:
            choice["message"] = {"content": None, "refusal": None} | choice["message"]
    return answer


def _tidied(chunk: dict[str, Any]) -> dict[str, Any]:
    """litellm's chunk as OpenAI writes it: `finish_reason` always there, usage in an event without choices."""
    choices = chunk.get("choices", [])
    for choice in choices:
        choice.setdefault("finish_reason", None)
    empty = all(not choice.get("delta") and not choice.get("text") for choice in choices)
    if "usage" in chunk and empty and all(choice["finish_reason"] is None for choice in choices):
        chunk["choices"] = []
    return chunk


def _litellm() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import asks the network for prices
    try:
        library = cast(Any, importlib.import_module("litellm"))
    except ImportError as problem:
        raise ImportError("a litellm backend needs the extra `providers`") from problem
    library.suppress_debug_info = True
    library.telemetry = False
    return library
