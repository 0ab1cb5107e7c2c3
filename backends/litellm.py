"""Any provider through litellm's SDK (extra `providers`), imported only when a backend is constructed.

Only parameters of OpenAI's API reach litellm as such; all else a client sends goes into the provider's body. A client
can therefore not set litellm's own arguments (`api_base`, `mock_response`, …) and lead the operator's key elsewhere.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import msgspec

from backends.errors import BackendError, Failed, Overloaded, Refused, TimedOut, Unreachable, UnsupportedRequest
from backends.openai import decoded, merged_fields, retry_after_s
from backends.sse import EventStream
from backends.types import Limits, Reply, Request
from backends.unsupported import is_unsupported
from backends.whole import whole

_CALLS = {  # litellm's function and the field it cannot do without
    "/v1/chat/completions": ("acompletion", "messages"),
    "/v1/completions": ("atext_completion", "prompt"),
    "/v1/embeddings": ("aembedding", "input"),
}
_OPTIONAL = """tools tool_choice parallel_tool_calls temperature top_p n stop seed max_tokens max_completion_tokens
presence_penalty frequency_penalty logit_bias logprobs top_logprobs response_format user reasoning_effort modalities
audio prediction echo best_of suffix encoding_format dimensions stream stream_options"""
_PARAMETERS = frozenset(_OPTIONAL.split())
_OPERATOR_STATUSES = frozenset({401, 403, 404, 405})  # the key and the model's name are ours, not the client's


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
        self._options = {**(options or {}), **{key: value for key, value in given.items() if value}}

    async def send(self, request: Request) -> Reply:
        """Returns when the first event, or the whole of a plain answer, is there. Raises: BackendError."""
        call, needed = _CALLS.get(request.path, ("", ""))
        if needed not in request.fields:
            said = f"This model does not serve {request.path} without {needed or 'an engine of its own'}."
            body = msgspec.json.encode({"error": {"message": said, "type": "invalid_request_error"}})
            raise UnsupportedRequest(said, backend=self.name, status=400, body=body, no_path=not call)
        try:
            answer = await getattr(self._litellm, call)(**self._arguments(request, needed))
        except Exception as problem:
            raise self._translated(problem) from None  # litellm's chain may quote the key
        if request.stream:
            return await self._stream(answer, request)
        body = msgspec.json.encode(_whole(answer.model_dump(mode="json", exclude_none=True)))
        return whole(body, request=request, backend=self.name)

    async def ping(self) -> bool:
        """True: asking a provider costs money, so only requests tell."""
        return True

    async def aclose(self) -> None:
        """litellm shares its connections between all backends of the process and closes them at its end."""

    def _arguments(self, request: Request, needed: str) -> dict[str, Any]:
        fields = decoded(merged_fields(request), backend=self.name)
        del fields["model"]
        known = {key: fields.pop(key) for key in tuple(fields) if key in _PARAMETERS or key == needed}
        return {
            **known,
            **({"extra_body": fields} if fields else {}),
            **({"extra_headers": dict(request.headers)} if request.headers else {}),
            **self._options,
            "model": request.model,
            "timeout": self._limits.first_byte_s,
            "num_retries": 0,  # the gateway decides who is tried next
            "max_retries": 0,
        }

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
            aclose=(answer if hasattr(answer, "aclose") else answer.completion_stream).aclose,
        )
        await reply.start(read)
        return reply

    async def _events(self, answer: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        try:
            async for chunk in answer:
                yield b"data: " + msgspec.json.encode(_tidied(chunk.model_dump(exclude_none=True))) + b"\n\n"
        except BackendError:
            raise
        except Exception as problem:
            raise self._translated(problem) from None
        yield b"data: [DONE]\n\n"

    def _translated(self, problem: Exception) -> BackendError:
        status = getattr(problem, "status_code", None)
        said = self._safe(str(problem))
        errors = self._litellm.exceptions
        if isinstance(problem, errors.Timeout):
            return TimedOut(said, backend=self.name)
        if isinstance(problem, errors.APIConnectionError) or "Connection error" in said:
            return Unreachable(said, backend=self.name)
        if status in {429, 503}:
            headers = getattr(getattr(problem, "response", None), "headers", None) or {}
            wait_s = retry_after_s(headers.get("retry-after"), 0.0)
            return Overloaded(said, backend=self.name, retry_after_s=wait_s, limited=status == 429)
        if isinstance(status, int) and 400 <= status < 500 and status not in _OPERATOR_STATUSES:
            body = msgspec.json.encode({"error": {"message": said, "type": "invalid_request_error"}})
            kind = UnsupportedRequest if is_unsupported(status, said.encode()) else Refused
            return kind(said, backend=self.name, status=status, body=body)
        if status in {401, 403}:
            return Failed(f"answered {status}: it does not accept the gateway's own key", backend=self.name)
        return Failed(said, backend=self.name)

    def _safe(self, text: str) -> str:
        return (text.replace(self._secret, "…") if self._secret else text)[:500]


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
