"""Everything that can go wrong in the gateway, as one tree.

    PointsmanError
    ├── SettingsError            bad configuration; stops the start and names the key
    ├── RequestRejected          the caller's fault; carries an HTTP status, a code and the parameter
    │   ├── InvalidRequest       400 (or 413, 415): malformed JSON, wrong type, unknown routing key
    │   ├── Unauthenticated      401: no key, an unknown, disabled or expired key
    │   ├── Forbidden            403: the key may not do this
    │   ├── NotFound             404: no such model, decision or object
    │   ├── Conflict             409: a repeat that contradicts what is recorded
    │   ├── RateLimited          429 with Retry-After: requests, tokens or concurrency
    │   └── BudgetExceeded       429 with x-should-retry: false and the time of the reset
    ├── NoCandidate              503: every model is down, draining or refused the request
    ├── UpstreamFailed           502 or 504: the chosen model failed and no other could answer
    └── StoreUnavailable         503: the ledger, log or key store is away; nothing was sent

Backends raise their own tree (backends/errors.py); the gateway translates at the border.
"""

from __future__ import annotations


class PointsmanError(Exception):
    """The root. `status`, `type` and `code` are what the caller's API shape shows."""

    status = 500
    type = "api_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


class SettingsError(PointsmanError):
    """Configuration that cannot run. `param` is the path of the key."""


class RequestRejected(PointsmanError):
    """The caller's request cannot be served as it stands."""

    status = 400
    type = "invalid_request_error"


class InvalidRequest(RequestRejected):
    """Malformed body, wrong type or a value out of range."""


class Unauthenticated(RequestRejected):
    """No usable key."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(RequestRejected):
    """A valid key that may not do this."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(RequestRejected):
    """No such model, decision or object."""

    status = 404
    type = "not_found_error"
    code = "not_found"


class Conflict(RequestRejected):
    """A repeat that contradicts what is recorded."""

    status = 409
    type = "conflict_error"
    code = "conflict"


class RateLimited(RequestRejected):
    """Too many requests, tokens or requests at once. `retry_after_s` says when to come back."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class BudgetExceeded(RequestRejected):
    """No candidate's worst case fits what is left. `retry_after_s` is the time to the reset."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"


class NoCandidate(PointsmanError):
    """No model can serve this request now."""

    status = 503
    type = "service_unavailable_error"
    code = "no_candidate"


class UpstreamFailed(PointsmanError):
    """Every candidate that was tried failed before its first byte."""

    status = 502
    type = "upstream_error"
    code = "upstream_failed"


class StoreUnavailable(PointsmanError):
    """The ledger, the log or the key store is away. Nothing is sent unrecorded."""

    status = 503
    type = "service_unavailable_error"
    code = "store_unavailable"
