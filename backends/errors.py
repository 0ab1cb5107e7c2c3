"""What a backend may raise, always before the first byte of an answer.

BackendError
├── Unreachable      refused, reset or timed out while connecting
│   └── Cut          connected, and cut before the first byte: one connection's fate, the engine may be well
├── TimedOut         connected, but no first byte in time
├── Refused          the engine answered 400, 413 or 422: the caller's request is at fault. Carries status and body
├── Failed           the engine answered 5xx, HTML or something that is no answer, or another 4xx. Key, account, model
│                    name and path are the operator's, so the client is not to blame
└── Overloaded       the engine answered 429, 503 or 529, or this backend's own concurrency cap is reached
"""

from __future__ import annotations


class BackendError(Exception):
    """The root; `backend` names who failed. Messages never carry keys."""

    def __init__(self, message: str, *, backend: str) -> None:
        super().__init__(message)
        self.backend = backend


class Unreachable(BackendError):
    """No connection."""


class Cut(Unreachable):
    """A connection that was there."""


class TimedOut(BackendError):
    """Connected, but nothing came in time."""


class Refused(BackendError):
    """The caller's own mistake, as the engine sees it. Never trips a breaker."""

    def __init__(self, message: str, *, backend: str, status: int, body: bytes) -> None:
        super().__init__(message, backend=backend)
        self.status = status
        self.body = body


class UnsupportedRequest(Refused):
    """What this model cannot do at all: another one may. `no_path`: the engine does not have the protocol asked in."""

    def __init__(self, message: str, *, backend: str, status: int, body: bytes, no_path: bool = False) -> None:
        super().__init__(message, backend=backend, status=status, body=body)
        self.no_path = no_path


class Failed(BackendError):
    """The engine is there and did not answer properly."""


class Overloaded(BackendError):
    """No room now; `retry_after_s` if the engine said when. `limited`: it said 429, which is for this asker alone."""

    def __init__(
        self, message: str, *, backend: str, retry_after_s: float | None = None, limited: bool = False
    ) -> None:
        super().__init__(message, backend=backend)
        self.retry_after_s = retry_after_s
        self.limited = limited
