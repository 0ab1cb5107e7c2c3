"""Backends' errors as the gateway's own, at the border."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from backends.errors import BackendError, Overloaded, Refused, TimedOut, UnsupportedRequest
from backends.unsupported import is_of_the_account, is_too_long
from router.errors import InvalidRequest, NoCandidate, PointsmanError, RateLimited, RequestRejected, UpstreamFailed
from router.gateway.types import Call

LOG = logging.getLogger("pointsman.gateway")
_ACCOUNT = "the model's provider does not accept this gateway's account or key; whoever runs the gateway must mend it"
USUAL_WAIT_S = 1.0  # where an engine that is busy does not say how long


def refusal(error: Refused) -> RequestRejected | UpstreamFailed:
    """The engine's own 4xx as the caller's error; the engine's message is kept, but what it says of the gateway's own
    account is for the log alone."""
    if isinstance(error, UnsupportedRequest) and is_of_the_account(error.body):
        LOG.warning("%s refused the gateway's account: %s", error.backend, error)
        return UpstreamFailed(_ACCOUNT, code="upstream_account")
    message, code = str(error), None
    try:
        body = msgspec.json.decode(error.body)
        inner = body.get("error", body) if isinstance(body, dict) else {}
        message = str(inner.get("message") or message) if isinstance(inner, dict) else message
        code = inner.get("code") if isinstance(inner, dict) and isinstance(inner.get("code"), str) else None
    except (ValueError, RecursionError):
        pass
    if is_too_long(message.encode(errors="replace")):
        code = "context_length_exceeded"
    status = error.status if error.status not in (401, 403) else 502  # the gateway's own credentials, not the caller's
    return InvalidRequest(message, code=code, status=status)


def for_another_model(error: Refused, call: Call) -> bool:
    """Whether another model might take what this one finds too long, or cannot do at all."""
    return call.requirements.pinned is None and (isinstance(error, UnsupportedRequest) or is_too_long(error.body))


def upstream_failed(errors: Sequence[BackendError]) -> PointsmanError:
    """The failures of the backends that were tried (at least one) as the gateway's own error. It is a 429 where one
    of them said so, since the asker may come back to that one. Else the last.
    """
    limited = [each for each in errors if isinstance(each, Overloaded) and each.limited]
    if limited:
        wait_s = min(each.retry_after_s or USUAL_WAIT_S for each in limited)
        return RateLimited(f"every model that was tried is busy: {limited[-1]}", retry_after_s=wait_s)
    error = errors[-1]
    if isinstance(error, Overloaded):
        return NoCandidate(f"every model is busy: {error}", retry_after_s=error.retry_after_s or USUAL_WAIT_S)
    if isinstance(error, Refused):
        return refusal(error)
    status = 504 if isinstance(error, TimedOut) else 502
    return UpstreamFailed(f"every model that was tried failed: {error}", status=status)
