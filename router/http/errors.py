"""Errors in the caller's API shape: OpenAI's everywhere, Anthropic's on /v1/messages."""

from __future__ import annotations

import math
import re

import msgspec

from router.errors import BudgetExceeded, PointsmanError, StoreUnavailable

Headers = list[tuple[bytes, bytes]]

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_PLACE = re.compile(r"connecting to \S+:\d+")  # of a store, which is nobody's but the operator's
_NUMBERS = re.compile(rb'"sequence_number": ?(\d{1,18})[,}]')


def error_body(error: PointsmanError, path: str) -> bytes:
    """The JSON body that tells this error in the shape of the API at `path`."""
    message = _PLACE.sub("connecting to it", error.message) if isinstance(error, StoreUnavailable) else error.message
    if path.startswith("/v1/messages"):
        kind = _ANTHROPIC_TYPES.get(error.status, "api_error")
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})
    return msgspec.json.encode(
        {"error": {"message": message, "type": error.type, "param": error.param, "code": error.code}}
    )


def error_headers(error: PointsmanError) -> Headers:
    """Content type, when to come back, and whether it is worth trying."""
    headers = [(b"content-type", b"application/json")]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    if isinstance(error, BudgetExceeded):
        headers.append((b"x-should-retry", b"false"))
    return headers


def error_event(message: str, path: str, last: bytes = b"") -> bytes:
    """The SSE event that tells a failure in the middle of a stream; `last` is what was sent before, whose numbers it
    goes on from. On Responses also under `error`, where OpenAI's own SDKs look for it."""
    if path.startswith("/v1/messages"):
        body = msgspec.json.encode({"type": "error", "error": {"type": "api_error", "message": message}})
        return b"event: error\ndata: " + body + b"\n\n"
    detail = {"message": message, "type": "upstream_error", "param": None, "code": "stream_broken"}
    if path.startswith("/v1/responses"):
        number = int((_NUMBERS.findall(last) or [b"-1"])[-1]) + 1
        body = msgspec.json.encode({**detail, "type": "error", "sequence_number": number, "error": detail})
        return b"event: error\ndata: " + body + b"\n\n"
    return b"data: " + msgspec.json.encode({"error": detail}) + b"\n\n"
