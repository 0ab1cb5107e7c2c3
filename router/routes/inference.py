"""The hot path: one raw ASGI callable for every route that calls a model.

No framework stands between the server and the gateway here; errors leave in the caller's API shape, and a client that
hangs up stops the engine at once and is still charged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from router.errors import InvalidRequest, PointsmanError, StoreUnavailable, UpstreamFailed
from router.gateway.answers import Answer
from router.gateway.nouns import Call, usd
from router.gateway.serving import Gateway
from router.routes.authentication import Authentication, secret_of
from router.routes.errors import Headers, error_body, error_event, error_headers
from router.schemas import PATHS, parse
from router.types import Allowance

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LOG = logging.getLogger("pointsman.inference")
_PASSED_ON = {b"traceparent": "traceparent", b"tracestate": "tracestate", b"x-session-id": "x-session-id"}
_SSE = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Inference:
    """ASGI for the paths of schemas.PATHS."""

    def __init__(self, gateway: Gateway, authentication: Authentication, *, max_body_bytes: int) -> None:
        self._gateway = gateway
        self._authentication = authentication
        self._max_body_bytes = max_body_bytes
        self._hang_ups = HangUps()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = headers.get(b"x-request-id") or b"req-" + os.urandom(12).hex().encode()
        path: str = scope["path"]
        answer: Answer | None = None
        watch: HangUp | None = None
        try:
            principal = await self._authentication.principal(
                secret_of(headers.get(b"authorization"), headers.get(b"x-api-key"))
            )
            body = await self._body(headers, receive)
            call = self._call(path, body, headers, request_id)
            watch = self._hang_ups.watch(receive)
            answer = await self._gateway.answer(principal, call)
            relay = self._stream if answer.is_streamed else self._plain
            await relay(answer, call, send, started, request_id)
        except PointsmanError as error:
            await _fail(error, path, send, request_id)
        except asyncio.CancelledError:
            if watch is None or not watch.seen:
                raise
        except Exception:  # a bug: the caller still gets an error in its API's shape
            LOG.exception("POST %s failed", path)
            await _fail(PointsmanError("the gateway failed on this request; its log says why"), path, send, request_id)
        finally:
            if watch is not None:
                watch.stop()
            if answer is not None:
                with contextlib.suppress(StoreUnavailable):  # the client was told above, or has gone
                    await answer.close()

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Raises: InvalidRequest 413 as soon as the body is known to be too large."""
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            raise self._too_large(int(declared))
        message = await receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            if len(body) > self._max_body_bytes:
                raise self._too_large(len(body))
            return body
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_body_bytes:
                raise self._too_large(size)
        return b"".join(parts)

    def _too_large(self, size: int) -> InvalidRequest:
        limit = self._max_body_bytes
        return InvalidRequest(f"the body has {size} bytes or more, the limit is {limit}", status=413, code="too_large")

    def _call(self, path: str, body: bytes, headers: dict[bytes, bytes], request_id: bytes) -> Call:
        passed = {name: headers[key].decode("latin-1") for key, name in _PASSED_ON.items() if key in headers}
        passed["x-request-id"] = request_id.decode("latin-1")
        call = parse(
            path,
            body,
            passed,
            preference=preference_of(headers.get(b"x-pointsman-preference")),
            aliases=self._gateway.decider.options.aliases,
        )
        call.session = passed.get("x-session-id") or call.session
        call.request_id = passed["x-request-id"]
        return call

    async def _plain(self, answer: Answer, call: Call, send: Send, started: float, request_id: bytes) -> None:
        body = answer.reply.body
        if body is None:
            body = b"".join([chunk async for chunk in answer])
        upstream_s = answer.opened.stages.spent["first_byte"] + answer.opened.stages.spent.get("relay", 0.0)
        await answer.settle()
        if answer.reply.failure is not None:
            raise UpstreamFailed(f"the model's answer broke off: {answer.reply.failure}")
        headers = _decision_headers(answer, request_id)
        headers += [
            (b"content-type", answer.reply.content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-pointsman-cost-usd", usd(answer.total).encode()),
            (b"x-pointsman-overhead-ms", b"%.3f" % ((time.perf_counter() - started - upstream_s) * 1000)),
        ]
        await send({"type": "http.response.start", "status": answer.reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        await self._gateway.grade(answer.opened, body)

    async def _stream(self, answer: Answer, call: Call, send: Send, started: float, request_id: bytes) -> None:
        overhead_s = time.perf_counter() - started - answer.opened.stages.spent["first_byte"]
        headers = [*_decision_headers(answer, request_id), *_SSE]
        headers.append((b"x-pointsman-overhead-ms", b"%.3f" % (overhead_s * 1000)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        broken: str | None = None
        try:
            async for chunk in answer:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await answer.settle()
            broken = answer.reply.failure
        except PointsmanError as error:  # the headers are out: only the stream itself can tell
            broken = error.message
        last = b"" if broken is None else error_event(f"the answer broke off: {broken}", call.path)
        await send({"type": "http.response.body", "body": last})


def preference_of(header: bytes | None) -> float | None:
    """The number in x-pointsman-preference. Raises: InvalidRequest where it is none."""
    if header is None:
        return None
    try:
        return float(header)
    except ValueError:
        text = header.decode("latin-1")[:40]
        message = f"x-pointsman-preference is {text!r}, expected a number from 0 (cheapest) to 1 (best)"
        raise InvalidRequest(message, param="x-pointsman-preference") from None


def _decision_headers(answer: Answer, request_id: bytes) -> Headers:
    opened = answer.opened
    headers = [
        (b"x-request-id", request_id),
        (b"x-pointsman-decision-id", opened.decision.decision_id.encode()),
        (b"x-pointsman-model", opened.model.name.encode()),
        (b"x-pointsman-policy", opened.decision.policy.encode()),
    ]
    if opened.hold.requests is not None:
        headers += _allowance(b"requests", opened.hold.requests)
    if opened.hold.tokens is not None:
        headers += _allowance(b"tokens", opened.hold.tokens)
    headers += [(b"x-pointsman-budget-warning", warning.encode()) for warning in opened.hold.warnings]
    return headers


def _allowance(kind: bytes, left: Allowance) -> Headers:
    return [
        (b"x-ratelimit-limit-" + kind, str(left.limit).encode()),
        (b"x-ratelimit-remaining-" + kind, str(left.remaining).encode()),
        (b"x-ratelimit-reset-" + kind, b"%.3fs" % (left.reset_ms / 1000)),
    ]


async def _fail(error: PointsmanError, path: str, send: Send, request_id: bytes) -> None:
    body = error_body(error, path)
    headers = [*error_headers(error), (b"x-request-id", request_id), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class HangUp:
    """A request whose client may go away; its task is cancelled then."""

    __slots__ = ("_is_over", "_receive", "_task", "_watcher", "due", "seen")

    def __init__(self, receive: Receive, task: asyncio.Task[Any] | None, due: float) -> None:
        self.due = due  # when it is time to look, by the loop's clock
        self.seen = False
        self._receive = receive
        self._task = task
        self._is_over = False
        self._watcher: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Wait for the client to go, unless the request is over."""
        if not self._is_over:
            self._watcher = asyncio.ensure_future(self._wait())

    def stop(self) -> None:
        """The request is over."""
        self._is_over = True
        if self._watcher is not None:
            self._watcher.cancel()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self.seen = True
            self._task.cancel()


class HangUps:
    """Looks after requests that take longer than PATIENCE_S.

    Answers of a fast engine are done before, and a task for each of them would cost more than relaying it does. One
    alarm serves them all: it looks at those that are due and is set again for the next.
    """

    PATIENCE_S = 0.02

    def __init__(self) -> None:
        self._young: deque[HangUp] = deque()
        self._is_set = False

    def watch(self, receive: Receive) -> HangUp:
        """The current task's request, from now on."""
        loop = asyncio.get_running_loop()
        request = HangUp(receive, asyncio.current_task(), loop.time() + self.PATIENCE_S)
        self._young.append(request)
        if not self._is_set:
            self._set(loop, request.due)
        return request

    def _set(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._is_set = True
        loop.call_at(due, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now, young = loop.time(), self._young
        while young and young[0].due <= now:
            young.popleft().look()
        self._is_set = False
        if young:
            self._set(loop, young[0].due)


__all__ = ["PATHS", "Inference", "preference_of"]
