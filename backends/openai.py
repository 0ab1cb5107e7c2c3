"""Any server that speaks OpenAI's API over HTTP, vLLM first: bytes through, usage read on the way.

Fails before the first byte with a BackendError; afterwards the reply's `failure` says what broke.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from math import isnan
from time import time
from typing import Any

import msgspec

from backends.errors import BackendError, Failed, Overloaded, Refused, UnsupportedRequest
from backends.http1 import Client, Response
from backends.sse import EventStream
from backends.types import Limits, Reply, Request
from backends.unsupported import is_busy, is_missing_path, is_of_the_request, is_unsupported
from backends.whole import whole

_COUNTED_STREAMS = frozenset({"/v1/chat/completions", "/v1/completions"})  # the others always report usage
CHAT = "/v1/chat/completions"
_SHOWN_BYTES = 300
LONGEST_WAIT_S = 3600.0  # that an engine is believed to ask for
FEATURES = frozenset({"anthropic-beta", "openai-beta"})  # headers that are lists: several lines of one are joined


class OpenAIBackend:
    """One server, reached at `base_url` (with or without its `/v1`).

    `headers` are sent with every request beside `Authorization: Bearer api_key`; neither ever appears in an error.
    Of a header that the client sends too they are what counts.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str = "engine",
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.name = name
        self.limits = limits or Limits()
        secret = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._overruled = frozenset(own.lower() for own in headers or ()) - FEATURES
        self._client = Client(
            base_url.rstrip("/").removesuffix("/v1"),
            name=name,
            headers={"Content-Type": "application/json", **secret, **(headers or {})},
            limits=self.limits,
        )

    async def send(self, request: Request) -> Reply:
        """Returns when the first event, or the whole of a plain answer, is there. Raises: BackendError."""
        sent = request.headers
        if not self._overruled.isdisjoint(sent):
            sent = {key: value for key, value in sent.items() if key not in self._overruled}
        try:
            response = await self._client.request("POST", request.path, body=body_of(request), headers=sent)
        except (ValueError, msgspec.DecodeError) as problem:
            raise Refused(str(problem), backend=self.name, status=400, body=b"") from problem
        try:
            if response.status != 200:
                await self._refuse(response, request.path)
            return await self._reply(response, request)
        except BaseException:
            response.close()
            raise

    async def ping(self) -> bool:
        """Whether /health answers below 500: servers without that path are up all the same."""
        try:
            return (await self.get("/health"))[0] < 500
        except BackendError:
            return False

    async def get(self, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of a GET, of a POST where a body is given, for discovery. Raises: BackendError."""
        response = await self._client.request("POST" if body else "GET", path, body=body)
        return response.status, await response.body(self.limits)

    async def aclose(self) -> None:
        """Cut every connection."""
        await self._client.aclose()

    async def _reply(self, response: Response, request: Request) -> Reply:
        kind = _kind(response.header(b"content-type"))
        if kind == "text/event-stream":
            return await self._stream(response, request)
        if kind == "text/html" or request.stream:
            raise Failed(f"answered {kind or 'nothing known'} to {_wanted(request)}", backend=self.name)
        body = await response.body(self.limits)
        reply = whole(body, request=request, backend=self.name)
        reply.report.engine_s = response.engine_s
        return reply

    async def _stream(self, response: Response, request: Request) -> Reply:
        if not request.stream:
            raise Failed(f"answered a stream to {_wanted(request)}", backend=self.name)
        reply = EventStream(
            partial(response.read, self.limits.idle_s),
            response.close,
            request=request,
            backend=self.name,
            progressed=response.progressed,
        )
        await reply.start(partial(response.read, self.limits.first_byte_s))
        reply.report.engine_s = response.engine_s
        return reply

    async def _refuse(self, response: Response, path: str) -> None:
        status, body = response.status, await response.body(self.limits)
        shown = body[:_SHOWN_BYTES].decode("utf-8", errors="replace")
        if is_busy(status):
            wait_s = retry_after_s(response.header(b"retry-after") or None, time())
            said, limited = f"answered {status}: {shown}", status == 429
            raise Overloaded(said, backend=self.name, retry_after_s=wait_s, limited=limited)
        no_path = path != CHAT and is_missing_path(status, body)
        if no_path or is_unsupported(status, body):
            said = f"answered {status}: {shown}"
            raise UnsupportedRequest(said, backend=self.name, status=_client_status(status), body=body, no_path=no_path)
        if is_of_the_request(status):
            raise Refused(f"answered {status}: {shown}", backend=self.name, status=status, body=body)
        if status in {401, 403}:
            raise Failed(f"answered {status}: it does not accept the gateway's own key", backend=self.name)
        raise Failed(f"answered {status}: {shown}", backend=self.name)


def _client_status(status: int) -> int:
    """The status a client is told: what an engine lacks is not the client's missing path."""
    return status if is_of_the_request(status) else 400


def body_of(request: Request) -> bytes:
    """The JSON body for the engine."""
    return msgspec.json.encode(merged_fields(request))


def merged_fields(request: Request) -> dict[str, object]:
    """The client's fields, with `model`, `extra` and the wish for usage laid over."""
    fields: dict[str, object] = {**request.fields, "model": request.model}
    for key, value in request.extra.items():
        fields[key] = {**_object(fields.get(key)), **value} if isinstance(value, Mapping) else value
    if request.stream and request.path in _COUNTED_STREAMS:
        fields["stream_options"] = {**_object(fields.get("stream_options")), "include_usage": True}
    return fields


def retry_after_s(value: str | None, now_s: float) -> float | None:
    """Seconds to wait by a Retry-After header, which holds seconds or an HTTP date; None where it says nothing.

    An hour at most: whoever asks for more may be asked again.
    """
    if value is None:
        return None
    try:
        wait_s = float(value)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(value).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return None if isnan(wait_s) else min(max(0.0, wait_s), LONGEST_WAIT_S)


def decoded(fields: Mapping[str, object], *, backend: str) -> dict[str, Any]:
    """Fields as Python's values. Raises: Refused for a number that is none here, such as 1e400."""
    try:
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(fields))
    except msgspec.DecodeError as problem:
        body = msgspec.json.encode({"error": {"message": str(problem), "type": "invalid_request_error"}})
        raise Refused(str(problem), backend=backend, status=400, body=body) from problem
    return found


def _object(value: object) -> dict[str, object]:
    """A field as a dict; {} for what is none."""
    if isinstance(value, msgspec.Raw):
        value = msgspec.json.decode(value)
    return dict(value) if isinstance(value, Mapping) else {}


def _kind(content_type: str) -> str:
    """The media type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def _wanted(request: Request) -> str:
    return "a request for a stream" if request.stream else "a plain request"
