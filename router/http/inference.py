"""The hot path: one callable for every route that calls a model.

No framework stands between the connection and the gateway here; errors leave in the caller's API shape, and a client
that hangs up stops the engine at once and is still charged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Mapping

from router.errors import InvalidRequest, PointsmanError, StoreUnavailable, UpstreamFailed
from router.gateway.answers import Answer
from router.gateway.serving import Gateway
from router.gateway.types import Call, usd
from router.http.auth import Authentication, secret_of
from router.http.errors import Headers, error_body, error_event, error_headers
from router.http.exchange import Exchange
from router.http.schemas import PATHS, parse
from router.types import Allowance

LOG = logging.getLogger("pointsman.inference")
_IDS = random.Random()  # seeded by the system in each process; ids must differ, nobody need not guess them
_PASSED_ON = {b"traceparent": "traceparent", b"tracestate": "tracestate", b"x-session-id": "x-session-id"}
_SSE = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Inference:
    """Serves the paths of schemas.PATHS."""

    def __init__(self, gateway: Gateway, authentication: Authentication, *, max_body_bytes: int) -> None:
        self._gateway = gateway
        self._authentication = authentication
        self._max_body_bytes = max_body_bytes

    async def __call__(self, exchange: Exchange) -> None:
        started = time.perf_counter()
        headers = exchange.headers
        request_id = headers.get(b"x-request-id") or b"req-%024x" % _IDS.getrandbits(96)
        answer: Answer | None = None
        try:
            principal = await self._authentication.principal(
                secret_of(headers.get(b"authorization"), headers.get(b"x-api-key"))
            )
            call = self._call(exchange.path, await exchange.body(self._max_body_bytes), headers, request_id)
            answer = await self._gateway.answer(principal, call)
            relay = self._stream if answer.is_streamed else self._plain
            await relay(answer, call, exchange, started, request_id)
        except PointsmanError as error:
            _fail(error, exchange, request_id)
        except asyncio.CancelledError:
            if not exchange.disconnected:
                raise
        except Exception:  # a bug: the caller still gets an error in its API's shape
            LOG.exception("POST %s failed", exchange.path)
            _fail(PointsmanError("the gateway failed on this request; its log says why"), exchange, request_id)
        finally:
            if answer is not None:
                with contextlib.suppress(StoreUnavailable):  # the client was told above, or has gone
                    await answer.close()

    def _call(self, path: str, body: bytes, headers: Mapping[bytes, bytes], request_id: bytes) -> Call:
        passed = {name: headers[key].decode("latin-1") for key, name in _PASSED_ON.items() if key in headers}
        passed["x-request-id"] = request_id.decode("latin-1")
        call = parse(
            path,
            body,
            passed,
            preference=preference_of(headers.get(b"x-pointsman-preference")),
            aliases=self._gateway.decider.options.aliases,
            meaning=self._gateway.decider.meaning,
        )
        call.session = passed.get("x-session-id") or call.session
        call.request_id = passed["x-request-id"]
        return call

    async def _plain(self, answer: Answer, call: Call, exchange: Exchange, started: float, request_id: bytes) -> None:
        body = answer.reply.body
        if body is None:
            body = b"".join([chunk async for chunk in answer])
        upstream_s = answer.attempt.stages.spent["first_byte"] + answer.attempt.stages.spent.get("relay", 0.0)
        await answer.settle()
        if answer.reply.failure is not None:
            raise UpstreamFailed(f"the model's answer broke off: {answer.reply.failure}")
        headers = _decision_headers(answer, request_id)
        headers += [
            (b"content-type", answer.reply.content_type.encode()),
            (b"x-pointsman-cost-usd", usd(answer.total).encode()),
            (b"x-pointsman-overhead-ms", b"%.3f" % ((time.perf_counter() - started - upstream_s) * 1000)),
        ]
        exchange.answer(answer.reply.status, headers, body)
        await self._gateway.grade(answer.attempt, body)

    async def _stream(self, answer: Answer, call: Call, exchange: Exchange, started: float, request_id: bytes) -> None:
        overhead_s = time.perf_counter() - started - answer.attempt.stages.spent["first_byte"]
        headers = [*_decision_headers(answer, request_id), *_SSE]
        headers.append((b"x-pointsman-overhead-ms", b"%.3f" % (overhead_s * 1000)))
        exchange.begin(200, headers)
        broken: str | None = None
        try:
            await answer.pour(exchange.write)
            async for chunk in answer:
                exchange.write(chunk)
                await exchange.drain()
                await answer.pour(exchange.write)
                await exchange.drain()
            await answer.settle()
            broken = answer.reply.failure
        except PointsmanError as error:  # the headers are out: only the stream itself can tell
            broken = error.message
        exchange.end(b"" if broken is None else error_event(f"the answer broke off: {broken}", call.path))


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
    opened = answer.attempt
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


def _fail(error: PointsmanError, exchange: Exchange, request_id: bytes) -> None:
    if exchange.started:  # the connection is closed where the answer is not whole
        return
    headers = [*error_headers(error), (b"x-request-id", request_id)]
    exchange.answer(error.status, headers, error_body(error, exchange.path))


__all__ = ["PATHS", "Inference", "preference_of"]
